//! Follows the ledgers of all members, in one thread with one consumer, and tells [`Decisions`] what they say.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use keyferry_runtime::{
    clock::SharedClock,
    codec::Codec,
    exit::{Exit, Fatal},
    follow::Follower,
    health::Beat,
    kafka::{Isolation, Kafka},
    network::NetworkFeed,
    producer::Producer,
    tail::{Record, Start},
};
use keyferry_schemas::{
    avro::AvroError,
    country::Country,
    network::{MemberState, Network},
    records::LedgerEntry,
    topics,
};

use crate::{answer::Decision, decisions::Decisions, metrics::Metrics};

const TURN: Duration = Duration::from_millis(200);
/// How long to leave a fault alone.
const PAUSE: Duration = Duration::from_secs(1);
/// A turn takes some seconds while the broker does not answer; beyond this nothing moves any more.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(60);

/// What the thread works with.
pub(crate) struct Ledgers {
    pub(crate) kafka: Kafka,
    pub(crate) codec: Codec,
    pub(crate) network: NetworkFeed,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) producer: Producer,
    pub(crate) metrics: Metrics,
    pub(crate) clock: SharedClock,
    pub(crate) beat: Beat,
}

/// The thread. It ends when this is dropped, within a turn.
pub(crate) struct Following {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ledgers {
    /// Begins at the ends of all ledgers: what is uploaded from now on is decided behind them. Blocks until the ends
    /// are known, or for up to 10 s if the broker does not answer.
    ///
    /// # Errors
    /// The broker can not be reached, or there is no ledger at all.
    pub(crate) fn start(self) -> Result<Following, Fatal> {
        let follower = Follower::new(&self.kafka, Isolation::Committed);
        let mut follower = follower.map_err(|e| self.kafka.fatal("keyferry.ledger.*", &e))?;
        // One topic that is missing must not keep the other members out; none at all is another matter.
        if let Some(failed) = self.extend(&mut follower)
            && self.followed(&follower).is_empty()
        {
            return Err(failed);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("ledgers".into())
            .spawn(move || self.run(&mut follower, &stopped))
            .map_err(|e| Fatal::failure(format_args!("no thread for the ledgers: {e}")))?;
        Ok(Following { stop, thread: Some(thread) })
    }

    fn run(&self, follower: &mut Follower, stop: &AtomicBool) {
        let mut version = 0;
        let mut turn = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            match follower.next(TURN) {
                Ok(Some((topic, record))) => {
                    self.take(&topic, record, || {
                        self.beat.idle();
                        !stop.load(Ordering::Relaxed)
                    });
                    self.beat.progress();
                }
                Ok(None) => {
                    self.beat.idle();
                    turn = turn.wrapping_add(1);
                }
                Err(error) => self.recover(follower, &error.to_string()),
            }
            let current = self.network.current().map_or(0, |n| n.version());
            // A new member is there at once; what could not be opened is tried again every few seconds.
            if current != version || turn >= 25 {
                (version, turn) = (current, 0);
                // What is missing is a country's affair and has its own metric: unready, the gateway could take from none.
                let _ = self.extend(follower);
                self.beat.ready(self.reachable(&self.followed(follower)));
            }
        }
    }

    /// Opens the ledgers that are not read yet; says why if one can not be opened.
    fn extend(&self, follower: &mut Follower) -> Option<Fatal> {
        let network = self.network.current()?;
        self.metrics.members(network.countries());
        let mut failed = None;
        for country in self.members(&network) {
            let topic = topics::ledger(country);
            if follower.follows(&topic) {
                continue;
            }
            self.beat.idle();
            if let Err(error) = follower.add(&topic, Start::End) {
                let error = self.kafka.fatal(&topic, &error);
                tracing::error!(%country, %error, "a ledger can not be read, so its country can not upload here");
                // The others would only take as long to say the same.
                let silent = error.exit == Exit::Unreachable;
                failed = Some(error);
                if silent {
                    break;
                }
            }
        }
        self.tell(self.followed(follower));
        failed
    }

    /// Those that have a ledger: a member that left has none any more.
    fn members<'a>(&self, network: &'a Network) -> impl Iterator<Item = Country> + use<'a> {
        let now = self.clock.now();
        network.countries().filter(move |c| network.state(*c, now) != MemberState::Left)
    }

    fn followed(&self, follower: &Follower) -> BTreeSet<Country> {
        let network = self.network.current();
        let countries = network.iter().flat_map(|n| n.countries());
        countries.filter(|c| follower.follows(&topics::ledger(*c))).collect()
    }

    /// Whether anybody can upload: one of these countries, as far as is known. Blocks for up to 2 s for each that is
    /// asked about, which are few: without a broker none answers.
    fn reachable(&self, followed: &BTreeSet<Country>) -> bool {
        followed.iter().take(3).any(|country| self.producer.reachable(&topics::uploads(*country)))
    }

    /// From now on exactly these ledgers are read.
    fn tell(&self, followed: BTreeSet<Country>) {
        let network = self.network.current();
        for country in network.iter().flat_map(|n| self.members(n)) {
            self.metrics.followed(country, followed.contains(&country));
        }
        self.decisions.follow(followed);
    }

    fn recover(&self, follower: &mut Follower, error: &str) {
        tracing::warn!(error, "the ledgers can not be read at the moment");
        thread::sleep(PAUSE);
        match follower.recover() {
            Ok(gone) if !gone.is_empty() => tracing::warn!(?gone, "ledgers are gone"),
            Ok(_) => (),
            Err(error) => tracing::warn!(%error, "the ledgers can not be read yet"),
        }
        self.tell(self.followed(follower));
    }

    /// Waits for the schema of the record for as long as `go_on` says.
    fn take(&self, topic: &str, record: Record, go_on: impl Fn() -> bool) {
        let offset = record.offset;
        let entry = record.value.map(|value| self.codec.await_record::<LedgerEntry>(value, go_on));
        match entry {
            // Which country it is stands in the topic, where access control can see it, and not in the record.
            Some(Ok(entry)) if topics::ledger(entry.origin) == topic => {
                let decision = Decision::of(&entry);
                let now = self.clock.now();
                self.decisions.decided(entry.origin, entry.source_offset, entry.upload_id, decision, now);
            }
            Some(Ok(_)) => tracing::error!(topic, offset, "an entry of another origin is passed over"),
            // The thread is to end; the entry is nobody's fault.
            Some(Err(AvroError::Unavailable(_))) => (),
            Some(Err(error)) => tracing::error!(topic, offset, %error, "an entry can not be read"),
            None => tracing::error!(topic, offset, "an entry without a value is passed over"),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended as well.
            let _ = thread.join();
        }
    }
}
