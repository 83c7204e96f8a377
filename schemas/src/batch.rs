//! What a country receives on `keyferry.keys.<cc>`: signed batches, and checkpoints between them.

use std::fmt;

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{
    avro::{Record, record, symbols},
    country::Country,
    records::{Hash, Kind},
    time::Millis,
};

/// What a signature of a manifest covers before the manifest itself, so that it can stand for nothing else.
pub const MANIFEST_LABEL: &[u8] = b"keyferry manifest v1\0";
/// The same for checkpoints.
pub const CHECKPOINT_LABEL: &[u8] = b"keyferry checkpoint v1\0";
/// Version of the manifest that this crate writes and reads.
pub const MANIFEST_VERSION: i32 = 1;

symbols! {
    /// What proves where the keys of a batch come from.
    Level {
        /// Every key of the upload: the origin's own signature verifies.
        Whole = "WHOLE",
        /// Some keys of it: Keyferry alone attests their origin.
        Subset = "SUBSET",
    }
}

symbols! {
    /// The legal class of the data, as the agreement states it.
    DataClass {
        /// Pseudonymised personal data.
        Pseudonymous = "PSEUDONYMOUS",
        /// No real person's keys.
        Anonymous = "ANONYMOUS",
    }
}

record! {
    /// The signed description of a batch. Field documentation with units is in `avro/Manifest.avsc`.
    #[derive(Debug)]
    Manifest: "Manifest" {
        /// [`MANIFEST_VERSION`].
        schema_version: i32,
        /// Name of the network.
        network: String,
        /// Version of the network document that was applied.
        network_version: i64,
        /// Unique in the network: `<origin>-<destination>-<sequence>`.
        batch_id: String,
        /// Country whose keys these are.
        origin: Country,
        /// Country they are for.
        destination: Country,
        /// From 1, without gaps, per origin and destination.
        sequence: i64,
        /// SHA-256 of the manifest before; zeros in the first.
        previous: Hash,
        /// The upload the keys came in.
        upload_id: [u8; 16],
        /// The origin's name for it.
        batch_tag: String,
        /// What the keys are.
        kind: Kind,
        /// Number of keys in the batch.
        keys: i32,
        /// What proves their origin.
        level: Level,
        /// SHA-256 of the canonical bytes of the keys.
        canonical: Hash,
        /// SHA-256 of `SignedBatch.keys`.
        content: Hash,
        /// SHA-256 of `SignedBatch.new`.
        bitmap: Hash,
        /// SHA-256 of `SignedBatch.origin_signature`; of nothing where there is none.
        origin_signature: Hash,
        /// SHA-256 of the DER of the client certificate of the upload.
        client_certificate: Hash,
        /// SHA-256 of the DER of the certificate that verified the upload.
        signing_certificate: Hash,
        /// The agreement under which it is delivered.
        agreement: i32,
        /// Its data class.
        data_class: DataClass,
        /// The pipeline's "now" when it was made.
        created_at: Millis,
        /// Name of the Ed25519 key, to be looked up in the network document.
        signing_key: String,
    }
}

record! {
    /// One upload of one origin, for one destination.
    SignedBatch: "SignedBatch" {
        /// The Avro binary of the [`Manifest`], exactly as signed.
        manifest: Bytes,
        /// Ed25519 over [`MANIFEST_LABEL`] and `manifest`.
        signature: [u8; 64],
        /// The keys in canonical order: a protobuf `DiagnosisKeyBatch`.
        keys: Bytes,
        /// A bit per key, first key in the lowest bit of the first byte: 0 if the country had the key before.
        new: Bytes,
        /// The origin's detached CMS; present in whole batches only.
        origin_signature: Option<Bytes>,
    }
}

record! {
    /// A signed statement of how far a chain goes, also when nothing flows.
    #[derive(Debug)]
    Checkpoint: "Checkpoint" {
        /// Name of the network.
        network: String,
        /// Version of the network document in force when this was stated: its signature is verified under this one.
        network_version: i64,
        /// Start of the chain.
        origin: Country,
        /// End of the chain.
        destination: Country,
        /// Sequence of the last batch; 0 if there was none.
        sequence: i64,
        /// SHA-256 of its manifest; zeros if there was none.
        manifest: Hash,
        /// The pipeline's "now" of the origin: no batch after this is made earlier.
        now: Millis,
        /// When this was stated, by the clock of the processor: uploads move the pipeline's, and there may be none.
        at: Millis,
        /// Name of the Ed25519 key.
        signing_key: String,
        /// Ed25519 over [`CHECKPOINT_LABEL`] and the Avro binary with this field zero.
        signature: [u8; 64],
    }
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Signs the Avro binary of a manifest. Deterministic: the same manifest gives the same signature.
#[must_use]
pub fn sign_manifest(key: &SigningKey, manifest: &[u8]) -> [u8; 64] {
    key.sign(&[MANIFEST_LABEL, manifest].concat()).to_bytes()
}

/// Whether `signature` is that of `manifest` under `key`, by the strict rules (no malleable or small-order forms).
#[must_use]
pub fn manifest_signature_holds(key: &VerifyingKey, manifest: &[u8], signature: &[u8; 64]) -> bool {
    key.verify_strict(&[MANIFEST_LABEL, manifest].concat(), &Signature::from_bytes(signature)).is_ok()
}

impl Checkpoint {
    /// The same checkpoint, signed.
    #[must_use]
    pub fn signed(mut self, key: &SigningKey) -> Self {
        self.signature = key.sign(&self.message()).to_bytes();
        self
    }

    /// Whether its signature holds under `key`.
    #[must_use]
    pub fn holds(&self, key: &VerifyingKey) -> bool {
        key.verify_strict(&self.message(), &Signature::from_bytes(&self.signature)).is_ok()
    }

    fn message(&self) -> Vec<u8> {
        [CHECKPOINT_LABEL, &Self { signature: [0; 64], ..self.clone() }.to_avro()].concat()
    }
}

impl fmt::Debug for SignedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedBatch({} bytes of keys)", self.keys.len())
    }
}

/// A bit per key, in the form of `SignedBatch.new`.
#[must_use]
pub fn bitmap(bits: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let mut out = vec![0; bits.len().div_ceil(8)];
    for (i, _) in bits.enumerate().filter(|(_, bit)| *bit) {
        out[i / 8] |= 1 << (i % 8);
    }
    out
}

/// Bit `i` of a bitmap; false past its end.
#[must_use]
pub fn bit(bitmap: &[u8], i: usize) -> bool {
    bitmap.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}
