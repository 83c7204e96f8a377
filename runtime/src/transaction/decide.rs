//! What happens inside one transaction: origins in turn, one upload each, until there is nothing left or a limit is met.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use keyferry_schemas::{country::Country, network::Network, time::Millis, topics};

use super::{
    Application, Output,
    assignment::Generation,
    guard,
    log::Log,
    prepare::{Pending, Preparation},
    runner::Runner,
    step::{Consumed, StepFault, Transaction},
};
use crate::tail::Record;

/// Checkpoints that can not be made are tried again after this time.
const CHECKPOINT_PAUSE_MS: i64 = 60_000;

/// An origin that is assigned to this instance.
pub(super) struct Origin<A: Application> {
    pub generation: Generation,
    pub phase: Phase<A::State>,
    /// Read and not committed, in order: its head is where the group's committed offset stands.
    pub queue: VecDeque<Queued<A>>,
    /// How many of them are being prepared, or were.
    pub begun: usize,
    /// Offset of the next record to be read.
    pub next_offset: i64,
    /// When a record came, or there was known to be none.
    pub heard: Instant,
    /// The offset of a record that was there, and had not come, when the broker was last asked.
    pub missed: Option<i64>,
    /// Its chains are not stated before this: the last attempt failed.
    pub patience: Millis,
}

impl<A: Application> Origin<A> {
    /// An origin that was just assigned.
    pub fn assigned(generation: Generation, now: Instant) -> Self {
        Self {
            generation,
            phase: Phase::Restoring,
            queue: VecDeque::new(),
            begun: 0,
            next_offset: 0,
            heard: now,
            missed: None,
            patience: Millis(0),
        }
    }

    /// Takes over a record that was read.
    pub fn push(&mut self, record: Record, now: Instant) {
        (self.next_offset, self.heard) = (record.offset + 1, now);
        self.queue.push_back(Queued { record, prepared: None, network: None, attempts: 0 });
    }

    /// Takes out what is committed; returns its bytes.
    pub fn done(&mut self, count: usize) -> usize {
        self.begun = self.begun.saturating_sub(count);
        self.queue.drain(..count).map(|q| q.record.size()).sum()
    }
}

/// How far an origin has come.
pub(super) enum Phase<S> {
    Restoring,
    Live(S),
    /// Until an operator has looked at it.
    Stopped,
}

/// A record that waits for its decision.
pub(super) struct Queued<A: Application> {
    pub record: Record,
    /// What is found out about it ahead; used by its first attempt.
    pub prepared: Option<Pending<A::Prepared>>,
    /// The version under which a first attempt decided: another attempt uses the same.
    pub network: Option<Arc<Network>>,
    /// How often it was decided already, and the transaction aborted.
    pub attempts: u32,
}

/// The header of a head that names the instance which wrote it: whoever takes over has to know whose transaction is open.
pub(super) const WRITER: &str = "writer";

/// Lets the application decide, and sends what it puts out. `counts` tells how many records of each origin were decided,
/// also when sending fails. `turn` says who goes first.
pub(super) fn decide<A: Application, L: Log>(
    runner: &Runner<A, L>,
    preparation: &Preparation<A>,
    transaction: &Transaction<'_, L>,
    origins: &mut BTreeMap<Country, Origin<A>>,
    turn: usize,
    counts: &mut BTreeMap<Country, usize>,
) -> Result<Vec<Consumed>, StepFault> {
    let started = runner.kafka.now();
    let current = runner.network.current().ok_or(StepFault::Lost)?;
    let mut outputs: Vec<Output> = Vec::new();
    let mut sent = 0;
    let mut waiting: VecDeque<Country> = origins.keys().copied().collect();
    let first = turn % waiting.len().max(1);
    waiting.rotate_left(first);
    while let Some(name) = waiting.pop_front() {
        let Some(Origin { phase: Phase::Live(state), queue, begun, .. }) = origins.get_mut(&name) else {
            continue;
        };
        let done = counts.entry(name).or_default();
        // Whoever has nothing more, or can not go on, is not asked again in this transaction.
        let Some(queued) = queue.get_mut(*done) else { continue };
        let network = queued.network.clone().unwrap_or_else(|| Arc::clone(&current));
        let attempt = queued.attempts + 1;
        let step = preparation.take(name, queued, &network).and_then(|prepared| {
            let record = &queued.record;
            runner.application.step(state, record, &prepared, attempt, &network, &mut outputs)?;
            preparation.discard(prepared);
            Ok(())
        });
        if let Err(why) = step {
            tracing::error!(origin = %name, offset = queued.record.offset, reason = %why, "an upload can not be decided now");
            continue;
        }
        (queued.network, queued.attempts) = (Some(network), attempt);
        *done += 1;
        // Where there was no room to prepare it ahead, it is not begun any more.
        *begun = (*begun).max(*done);
        for output in outputs.drain(..) {
            sent += output.size();
            transaction.send(&output)?;
        }
        guard::pass("after-step", transaction.instance);
        if runner.kafka.now() - started >= runner.settings.max_duration
            || sent >= runner.settings.max_output_bytes
        {
            break;
        }
        waiting.push_back(name);
        preparation.ahead(origins, Some(&current));
    }
    finish(runner, transaction, &current, origins, counts)
}

/// Writes the checkpoints that are due and the head of each origin that moved, and says what was consumed.
fn finish<A: Application, L: Log>(
    runner: &Runner<A, L>,
    transaction: &Transaction<'_, L>,
    network: &Network,
    origins: &mut BTreeMap<Country, Origin<A>>,
    counts: &BTreeMap<Country, usize>,
) -> Result<Vec<Consumed>, StepFault> {
    let now = transaction.clock.now();
    // Nothing is stated by a clock of which nobody knows whether it is right: the first head brings the broker's.
    let sure = transaction.clock.is_heard();
    let mut consumed = Vec::new();
    for (name, count) in counts {
        let Some(Origin { phase: Phase::Live(state), queue, generation, patience, .. }) =
            origins.get_mut(name)
        else {
            continue;
        };
        let mut outputs = Vec::new();
        // What waits for another attempt is bound to the version of its first, which may be earlier than this one.
        let bound = queue.range(*count..).any(|queued| queued.network.is_some());
        let due = !bound && runner.is_due(state, *patience, now);
        if due
            && sure
            && let Err(why) = runner.application.checkpoint(state, now, network, &mut outputs)
        {
            tracing::error!(origin = %name, reason = %why, "the chains can not be stated now");
            *patience = now.plus(CHECKPOINT_PAUSE_MS);
        }
        if *count == 0 && outputs.is_empty() && (sure || !due) {
            continue;
        }
        for output in &outputs {
            transaction.send(output)?;
        }
        let head = runner.application.head(state);
        transaction.send(&Output {
            topic: topics::HEADS.to_owned(),
            key: Some(Bytes::copy_from_slice(name.as_str().as_bytes())),
            value: Some(runner.codec.encode(&head).into()),
            headers: vec![(WRITER.to_owned(), Some(transaction.instance.to_owned().into()))],
            timestamp: now,
        })?;
        // With checkpoints alone nothing new is consumed. The offset is sent all the same: it is how the broker finds that
        // this instance is in the group no more.
        consumed.push(Consumed {
            origin: *name,
            generation: *generation,
            next_offset: head.source_offset + 1,
        });
    }
    Ok(consumed)
}
