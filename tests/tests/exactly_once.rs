//! What the transaction loop promises, on a real broker, each promise beside what happens without its guard.
//!
//! Operations: uploads of small batches by several countries; processors that start, stop, stall and wake.
//! Failures: an instance that is fenced in the middle of a step; one that stalls until the group goes on without it, at
//! each point where that matters; one that dies with an open transaction; markers that land late.
//! Not here: a broker that dies (one replica proves nothing about that), processes that are killed (see `killed.rs`).
//!
//! Fail points are global, so these tests run one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use fail::FailScenario;
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
    transaction::Settings,
};
use keyferry_schemas::{
    records::{LedgerEntry, Outcome},
    time::Millis,
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    hub::Hub,
    wait::{committed_offset, wait_until},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

fn send(hub: &Hub, origin: &str, from: usize, n: usize) {
    let seed = origin.bytes().fold(from as u64 + 1, |seed, b| seed * 256 + u64::from(b));
    let mut rng = Rng::new(seed);
    for i in from..from + n {
        let keys =
            [key(&mut rng, origin, &[], SystemClock.now()), key(&mut rng, origin, &[], SystemClock.now())];
        hub.send(&hub.world.upload(origin, &format!("tag-{i}"), &keys).unwrap()).unwrap();
    }
}

/// Source offsets that were decided more than once.
fn doubled(ledger: &[LedgerEntry]) -> usize {
    let offsets: BTreeSet<_> = ledger.iter().map(|e| e.source_offset).collect();
    ledger.len() - offsets.len()
}

fn assert_once(hub: &Hub, origin: &str, n: usize, destination: &str) {
    let ledger = hub.decided(origin, n).unwrap();
    assert_eq!(doubled(&ledger), 0);
    assert!(ledger.iter().all(|e| e.outcome == Outcome::Accepted));
    let sequences: Vec<_> = ledger.iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, (1..=n as i64).collect::<Vec<_>>());
    // Chains without a gap and without a double: `delivered` verifies them.
    let delivered = hub.delivered(destination).unwrap();
    assert_eq!(delivered.iter().collect::<BTreeSet<_>>().len(), delivered.len());
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
    assert_eq!(committed_offset(&hub, "DE").unwrap(), None);
    // The state is as before as well: the same instance decides the same uploads as its first.
    fail::remove("before-commit@p-0");
    assert_once(&hub, "DE", 3, "FR");
    assert_eq!(committed_offset(&hub, "DE").unwrap(), Some(3));
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
        assert_once(&hub, origin, 80, if origin == "DE" { "FR" } else { "DE" });
    }
    second.stop().unwrap();
    scenario.teardown();
}

/// Lets `p-0` stop at `point`, all of its threads at once, until the group went on and `p-1` has decided what both have
/// read; then wakes it and gives it time to do whatever it does. Both run without the guards named.
fn stop_and_wake(point: &str, without: &[&str]) -> Vec<LedgerEntry> {
    let program = env!("CARGO_BIN_EXE_lone-processor");
    let without: Vec<_> = without.iter().map(|guard| format!("without={guard}")).collect();
    let without: Vec<_> = without.iter().map(String::as_str).collect();
    let hub = hub(&["DE", "FR"]);
    let stop_at = format!("stop-at={point}");
    let first =
        hub.lone_processor(program, "p-0", &[&[stop_at.as_str()], without.as_slice()].concat()).unwrap();
    send(&hub, "DE", 0, 1);
    hub.decided("DE", 1).unwrap();
    first.arm().unwrap();
    send(&hub, "DE", 1, 1);
    wait_until("the stop", || first.has_stopped());
    let _second = hub.lone_processor(program, "p-1", &without).unwrap();
    // An open transaction may hide what `p-1` has committed, so everything counts that is there.
    let ledger = topics::ledger("DE".parse().unwrap());
    let decided_by_second = || {
        let records = hub.records(&ledger, Isolation::Uncommitted).unwrap();
        let entries = records.into_iter().map(|r| hub.codec.decode::<LedgerEntry>(r.value.unwrap()).unwrap());
        entries.filter(|e| e.writer == "p-1").count() > 0
    };
    wait_until("the other's decision", decided_by_second);
    std::thread::sleep(Duration::from_millis(500));
    first.signal("CONT").unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let ledger = hub.ledger("DE").unwrap();
    if doubled(&ledger) == 0 {
        assert_once(&hub, "DE", 2, "FR");
    }
    ledger
}

#[test]
fn an_instance_that_woke_and_joined_again_empty_handed_adds_nothing() {
    let scenario = FailScenario::setup();
    assert_eq!(doubled(&stop_and_wake("before-begin", &[])), 0);
    let without = ["guard-forget-revoked", "guard-still-owned", "guard-assignment-lost"];
    assert_eq!(doubled(&stop_and_wake("before-begin", &without)), 1, "without the guards it would");
    scenario.teardown();
}

#[test]
fn metadata_of_a_fresh_handle_would_be_accepted() {
    let scenario = FailScenario::setup();
    // The own metadata is refused by the broker, even if nothing else is noticed.
    assert_eq!(doubled(&stop_and_wake("before-begin", &["guard-assignment-lost"])), 0);
    let without = ["guard-assignment-lost", "guard-own-metadata"];
    assert_eq!(doubled(&stop_and_wake("before-begin", &without)), 1, "without the guard it would not be");
    scenario.teardown();
}

#[test]
fn offsets_that_were_sent_before_the_stop_are_waited_for() {
    let scenario = FailScenario::setup();
    assert_eq!(doubled(&stop_and_wake("before-commit", &[])), 0);
    // Both see the open transaction, one by its offsets, one by its entry.
    let without = ["guard-stable-offset", "guard-mark"];
    assert_eq!(doubled(&stop_and_wake("before-commit", &without)), 1, "without the guards it would");
    scenario.teardown();
}

#[test]
fn what_was_revoked_between_read_and_send_is_not_sent() {
    const ORIGINS: [&str; 3] = ["DE", "FR", "NL"];
    let handover = || {
        let hub = hub(&ORIGINS);
        // One upload a transaction, slowly, so that there is always something read and not yet decided. The new owner
        // begins when the old one is between two transactions, and that one goes on when the new one has decided.
        let (hold, held, released) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        let gate = Arc::new((hold, held, released));
        let old = Arc::clone(&gate);
        let between_transactions = move || {
            if !old.2.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(200));
            }
            while old.0.load(SeqCst) && !old.2.load(SeqCst) {
                old.1.store(true, SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let new = Arc::clone(&gate);
        let at_takeover = move || {
            new.0.store(true, SeqCst);
            while !new.1.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        fail::cfg_callback("before-begin@p-0", between_transactions).unwrap();
        fail::cfg_callback("takeover-begins@p-1", at_takeover).unwrap();
        let settings = Settings { max_output_bytes: 1, ..Settings::new("p-0") };
        let first = hub.processor_with(settings, &[]).unwrap();
        ORIGINS.iter().for_each(|origin| send(&hub, origin, 0, 100));
        wait_until("a start", || ORIGINS.iter().all(|o| !hub.ledger(o).unwrap().is_empty()));
        let second = hub.processor("p-1").unwrap();
        let all = || ORIGINS.iter().flat_map(|o| hub.ledger(o).unwrap()).collect::<Vec<_>>();
        wait_until("a handover", || all().iter().any(|e| e.writer == "p-1"));
        gate.2.store(true, SeqCst);
        std::thread::sleep(Duration::from_secs(3));
        (hub, first, second)
    };
    let scenario = FailScenario::setup();
    let (whole, first, _second) = handover();
    for (origin, destination) in [("DE", "FR"), ("FR", "NL"), ("NL", "DE")] {
        assert_once(&whole, origin, 100, destination);
    }
    drop(first);
    scenario.teardown();

    let scenario = FailScenario::setup();
    fail::cfg("guard-forget-revoked", "return").unwrap();
    fail::cfg("guard-still-owned", "return").unwrap();
    let (broken, _first, _second) = handover();
    let twice: usize = ORIGINS.iter().map(|o| doubled(&broken.ledger(o).unwrap())).sum();
    assert!(twice > 0, "without the guards there would be doubles");
    scenario.teardown();
}

/// A producer as an instance that died has left it: an entry in an open transaction.
fn dead_instance(hub: &Hub, entry: &LedgerEntry) -> BaseProducer {
    let producer: BaseProducer = hub
        .kafka("process")
        .producer_config()
        .set("transactional.id", &entry.writer)
        .set("transaction.timeout.ms", "60000")
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(10)).unwrap();
    producer.begin_transaction().unwrap();
    let topic = topics::ledger(entry.origin);
    let value = hub.codec.encode(entry);
    producer.send(BaseRecord::<(), _>::to(&topic).partition(0).payload(&value)).map_err(|(e, _)| e).unwrap();
    let head = hub.codec.encode(&keyferry_schemas::records::Head {
        origin: entry.origin,
        sequence: entry.sequence,
        entry: keyferry_schemas::batch::sha256(&keyferry_schemas::avro::Record::to_avro(entry)),
        source_offset: entry.source_offset,
        now: entry.now,
        checkpoint_at: Millis(0),
        network_version: entry.network_version,
        chains: Vec::new(),
    });
    let record = BaseRecord::to(topics::HEADS).partition(0).key(entry.origin.as_str()).payload(&head);
    producer.send(record).map_err(|(e, _)| e).unwrap();
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    producer
}

/// What an instance named `p-dead` would have decided about the first upload of DE: nothing but a refusal.
fn refusal(hub: &Hub) -> LedgerEntry {
    let mut state = keyferry_processors::state::OriginState::new("DE".parse().unwrap(), 0);
    let source = keyferry_processors::pipeline::Source {
        offset: 0,
        timestamp: SystemClock.now(),
        upload: Err("made up".into()),
    };
    let network = hub.network().unwrap().current().unwrap();
    keyferry_processors::pipeline::step(&mut state, source, &network, &hub.tools("p-dead")).unwrap().entry
}

#[test]
fn an_entry_that_is_visible_later_than_its_offset_is_waited_for() {
    let scenario = FailScenario::setup();
    let late_marker = || {
        let hub = hub(&["DE", "FR"]);
        send(&hub, "DE", 0, 2);
        let producer = dead_instance(&hub, &refusal(&hub));
        let consumer = hub.kafka("process").reader(Isolation::Committed).unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&topics::uploads("DE".parse().unwrap()), 0, Offset::Offset(1)).unwrap();
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
        // The marker of the ledger lands while the take-over is between its first two steps.
        fail::cfg("takeover-committed@p-1", "sleep(300)").unwrap();
        let processor = hub.processor("p-1").unwrap();
        std::thread::sleep(Duration::from_millis(900));
        (hub, producer, processor)
    };
    let (whole, producer, _processor) = late_marker();
    producer.commit_transaction(Duration::from_secs(10)).unwrap();
    let ledger = whole.decided("DE", 2).unwrap();
    assert_eq!(ledger.iter().map(|e| e.writer.as_str()).collect::<Vec<_>>(), ["p-dead", "p-1"]);
    drop(_processor);

    fail::cfg("guard-mark", "return").unwrap();
    let (broken, producer, _processor) = late_marker();
    std::thread::sleep(Duration::from_secs(3));
    producer.commit_transaction(Duration::from_secs(10)).ok();
    std::thread::sleep(Duration::from_secs(3));
    assert!(broken.ledger("DE").unwrap().len() < 2, "without the guard the origin would stop");
    scenario.teardown();
}

#[test]
fn a_dead_instance_does_not_hide_the_ledger_for_long() {
    let scenario = FailScenario::setup();
    let take_over = |patience: u64| {
        let hub = hub(&["DE", "FR"]);
        send(&hub, "DE", 0, 1);
        let mut dead = refusal(&hub);
        dead.source_offset = 0;
        std::mem::forget(dead_instance(&hub, &dead));
        let processor = hub.processor("p-1").unwrap();
        let started = Instant::now();
        let decided = loop {
            if hub.ledger("DE").unwrap().len() == 1 {
                break Some(started.elapsed());
            }
            if started.elapsed() > Duration::from_secs(patience) {
                break None;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        (hub, processor, decided)
    };
    let (hub, processor, decided) = take_over(20);
    assert!(decided.unwrap() < Duration::from_secs(15), "{decided:?}");
    assert_once(&hub, "DE", 1, "FR");
    drop(processor);

    fail::cfg("guard-fence", "return").unwrap();
    let (_hub, _processor, decided) = take_over(20);
    assert_eq!(decided, None, "without the guard it would be hidden for a minute");
    scenario.teardown();
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
