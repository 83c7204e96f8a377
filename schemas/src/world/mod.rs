//! A made-up world: countries with certificates, a trust anchor, a signed network document, and generated keys. No key
//! of a real person is ever in it. The demo lives in such a world, and so do the tests.

mod keys;
mod pki;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    canonical::Canonical,
    certificate::Certificate,
    cms,
    country::Country,
    efgs::{self, DiagnosisKey, Encoding},
    network::{
        Agreement, CertificateEntry, DataClassName, Document, InvalidKeys, KindName, Member, MemberState,
        Network, OnsetPolicy, OriginProof, ReportTypeName, Routing, SigningKeyEntry, StateSince, Use,
    },
    records::{Kind, NetworkRecord, Upload},
    time::Millis,
};
use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};

pub use keys::{Rng, key};
pub use pki::{Algorithm, Identity};

/// Every report type.
pub const ALL_REPORT_TYPES: [ReportTypeName; 6] = [
    ReportTypeName::Unknown,
    ReportTypeName::ConfirmedTest,
    ReportTypeName::ConfirmedClinicalDiagnosis,
    ReportTypeName::SelfReport,
    ReportTypeName::Recursive,
    ReportTypeName::Revoked,
];

/// What one country holds.
pub struct Nation {
    /// Its code.
    pub country: Country,
    /// With this it authenticates.
    pub authentication: Identity,
    /// With this it signs uploads.
    pub signing: Identity,
}

/// A trust anchor, nations, a hub key, and the document that joins them.
pub struct World {
    /// The trust anchor.
    pub anchor: Identity,
    /// The nations by country.
    pub nations: BTreeMap<Country, Nation>,
    /// The key with which the hub signs.
    pub hub_key: SigningKey,
    /// The document; change it and [`World::publish`] it.
    pub document: Document,
}

/// Name of the hub key in the document.
pub const HUB_KEY: &str = "hub-1";

impl World {
    /// A world of active nations under one mutual agreement, with dates around `now`. Blocks for making key pairs.
    ///
    /// # Errors
    /// A code is no country code, or OpenSSL fails.
    pub fn new(countries: &[&str], now: Timestamp) -> Result<Self> {
        let far = SignedDuration::from_hours(24 * 300);
        let (from, until) = (now.saturating_sub(far)?, now.saturating_add(far)?);
        let anchor = Identity::new("EU", "Trust anchor", Algorithm::P256, now)?;
        let mut seed = [0; 32];
        openssl::rand::rand_bytes(&mut seed)?;
        let hub_key = SigningKey::from_bytes(&seed);
        let mut nations = BTreeMap::new();
        for code in countries {
            let country: Country = code.parse().with_context(|| format!("{code:?}"))?;
            let authentication = Identity::new(code, "Backend", Algorithm::P256, now)?;
            let signing = Identity::new(code, "Batch signing", Algorithm::P256, now)?;
            nations.insert(country, Nation { country, authentication, signing });
        }
        let members = nations.values().map(|n| member(n, &anchor, from, until)).collect::<Result<_>>()?;
        let document = Document {
            network: "demo".into(),
            version: 1,
            signing_keys: vec![SigningKeyEntry {
                id: HUB_KEY.into(),
                public_key: STANDARD.encode(hub_key.verifying_key().as_bytes()),
                from,
                until,
            }],
            aliases: BTreeMap::new(),
            members,
            agreements: vec![Agreement {
                id: 1,
                parties: nations.keys().copied().collect(),
                origins: Vec::new(),
                destinations: Vec::new(),
                legal_basis: "Implementing Decision (EU) 2020/1023".into(),
                data_class: DataClassName::Anonymous,
                kinds: vec![KindName::ExposedKeys],
                report_types: ALL_REPORT_TYPES.to_vec(),
                from,
                until,
            }],
        };
        Ok(Self { anchor, nations, hub_key, document })
    }

    /// The nation with this code.
    ///
    /// # Errors
    /// There is none.
    pub fn nation(&self, code: &str) -> Result<&Nation> {
        self.nations.get(&code.parse()?).with_context(|| format!("there is no nation {code}"))
    }

    /// The member with this code, to change its policies.
    ///
    /// # Errors
    /// There is none.
    pub fn member_mut(&mut self, code: &str) -> Result<&mut Member> {
        let country: Country = code.parse()?;
        self.document
            .members
            .iter_mut()
            .find(|m| m.country == country)
            .with_context(|| format!("no member {code}"))
    }

    /// The document as text, signed by the anchor.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn publish(&self) -> Result<NetworkRecord> {
        let document = serde_saphyr::to_string(&self.document)?.into_bytes();
        let signature = cms::sign(&document, &self.anchor.key, self.anchor.certificate.x509())?;
        Ok(NetworkRecord {
            network: self.document.network.clone(),
            version: self.document.version,
            document: document.into(),
            signature: signature.into(),
        })
    }

    /// The verified network.
    ///
    /// # Errors
    /// The document is wrong.
    pub fn network(&self) -> Result<Arc<Network>> {
        Ok(Arc::new(Network::open(&self.publish()?, std::slice::from_ref(&self.anchor.certificate))?))
    }

    /// The registration of a certificate of `country`, signed by the anchor.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn register(
        &self,
        identity: &Identity,
        usage: Use,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<CertificateEntry> {
        entry(&self.anchor, identity, usage, from, until)
    }

    /// A whole upload of `code` as a gateway would put it on Kafka.
    ///
    /// # Errors
    /// There is no such nation, or OpenSSL fails.
    pub fn upload(&self, code: &str, tag: &str, keys: &[DiagnosisKey]) -> Result<Upload> {
        let nation = self.nation(code)?;
        let signature = nation.signing.sign(Canonical::of(keys).bytes())?;
        Ok(Upload {
            upload_id: Rng::from_entropy()?.bytes(),
            kind: Kind::ExposedKeys,
            origin: nation.country,
            batch_tag: tag.into(),
            content_type: Encoding::Protobuf.content_type().into(),
            payload: efgs::encode_protobuf(keys).into(),
            batch_signature: signature.into(),
            client_certificate: nation.authentication.certificate.sha256(),
            received_at: Millis(0),
        })
    }

    /// The anchor's certificate, to be pinned.
    #[must_use]
    pub fn anchors(&self) -> Vec<Certificate> {
        vec![self.anchor.certificate.clone()]
    }
}

fn member(nation: &Nation, anchor: &Identity, from: Timestamp, until: Timestamp) -> Result<Member> {
    Ok(Member {
        country: nation.country,
        states: vec![StateSince { state: MemberState::Active, from }],
        routing: Routing::OneWorld,
        invalid_keys: InvalidKeys::RejectUpload,
        origin_proof: OriginProof::Required,
        days_since_onset: OnsetPolicy::Count,
        max_keys_per_upload: 5000,
        certificates: vec![
            entry(anchor, &nation.authentication, Use::Authentication, from, until)?,
            entry(anchor, &nation.signing, Use::Signing, from, until)?,
        ],
    })
}

fn entry(
    anchor: &Identity,
    identity: &Identity,
    usage: Use,
    from: Timestamp,
    until: Timestamp,
) -> Result<CertificateEntry> {
    let pem = identity.certificate_pem()?;
    let anchor_signature = STANDARD.encode(anchor.sign_raw(pem.as_bytes())?);
    Ok(CertificateEntry { usage, from, until, revoked: None, pem, anchor_signature })
}
