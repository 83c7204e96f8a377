//! Taking over an origin: its state is rebuilt from what stands in Kafka before the first of its records is read.
//!
//! The order matters. Commit markers land on each partition by themselves, so the committed offset may be visible
//! before the ledger entry that goes with it; and a dead instance may have left a transaction open.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_schemas::{
    avro::AvroError,
    country::Country,
    records::{Head, LedgerEntry},
    topics,
};

use super::{
    Application,
    decide::WRITER,
    fault::Fault,
    guard,
    log::{Committed, Log, Offsets, Reader, Writer},
};
use crate::{
    codec::Codec,
    kafka::Isolation,
    network::NetworkFeed,
    skew::BrokerClock,
    tail::{BROKER_TIMEOUT, Next, Record, Start},
};

/// A transaction that hides records for longer than this was left open by a dead instance.
const PATIENCE: Duration = Duration::from_secs(1);
/// No origin takes longer than this unless something is wrong that time does not heal.
const LIMIT: Duration = Duration::from_secs(600);

/// Why an origin can not be taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeoverFault {
    /// May pass: it is tried again.
    #[error("kafka: {0}")]
    Kafka(#[from] Fault),
    /// May pass as well.
    #[error("{0}")]
    Late(String),
    /// Does not pass: the origin stops until an operator has looked at it.
    #[error("{0}")]
    Broken(String),
}

impl TakeoverFault {
    /// A registry that does not answer says nothing about the record.
    fn undecoded(topic: &str, offset: i64, error: &AvroError) -> Self {
        let why = format!("{topic} offset {offset}: {error}");
        if matches!(error, AvroError::Unavailable(_)) { Self::Late(why) } else { Self::Broken(why) }
    }
}

/// An origin that is ready.
pub(super) struct Restored<S> {
    pub state: S,
    pub next_offset: i64,
}

/// Takes origins over, off the thread that polls.
pub(super) struct Takeover<'a, A, L> {
    pub application: &'a A,
    pub kafka: &'a L,
    pub codec: &'a Codec,
    pub network: &'a NetworkFeed,
    pub instance: &'a str,
    pub clock: &'a Arc<BrokerClock>,
}

impl<A: Application, L: Log> Takeover<'_, A, L> {
    /// Restores one origin. Blocks for as long as its ledger takes to read.
    pub fn run(&self, origin: Country) -> Result<Restored<A::State>, TakeoverFault> {
        let deadline = self.kafka.now() + LIMIT;
        let ledger = topics::ledger(origin);
        guard::pass("takeover-begins", self.instance);
        let committed = self.committed_offset(origin, deadline)?;
        guard::pass("takeover-committed", self.instance);
        let (state, last) = self.read_ledger(origin, &ledger, deadline)?;
        guard::pass("takeover-ledger", self.instance);
        let (state, head) = self.read_head(origin, state, last.as_ref(), deadline)?;
        guard::pass("takeover-head", self.instance);
        let decided = last.as_ref().map(|e| e.source_offset).or(head.as_ref().map(|h| h.source_offset));
        let next_offset = self.agree(origin, committed, decided)?;
        // Checkpoints may name a later version than the last entry does.
        let version = last.as_ref().map(|e| e.network_version).max(head.as_ref().map(|h| h.network_version));
        if let Some(version) = version
            && !self.network.wait_for(version, BROKER_TIMEOUT)
        {
            return Err(TakeoverFault::Late(format!(
                "network version {version}, under which this origin was decided, is not here yet"
            )));
        }
        Ok(Restored { state, next_offset })
    }

    /// The offset that the group has committed, once no transaction can change it any more.
    fn committed_offset(&self, origin: Country, deadline: Instant) -> Result<Option<i64>, TakeoverFault> {
        // guard: read_committed selects the stable offset. Another one may still be overtaken by a zombie's commit.
        let isolation =
            if guard::stands("guard-stable-offset") { Isolation::Committed } else { Isolation::Uncommitted };
        let offsets = self.kafka.offsets(isolation)?;
        let topic = topics::uploads(origin);
        loop {
            match offsets.committed(&topic, PATIENCE)? {
                Committed::At(offset) => return Ok(Some(offset)),
                Committed::Nothing => return Ok(None),
                Committed::Unstable => self.fence_open_writers(origin)?,
            }
            self.late(deadline, || format!("the committed offset of {topic} does not become stable"))?;
        }
    }

    /// Reads the ledger up to what stood in it when the committed offset was known, hidden records included.
    fn read_ledger(
        &self,
        origin: Country,
        ledger: &str,
        deadline: Instant,
    ) -> Result<(A::State, Option<LedgerEntry>), TakeoverFault> {
        let mark = self.mark(ledger)?;
        let first = self.kafka.reader(&topics::uploads(origin), Isolation::Committed, Start::Earliest)?;
        let mut state = self.application.blank(origin, first.position());
        let mut last = None;
        let mut tail = self.kafka.reader(ledger, Isolation::Committed, Start::Earliest)?;
        let mut moved = self.kafka.now();
        while tail.position() < mark {
            let before = tail.position();
            if let Next::Record(record) = tail.next(Duration::from_millis(50))? {
                let offset = record.offset;
                let entry: LedgerEntry = self
                    .codec
                    .decode(record.value.unwrap_or_default())
                    .map_err(|e| TakeoverFault::undecoded(ledger, offset, &e))?;
                self.application
                    .replay(&mut state, &entry, last.is_none())
                    .map_err(|why| TakeoverFault::Broken(format!("{ledger} offset {offset}: {why}")))?;
                last = Some(entry);
            }
            if tail.position() > before {
                moved = self.kafka.now();
            } else if self.kafka.now() - moved > PATIENCE {
                self.fence_open_writers(origin)?;
                moved = self.kafka.now();
            }
            self.late(deadline, || format!("{ledger} can not be read to its end"))?;
        }
        Ok((state, last))
    }

    /// How far a topic has to be read so that nothing is missed that was written before the committed offset.
    fn mark(&self, topic: &str) -> Result<i64, Fault> {
        // guard: the end as an uncommitted reader sees it. The committed end may lie before an entry whose offset is
        // committed already.
        let isolation =
            if guard::stands("guard-mark") { Isolation::Uncommitted } else { Isolation::Committed };
        Ok(self.kafka.reader(topic, isolation, Start::End)?.position())
    }

    /// Finds the origin's last head: the one written with the last entry, or the last there is.
    fn read_head(
        &self,
        origin: Country,
        mut state: A::State,
        last: Option<&LedgerEntry>,
        deadline: Instant,
    ) -> Result<(A::State, Option<Head>), TakeoverFault> {
        let mark = self.mark(topics::HEADS)?;
        let mut tail = self.kafka.reader(topics::HEADS, Isolation::Committed, Start::Earliest)?;
        let mut found: Option<Head> = None;
        // Other origins' transactions may hide the end: then the head that goes with the last entry is enough, and where
        // there is no entry, that nothing of this origin is hidden.
        let enough = |head: &Option<Head>| matches!((head, last), (Some(h), Some(entry)) if h.sequence == entry.sequence);
        let mut moved = self.kafka.now();
        while tail.position() < mark && !(enough(&found) && self.kafka.now() - moved > PATIENCE) {
            let before = tail.position();
            let next = tail.next(Duration::from_millis(50))?;
            if tail.position() > before {
                moved = self.kafka.now();
            } else if self.kafka.now() - moved > PATIENCE && !enough(&found) {
                if self.writers_of_hidden_heads(origin)?.is_empty() {
                    break;
                }
                self.fence_open_writers(origin)?;
                moved = self.kafka.now();
            }
            if let Next::Record(record) = next
                && record.key.as_deref() == Some(origin.as_str().as_bytes())
                && let Some(value) = record.value
            {
                let offset = record.offset;
                let head = self.codec.decode(value);
                found = Some(head.map_err(|e| TakeoverFault::undecoded(topics::HEADS, offset, &e))?);
            }
            self.late(deadline, || format!("{} can not be read to its end", topics::HEADS))?;
        }
        self.application
            .restored(&mut state, found.as_ref(), last.is_none())
            .map_err(|why| TakeoverFault::Broken(format!("{origin}: {why}")))?;
        Ok((state, found))
    }

    /// Where to go on. The ledger is the authority; the group's offset must say the same, unless it has expired.
    fn agree(
        &self,
        origin: Country,
        committed: Option<i64>,
        decided: Option<i64>,
    ) -> Result<i64, TakeoverFault> {
        let topic = topics::uploads(origin);
        let (earliest, end) = self.kafka.reader(&topic, Isolation::Uncommitted, Start::Earliest)?.bounds()?;
        let next = match (committed, decided) {
            (Some(committed), Some(decided)) if committed == decided + 1 => committed,
            (None, Some(decided)) => decided + 1,
            (None, None) => earliest,
            (Some(committed), decided) => {
                let decided = decided.map_or_else(|| "none".to_owned(), |d| d.to_string());
                return Err(TakeoverFault::Broken(format!(
                    "{origin}: the group has committed offset {committed}, the ledger ends at source offset {decided}"
                )));
            }
        };
        if next < earliest {
            return Err(TakeoverFault::Broken(format!(
                "{topic}: the uploads at offsets {next} to {} expired before they were decided",
                earliest - 1
            )));
        }
        if next > end {
            return Err(TakeoverFault::Broken(format!(
                "{topic} ends at offset {end}, and {next} is next: was the topic made anew, or cut?"
            )));
        }
        Ok(next)
    }

    /// Ends transactions that hide entries of this origin: their writers do not own it any more. Without this, a dead
    /// instance's records would hide everyone's until its transaction times out.
    fn fence_open_writers(&self, origin: Country) -> Result<(), TakeoverFault> {
        if !guard::stands("guard-fence") {
            return Ok(());
        }
        let mut writers = self.open_writers(&topics::ledger(origin), |record| {
            let entry: LedgerEntry = self.codec.decode(record.value.unwrap_or_default()).ok()?;
            Some(entry.writer)
        })?;
        // One that holds nothing but checkpoints has a head all the same.
        writers.extend(self.writers_of_hidden_heads(origin)?);
        // An earlier build does not say who it is.
        writers.remove("");
        // Our own transactions end between two polls; one that is open now is not about this origin.
        writers.remove(self.instance);
        for writer in writers {
            tracing::warn!(%origin, %writer, "an instance that does not own this origin left a transaction open: fencing it");
            self.kafka.writer(&writer, self.clock)?.init(BROKER_TIMEOUT)?;
        }
        Ok(())
    }

    /// Who wrote the heads of this origin that an open transaction hides.
    fn writers_of_hidden_heads(&self, origin: Country) -> Result<BTreeSet<String>, TakeoverFault> {
        self.open_writers(topics::HEADS, |record| {
            let writer =
                record.headers.into_iter().find(|(name, _)| name == WRITER).and_then(|(_, value)| value);
            let named = record.key.as_deref() == Some(origin.as_str().as_bytes());
            named.then(|| String::from_utf8_lossy(&writer.unwrap_or_default()).into_owned())
        })
    }

    /// Who wrote what an open transaction hides at the end of a topic, as far as `named` tells.
    fn open_writers(
        &self,
        topic: &str,
        named: impl Fn(Record) -> Option<String>,
    ) -> Result<BTreeSet<String>, TakeoverFault> {
        let stable = self.kafka.reader(topic, Isolation::Committed, Start::End)?.position();
        let mut open = self.kafka.reader(topic, Isolation::Uncommitted, Start::Offset(stable))?;
        let mut writers = BTreeSet::new();
        let give_up = self.kafka.now() + BROKER_TIMEOUT;
        loop {
            match open.next(Duration::from_millis(200))? {
                Next::Record(record) => writers.extend(named(record)),
                Next::End => return Ok(writers),
                Next::Timeout if self.kafka.now() > give_up => return Ok(writers),
                Next::Timeout => (),
            }
        }
    }

    fn late(&self, deadline: Instant, what: impl FnOnce() -> String) -> Result<(), TakeoverFault> {
        if self.kafka.now() > deadline { Err(TakeoverFault::Late(what())) } else { Ok(()) }
    }
}
