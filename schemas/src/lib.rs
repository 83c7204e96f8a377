//! The contract of Keyferry: what stands on its topics and on the wire, and how it is verified. No I/O, no clock.
//!
//! | module | what it holds |
//! |---|---|
//! | [`efgs`] | the keys as backends send them: protobuf and JSON |
//! | [`media`] | the media types that this is sent as |
//! | [`openapi`] | the HTTP contract, described |
//! | [`canonical`] | the bytes that an origin signs |
//! | [`cms`], [`certificate`], `host` | that signature, and the certificates behind it; the hosts they name |
//! | [`network`] | the signed document of members, certificates and agreements |
//! | [`records`] | the records of the topics `uploads`, `ledger`, `heads`, `network` |
//! | [`callbacks`] | the records of the topics `callbacks` |
//! | [`batch`] | the records of the topics `keys`: signed batches and checkpoints |
//! | [`chain`] | verification of batches and of the chain they form |
//! | [`rules`] | what an upload has to be, as far as that needs no state |
//! | [`rejection`] | the closed list of reasons for a refusal |
//! | [`topics`] | names and settings of the topics |
//! | [`avro`] | the codec of all records; the schemas are in `avro/` |
//! | [`country`], [`time`] | country codes; times and ten-minute intervals |
//! | `world` | with the feature `world`: a made-up network with keys and certificates, for the demo and the tests |

pub mod avro;
pub mod batch;
pub mod callbacks;
pub mod canonical;
pub mod certificate;
pub mod chain;
pub mod cms;
pub mod country;
pub mod efgs;
mod host;
mod json;
pub mod media;
pub mod network;
pub mod openapi;
pub mod records;
pub mod rejection;
pub mod rules;
pub mod time;
pub mod topics;
#[cfg(feature = "world")]
pub mod world;
