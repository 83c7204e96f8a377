//! What the ledgers said lately, bounded, and a way to wait for more.
//!
//! An entry may be read before the producer learns the offset that it is about. So decisions are remembered whether or
//! not anybody waits for them yet.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyferry_schemas::{country::Country, time::Millis};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use crate::answer::Decision;

/// Names an upload in receipts.
pub(crate) type UploadId = [u8; 16];

/// What anything that is remembered takes beside the keys it lists, in units of one key (up to 32 bytes): its names in
/// the map and in the order, a tag or a sentence. A bit less while nothing is decided.
pub(crate) const BASE_WEIGHT: usize = 15;
const PENDING_WEIGHT: usize = 8;

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most decisions and receipts, each counted with the keys it lists, in units of one key.
    pub weight: usize,
    /// Longest time, in milliseconds.
    pub age_ms: i64,
}

impl Default for Bounds {
    /// At most some 16 MB, which are 33,000 decisions without keys, and an hour.
    fn default() -> Self {
        Self { weight: 500_000, age_ms: 3_600_000 }
    }
}

/// Which decision is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Of {
    /// The one about the record at this offset.
    Offset(i64),
    /// The one about the upload with this id.
    Upload(UploadId),
}

/// What is known about an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// Written to its topic, not decided yet.
    Pending,
    /// Decided.
    Decided(Arc<Decision>),
}

/// The memory of one gateway.
pub(crate) struct Decisions {
    memory: Mutex<Memory>,
    bounds: Bounds,
    /// Whose ledgers are read has changed.
    follows: watch::Sender<()>,
}

#[derive(Default)]
struct Memory {
    receipts: HashMap<(Country, Of), Receipt>,
    order: VecDeque<Remembered>,
    weight: usize,
    followed: BTreeSet<Country>,
    /// Who waits for what: each decision wakes those only that it is about.
    waiting: HashMap<(Country, Of), Vec<oneshot::Sender<Arc<Decision>>>>,
}

struct Remembered {
    since: Millis,
    weight: usize,
    pending: bool,
    names: [Option<(Country, Of)>; 2],
}

impl Decisions {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { memory: Mutex::default(), bounds, follows: watch::Sender::new(()) }
    }

    /// An upload is on its topic, and its decision will come.
    pub(crate) fn expect(&self, country: Country, upload: UploadId, now: Millis) {
        let mut memory = self.memory();
        let name = (country, Of::Upload(upload));
        memory.receipts.entry(name).or_insert(Receipt::Pending);
        memory.remember(
            Remembered { since: now, weight: PENDING_WEIGHT, pending: true, names: [Some(name), None] },
            self.bounds,
        );
    }

    /// A ledger has an entry about the record at `offset`.
    pub(crate) fn decided(
        &self,
        country: Country,
        offset: i64,
        upload: Option<UploadId>,
        decision: Decision,
        now: Millis,
    ) {
        let weight = decision.weight();
        let decision = Arc::new(decision);
        let names = [Some((country, Of::Offset(offset))), upload.map(|id| (country, Of::Upload(id)))];
        let mut memory = self.memory();
        for name in names.into_iter().flatten() {
            memory.receipts.insert(name, Receipt::Decided(Arc::clone(&decision)));
            for waiting in memory.waiting.remove(&name).into_iter().flatten() {
                // Who waits no longer has gone.
                let _ = waiting.send(Arc::clone(&decision));
            }
        }
        memory.remember(Remembered { since: now, weight, pending: false, names }, self.bounds);
    }

    /// What is known about an upload of `country`.
    pub(crate) fn receipt(&self, country: Country, upload: UploadId) -> Option<Receipt> {
        self.memory().receipts.get(&(country, Of::Upload(upload))).cloned()
    }

    /// Waits for a decision until `deadline`.
    pub(crate) async fn wait(&self, country: Country, of: Of, deadline: Instant) -> Option<Arc<Decision>> {
        let name = (country, of);
        // Made before the receiver, so that it ends after it: also if nobody waits for this any more.
        let _place = Place { decisions: self, name };
        let decided = {
            // Looked up and put in line at once, so that nothing falls between the two.
            let mut memory = self.memory();
            if let Some(Receipt::Decided(decision)) = memory.receipts.get(&name) {
                return Some(Arc::clone(decision));
            }
            let (sender, receiver) = oneshot::channel();
            memory.waiting.entry(name).or_default().push(sender);
            receiver
        };
        timeout_at(deadline, decided).await.ok()?.ok()
    }

    /// From now on the ledgers of exactly these countries are read.
    pub(crate) fn follow(&self, countries: BTreeSet<Country>) {
        self.memory().followed = countries;
        self.follows.send_replace(());
    }

    /// Waits until the ledger of `country` is read: an upload that goes out earlier might miss its decision.
    pub(crate) async fn followed(&self, country: Country, deadline: Instant) -> bool {
        // Subscribed before the first look, so that nothing falls between the two.
        let mut follows = self.follows.subscribe();
        while !self.memory().followed.contains(&country) {
            if !matches!(timeout_at(deadline, follows.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic elsewhere leaves at most one decision forgotten, which its sender asks for again.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one that waits. It is given up however the waiting ends.
struct Place<'d> {
    decisions: &'d Decisions,
    name: (Country, Of),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut memory = self.decisions.memory();
        if let Some(waiting) = memory.waiting.get_mut(&self.name) {
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                memory.waiting.remove(&self.name);
            }
        }
    }
}

impl Memory {
    fn remember(&mut self, new: Remembered, bounds: Bounds) {
        let now = new.since;
        self.weight += new.weight;
        self.order.push_back(new);
        // The newest stays, whatever its weight: somebody is about to ask for it.
        while self.order.len() > 1
            && self
                .order
                .front()
                .is_some_and(|o| self.weight > bounds.weight || now.since(o.since) > bounds.age_ms)
        {
            let Some(old) = self.order.pop_front() else { return };
            self.weight -= old.weight;
            for name in old.names.into_iter().flatten() {
                // What was pending may have been decided since, and then has a place of its own in the order.
                if !old.pending || self.receipts.get(&name) == Some(&Receipt::Pending) {
                    self.receipts.remove(&name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
