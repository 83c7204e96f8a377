//! What the loop asks of Kafka, and of time.
//!
//! `edge` answers with rdkafka. Tests answer with a log that is simulated, so that the very same decisions meet orders of
//! events that no cluster shows in years. Dispatch is static: the seam costs nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_schemas::country::Country;

use super::Output;
pub use super::{
    assignment::Assignment,
    fault::{Fault, Remedy},
};
use crate::{
    kafka::Isolation,
    skew::BrokerClock,
    tail::{Next, Record, Start},
};

/// Where the loop reads and writes, and by whose clock it waits. Clones are the same.
pub trait Log: Clone + Send + Sync + 'static {
    /// A member of the consumer group over all upload topics.
    type Input: Input;
    /// A transactional producer.
    type Writer: Writer<Member = <Self::Input as Input>::Member>;
    /// Reads one topic without the group.
    type Reader: Reader;
    /// Asks for what the group has committed.
    type Offsets: Offsets;

    /// A consumer that has not joined the group yet.
    ///
    /// # Errors
    /// It can not be made.
    fn input(&self) -> Result<Self::Input, Fault>;

    /// A producer that has not said who it is yet. Acknowledgements of heads bring `clock` the broker's time.
    ///
    /// # Errors
    /// It can not be made.
    fn writer(&self, transactional_id: &str, clock: &Arc<BrokerClock>) -> Result<Self::Writer, Fault>;

    /// Opens a topic. Blocks for up to 10 s.
    ///
    /// # Errors
    /// The broker can not be reached, or there is no such topic.
    fn reader(&self, topic: &str, isolation: Isolation, start: Start) -> Result<Self::Reader, Fault>;

    /// Who asks for committed offsets: the stable ones, if only what is committed counts.
    ///
    /// # Errors
    /// It can not be made.
    fn offsets(&self, isolation: Isolation) -> Result<Self::Offsets, Fault>;

    /// The time by which the loop waits.
    fn now(&self) -> Instant;

    /// Waits. Blocks for this long.
    fn sleep(&self, time: Duration);

    /// Runs work off the thread that polls.
    fn spawn(&self, work: impl FnOnce() + Send + 'static);
}

/// A member of the consumer group.
pub trait Input {
    /// What proves to the broker that offsets come from a member.
    type Member;

    /// Joins the group. Does not block.
    ///
    /// # Errors
    /// It can not.
    fn subscribe(&self) -> Result<(), Fault>;

    /// The next record, with the origin on whose topic it stands. Rebalances happen in here. Blocks for up to `wait`.
    ///
    /// # Errors
    /// The input can not be read on; faults that pass are none.
    fn poll(&self, wait: Duration) -> Result<Option<(Country, Record)>, Fault>;

    /// What this member owns, by the rebalances that `poll` has seen.
    fn assignment(&self) -> &Assignment;

    /// Whether the group has given away what `assignment` still says, unknown to it.
    fn assignment_lost(&self) -> bool;

    /// The membership as it is now.
    fn member(&self) -> Option<Self::Member>;

    /// Reads on at an offset, once resumed. Blocks for up to 10 s.
    ///
    /// # Errors
    /// It is not assigned, or the broker can not be reached.
    fn seek(&self, topic: &str, offset: i64) -> Result<(), Fault>;

    /// Begins to read a topic that was assigned.
    ///
    /// # Errors
    /// It is not assigned.
    fn resume(&self, topic: &str) -> Result<(), Fault>;

    /// First offset and end of a topic. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// The broker can not be reached.
    fn bounds(&self, topic: &str, timeout: Duration) -> Result<(i64, i64), Fault>;
}

/// A transactional producer.
pub trait Writer {
    /// See [`Input::Member`].
    type Member;

    /// Fences every earlier producer of the same id and ends its transaction. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// The broker can not be reached, or refuses.
    fn init(&self, timeout: Duration) -> Result<(), Fault>;

    /// Begins a transaction.
    ///
    /// # Errors
    /// There is one, or this producer was fenced.
    fn begin(&self) -> Result<(), Fault>;

    /// Sends a record, to be acknowledged later. Blocks only while the queue is full.
    ///
    /// # Errors
    /// The record can not be sent at all.
    fn send(&self, output: &Output) -> Result<(), Fault>;

    /// Number of records that are not acknowledged yet.
    fn in_flight(&self) -> i32;

    /// Takes acknowledgements. Blocks for up to `wait`.
    fn serve(&self, wait: Duration);

    /// The first fault of a delivery since the transaction began.
    fn take_failed(&self) -> Option<Fault>;

    /// Makes consumed offsets part of the transaction. Blocks for up to 10 s.
    ///
    /// # Errors
    /// The member is none any more, or this producer was fenced, or the broker can not be reached.
    fn send_offsets(&self, offsets: &[(String, i64)], member: &Self::Member) -> Result<(), Fault>;

    /// Commits. Blocks for up to 10 s.
    ///
    /// # Errors
    /// This producer was fenced, or nobody knows whether it is committed: then the same call goes on.
    fn commit(&self) -> Result<(), Fault>;

    /// Aborts. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// This producer was fenced, or the broker can not be reached: then the same call goes on.
    fn abort(&self, timeout: Duration) -> Result<(), Fault>;
}

/// Reads partition 0 of one topic. As [`crate::tail::Tail`], which says more.
pub trait Reader {
    /// The next record, or what there is instead of one. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// The topic can not be read on.
    fn next(&mut self, timeout: Duration) -> Result<Next, Fault>;

    /// Offset of the next record to be read, as far as it is known.
    fn position(&self) -> i64;

    /// First offset and end of the topic. Blocks for up to 10 s.
    ///
    /// # Errors
    /// The broker can not be reached.
    fn bounds(&self) -> Result<(i64, i64), Fault>;
}

/// Asks for committed offsets.
pub trait Offsets {
    /// What the group has committed for a topic. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// The broker can not be reached, or refuses.
    fn committed(&self, topic: &str, timeout: Duration) -> Result<Committed, Fault>;
}

/// What the group has committed for one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// This offset.
    At(i64),
    /// Nothing, or it has expired.
    Nothing,
    /// No answer in time: a transaction may change it yet.
    Unstable,
}
