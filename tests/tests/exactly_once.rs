//! What the transaction loop promises, on a real broker.
//!
//! Operations: uploads of small batches by several countries; processors that start, stop, stall and wake.
//! Failures: an instance that is fenced in the middle of a step; one that stalls until the group goes on without it, at
//! each point where that matters.
//! Not here: what each guard is for (`zombies.rs`); processes that are killed (`killed.rs`); a broker that dies (one
//! replica proves nothing about that).
//!
//! Fail points are global, so these tests run one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, time::Duration};

use fail::FailScenario;
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
};
use keyferry_schemas::{
    country::Country,
    records::{LedgerEntry, Outcome},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{hub::Hub, wait::wait_until};
use rdkafka::producer::{BaseProducer, Producer};

/// In each upload.
const KEYS: usize = 2;

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

fn send(hub: &Hub, origin: &str, from: usize, n: usize) {
    let seed = origin.bytes().fold(from as u64 + 1, |seed, b| seed * 256 + u64::from(b));
    let mut rng = Rng::new(seed);
    for i in from..from + n {
        let keys: Vec<_> = (0..KEYS).map(|_| key(&mut rng, origin, &[], SystemClock.now())).collect();
        hub.send(&hub.world.upload(origin, &format!("tag-{i}"), &keys).unwrap()).unwrap();
    }
}

/// Source offsets that were decided more than once.
fn doubled(ledger: &[LedgerEntry]) -> usize {
    let offsets: BTreeSet<_> = ledger.iter().map(|e| e.source_offset).collect();
    ledger.len() - offsets.len()
}

/// Every upload of `origin` is decided once, and every other country has every key of it once, on a chain without a gap.
fn assert_once(hub: &Hub, origin: &str, n: usize) {
    let ledger = hub.decided(origin, n).unwrap();
    assert_eq!(doubled(&ledger), 0);
    assert!(ledger.iter().all(|e| e.outcome == Outcome::Accepted));
    let sequences: Vec<_> = ledger.iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, (1..=n as i64).collect::<Vec<_>>());
    let origin: Country = origin.parse().unwrap();
    for destination in hub.world.nations.keys().filter(|c| **c != origin) {
        let batches = hub.batches(destination.as_str()).unwrap();
        let own = batches.iter().filter(|(_, verified)| verified.manifest().origin == origin);
        let keys: Vec<_> = own.flat_map(|(_, v)| v.keys().into_iter().map(|k| k.key_data)).collect();
        assert_eq!(keys.len(), n * KEYS, "{origin} to {destination}");
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{origin} to {destination}");
    }
}

#[test]
fn an_aborted_step_leaves_nothing() {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    fail::cfg("before-commit@p-0", "pause").unwrap();
    let _processor = hub.processor("p-0").unwrap();
    send(&hub, "DE", 0, 3);
    let keys = topics::keys("FR".parse().unwrap());
    wait_until("an open transaction", || !hub.records(&keys, Isolation::Uncommitted).unwrap().is_empty());
    // Whoever takes the same transactional id aborts what is open.
    let usurper: BaseProducer =
        hub.kafka("process").producer_config().set("transactional.id", "p-0").create().unwrap();
    usurper.init_transactions(Duration::from_secs(10)).unwrap();
    assert!(hub.records(&keys, Isolation::Committed).unwrap().is_empty());
    assert!(hub.ledger("DE").unwrap().is_empty());
    assert!(hub.records(topics::HEADS, Isolation::Committed).unwrap().is_empty());
    assert_eq!(hub.committed("DE").unwrap(), None);
    // The state is as before as well: the same instance decides the same uploads as its first.
    fail::remove("before-commit@p-0");
    assert_once(&hub, "DE", 3);
    assert_eq!(hub.committed("DE").unwrap(), Some(3));
    scenario.teardown();
}

#[test]
fn two_processors_share_the_origins_and_hand_over() {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "ES", "FR", "NL"]);
    let origins = ["DE", "ES", "FR", "NL"];
    let feed = |from| origins.iter().for_each(|origin| send(&hub, origin, from, 10));
    let first = hub.processor("p-0").unwrap();
    feed(0);
    let second = hub.processor("p-1").unwrap();
    for round in 1..6 {
        feed(round * 10);
        std::thread::sleep(Duration::from_millis(500));
    }
    wait_until("work of both", || {
        let ledgers = origins.iter().flat_map(|o| hub.ledger(o).unwrap());
        ledgers.map(|e| e.writer).collect::<BTreeSet<_>>().len() == 2
    });
    feed(60);
    first.stop().unwrap();
    feed(70);
    for origin in origins {
        assert_once(&hub, origin, 80);
    }
    second.stop().unwrap();
    scenario.teardown();
}

/// Lets `p-0` stop at `point`, all of its threads at once, until the group went on and `p-1` has decided what both have
/// read; then wakes it and gives it time to do whatever it does.
fn stop_and_wake(point: &str) {
    let program = env!("CARGO_BIN_EXE_lone-processor");
    let hub = hub(&["DE", "FR"]);
    let first = hub.lone_processor(program, "p-0", &[&format!("stop-at={point}")]).unwrap();
    send(&hub, "DE", 0, 1);
    hub.decided("DE", 1).unwrap();
    first.arm().unwrap();
    send(&hub, "DE", 1, 1);
    wait_until("the stop", || first.has_stopped());
    let _second = hub.lone_processor(program, "p-1", &[]).unwrap();
    // An open transaction may hide what `p-1` has committed, so everything counts that is there.
    let ledger = topics::ledger("DE".parse().unwrap());
    let decided_by_second = || {
        let records = hub.records(&ledger, Isolation::Uncommitted).unwrap();
        let entries = records.into_iter().map(|r| hub.codec.decode::<LedgerEntry>(r.value.unwrap()).unwrap());
        entries.filter(|e| e.writer == "p-1").count() > 0
    };
    wait_until("the other's decision", decided_by_second);
    first.signal("CONT").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_once(&hub, "DE", 2);
}

#[test]
fn whole_processes_that_stood_still_add_nothing_when_they_wake() {
    // Before anything is written; between the writes and the offsets; between the offsets and the commit.
    for point in ["before-begin", "before-offsets", "before-commit"] {
        stop_and_wake(point);
    }
}

#[test]
fn an_origin_silent_for_longer_than_its_ledger_lives_goes_on_unbroken() {
    let scenario = FailScenario::setup();
    let short_ledger = |mut topic: topics::Topic| {
        if topic.name.starts_with("keyferry.ledger") {
            topic.settings.retain(|(key, _)| !matches!(*key, "retention.ms" | "segment.ms"));
            topic.settings.extend([("retention.ms", "1500".to_owned()), ("segment.ms", "1000".to_owned())]);
        }
        topic
    };
    let world = World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap();
    let hub = Hub::start_with(world, short_ledger).unwrap();
    let processor = hub.processor("p-0").unwrap();
    send(&hub, "DE", 0, 5);
    wait_until("deliveries", || hub.batches("FR").unwrap().len() == 5);
    processor.stop().unwrap();
    wait_until("an empty ledger", || hub.ledger("DE").unwrap().is_empty());
    let _processor = hub.processor("p-1").unwrap();
    send(&hub, "DE", 5, 2);
    wait_until("deliveries", || hub.batches("FR").unwrap().len() == 7);
    let last = hub.batches("FR").unwrap().pop().unwrap().1;
    assert_eq!(last.manifest().sequence, 7);
    scenario.teardown();
}
