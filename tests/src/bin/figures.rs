//! Measures, on one embedded broker: `cargo run --release -p keyferry-tests --bin figures`. Absolute figures of a shared
//! machine; the ceiling in the same run says what they are worth.
//!
//! Uploads of 5,000 keys for four destinations are put on Kafka first; then one processor takes them.

use std::time::{Duration, Instant};

use anyhow::Result;
use keyferry_processors::{
    fingerprint::{Facts, Fingerprint},
    seen::Seen,
};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
};
use keyferry_schemas::{
    time::Day,
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::hub::Hub;

const UPLOADS: usize = 60;
const KEYS: usize = 5000;

#[expect(clippy::print_stdout, reason = "figures are what it is for")]
fn main() -> Result<()> {
    let hub = Hub::start(World::new(&["DE", "FR", "IT", "NL", "PL"], SystemClock.now().timestamp())?)?;
    let mut rng = Rng::new(1);
    for i in 0..UPLOADS {
        let visited = ["FR", "IT", "NL", "PL"];
        let keys: Vec<_> = (0..KEYS).map(|_| key(&mut rng, "DE", &visited, SystemClock.now())).collect();
        hub.send(&hub.world.upload("DE", &format!("tag-{i}"), &keys)?)?;
    }
    let processor = hub.processor("p-0")?;
    hub.decided("DE", 5.min(UPLOADS)).or_else(|_| hub.ledger("DE")).map(drop)?;
    let start = (Instant::now(), hub.ledger("DE")?.len());
    while hub.ledger("DE")?.len() < UPLOADS {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (took, keys) = (start.0.elapsed().as_secs_f64(), (UPLOADS - start.1) * KEYS);
    println!(
        "processor: {:.0} keys/s in, {:.0} keys/s out ({keys} keys, 4 destinations, {took:.2} s)",
        keys as f64 / took,
        4.0 * keys as f64 / took
    );

    // One at a time: the whole way on Kafka, and how long a transaction takes.
    let metric = |name: &str| {
        let families = prometheus::gather();
        let family = families.iter().find(|f| f.name() == name);
        let histogram = family.and_then(|f| f.get_metric().first()).map(|m| m.get_histogram().clone());
        histogram.map_or((0, 0.0), |h| (h.get_sample_count(), h.get_sample_sum()))
    };
    let before = metric("keyferry_transaction_seconds");
    let mut times = Vec::new();
    let mut tail = keyferry_runtime::tail::Tail::open(
        &hub.kafka("test"),
        &topics::keys("FR".parse()?),
        Isolation::Committed,
        keyferry_runtime::tail::Start::End,
    )?;
    for i in 0..200 {
        let upload =
            hub.world.upload("DE", &format!("single-{i}"), &[key(&mut rng, "DE", &[], SystemClock.now())])?;
        let sent = Instant::now();
        hub.send(&upload)?;
        while !matches!(tail.next(Duration::from_millis(100))?, keyferry_runtime::tail::Next::Record(_)) {}
        times.push(sent.elapsed());
    }
    times.sort();
    let after = metric("keyferry_transaction_seconds");
    println!("single uploads, Kafka to Kafka: p50 {:?} p99 {:?}", times[100], times[198]);
    println!(
        "transaction of one upload, begin to commit: mean {:.1} ms",
        (after.1 - before.1) * 1000.0 / (after.0 - before.0) as f64
    );
    processor.stop()?;

    let mut seen = Seen::default();
    for n in 0..2_000_000u64 {
        let facts = Facts { report_type: 1, last_day: Day(1), rest: [0; 4] };
        seen.insert(&Fingerprint { id: rng.bytes(), facts });
        if n == 1_999_999 {
            println!("memory: {:.1} bytes a remembered key", seen.bytes() as f64 / seen.len() as f64);
        }
    }
    Ok(())
}
