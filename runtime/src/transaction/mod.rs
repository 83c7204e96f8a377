//! The transaction loop: reads uploads, lets an [`Application`] decide, and writes decisions, outputs, heads and
//! consumed offsets in one Kafka transaction: all or nothing.
//!
//! | file | what it holds |
//! |---|---|
//! | `runner` | the loop: poll, take over, transact; the remedies meet here. `doubt`: whether silence is silence |
//! | `assignment` | which partitions are ours, by the callbacks of the consumer group |
//! | `prepare` | what needs no state is done ahead, by other threads |
//! | `decide` | what happens inside one transaction: origins in turn |
//! | `step` | how a transaction begins and ends: between two polls |
//! | `takeover` | restoring an origin's state before its first step |
//! | [`log`] | what all of these ask of Kafka; `edge`: how rdkafka answers |
//! | `fault` | which remedy a fault has: retry, abort, rebuild or exit |
//!
//! Group fencing checks membership and not ownership, so a zombie can have its offsets accepted. The guards against
//! that are marked `guard` where they stand, and each has a test that fails without it.

mod assignment;
mod decide;
mod edge;
mod fault;
mod guard;
pub mod log;
mod metrics;
mod prepare;
mod runner;
mod step;
mod takeover;

use std::time::Duration;

use bytes::Bytes;
use keyferry_schemas::{
    country::Country,
    network::Network,
    records::{Head, LedgerEntry},
    time::Millis,
};

pub use runner::Runner;

use crate::tail::Record;

/// A record to be written.
pub struct Output {
    /// Its topic; partition 0.
    pub topic: String,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value, framed.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Its timestamp: that of the upload, so that erasure counts from there.
    pub timestamp: Millis,
}

impl Output {
    /// What it takes of a transaction, in bytes, about.
    fn size(&self) -> usize {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(value)).sum::<usize>();
        length(&self.key) + length(&self.value) + headers
    }
}

/// What runs inside the loop. Pure but for what it observes: the loop owns all I/O.
pub trait Application: Send + Sync + 'static {
    /// What it remembers of one origin.
    type State: Send + 'static;

    /// What it can tell of a record without the state of its origin.
    type Prepared: Send + 'static;

    /// The state of an origin before its first upload, which will stand at `first_offset`.
    fn blank(&self, origin: Country, first_offset: i64) -> Self::State;

    /// Takes over one entry of the ledger, the `first` that is still there or one that follows.
    ///
    /// # Errors
    /// The ledger is broken, in one line.
    fn replay(&self, state: &mut Self::State, entry: &LedgerEntry, first: bool) -> Result<(), String>;

    /// Ends a restoration with the origin's head.
    ///
    /// # Errors
    /// Head and ledger disagree, in one line.
    fn restored(
        &self,
        state: &mut Self::State,
        head: Option<&Head>,
        ledger_is_empty: bool,
    ) -> Result<(), String>;

    /// Does the part of [`Self::step`] that needs no state, under the version of the network document that is the latest
    /// now. Runs ahead, in any thread and any order; what it returns may be thrown away and made again.
    ///
    /// # Errors
    /// It can not be done now, in one line.
    fn prepare(&self, origin: Country, record: &Record, network: &Network) -> Result<Self::Prepared, String>;

    /// Decides about one record, for the `attempt`th time, counted from 1. Changes stay pending until [`Self::settle`].
    ///
    /// # Errors
    /// It can not be decided now, in one line; nothing was changed.
    fn step(
        &self,
        state: &mut Self::State,
        record: &Record,
        prepared: &Self::Prepared,
        attempt: u32,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String>;

    /// When the chains of an origin were last stated by [`Self::checkpoint`].
    fn last_checkpoint(&self, state: &Self::State) -> Millis;

    /// States how far the chains of an origin go. Changes stay pending until [`Self::settle`].
    ///
    /// # Errors
    /// It can not be stated now, in one line; nothing was changed.
    fn checkpoint(
        &self,
        state: &mut Self::State,
        now: Millis,
        network: &Network,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String>;

    /// The head after the last step: how far the origin is.
    fn head(&self, state: &Self::State) -> Head;

    /// Ends the pending steps: they happened, or they never did.
    fn settle(&self, state: &mut Self::State, committed: bool);
}

/// What the loop may be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `transactional.id`: stable over restarts, unique among instances.
    pub transactional_id: String,
    /// A transaction ends after this time, even if there is more to do.
    pub max_duration: Duration,
    /// A transaction ends when it holds this many bytes of output.
    pub max_output_bytes: usize,
    /// How often the chains of each origin are stated, also when nothing flows; `None` for never.
    pub checkpoint_interval: Option<Duration>,
    /// Threads that prepare uploads ahead of their turn; below two the loop does it itself.
    pub threads: usize,
}

impl Settings {
    /// 100 ms, 32 MB, no checkpoints, a thread for each core.
    #[must_use]
    pub fn new(transactional_id: impl Into<String>) -> Self {
        Self {
            transactional_id: transactional_id.into(),
            max_duration: Duration::from_millis(100),
            max_output_bytes: 32 << 20,
            checkpoint_interval: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}
