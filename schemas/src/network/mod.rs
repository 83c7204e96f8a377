//! The network document, verified: who takes part, with which certificates, and what may flow to whom.
//!
//! A [`Network`] can only be had by way of the trust anchor's signature, so whoever holds one holds a signed truth.

mod certificates;
mod check;
mod coverage;
mod document;
mod term;

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;

pub use certificates::{LeftOut, Registered, anchor_signed};
pub use check::Fault;
pub use coverage::Coverage;
pub use document::*;
pub use term::{CertificateState, RETIRING_MS, Term};

use crate::{
    batch::sha256,
    certificate::Certificate,
    cms::Detached,
    country::Country,
    records::{Hash, NetworkRecord},
    rejection::Rejection,
    time::Millis,
};

/// Why a network document is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UntrustedNetwork {
    /// The CMS itself is wrong.
    #[error("the signature of the network document is unusable: {0}")]
    Signature(Rejection),
    /// No pinned anchor made it.
    #[error("no trust anchor of this configuration signed network version {0}")]
    Anchor(i64),
    /// It is not YAML of the right form.
    #[error("the network document can not be read: {0}")]
    Syntax(String),
    /// It is signed, and wrong.
    #[error("the network document is signed and has {} fault(s), first: {}", .0.len(), .0[0])]
    Faults(Vec<Fault>),
    /// The record around it says otherwise.
    #[error("the record says network {network} version {version}, the signed document does not")]
    Mismatch {
        /// Of the record.
        network: String,
        /// Of the record.
        version: i64,
    },
}

struct SigningKey {
    key: VerifyingKey,
    from: Millis,
    until: Millis,
}

/// One version of the network document that a pinned trust anchor has signed.
pub struct Network {
    /// SHA-256 of all it was made from: the exact text, and the anchors that were pinned.
    inputs: Hash,
    document: Document,
    members: BTreeMap<Country, usize>,
    certificates: Vec<Registered>,
    left_out: Vec<LeftOut>,
    by_hash: HashMap<Hash, Vec<usize>>,
    signing_keys: HashMap<String, SigningKey>,
}

impl Network {
    /// Verifies and reads one version, as every role does each time it loads one. A certificate that no pinned anchor
    /// has signed does not exist then ([`Network::left_out`]).
    ///
    /// # Errors
    /// [`UntrustedNetwork`].
    pub fn open(record: &NetworkRecord, anchors: &[Certificate]) -> Result<Self, UntrustedNetwork> {
        let signature = Detached::read(&record.signature).map_err(UntrustedNetwork::Signature)?;
        if !anchors.iter().any(|a| signature.names(a) && signature.verify(&record.document, a)) {
            return Err(UntrustedNetwork::Anchor(record.version));
        }
        let network = Self::parse(&record.document, anchors, false)?;
        if (&network.document.network, network.document.version) != (&record.network, record.version) {
            return Err(UntrustedNetwork::Mismatch {
                network: record.network.clone(),
                version: record.version,
            });
        }
        Ok(network)
    }

    /// Reads a document whose signature is not there yet, for those who are about to make or to publish it. That no
    /// pinned anchor has signed a certificate is a fault here.
    ///
    /// # Errors
    /// [`UntrustedNetwork`], all faults at once.
    pub fn read(document: &Bytes, anchors: &[Certificate]) -> Result<Self, UntrustedNetwork> {
        Self::parse(document, anchors, true)
    }

    fn parse(document: &Bytes, anchors: &[Certificate], strict: bool) -> Result<Self, UntrustedNetwork> {
        let text = std::str::from_utf8(document).map_err(|e| UntrustedNetwork::Syntax(e.to_string()))?;
        // From the second line on the library shows the text around the fault.
        let first_line = |e: String| e.lines().next().unwrap_or_default().to_owned();
        let document: Document =
            serde_saphyr::from_str(text).map_err(|e| UntrustedNetwork::Syntax(first_line(e.to_string())))?;
        let mut faults = check::check(&document);
        let trusted = anchors.iter().map(Certificate::sha256);
        let inputs: Vec<Hash> = std::iter::once(sha256(text.as_bytes())).chain(trusted).collect();
        let mut network = Self {
            inputs: sha256(&inputs.concat()),
            members: document.members.iter().enumerate().map(|(i, m)| (m.country, i)).collect(),
            certificates: Vec::new(),
            left_out: Vec::new(),
            by_hash: HashMap::new(),
            signing_keys: HashMap::new(),
            document,
        };
        network.load_certificates(anchors, strict, &mut faults);
        network.load_signing_keys(&mut faults);
        if faults.is_empty() { Ok(network) } else { Err(UntrustedNetwork::Faults(faults)) }
    }

    fn load_signing_keys(&mut self, faults: &mut Vec<Fault>) {
        for (i, entry) in self.document.signing_keys.iter().enumerate() {
            let key = STANDARD.decode(&entry.public_key).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
            match key.and_then(|b| VerifyingKey::from_bytes(&b).ok()) {
                Some(key) => {
                    let (from, until) = (entry.from.into(), entry.until.into());
                    self.signing_keys.insert(entry.id.clone(), SigningKey { key, from, until });
                }
                None => faults.push(Fault::new(
                    format!("signing_keys[{i}].public_key"),
                    "is not an Ed25519 public key in base64 (32 bytes); `keyferry keys public` prints it"
                        .into(),
                )),
            }
        }
    }

    /// The document behind this version.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Version.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.document.version
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.document.network
    }

    /// Two with the same are the same: SHA-256 of the exact text and of the anchors that it was read under.
    pub(crate) fn inputs(&self) -> Hash {
        self.inputs
    }

    /// Every member's country, in alphabetical order.
    pub fn countries(&self) -> impl Iterator<Item = Country> {
        self.members.keys().copied()
    }

    /// The member with exactly this code.
    #[must_use]
    pub fn member(&self, country: Country) -> Option<&Member> {
        self.members.get(&country).map(|i| &self.document.members[*i])
    }

    /// The country that `code` stands for, aliases resolved; for comparison only.
    #[must_use]
    pub fn resolve(&self, code: Country) -> Country {
        self.document.aliases.get(&code).copied().unwrap_or(code)
    }

    /// State of a member at `now`; pending before its first, and for strangers.
    #[must_use]
    pub fn state(&self, country: Country, now: Millis) -> MemberState {
        let states = self.member(country).map(|m| m.states.as_slice()).unwrap_or_default();
        states.iter().rev().find(|s| Millis::from(s.from) <= now).map_or(MemberState::Pending, |s| s.state)
    }

    /// Whether the certificate with this SHA-256 is registered for anything.
    #[must_use]
    pub fn knows(&self, sha256: &Hash) -> bool {
        self.by_hash.contains_key(sha256)
    }

    /// Registrations of the certificate with this SHA-256 for this use.
    pub fn registered(&self, sha256: &Hash, usage: Use) -> impl Iterator<Item = &Registered> {
        let indexes = self.by_hash.get(sha256).map(Vec::as_slice).unwrap_or_default();
        indexes.iter().map(|i| &self.certificates[*i]).filter(move |r| r.usage == usage)
    }

    /// The first moment from `now` on at which the hub has no signing key in force; a past one if it has none now.
    /// `None` if it has had none yet.
    #[must_use]
    pub fn signs_until(&self, now: Millis) -> Option<Millis> {
        let terms = self.signing_keys.values().map(|k| Term { from: k.from, until: k.until, revoked: None });
        term::covered_until(&terms.collect::<Vec<_>>(), now)
    }

    /// The signing key with this name, if it was in force at `now`.
    #[must_use]
    pub fn signing_key(&self, id: &str, now: Millis) -> Option<&VerifyingKey> {
        self.signing_keys.get(id).filter(|k| k.from <= now && now < k.until).map(|k| &k.key)
    }
}
