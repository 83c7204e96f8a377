//! The application of the other histories: the pipeline as it is, keys, signatures and all, over uploads that are signed
//! once and uploaded again and again.

use anyhow::Result;
use bytes::Bytes;
use keyferry_processors::role::Pipeline;
use keyferry_runtime::codec::{Codec, KeysRecord};
use keyferry_schemas::{
    avro::Record as _,
    batch::{Manifest, sha256},
    country::Country,
    records::Upload,
    time::Millis,
    world::{self, World},
};

use super::{oracle::Told, plan::Payloads};
use crate::processor;

/// Uploads that each country has.
const UPLOADS: usize = 8;

/// What real histories need.
pub(super) struct Real {
    hub_key: [u8; 32],
    /// When they begin, by the broker's clock.
    pub epoch: Millis,
    pub payloads: Payloads,
}

impl Real {
    /// Signs the uploads: new keys, keys that were there before, tags that stand for something else, and what is none.
    pub fn new(world: &World, codec: &Codec, countries: &[Country], epoch: Millis) -> Result<Self> {
        let mut rng = world::Rng::new(1);
        let mut payloads = Vec::new();
        for country in countries {
            let country = country.as_str();
            let mut keys: Vec<_> = (0..UPLOADS).map(|_| world::key(&mut rng, country, &[], epoch)).collect();
            keys[1] = keys[0].clone();
            let mut uploads = Vec::new();
            for (i, key) in keys.iter().enumerate() {
                let tag = format!("tag-{}", i.min(UPLOADS - 2));
                let upload = world.upload(country, &tag, std::slice::from_ref(key))?;
                uploads.push(codec.encode::<Upload>(&upload).into());
            }
            uploads.push(Bytes::from_static(b"poison"));
            payloads.push(uploads);
        }
        Ok(Self { hub_key: world.hub_key.to_bytes(), epoch, payloads: payloads.into() })
    }

    /// The pipeline of one instance.
    pub fn application(&self, codec: &Codec, writer: &str) -> Result<Pipeline> {
        Ok(Pipeline::new(processor::tools(writer, &self.hub_key), codec.clone())?)
    }
}

/// What a record on a topic of keys says of its chain.
pub(super) fn told(codec: &Codec, value: &[u8]) -> Option<Told> {
    Some(match codec.decode_keys(Bytes::copy_from_slice(value)).ok()? {
        KeysRecord::Batch(batch) => {
            let hash = sha256(&batch.manifest);
            let Manifest { sequence, previous, .. } = Manifest::from_avro(batch.manifest).ok()?;
            Told::Batch { sequence, previous, manifest: hash }
        }
        KeysRecord::Checkpoint(checkpoint) => {
            Told::Checkpoint { sequence: checkpoint.sequence, manifest: checkpoint.manifest }
        }
    })
}
