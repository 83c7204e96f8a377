//! The pipeline: what happens to an upload between its own topic and those of the other countries.
//!
//! [`pipeline`] is the page to read first. What needs no turn is found ahead of it ([`examine`]). Its five stages, one file each, are pure functions whose types prove the
//! order: only what [`validate`] returns can be deduplicated, only what [`deduplicate`] returns can be tagged with
//! countries ([`tag`]), only that can be signed ([`sign`]), and only signed batches fan out ([`fan_out`]).
//!
//! [`state`] is what an origin's stream remembers, [`seen`] its keys, [`fingerprint`] the form in which it does.
//! [`checkpoint`] states how far the chains go, also when nothing flows.
//! [`role`] ties the pipeline to Kafka: `keyferry process`. [`metrics`] counts its decisions.

pub mod checkpoint;
pub mod deduplicate;
pub mod examine;
pub mod fan_out;
pub mod fingerprint;
pub mod metrics;
pub mod pipeline;
pub mod role;
pub mod seen;
pub mod sign;
pub mod state;
pub mod tag;
pub mod validate;
