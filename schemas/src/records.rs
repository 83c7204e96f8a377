//! The records of the topics `uploads`, `ledger`, `heads` and `network`. Field documentation with units is in `avro/`.

use std::fmt;

use bytes::Bytes;

use crate::{
    avro::{record, symbols},
    country::Country,
    time::Millis,
};

/// A SHA-256.
pub type Hash = [u8; 32];

symbols! {
    /// What an upload carries.
    Kind {
        /// Keys of confirmed cases, to be published to phones.
        ExposedKeys = "EXPOSED_KEYS",
    }
}

record! {
    /// One upload exactly as it was received: `keyferry.uploads.<cc>`.
    Upload: "Upload" {
        /// Names the upload in receipts; chosen by its writer.
        upload_id: [u8; 16],
        /// What the payload holds.
        kind: Kind,
        /// The country that says it sends this.
        origin: Country,
        /// The sender's name for the batch; opaque.
        batch_tag: String,
        /// Media type with version.
        content_type: String,
        /// The body as received.
        payload: Bytes,
        /// The origin's detached CMS over the canonical bytes, DER or BER.
        batch_signature: Bytes,
        /// SHA-256 of the DER of the client certificate.
        client_certificate: Hash,
        /// When the gateway had read it, by the gateway's clock.
        received_at: Millis,
    }
}

symbols! {
    /// What became of an upload.
    Outcome {
        /// Every key was taken.
        Accepted = "ACCEPTED",
        /// Some keys were taken; `verdicts` names the others.
        Partial = "PARTIAL",
        /// The content was decided before; nothing was sent again.
        Repeated = "REPEATED",
        /// Nothing was taken.
        Rejected = "REJECTED",
    }
}

record! {
    /// Why one key of an upload was not taken.
    #[derive(Debug)]
    Verdict {
        /// Index in the upload, as its sender ordered it, from 0.
        index: i32,
        /// Position in canonical order, from 0.
        position: i32,
        /// Code of the reason.
        code: String,
    }
}

record! {
    /// A batch that this entry caused.
    #[derive(Debug)]
    Delivery {
        /// Country it went to.
        destination: Country,
        /// Its number on the chain from the origin to that destination, from 1.
        sequence: i64,
        /// SHA-256 of the Avro binary of its manifest.
        manifest: Hash,
        /// Number of keys that are new to the destination.
        new_keys: i32,
    }
}

record! {
    /// Keys that an agreement or a policy kept from a country.
    #[derive(Debug)]
    Withheld {
        /// Country they did not go to.
        destination: Country,
        /// Code of the reason.
        reason: String,
        /// Number of keys.
        keys: i32,
    }
}

record! {
    /// What was decided about one record of `uploads`: `keyferry.ledger.<cc>`.
    LedgerEntry: "LedgerEntry" {
        /// Number of this entry in the origin's ledger, from 1, without gaps.
        sequence: i64,
        /// SHA-256 of the Avro binary of the entry before; zeros in the first.
        previous: Hash,
        /// The origin whose topic the record stood on.
        origin: Country,
        /// Offset of the record.
        source_offset: i64,
        /// The pipeline's "now": the latest broker timestamp on this topic so far.
        now: Millis,
        /// `transactional.id` of the processor.
        writer: String,
        /// Version of the network document that was applied.
        network_version: i64,
        /// Key that signed the batches.
        signing_key: String,
        /// From the upload; absent if the record could not be decoded.
        upload_id: Option<[u8; 16]>,
        /// From the upload; absent if the record could not be decoded.
        batch_tag: Option<String>,
        /// What became of it.
        outcome: Outcome,
        /// Code of the reason of a rejection.
        code: Option<String>,
        /// The reason in one line.
        detail: Option<String>,
        /// For a repeat: source offset of the upload that was decided first.
        first_offset: Option<i64>,
        /// SHA-256 of the canonical bytes of all keys.
        content: Option<Hash>,
        /// SHA-256 of the canonical bytes of the keys taken, where these are not all.
        accepted_content: Option<Hash>,
        /// Number of keys in the upload.
        keys: i32,
        /// Number of keys taken, revisions included.
        keys_accepted: i32,
        /// Number of keys taken that revise the report type of an earlier one.
        keys_revised: i32,
        /// Keys not taken, by index.
        verdicts: Vec<Verdict>,
        /// Onsets outside every agreed range, where the policy is to count them.
        odd_onsets: i32,
        /// Names of well-formed countries of no member, counted per key.
        unknown_countries: i32,
        /// Batches that went out.
        deliveries: Vec<Delivery>,
        /// Keys that did not.
        withheld: Vec<Withheld>,
        /// Name of the secret behind `fingerprints`.
        fingerprint_key: String,
        /// Fingerprints of the keys taken, sorted, 23 bytes each; opaque without the secret.
        fingerprints: Bytes,
    }
}

record! {
    /// End of the chain from an origin to one destination.
    #[derive(Debug)]
    ChainHead {
        /// The destination.
        destination: Country,
        /// Sequence of the last batch.
        sequence: i64,
        /// SHA-256 of its manifest.
        manifest: Hash,
    }
}

record! {
    /// Where an origin's stream stands: `keyferry.heads`, the last per origin kept for ever.
    #[derive(Debug)]
    Head: "Head" {
        /// The origin; also the record's key.
        origin: Country,
        /// Sequence of its last ledger entry.
        sequence: i64,
        /// SHA-256 of that entry.
        entry: Hash,
        /// Source offset of that entry.
        source_offset: i64,
        /// The pipeline's "now" of that entry.
        now: Millis,
        /// When the chains were last stated in checkpoints; 0 if never.
        checkpoint_at: Millis,
        /// Network version of that entry, or of the checkpoints after it.
        network_version: i64,
        /// Ends of the chains to the destinations.
        chains: Vec<ChainHead>,
    }
}

record! {
    /// One version of the network document: `keyferry.network`.
    NetworkRecord: "Network" {
        /// Name of the network.
        network: String,
        /// Version, only growing.
        version: i64,
        /// The YAML document, byte for byte as signed.
        document: Bytes,
        /// Detached CMS of the trust anchor over `document`, DER.
        signature: Bytes,
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({}, {}, {} bytes)", self.origin, hex::encode(self.upload_id), self.payload.len())
    }
}

impl fmt::Debug for LedgerEntry {
    /// Without the fingerprints: opaque as they are, no log needs them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerEntry")
            .field("origin", &self.origin)
            .field("sequence", &self.sequence)
            .field("source_offset", &self.source_offset)
            .field("writer", &self.writer)
            .field("outcome", &self.outcome)
            .field("code", &self.code)
            .field("detail", &self.detail)
            .field("keys", &(self.keys, self.keys_accepted, self.keys_revised))
            .field("verdicts", &self.verdicts)
            .field("deliveries", &self.deliveries.len())
            .field("withheld", &self.withheld)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NetworkRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkRecord({}, version {})", self.network, self.version)
    }
}
