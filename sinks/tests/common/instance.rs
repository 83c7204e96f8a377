//! A topic that is a list, and workers that read it.

use std::{
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use object_store::ObjectStore;
use tokio::runtime::{Handle, Runtime};

use keyferry_runtime::{
    clock::SharedClock,
    codec::Codec,
    health::Health,
    network::{NetworkFeed, Versions},
    shutdown::Shutdown,
    tail::{Next, Record},
};
use keyferry_schemas::{avro::Record as Avro, country::Country, time::Millis, topics};
use keyferry_sinks::{
    joining::Joining,
    metrics::Metrics,
    shelf::Shelf,
    source::{Opened, Source, Topic},
    store::Store,
    worker::Worker,
};

use super::NOON;

/// A topic. Clones are the same; records can be added while it is read.
#[derive(Clone, Default)]
pub struct List(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    records: Vec<(i64, Option<Bytes>)>,
    first: i64,
    hangs: bool,
    /// How often a reader was told that there is nothing more.
    ends: u64,
}

impl List {
    /// Adds a record as a transaction of its own: behind it stands a marker, which takes an offset and is no record.
    pub fn push<R: Avro>(&self, record: &R) -> i64 {
        self.push_bytes(Some(codec().encode(record).into()))
    }

    pub fn push_bytes(&self, value: Option<Bytes>) -> i64 {
        let mut inner = self.0.lock().unwrap();
        let offset = inner.records.last().map_or(inner.first, |(offset, _)| offset + 2);
        inner.records.push((offset, value));
        offset
    }

    /// From now on its readers get nothing, though there is something, or go on.
    pub fn hang(&self, hangs: bool) {
        self.0.lock().unwrap().hangs = hangs;
    }

    /// Offset of the last record.
    pub fn last(&self) -> i64 {
        self.0.lock().unwrap().records.last().unwrap().0
    }

    /// Waits until a reader has read everything, has done with it what it does at once, and asks for more.
    pub fn wait_until_read(&self) {
        let ends = || self.0.lock().unwrap().ends;
        let (begun, before) = (Instant::now(), ends());
        // The end that is told next may be told to one that had not done it yet.
        while ends() < before + 3 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody reads");
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Forgets what stands before `first`.
    pub fn expire(&self, first: i64) {
        let mut inner = self.0.lock().unwrap();
        inner.first = first;
        inner.records.retain(|(offset, _)| *offset >= first);
    }

    pub fn replace(&self, offset: i64, value: Option<Bytes>) {
        let mut inner = self.0.lock().unwrap();
        inner.records.iter_mut().find(|(o, _)| *o == offset).unwrap().1 = value;
    }
}

struct Reading {
    list: List,
    position: i64,
}

impl Topic for List {
    fn name(&self) -> &str {
        "keyferry.keys.de"
    }

    fn open(&self, offset: i64) -> Result<Opened, String> {
        let inner = self.0.lock().unwrap();
        let (first, end) = (inner.first, inner.records.last().map_or(inner.first, |(last, _)| last + 2));
        let source = Box::new(Reading { list: self.clone(), position: offset.max(first) });
        Ok(Opened { source, gap: offset < first, end })
    }
}

impl Source for Reading {
    fn next(&mut self, timeout: Duration) -> Result<Next, String> {
        let mut inner = self.list.0.lock().unwrap();
        if inner.hangs {
            drop(inner);
            std::thread::sleep(timeout);
            return Ok(Next::Timeout);
        }
        let Some((offset, value)) = inner.records.iter().find(|(o, _)| *o >= self.position).cloned() else {
            inner.ends += 1;
            drop(inner);
            std::thread::sleep(timeout.min(Duration::from_millis(2)));
            return Ok(Next::End);
        };
        self.position = offset + 1;
        Ok(Next::Record(Record { offset, timestamp: Millis(0), key: None, value, headers: vec![] }))
    }

    fn at_end(&self) -> Result<bool, String> {
        Ok(!self.list.0.lock().unwrap().hangs)
    }
}

pub fn codec() -> Codec {
    Codec::single_object().unwrap()
}

/// How an instance joins uploads and reads records, and what time it is there.
#[derive(Clone)]
pub struct Terms {
    pub joining: Joining,
    pub clock: SharedClock,
    pub codec: Codec,
}

impl Terms {
    /// Waits for up to `wait_ms`, at noon.
    pub fn of(max_keys: usize, wait_ms: u64) -> Self {
        let wait = Duration::from_millis(wait_ms);
        Self { joining: Joining { max_keys, wait }, clock: Arc::new(NOON), codec: codec() }
    }
}

/// A worker in its thread.
pub struct Instance {
    pub shelf: Arc<Shelf>,
    pub health: Health,
    pub stop: Shutdown,
    thread: JoinHandle<()>,
}

impl Instance {
    pub fn start(
        tokio: &Handle,
        country: Country,
        objects: Arc<dyn ObjectStore>,
        list: &List,
        versions: &Versions,
    ) -> Self {
        Self::start_beside(Health::new("distribute"), tokio, country, objects, list, versions)
    }

    /// In a process with others.
    pub fn start_beside(
        health: Health,
        tokio: &Handle,
        country: Country,
        objects: Arc<dyn ObjectStore>,
        list: &List,
        versions: &Versions,
    ) -> Self {
        let shelf = tokio.block_on(Shelf::open(Store::over(objects), country)).unwrap();
        Self::run(health, tokio, shelf, list, versions, Terms::of(5, 0), Shutdown::new())
    }

    /// `None` if the store died before the worker began.
    pub fn try_start(
        tokio: &Handle,
        country: Country,
        objects: Arc<dyn ObjectStore>,
        list: &List,
        versions: &Versions,
        terms: Terms,
        stop: Shutdown,
    ) -> Option<Self> {
        let shelf = tokio.block_on(Shelf::open(Store::over(objects), country)).ok()?;
        Some(Self::run(Health::new("distribute"), tokio, shelf, list, versions, terms, stop))
    }

    /// Over a shelf that is open.
    pub fn run(
        health: Health,
        tokio: &Handle,
        shelf: Shelf,
        list: &List,
        versions: &Versions,
        terms: Terms,
        stop: Shutdown,
    ) -> Self {
        let shelf = Arc::new(shelf);
        let worker = Worker {
            topic: Box::new(list.clone()),
            shelf: Arc::clone(&shelf),
            codec: terms.codec,
            feed: NetworkFeed::fixed(versions.clone()),
            proofs: Arc::default(),
            joining: terms.joining,
            clock: terms.clock,
            beat: health.component(&topics::keys(shelf.country()), Duration::from_secs(60)),
            metrics: Metrics::new().unwrap(),
            stop: stop.clone(),
            tokio: tokio.clone(),
        };
        let thread = std::thread::spawn(move || worker.run());
        Self { shelf, health, stop, thread }
    }

    /// Waits until everything before `offset` is logged, or it was stopped.
    pub fn wait_for(&self, offset: i64) {
        let begun = Instant::now();
        while !self.stop.is_tripped() && self.shelf.head().is_none_or(|h| h.entry.next_offset <= offset) {
            assert!(begun.elapsed() < Duration::from_secs(20), "offset {offset} is not logged");
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    pub fn stop(self) {
        self.stop.trip();
        self.thread.join().unwrap();
    }
}

pub fn tokio() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
