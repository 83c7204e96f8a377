//! What must hold of every decoder that reads what a stranger sent, whatever the bytes are: a function for each, which
//! panics where it does not. `fuzz/` calls them from a fuzzer, the test `fuzz_corpus` with the bytes that fuzzing found.
//!
//! | file | decoders |
//! |---|---|
//! | `keys` | uploads as protobuf and JSON; the canonical bytes |
//! | `records` | our Avro, against `apache-avro`; the framing of records |
//! | `signed` | batches and checkpoints, with a hub that lies |
//! | `trust` | CMS, certificates, the network document |
//! | `headers` | headers of uploads, of downloads, of proxies |
//! | `name` | distinguished names, by the letter of RFC 4514 |
//! | `store` | dates and tags of downloads, log objects |
//! | `golden` | the network of the golden vectors, which they all live in |
//!
//! None of them knows private keys of the origins: what verifies here was signed for the vectors, or it is a finding.

mod golden;
mod headers;
mod keys;
mod name;
mod records;
mod signed;
mod store;
mod trust;

pub use headers::{accept, country_name, thumbprint, upload_headers};
pub use keys::{canonical, json, protobuf};
pub use records::{avro, framing};
pub use signed::{batch, checkpoint};
pub use store::{log_object, tag};
pub use trust::{certificate, cms, network};

/// One target: what it is called in `fuzz/`, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 16] = [
    ("accept", accept),
    ("avro", avro),
    ("batch", batch),
    ("canonical", canonical),
    ("certificate", certificate),
    ("checkpoint", checkpoint),
    ("cms", cms),
    ("country_name", country_name),
    ("framing", framing),
    ("json", json),
    ("log_object", log_object),
    ("network", network),
    ("protobuf", protobuf),
    ("tag", tag),
    ("thumbprint", thumbprint),
    ("upload_headers", upload_headers),
];

/// An error that goes into logs and answers: one line, and nothing in it that could be key material.
fn one_line(error: &impl ToString) {
    let text = error.to_string();
    assert!(!text.contains(['\n', '\r']), "an error in several lines: {text:?}");
    assert!(text.len() < 2_000, "an error of {} bytes", text.len());
}
