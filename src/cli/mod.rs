//! The commands of operators. Answers go to standard output; faults are one line on standard error and an exit code.
//!
//! | module | what it holds |
//! |---|---|
//! | [`keys`] | signing keys and fingerprint secrets |
//! | [`network`] | the network document: check, sign, apply, show, certificates, diff |
//! | [`topics`], [`schemas`] | topics; schemas in the registry |
//! | [`verify`] | proof of what a country received |
//! | `connect`, `files`, `text` | what they share: the way to Kafka, files, tables |

mod connect;
mod files;
pub mod keys;
pub mod network;
pub mod schemas;
mod text;
pub mod topics;
pub mod verify;

pub(crate) use connect::{ConfigArgs, Connection, KafkaArgs, bounds, read};
pub(crate) use text::{out, table};
