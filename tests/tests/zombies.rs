//! Instances that lost their origins and go on: what each guard between read and commit is for. Every case is played
//! twice, as it is and without its guard; the second shows that nothing else would have helped.
//!
//! Operations: uploads of one country or three; one processor that is held at a point of its loop while it is taken out
//! of the consumer group, or while partitions move to another; a second one that takes over.
//! Nondeterminism: none that counts: whoever waits, waits for what must come about.
//!
//! Fail points are global, so these tests run one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, time::Duration};

use fail::FailScenario;
use keyferry_runtime::{kafka::Isolation, transaction::Settings};
use keyferry_schemas::{records::LedgerEntry, world::World};
use keyferry_tests::{hold::Hold, hub::Hub, raw, wait::wait_until};
use rdkafka::consumer::Consumer;

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

/// How many source offsets were decided more than once.
fn doubled(ledger: &[LedgerEntry]) -> usize {
    ledger.len() - ledger.iter().map(|e| e.source_offset).collect::<BTreeSet<_>>().len()
}

/// Takes the only member out of the processors' group.
fn expel(hub: &Hub) {
    let kafka = hub.kafka("process");
    let reader = kafka.reader(Isolation::Committed).unwrap();
    let groups = reader.fetch_group_list(Some(&kafka.group()), Duration::from_secs(10)).unwrap();
    let members = groups.groups()[0].members();
    assert_eq!(members.len(), 1);
    raw::leave_group(hub.broker.bootstrap_servers(), &kafka.group(), members[0].id()).unwrap();
}

/// `p-0` has read uploads and is held at `point`; it is taken out of the group, `p-1` decides what both have read, and
/// `p-0` goes on, without the guard that is named. Returns how much is decided twice.
fn expelled(point: &str, heartbeat_ms: u64, without: Option<&str>) -> usize {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    let hold = Hold::new(&format!("{point}@p-0"));
    // One upload a transaction, so that something is always left to be decided.
    let settings = Settings { max_output_bytes: 1, ..Settings::new("p-0") };
    let heartbeat = heartbeat_ms.to_string();
    let options = [("session.timeout.ms", "30000"), ("heartbeat.interval.ms", heartbeat.as_str())];
    let _first = hub.processor_with(settings, &options).unwrap();
    hub.send_new("DE", 1).unwrap();
    hub.decided("DE", 1).unwrap();
    hold.arm();
    hub.send_new("DE", 30).unwrap();
    hold.await_reached();
    expel(&hub);
    // Long enough for some heartbeats, if there are any.
    std::thread::sleep(Duration::from_secs(2));
    let _second = hub.processor("p-1").unwrap();
    hub.decided("DE", 31).unwrap();
    if let Some(guard) = without {
        fail::cfg(guard, "return").unwrap();
    }
    hold.release();
    if without.is_some() {
        wait_until("a double", || doubled(&hub.ledger("DE").unwrap()) > 0);
    } else {
        std::thread::sleep(Duration::from_secs(3));
    }
    let twice = doubled(&hub.ledger("DE").unwrap());
    scenario.teardown();
    twice
}

#[test]
fn who_was_expelled_and_does_not_know_it_adds_nothing() {
    assert_eq!(expelled("before-begin", 25_000, None), 0);
    assert!(expelled("before-begin", 25_000, Some("guard-own-metadata")) > 0);
}

#[test]
fn who_was_expelled_and_joined_again_empty_handed_adds_nothing() {
    assert_eq!(expelled("before-poll", 300, None), 0);
    assert!(expelled("before-poll", 300, Some("guard-revoked")) > 0);
}

/// `p-0` is about to state a chain, loses its place in the group, and goes on when `p-1` has delivered more. Whether the
/// chain is whole to its readers.
fn late_checkpoint(without: Option<&str>) -> bool {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    let hold = Hold::new("before-begin@p-0");
    let checkpoint_interval = Some(Duration::from_millis(500));
    let settings = Settings { checkpoint_interval, ..Settings::new("p-0") };
    let options = [("session.timeout.ms", "30000"), ("heartbeat.interval.ms", "25000")];
    let _first = hub.processor_with(settings, &options).unwrap();
    hub.send_new("DE", 1).unwrap();
    hub.decided("DE", 1).unwrap();
    hold.arm();
    hold.await_reached();
    expel(&hub);
    let _second = hub.processor("p-1").unwrap();
    hub.send_new("DE", 1).unwrap();
    hub.decided("DE", 2).unwrap();
    if let Some(guard) = without {
        fail::cfg(guard, "return").unwrap();
        hold.release();
        wait_until("a checkpoint that denies the last batch", || hub.batches("FR").is_err());
    } else {
        hold.release();
        std::thread::sleep(Duration::from_secs(3));
    }
    let whole = hub.batches("FR").is_ok();
    scenario.teardown();
    whole
}

#[test]
fn a_checkpoint_of_who_was_expelled_is_not_written() {
    assert!(late_checkpoint(None));
    assert!(!late_checkpoint(Some("guard-own-metadata")));
}

/// `p-0` reads three origins and is held between two transactions while some of them move to `p-1`, which decides what
/// `p-0` has read of them. Returns how much is decided twice.
fn handed_over(without: Option<&str>) -> usize {
    const ORIGINS: [&str; 3] = ["DE", "FR", "NL"];
    let scenario = FailScenario::setup();
    let hub = hub(&ORIGINS);
    let (old, new) = (Hold::new("before-begin@p-0"), Hold::new("takeover-begins@p-1"));
    old.slow_down();
    let settings = Settings { max_output_bytes: 1, ..Settings::new("p-0") };
    let _first = hub.processor_with(settings, &[]).unwrap();
    ORIGINS.iter().for_each(|origin| hub.send_new(origin, 60).unwrap());
    wait_until("a start", || ORIGINS.iter().all(|o| !hub.ledger(o).unwrap().is_empty()));
    if let Some(guard) = without {
        fail::cfg(guard, "return").unwrap();
    }
    new.arm();
    let _second = hub.processor("p-1").unwrap();
    // The origins have moved once the other begins to take one over; only then the first stops where it is.
    new.await_reached();
    old.arm();
    old.await_reached();
    new.release();
    let decided = |writer: &str| {
        let all = ORIGINS.iter().flat_map(|o| hub.ledger(o).unwrap());
        all.filter(|e| e.writer == writer).count()
    };
    wait_until("decisions of the other", || decided("p-1") > 0);
    old.release();
    let ledgers = || ORIGINS.map(|o| hub.ledger(o).unwrap());
    let all_decided = |ledgers: &[Vec<LedgerEntry>; 3]| ledgers.iter().all(|l| l.len() >= 60);
    wait_until("the end", || all_decided(&ledgers()));
    if without.is_none() {
        // Whatever should not come would come now.
        std::thread::sleep(Duration::from_secs(2));
    } else {
        wait_until("a double", || ledgers().iter().any(|l| doubled(l) > 0));
    }
    let twice = ledgers().iter().map(|l| doubled(l)).sum();
    scenario.teardown();
    twice
}

#[test]
fn what_was_revoked_between_read_and_send_is_not_sent() {
    assert_eq!(handed_over(None), 0);
    assert!(handed_over(Some("guard-revoked")) > 0);
}
