//! Measures, on one embedded broker: `cargo run --release -p keyferry-tests --bin figures`. Absolute figures of a shared
//! machine; repeat it to see what they are worth. How long the way over HTTP takes is shown by `make demo`.
//!
//! Uploads of 5,000 keys for four destinations are put on Kafka first; then one processor takes them.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use keyferry_processors::{
    fingerprint::{Facts, Fingerprint},
    seen::Seen,
};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
    tail::{Next, Start, Tail},
};
use keyferry_schemas::{
    time::Day,
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::hub::Hub;

const UPLOADS: usize = 60;
const KEYS: usize = 5000;
const SINGLES: usize = 300;
const REMEMBERED: usize = 5_000_000;

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
    // The first ones warm up topics and caches.
    let decided = |n: usize| -> Result<usize> {
        loop {
            let len = hub.ledger("DE")?.len();
            if len >= n {
                return Ok(len);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let before = decided(5)?;
    let begun = Instant::now();
    decided(UPLOADS)?;
    let (took, keys) = (begun.elapsed().as_secs_f64(), (UPLOADS - before) * KEYS);
    println!(
        "processor: {:.0} keys/s in, {:.0} keys/s out ({keys} keys, 4 destinations, {took:.2} s)",
        keys as f64 / took,
        4.0 * keys as f64 / took
    );

    // One at a time: the whole way on Kafka, and how long a transaction takes.
    let (transactions, commits) =
        (histogram("keyferry_transaction_seconds"), histogram("keyferry_transaction_commit_seconds"));
    let mut times = Vec::new();
    let topic = topics::keys("FR".parse()?);
    let mut tail = Tail::open(&hub.kafka("test"), &topic, Isolation::Committed, Start::End)?;
    for i in 0..SINGLES {
        let keys = [key(&mut rng, "DE", &[], SystemClock.now())];
        let upload = hub.world.upload("DE", &format!("single-{i}"), &keys)?;
        let sent = Instant::now();
        hub.send(&upload)?;
        while !matches!(tail.next(Duration::from_millis(100))?, Next::Record(_)) {}
        times.push(sent.elapsed());
    }
    times.sort();
    println!(
        "single uploads, Kafka to Kafka: p50 {:.1?}, p99 {:.1?}",
        times[SINGLES / 2],
        times[SINGLES * 99 / 100]
    );
    println!(
        "transaction of one upload: mean {:.1} ms from begin to end, {:.1} ms of it after the last record",
        mean_ms("keyferry_transaction_seconds", transactions),
        mean_ms("keyferry_transaction_commit_seconds", commits)
    );
    processor.stop()?;

    let resident = resident_bytes()?;
    let mut seen = Seen::default();
    for _ in 0..REMEMBERED {
        let facts = Facts { report_type: 1, last_day: Day(1), rest: [0; 4] };
        seen.insert(&Fingerprint { id: rng.bytes(), facts });
    }
    println!(
        "memory: {:.1} bytes a remembered key by its table, {:.1} by the system ({REMEMBERED} keys)",
        seen.bytes() as f64 / seen.len() as f64,
        (resident_bytes()? - resident) as f64 / seen.len() as f64
    );
    Ok(())
}

/// Number and sum of what a histogram of this process has seen.
fn histogram(name: &str) -> (u64, f64) {
    let families = prometheus::gather();
    let family = families.iter().find(|f| f.name() == name);
    let found = family.and_then(|f| f.get_metric().first()).map(|m| m.get_histogram().clone());
    found.map_or((0, 0.0), |h| (h.get_sample_count(), h.get_sample_sum()))
}

fn mean_ms(name: &str, (count, sum): (u64, f64)) -> f64 {
    let now = histogram(name);
    (now.1 - sum) * 1000.0 / (now.0 - count) as f64
}

/// Memory of this process that is really there.
fn resident_bytes() -> Result<i64> {
    let pages: i64 =
        fs::read_to_string("/proc/self/statm")?.split(' ').nth(1).context("two numbers")?.parse()?;
    Ok(pages * 4096)
}
