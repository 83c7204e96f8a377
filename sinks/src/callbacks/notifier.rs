//! One subscription: calls for batch after batch, each until it is acknowledged. Never two at a time, and none is left out
//! but those whose keys are erased.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_runtime::{outbound::Failed, shutdown::Shutdown};
use keyferry_schemas::{
    callbacks::{CallbackProgress, PROGRESS_SUFFIX},
    country::Country,
    network::{Network, Use},
    records::Hash,
    time::Millis,
};

use super::{Tools, backoff::pause, book::Mark, metrics::Called, target::CallbackId, target::Target};
use crate::{log::Entry, shelf::Shelf, store::StoreError};

/// While there is more to call for, what was reached is written this often; and once there is nothing more.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// The notifier of one subscription.
pub(crate) struct Notifier {
    pub(crate) tools: Arc<Tools>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) id: CallbackId,
    pub(crate) target: Target,
}

/// How far it has come.
struct Reached {
    mark: Mark,
    /// Whether that is not written yet.
    unsaved: bool,
    saved_at: Instant,
}

/// Why a call was not acknowledged.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error("no callback certificate for {0} is registered and in force")]
    NoCertificate(String),
    #[error(transparent)]
    Failed(#[from] Failed),
}

impl Notifier {
    /// Calls for everything behind `from` until it is told to stop. A call in flight is dropped then, and is made again by
    /// whoever goes on.
    pub(crate) async fn run(self, from: Mark, stop: Shutdown) {
        let mut reached = Reached { mark: from, unsaved: false, saved_at: Instant::now() };
        tokio::select! {
            () = stop.wait() => (),
            () = self.walk(&mut reached) => (),
        }
        self.waits(None);
        if let Some(offset) = self.save(&mut reached).await {
            // Who goes on in this instance goes on from there.
            let _ = self.tools.register.has_read(self.country(), offset).await;
        }
    }

    async fn walk(&self, reached: &mut Reached) {
        self.begin(reached).await;
        let mut head = self.shelf.watch();
        loop {
            let end = *head.borrow_and_update();
            while reached.mark.number < end {
                reached.mark = self.call_for(reached.mark.number + 1).await;
                reached.unsaved = true;
                if reached.saved_at.elapsed() >= SAVE_EVERY {
                    self.save(reached).await;
                }
            }
            self.waits(None);
            self.save(reached).await;
            tokio::select! {
                moved = head.changed() => if moved.is_err() { return },
                () = tokio::time::sleep(SAVE_EVERY), if reached.unsaved => (),
            }
        }
    }

    /// Looks whether the store is the one in which it came so far.
    async fn begin(&self, reached: &mut Reached) {
        loop {
            match self.stands(reached.mark).await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::warn!(
                        destination = %self.country(), callback = %self.id, number = reached.mark.number,
                        "the store has no such batch and must be another one: calling for all that is in it"
                    );
                    reached.mark = Mark::default();
                    return;
                }
                Err(error) => self.store_rests(&error).await,
            }
        }
    }

    async fn stands(&self, mark: Mark) -> Result<bool, StoreError> {
        if mark.number == 0 {
            return Ok(true);
        }
        if self.shelf.head().is_none_or(|head| head.entry.number < mark.number) {
            self.shelf.follow().await?;
        }
        Ok(self.shelf.entry(mark.number).await?.is_some_and(|sealed| Mark::at(&sealed.entry) == mark))
    }

    /// Calls for one batch until that is acknowledged, or there is no reason any more.
    async fn call_for(&self, number: u64) -> Mark {
        let sealed = loop {
            match self.shelf.entry(number).await {
                Ok(Some(sealed)) => break sealed,
                // It was there when the head was told of.
                Ok(None) => tokio::time::sleep(SAVE_EVERY).await,
                Err(error) => self.store_rests(&error).await,
            }
        };
        let (entry, destination) = (&sealed.entry, self.country());
        let mut failures = 0_u32;
        loop {
            let now = self.tools.clock.now();
            if entry.oldest() <= self.tools.periods.erased_until(now) {
                tracing::info!(
                    %destination, callback = %self.id, tag = %entry.tag, failures,
                    "its keys are erased: nobody is called for it any more"
                );
                self.tools.metrics.called(destination, Called::Skipped);
                return Mark::at(entry);
            }
            self.waits(Some(entry.created_at.into()));
            match self.call(entry, now).await {
                Ok(()) => {
                    self.tools.metrics.called(destination, Called::Acknowledged);
                    return Mark::at(entry);
                }
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    self.tools.metrics.called(destination, Called::Failed);
                    let longest = Duration::from_secs(self.tools.config.retry_max_s.into());
                    let pause = pause(failures, longest, fastrand::u64(..));
                    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(
                        %destination, callback = %self.id, tag = %entry.tag, failures, pause_ms, %reason,
                        "a subscriber was not reached; it is called again"
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn call(&self, entry: &Entry, now: Millis) -> Result<(), Unheard> {
        let network = self.tools.feed.current();
        let pins = network.map(|n| pins(&n, self.country(), self.target.host(), now)).unwrap_or_default();
        if pins.is_empty() {
            return Err(Unheard::NoCertificate(self.target.host().to_owned()));
        }
        Ok(self.tools.caller.get(self.target.for_batch(entry.tag), pins).await?)
    }

    /// Writes how far it has come, unless that is written or the subscription has ended; returns where it was written.
    async fn save(&self, reached: &mut Reached) -> Option<i64> {
        let subscribed =
            |id| self.tools.register.read(self.country(), |book| book.subscriptions().contains_key(id));
        if !reached.unsaved || subscribed(&self.id) != Some(true) {
            return None;
        }
        reached.saved_at = Instant::now();
        let (number, tag) = reached.mark.written();
        let value = self.tools.codec.encode(&CallbackProgress { number, tag });
        let key = format!("{}{PROGRESS_SUFFIX}", self.id);
        let written = self.tools.put(self.country(), &key, Some(&value)).await;
        reached.unsaved = written.is_err();
        if let Err(reason) = &written {
            // A restart in the meantime would repeat some calls.
            tracing::warn!(
                destination = %self.country(), callback = %self.id, reason, "how far it was called is not written yet"
            );
        }
        written.ok()
    }

    async fn store_rests(&self, error: &StoreError) {
        tracing::warn!(destination = %self.country(), callback = %self.id, reason = %error, "calls wait for the store");
        tokio::time::sleep(SAVE_EVERY).await;
    }

    fn waits(&self, batch: Option<Millis>) {
        self.tools.metrics.waits(self.country(), &self.id, batch);
    }

    fn country(&self) -> Country {
        self.shelf.country()
    }
}

/// The callback certificates of `country` that are in force at `now` and name `host`.
pub(crate) fn pins(network: &Network, country: Country, host: &str, now: Millis) -> Vec<Hash> {
    let registered =
        network.certificates().iter().filter(|r| r.usage == Use::Callback && r.country == country);
    let fitting = registered.filter(|r| r.in_force(now) && r.certificate.names_host(host));
    fitting.map(|r| r.certificate.sha256()).collect()
}
