//! The `keyferry` binary in parts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`roles`] | the roles: their configuration, how they start, how they end |
//! | [`cli`] | the commands of operators |
//! | `demo` | the whole exchange on one machine; a feature that the image does not have |

pub mod cli;
#[cfg(feature = "embedded-broker")]
pub mod demo;
pub mod roles;
