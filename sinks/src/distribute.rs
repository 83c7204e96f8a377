//! The distribution service: a worker per country, the routes they are downloaded by, and the erasure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use axum::Router;
use futures::future::join_all;
use tokio::runtime::Handle;

use keyferry_runtime::{
    clock::SharedClock, codec::Codec, exit::Fatal, health::Health, kafka::Kafka, network::NetworkFeed,
    shutdown::Shutdown,
};
use keyferry_schemas::{chain::Proofs, country::Country, network::MemberState, topics};

use crate::{
    api::{Api, Shelves},
    callbacks::{self, Callbacks},
    config::{Countries, DistributeConfig},
    download::routes,
    metrics::Metrics,
    shelf::Shelf,
    source::KafkaTopic,
    store::{Store, StoreError},
    supervise::supervise,
    worker::{MAX_SILENCE, Worker},
};

/// The running service.
pub struct Distribution {
    parts: Arc<Parts>,
    supervisor: tokio::task::JoinHandle<()>,
}

pub(crate) struct Parts {
    kafka: Kafka,
    codec: Codec,
    pub(crate) feed: NetworkFeed,
    pub(crate) config: DistributeConfig,
    pub(crate) clock: SharedClock,
    health: Health,
    pub(crate) store: Store,
    pub(crate) shelves: Shelves,
    pub(crate) metrics: Metrics,
    pub(crate) stop: Shutdown,
    proofs: Arc<Proofs>,
    callbacks: Option<Callbacks>,
    workers: Mutex<BTreeMap<Country, Running>>,
}

/// A worker in its thread.
struct Running {
    stop: Shutdown,
    thread: JoinHandle<()>,
}

impl Distribution {
    /// Opens the store, and starts a worker per country and the erasure, inside the tokio runtime it is called in.
    /// Waits for the store only: whether a country can be read shows in the metrics.
    ///
    /// # Errors
    /// The store can not be reached, or does not create objects only once. A country whose log is damaged is no reason
    /// to serve none: it is looked at again later.
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
        let callbacks = config.callbacks.as_ref();
        let callbacks = callbacks
            .map(|c| Callbacks::start(kafka, &codec, &feed, c, &clock, config.periods(), health))
            .transpose()?;
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
            proofs: Arc::default(),
            callbacks,
            workers: Mutex::default(),
        });
        parts.known()?;
        // Finding the head of a log takes some requests, one after the other; the countries need not wait in line.
        let begin = async |country| (country, parts.begin(country).await);
        let mut damaged = BTreeSet::new();
        for (country, begun) in join_all(parts.wanted().into_iter().map(begin)).await {
            match begun {
                Ok(()) => (),
                Err(e @ StoreError::Corrupt { .. }) => {
                    tracing::error!(destination = %country, reason = %e, "a country can not be served");
                    damaged.insert(country);
                }
                Err(e) => return Err(fatal(e)),
            }
        }
        let beat = health.component("sweep", MAX_SILENCE);
        let supervisor = tokio::spawn(supervise(Arc::clone(&parts), beat, damaged));
        Ok(Self { parts, supervisor })
    }

    /// The download, audit and callback routes.
    pub fn router(&self) -> Router {
        let api = Api {
            shelves: self.parts.shelves.clone(),
            feed: self.parts.feed.clone(),
            clock: Arc::clone(&self.parts.clock),
            periods: self.parts.config.periods(),
        };
        routes(api.clone()).merge(callbacks::routes(api, self.parts.callbacks.clone()))
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
        if let Some(callbacks) = &self.parts.callbacks {
            callbacks.stop().await;
        }
        let workers = std::mem::take(&mut *self.parts.workers());
        end(workers.into_values().collect()).await;
    }
}

/// Tells all of them first: each may take a while.
async fn end(workers: Vec<Running>) {
    workers.iter().for_each(|w| w.stop.trip());
    let _ = tokio::task::spawn_blocking(|| workers.into_iter().for_each(|w| drop(w.thread.join()))).await;
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
    pub(crate) fn wanted(&self) -> Vec<Country> {
        match &self.config.countries {
            Countries::Only(list) => {
                let left = self.left();
                list.iter().copied().filter(|country| !left.contains(country)).collect()
            }
            Countries::All => self.members(&[MemberState::Active, MemberState::Paused]),
        }
    }

    /// The countries that are members no more.
    pub(crate) fn left(&self) -> Vec<Country> {
        self.members(&[MemberState::Left])
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

    pub(crate) fn members(&self, states: &[MemberState]) -> Vec<Country> {
        let now = self.clock.now();
        let network = self.feed.current();
        let all = network.iter().flat_map(|n| n.countries().map(|c| (c, n.state(c, now))));
        all.filter(|(_, state)| states.contains(state)).map(|(country, _)| country).collect()
    }

    /// Opens the log of a country and starts its worker.
    pub(crate) async fn begin(&self, country: Country) -> Result<(), StoreError> {
        self.metrics.expect(country);
        self.shelves.expect(country);
        let shelf = Arc::new(Shelf::open(self.store.clone(), country).await?);
        let stop = Shutdown::new();
        let worker = Worker {
            topic: Box::new(KafkaTopic { kafka: self.kafka.clone(), name: topics::keys(country) }),
            shelf: Arc::clone(&shelf),
            codec: self.codec.clone(),
            feed: self.feed.clone(),
            proofs: Arc::clone(&self.proofs),
            joining: self.config.joining(),
            clock: Arc::clone(&self.clock),
            beat: self.health.component(&topics::keys(country), MAX_SILENCE),
            metrics: self.metrics.clone(),
            stop: stop.clone(),
            tokio: Handle::current(),
        };
        let name = format!("keys-{}", country.lower());
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run());
        let thread = thread.map_err(|e| StoreError::Config(format!("no thread for {country}: {e}")))?;
        self.workers().insert(country, Running { stop, thread });
        if let Some(callbacks) = &self.callbacks {
            callbacks.begin(&shelf);
        }
        self.shelves.add(shelf);
        Ok(())
    }

    /// Serves a country no more. Waits for its worker, which may be in the middle of a request.
    pub(crate) async fn end(&self, country: Country) {
        self.shelves.remove(country);
        if let Some(callbacks) = &self.callbacks {
            callbacks.end(country).await;
        }
        let worker = self.workers().remove(&country);
        end(worker.into_iter().collect()).await;
        self.metrics.forget(country);
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<Country, Running>> {
        // Nothing under this lock leaves it half changed.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
