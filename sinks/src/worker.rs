//! One country: reads its topic, verifies, stores. A thread of its own, so that a break in one country stops no other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use keyferry_runtime::{
    clock::SharedClock, codec::Codec, health::Beat, network::NetworkFeed, shutdown::Shutdown, tail::Next,
};

use crate::{
    intake::{ChainBreak, Diverged, Intake, Read},
    log::draft,
    metrics::Metrics,
    shelf::{Appended, Shelf},
    source::{Opened, Source, Topic},
    store::StoreError,
};

/// How long one turn waits for a record; a stop is noticed within this time.
const TURN: Duration = Duration::from_millis(200);
/// After this much silence the broker is asked whether there really is nothing to read.
const DOUBT: Duration = Duration::from_secs(10);
/// The network document may come later than what was signed under it; not later than this.
const NETWORK_PATIENCE: Duration = Duration::from_secs(60);
/// Between attempts, after a passing fault and after a break.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const AFTER_BREAK: Duration = Duration::from_secs(60);
/// Longest silence of a worker that is alive: the broker and the store may each keep it waiting for a while.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(120);

/// The worker of one country.
pub struct Worker {
    /// What it reads.
    pub topic: Box<dyn Topic>,
    /// Where it stores.
    pub shelf: Arc<Shelf>,
    /// Decodes.
    pub codec: Codec,
    /// What it verifies against.
    pub feed: NetworkFeed,
    /// Most keys that several uploads may have together in one download batch.
    pub max_keys: usize,
    /// For metrics only.
    pub clock: SharedClock,
    /// How it is.
    pub beat: Beat,
    /// What it counts.
    pub metrics: Metrics,
    /// When to stop.
    pub stop: Shutdown,
    /// Where the store's requests run.
    pub tokio: Handle,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Kafka(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Diverged(#[from] Diverged),
    #[error(transparent)]
    Broken(#[from] ChainBreak),
}

impl Worker {
    /// Works until it is told to stop. Blocks: for a thread of its own, never for one of tokio's.
    pub fn run(self) {
        let destination = self.shelf.country();
        let mut broken_at = None;
        let mut pause = PAUSES.0;
        while !self.stop.is_tripped() {
            let begun = Instant::now();
            let Err(fault) = self.session() else { break };
            let topic = self.topic.name();
            match &fault {
                Fault::Broken(chain_break) => {
                    self.beat.ready(false);
                    let ChainBreak { offset, origin, sequence, reason } = chain_break;
                    tracing::error!(
                        %destination, topic, offset, origin = origin.map(|o| o.to_string()), sequence, %reason,
                        "chain broken: nothing after this record is served"
                    );
                    if broken_at.replace(*offset) != Some(*offset) {
                        self.metrics.broke(*origin, &self.feed);
                    }
                }
                Fault::Store(StoreError::Corrupt { .. }) => {
                    self.beat.ready(false);
                    tracing::error!(%destination, reason = %fault, "the store is damaged");
                }
                _ => tracing::warn!(%destination, topic, reason = %fault, "trying again"),
            }
            if begun.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            // A break is looked at again, because what was missing may have come; it is one break all the same.
            self.rest(if matches!(fault, Fault::Broken(_)) { AFTER_BREAK } else { pause });
            pause = (pause * 2).min(PAUSES.1);
        }
        self.beat.retire();
    }

    /// From where the log ends until a fault or the stop.
    fn session(&self) -> Result<(), Fault> {
        self.tokio.block_on(self.shelf.follow())?;
        let head = self.shelf.head();
        let from = head.as_ref().map_or(0, |h| h.entry.next_offset);
        let Opened { mut source, gap, end } = self.topic.open(from).map_err(Fault::Kafka)?;
        if gap {
            tracing::warn!(
                destination = %self.shelf.country(), topic = self.topic.name(), offset = from,
                "records from here on are no longer on the topic; the chains will show whether any keys are missing"
            );
        }
        let mut intake = Intake::resume(self.shelf.country(), head.as_deref(), gap);
        let mut heard = Instant::now();
        while !self.stop.is_tripped() {
            let filled = self.fill(&mut *source, &mut intake, &mut heard);
            // What stands before a break was verified and is served.
            self.flush(&mut intake)?;
            filled?;
            // Under a steady stream the end is never seen; that it was reached once is enough.
            if intake.position() >= end {
                self.beat.ready(true);
            }
        }
        Ok(())
    }

    /// Takes what is there, up to one download batch. Waits for the first record only.
    fn fill(&self, source: &mut dyn Source, intake: &mut Intake, heard: &mut Instant) -> Result<(), Fault> {
        let mut timeout = TURN;
        while intake.pending_keys() < self.max_keys && !self.stop.is_tripped() {
            match source.next(timeout).map_err(Fault::Kafka)? {
                Next::Record(record) => {
                    let read = Read::of(record.value.map(|value| self.codec.decode_keys(value)));
                    if !self.await_network(&read) {
                        break;
                    }
                    intake.take(record.offset, &read, &self.feed.versions())?;
                    self.beat.progress();
                    *heard = Instant::now();
                }
                Next::End => {
                    self.beat.ready(true);
                    self.beat.idle();
                    *heard = Instant::now();
                    break;
                }
                Next::Timeout => {
                    self.doubt(source, heard);
                    break;
                }
            }
            timeout = Duration::ZERO;
        }
        Ok(())
    }

    /// Nothing came. A reader that hangs before records that are there must look stalled, and not idle.
    fn doubt(&self, source: &dyn Source, heard: &mut Instant) {
        if heard.elapsed() < DOUBT {
            self.beat.idle();
        } else if source.at_end().unwrap_or(true) {
            // A broker that can not be reached is no reason to restart what can still serve downloads.
            self.beat.idle();
            *heard = Instant::now();
        }
    }

    /// Waits for the network version that a record needs; `false` if the worker is to stop meanwhile.
    fn await_network(&self, read: &Read) -> bool {
        let begun = Instant::now();
        while !read.is_decidable(&self.feed.versions()) && begun.elapsed() < NETWORK_PATIENCE {
            if self.stop.is_tripped() {
                return false;
            }
            self.beat.idle();
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Stores everything that was taken.
    fn flush(&self, intake: &mut Intake) -> Result<(), Fault> {
        let destination = self.shelf.country();
        loop {
            let head = self.shelf.head();
            // A download may have followed another instance's log in the meantime.
            if let Some(head) = head.as_deref().filter(|h| h.entry.number > intake.stands_on()) {
                intake.rebase(head)?;
            }
            let joined = intake.joined(head.as_deref(), self.max_keys);
            let Some(draft) = draft(destination, head.as_deref(), &joined) else { return Ok(()) };
            let made: Vec<_> = joined.iter().map(|b| b.manifest().created_at).collect();
            let appended = self.tokio.block_on(self.shelf.append(&draft))?;
            self.beat.progress();
            if appended == Appended::Ours {
                let now = self.clock.now();
                made.into_iter().for_each(|t| self.metrics.downloadable(destination, t, now));
                let entry = &draft.sealed.entry;
                tracing::info!(
                    %destination, tag = %entry.tag, uploads = entry.uploads.len(), keys = entry.data.keys,
                    offset = entry.last_offset, "downloadable"
                );
            }
        }
    }

    fn rest(&self, pause: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < pause && !self.stop.is_tripped() {
            self.beat.idle();
            std::thread::sleep(TURN.min(pause));
        }
    }
}
