//! The network document as its authors write it: YAML, every field named, unknown fields refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::country::Country;

/// One version of the document.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Name of the network, part of every manifest.
    pub network: String,
    /// Version, only growing.
    pub version: i64,
    /// The keys with which Keyferry signs batches.
    pub signing_keys: Vec<SigningKeyEntry>,
    /// Other codes for the same country, for comparison only: `EL: GR`.
    #[serde(default)]
    pub aliases: BTreeMap<Country, Country>,
    /// The countries that take part.
    pub members: Vec<Member>,
    /// What may flow between them.
    pub agreements: Vec<Agreement>,
}

/// A public key of the hub.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKeyEntry {
    /// Its name, which stands in every manifest it signed.
    pub id: String,
    /// Ed25519, 32 bytes, base64.
    pub public_key: String,
    /// From when it may sign.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// A country that takes part.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its code.
    pub country: Country,
    /// Its membership over time, in order of time. Pending before the first.
    pub states: Vec<StateSince>,
    /// Which keys it wants.
    #[serde(default)]
    pub routing: Routing,
    /// What an invalid key does to the upload it stands in.
    #[serde(default)]
    pub invalid_keys: InvalidKeys,
    /// What proof of origin it asks for.
    #[serde(default)]
    pub origin_proof: OriginProof,
    /// What happens to days since onset outside every agreed range.
    #[serde(default)]
    pub days_since_onset: OnsetPolicy,
    /// Most keys in one upload.
    #[serde(default = "max_keys_per_upload")]
    pub max_keys_per_upload: u32,
    /// Its certificates.
    pub certificates: Vec<CertificateEntry>,
}

fn max_keys_per_upload() -> u32 {
    5000
}

/// A membership state and its beginning.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StateSince {
    /// The state.
    pub state: MemberState,
    /// From when.
    pub from: Timestamp,
}

/// How a country takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Not yet: neither sends nor receives.
    Pending,
    /// Sends and receives.
    Active,
    /// Can not send; its topic keeps filling, so that it misses nothing.
    Paused,
    /// Neither sends nor receives; its topics and stores are purged.
    Left,
}

/// Which keys a member wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Routing {
    /// All of every origin it has an agreement with.
    #[default]
    OneWorld,
    /// Only those that name it as a country of interest.
    Visited,
}

/// What an invalid key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InvalidKeys {
    /// The whole upload is refused, as EFGS did.
    #[default]
    RejectUpload,
    /// It alone is refused.
    RejectKey,
}

/// What proof of origin a member asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginProof {
    /// The origin's own signature over the whole upload.
    #[default]
    Required,
    /// The hub's word is enough.
    Hub,
}

/// What happens to days since onset outside every agreed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnsetPolicy {
    /// The key is invalid.
    Reject,
    /// It is counted and passed on.
    #[default]
    Count,
    /// Nothing.
    Off,
}

/// A registered certificate.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateEntry {
    /// What it may be used for.
    #[serde(rename = "use")]
    pub usage: Use,
    /// From when it counts.
    pub from: Timestamp,
    /// Until when; its own dates bound it besides.
    pub until: Timestamp,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// The certificate, PEM: one CERTIFICATE block and nothing else, because the document is read by everybody.
    pub pem: String,
    /// The trust anchor's signature over `pem`: raw, RSA or ECDSA with SHA-256, SHA-384 or SHA-512, base64. `keyferry network
    /// sign` fills it in, with SHA-256.
    #[serde(default)]
    pub anchor_signature: String,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// To authenticate as a TLS client.
    Authentication,
    /// To sign uploads.
    Signing,
    /// To be called back.
    Callback,
}

/// What may flow, between whom, on what ground.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Its number: of several that cover what goes out, the lowest is recorded.
    pub id: i32,
    /// Mutual: each of these to each other. Either this, or `origins` and `destinations`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parties: Vec<Country>,
    /// One-way: from each of these,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Country>,
    /// to each of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Country>,
    /// The law or contract it rests on.
    pub legal_basis: String,
    /// Legal class of the data.
    pub data_class: DataClassName,
    /// Kinds of data it covers.
    pub kinds: Vec<KindName>,
    /// Report types it covers.
    pub report_types: Vec<ReportTypeName>,
    /// From when it is in force.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// Legal class of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataClassName {
    /// Pseudonymised personal data.
    Pseudonymous,
    /// Only where no real person's keys flow.
    Anonymous,
}

/// A kind of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindName {
    /// Keys of confirmed cases.
    ExposedKeys,
}

/// A report type by name, in the numbering of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportTypeName {
    /// 0
    Unknown,
    /// 1
    ConfirmedTest,
    /// 2
    ConfirmedClinicalDiagnosis,
    /// 3
    SelfReport,
    /// 4
    Recursive,
    /// 5
    Revoked,
}
