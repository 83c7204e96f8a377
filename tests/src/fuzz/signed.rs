//! Batches and checkpoints on their way to a country. Whoever changes them has no key; and a hub that lies has only its
//! own.

use bytes::Bytes;
use keyferry_schemas::{
    avro::Record,
    batch::{Checkpoint, Level, Manifest, SignedBatch, sha256, sign_manifest},
    canonical::Canonical,
    chain::{VerifiedBatch, verify_sealed},
    efgs::{self, Encoding},
};

use super::golden::golden;

/// A batch as a country reads it.
pub fn batch(data: &[u8]) {
    let Ok(batch) = SignedBatch::from_avro(Bytes::copy_from_slice(data)) else { return };
    let golden = golden();
    if let Ok(verified) = VerifiedBatch::verify(&batch, &golden.network) {
        assert!(golden.batches.contains(&batch), "a batch that the hub did not sign verifies");
        assert_eq!(verified.keys().len(), verified.manifest().keys as usize);
    }
    if verify_sealed(&batch, &golden.network).is_ok() {
        let signed =
            golden.batches.iter().any(|g| SignedBatch { keys: batch.keys.clone(), ..g.clone() } == batch);
        assert!(signed, "a batch without its keys verifies that the hub did not sign");
    }
    if let Some(lie) = signed_anew(batch) {
        hub_can_not_lie(&lie);
    }
}

/// The same batch in all that a hub can make consistent, with its signature.
fn signed_anew(batch: SignedBatch) -> Option<SignedBatch> {
    let mut manifest = Manifest::from_avro(batch.manifest).ok()?;
    let keys = efgs::decode(Encoding::Protobuf, batch.keys.clone()).ok()?;
    let Manifest { origin, destination, sequence, .. } = manifest;
    manifest.batch_id = format!("{origin}-{destination}-{sequence}");
    manifest.keys = keys.len() as i32;
    manifest.content = sha256(&batch.keys);
    manifest.canonical = sha256(Canonical::of(&keys).bytes());
    manifest.bitmap = sha256(&batch.new);
    manifest.origin_signature = sha256(batch.origin_signature.as_deref().unwrap_or_default());
    let manifest = manifest.to_avro();
    let signature = sign_manifest(&golden().hub, &manifest);
    Some(SignedBatch { manifest: manifest.into(), signature, ..batch })
}

fn hub_can_not_lie(batch: &SignedBatch) {
    let golden = golden();
    let Ok(verified) = VerifiedBatch::verify(batch, &golden.network) else { return };
    let (manifest, keys) = (verified.manifest(), verified.keys());
    let home = golden.network.resolve(manifest.origin);
    let own = |origin: &str| origin.parse().is_ok_and(|c| golden.network.resolve(c) == home);
    assert!(keys.iter().all(|k| own(&k.origin)), "keys of another origin");
    let canonical = Canonical::of(&keys);
    assert!(canonical.iter().enumerate().all(|(i, (index, _))| i == index), "not in canonical order");
    assert_eq!(batch.new.len(), keys.len().div_ceil(8));
    if manifest.level == Level::Whole {
        let said = (canonical.bytes().to_vec(), manifest.signing_certificate);
        assert!(golden.signed.contains(&said), "a whole batch that its origin did not sign");
    }
}

/// A checkpoint as a country reads it.
pub fn checkpoint(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_avro(Bytes::copy_from_slice(data)) else { return };
    let golden = golden();
    if checkpoint.holds(&golden.hub.verifying_key()) {
        assert!(checkpoint == golden.checkpoint, "a checkpoint that the hub did not sign holds");
    }
    let signed = checkpoint.signed(&golden.hub);
    assert!(signed.holds(&golden.hub.verifying_key()));
    assert_eq!(Checkpoint::from_avro(signed.to_avro().into()), Ok(signed));
}
