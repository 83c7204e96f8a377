//! Callbacks: members that want to be called when there is a new batch, instead of asking for it.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | our certificate for calls, and their limits |
//! | `target` | callback ids and addresses, as far as they can be judged by themselves; pure |
//! | `book` | one country's subscriptions and how far each was called: what its topic says; pure |
//! | `register`, `reader` | the books of all countries, kept up to date; which countries this instance calls |
//! | `routes` | subscribe, list, end |
//! | `desk` | one country: a notifier per subscription while this instance is in charge of it |
//! | `notifier` | one subscription: calls for batch after batch, until each is acknowledged |
//! | `backoff` | how long to wait after a call that failed; pure |
//! | `metrics` | what is counted |
//!
//! Everything that has to outlive an instance stands on `keyferry.callbacks.<cc>`. Calls may be repeated and are not lost.

mod backoff;
mod book;
mod config;
mod desk;
mod metrics;
mod notifier;
mod reader;
mod register;
mod routes;
mod target;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keyferry_runtime::{
    clock::SharedClock,
    codec::Codec,
    exit::Fatal,
    health::Health,
    kafka::Kafka,
    network::NetworkFeed,
    outbound::{Caller, ClientIdentity, Guard, SystemResolver},
    producer::Producer,
};
use keyferry_schemas::{country::Country, topics};

pub use config::CallbacksConfig;
pub(crate) use routes::routes;

use crate::{api::Periods, shelf::Shelf};
use desk::Desk;
use metrics::CallbackMetrics;
use register::Register;

/// The callbacks of all countries served here. Clones are the same.
#[derive(Clone)]
pub(crate) struct Callbacks {
    tools: Arc<Tools>,
    desks: Arc<Mutex<BTreeMap<Country, Desk>>>,
}

/// What all parts of it work with.
pub(crate) struct Tools {
    config: CallbacksConfig,
    caller: Caller,
    register: Register,
    producer: Producer,
    codec: Codec,
    feed: NetworkFeed,
    clock: SharedClock,
    periods: Periods,
    metrics: CallbackMetrics,
}

impl Callbacks {
    /// Starts with no country. Reads the files of the configuration; asks no broker.
    ///
    /// # Errors
    /// Our certificate can not be used, or librdkafka does not take the configuration.
    pub(crate) fn start(
        kafka: &Kafka,
        codec: &Codec,
        feed: &NetworkFeed,
        config: &CallbacksConfig,
        clock: &SharedClock,
        periods: Periods,
        health: &Health,
    ) -> Result<Self, Fatal> {
        let identity = ClientIdentity::load(&config.client);
        let identity =
            identity.map_err(|e| Fatal::config(format_args!("distribute.callbacks.client: {e}")))?;
        let guard = Guard::new(Arc::new(SystemResolver), &config.allowed_networks);
        let tools = Tools {
            caller: Caller::new(guard, identity, Duration::from_millis(config.timeout_ms)),
            register: Register::start(kafka, codec.clone(), health)?,
            producer: Producer::new(kafka).map_err(|e| kafka.fatal("keyferry.callbacks.*", &e))?,
            config: config.clone(),
            codec: codec.clone(),
            feed: feed.clone(),
            clock: Arc::clone(clock),
            periods,
            metrics: CallbackMetrics::new()?,
        };
        tools.producer.measure(Arc::clone(clock))?;
        Ok(Self { tools: Arc::new(tools), desks: Arc::default() })
    }

    /// Calls for the batches of this shelf as well, if no other instance is in charge. To be called inside tokio.
    pub(crate) fn begin(&self, shelf: &Arc<Shelf>) {
        let country = shelf.country();
        self.tools.metrics.expect(country);
        self.tools.register.want(country);
        self.desks().insert(country, Desk::start(Arc::clone(&self.tools), Arc::clone(shelf)));
    }

    /// Calls for a country no more. Waits until what was acknowledged is written down, for some seconds at most.
    pub(crate) async fn end(&self, country: Country) {
        let desk = self.desks().remove(&country);
        if let Some(desk) = desk {
            desk.stop().await;
        }
        self.tools.register.forget(country);
        self.tools.metrics.forget(country);
    }

    /// Ends all of it, as [`Callbacks::end`].
    pub(crate) async fn stop(&self) {
        let desks = std::mem::take(&mut *self.desks());
        futures::future::join_all(desks.into_values().map(Desk::stop)).await;
        self.tools.register.stop().await;
    }

    fn desks(&self) -> MutexGuard<'_, BTreeMap<Country, Desk>> {
        // Nothing under this lock leaves it half changed.
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tools {
    /// Writes what `key` stands for from now on, or that it stands for nothing any more, and returns where.
    ///
    /// # Errors
    /// It is not written, or nobody knows; in one line.
    async fn put(&self, country: Country, key: &str, value: Option<&[u8]>) -> Result<i64, String> {
        let topic = topics::callbacks(country);
        let written = match value {
            Some(value) => self.producer.send(&topic, key.as_bytes(), value, &[]).await,
            None => self.producer.bury(&topic, key.as_bytes()).await,
        };
        written.map_err(|e| e.to_string())
    }
}
