//! The HTTPS listener that every role with an HTTP side mounts its routes on: any set of roles, one address.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | where to listen, the server's certificate, which proxies to believe |
//! | `tls` | mutual TLS that lets every certificate in that proves its key |
//! | `client` | the client certificate of a request, from TLS or from a trusted proxy |
//! | `dn` | the country in a distinguished name, in the dialects of proxies |
//! | `identity` | which member that certificate is, and what it may do |
//! | `cap`, `stall` | how many connections, of all peers and of each; those that take nothing |
//! | `problem`, `code` | errors as `application/problem+json`; the closed list of their codes |
//! | `routes`, `openapi` | what every listener answers by itself: 404, 405, `OPTIONS`, the description of the contract |
//! | `server` | the listener: limits, and an end that finishes what was begun |
//!
//! Who may talk to us is decided in HTTP and not in the handshake, so that a stranger reads why it was refused.

mod cap;
mod client;
mod code;
mod config;
mod dn;
mod identity;
mod openapi;
mod problem;
mod routes;
mod server;
#[cfg(test)]
mod slow;
mod stall;
mod tls;

pub use client::ClientCertificate;
pub use code::Code;
pub use config::{HttpConfig, TlsConfig, networks};
pub use identity::{Access, identify};
pub use ipnet::IpNet;
pub use problem::Problem;
pub use routes::app;
pub use server::{Server, serve};
pub(crate) use tls::load_pair;
