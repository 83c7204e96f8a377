//! Uploads that wait for one another: until there are enough keys, or the time is over, or the day, or the instance ends.
//!
//! Where a wait must not end by its time it is an hour, so that no machine is too slow for these tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use common::{
    DAY, HOUR, Hub, NOON, Set, cc,
    instance::{Instance, List, Terms, tokio},
};
use keyferry_runtime::{
    codec::{Codec, SCHEMAS, SchemaSource},
    health::Health,
    shutdown::Shutdown,
};
use keyferry_schemas::time::Millis;
use keyferry_sinks::{shelf::Shelf, store::Store, verify::verify_store};
use object_store::{ObjectStore, memory::InMemory};
use tokio::runtime::Runtime;

const AN_HOUR_MS: u64 = HOUR as u64;

struct Setting {
    tokio: Runtime,
    hub: Hub,
    list: List,
    objects: Arc<InMemory>,
}

impl Setting {
    fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        Self { tokio: tokio(), hub: Hub::new(NOON), list: List::default(), objects }
    }

    fn start(&self, terms: Terms) -> Instance {
        let objects = Arc::clone(&self.objects) as Arc<dyn ObjectStore>;
        let shelf = self.tokio.block_on(Shelf::open(Store::over(objects), cc("DE"))).unwrap();
        let (health, stop) = (Health::new("distribute"), Shutdown::new());
        Instance::run(health, self.tokio.handle(), shelf, &self.list, &self.hub.versions, terms, stop)
    }

    fn push(&mut self, keys: usize, at: Millis) -> i64 {
        self.list.push(&self.hub.batch("FR", "DE", keys, at))
    }

    /// The same, and it is read, and what is done at once is done.
    fn push_and_wait(&mut self, keys: usize, at: Millis) -> i64 {
        let offset = self.push(keys, at);
        self.list.wait_until_read();
        offset
    }

    /// What is logged: tags, and the keys of each upload.
    fn logged(&self) -> Vec<(String, Vec<u64>)> {
        let objects = Arc::clone(&self.objects) as Arc<dyn ObjectStore>;
        let shelf = self.tokio.block_on(Shelf::open(Store::over(objects), cc("DE"))).unwrap();
        let last = shelf.head().map_or(0, |h| h.entry.number);
        let entry = |n| self.tokio.block_on(shelf.entry(n)).unwrap().unwrap();
        let all = (1..=last).map(entry);
        all.map(|s| (s.entry.tag.to_string(), s.entry.uploads.iter().map(|u| u.keys).collect())).collect()
    }

    fn assert_logged(&self, expected: &[(&str, &[u64])]) {
        let expected: Vec<_> =
            expected.iter().map(|(tag, keys)| ((*tag).to_owned(), keys.to_vec())).collect();
        assert_eq!(self.logged(), expected);
    }
}

#[test]
fn uploads_wait_until_there_are_enough_keys() {
    let mut s = Setting::new();
    let instance = s.start(Terms::of(5, AN_HOUR_MS));
    s.push_and_wait(2, NOON);
    s.push_and_wait(2, NOON);
    s.assert_logged(&[]);
    // One more would be too many together; then it waits itself, and a full one waits for none.
    s.push_and_wait(2, NOON);
    s.assert_logged(&[("20201023-1", &[2, 2])]);
    s.push_and_wait(3, NOON);
    s.assert_logged(&[("20201023-1", &[2, 2]), ("20201023-2", &[2, 3])]);
    s.push_and_wait(7, NOON);
    s.assert_logged(&[("20201023-1", &[2, 2]), ("20201023-2", &[2, 3]), ("20201023-3", &[7])]);
    instance.stop();
}

#[test]
fn no_upload_waits_for_longer_than_its_time_or_after_a_stop() {
    let mut s = Setting::new();
    let brief = s.start(Terms::of(5, 25));
    let first = s.push(1, NOON);
    brief.wait_for(first);
    brief.stop();
    let long = s.start(Terms::of(5, AN_HOUR_MS));
    s.push_and_wait(1, NOON);
    s.push_and_wait(1, NOON);
    s.assert_logged(&[("20201023-1", &[1])]);
    long.stop();
    s.assert_logged(&[("20201023-1", &[1]), ("20201023-2", &[1, 1])]);
}

#[test]
fn a_wait_ends_with_the_day() {
    let mut s = Setting::new();
    let midnight = NOON.plus(12 * HOUR);
    let clock = Set::at(midnight.plus(-1));
    let terms = Terms { clock: Arc::clone(&clock) as _, ..Terms::of(9, AN_HOUR_MS) };
    let instance = s.start(terms);
    // By the clock, though nothing more comes.
    let last = s.push_and_wait(1, midnight.plus(-1));
    s.assert_logged(&[]);
    clock.put(midnight);
    instance.wait_for(last);
    // What was made before midnight and comes after it is not kept waiting, but for the date, which never falls.
    let late = s.push(2, midnight.plus(-1));
    instance.wait_for(late);
    s.push_and_wait(3, midnight);
    s.assert_logged(&[("20201023-1", &[1]), ("20201023-2", &[2])]);
    // By an upload of the next day, though the clock is behind.
    s.push_and_wait(4, midnight.plus(DAY));
    s.assert_logged(&[("20201023-1", &[1]), ("20201023-2", &[2]), ("20201024-1", &[3])]);
    instance.stop();
}

#[test]
fn a_checkpoint_waits_for_nothing() {
    let mut s = Setting::new();
    let instance = s.start(Terms::of(5, AN_HOUR_MS));
    s.push_and_wait(1, NOON);
    let good = s.hub.checkpoint("FR", "DE", NOON);
    s.list.push(&good);
    let last = s.push_and_wait(1, NOON);
    s.assert_logged(&[]);
    // One that does not hold is a break at once, and what stands before it is served.
    s.list.push(&good);
    instance.wait_for(last);
    s.assert_logged(&[("20201023-1", &[1, 1])]);
    instance.stop();
}

struct Away;

impl SchemaSource for Away {
    fn schema(&self, _: u32) -> Result<Option<String>, String> {
        Err("it does not answer".into())
    }
}

/// A record whose schema nobody can look up at the moment keeps back what comes after it, and nothing before.
#[test]
fn what_was_verified_does_not_wait_for_the_registry() {
    let mut s = Setting::new();
    let ids: HashMap<_, _> =
        SCHEMAS.iter().zip(1..).map(|((name, _), id)| ((*name).to_owned(), id)).collect();
    let codec = Codec::with_registry(&ids, Box::new(Away)).unwrap();
    let instance = s.start(Terms { codec, ..Terms::of(5, AN_HOUR_MS) });
    let first = s.push(1, NOON);
    s.list.push_bytes(Some(Bytes::from_static(b"\0\0\0\0\x63record")));
    instance.wait_for(first);
    s.push(1, NOON);
    // Asked to stop, it does not take the record for a broken one.
    instance.stop();
    s.assert_logged(&[("20201023-1", &[1])]);
}

/// The one that waits finds on the log what it would have joined, and goes on with what is left.
#[test]
fn who_waits_takes_over_what_another_one_has_logged() {
    let mut s = Setting::new();
    let patient = s.start(Terms::of(5, AN_HOUR_MS));
    let hasty = s.start(Terms::of(5, 0));
    for keys in [1, 2, 1] {
        let last = s.push_and_wait(keys, NOON);
        hasty.wait_for(last);
    }
    assert!(patient.shelf.head().is_none(), "it waits");
    hasty.stop();
    // Now it has five, tries to log them as the first batch, and is too late for four of them.
    let last = s.push_and_wait(1, NOON);
    s.push_and_wait(2, NOON);
    s.assert_logged(&[("20201023-1", &[1]), ("20201023-2", &[2]), ("20201023-3", &[1])]);
    assert_eq!(patient.shelf.head().unwrap().entry.number, 3);
    assert!(patient.shelf.head().unwrap().entry.next_offset <= last);
    patient.stop();
    let report = s.tokio.block_on(async {
        let shelf = Shelf::open(Store::over(Arc::clone(&s.objects) as _), cc("DE")).await.unwrap();
        verify_store(&shelf, &s.hub.versions, Millis(0)).await.unwrap()
    });
    assert_eq!((report.fault, report.batches.len()), (None, 5));
    s.assert_logged(&[
        ("20201023-1", &[1]),
        ("20201023-2", &[2]),
        ("20201023-3", &[1]),
        ("20201023-4", &[1, 2]),
    ]);
}
