//! Follows `keyferry.network`: every version that a pinned trust anchor has signed, and the one in force.
//!
//! Anchors come from the configuration and never from Kafka, so whoever can write the topic still owns nothing: a
//! record that is not signed, or not newer, is refused, counted and passed over. A certificate in it whose text no anchor
//! has signed is left out, said once for each version, and counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;

use keyferry_schemas::{
    avro::AvroError, certificate::Certificate, network::Network, records::NetworkRecord, topics,
};

use crate::{
    clients::is_absence,
    clock::{Clock as _, SystemClock},
    codec::Codec,
    exit::Fatal,
    expiry::Expiry,
    kafka::{Isolation, Kafka},
    tail::{Next, Record, Start, Tail},
};

/// How often what follows from the dates is brought up to the time of day.
const SHOWN_EVERY: Duration = Duration::from_secs(5);

/// All versions, by number.
pub type Versions = BTreeMap<i64, Arc<Network>>;

/// Why the network document can not be had.
#[derive(Debug, thiserror::Error)]
pub enum NetworkUnavailable {
    /// The topic can not be read.
    #[error("{topic} can not be read: {0}; is the broker reachable and was `keyferry topics apply` run?", topic = topics::NETWORK)]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// The broker began to answer and does not go on.
    #[error("{topic} can not be read to its end: the broker does not answer", topic = topics::NETWORK)]
    Silent,
    /// The topic is empty.
    #[error("no network document on {topic} yet; `keyferry network apply` publishes one", topic = topics::NETWORK)]
    Empty,
    /// There is no version that a pinned anchor signed.
    #[error("no trusted network document on {topic}: {0}; do `trust_anchors` name the anchor that signed it?", topic = topics::NETWORK)]
    Untrusted(String),
    /// What it says can not be shown: a mistake in the program.
    #[error(transparent)]
    Metrics(Fatal),
}

impl From<NetworkUnavailable> for Fatal {
    fn from(error: NetworkUnavailable) -> Self {
        match &error {
            NetworkUnavailable::Kafka(e) if !is_absence(e) => Self::unreachable(error),
            NetworkUnavailable::Silent => Self::unreachable(error),
            NetworkUnavailable::Kafka(_) | NetworkUnavailable::Empty => Self::config(error),
            NetworkUnavailable::Untrusted(_) => Self::untrusted(error),
            NetworkUnavailable::Metrics(fatal) => fatal.clone(),
        }
    }
}

/// The network document, kept up to date by a thread. Cheap to clone.
#[derive(Clone)]
pub struct NetworkFeed {
    shared: Arc<Shared>,
}

struct Shared {
    versions: ArcSwap<Versions>,
    stop: AtomicBool,
}

impl NetworkFeed {
    /// Reads the topic to its end, then follows it until the last clone is dropped. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`NetworkUnavailable`]: a role that can not read the document to its end does not start.
    pub fn start(kafka: &Kafka, codec: Codec, anchors: Vec<Certificate>) -> Result<Self, NetworkUnavailable> {
        let mut tail = Tail::open(kafka, topics::NETWORK, Isolation::Committed, Start::Earliest)?;
        let (_, end) = tail.bounds()?;
        let mut expiry = Expiry::new().map_err(NetworkUnavailable::Metrics)?;
        let mut reader = Reader { codec, anchors, versions: Versions::new(), refused: None };
        let deadline = Instant::now() + Duration::from_secs(30);
        while tail.position() < end {
            match tail.next(Duration::from_millis(200))? {
                // Without the registry a role does not start at all.
                Next::Record(record) => reader.read(record, || false),
                Next::End => break,
                Next::Timeout if Instant::now() > deadline => {
                    return Err(NetworkUnavailable::Silent);
                }
                Next::Timeout => (),
            }
        }
        let Some(newest) = reader.newest() else {
            return Err(reader.refused.map_or(NetworkUnavailable::Empty, NetworkUnavailable::Untrusted));
        };
        name_left_out(&newest);
        expiry.show(&newest, SystemClock.now());
        let versions = ArcSwap::from_pointee(reader.versions.clone());
        let shared = Arc::new(Shared { versions, stop: AtomicBool::new(false) });
        let feed = Self { shared: Arc::clone(&shared) };
        std::thread::spawn(move || follow(&mut tail, &mut reader, &mut expiry, &shared));
        Ok(feed)
    }

    /// A feed of fixed versions, for tools that have them from a file.
    #[must_use]
    pub fn fixed(versions: Versions) -> Self {
        let versions = ArcSwap::from_pointee(versions);
        Self { shared: Arc::new(Shared { versions, stop: AtomicBool::new(true) }) }
    }

    /// All versions so far.
    #[must_use]
    pub fn versions(&self) -> Arc<Versions> {
        self.shared.versions.load_full()
    }

    /// The newest version, which is the one in force; there always is one.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Network>> {
        self.shared.versions.load().last_key_value().map(|(_, n)| Arc::clone(n))
    }

    /// Waits until `version` is known. Blocks for up to `timeout`; tells whether it came.
    #[must_use]
    pub fn wait_for(&self, version: i64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.shared.versions.load().contains_key(&version) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Ends the thread that follows the topic.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The rule by which a record on the topic is the next version: a pinned anchor signed it, it is newer than `last`, and of
/// the same network.
///
/// # Errors
/// Why it is not, in one line.
pub fn next_version(
    value: Option<Bytes>,
    decode: impl FnOnce(Bytes) -> Result<NetworkRecord, AvroError>,
    anchors: &[Certificate],
    last: Option<&Network>,
) -> Result<(NetworkRecord, Network), String> {
    let record = decode(value.ok_or("a tombstone")?).map_err(|e| e.to_string())?;
    let network = Network::open(&record, anchors).map_err(|e| e.to_string())?;
    if let Some(last) = last {
        if network.version() <= last.version() {
            return Err(format!("version {} does not follow version {}", network.version(), last.version()));
        }
        if network.name() != last.name() {
            return Err(format!("network {} is not network {}", network.name(), last.name()));
        }
    }
    Ok((record, network))
}

struct Reader {
    codec: Codec,
    anchors: Vec<Certificate>,
    versions: Versions,
    /// Why the last record that was not accepted was not.
    refused: Option<String>,
}

impl Reader {
    fn newest(&self) -> Option<Arc<Network>> {
        self.versions.last_key_value().map(|(_, network)| Arc::clone(network))
    }

    /// Waits for the schema of the record for as long as `go_on` says.
    fn read(&mut self, record: Record, go_on: impl Fn() -> bool) {
        let offset = record.offset;
        if let Err(why) = self.accept(record, go_on) {
            tracing::error!(offset, reason = %why, "a record on {} is refused", topics::NETWORK);
            self.refused = Some(why);
        }
    }

    fn accept(&mut self, record: Record, go_on: impl Fn() -> bool) -> Result<(), String> {
        let last = self.versions.values().next_back().map(AsRef::as_ref);
        let decode = |value| self.codec.await_record(value, go_on);
        let (_, network) = next_version(record.value, decode, &self.anchors, last)?;
        tracing::info!(version = network.version(), network = network.name(), "network document in force");
        self.versions.insert(network.version(), Arc::new(network));
        Ok(())
    }
}

/// Says which certificates of the version in force do not count. Nobody else does while it runs: uploads that need one
/// are refused as those of a stranger.
fn name_left_out(network: &Network) {
    for left_out in network.left_out() {
        let (country, usage, fault) = (left_out.country, left_out.usage.name(), &left_out.fault);
        tracing::error!(version = network.version(), %country, usage, "a certificate does not count: {fault}");
    }
}

fn follow(tail: &mut Tail, reader: &mut Reader, expiry: &mut Expiry, shared: &Arc<Shared>) {
    let mut shown = Instant::now();
    // The thread's own handle is the last one when every feed is gone.
    let go_on = || !shared.stop.load(Ordering::Relaxed) && Arc::strong_count(shared) > 1;
    while go_on() {
        match tail.next(Duration::from_millis(500)) {
            Ok(Next::Record(record)) => {
                let before = reader.newest().map(|n| n.version());
                reader.read(record, go_on);
                shared.versions.store(Arc::new(reader.versions.clone()));
                let newest = reader.newest().filter(|n| Some(n.version()) != before);
                newest.iter().for_each(|network| {
                    name_left_out(network);
                    expiry.show(network, SystemClock.now());
                });
            }
            Ok(Next::End | Next::Timeout) => (),
            Err(e) => tracing::warn!(error = %e, "{} can not be read at the moment", topics::NETWORK),
        }
        if shown.elapsed() > SHOWN_EVERY {
            shown = Instant::now();
            reader.newest().iter().for_each(|network| expiry.show(network, SystemClock.now()));
        }
    }
}
