//! Every way in which the records of a country can be wrong stops it at that record, and nowhere else.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    Hub, NOON, cc,
    instance::{Instance, List, codec, tokio},
    manifest_of, metric,
};
use keyferry_runtime::{codec::KeysRecord, health::Health};
use keyferry_schemas::{
    batch::{Checkpoint, DataClass, Level, Manifest, SignedBatch, sha256},
    chain::{Break, Proofs},
};
use keyferry_sinks::intake::{ChainBreak, Intake, Read, Reason};
use object_store::memory::InMemory;

fn batch(batch: &SignedBatch) -> Read {
    Read::of(Some(Ok(KeysRecord::Batch(batch.clone()))))
}

fn checkpoint(checkpoint: &Checkpoint) -> Read {
    Read::of(Some(Ok(KeysRecord::Checkpoint(checkpoint.clone()))))
}

/// Takes records at offsets 0, 1, 2, ...; how many were taken, and the break.
fn take(hub: &Hub, records: &[Read], gap: bool) -> (Intake, Option<ChainBreak>) {
    let mut intake = Intake::resume(cc("DE"), None, gap);
    for (offset, record) in records.iter().enumerate() {
        if let Err(e) = intake.take(offset as i64, record, &hub.versions, &Proofs::default()) {
            return (intake, Some(e));
        }
    }
    (intake, None)
}

fn flipped(bytes: &Bytes, i: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[i] ^= 1;
    bytes.into()
}

#[test]
fn a_flipped_bit_in_any_part_breaks() {
    let mut hub = Hub::new(NOON);
    let good = hub.batch("FR", "DE", 3, NOON);
    let breaks = |bad: SignedBatch| take(&hub, &[batch(&bad)], false).1.map(|b| b.reason);
    for i in 0..good.manifest.len() {
        assert!(
            breaks(SignedBatch { manifest: flipped(&good.manifest, i), ..good.clone() }).is_some(),
            "manifest byte {i}"
        );
    }
    for i in 0..64 {
        let mut signature = good.signature;
        signature[i] ^= 1;
        assert_eq!(
            breaks(SignedBatch { signature, ..good.clone() }),
            Some(Break::Signature.into()),
            "byte {i}"
        );
    }
    for i in 0..good.keys.len() {
        let reason = breaks(SignedBatch { keys: flipped(&good.keys, i), ..good.clone() });
        assert_eq!(reason, Some(Break::Part("key bytes").into()), "key byte {i}");
    }
    let reason = breaks(SignedBatch { new: flipped(&good.new, 0), ..good.clone() });
    assert_eq!(reason, Some(Break::Part("bitmap").into()));
    let cms = good.origin_signature.clone().unwrap();
    let reason = breaks(SignedBatch { origin_signature: Some(flipped(&cms, cms.len() - 1)), ..good.clone() });
    assert_eq!(reason, Some(Break::Part("origin's signature").into()));
    assert_eq!(breaks(good), None);
}

fn place(manifest: &mut Manifest, origin: &str, destination: &str, sequence: i64) {
    (manifest.origin, manifest.destination, manifest.sequence) = (cc(origin), cc(destination), sequence);
    manifest.batch_id = format!("{origin}-{destination}-{sequence}");
}

/// The hub's own signature is no excuse: what it signs has to be consistent.
#[test]
fn a_wrong_manifest_breaks_though_it_is_signed() {
    type Mutation = fn(&mut Manifest);
    let mut hub = Hub::new(NOON);
    let first = hub.batch("FR", "DE", 1, NOON);
    let good = hub.batch("FR", "DE", 3, NOON);
    let table: [(&str, Mutation, Reason); 17] = [
        ("network", |m| m.network = "other".into(), Break::Network("other".into()).into()),
        ("network_version", |m| m.network_version = 2, Break::NetworkVersion(2).into()),
        ("schema_version", |m| m.schema_version = 2, Break::Manifest.into()),
        ("batch_id", |m| m.batch_id.push('0'), Break::BatchId.into()),
        ("destination", |m| place(m, "FR", "NL", 2), Break::Destination(cc("NL")).into()),
        ("origin", |m| place(m, "NL", "DE", 2), Break::Part("origin of a key").into()),
        ("skipped", |m| place(m, "FR", "DE", 3), Break::Sequence { last: 1, found: 3 }.into()),
        ("repeated", |m| place(m, "FR", "DE", 1), Break::Sequence { last: 1, found: 1 }.into()),
        ("agreement", |m| m.agreement = 2, Break::Agreement(2).into()),
        ("data_class", |m| m.data_class = DataClass::Pseudonymous, Break::DataClass.into()),
        ("previous", |m| m.previous = [1; 32], Break::Predecessor(1).into()),
        ("keys", |m| m.keys = 2, Break::Part("number of keys").into()),
        ("canonical", |m| m.canonical = [1; 32], Break::Part("canonical form").into()),
        ("content", |m| m.content = [1; 32], Break::Part("key bytes").into()),
        ("level", |m| m.level = Level::Subset, Break::Part("level").into()),
        ("signing_certificate", |m| m.signing_certificate = [1; 32], Break::Origin.into()),
        ("signing_key", |m| m.signing_key = "hub-2".into(), Break::SigningKey("hub-2".into()).into()),
    ];
    for (field, mutate, reason) in table {
        let mut manifest = manifest_of(&good);
        mutate(&mut manifest);
        let bad = hub.signed(good.clone(), &manifest);
        let (intake, found) = take(&hub, &[batch(&first), batch(&bad)], false);
        let found = found.unwrap_or_else(|| panic!("{field} was taken"));
        assert_eq!((found.offset, found.reason), (1, reason), "{field}");
        assert_eq!(intake.pending().len(), 1, "{field}: what stood before is kept");
    }
}

#[test]
fn nobody_gets_its_own_keys_back() {
    let mut hub = Hub::new(NOON);
    let own = hub.batch("DE", "DE", 1, NOON);
    assert_eq!(take(&hub, &[batch(&own)], false).1.unwrap().reason, Reason::OwnKeys);
}

#[test]
fn missing_swapped_and_doubled_batches_break() {
    let mut hub = Hub::new(NOON);
    let b: Vec<_> = (0..3).map(|_| hub.batch("FR", "DE", 1, NOON)).collect();
    let order = |list: &[usize]| {
        let records: Vec<_> = list.iter().map(|i| batch(&b[*i])).collect();
        take(&hub, &records, false).1.map(|e| (e.offset, e.reason))
    };
    let sequence = |last, found| Reason::from(Break::Sequence { last, found });
    assert_eq!(order(&[0, 1, 2]), None);
    assert_eq!(order(&[0, 2]), Some((1, sequence(1, 3))));
    assert_eq!(order(&[1, 0]), Some((0, sequence(0, 2))));
    assert_eq!(order(&[0, 1, 1]), Some((2, sequence(2, 2))));
}

#[test]
fn checkpoints_are_held_against_the_chain() {
    let mut hub = Hub::new(NOON);
    let nothing = hub.checkpoint("FR", "DE", NOON);
    let first = hub.batch("FR", "DE", 1, NOON);
    let one = hub.checkpoint("FR", "DE", NOON);
    hub.batch("FR", "DE", 1, NOON);
    let two = hub.checkpoint("FR", "DE", NOON);
    let found = |records: &[Read]| take(&hub, records, false).1.map(|e| e.reason);
    assert_eq!(found(&[checkpoint(&nothing), batch(&first), checkpoint(&one)]), None);
    let missing = Break::Checkpoint { stated: 1, received: 0 };
    assert_eq!(found(&[checkpoint(&nothing), checkpoint(&one)]), Some(missing.clone().into()));
    // The topic is read from its very first record on: nothing can be missing before a checkpoint either.
    assert_eq!(found(&[checkpoint(&one)]), Some(missing.into()));
    let truncated = Break::Checkpoint { stated: 2, received: 1 };
    assert_eq!(found(&[batch(&first), checkpoint(&two)]), Some(truncated.into()));
    let forged = Checkpoint { sequence: 1, ..two.clone() };
    assert_eq!(found(&[batch(&first), checkpoint(&forged)]), Some(Break::Signature.into()));
    let stranger = Checkpoint { signing_key: "x".into(), ..one };
    assert_eq!(found(&[batch(&first), checkpoint(&stranger)]), Some(Break::SigningKey("x".into()).into()));
}

#[test]
fn what_is_no_record_breaks() {
    let hub = Hub::new(NOON);
    let garbage = Read::of(Some(codec().decode_keys(Bytes::from_static(b"\xc3\x01garbage"))));
    let (_, found) = take(&hub, &[garbage], false);
    assert!(found.unwrap().to_string().starts_with("offset 0: the record can not be decoded: "));
    assert_eq!(take(&hub, &[Read::of(None)], false).1.unwrap().reason, Reason::Tombstone);
}

/// Where the start of a topic is gone, a chain begins at the first thing that is there: a batch or a checkpoint.
#[test]
fn after_a_gap_a_chain_begins_in_its_middle() {
    let mut hub = Hub::new(NOON);
    let at_zero = hub.checkpoint("FR", "DE", NOON);
    hub.batch("FR", "DE", 1, NOON);
    let second = hub.batch("FR", "DE", 1, NOON);
    let at_two = hub.checkpoint("FR", "DE", NOON);
    let third = hub.batch("FR", "DE", 1, NOON);
    let at_three = hub.checkpoint("FR", "DE", NOON);
    let kept = |records: &[Read]| -> Result<Vec<i64>, (i64, Reason)> {
        match take(&hub, records, true) {
            (_, Some(found)) => Err((found.offset, found.reason)),
            (intake, None) => Ok(intake.pending().iter().map(|b| b.manifest().sequence).collect()),
        }
    };
    let records = [batch(&second), checkpoint(&at_two), batch(&third), checkpoint(&at_three)];
    assert_eq!(kept(&records), Ok(vec![2, 3]));
    assert_eq!(kept(&records[1..]), Ok(vec![3]));
    let broken = take(&hub, &records, false).1.unwrap();
    assert_eq!((broken.offset, broken.reason), (0, Break::Sequence { last: 0, found: 2 }.into()));
    // From there on it is a chain like any other, and every checkpoint has to confirm it.
    let twice = [batch(&third), batch(&third)];
    assert_eq!(kept(&twice), Err((1, Break::Sequence { last: 3, found: 3 }.into())));
    let lost = [batch(&second), checkpoint(&at_three)];
    assert_eq!(kept(&lost), Err((1, Break::Checkpoint { stated: 3, received: 2 }.into())));
    let doubted = [batch(&third), checkpoint(&at_two)];
    assert_eq!(kept(&doubted), Err((1, Break::Checkpoint { stated: 2, received: 3 }.into())));
    let empty = [checkpoint(&at_zero), batch(&second)];
    assert_eq!(kept(&empty), Err((1, Break::Sequence { last: 0, found: 2 }.into())));
}

/// Where a checkpoint says that nothing came yet, the chain has begun: it is not passed over up to the next one.
#[test]
fn after_a_gap_a_chain_that_was_empty_begins_at_once() {
    let mut hub = Hub::new(NOON);
    let nothing = hub.checkpoint("FR", "DE", NOON);
    let first = hub.batch("FR", "DE", 1, NOON);
    let second = hub.batch("FR", "DE", 1, NOON);
    let (intake, found) = take(&hub, &[checkpoint(&nothing), batch(&first), batch(&second)], true);
    assert_eq!((intake.pending().len(), found), (2, None));
    let (_, found) = take(&hub, &[checkpoint(&nothing), batch(&second)], true);
    assert_eq!(found.unwrap().reason, Break::Sequence { last: 0, found: 2 }.into());
}

/// The network document may be a moment behind what was signed under it.
#[test]
fn a_record_waits_for_the_version_it_names() {
    let mut hub = Hub::new(NOON);
    let good = hub.batch("FR", "DE", 1, NOON);
    let mut manifest = manifest_of(&good);
    manifest.network_version = 2;
    let ahead = batch(&hub.signed(good, &manifest));
    assert!(!ahead.is_decidable(&hub.versions));
    hub.publish(2);
    assert!(ahead.is_decidable(&hub.versions));
    assert_eq!(take(&hub, &[ahead], false).1, None);
    let mut stated = hub.checkpoint("FR", "DE", NOON);
    assert!(checkpoint(&stated).is_decidable(&hub.versions));
    stated.network_version = 3;
    assert!(!checkpoint(&stated).is_decidable(&hub.versions));
}

#[test]
fn a_break_stops_its_country_loudly_and_no_other() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let (de, nl) = (List::default(), List::default());
    let last = de.push(&hub.batch("FR", "DE", 2, NOON));
    let other = nl.push(&hub.batch("FR", "NL", 2, NOON));
    let (objects, versions) = (Arc::new(InMemory::new()), hub.versions.clone());
    let health = Health::new("distribute");
    let start = |country, list| {
        let objects = Arc::clone(&objects) as _;
        Instance::start_beside(health.clone(), tokio.handle(), cc(country), objects, list, &versions)
    };
    let up = |country| metric("keyferry_distribution_up", country);
    let (broken_one, other_one) = (start("DE", &de), start("NL", &nl));
    broken_one.wait_for(last);
    other_one.wait_for(other);
    std::thread::sleep(Duration::from_millis(300));
    assert!(health.ready().ok);
    assert_eq!((up("DE"), up("NL")), (Some(1.0), Some(1.0)));
    let lost = hub.batch("FR", "DE", 2, NOON);
    let broken = de.push(&hub.batch("FR", "DE", 2, NOON));
    de.push(&hub.batch("NL", "DE", 1, NOON));
    std::thread::sleep(Duration::from_millis(300));
    let entry = broken_one.shelf.head().unwrap().entry.clone();
    assert_eq!((entry.number, entry.last_offset), (1, last), "nothing after the break is served");
    assert_eq!((up("DE"), up("NL")), (Some(0.0), Some(1.0)));
    assert!(health.ready().ok && health.live().ok, "{}: every instance meets that record", health.ready());
    assert_eq!(metric("keyferry_chain_breaks_total", "FR"), Some(1.0));
    // Whoever starts anew comes to the same record, and no further, and still serves the others.
    broken_one.stop();
    let again = start("DE", &de);
    std::thread::sleep(Duration::from_millis(300));
    assert!(health.ready().ok, "{}", health.ready());
    assert_eq!((again.shelf.head().unwrap().entry.number, up("DE")), (1, Some(0.0)));
    again.stop();
    // Until what was missing is there.
    de.replace(broken, Some(codec().encode(&lost).into()));
    let again = start("DE", &de);
    again.wait_for(broken);
    assert_eq!(again.shelf.head().unwrap().entry.chains[&cc("FR")].manifest_sha256.0, sha256(&lost.manifest));
    std::thread::sleep(Duration::from_millis(100));
    again.stop();
    other_one.stop();
}

/// Nothing breaks and nothing comes: that is no fault that anybody reports, and has to be seen all the same.
#[test]
fn a_reader_that_hangs_is_seen() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let (list, objects) = (List::default(), Arc::new(InMemory::new()));
    let first = list.push(&hub.batch("DE", "FR", 1, NOON));
    let instance = Instance::start(tokio.handle(), cc("FR"), objects, &list, &hub.versions);
    let up = || metric("keyferry_distribution_up", "FR");
    let wait_until = |value| {
        let begun = Instant::now();
        while up() != Some(value) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is {:?} and not {value}", up());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    instance.wait_for(first);
    wait_until(1.0);
    list.hang(true);
    let second = list.push(&hub.batch("DE", "FR", 1, NOON));
    wait_until(0.0);
    assert!(instance.health.ready().ok);
    list.hang(false);
    instance.wait_for(second);
    wait_until(1.0);
    instance.stop();
}
