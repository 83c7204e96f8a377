//! Clocks that are wrong: of one instance, and of the broker. What is decided goes by the broker's timestamps, so nothing
//! stops, nothing that was written is bound to a time that was never, and a metric says whose clock is off.
//!
//! Operations: uploads and checkpoints by processors whose clocks are off, one after the other and while they run.
//! Failures: 59 minutes and two hours, ahead and behind; a year; a clock that is set while the instance runs; a broker
//! whose clock was ahead and falls back. The broker refuses what is stamped more than an hour ahead of it.
//! Not here: a day that ends (`midnight`), dates of certificates (`expired`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyferry_producers::GatewayConfig;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    codec::KeysRecord,
    kafka::Isolation,
    transaction::Settings,
};
use keyferry_schemas::{
    batch::Checkpoint,
    country::Country,
    records::Outcome,
    time::Millis,
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    clocks::Shifted,
    front::{Door, Front},
    hub::Hub,
    service::{Service, stored},
    wait::wait_until,
};

/// Metrics are of the process, so one test at a time looks at them.
static ALONE: Mutex<()> = Mutex::new(());

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn settings(instance: &str) -> Settings {
    Settings { checkpoint_interval: Some(Duration::from_millis(300)), ..Settings::new(instance) }
}

/// Every checkpoint for FR from offset `from` on, with the timestamp of its record.
fn stated(hub: &Hub, from: i64) -> Vec<(Checkpoint, Millis)> {
    let records = hub.records(&topics::keys("FR".parse().unwrap()), Isolation::Committed).unwrap();
    let read = |value| match hub.codec.decode_keys(value).unwrap() {
        KeysRecord::Checkpoint(checkpoint) => Some(checkpoint),
        KeysRecord::Batch(_) => None,
    };
    let later = records.into_iter().filter(|r| r.offset >= from);
    later.filter_map(|r| Some((read(r.value.unwrap())?, r.timestamp))).collect()
}

fn end(hub: &Hub) -> i64 {
    hub.records(&topics::keys("FR".parse().unwrap()), Isolation::Committed)
        .unwrap()
        .last()
        .map_or(0, |r| r.offset + 1)
}

fn skew_s() -> f64 {
    let metrics = prometheus::gather();
    let skew = metrics.iter().find(|m| m.name() == "keyferry_clock_skew_seconds").expect("a metric");
    skew.get_metric()[0].get_gauge().get_value()
}

#[test]
fn a_processor_whose_clock_is_wrong_decides_and_states_by_the_clock_of_the_broker() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hub = Hub::start(World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap()).unwrap();
    let mut decided = 0;
    let mut sends = |n: usize| {
        hub.send_new("DE", n).unwrap();
        decided += n;
        hub.decided("DE", decided).unwrap();
    };
    for (i, shift) in [2 * HOUR, -2 * HOUR, 59 * MINUTE, 365 * 24 * HOUR].into_iter().enumerate() {
        let from = end(&hub);
        let clock = Shifted::by(shift);
        let processor = hub.processor_at(settings(&format!("p-{i}")), &clock).unwrap();
        sends(1);
        // It states again and again, by which nothing is held up.
        wait_until("its checkpoints", || stated(&hub, from).len() >= 4);
        sends(1);
        for (checkpoint, stamped) in stated(&hub, from) {
            let off = (checkpoint.at.0 - SystemClock.now().0).abs();
            assert!(off < 5 * MINUTE, "{shift}: stated at {}", checkpoint.at);
            assert_eq!(stamped, checkpoint.at, "{shift}");
        }
        // An alert on this names the instance.
        let skew = skew_s() - shift as f64 / 1000.0;
        assert!(skew.abs() < 60.0, "{shift}: {skew}");
        processor.stop().unwrap();
    }
    // While it runs somebody sets the clock of the machine, forth and back.
    let clock = Shifted::default();
    let processor = hub.processor_at(settings("p-9"), &clock).unwrap();
    for shift in [0, 3 * HOUR, -3 * HOUR, 0] {
        clock.shift(shift);
        sends(2);
        let from = end(&hub);
        wait_until("checkpoints", || stated(&hub, from).len() >= 3);
    }
    processor.stop().unwrap();
    // Whoever comes next finds no time in the future that it would wait for.
    let ledger = hub.ledger("DE").unwrap();
    let latest = ledger.iter().map(|e| e.now).max().unwrap();
    assert!(latest <= SystemClock.now(), "{latest}");
    assert_eq!(hub.delivered("FR").unwrap().len(), decided);
    others(hub, decided);
}

/// The other roles, which ask by their own clocks what is in force, and write nothing that holds anybody up.
fn others(hub: Hub, decided: usize) {
    let stores = tempfile::tempdir().unwrap();
    for shift in [2 * HOUR, -2 * HOUR] {
        let store = stores.path().join(shift.to_string());
        let service = Service::start_at(&hub, &store, None, Arc::new(Shifted::by(shift)));
        let keys = || stored(&store, "FR".parse().unwrap()).iter().map(|(_, keys)| *keys).sum::<u64>();
        wait_until("all of FR", || keys() == decided as u64);
        service.stop();
    }
    let clock = Shifted::default();
    let config = GatewayConfig { decision_wait_ms: 15_000, ..GatewayConfig::default() };
    let front = Front::at(hub, Door::Proxy, config, Arc::new(clock.clone())).unwrap();
    for (tag, shift) in [("one", 2 * HOUR), ("two", -2 * HOUR), ("three", -59 * MINUTE)] {
        clock.shift(shift);
        let keys = [key(&mut Rng::from_entropy().unwrap(), "DE", &[], SystemClock.now())];
        let answer = front.send("DE", tag, &keys).unwrap();
        assert_eq!(answer.status, 201, "{shift}: {answer:?}");
    }
}

/// Topics whose timestamps a test chooses, to be the broker's clock.
fn chosen(mut topic: topics::Topic) -> topics::Topic {
    if topic.name.starts_with(topics::UPLOADS_PREFIX) {
        topic.settings.retain(|(name, _)| *name != "message.timestamp.type");
        topic.settings.push(("message.timestamp.after.max.ms", i64::MAX.to_string()));
    }
    topic
}

#[test]
fn a_broker_whose_clock_falls_back_stops_no_origin_and_now_never_falls() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new(&["DE", "FR", "NL"], jiff::Timestamp::now()).unwrap();
    let hub = Hub::start_with(world, chosen).unwrap();
    let put = |origin: &str, tag: &str, ahead: i64| {
        let now = SystemClock.now();
        let keys = [key(&mut Rng::from_entropy().unwrap(), origin, &[], now)];
        let upload = hub.world.upload(origin, tag, &keys).unwrap();
        let country: Country = origin.parse().unwrap();
        hub.put_at(&topics::uploads(country), hub.codec.encode(&upload), now.plus(ahead)).unwrap();
    };
    // These were written when the broker's clock was three hours ahead, and are decided when it is not.
    put("DE", "ahead", 3 * HOUR);
    put("DE", "also-ahead", 2 * HOUR);
    put("DE", "right-again", 0);
    put("NL", "right", 0);
    let processor = hub.processor_at(settings("p-0"), &Shifted::default()).unwrap();
    hub.decided("NL", 1).unwrap();
    let ledger = hub.decided("DE", 3).unwrap();
    assert!(ledger.iter().all(|e| e.outcome == Outcome::Accepted), "{ledger:?}");
    let now: Vec<_> = ledger.iter().map(|e| e.now).collect();
    assert_eq!((now[0], now[0]), (now[1], now[2]), "now falls");
    // Keys are erased by these timestamps, and what is ahead would stay for longer than the law allows.
    let records = hub.records(&topics::keys("FR".parse().unwrap()), Isolation::Committed).unwrap();
    assert!(records.iter().all(|r| r.timestamp.0 < SystemClock.now().0 + HOUR), "{:?}", records[0].timestamp);
    assert_eq!(hub.delivered("FR").unwrap().len(), 4);
    wait_until("its checkpoints", || stated(&hub, 0).len() >= 4);
    processor.stop().unwrap();
    // Who takes over goes on from there.
    let _next = hub.processor_at(settings("p-1"), &Shifted::default()).unwrap();
    put("DE", "later", 0);
    assert_eq!(hub.decided("DE", 4).unwrap()[3].now, now[0]);
}
