//! The store is the progress. Whatever happens to the instances that write it, its log holds every batch once and in
//! order, and what was logged once never changes.
//!
//! Failures: an instance is killed before or after any request to the store; two and three instances write at a time,
//! with random delays, with different bounds and waits, so that they join batches differently. Not a failure: a data object
//! that nobody names, which erasure finds. Not simulated: a store that forgets what it acknowledged.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{
    Hub, NOON, cc,
    flaky::Flaky,
    instance::{Instance, List, Terms, tokio},
};
use futures::TryStreamExt;
use keyferry_runtime::shutdown::Shutdown;
use keyferry_schemas::time::Millis;
use keyferry_sinks::{shelf::Shelf, store::Store, verify::verify_store};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

const NEVER: i64 = i64::MAX;

/// Eight batches of two origins and two checkpoints, the first before anything came from there; the offset of the last batch.
fn fill(hub: &mut Hub, list: &List) -> i64 {
    let mut last = 0;
    for i in 0..8 {
        let origin = if i % 3 == 0 { "NL" } else { "FR" };
        last = list.push(&hub.batch(origin, "DE", 1 + i % 3, NOON.plus(i as i64)));
        if i == 0 || i == 4 {
            list.push(&hub.checkpoint("FR", "DE", NOON.plus(i as i64)));
        }
    }
    last
}

/// Every log object by name, byte for byte.
async fn logged(objects: &InMemory) -> BTreeMap<Path, Vec<u8>> {
    let metas: Vec<_> = objects.list(Some(&Path::from("log"))).try_collect().await.unwrap();
    let mut all = BTreeMap::new();
    for meta in metas {
        all.insert(
            meta.location.clone(),
            objects.get(&meta.location).await.unwrap().bytes().await.unwrap().to_vec(),
        );
    }
    all
}

/// The whole log verifies, holds every batch once and in order, and still holds all of `before` unchanged.
async fn assert_sound(objects: &Arc<InMemory>, hub: &Hub, before: &BTreeMap<Path, Vec<u8>>, what: &str) {
    let shelf = Shelf::unread(Store::over(Arc::clone(objects) as _), cc("DE"));
    let report = verify_store(&shelf, &hub.versions, Millis(0)).await.unwrap();
    assert_eq!(report.fault, None, "{what}");
    let sequences = |origin| {
        report.batches.iter().filter(|b| b.origin == cc(origin)).map(|b| b.sequence).collect::<Vec<_>>()
    };
    assert_eq!(sequences("NL"), [1, 2, 3], "{what}");
    assert_eq!(sequences("FR"), [1, 2, 3, 4, 5], "{what}");
    assert!(report.batches.iter().all(|b| b.keys_present), "{what}");
    let after = logged(objects).await;
    assert!(
        before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)),
        "{what}: a log object changed"
    );
}

#[test]
fn an_instance_killed_at_any_request_loses_and_repeats_nothing() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let list = List::default();
    let last = fill(&mut hub, &list);
    for (after, wait_ms) in [(false, 0), (true, 0), (false, 4), (true, 4)] {
        let mut died = 0;
        for fuse in 1.. {
            let objects = Arc::new(InMemory::new());
            let stop = Shutdown::new();
            let flaky = Flaky::new(Arc::clone(&objects) as _, fuse, after, 0, stop.clone());
            let started = Instance::try_start(
                tokio.handle(),
                cc("DE"),
                Arc::clone(&flaky) as _,
                &list,
                &hub.versions,
                Terms::of(4, wait_ms),
                stop,
            );
            if let Some(instance) = started {
                instance.wait_for(last);
                instance.stop();
            }
            let before = tokio.block_on(logged(&objects));
            let successor =
                Instance::start(tokio.handle(), cc("DE"), Arc::clone(&objects) as _, &list, &hub.versions);
            successor.wait_for(last);
            successor.stop();
            tokio.block_on(assert_sound(
                &objects,
                &hub,
                &before,
                &format!("fuse {fuse}, after {after}, wait {wait_ms}"),
            ));
            if !flaky.is_dead() {
                break;
            }
            died = fuse;
        }
        // Opening, and two requests for each of at least four download batches.
        assert!(died >= 10, "the worker made {died} requests only");
    }
}

#[test]
fn instances_that_race_agree_on_one_log() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let list = List::default();
    let last = fill(&mut hub, &list);
    for seed in 1..=40 {
        let objects = Arc::new(InMemory::new());
        // In every third round one of them is killed on the way.
        let fuses = if seed % 3 == 0 { [seed as i64 / 2, NEVER, NEVER] } else { [NEVER; 3] };
        let instances: Vec<_> = (0..if seed % 2 == 0 { 2 } else { 3 })
            .filter_map(|i| {
                let stop = Shutdown::new();
                let random = seed * 1_000_003 + i;
                let flaky =
                    Flaky::new(Arc::clone(&objects) as _, fuses[i as usize], i == 1, random, stop.clone());
                // One waits for nothing, another for longer than it takes to log all.
                let terms = Terms::of(2 + 3 * i as usize, [0, 40, 3][((seed + i) % 3) as usize]);
                Instance::try_start(tokio.handle(), cc("DE"), flaky, &list, &hub.versions, terms, stop)
            })
            .collect();
        instances.iter().for_each(|i| i.wait_for(last));
        instances.into_iter().for_each(Instance::stop);
        tokio.block_on(assert_sound(&objects, &hub, &BTreeMap::new(), &format!("seed {seed}")));
    }
}

#[test]
fn a_restart_reads_the_head_only_and_goes_on() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let list = List::default();
    fill(&mut hub, &list);
    let objects = Arc::new(InMemory::new());
    let first = Instance::start(tokio.handle(), cc("DE"), Arc::clone(&objects) as _, &list, &hub.versions);
    let last = list.push(&hub.batch("NL", "DE", 1, NOON.plus(8)));
    first.wait_for(last);
    first.stop();
    // All that it read is gone from the topic, with the marker behind it, which nobody reads.
    list.expire(last + 2);
    let more = list.push(&hub.batch("NL", "DE", 1, NOON.plus(8)));
    let second = Instance::start(tokio.handle(), cc("DE"), objects, &list, &hub.versions);
    second.wait_for(more);
    let head = second.shelf.head().unwrap();
    assert_eq!((head.entry.chains[&cc("NL")].sequence, head.entry.chains[&cc("FR")].sequence), (5, 5));
    assert!(head.entry.complete, "nothing was missed");
    second.stop();
}

/// The version that a record names may take a minute to come, or never.
#[test]
fn what_was_verified_does_not_wait_for_a_network_version() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let list = List::default();
    let first = list.push(&hub.batch("FR", "DE", 1, NOON));
    let second = hub.batch("FR", "DE", 1, NOON);
    let mut manifest = common::manifest_of(&second);
    manifest.network_version = 2;
    list.push(&hub.signed(second, &manifest));
    let objects = Arc::new(InMemory::new());
    let instance = Instance::start(tokio.handle(), cc("DE"), objects, &list, &hub.versions);
    instance.wait_for(first);
    instance.stop();
}

#[test]
fn a_store_that_begins_late_serves_what_is_still_there() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let list = List::default();
    fill(&mut hub, &list);
    // The first four batches are gone, and a checkpoint: NL 1, FR 1, FR 2, NL 2.
    list.expire(10);
    let objects = Arc::new(InMemory::new());
    let last = list.push(&hub.batch("NL", "DE", 1, NOON.plus(8)));
    let late = Instance::start(tokio.handle(), cc("DE"), Arc::clone(&objects) as _, &list, &hub.versions);
    late.wait_for(last);
    late.stop();
    let shelf = tokio.block_on(Shelf::open(Store::over(Arc::clone(&objects) as _), cc("DE"))).unwrap();
    let verify = || tokio.block_on(verify_store(&shelf, &hub.versions, Millis(0))).unwrap();
    let report = verify();
    let first = |origin| report.batches.iter().find(|b| b.origin == cc(origin)).map(|b| b.sequence);
    assert_eq!((report.fault.clone(), first("FR"), first("NL")), (None, Some(3), Some(3)));
    assert_eq!((report.starts[&cc("FR")], report.starts[&cc("NL")]), (2, 2));
    let head = shelf.head().unwrap();
    assert!(!head.entry.complete && head.entry.number > 1);
    // What began late can not say later that it did not.
    let (name, bytes) = tokio.block_on(logged(&objects)).pop_last().unwrap();
    let lie = String::from_utf8(bytes).unwrap().replace("\"complete\": false", "\"complete\": true");
    tokio.block_on(objects.put(&name, lie.into())).unwrap();
    assert_eq!(verify().fault.map(|f| f.number), Some(head.entry.number));
}
