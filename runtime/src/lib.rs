//! Everything that touches the world: configuration, Kafka, the registry, HTTP, metrics. The only crate besides the
//! tests that uses rdkafka.
//!
//! | module | what it holds |
//! |---|---|
//! | [`transaction`] | the transaction loop and the take-over of an origin |
//! | [`kafka`], [`tail`], [`follow`], [`producer`] | clients: their fixed options, reading one partition or many topics, writing one record |
//! | [`claims`] | which of several instances is in charge |
//! | [`codec`], [`registry`] | framing of records, with and without a schema registry; the client of one |
//! | [`topics`] | creates and alters topics |
//! | [`network`] | the network document, followed and verified |
//! | `expiry` | when what it registers ends, as metrics |
//! | [`http`] | the HTTPS listener, the identity of its callers, problems as answers |
//! | [`outbound`] | requests to addresses that others name |
//! | [`config`], [`exit`] | configuration files; exit codes |
//! | [`telemetry`], [`metrics`], [`health`], [`admin`] | logs, metrics, liveness, the admin port |
//! | [`failpoint`] | named places at which tests stop a process |
//! | [`clock`], [`shutdown`] | the wall clock; the signal to stop |
//! | [`skew`] | the broker's clock, and how far ours is from it |

pub mod admin;
#[cfg(feature = "embedded-broker")]
pub mod broker;
pub mod claims;
pub mod clients;
pub mod clock;
pub mod codec;
pub mod config;
#[cfg(feature = "embedded-broker")]
pub mod dependent;
pub mod exit;
mod expiry;
pub mod failpoint;
pub mod follow;
pub mod health;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod network;
pub mod outbound;
pub mod producer;
pub mod registry;
pub mod shutdown;
pub mod skew;
pub mod tail;
pub mod telemetry;
pub mod topics;
pub mod transaction;
