//! Chains of batches as the hub would deliver them, made by the pipeline's own step, for tests that put them on topics by
//! hand: in order or not, whole or changed.

use std::collections::BTreeMap;

use anyhow::Result;
use ed25519_dalek::SigningKey;
use keyferry_processors::{
    pipeline::{Source, step},
    state::OriginState,
};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    batch::{Checkpoint, SignedBatch, sha256, sign_manifest},
    country::Country,
    topics,
    world::{HUB_KEY, Rng, key},
};

use crate::hub::Hub;

/// Keys in each upload.
pub const KEYS: usize = 30;

/// Batches by destination, in the order of their sequence.
pub type Chains = BTreeMap<Country, Vec<SignedBatch>>;

impl Hub {
    /// What `n` uploads of DE lead to. Every second key names NL as a country of interest, and none another.
    ///
    /// # Errors
    /// The world is not one in which DE may upload.
    pub fn chains(&self, n: usize) -> Result<Chains> {
        let network = self.world.network()?;
        let tools = self.tools("p-0");
        let mut state = OriginState::new("DE".parse()?, 0);
        let mut rng = Rng::new(1);
        let mut all = Chains::new();
        for i in 0..n {
            let now = SystemClock.now();
            let visited = |k: usize| if k.is_multiple_of(2) { &["NL"][..] } else { &[] };
            let keys: Vec<_> = (0..KEYS).map(|k| key(&mut rng, "DE", visited(k), now)).collect();
            let upload = self.world.upload("DE", &format!("tag-{i}"), &keys)?;
            let source = Source { offset: i64::try_from(i)?, timestamp: now, upload: Ok(upload) };
            for (destination, batch) in step(&mut state, source, &network, &tools)?.batches {
                all.entry(destination).or_default().push(batch);
            }
            state.commit();
        }
        Ok(all)
    }

    /// Puts a batch on the topic of a country.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn deliver(&self, country: &str, batch: &SignedBatch) -> Result<()> {
        self.put(&topics::keys(country.parse()?), self.codec.encode(batch))
    }

    /// Puts a checkpoint on the topic of a country: that the chain from DE ends with `sequence`, which is `batch`.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn state(&self, country: &str, sequence: i64, batch: &SignedBatch) -> Result<()> {
        let checkpoint = Checkpoint {
            network: self.world.document.network.clone(),
            network_version: self.world.document.version,
            origin: "DE".parse()?,
            destination: country.parse()?,
            sequence,
            manifest: sha256(&batch.manifest),
            now: SystemClock.now(),
            at: SystemClock.now(),
            signing_key: HUB_KEY.into(),
            signature: [0; 64],
        };
        let signed = checkpoint.signed(&self.world.hub_key);
        self.put(&topics::keys(country.parse()?), self.codec.encode(&signed))
    }
}

/// The same batch with one bit of a key changed.
#[must_use]
pub fn changed(batch: &SignedBatch) -> SignedBatch {
    let mut keys = batch.keys.to_vec();
    keys[10] ^= 1;
    SignedBatch { keys: keys.into(), ..batch.clone() }
}

/// The same batch, signed by somebody else.
#[must_use]
pub fn forged(batch: &SignedBatch) -> SignedBatch {
    let stranger = SigningKey::from_bytes(&[9; 32]);
    SignedBatch { signature: sign_manifest(&stranger, &batch.manifest), ..batch.clone() }
}
