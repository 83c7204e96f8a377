//! Instances that lost their origins and go on: what each guard of the transaction loop is for. Every case is played
//! twice, as it is and without its guard; the second shows that nothing else would have helped.
//!
//! Operations: uploads of one country or three; one processor that is held at a point of its loop while it is taken out
//! of the consumer group, or while partitions move to another; a second one that takes over.
//! Nondeterminism: none that counts: whoever waits, waits for what must come about.
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
use keyferry_processors::{
    pipeline::{Source, step},
    state::OriginState,
};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
    transaction::Settings,
};
use keyferry_schemas::{
    records::{Head, LedgerEntry},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{hub::Hub, raw, wait::wait_until};
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

fn send(hub: &Hub, origin: &str, n: usize) {
    let mut rng = Rng::from_entropy().unwrap();
    for _ in 0..n {
        let tag = format!("{:x}", rng.number());
        let keys = [key(&mut rng, origin, &[], SystemClock.now())];
        hub.send(&hub.world.upload(origin, &tag, &keys).unwrap()).unwrap();
    }
}

/// How many source offsets were decided more than once.
fn doubled(ledger: &[LedgerEntry]) -> usize {
    ledger.len() - ledger.iter().map(|e| e.source_offset).collect::<BTreeSet<_>>().len()
}

/// A place at which an instance is held. Lets go when it is dropped, so that a test that fails does not hang.
struct Hold {
    slow: Arc<AtomicBool>,
    armed: Arc<AtomicBool>,
    reached: Arc<AtomicBool>,
    point: String,
}

impl Hold {
    fn new(point: &str) -> Self {
        let [slow, armed, reached] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let (slows, holds, says) = (Arc::clone(&slow), Arc::clone(&armed), Arc::clone(&reached));
        let hold = move || {
            if slows.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(150));
            }
            while holds.load(SeqCst) {
                says.store(true, SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        fail::cfg_callback(point, hold).unwrap();
        Self { slow, armed, reached, point: point.to_owned() }
    }

    /// From now on the instance passes slowly, until it is released: so there is always something left to do.
    fn slow_down(&self) {
        self.slow.store(true, SeqCst);
    }

    fn arm(&self) {
        self.armed.store(true, SeqCst);
    }

    fn await_reached(&self) {
        wait_until(&self.point, || self.reached.load(SeqCst));
    }

    fn release(&self) {
        self.slow.store(false, SeqCst);
        self.armed.store(false, SeqCst);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
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
    send(&hub, "DE", 1);
    hub.decided("DE", 1).unwrap();
    hold.arm();
    send(&hub, "DE", 30);
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
    send(&hub, "DE", 1);
    hub.decided("DE", 1).unwrap();
    hold.arm();
    hold.await_reached();
    expel(&hub);
    let _second = hub.processor("p-1").unwrap();
    send(&hub, "DE", 1);
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
    ORIGINS.iter().for_each(|origin| send(&hub, origin, 60));
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
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
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

/// Markers of a transaction land on each partition by themselves. `late` lands while the origin is taken over, in the
/// middle of it if `held_at` says so; whether the origin went on, or was stopped.
fn taken_over(
    late: impl Fn(&Hub) -> BaseProducer,
    held_at: Option<&str>,
    without: Option<&str>,
) -> Result<Vec<String>, ()> {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    send(&hub, "DE", 3);
    let late = late(&hub);
    if let Some(guard) = without {
        fail::cfg(guard, "return").unwrap();
    }
    let hold = held_at.map(Hold::new);
    hold.iter().for_each(Hold::arm);
    let before = stops();
    let _processor = hub.processor("p-1").unwrap();
    hold.iter().for_each(Hold::await_reached);
    hold.iter().for_each(Hold::release);
    if without.is_none() {
        // Within the second that a take-over has patience.
        std::thread::sleep(Duration::from_millis(600));
        late.commit_transaction(PATIENCE).unwrap();
    }
    let mut ledger = Vec::new();
    wait_until("an end", || {
        ledger = hub.ledger("DE").unwrap();
        ledger.len() >= 3 || stops() > before
    });
    let outcome = if stops() > before { Err(()) } else { Ok(ledger.into_iter().map(|e| e.writer).collect()) };
    scenario.teardown();
    outcome
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
    assert_eq!(taken_over(late, None, None).unwrap(), ["p-dead", "p-1", "p-1"]);
    assert!(taken_over(late, None, Some("guard-mark")).is_err());
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
    assert_eq!(taken_over(late, None, None).unwrap(), ["p-dead", "p-dead", "p-1"]);
    assert!(taken_over(late, None, Some("guard-stable-offset")).is_err());
}

/// How long the first upload of DE waits behind the open transaction of an instance that died, if at all.
fn behind_the_dead(without: Option<&str>) -> Option<Duration> {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    send(&hub, "DE", 1);
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
