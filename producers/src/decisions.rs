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
    sync::watch,
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
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Memory {
    receipts: HashMap<(Country, Of), Receipt>,
    order: VecDeque<Remembered>,
    weight: usize,
    followed: BTreeSet<Country>,
}

struct Remembered {
    since: Millis,
    weight: usize,
    pending: bool,
    names: [Option<(Country, Of)>; 2],
}

impl Decisions {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { memory: Mutex::default(), bounds, changed: watch::Sender::new(()) }
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
        let decision = Receipt::Decided(Arc::new(decision));
        let names = [Some((country, Of::Offset(offset))), upload.map(|id| (country, Of::Upload(id)))];
        let mut memory = self.memory();
        for name in names.into_iter().flatten() {
            memory.receipts.insert(name, decision.clone());
        }
        memory.remember(Remembered { since: now, weight, pending: false, names }, self.bounds);
        drop(memory);
        self.changed.send_replace(());
    }

    /// What is known about an upload of `country`.
    pub(crate) fn receipt(&self, country: Country, upload: UploadId) -> Option<Receipt> {
        self.memory().receipts.get(&(country, Of::Upload(upload))).cloned()
    }

    /// Waits for a decision until `deadline`.
    pub(crate) async fn wait(&self, country: Country, of: Of, deadline: Instant) -> Option<Arc<Decision>> {
        self.when(deadline, |memory| match memory.receipts.get(&(country, of)) {
            Some(Receipt::Decided(decision)) => Some(Arc::clone(decision)),
            _ => None,
        })
        .await
    }

    /// From now on the ledgers of exactly these countries are read.
    pub(crate) fn follow(&self, countries: BTreeSet<Country>) {
        self.memory().followed = countries;
        self.changed.send_replace(());
    }

    /// Waits until the ledger of `country` is read: an upload that goes out earlier might miss its decision.
    pub(crate) async fn followed(&self, country: Country, deadline: Instant) -> bool {
        self.when(deadline, |memory| memory.followed.contains(&country).then_some(())).await.is_some()
    }

    async fn when<T>(&self, deadline: Instant, look: impl Fn(&Memory) -> Option<T>) -> Option<T> {
        // Subscribed before the first look, so that nothing falls between the two.
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = look(&self.memory()) {
                return Some(found);
            }
            timeout_at(deadline, changed.changed()).await.ok()?.ok()?;
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic elsewhere leaves at most one decision forgotten, which its sender asks for again.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
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
mod tests {
    use std::time::Duration;

    use super::*;

    fn de() -> Country {
        "DE".parse().unwrap()
    }

    fn created(tag: &str) -> Decision {
        Decision::Created { batch_tag: tag.into() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn a_decision_may_come_before_or_after_the_question() {
        let decisions = Arc::new(Decisions::new(Bounds::default()));
        decisions.decided(de(), 7, None, created("early"), Millis(0));
        assert_eq!(decisions.wait(de(), Of::Offset(7), soon()).await, Some(Arc::new(created("early"))));
        let asked = tokio::spawn({
            let decisions = Arc::clone(&decisions);
            async move { decisions.wait(de(), Of::Upload([1; 16]), Instant::now() + Duration::from_secs(5)).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        decisions.decided(de(), 8, Some([1; 16]), created("late"), Millis(0));
        assert_eq!(asked.await.unwrap(), Some(Arc::new(created("late"))));
        assert_eq!(decisions.wait(de(), Of::Offset(9), soon()).await, None);
        let fr = "FR".parse().unwrap();
        assert_eq!(decisions.wait(fr, Of::Offset(7), soon()).await, None, "another country's");
        assert_eq!(decisions.receipt(fr, [1; 16]), None, "another country's");
    }

    #[test]
    fn receipts_go_from_pending_to_decided_in_either_order() {
        let decisions = Decisions::new(Bounds::default());
        decisions.expect(de(), [1; 16], Millis(0));
        assert_eq!(decisions.receipt(de(), [1; 16]), Some(Receipt::Pending));
        decisions.decided(de(), 1, Some([1; 16]), created("a"), Millis(0));
        decisions.expect(de(), [1; 16], Millis(0));
        assert_eq!(decisions.receipt(de(), [1; 16]), Some(Receipt::Decided(Arc::new(created("a")))));
        assert_eq!(decisions.receipt(de(), [2; 16]), None);
    }

    #[test]
    fn memory_is_bounded_by_weight_and_age() {
        let decisions = Decisions::new(Bounds { weight: 40, age_ms: 1000 });
        decisions.expect(de(), [1; 16], Millis(0));
        decisions.decided(de(), 1, Some([1; 16]), created("a"), Millis(0));
        let heavy = Decision::Partial { keys: 9, refused: (0..8).collect() };
        decisions.decided(de(), 2, Some([2; 16]), heavy.clone(), Millis(1));
        assert!(
            matches!(decisions.receipt(de(), [1; 16]), Some(Receipt::Decided(_))),
            "forgetting that it was pending does not forget the decision"
        );
        decisions.decided(de(), 3, Some([3; 16]), heavy, Millis(2));
        assert_eq!(decisions.receipt(de(), [1; 16]), None);
        assert!(decisions.receipt(de(), [3; 16]).is_some());
        decisions.decided(de(), 4, Some([4; 16]), created("b"), Millis(2000));
        assert_eq!(decisions.receipt(de(), [3; 16]), None, "too old");
        assert_eq!(decisions.memory().order.len(), 1);
        assert_eq!(decisions.memory().receipts.len(), 2);
    }

    #[tokio::test]
    async fn an_upload_waits_until_its_ledger_is_read() {
        let decisions = Decisions::new(Bounds::default());
        assert!(!decisions.followed(de(), soon()).await);
        decisions.follow([de()].into());
        assert!(decisions.followed(de(), soon()).await);
    }
}
