//! What has to be done from time to time: members come and leave, and keys are erased.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_runtime::health::Beat;
use keyferry_schemas::{country::Country, network::MemberState, time::Millis};

use crate::{
    distribute::Parts,
    patience::patiently,
    store::StoreError,
    sweep::{Swept, sweep},
};

/// How often the supervisor looks for members that came or left, and for the time of the next sweep.
const TURN: Duration = Duration::from_secs(1);
/// Longest pause after what failed: a damaged store is not mended within a second, and the log is to stay readable.
const RETRY: Duration = Duration::from_secs(30);

/// Works until it is told to stop. `damaged` are the countries that could not be served just now.
pub(crate) async fn supervise(parts: Arc<Parts>, beat: Beat, damaged: BTreeSet<Country>) {
    let every = Duration::from_secs(parts.config.sweep_interval_s.into());
    let retry = RETRY.min(every);
    let mut resting: BTreeMap<_, _> = damaged.into_iter().map(|c| (c, Instant::now() + retry)).collect();
    let mut sweep_at = Instant::now();
    while !parts.stop.is_tripped() {
        parts.metrics.origins(&parts.feed);
        parts.metrics.stated.expect(parts.awaited(), parts.clock.now());
        let left = parts.left();
        for country in parts.shelves.countries().into_iter().filter(|c| left.contains(c)) {
            patiently(&beat, parts.end(country)).await;
            tracing::info!(destination = %country, "a member has left and is served no more");
            // Nothing of it is kept.
            sweep_at = Instant::now();
        }
        for country in parts.wanted() {
            let rests = resting.get(&country).is_some_and(|until| Instant::now() < *until);
            if rests || parts.shelves.get(country).is_some() {
                continue;
            }
            match patiently(&beat, parts.begin(country)).await {
                Ok(()) => tracing::info!(destination = %country, "a country is served from now on"),
                Err(e) => {
                    tracing::error!(destination = %country, reason = %e, "a country can not be served yet");
                    resting.insert(country, Instant::now() + retry);
                }
            }
        }
        if Instant::now() >= sweep_at {
            let swept = parts.sweep(&beat).await;
            // What is erased too late is seen by the age of the oldest data. A restart would erase nothing either, and
            // end the downloads.
            sweep_at = Instant::now() + if swept.is_ok() { every } else { retry };
            beat.ready(true);
        }
        beat.idle();
        let _ = tokio::time::timeout(TURN, parts.stop.wait()).await;
    }
    beat.retire();
}

impl Parts {
    /// Whose checkpoints are waited for, and by whom.
    fn awaited(&self) -> Vec<(Country, Country)> {
        let origins = self.members(&[MemberState::Active, MemberState::Paused]);
        let served = self.shelves.countries();
        let pairs = origins.into_iter().flat_map(|o| served.iter().map(move |d| (o, *d)));
        pairs.filter(|(origin, destination)| origin != destination).collect()
    }

    /// One sweep of every country, those that have left included: of these nothing is kept. Returns the first error,
    /// which keeps no other country from its sweep.
    async fn sweep(&self, beat: &Beat) -> Result<(), StoreError> {
        let left = self.left();
        let until = self.config.periods().erased_until(self.clock.now());
        let all: BTreeSet<_> = self.shelves.countries().into_iter().chain(left.iter().copied()).collect();
        let mut first = Ok(());
        for country in all {
            let until = if left.contains(&country) { Millis(i64::MAX) } else { until };
            match patiently(beat, sweep(&self.store, country, until)).await {
                Ok(Swept { erased, oldest }) => {
                    self.metrics.oldest(country, oldest);
                    beat.progress();
                    if erased > 0 {
                        tracing::info!(destination = %country, objects = erased, "erased");
                    }
                }
                Err(e) => {
                    tracing::error!(destination = %country, reason = %e, "the erasure failed; trying again");
                    beat.idle();
                    first = first.and(Err(e));
                }
            }
        }
        first
    }
}
