//! A small world for tests: three countries under a trust anchor, and a hub that signs batches for them.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod flaky;
pub mod instance;
pub mod web;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;

use keyferry_runtime::{clock::Clock, network::Versions};
use keyferry_schemas::{
    avro::Record as _,
    batch::{Checkpoint, DataClass, Level, Manifest, SignedBatch, bitmap, sha256, sign_manifest},
    canonical::Canonical,
    country::Country,
    efgs::{self, DiagnosisKey},
    records::{Hash, Kind},
    time::Millis,
    world::{HUB_KEY, Nation, Rng, World, key},
};

/// 2020-10-23T12:00:00Z
pub const NOON: Millis = Millis(1_603_454_400_000);
pub const HOUR: i64 = 3_600_000;
pub const DAY: i64 = 24 * HOUR;

pub fn cc(code: &str) -> Country {
    code.parse().unwrap()
}

/// A clock that can be set.
pub struct Set(pub AtomicI64);

impl Set {
    pub fn at(now: Millis) -> Arc<Self> {
        Arc::new(Self(now.0.into()))
    }

    pub fn put(&self, now: Millis) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for Set {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

/// The value of the series of this metric that has this label value.
pub fn metric(name: &str, label: &str) -> Option<f64> {
    let all = prometheus::default_registry().gather();
    let metric = all.iter().find(|f| f.name() == name)?;
    let series = metric.get_metric().iter().find(|m| m.get_label().iter().any(|l| l.value() == label))?;
    Some(series.get_counter().get_value() + series.get_gauge().get_value())
}

pub fn manifest_of(batch: &SignedBatch) -> Manifest {
    Manifest::from_avro(batch.manifest.clone()).unwrap()
}

/// A hub without Kafka: it signs, and knows where each chain stands.
pub struct Hub {
    pub world: World,
    pub versions: Versions,
    chains: BTreeMap<(Country, Country), (i64, Hash)>,
    random: Rng,
}

impl Hub {
    /// For DE, FR and NL, all with one another, around `now`.
    pub fn new(now: Millis) -> Self {
        let world = World::new(&["DE", "FR", "IT", "NL"], now.timestamp()).unwrap();
        let mut hub = Self { world, versions: Versions::new(), chains: BTreeMap::new(), random: Rng::new(1) };
        hub.publish(1);
        hub
    }

    /// Makes a version of the network document known.
    pub fn publish(&mut self, version: i64) {
        self.world.document.version = version;
        self.versions.insert(version, self.world.network().unwrap());
    }

    pub fn nation(&self, country: Country) -> &Nation {
        &self.world.nations[&country]
    }

    /// New keys in canonical order.
    fn keys(&mut self, origin: &str, n: usize, at: Millis) -> Vec<DiagnosisKey> {
        let keys: Vec<_> = (0..n).map(|_| key(&mut self.random, origin, &["DE"], at)).collect();
        Canonical::of(&keys).iter().map(|(index, _)| keys[index].clone()).collect()
    }

    /// The next whole batch of `n` keys on the chain.
    pub fn batch(&mut self, origin: &str, destination: &str, n: usize, at: Millis) -> SignedBatch {
        self.batch_of(origin, destination, n, at, Level::Whole)
    }

    pub fn batch_of(
        &mut self,
        origin: &str,
        destination: &str,
        n: usize,
        at: Millis,
        level: Level,
    ) -> SignedBatch {
        let keys = self.keys(origin, n, at);
        let (origin, destination) = (cc(origin), cc(destination));
        let canonical = Canonical::of(&keys);
        let sign = || Bytes::from(self.nation(origin).signing.sign(canonical.bytes()).unwrap());
        let origin_signature = (level == Level::Whole).then(sign);
        let content = Bytes::from(efgs::encode_protobuf(&keys));
        let new = Bytes::from(bitmap(keys.iter().map(|_| true)));
        let (last, previous) = self.chains.get(&(origin, destination)).copied().unwrap_or((0, [0; 32]));
        let sequence = last + 1;
        let manifest = Manifest {
            schema_version: 1,
            network: self.world.document.network.clone(),
            network_version: self.world.document.version,
            batch_id: format!("{origin}-{destination}-{sequence}"),
            origin,
            destination,
            sequence,
            previous,
            upload_id: [9; 16],
            batch_tag: "tag".into(),
            kind: Kind::ExposedKeys,
            keys: n as i32,
            level,
            canonical: sha256(canonical.bytes()),
            content: sha256(&content),
            bitmap: sha256(&new),
            origin_signature: sha256(&origin_signature.clone().unwrap_or_default()),
            client_certificate: self.nation(origin).authentication.certificate.sha256(),
            signing_certificate: self.nation(origin).signing.certificate.sha256(),
            agreement: 1,
            data_class: DataClass::Anonymous,
            created_at: at,
            signing_key: HUB_KEY.into(),
        };
        let batch =
            SignedBatch { manifest: Bytes::new(), signature: [0; 64], keys: content, new, origin_signature };
        let batch = self.signed(batch, &manifest);
        self.chains.insert((origin, destination), (sequence, sha256(&batch.manifest)));
        batch
    }

    /// The same batch under another manifest, signed as the hub signs.
    pub fn signed(&self, batch: SignedBatch, manifest: &Manifest) -> SignedBatch {
        let bytes = Bytes::from(manifest.to_avro());
        SignedBatch { signature: sign_manifest(&self.world.hub_key, &bytes), manifest: bytes, ..batch }
    }

    /// A checkpoint at the end of the chain.
    pub fn checkpoint(&self, origin: &str, destination: &str, at: Millis) -> Checkpoint {
        let (origin, destination) = (cc(origin), cc(destination));
        let (sequence, manifest) = self.chains.get(&(origin, destination)).copied().unwrap_or((0, [0; 32]));
        let (network, signing_key) = (self.world.document.network.clone(), HUB_KEY.into());
        let unsigned = Checkpoint {
            network,
            network_version: self.world.document.version,
            origin,
            destination,
            sequence,
            manifest,
            now: at,
            at,
            signing_key,
            signature: [0; 64],
        };
        unsigned.signed(&self.world.hub_key)
    }
}
