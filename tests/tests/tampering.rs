//! Whatever stands on a country's topic, or in its store, and is not what the hub has signed in its order: the
//! distribution service says so, serves nothing from there on, and goes on with every other country.
//!
//! Operations: batches of one origin for many countries, made by the pipeline's own step and written by hand.
//! Failures: records dropped, doubled, out of order, of another country, changed, signed by a stranger, garbage; a
//! changed byte in a data object and in a log object.
//! Not here: faults that a restart heals (`stores`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use keyferry_schemas::{batch::SignedBatch, topics, world::World};
use keyferry_tests::{
    chains::{KEYS, changed, forged},
    downloads::{Addresses, Client, End},
    hub::Hub,
    lone::Lone,
};
use reqwest::StatusCode;

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

fn start(hub: &Hub, store: &Path) -> (Lone, Addresses) {
    let lone = hub.lone_distribution(env!("CARGO_BIN_EXE_lone-distribution"), store).unwrap();
    let at = lone.addresses().unwrap();
    (lone, at)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < give_up, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn served(client: &Client, hub: &Hub, at: &Addresses, country: &str) -> usize {
    let (pages, end) = client.walk(hub, at, country).unwrap();
    assert!(matches!(end, End::Null | End::Nothing), "{country}: {end:?}");
    pages.iter().map(|p| p.keys.len()).sum::<usize>() / KEYS
}

fn counted(metrics: &str, origin: &str) -> u64 {
    value(metrics, &format!("keyferry_chain_breaks_total{{origin=\"{origin}\"}} "))
}

fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is missing")).parse().unwrap()
}

#[test]
fn a_record_that_is_not_the_next_of_its_chain_stops_its_country_alone() {
    let broken = ["FR", "NL", "ES", "IT", "AT", "PL", "CZ", "BE"];
    let hub = hub(&["DE", "LU", "FR", "NL", "ES", "IT", "AT", "PL", "CZ", "BE"]);
    let all = hub.chains(4).unwrap();
    let of = |country: &str, n: usize| all[&country.parse().unwrap()][n - 1].clone();
    for country in broken.iter().chain(&["LU"]) {
        hub.deliver(country, &of(country, 1)).unwrap();
    }
    hub.deliver("FR", &of("FR", 3)).unwrap(); // 2 is dropped
    hub.deliver("NL", &of("NL", 1)).unwrap(); // doubled
    hub.deliver("ES", &of("ES", 3)).unwrap(); // 2 and 3 swapped
    hub.deliver("ES", &of("ES", 2)).unwrap();
    hub.deliver("IT", &of("FR", 2)).unwrap(); // of another country
    hub.deliver("AT", &forged(&of("AT", 2))).unwrap();
    hub.deliver("PL", &changed(&of("PL", 2))).unwrap();
    hub.put(&topics::keys("CZ".parse().unwrap()), b"garbage".to_vec()).unwrap();
    // A batch for the country itself, as if its own keys came back.
    hub.deliver("BE", &SignedBatch { manifest: of("BE", 1).manifest, ..of("BE", 2) }).unwrap();
    // What would have been right comes too late.
    for country in broken {
        for n in 2..=4 {
            hub.deliver(country, &of(country, n)).unwrap();
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let client = Client::new().unwrap();
    let (_service, at) = start(&hub, folder.path());
    wait_until("eight breaks", || {
        let (_, metrics) = client.admin(&at, "metrics").unwrap();
        counted(&metrics, "DE") + counted(&metrics, "unknown") >= broken.len() as u64
    });
    for n in 2..=4 {
        hub.deliver("LU", &of("LU", n)).unwrap();
    }
    wait_until("the rest for LU", || served(&client, &hub, &at, "LU") == 4);
    for country in broken {
        assert_eq!(served(&client, &hub, &at, country), 1, "{country} is served what stands behind a break");
        assert_eq!(hub.verify_store(folder.path(), country).unwrap().fault, None, "{country}");
    }
    // One break is counted once, however often it is looked at.
    let (_, metrics) = client.admin(&at, "metrics").unwrap();
    assert_eq!((counted(&metrics, "DE"), counted(&metrics, "unknown")), (7, 1));
    let up =
        |country: &str| value(&metrics, &format!("keyferry_distribution_up{{destination=\"{country}\"}} "));
    for country in broken {
        assert_eq!(up(country), 0, "{country}");
    }
    assert_eq!(up("LU"), 1);
    // Every instance would meet the same records: to take them all away would keep LU from its keys.
    let (status, ready) = client.admin(&at, "readyz").unwrap();
    assert_eq!(status, StatusCode::OK, "{ready}");
    assert_eq!(client.admin(&at, "livez").unwrap().0, StatusCode::OK, "a restart would heal nothing");
}

/// The objects of a country in a local store, in order.
fn objects(store: &Path, kind: &str, country: &str) -> Vec<PathBuf> {
    let folder = store.join(kind).join(country.to_lowercase());
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    all.sort();
    all
}

/// Changes one byte in the middle, where a log object has digits and a data object has keys.
fn change(object: &Path) {
    let mut bytes = std::fs::read(object).unwrap();
    let middle = (bytes.len() / 2..bytes.len()).find(|i| bytes[*i].is_ascii_alphanumeric()).unwrap();
    bytes[middle] = if bytes[middle] == b'0' { b'1' } else { b'0' };
    std::fs::write(object, bytes).unwrap();
}

#[test]
fn a_changed_byte_in_the_store_is_never_served() {
    let hub = hub(&["DE", "LU", "FR", "NL"]);
    let all = hub.chains(5).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let client = Client::new().unwrap();
    let (service, at) = start(&hub, store);
    for n in 1..=4 {
        for country in ["LU", "FR", "NL"] {
            hub.deliver(country, &all[&country.parse().unwrap()][n - 1]).unwrap();
        }
        // One by one, so that each is a batch of its own.
        wait_until("a batch", || ["LU", "FR", "NL"].iter().all(|c| served(&client, &hub, &at, c) == n));
    }
    let (before, _) = client.walk(&hub, &at, "NL").unwrap();
    drop(service);
    change(&objects(store, "data", "FR")[2]);
    change(&objects(store, "log", "NL")[1]);
    let (_service, at) = start(&hub, store);
    // Clients are told to try again; what is wrong is for the operator.
    let (pages, end) = client.walk(&hub, &at, "FR").unwrap();
    assert_eq!((pages.len(), end), (2, End::Status(StatusCode::SERVICE_UNAVAILABLE)));
    // The keys are held against the log and the log against nothing, until somebody verifies the store.
    let (pages, _) = client.walk(&hub, &at, "NL").unwrap();
    assert!(before == pages || before.starts_with(&pages), "other keys than before");
    for (country, number) in [("FR", 3), ("NL", 2)] {
        let fault = hub.verify_store(store, country).unwrap().fault;
        // A log object that was changed is found by itself or by the one behind it.
        assert!(
            fault.as_ref().is_some_and(|f| f.number == number || f.number == number + 1),
            "{country}: {fault:?}"
        );
    }
    for country in ["LU", "FR", "NL"] {
        hub.deliver(country, &all[&country.parse().unwrap()][4]).unwrap();
    }
    wait_until("the next batch for LU", || served(&client, &hub, &at, "LU") == 5);
    assert_eq!(hub.verify_store(store, "LU").unwrap().fault, None);
}
