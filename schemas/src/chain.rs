//! Verification of what a country received: each batch by itself, and the chain that the batches form.
//!
//! Everyone who verifies uses this: the distribution service, `keyferry verify`, and the tests.

mod links;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use links::{Chains, Link};

use crate::{
    avro::Record,
    batch::{Level, MANIFEST_VERSION, Manifest, SignedBatch, manifest_signature_holds, sha256},
    canonical::Canonical,
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
    keys: Vec<DiagnosisKey>,
}

impl VerifiedBatch {
    /// Verifies one batch by itself: signature, every hash, and for a whole one the origin's signature.
    ///
    /// # Errors
    /// The first [`Break`] found.
    pub fn verify(batch: &SignedBatch, networks: &impl Networks) -> Result<Self, Break> {
        let (manifest, network) = verify_sealed(batch, networks)?;
        if sha256(&batch.keys) != manifest.content {
            return Err(Break::Part("key bytes"));
        }
        let keys =
            efgs::decode(Encoding::Protobuf, batch.keys.clone()).map_err(|_| Break::Part("key bytes"))?;
        let count = usize::try_from(manifest.keys).unwrap_or(usize::MAX);
        if keys.len() != count || batch.new.len() != count.div_ceil(8) {
            return Err(Break::Part("number of keys"));
        }
        let home = network.resolve(manifest.origin);
        if keys.iter().any(|k| !k.origin.parse().is_ok_and(|c| network.resolve(c) == home)) {
            return Err(Break::Part("origin of a key"));
        }
        // Here the keys are at hand, so nothing of the terms is left open.
        let coverage = network.coverage(manifest.origin, manifest.destination, manifest.created_at);
        let terms = coverage.filter(|c| keys.iter().all(|k| c.covers(k))).and_then(|c| c.terms(keys.iter()));
        match terms {
            Some((number, class)) if number == manifest.agreement => {
                if class != manifest.data_class {
                    return Err(Break::DataClass);
                }
            }
            _ => return Err(Break::Agreement(manifest.agreement)),
        }
        let canonical = Canonical::of(&keys);
        let signed = canonical.bytes();
        if sha256(&signed) != manifest.canonical
            || canonical.iter().enumerate().any(|(i, (index, _))| i != index)
        {
            return Err(Break::Part("canonical form"));
        }
        if batch.origin_signature.is_some() != (manifest.level == Level::Whole) {
            return Err(Break::Part("level"));
        }
        let of_origin = batch.origin_signature.as_deref().unwrap_or_default();
        if manifest.level == Level::Whole && !origin_holds(of_origin, &signed, &manifest, network) {
            return Err(Break::Origin);
        }
        Ok(Self { hash: sha256(&batch.manifest), manifest, keys })
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

    /// Its keys in canonical order.
    #[must_use]
    pub fn keys(&self) -> &[DiagnosisKey] {
        &self.keys
    }
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
    let Ok(cms) = Detached::read(cms) else { return false };
    network
        .registered(&manifest.signing_certificate, Use::Signing)
        .filter(|r| r.country == manifest.origin && r.in_force(manifest.created_at))
        .any(|r| cms.names(&r.certificate) && cms.verify(canonical, &r.certificate))
}
