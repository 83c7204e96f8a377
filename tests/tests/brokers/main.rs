//! Three brokers, every record on two of them before it is acknowledged: what was acknowledged outlives each of them.
//!
//! Operations: three countries upload through a gateway without a pause, and some send again what was not confirmed; two
//! processors decide.
//! Failures, one after another: a broker killed, the controller, the leader of the transaction coordinator's partition,
//! the leader of an uploads topic; one cut off from the others and from all clients; one that hangs; a full disk; two of
//! three killed, so that nothing can be acknowledged; all of them killed.
//! Expected: with two of three brokers uploads go on; with fewer they are answered with 503 and go on by themselves later.
//! Not here: gateways and processors that die as well, disks that lose what was written.
//!
//! `KEYFERRY_OUTAGE_S` is how long the whole cluster is gone (5), `KEYFERRY_FAULT` a part of the names of faults to which
//! the run is limited.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod check;
mod load;

use std::{
    thread,
    time::{Duration, Instant},
};

use check::Books;
use keyferry_producers::GatewayConfig;
use keyferry_runtime::topics::list;
use keyferry_schemas::{
    topics,
    world::{Rng, World},
};
use keyferry_tests::{
    front::{Door, Front},
    hub::Hub,
    processor::Processor,
    trio::{
        TOPICS, Trio,
        faults::{Blow, Fault},
        say,
    },
    wait::wait_until,
};
use load::{Load, Told};

const COUNTRIES: [&str; 3] = ["DE", "FR", "NL"];

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn outage() -> Duration {
    Duration::from_secs(setting("KEYFERRY_OUTAGE_S").map_or(5, |s| s.parse().expect("seconds")))
}

#[test]
fn what_was_acknowledged_outlives_brokers() {
    let begun = Instant::now();
    let Some(mut trio) = Trio::start().unwrap() else { return };
    say(&format!("{:.1} s to start the cluster", begun.elapsed().as_secs_f64()));
    let world = World::new(&COUNTRIES, jiff::Timestamp::now()).unwrap();
    let hub = Hub::over(&trio.bootstrap(), world, TOPICS).unwrap();
    // Those that the program has made, of which it was told how many copies to keep.
    for topic in list(&hub.kafka("test")).unwrap() {
        let least = topic.settings.get("min.insync.replicas").map(String::as_str);
        assert_eq!((topic.replicas, least), (3, Some("2")), "{}", topic.name);
    }
    let config = GatewayConfig {
        decision_wait_ms: 4000,
        uploads_per_minute_per_member: 60_000,
        ..GatewayConfig::default()
    };
    let front = Front::with(hub, Door::Proxy, config).unwrap();
    let second = front.hub.processor("p-1").unwrap();
    let mut books = Books::open(&front.hub, &COUNTRIES);
    let load = Load::new(&front);
    let mut rng = Rng::from_entropy().unwrap();
    thread::scope(|scope| {
        for origin in COUNTRIES {
            let (load, rng) = (&load, Rng::new(rng.number()));
            scope.spawn(move || load.run(origin, rng));
        }
        // Ends also when a check fails: the others would never.
        let _end = End(&load);
        load.recovered(&COUNTRIES, begun);
        trio.await_whole();
        let uploads = topics::uploads("DE".parse().unwrap());
        let only = setting("KEYFERRY_FAULT").unwrap_or_default();
        for mut fault in Fault::all(&uploads, "p-0").into_iter().filter(|f| f.name.contains(&only)) {
            strike(&mut fault, &mut trio, &load, [&front.processor, &second]);
            books.check(&front.hub, &load);
        }
    });
    books.check(&front.hub, &load);
    let (records, keys, twice) = books.counts();
    say(&format!("{records} records decided, {twice} of them written twice; {keys} keys accepted"));
    // Once more with fresh readers, from the beginning.
    for destination in COUNTRIES {
        let mut all = front.hub.delivered(destination).unwrap();
        all.sort();
        assert!(all.iter().eq(books.has(destination)), "{destination}");
    }
    second.stop().unwrap();
}

struct End<'a>(&'a Load<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One fault, from the blow to a cluster that is whole again.
fn strike(fault: &mut Fault, trio: &mut Trio, load: &Load, processors: [&Processor; 2]) {
    let struck = Instant::now();
    let node = fault.inject(trio).unwrap();
    let down = Instant::now();
    let meanwhile = if fault.is_survived() {
        let took = load.recovered(&COUNTRIES, struck);
        format!("decided again after {:.1} s without it", took.as_secs_f64())
    } else {
        thread::sleep(outage());
        wait_until("an answer", || load.told_since(down).values().sum::<usize>() >= COUNTRIES.len());
        // One copy is not enough, and nobody says that it were.
        let told = load.told_since(down);
        assert!(told.keys().all(|told| *told > Told::Stored), "{}: {told:?}", fault.name);
        format!("nothing was taken for {:.1} s", down.elapsed().as_secs_f64())
    };
    let told = load.told_since(struck);
    let healed = Instant::now();
    fault.heal(trio).unwrap();
    let back = healed.elapsed();
    let took = load.recovered(&COUNTRIES, healed);
    say(&format!(
        "{} (node {node}): {meanwhile}, told {told:?}; back within {:.1} s, decided again after {:.1} s",
        fault.name,
        back.as_secs_f64(),
        took.as_secs_f64()
    ));
    trio.await_whole();
    assert!(processors.iter().all(|p| !p.has_ended()), "{}: a processor has ended", fault.name);
    if fault.blow == Blow::Hang {
        assert!(trio.is_running(node).unwrap(), "it went on");
    }
}
