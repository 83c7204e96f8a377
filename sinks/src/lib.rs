//! Ways out: what countries receive is verified, stored, served, and erased in time.
//!
//! | module | what it holds |
//! |---|---|
//! | [`distribute`], [`config`] | the role: workers, routes, erasure; its configuration |
//! | `supervise`, [`sweep`] | members that come and leave; erasure |
//! | [`worker`], [`source`] | one country: reads its topic, verifies, stores |
//! | `standing` | how a country stands: what of it goes to the log, the metrics, the probes |
//! | `stated` | when each origin was heard last, be it that nothing flows |
//! | `patience` | waiting for what may be slow |
//! | [`joining`] | how long uploads wait for others; pure |
//! | [`intake`] | what was verified and is not stored yet; pure |
//! | [`log`], [`tag`], `text` | log objects and the names of batches; pure |
//! | [`store`], `files`, [`shelf`] | the object store, the same in a directory in fewer waits, and one country's log in it |
//! | [`download`], `audit`, [`api`], `negotiate`, `body` | the HTTP contract of EFGS |
//! | [`callbacks`] | members that are called when there is a new batch |
//! | [`verify`] | verification of a whole store, years later, with the network document and nothing else |
//! | [`metrics`] | what is counted |

pub mod api;
mod audit;
mod body;
pub mod callbacks;
pub mod config;
pub mod distribute;
pub mod download;
mod files;
pub mod intake;
pub mod joining;
pub mod log;
pub mod metrics;
// For the fuzz targets.
#[doc(hidden)]
pub mod negotiate;
mod patience;
pub mod shelf;
pub mod source;
mod standing;
mod stated;
pub mod store;
mod supervise;
pub mod sweep;
pub mod tag;
mod text;
pub mod verify;
pub mod worker;

pub use config::{Countries, DistributeConfig};
pub use distribute::Distribution;
