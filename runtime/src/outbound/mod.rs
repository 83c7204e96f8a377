//! Requests to addresses that others name. Whoever may choose where we connect to could reach what only we can reach: our
//! own network, the cloud's metadata, ourselves. So a name is resolved here, every address it has must be public, and the
//! connection goes to one of those that were looked at; the peer is known by its certificate and not by its name.
//!
//! | file | what it holds |
//! |---|---|
//! | `address` | which addresses are public; pure |
//! | `guard` | names to addresses, each time anew, and only if all of them may be used |
//! | `pin` | the peer has to hold the key of a certificate that is known |
//! | `identity` | our own certificate, read again when it is renewed |
//! | `caller` | one request: no redirect, no proxy, no body, in bounded time |

mod address;
mod caller;
mod guard;
mod identity;
mod pin;

pub use address::not_public;
pub use caller::{Caller, Failed};
pub use guard::{Guard, Refused, Resolver, SystemResolver};
pub use identity::ClientIdentity;
pub use reqwest::Url;
