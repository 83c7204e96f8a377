//! The distribution service: a worker per country, the routes they are downloaded by, and the erasure.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::Router;
use futures::future::try_join_all;
use tokio::runtime::Handle;

use keyferry_runtime::{
    clock::SharedClock,
    codec::Codec,
    exit::Fatal,
    health::{Beat, Health},
    kafka::Kafka,
    network::NetworkFeed,
    shutdown::Shutdown,
};
use keyferry_schemas::{country::Country, network::MemberState, time::Millis, topics};

use crate::{
    api::{Api, Shelves},
    config::{Countries, DistributeConfig},
    download::routes,
    metrics::Metrics,
    shelf::Shelf,
    source::KafkaTopic,
    store::{Store, StoreError},
    sweep::sweep,
    worker::{MAX_SILENCE, Worker},
};

/// How often the supervisor looks for new members, and for the time of the next sweep.
const TURN: Duration = Duration::from_secs(1);

/// The running service.
pub struct Distribution {
    parts: Arc<Parts>,
    supervisor: tokio::task::JoinHandle<()>,
}

struct Parts {
    kafka: Kafka,
    codec: Codec,
    feed: NetworkFeed,
    config: DistributeConfig,
    clock: SharedClock,
    health: Health,
    store: Store,
    shelves: Shelves,
    metrics: Metrics,
    stop: Shutdown,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Distribution {
    /// Opens the store, and starts a worker per country and the erasure, inside the tokio runtime it is called in.
    /// Waits for the store only: whether a country can be read shows in `health`.
    ///
    /// # Errors
    /// The store can not be reached, or does not create objects only once.
    pub async fn start(
        kafka: &Kafka,
        codec: Codec,
        feed: NetworkFeed,
        config: DistributeConfig,
        clock: SharedClock,
        health: &Health,
    ) -> Result<Self, Fatal> {
        let store = Store::open(&config.store).await.map_err(fatal)?;
        let metrics = Metrics::new()?;
        let parts = Arc::new(Parts {
            kafka: kafka.clone(),
            codec,
            feed,
            config,
            clock,
            health: health.clone(),
            store,
            shelves: Shelves::default(),
            metrics,
            stop: Shutdown::new(),
            threads: Mutex::default(),
        });
        parts.known()?;
        // Finding the head of a log takes some requests, one after the other; the countries need not wait in line.
        try_join_all(parts.wanted().into_iter().map(|country| parts.begin(country))).await.map_err(fatal)?;
        let beat = health.component("sweep", MAX_SILENCE);
        let supervisor = tokio::spawn(supervise(Arc::clone(&parts), beat));
        Ok(Self { parts, supervisor })
    }

    /// The download and audit routes.
    pub fn router(&self) -> Router {
        routes(Api {
            shelves: self.parts.shelves.clone(),
            feed: self.parts.feed.clone(),
            clock: Arc::clone(&self.parts.clock),
            periods: self.parts.config.periods(),
        })
    }

    /// The countries served now.
    #[must_use]
    pub fn countries(&self) -> Vec<Country> {
        self.parts.shelves.countries()
    }

    /// Ends the workers and waits for them: each finishes the batch it is storing.
    pub async fn stop(self) {
        self.parts.stop.trip();
        // One that panicked has stopped as well.
        let _ = self.supervisor.await;
        let threads = std::mem::take(&mut *self.parts.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|t| drop(t.join()))).await;
    }
}

fn fatal(error: StoreError) -> Fatal {
    match error {
        StoreError::Config(_) | StoreError::NoConditionalPut(_) => Fatal::config(error),
        StoreError::Unavailable(_) => Fatal::unreachable(error),
        StoreError::Corrupt { .. } => Fatal::untrusted(error),
    }
}

impl Parts {
    /// The countries that this instance is to serve now.
    fn wanted(&self) -> Vec<Country> {
        match &self.config.countries {
            Countries::Only(list) => list.clone(),
            Countries::All => self.members(&[MemberState::Active, MemberState::Paused]),
        }
    }

    /// A name that no member has is a slip of the pen: it would wait for ever for a topic that nobody makes.
    fn known(&self) -> Result<(), Fatal> {
        let (Countries::Only(list), Some(network)) = (&self.config.countries, self.feed.current()) else {
            return Ok(());
        };
        match list.iter().find(|c| network.member(**c).is_none()) {
            None => Ok(()),
            Some(country) => Err(Fatal::config(format_args!(
                "distribute.countries.only: {country} is no member of network {}, version {}",
                network.name(),
                network.version()
            ))),
        }
    }

    fn members(&self, states: &[MemberState]) -> Vec<Country> {
        let now = self.clock.now();
        let network = self.feed.current();
        let all = network.iter().flat_map(|n| n.countries().map(|c| (c, n.state(c, now))));
        all.filter(|(_, state)| states.contains(state)).map(|(country, _)| country).collect()
    }

    async fn begin(&self, country: Country) -> Result<(), StoreError> {
        let shelf = Arc::new(Shelf::open(self.store.clone(), country).await?);
        self.metrics.expect(country, &self.feed);
        let worker = Worker {
            topic: Box::new(KafkaTopic { kafka: self.kafka.clone(), name: topics::keys(country) }),
            shelf: Arc::clone(&shelf),
            codec: self.codec.clone(),
            feed: self.feed.clone(),
            max_keys: self.config.max_keys_per_download_batch,
            clock: Arc::clone(&self.clock),
            beat: self.health.component(&topics::keys(country), MAX_SILENCE),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
            tokio: Handle::current(),
        };
        let name = format!("keys-{}", country.lower());
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run());
        let thread = thread.map_err(|e| StoreError::Config(format!("no thread for {country}: {e}")))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        self.shelves.add(shelf);
        Ok(())
    }

    /// One sweep of every country, those that have left included: of these nothing is kept.
    async fn sweep(&self) -> Result<(), StoreError> {
        let left: BTreeSet<_> = self.members(&[MemberState::Left]).into_iter().collect();
        let until = self.config.periods().erased_until(self.clock.now());
        for country in
            self.shelves.countries().into_iter().chain(left.iter().copied()).collect::<BTreeSet<_>>()
        {
            let until = if left.contains(&country) { Millis(i64::MAX) } else { until };
            let swept = sweep(&self.store, country, until).await?;
            self.metrics.oldest(country, swept.oldest);
            if swept.erased > 0 {
                tracing::info!(destination = %country, objects = swept.erased, "erased");
            }
        }
        Ok(())
    }
}

async fn supervise(parts: Arc<Parts>, beat: Beat) {
    let every = Duration::from_secs(parts.config.sweep_interval_s.into());
    let mut swept: Option<Instant> = None;
    while !parts.stop.is_tripped() {
        let served = parts.shelves.countries();
        for country in parts.wanted().into_iter().filter(|c| !served.contains(c)) {
            match parts.begin(country).await {
                Ok(()) => tracing::info!(destination = %country, "a new member is served"),
                Err(e) => {
                    tracing::error!(destination = %country, reason = %e, "a new member can not be served yet")
                }
            }
        }
        if swept.is_none_or(|at| at.elapsed() >= every) {
            match parts.sweep().await {
                Ok(()) => {
                    swept = Some(Instant::now());
                    beat.ready(true);
                    beat.progress();
                }
                // No beat: an erasure that fails for long is no life.
                Err(e) => tracing::error!(reason = %e, "the erasure failed; trying again"),
            }
        } else {
            beat.idle();
        }
        let _ = tokio::time::timeout(TURN, parts.stop.wait()).await;
    }
    beat.retire();
}
