//! Verification of what a country received: each batch by itself, and the chain that the batches form.
//!
//! Everyone who verifies uses this: the distribution service, `keyferry verify`, and the tests.

mod links;
mod proofs;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

pub use links::{Chains, Link};
pub use proofs::Proofs;
use proofs::{Claim, Types};

use crate::{
    avro::Record,
    batch::{Level, MANIFEST_VERSION, Manifest, SignedBatch, manifest_signature_holds, sha256},
    canonical::{base64_order, write_key},
    cms::Detached,
    country::Country,
    efgs::{self, DiagnosisKey, Encoding},
    network::{Network, Use},
    records::Hash,
};

/// What is wrong with a batch, a checkpoint or a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// The manifest is no canonical Avro of the version known here.
    #[error("the manifest can not be read")]
    Manifest,
    /// It belongs to another network.
    #[error("it belongs to network {0}")]
    Network(String),
    /// It is for another country.
    #[error("it is for {0}")]
    Destination(Country),
    /// The network version it names was never published, as far as is known here.
    #[error("it names network version {0}, which is not known here")]
    NetworkVersion(i64),
    /// No such signing key was in force.
    #[error("signing key {0:?} was not in force")]
    SigningKey(String),
    /// The hub's signature does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// The batch has another name than its place.
    #[error("the batch id is not <origin>-<destination>-<sequence>")]
    BatchId,
    /// That agreement was not in force between the countries, or is not the one under which these keys go out.
    #[error("agreement {0} is not the one under which these keys may flow at that time")]
    Agreement(i32),
    /// The agreements in force make it another class of data.
    #[error("the data class is not the one that the agreements give")]
    DataClass,
    /// A hash of the manifest is not that of the part it names.
    #[error("the {0} is not what the manifest says")]
    Part(&'static str),
    /// The origin's signature does not verify over these keys.
    #[error("the origin's signature does not hold")]
    Origin,
    /// A batch is missing, doubled or out of order.
    #[error("sequence {found} follows {last}")]
    Sequence {
        /// Of the batch before.
        last: i64,
        /// Of this one.
        found: i64,
    },
    /// It does not follow the batch before it.
    #[error("it names another predecessor than sequence {0}")]
    Predecessor(i64),
    /// It names an older network version than what it follows: its signing key may have been withdrawn since.
    #[error("it names network version {found} behind version {last}")]
    NetworkVersionFell {
        /// Of what it follows.
        last: i64,
        /// Its own.
        found: i64,
    },
    /// It says that it was made before what it follows: its signing key may have ended since.
    #[error("it was made before sequence {0}, which it follows")]
    TimeFell(i64),
    /// A checkpoint states another end of the chain than what was received.
    #[error("a checkpoint states sequence {stated}, and {received} was received")]
    Checkpoint {
        /// By the checkpoint.
        stated: i64,
        /// By us.
        received: i64,
    },
}

/// Finds the version of the network document that a batch names.
pub trait Networks {
    /// The version, verified.
    fn version(&self, version: i64) -> Option<&Network>;
}

impl Networks for Network {
    fn version(&self, version: i64) -> Option<&Network> {
        (Network::version(self) == version).then_some(self)
    }
}

impl<N: std::borrow::Borrow<Network>> Networks for BTreeMap<i64, N> {
    fn version(&self, version: i64) -> Option<&Network> {
        self.get(&version).map(std::borrow::Borrow::borrow)
    }
}

/// A batch of which everything that stands in it was verified.
pub struct VerifiedBatch {
    manifest: Manifest,
    hash: Hash,
    keys: Bytes,
    count: usize,
}

impl VerifiedBatch {
    /// Verifies one batch by itself: signature, every hash, and for a whole one the origin's signature.
    ///
    /// # Errors
    /// The first [`Break`] found.
    pub fn verify(batch: &SignedBatch, networks: &impl Networks) -> Result<Self, Break> {
        Self::judge(batch, networks, |_, manifest, network| content(batch, manifest, network))
    }

    /// The same for whoever serves several destinations: what was proven of these very keys before is not proven again.
    /// Waits while another thread is about to prove it.
    ///
    /// # Errors
    /// The first [`Break`] found.
    pub fn verify_once(
        batch: &SignedBatch,
        networks: &impl Networks,
        proofs: &Proofs,
    ) -> Result<Self, Break> {
        Self::judge(batch, networks, |claim, manifest, network| {
            proofs.types(claim, batch, (manifest, network))
        })
    }

    fn judge(
        batch: &SignedBatch,
        networks: &impl Networks,
        prove: impl FnOnce(Claim, &Manifest, &Network) -> Result<Types, Break>,
    ) -> Result<Self, Break> {
        let (manifest, network) = verify_sealed(batch, networks)?;
        if sha256(&batch.keys) != manifest.content {
            return Err(Break::Part("key bytes"));
        }
        let count = usize::try_from(manifest.keys).unwrap_or(usize::MAX);
        if batch.new.len() != count.div_ceil(8) {
            return Err(Break::Part("number of keys"));
        }
        if batch.origin_signature.is_some() != (manifest.level == Level::Whole) {
            return Err(Break::Part("level"));
        }
        // Every part was held against its hash in the manifest: from here on the hashes stand for the parts.
        let types = prove(Claim::of(&manifest, network), &manifest, network)?;
        // Here the keys were at hand, so nothing of the terms is left open.
        let coverage = network.coverage(manifest.origin, manifest.destination, manifest.created_at);
        match coverage.and_then(|c| c.terms_of_all(&types)) {
            Some((number, class)) if number == manifest.agreement => {
                if class != manifest.data_class {
                    return Err(Break::DataClass);
                }
            }
            _ => return Err(Break::Agreement(manifest.agreement)),
        }
        Ok(Self { hash: sha256(&batch.manifest), manifest, keys: batch.keys.clone(), count })
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest, which the next batch names as its predecessor.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// How many keys it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Its keys in canonical order. Decoded at each call: most who verify only pass them on.
    #[must_use]
    pub fn keys(&self) -> Vec<DiagnosisKey> {
        // They were read before, or they would not be here.
        efgs::decode(Encoding::Protobuf, self.keys.clone()).unwrap_or_default()
    }
}

/// Proves what a manifest claims of the keys, all but the terms, which are a destination's own. The parts are those that
/// its hashes name. Nothing counts here that is not in a [`Claim`].
fn content(batch: &SignedBatch, manifest: &Manifest, network: &Network) -> Result<Types, Break> {
    let keys = efgs::decode(Encoding::Protobuf, batch.keys.clone()).map_err(|_| Break::Part("key bytes"))?;
    if Ok(keys.len()) != usize::try_from(manifest.keys) {
        return Err(Break::Part("number of keys"));
    }
    let home = network.resolve(manifest.origin);
    if keys.iter().any(|k| k.origin.country().is_none_or(|c| network.resolve(c) != home)) {
        return Err(Break::Part("origin of a key"));
    }
    let signed = in_order(&keys).filter(|signed| sha256(signed) == manifest.canonical);
    let signed = signed.ok_or(Break::Part("canonical form"))?;
    let of_origin = batch.origin_signature.as_deref().unwrap_or_default();
    if manifest.level == Level::Whole && !origin_holds(of_origin, &signed, manifest, network) {
        return Err(Break::Origin);
    }
    Ok(Arc::new(keys.iter().map(|k| k.report_type).collect::<BTreeSet<_>>()))
}

/// The canonical bytes of keys that stand in canonical order; `None` if they do not.
fn in_order(keys: &[DiagnosisKey]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(keys.len() * 112);
    let mut before = 0..0;
    for key in keys {
        let start = bytes.len();
        write_key(key, &mut bytes);
        if base64_order(&bytes[before], &bytes[start..]) == Ordering::Greater {
            return None;
        }
        before = start..bytes.len();
    }
    Some(bytes)
}

/// Verifies all of a batch but its keys, which a store erases in time: the signature, the hashes of what is left, and
/// that agreements were in force under which keys may have gone out like this.
///
/// # Errors
/// The first [`Break`] found.
pub fn verify_sealed<'n>(
    batch: &SignedBatch,
    networks: &'n impl Networks,
) -> Result<(Manifest, &'n Network), Break> {
    let manifest = read_manifest(&batch.manifest)?;
    let version = Break::NetworkVersion(manifest.network_version);
    let network = networks.version(manifest.network_version).ok_or(version)?;
    if network.name() != manifest.network {
        return Err(Break::Network(manifest.network));
    }
    let key = network
        .signing_key(&manifest.signing_key, manifest.created_at)
        .ok_or_else(|| Break::SigningKey(manifest.signing_key.clone()))?;
    if !manifest_signature_holds(key, &batch.manifest, &batch.signature) {
        return Err(Break::Signature);
    }
    let of_origin = batch.origin_signature.as_deref().unwrap_or_default();
    for (part, bytes, hash) in [
        ("bitmap", batch.new.as_ref(), &manifest.bitmap),
        ("origin's signature", of_origin, &manifest.origin_signature),
    ] {
        if sha256(bytes) != *hash {
            return Err(Break::Part(part));
        }
    }
    let Manifest { origin, destination, sequence, .. } = manifest;
    if manifest.batch_id != format!("{origin}-{destination}-{sequence}") {
        return Err(Break::BatchId);
    }
    let coverage = network.coverage(origin, destination, manifest.created_at);
    match coverage.and_then(|c| c.classes(manifest.agreement)) {
        None => Err(Break::Agreement(manifest.agreement)),
        Some(classes) if !classes.contains(&manifest.data_class) => Err(Break::DataClass),
        Some(_) => Ok((manifest, network)),
    }
}

fn read_manifest(bytes: &Bytes) -> Result<Manifest, Break> {
    let manifest = Manifest::from_avro(bytes.clone()).map_err(|_| Break::Manifest)?;
    // One manifest has one form: numbers padded with zero bytes would be another with the same meaning.
    if manifest.schema_version != MANIFEST_VERSION || manifest.to_avro() != *bytes {
        return Err(Break::Manifest);
    }
    Ok(manifest)
}

fn origin_holds(cms: &[u8], canonical: &[u8], manifest: &Manifest, network: &Network) -> bool {
    let Ok(cms) = Detached::read_beside(cms, |hash| network.knows(hash)) else { return false };
    network
        .registered(&manifest.signing_certificate, Use::Signing)
        .filter(|r| r.country == manifest.origin && r.in_force(manifest.created_at))
        .any(|r| cms.names(&r.certificate) && cms.verify(canonical, &r.certificate))
}
