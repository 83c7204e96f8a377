//! The books of all countries, read from their topics by one thread from the first record on, in every instance; and
//! which countries this instance calls for, which the role's consumer group decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use keyferry_runtime::{codec::Codec, exit::Fatal, health::Health, kafka::Kafka, shutdown::Shutdown};
use keyferry_schemas::country::Country;

use super::{book::Book, reader::Reader};

/// How long whoever asks waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The books. Ended by [`Register::stop`].
pub(crate) struct Register {
    shared: Arc<Shared>,
    asks: Sender<Ask>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Shared {
    books: Mutex<BTreeMap<Country, Kept>>,
    /// Countries that this instance calls for.
    pub(super) ours: watch::Sender<BTreeSet<Country>>,
    pub(super) stop: Shutdown,
}

/// The book of a country that is wanted.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) book: Book,
    /// Counts what came, changed or went.
    pub(super) changes: watch::Sender<u64>,
}

/// Tells once the book of a country is read up to an offset, inclusive, or up to the end that it has now. Dropped if that
/// can not be said.
pub(super) struct Ask {
    pub(super) country: Country,
    pub(super) offset: Option<i64>,
    pub(super) tell: oneshot::Sender<()>,
}

/// The book of a country is not known up to its end at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind;

impl Shared {
    pub(super) fn books(&self) -> MutexGuard<'_, BTreeMap<Country, Kept>> {
        // Nothing under this lock leaves it half changed.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    /// Starts the thread, which wants nothing yet.
    pub(crate) fn start(kafka: &Kafka, codec: Codec, health: &Health) -> Result<Self, Fatal> {
        let (asks, asked) = mpsc::channel();
        let shared = Arc::new(Shared {
            books: Mutex::default(),
            ours: watch::Sender::new(BTreeSet::new()),
            stop: Shutdown::new(),
        });
        let reader = Reader::new(kafka, codec, health, Arc::clone(&shared), asked)?;
        let thread = std::thread::Builder::new().name("callbacks".into()).spawn(move || reader.run());
        let thread = thread.map_err(|e| Fatal::failure(format_args!("no thread for the callbacks: {e}")))?;
        Ok(Self { shared, asks, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn want(&self, country: Country) {
        self.shared.books().entry(country).or_default();
    }

    pub(crate) fn forget(&self, country: Country) {
        self.shared.books().remove(&country);
    }

    /// What the book of a country says at the moment.
    pub(crate) fn read<T>(&self, country: Country, question: impl FnOnce(&Book) -> T) -> Option<T> {
        self.shared.books().get(&country).map(|kept| question(&kept.book))
    }

    /// Tells of each change of a country's subscriptions.
    pub(crate) fn changes(&self, country: Country) -> watch::Receiver<u64> {
        self.shared.books().entry(country).or_default().changes.subscribe()
    }

    /// The countries that this instance calls for, now and later.
    pub(crate) fn ours(&self) -> watch::Receiver<BTreeSet<Country>> {
        self.shared.ours.subscribe()
    }

    /// Waits until all is read that stands on the topic now: whatever another instance has answered is seen.
    pub(crate) async fn catch_up(&self, country: Country) -> Result<(), Behind> {
        self.ask(country, None).await
    }

    /// Waits until the record at `offset` is read.
    pub(crate) async fn has_read(&self, country: Country, offset: i64) -> Result<(), Behind> {
        self.ask(country, Some(offset)).await
    }

    async fn ask(&self, country: Country, offset: Option<i64>) -> Result<(), Behind> {
        let (tell, told) = oneshot::channel();
        let ask = Ask { country, offset, tell };
        self.asks.send(ask).map_err(|_| Behind)?;
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Behind),
        }
    }

    /// Ends the thread and waits for it: another instance can be in charge at once.
    pub(crate) async fn stop(&self) {
        self.shared.stop.trip();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One that panicked has ended as well.
        let _ = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await;
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        self.shared.stop.trip();
    }
}
