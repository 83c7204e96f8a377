//! A small world and a hub that sends from it.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod asn1;
pub mod desk;

use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use keyferry_schemas::{
    avro::Record,
    batch::{
        Checkpoint, DataClass, Level, MANIFEST_VERSION, Manifest, SignedBatch, bitmap, sha256, sign_manifest,
    },
    canonical::Canonical,
    chain::VerifiedBatch,
    country::Country,
    efgs::{self, DiagnosisKey},
    network::Network,
    records::{Hash, Kind},
    time::Millis,
    world::{HUB_KEY, Rng, World, key},
};
use openssl::x509::X509;

pub const NOW: Timestamp = Timestamp::constant(1_603_022_400, 0);

pub fn world() -> World {
    World::new(&["DE", "FR", "NL"], NOW).unwrap()
}

pub fn country(code: &str) -> Country {
    code.parse().unwrap()
}

/// A chain as a hub makes it.
#[derive(Clone)]
pub struct Sender<'w> {
    pub world: &'w World,
    pub origin: &'static str,
    pub destination: &'static str,
    pub sequence: i64,
    pub previous: Hash,
    pub network_version: i64,
    pub at: Millis,
    pub key: SigningKey,
    pub key_id: &'static str,
    pub agreement: i32,
    pub data_class: DataClass,
    pub report_type: i32,
}

impl<'w> Sender<'w> {
    pub fn new(world: &'w World, origin: &'static str, destination: &'static str) -> Self {
        Self {
            world,
            origin,
            destination,
            sequence: 0,
            previous: [0; 32],
            network_version: world.document.version,
            at: NOW.into(),
            key: world.hub_key.clone(),
            key_id: HUB_KEY,
            agreement: 1,
            data_class: DataClass::Anonymous,
            report_type: 1,
        }
    }

    pub fn send(&mut self, level: Level) -> SignedBatch {
        let mut rng = Rng::new(self.sequence as u64);
        let uploaded: Vec<_> = (0..4)
            .map(|i| {
                let key = key(&mut rng, self.origin, &["DE", "FR"], NOW.into());
                // The first alone, so that the others are as good as ever.
                if i == 0 { DiagnosisKey { report_type: self.report_type, ..key } } else { key }
            })
            .collect();
        let upload = self.world.upload(self.origin, "tag", &uploaded).unwrap();
        let whole = level == Level::Whole;
        let sent = if whole { &uploaded[..] } else { &uploaded[..3] };
        let canonical = Canonical::of(sent);
        let keys = efgs::encode_protobuf(canonical.iter().map(|(index, _)| &sent[index]));
        let new = bitmap((0..sent.len()).map(|i| i != 1));
        let origin_signature = whole.then(|| upload.batch_signature.clone());
        let nation = self.world.nation(self.origin).unwrap();
        self.sequence += 1;
        let manifest = Manifest {
            schema_version: MANIFEST_VERSION,
            network: self.world.document.network.clone(),
            network_version: self.network_version,
            batch_id: format!("{}-{}-{}", self.origin, self.destination, self.sequence),
            origin: nation.country,
            destination: country(self.destination),
            sequence: self.sequence,
            previous: self.previous,
            upload_id: upload.upload_id,
            batch_tag: upload.batch_tag,
            kind: Kind::ExposedKeys,
            keys: sent.len() as i32,
            level,
            canonical: sha256(canonical.bytes()),
            content: sha256(&keys),
            bitmap: sha256(&new),
            origin_signature: sha256(&origin_signature.clone().unwrap_or_default()),
            client_certificate: upload.client_certificate,
            signing_certificate: nation.signing.certificate.sha256(),
            agreement: self.agreement,
            data_class: self.data_class,
            created_at: self.at,
            signing_key: self.key_id.into(),
        }
        .to_avro();
        self.previous = sha256(&manifest);
        let signature = sign_manifest(&self.key, &manifest);
        SignedBatch {
            manifest: manifest.into(),
            signature,
            keys: keys.into(),
            new: new.into(),
            origin_signature,
        }
    }

    /// The same batch with a change in its manifest, signed as ever.
    pub fn signed_anew(&self, batch: &SignedBatch, change: &dyn Fn(&mut Manifest)) -> SignedBatch {
        let mut manifest = Manifest::from_avro(batch.manifest.clone()).unwrap();
        change(&mut manifest);
        let manifest = manifest.to_avro();
        let signature = sign_manifest(&self.key, &manifest);
        SignedBatch { manifest: manifest.into(), signature, ..batch.clone() }
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            network: self.world.document.network.clone(),
            network_version: self.network_version,
            origin: country(self.origin),
            destination: country(self.destination),
            sequence: self.sequence,
            manifest: self.previous,
            now: self.at,
            at: self.at,
            signing_key: self.key_id.into(),
            signature: [0; 64],
        }
        .signed(&self.key)
    }
}

pub fn verified(batch: &SignedBatch, network: &Network) -> VerifiedBatch {
    VerifiedBatch::verify(batch, network).unwrap()
}

/// Every byte of `bytes`, changed in two ways.
pub fn flips(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).flat_map(|at| [0x01, 0x80].map(|bit| (at, bit))).map(|(at, bit)| {
        let mut changed = bytes.to_vec();
        changed[at] ^= bit;
        (at, changed)
    })
}

/// Which bytes no signature covers, in a CMS by ECDSA: the certificate it brings along, which is ignored; the issuer of the
/// signer's, which is compared as names are; version numbers; the digest within the name of the signature algorithm, which
/// stands elsewhere too.
pub fn uncovered(cms: &[u8], certificate: &[u8]) -> Vec<bool> {
    let start = cms.windows(certificate.len()).position(|w| w == certificate).unwrap();
    let issuer = X509::from_der(certificate).unwrap().issuer_name().to_der().unwrap();
    let named = cms.windows(issuer.len()).rposition(|w| w == issuer).unwrap();
    let named = named..named + issuer.len();
    let certificate = start..start + certificate.len();
    let ecdsa_with_sha2 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    (0..cms.len())
        .map(|at| {
            let before = &cms[..at];
            certificate.contains(&at)
                || named.contains(&at)
                || (before.ends_with(&[0x02, 0x01]) && cms[at] == 1)
                || before.ends_with(&ecdsa_with_sha2)
        })
        .collect()
}
