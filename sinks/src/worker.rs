//! One country: reads its topic, verifies, stores. A thread of its own, so that a break in one country stops no other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::civil::Date;
use tokio::runtime::Handle;

use keyferry_runtime::{
    clock::SharedClock, codec::Codec, health::Beat, network::NetworkFeed, shutdown::Shutdown, tail::Next,
};
use keyferry_schemas::{avro::AvroError, chain::Proofs};

use crate::{
    intake::{Intake, Read},
    joining::{Joined, Joining, MAX_UPLOADS, Waiting},
    log::draft,
    metrics::Metrics,
    patience::patiently,
    shelf::{Appended, Shelf},
    source::{Opened, Source, Topic},
    standing::{Fault, Standing},
    tag::date_of,
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
/// Longest silence of a part that is alive: the broker may keep it waiting for a while.
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
    /// What the workers of other countries have proven.
    pub proofs: Arc<Proofs>,
    /// What it joins into one download batch.
    pub joining: Joining,
    /// For metrics, and for the end of a day.
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

/// When something was heard last.
struct Heard {
    at: Instant,
    /// Whether the broker was asked since, and did not say that there is nothing to read.
    doubtful: bool,
}

impl Heard {
    fn now() -> Self {
        Self { at: Instant::now(), doubtful: false }
    }
}

impl Worker {
    /// Works until it is told to stop. Blocks: for a thread of its own, never for one of tokio's.
    pub fn run(self) {
        let (beat, metrics, feed) = (self.beat.clone(), self.metrics.clone(), self.feed.clone());
        let mut standing = Standing::new(self.shelf.country(), self.topic.name(), beat, metrics, feed);
        let mut pause = PAUSES.0;
        while !self.stop.is_tripped() {
            let (begun, before) = (Instant::now(), *self.shelf.watch().borrow());
            let Err(fault) = self.session(&mut standing) else { break };
            standing.failed(&fault);
            // Outages that follow one another are no long one.
            if begun.elapsed() > PAUSES.1 || *self.shelf.watch().borrow() > before {
                pause = PAUSES.0;
            }
            // A break is looked at again, because what was missing may have come.
            self.rest(if matches!(fault, Fault::Broken(_)) { AFTER_BREAK } else { pause });
            pause = (pause * 2).min(PAUSES.1);
        }
        self.beat.retire();
    }

    /// From where the log ends until a fault or the stop.
    fn session(&self, standing: &mut Standing) -> Result<(), Fault> {
        self.store(self.shelf.follow())?;
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
        let (mut heard, mut waiting) = (Heard::now(), Waiting::default());
        let mut turn = TURN;
        while !self.stop.is_tripped() {
            let filled = self.fill(&mut *source, &mut intake, &mut heard, standing, turn);
            // What stands before a break was verified and is served.
            if filled.is_err() {
                self.flush(&mut intake)?;
            }
            turn = self.log(&mut intake, |first, day| {
                waiting.left(self.joining.wait, (first, day), (Instant::now(), date_of(self.clock.now())))
            })?;
            let at_end = filled?;
            // Under a steady stream the end is never seen; that it was reached once is enough.
            if (at_end || intake.position() >= end) && !heard.doubtful {
                standing.followed();
            }
        }
        // What waited for others waits no longer.
        self.flush(&mut intake)
    }

    /// Takes what is there, up to one download batch; tells whether that is all. Waits for the first record only, for up
    /// to `timeout`.
    fn fill(
        &self,
        source: &mut dyn Source,
        intake: &mut Intake,
        heard: &mut Heard,
        standing: &mut Standing,
        mut timeout: Duration,
    ) -> Result<bool, Fault> {
        let full = |i: &Intake| i.pending_keys() >= self.joining.max_keys || i.pending().len() >= MAX_UPLOADS;
        while !full(intake) && !self.stop.is_tripped() {
            match source.next(timeout).map_err(Fault::Kafka)? {
                Next::Record(record) => {
                    let Some(read) = self.decode(record.value, intake)? else { break };
                    if !read.is_decidable(&self.feed.versions()) {
                        // What was verified already does not wait for it.
                        self.flush(intake)?;
                        if !self.await_network(&read) {
                            break;
                        }
                    }
                    intake.take(record.offset, &read, &self.feed.versions(), &self.proofs)?;
                    if let Read::Checkpoint(checkpoint) = &read {
                        let destination = self.shelf.country();
                        self.metrics.stated.heard(checkpoint.origin, destination, checkpoint.at);
                    }
                    self.beat.progress();
                    *heard = Heard::now();
                }
                Next::End => {
                    self.beat.idle();
                    *heard = Heard::now();
                    return Ok(true);
                }
                Next::Timeout => {
                    self.doubt(source, heard, standing);
                    break;
                }
            }
            timeout = Duration::ZERO;
        }
        Ok(false)
    }

    /// Decodes a record, patiently if the registry is away; `None` if the worker is to stop meanwhile.
    fn decode(&self, value: Option<Bytes>, intake: &mut Intake) -> Result<Option<Read>, Fault> {
        let Some(value) = value else { return Ok(Some(Read::of(None))) };
        let away = |decoded: &_| matches!(decoded, Err(AvroError::Unavailable(_)));
        let mut decoded = self.codec.decode_keys(value.clone());
        if away(&decoded) {
            // What was verified already does not wait for it.
            self.flush(intake)?;
            decoded = self.codec.await_keys(value, || {
                self.beat.idle();
                !self.stop.is_tripped()
            });
        }
        Ok((!away(&decoded)).then(|| Read::of(Some(decoded))))
    }

    /// Nothing came. A reader that hangs before records that are there must look stalled, and not idle.
    fn doubt(&self, source: &dyn Source, heard: &mut Heard, standing: &mut Standing) {
        if heard.at.elapsed() < DOUBT {
            return self.beat.idle();
        }
        match source.at_end() {
            Ok(true) => *heard = Heard::now(),
            Ok(false) => {
                heard.doubtful = true;
                return standing.doubted("there are records that do not come");
            }
            // A broker that can not be reached is no reason to restart what can still serve downloads.
            Err(why) => {
                *heard = Heard { at: Instant::now(), doubtful: true };
                standing.doubted(&why);
            }
        }
        self.beat.idle();
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
        self.log(intake, |_, _| Duration::ZERO).map(drop)
    }

    /// Stores what was taken, except for a download batch that others may still be added to and that may wait for them, by
    /// the offset of its first and its day. Returns how long to listen for more. What waits is verified: meanwhile reading
    /// goes on, and so a checkpoint is heard at once.
    fn log(
        &self,
        intake: &mut Intake,
        mut left: impl FnMut(i64, Date) -> Duration,
    ) -> Result<Duration, Fault> {
        let destination = self.shelf.country();
        loop {
            let head = self.shelf.head();
            // A download may have followed another instance's log in the meantime.
            if let Some(head) = head.as_deref().filter(|h| h.entry.number > intake.stands_on()) {
                intake.rebase(head)?;
            }
            let joined = Joined::next(intake, head.as_deref(), self.joining.max_keys);
            let Some(joined) = joined else { return Ok(TURN) };
            let first = joined.batches.first().map_or(0, |b| b.offset);
            let left = if joined.closed { Duration::ZERO } else { left(first, joined.date) };
            if !left.is_zero() {
                return Ok(left.min(TURN));
            }
            let Some(draft) = draft(destination, head.as_deref(), &joined.batches) else { return Ok(TURN) };
            let made: Vec<_> = joined.batches.iter().map(|b| b.manifest().created_at).collect();
            let appended = self.store(self.shelf.append(&draft))?;
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

    /// Waits for the store.
    fn store<T>(&self, request: impl Future<Output = T>) -> T {
        self.tokio.block_on(patiently(&self.beat, request))
    }

    fn rest(&self, pause: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < pause && !self.stop.is_tripped() {
            self.beat.idle();
            std::thread::sleep(TURN.min(pause));
        }
    }
}
