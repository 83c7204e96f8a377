//! What is proven, and what is not: on batches of a made-up world.

use std::sync::Arc;

use jiff::Timestamp;
use keyferry_runtime::{codec::KeysRecord, network::Versions};
use keyferry_schemas::{
    avro::Record as _,
    batch::{
        Checkpoint, DataClass, Level, MANIFEST_VERSION, Manifest, SignedBatch, bitmap, sha256, sign_manifest,
    },
    canonical::Canonical,
    country::Country,
    efgs,
    records::{Hash, Kind},
    time::Millis,
    world::{HUB_KEY, Rng, World, key},
};

use super::walk::{Begin, Walk};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

struct Scene {
    world: World,
    versions: Versions,
}

fn scene() -> Scene {
    let world = World::new(&["DE", "FR", "IT"], NOW).unwrap();
    let versions = [(1, world.network().unwrap())].into();
    Scene { world, versions }
}

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

impl Scene {
    /// A chain of batches from DE to FR, all subsets, so that the hub's signature alone counts.
    fn chain(&self, length: i64) -> Vec<SignedBatch> {
        let mut previous = [0; 32];
        (1..=length)
            .map(|sequence| {
                let batch = self.batch(sequence, previous, "FR");
                previous = sha256(&batch.manifest);
                batch
            })
            .collect()
    }

    fn batch(&self, sequence: i64, previous: Hash, destination: &str) -> SignedBatch {
        let keys = vec![key(&mut Rng::new(sequence as u64), "DE", &[], NOW.into())];
        let bytes = efgs::encode_protobuf(&keys);
        let new = bitmap([true].into_iter());
        let manifest = Manifest {
            schema_version: MANIFEST_VERSION,
            network: self.world.document.network.clone(),
            network_version: 1,
            batch_id: format!("DE-{destination}-{sequence}"),
            origin: country("DE"),
            destination: country(destination),
            sequence,
            previous,
            upload_id: [0; 16],
            batch_tag: "tag".into(),
            kind: Kind::ExposedKeys,
            keys: 1,
            level: Level::Subset,
            canonical: sha256(Canonical::of(&keys).bytes()),
            content: sha256(&bytes),
            bitmap: sha256(&new),
            origin_signature: sha256(&[]),
            client_certificate: [0; 32],
            signing_certificate: [0; 32],
            agreement: 1,
            data_class: DataClass::Anonymous,
            created_at: NOW.into(),
            signing_key: HUB_KEY.into(),
        };
        let manifest = manifest.to_avro();
        SignedBatch {
            signature: sign_manifest(&self.world.hub_key, &manifest),
            manifest: manifest.into(),
            keys: bytes.into(),
            new: new.into(),
            origin_signature: None,
        }
    }

    fn checkpoint(&self, sequence: i64, manifest: Hash) -> KeysRecord {
        let checkpoint = Checkpoint {
            network: self.world.document.network.clone(),
            network_version: 1,
            origin: country("DE"),
            destination: country("FR"),
            sequence,
            manifest,
            now: Millis::from(NOW),
            at: Millis::from(NOW),
            signing_key: HUB_KEY.into(),
            signature: [0; 64],
        };
        KeysRecord::Checkpoint(checkpoint.signed(&self.world.hub_key))
    }

    /// The first fault, if any, and from where to where the chain is proven.
    fn verify(&self, records: Vec<KeysRecord>, begin: Begin) -> (Option<String>, Option<(i64, i64)>) {
        let mut walk = Walk::new("topic".into(), &self.versions, Some(country("FR")), begin);
        let mut records = records.iter().enumerate();
        let fault = records.find_map(|(i, record)| walk.take(format!("offset {i}"), record).err());
        let report = walk.end(fault);
        let proven = report.chains.get("DE").map(|c| (c.first_sequence, c.last_sequence));
        (report.fault, proven)
    }
}

fn records(batches: impl IntoIterator<Item = SignedBatch>) -> Vec<KeysRecord> {
    batches.into_iter().map(KeysRecord::Batch).collect()
}

#[test]
fn a_chain_is_proven_from_its_first_batch_on() {
    let scene = scene();
    assert_eq!(scene.verify(records(scene.chain(3)), Begin::First), (None, Some((1, 3))));
}

#[test]
fn a_batch_that_is_missing_doubled_or_altered_is_named() {
    let scene = scene();
    let chain = scene.chain(3);
    let (fault, proven) = scene.verify(records([chain[0].clone(), chain[2].clone()]), Begin::Confirmed);
    assert_eq!(fault.unwrap(), "offset 1: DE sequence 3: sequence 3 follows 1");
    assert_eq!(proven, Some((1, 1)));
    let (fault, _) = scene.verify(records([chain[0].clone(), chain[0].clone()]), Begin::Confirmed);
    assert_eq!(fault.unwrap(), "offset 1: DE sequence 1: sequence 1 follows 1");

    let mut altered = chain.clone();
    altered[1].new = vec![0].into();
    let (fault, _) = scene.verify(records(altered), Begin::First);
    assert_eq!(fault.unwrap(), "offset 1: DE sequence 2: the bitmap is not what the manifest says");
    let mut forged = chain;
    forged[2].signature[0] ^= 1;
    let (fault, _) = scene.verify(records(forged), Begin::First);
    assert_eq!(fault.unwrap(), "offset 2: DE sequence 3: the signature does not hold");
}

#[test]
fn a_start_that_is_gone_counts_only_where_it_may_be_gone() {
    let scene = scene();
    let late = || records(scene.chain(3).into_iter().skip(1));
    assert!(scene.verify(late(), Begin::First).0.unwrap().contains("sequence 2 follows 0"));
    assert_eq!(scene.verify(late(), Begin::Anywhere), (None, Some((2, 3))));
    // What is gone by law is believed if the hub says later what the chain was.
    let (fault, proven) = scene.verify(late(), Begin::Confirmed);
    assert_eq!(proven, Some((2, 3)));
    let unproven = "the chain from DE begins in its middle, at sequence 2, and no checkpoint confirms it";
    assert_eq!(fault.unwrap(), unproven);
    let hash = sha256(&scene.chain(3)[2].manifest);
    let confirmed = late().into_iter().chain([scene.checkpoint(3, hash)]).collect();
    assert_eq!(scene.verify(confirmed, Begin::Confirmed), (None, Some((2, 3))));
}

#[test]
fn a_checkpoint_begins_a_chain_and_reveals_a_cut() {
    let scene = scene();
    let chain = scene.chain(3);
    let hash = |i: usize| sha256(&chain[i].manifest);
    let from_checkpoint =
        || [scene.checkpoint(1, hash(0))].into_iter().chain(records(chain[1..].to_vec())).collect();
    assert_eq!(scene.verify(from_checkpoint(), Begin::Confirmed), (None, Some((2, 3))));
    // Where nothing has expired, the first batch has been taken away.
    let fault = scene.verify(from_checkpoint(), Begin::First).0.unwrap();
    assert!(fault.ends_with("a checkpoint states sequence 1, and 0 was received"), "{fault}");
    let empty = [scene.checkpoint(0, [0; 32])].into_iter().chain(records(chain.clone()));
    assert_eq!(scene.verify(empty.collect(), Begin::First), (None, Some((1, 3))));
    assert_eq!(scene.verify(vec![scene.checkpoint(0, [0; 32])], Begin::First), (None, Some((1, 0))));
    let cut = records(chain[..2].to_vec()).into_iter().chain([scene.checkpoint(3, hash(2))]);
    let fault = scene.verify(cut.collect(), Begin::First).0.unwrap();
    assert!(fault.ends_with("a checkpoint states sequence 3, and 2 was received"), "{fault}");
}

#[test]
fn what_is_for_another_or_of_an_unknown_version_is_refused() {
    let mut scene = scene();
    let other = scene.batch(1, [0; 32], "IT");
    assert!(scene.verify(records([other]), Begin::First).0.unwrap().ends_with("it is for IT"));
    let chain = scene.chain(1);
    let network = scene.versions.remove(&1).unwrap();
    scene.versions.insert(2, Arc::clone(&network));
    let fault = scene.verify(records(chain), Begin::First).0.unwrap();
    assert!(fault.contains("network version 1, which is not known here; known are 2"), "{fault}");
}

#[test]
fn a_chain_says_when_it_was_last_confirmed() {
    let scene = scene();
    let hash = sha256(&scene.chain(1)[0].manifest);
    let mut walk = Walk::new("topic".into(), &scene.versions, Some(country("FR")), Begin::First);
    for record in records(scene.chain(1)) {
        walk.take("offset 0".into(), &record).unwrap();
    }
    walk.take("offset 1".into(), &scene.checkpoint(1, hash)).unwrap();
    let report = walk.end(None);
    assert_eq!(report.chains["DE"].stated_at.as_deref(), Some("2027-01-15T08:00:00Z"));
}
