//! Two distribution services on one store, which are killed again and again while they store and serve. In one of them
//! uploads wait for one another, in the other they do not, so that the two join them differently.
//!
//! Operations: three countries upload without a pause and fetch what the others sent, over HTTP, from their first batch
//! to `nextBatchTag: null`.
//! Failures: SIGKILL of one service or of both at random moments.
//! Not here: damaged stores and records that do not verify (`tampering`).
//!
//! A run that failed is made again, as far as chance allows, with `KEYFERRY_SEED` set to the number it printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::world::{Rng, World, key};
use keyferry_tests::{
    downloads::{Addresses, Client, End, Page},
    hub::Hub,
    lone::Lone,
};

const COUNTRIES: [&str; 3] = ["DE", "FR", "NL"];
const KILLS: usize = 12;

fn seed() -> u64 {
    let given = std::env::var("KEYFERRY_SEED").ok().map(|s| s.parse().expect("KEYFERRY_SEED is a number"));
    let seed = given.unwrap_or_else(|| Rng::from_entropy().unwrap().number());
    println!("KEYFERRY_SEED={seed}");
    seed
}

fn start(hub: &Hub, store: &Path, i: usize) -> Lone {
    let program = env!("CARGO_BIN_EXE_lone-distribution");
    hub.lone_distribution_that_waits(program, store, [0, 150][i]).unwrap()
}

/// All that was ever seen, by country.
#[derive(Default)]
struct Seen(BTreeMap<&'static str, Vec<Page>>);

impl Seen {
    /// Fetches everything again: what was seen before has to come the same.
    fn look(&mut self, hub: &Hub, client: &Client, at: &Addresses) {
        for country in COUNTRIES {
            // It may be killed or not have begun, and then there is nothing to compare.
            let Ok((pages, end)) = client.walk(hub, at, country) else { continue };
            assert!(matches!(end, End::Null | End::Nothing), "{country}: {end:?}");
            let before = self.0.entry(country).or_default();
            // Another instance may be a moment behind and never differs.
            let both = before.len().min(pages.len());
            assert!(before[..both] == pages[..both], "{country}: something published has changed");
            if pages.len() > both {
                *before = pages;
            }
        }
    }

    fn keys(&self, country: &str) -> Vec<Vec<u8>> {
        sorted(self.0[country].iter().flat_map(|p| &p.keys).map(|k| k.key_data.to_vec()).collect())
    }
}

fn sorted(mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    keys.sort();
    keys
}

#[test]
fn services_that_share_a_store_publish_every_key_once_and_change_nothing() {
    let mut rng = Rng::new(seed());
    let hub = Hub::start(World::new(&COUNTRIES, jiff::Timestamp::now()).unwrap()).unwrap();
    let _processor = hub.processor("p-0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let client = Client::new().unwrap();
    let (mut seen, mut sent) = (Seen::default(), BTreeMap::<_, Vec<Vec<u8>>>::new());
    let mut services = [start(&hub, store, 0), start(&hub, store, 1)];
    let mut uploads = 0;
    for n in 1..=KILLS {
        let moment = Instant::now() + Duration::from_millis(300 + rng.below(3000));
        while Instant::now() < moment {
            for origin in COUNTRIES {
                let count = 1 + rng.below(15);
                let keys: Vec<_> =
                    (0..count).map(|_| key(&mut rng, origin, &[], SystemClock.now())).collect();
                hub.send(&hub.world.upload(origin, &format!("tag-{uploads}"), &keys).unwrap()).unwrap();
                sent.entry(origin).or_default().extend(keys.into_iter().map(|k| k.key_data.to_vec()));
            }
            uploads += 1;
            std::thread::sleep(Duration::from_millis(rng.below(80)));
        }
        if let Some(at) = services[rng.below(2) as usize].answers() {
            seen.look(&hub, &client, &at);
        }
        let (first, both) = (rng.below(2) as usize, rng.below(3) == 0);
        for i in [first, 1 - first].into_iter().take(if both { 2 } else { 1 }) {
            services[i].signal("KILL").unwrap();
            services[i] = start(&hub, store, i);
        }
        let batches: usize = seen.0.values().map(Vec::len).sum();
        println!(
            "kill {n} of {} after {uploads} uploads each; {batches} batches seen",
            if both { "both" } else { "one" }
        );
    }
    for country in COUNTRIES {
        hub.decided(country, uploads).unwrap();
    }
    let last = start(&hub, store, 0);
    let at = last.addresses().unwrap();
    let expected =
        |country| sorted(sent.iter().filter(|(o, _)| **o != country).flat_map(|(_, k)| k.clone()).collect());
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        seen.look(&hub, &client, &at);
        if COUNTRIES.iter().all(|c| seen.keys(c).len() >= expected(*c).len()) || Instant::now() > give_up {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    for country in COUNTRIES {
        assert_eq!(seen.keys(country).len(), expected(country).len(), "{country}");
        assert!(seen.keys(country) == expected(country), "{country} downloads other keys than it should");
        let report = hub.verify_store(store, country).unwrap();
        assert_eq!(report.fault, None, "{country}");
        assert_eq!(report.batches.len(), 2 * uploads, "{country}");
        assert_eq!(report.batches.iter().map(|b| b.keys as usize).sum::<usize>(), expected(country).len());
    }
}
