//! What an instance leaves behind that died in the middle: markers that land late, transactions that stay open. What
//! each guard of the take-over is for: every case is played twice, as it is and without its guard; the second shows that
//! nothing else would have helped.
//!
//! Failures: the transaction of a dead instance, ended while its origin is taken over, or never.
//! Nondeterminism: how long a take-over takes; what comes too late for its patience is played again.
//!
//! Fail points are global, so these tests run one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, clippy::print_stdout)]

use std::time::{Duration, Instant};

use fail::FailScenario;
use keyferry_processors::{
    pipeline::{Source, step},
    state::OriginState,
};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
};
use keyferry_schemas::{
    records::{Head, LedgerEntry},
    topics,
    world::World,
};
use keyferry_tests::{
    hub::Hub,
    wait::{delivered, wait_until},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

/// How long the broker may take for one request.
const PATIENCE: Duration = Duration::from_secs(20);

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

/// What an instance named `p-dead` would have decided about the first uploads of DE, which it could not read, and the
/// head after each.
fn refusals(hub: &Hub, n: i64) -> Vec<(LedgerEntry, Head)> {
    let mut state = OriginState::new("DE".parse().unwrap(), 0);
    let network = hub.network().unwrap().current().unwrap();
    let tools = hub.tools("p-dead");
    let refuse = |offset| {
        let source = Source { offset, timestamp: SystemClock.now(), upload: Err("made up".into()) };
        let entry = step(&mut state, source, &network, &tools).unwrap().entry;
        state.commit();
        (entry, state.head())
    };
    (0..n).map(refuse).collect()
}

/// A transactional producer with an open transaction that times out only after a minute.
fn begun(hub: &Hub, id: &str) -> BaseProducer {
    let mut config = hub.kafka("process").producer_config();
    config.set("transactional.id", id).set("transaction.timeout.ms", "60000");
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    producer
}

/// Writes an entry and its head, and waits until the broker has them.
fn write(hub: &Hub, producer: &BaseProducer, (entry, head): &(LedgerEntry, Head)) {
    let (ledger, entry) = (topics::ledger(entry.origin), hub.codec.encode(entry));
    let record = BaseRecord::<(), _>::to(&ledger).partition(0).payload(&entry);
    producer.send(record).map_err(|(e, _)| e).unwrap();
    let (origin, head) = (head.origin, hub.codec.encode(head));
    let record = BaseRecord::to(topics::HEADS).partition(0).key(origin.as_str()).payload(&head);
    producer.send(record).map_err(|(e, _)| e).unwrap();
    delivered(producer, PATIENCE).unwrap();
}

fn offsets(next: i64) -> TopicPartitionList {
    let mut offsets = TopicPartitionList::new();
    let topic = topics::uploads("DE".parse().unwrap());
    offsets.add_partition_offset(&topic, 0, Offset::Offset(next)).unwrap();
    offsets
}

/// How often this process has stopped DE because its ledger did not continue.
fn stops() -> f64 {
    let families = prometheus::gather();
    let breaks = families.iter().find(|f| f.name() == "keyferry_chain_breaks_total");
    let of_de = |m: &&prometheus::proto::Metric| m.get_label().iter().any(|l| l.value() == "DE");
    breaks.and_then(|f| f.get_metric().iter().find(of_de)).map_or(0.0, |m| m.get_counter().get_value())
}

/// Who decided the uploads of DE, if it went on; it may have been stopped instead.
type Writers = Result<Vec<String>, Stopped>;

#[derive(Debug)]
struct Stopped;

/// Markers of a transaction land on each partition by themselves. That of `late` lands while the origin is taken over;
/// or never, if the take-over goes without a guard.
fn taken_over(late: impl Fn(&Hub) -> BaseProducer, without: Option<&str>) -> Writers {
    // On a machine that stands still for a second the take-over has fenced it before.
    (0..5).find_map(|_| try_taken_over(&late, without)).expect("a marker that lands in time")
}

/// Nothing if the marker did not land.
fn try_taken_over(late: impl Fn(&Hub) -> BaseProducer, without: Option<&str>) -> Option<Writers> {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    hub.send_new("DE", 3).unwrap();
    let late = late(&hub);
    if let Some(guard) = without {
        fail::cfg(guard, "return").unwrap();
    }
    let before = stops();
    let _processor = hub.processor("p-1").unwrap();
    if without.is_none() {
        // Within the second that a take-over has patience.
        std::thread::sleep(Duration::from_millis(600));
        late.commit_transaction(PATIENCE).ok()?;
    }
    let mut ledger = Vec::new();
    wait_until("an end", || {
        ledger = hub.ledger("DE").unwrap();
        ledger.len() >= 3 || stops() > before
    });
    scenario.teardown();
    Some(if stops() > before { Err(Stopped) } else { Ok(ledger.into_iter().map(|e| e.writer).collect()) })
}

#[test]
fn an_entry_that_is_visible_later_than_its_offset_is_waited_for() {
    let late = |hub: &Hub| {
        let producer = begun(hub, "p-dead");
        write(hub, &producer, &refusals(hub, 1)[0]);
        let consumer = hub.kafka("process").reader(Isolation::Committed).unwrap();
        consumer.commit(&offsets(1), CommitMode::Sync).unwrap();
        producer
    };
    assert_eq!(taken_over(late, None).unwrap(), ["p-dead", "p-1", "p-1"]);
    assert!(taken_over(late, Some("guard-mark")).is_err());
}

#[test]
fn an_offset_that_is_visible_later_than_its_entry_is_waited_for() {
    let late = |hub: &Hub| {
        let decided = refusals(hub, 2);
        let producer = begun(hub, "p-dead");
        decided.iter().for_each(|one| write(hub, &producer, one));
        producer.commit_transaction(PATIENCE).unwrap();
        let consumer = hub.kafka("process").reader(Isolation::Committed).unwrap();
        consumer.commit(&offsets(1), CommitMode::Sync).unwrap();
        let late = begun(hub, "p-late");
        let group = consumer.group_metadata().unwrap();
        late.send_offsets_to_transaction(&offsets(2), &group, PATIENCE).unwrap();
        late
    };
    assert_eq!(taken_over(late, None).unwrap(), ["p-dead", "p-dead", "p-1"]);
    assert!(taken_over(late, Some("guard-stable-offset")).is_err());
}

/// How long the first upload of DE waits behind the open transaction of an instance that died, if at all.
fn behind_the_dead(without: Option<&str>) -> Option<Duration> {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    hub.send_new("DE", 1).unwrap();
    let dead = begun(&hub, "p-dead");
    write(&hub, &dead, &refusals(&hub, 1)[0]);
    // It never ends its transaction.
    std::mem::forget(dead);
    if let Some(guard) = without {
        fail::cfg(guard, "return").unwrap();
    }
    let _processor = hub.processor("p-1").unwrap();
    let begun = Instant::now();
    let mut decided = None;
    while decided.is_none() && begun.elapsed() < Duration::from_secs(12) {
        std::thread::sleep(Duration::from_millis(100));
        decided = (hub.ledger("DE").unwrap().len() == 1).then(|| begun.elapsed());
    }
    scenario.teardown();
    decided
}

#[test]
fn a_dead_instance_does_not_hide_the_ledger_for_long() {
    let waited = behind_the_dead(None).unwrap();
    println!("an upload waited {waited:?} behind the open transaction of a dead instance");
    assert_eq!(behind_the_dead(Some("guard-fence")), None, "it would be hidden for a minute");
}
