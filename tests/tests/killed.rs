//! A processor that is killed again and again, in the middle of whatever it is doing.
//!
//! Operations: three countries upload without a pause: new keys, the same upload again, new keys beside known ones.
//! Failures: SIGKILL at random moments of start, take-over and transactions; the next process comes under the same or
//! under another transactional id, or when its predecessor has been silent for a while.
//! Not here: processes that hang and wake (`exactly_once`), brokers that fail.
//!
//! A run that failed is made again, as far as chance allows, with `KEYFERRY_SEED` set to the number it printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
};
use keyferry_schemas::{
    efgs::DiagnosisKey,
    records::{LedgerEntry, Outcome, Upload},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{hub::Hub, lone::Lone, wait::wait_until};

const COUNTRIES: [&str; 3] = ["DE", "FR", "NL"];
const KILLS: usize = 8;

fn seed() -> u64 {
    let given = std::env::var("KEYFERRY_SEED").ok().map(|s| s.parse().expect("KEYFERRY_SEED is a number"));
    let seed = given.unwrap_or_else(|| Rng::from_entropy().unwrap().number());
    println!("KEYFERRY_SEED={seed}");
    seed
}

/// What one country sends, and what of it the others have to receive.
struct Stream {
    origin: &'static str,
    sent: usize,
    keys: Vec<DiagnosisKey>,
    last: Option<Upload>,
}

impl Stream {
    fn send(&mut self, hub: &Hub, rng: &mut Rng) {
        let upload = match (&self.last, rng.below(8)) {
            (Some(last), 0) => last.clone(),
            (last, chance) => {
                let new = 1 + rng.below(20) as usize;
                let mut keys: Vec<_> =
                    (0..new).map(|_| key(rng, self.origin, &[], SystemClock.now())).collect();
                self.keys.extend(keys.iter().cloned());
                if last.is_some() && chance == 1 {
                    keys.push(self.keys[rng.below((self.keys.len() - new) as u64) as usize].clone());
                }
                hub.world.upload(self.origin, &format!("tag-{}", self.sent), &keys).unwrap()
            }
        };
        hub.send(&upload).unwrap();
        self.sent += 1;
        self.last = Some(upload);
    }

    fn data(&self) -> Vec<Vec<u8>> {
        sorted(self.keys.iter().map(|k| k.key_data.to_vec()).collect())
    }
}

fn sorted(mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    keys.sort();
    keys
}

/// Batches on the keys topic of a country that a killed process left in a transaction which never ended well.
fn left_behind(hub: &Hub, country: &str) -> usize {
    let topic = topics::keys(country.parse().unwrap());
    let count = |isolation| hub.records(&topic, isolation).unwrap().len();
    // Checkpoints may be added between the two.
    count(Isolation::Uncommitted).saturating_sub(count(Isolation::Committed))
}

/// The ledger tells of every upload once and in order, and is one chain of hashes.
fn assert_ledger(origin: &str, ledger: &[LedgerEntry], sent: usize) {
    let places: Vec<_> = ledger.iter().map(|e| (e.sequence, e.source_offset)).collect();
    let expected: Vec<_> = (0..sent as i64).map(|n| (n + 1, n)).collect();
    assert!(places == expected, "{origin}: {places:?}");
    for two in ledger.windows(2) {
        let hash = keyferry_schemas::batch::sha256(&keyferry_schemas::avro::Record::to_avro(&two[0]));
        assert_eq!(
            two[1].previous, hash,
            "{origin}: entry {} does not follow the one before",
            two[1].sequence
        );
    }
    let good = [Outcome::Accepted, Outcome::Partial, Outcome::Repeated];
    assert!(ledger.iter().all(|e| good.contains(&e.outcome)), "{origin}: {ledger:?}");
}

/// Half of them can be caught between what they have written and its commit: chance alone seldom hits that.
fn start(hub: &Hub, instance: &str, rng: &mut Rng) -> Lone {
    let point = ["stop-at=before-begin", "stop-at=before-commit"][rng.below(2) as usize];
    let options = [point, "checkpoint-every-ms=300"];
    hub.lone_processor(env!("CARGO_BIN_EXE_lone-processor"), instance, &options).unwrap()
}

fn kill(lone: Lone, rng: &mut Rng) {
    if rng.below(2) == 0 {
        lone.arm().unwrap();
        let patience = Instant::now() + Duration::from_secs(2);
        while !lone.has_stopped() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    lone.signal("KILL").unwrap();
}

#[test]
fn whoever_is_killed_loses_and_doubles_nothing() {
    let mut rng = Rng::new(seed());
    let hub = Hub::start(World::new(&COUNTRIES, jiff::Timestamp::now()).unwrap()).unwrap();
    let mut streams = COUNTRIES.map(|origin| Stream { origin, sent: 0, keys: Vec::new(), last: None });
    let mut names = 0;
    let mut lone = start(&hub, "p-0", &mut rng);
    for n in 1..=KILLS {
        // From the middle of its start to well into a steady stream.
        let moment = Instant::now() + Duration::from_millis(1500 + rng.below(5000));
        while Instant::now() < moment {
            streams.iter_mut().for_each(|s| s.send(&hub, &mut rng));
            std::thread::sleep(Duration::from_millis(rng.below(40)));
        }
        kill(lone, &mut rng);
        if rng.below(2) == 0 {
            names += 1;
        }
        println!("kill {n} after {} uploads each; next is p-{names}", streams[0].sent);
        // Now and then the group has forgotten it, and its transaction was ended by the broker, before another comes.
        if rng.below(4) == 0 {
            std::thread::sleep(Duration::from_secs(3));
        }
        lone = start(&hub, &format!("p-{names}"), &mut rng);
    }
    let mut writers = BTreeSet::new();
    for stream in &streams {
        let ledger = hub.decided(stream.origin, stream.sent).unwrap();
        assert_ledger(stream.origin, &ledger, stream.sent);
        writers.extend(ledger.into_iter().map(|e| e.writer));
        wait_until("the last offset", || hub.committed(stream.origin).unwrap() == Some(stream.sent as i64));
    }
    for country in COUNTRIES {
        // No ledger may be hidden by a transaction that hides batches: then nobody had to end it before its time.
        hub.settled(&topics::keys(country.parse().unwrap())).unwrap();
    }
    let left: BTreeMap<_, _> = COUNTRIES.iter().map(|c| (c, left_behind(&hub, c))).collect();
    println!("decided by {writers:?}; batches of transactions that ended with their process: {left:?}");
    for destination in COUNTRIES {
        let others = streams.iter().filter(|s| s.origin != destination);
        let expected = sorted(others.flat_map(Stream::data).collect());
        // The chains are verified on the way.
        let delivered = sorted(hub.delivered(destination).unwrap());
        assert_eq!(delivered.len(), expected.len(), "{destination}");
        assert!(delivered == expected, "{destination} received other keys than were accepted");
    }
    drop(lone);
}
