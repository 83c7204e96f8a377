//! The commands of operators and of national backends. Answers go to standard output; faults are one line on standard error and an exit code.
//!
//! | module | what it holds |
//! |---|---|
//! | [`keys`] | signing keys and fingerprint secrets |
//! | [`network`] | the network document: check, sign, apply, show, certificates, diff |
//! | [`topics`], [`schemas`] | topics; schemas in the registry |
//! | [`verify`] | proof of what a country received |
//! | [`client`] | what a national backend does: upload, download, audit, callback |
//! | `connect`, `files`, `text` | what they share: the way to Kafka, files, tables |

pub mod client;
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
