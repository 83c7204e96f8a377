//! One country's part of the store: its log from the first object to the head, and the data behind it.
//!
//! The store is the progress. A log object is created if absent and never touched again, so the number after the head is
//! the only thing that two instances can compete for, and whoever loses takes over what the winner wrote.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use object_store::path::Path;
use tokio::sync::watch;

use keyferry_runtime::failpoint;
use keyferry_schemas::{batch::sha256, country::Country};

use crate::{
    log::{Draft, Entry, Sealed},
    store::{Created, Store, StoreError, data_path, data_prefix, log_path, log_prefix},
};

/// Log objects kept in memory besides the head: clients that follow along ask for the newest ones.
const KEPT: usize = 16;

/// One country's log, as far as it is known here. Never shows anything that is not logged.
pub struct Shelf {
    store: Store,
    country: Country,
    known: Mutex<Known>,
    /// The number of the head.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    head: Option<Arc<Sealed>>,
    /// Batches that are known to be erased, all from the first to the last of them.
    erased: Range<u64>,
    recent: VecDeque<Arc<Sealed>>,
}

/// Whose log object came next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The one that was to be appended.
    Ours,
    /// Another instance's, which is the head now.
    Theirs,
}

impl Shelf {
    /// Finds the head. Numbers have no gaps, so the end is found by doubling and halving; a listing is asked for only
    /// where there seems to be nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(store: Store, country: Country) -> Result<Self, StoreError> {
        let shelf = Self::unread(store, country);
        let number = shelf.last_number().await?;
        if number > 0 {
            let head = shelf.read(number).await?.ok_or_else(|| shelf.missing(number))?;
            shelf.advance(head);
        }
        shelf.follow().await?;
        Ok(shelf)
    }

    /// Without looking for the head, for whoever reads it from its first object on. No I/O.
    #[must_use]
    pub fn unread(store: Store, country: Country) -> Self {
        Self { store, country, known: Mutex::default(), moved: watch::Sender::default() }
    }

    /// The highest number of a log object by what is listed, whatever can be read; 0 if there is none. Data are written
    /// before their log object, and that may be missing for the newest only. Reads two listings.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn listed(&self) -> Result<u64, StoreError> {
        let number = |path: &Path| path.filename()?.split('-').next()?.parse::<u64>().ok();
        let data = self.store.list(&data_prefix(self.country)).await?;
        let log = self.store.list(&log_prefix(self.country)).await?;
        let logged = log.iter().filter_map(number).max().unwrap_or(0);
        let stored = data.iter().filter_map(number).max().unwrap_or(0);
        Ok(logged.max(stored.saturating_sub(1)))
    }

    /// The country it belongs to.
    #[must_use]
    pub fn country(&self) -> Country {
        self.country
    }

    /// The last log object known here.
    #[must_use]
    pub fn head(&self) -> Option<Arc<Sealed>> {
        self.lock().head.clone()
    }

    /// Tells the number of the head whenever it moves.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Reads on to what another instance has appended; tells whether there was anything.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn follow(&self) -> Result<bool, StoreError> {
        let mut moved = false;
        loop {
            let head = self.head();
            let number = head.as_ref().map_or(1, |h| h.entry.number + 1);
            let Some(next) = self.read(number).await? else { return Ok(moved) };
            if !next.follows(head.as_deref()) {
                return Err(self.corrupt(number, "it does not follow the log object before it"));
            }
            self.advance(next);
            moved = true;
        }
    }

    /// Stores `draft` as the next download batch: first the data, then the log object that makes it visible. May be
    /// repeated after an error, with the same draft.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn append(&self, draft: &Draft) -> Result<Appended, StoreError> {
        let entry = &draft.sealed.entry;
        failpoint::pass("append-begins");
        let (data, log) = (data_path(self.country, &entry.data.name), log_path(self.country, entry.number));
        match self.store.publish((&data, draft.data.clone()), (&log, draft.log.clone())).await? {
            Created::New => {
                failpoint::pass("append-log");
                self.advance(draft.sealed.clone());
                Ok(Appended::Ours)
            }
            Created::Exists => {
                // A bucket refuses one of two requests that meet, before it is clear that the other one succeeds.
                let met = || StoreError::Unavailable("another instance writes the same log object".into());
                let there = self.read(entry.number).await?.ok_or_else(met)?;
                // An answer that was lost on the way looks like another instance and is none.
                let ours = there.hash == draft.sealed.hash;
                self.follow().await?;
                Ok(if ours { Appended::Ours } else { Appended::Theirs })
            }
        }
    }

    /// The log object with this number; `None` beyond the head known here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn entry(&self, number: u64) -> Result<Option<Arc<Sealed>>, StoreError> {
        let kept = {
            let known = self.lock();
            match &known.head {
                Some(head) if number > 0 && number <= head.entry.number => {
                    known.recent.iter().chain(&known.head).find(|s| s.entry.number == number).cloned()
                }
                _ => return Ok(None),
            }
        };
        match kept {
            Some(kept) => Ok(Some(kept)),
            None => {
                let read = self.read(number).await?.ok_or_else(|| self.missing(number))?;
                Ok(Some(Arc::new(read)))
            }
        }
    }

    /// The keys of a batch, as protobuf; `None` if they were erased.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if they are not what the log says.
    pub async fn data(&self, entry: &Entry) -> Result<Option<Bytes>, StoreError> {
        let Some(data) = self.store.get(&data_path(self.country, &entry.data.name)).await? else {
            return Ok(None);
        };
        if sha256(&data) != entry.data.sha256.0 {
            let reason = "it is not what the log says".into();
            return Err(StoreError::Corrupt { name: entry.data.name.clone(), reason });
        }
        Ok(Some(data))
    }

    /// Reads any log object, known or not; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, number: u64) -> Result<Option<Sealed>, StoreError> {
        let Some(bytes) = self.store.get(&log_path(self.country, number)).await? else { return Ok(None) };
        Sealed::read(&bytes, self.country, number).map(Some).map_err(|e| self.corrupt(number, &e.to_string()))
    }

    /// The first batch from `number` on that is not known to be erased.
    #[must_use]
    pub fn after_erased(&self, number: u64) -> u64 {
        let known = self.lock();
        if known.erased.contains(&number) { known.erased.end } else { number }
    }

    /// Remembers that all these batches are erased, which they stay.
    pub fn found_erased(&self, numbers: Range<u64>) {
        let mut known = self.lock();
        let start = if known.erased.contains(&numbers.start) { known.erased.start } else { numbers.start };
        known.erased = start..numbers.end;
    }

    async fn last_number(&self) -> Result<u64, StoreError> {
        let exists = async |n| self.store.exists(&log_path(self.country, n)).await;
        // Invariant: `low` is 0 or exists, `high` does not exist.
        let (mut low, mut high) = (0, 1);
        while exists(high).await? {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if exists(middle).await? { low = middle } else { high = middle }
        }
        // Without its first object a log of any length looks empty, and would be begun anew under names that clients
        // have seen before. The first one may also have come just now, from another instance.
        if low == 0 && !self.store.list(&log_prefix(self.country)).await?.is_empty() && !exists(1).await? {
            return Err(self.missing(1));
        }
        Ok(low)
    }

    /// The head moves forward only, whoever brings the next one.
    fn advance(&self, next: Sealed) {
        let mut known = self.lock();
        if known.head.as_ref().is_none_or(|h| h.entry.number < next.entry.number) {
            self.moved.send_replace(next.entry.number);
            let before = known.head.replace(Arc::new(next));
            known.recent.extend(before);
            if known.recent.len() > KEPT {
                known.recent.pop_front();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing in here leaves it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, number: u64) -> StoreError {
        self.corrupt(number, "it is gone; log objects are never deleted")
    }

    fn corrupt(&self, number: u64, reason: &str) -> StoreError {
        StoreError::Corrupt { name: log_path(self.country, number).to_string(), reason: reason.into() }
    }
}
