//! The gateway as a whole.

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};
use keyferry_runtime::{
    clock::SharedClock, codec::Codec, exit::Fatal, health::Health, http::Problem, kafka::Kafka,
    network::NetworkFeed, producer::Producer,
};
use keyferry_schemas::rejection::Rejection;
use tokio::sync::Semaphore;

use crate::{
    check,
    config::GatewayConfig,
    decisions::{Bounds, Decisions},
    ledgers::{Following, Ledgers, MAX_SILENCE},
    limits::Limits,
    log::{Topics, UploadLog},
    metrics::Metrics,
    receipts, upload,
};

/// Bodies that are decoded at a time: one of many tiny keys takes a hundred times its size while it is looked at.
const DECODERS: usize = 2;

/// A running gateway. Its routes answer for as long as it lives: drop it, or stop it, after the listener has ended.
pub struct Gateway {
    inner: Arc<Inner>,
    following: Following,
}

/// What a request works with.
pub(crate) struct Inner {
    pub(crate) log: Box<dyn UploadLog>,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) network: NetworkFeed,
    pub(crate) limits: Limits,
    decoders: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: SharedClock,
    pub(crate) config: GatewayConfig,
}

impl Gateway {
    /// Begins to follow the ledger of every member. Blocks until the end of each is known, or for up to 10 s
    /// if the broker does not answer.
    ///
    /// # Errors
    /// The broker can not be reached, or librdkafka refuses its configuration.
    pub fn start(
        kafka: &Kafka,
        codec: Codec,
        network: NetworkFeed,
        config: GatewayConfig,
        clock: SharedClock,
        health: &Health,
    ) -> Result<Self, Fatal> {
        let producer = Producer::new(kafka).map_err(|e| {
            Fatal::config(format_args!("the producer can not be made: {e}; see kafka.options"))
        })?;
        producer.measure(Arc::clone(&clock))?;
        let metrics = Metrics::new()?;
        let decisions = Arc::new(Decisions::new(Bounds::default()));
        let ledgers = Ledgers {
            kafka: kafka.clone(),
            codec: codec.clone(),
            network: network.clone(),
            decisions: Arc::clone(&decisions),
            producer: producer.clone(),
            metrics: metrics.clone(),
            clock: Arc::clone(&clock),
            beat: health.component("ledgers", MAX_SILENCE),
        };
        let following = ledgers.start()?;
        let log = Box::new(Topics { producer, codec });
        let inner = Arc::new(Inner::new(log, decisions, network, config, clock, metrics));
        Ok(Self { inner, following })
    }

    /// The routes, to be mounted on [`keyferry_runtime::http::serve`].
    pub fn router(&self) -> Router {
        router(Arc::clone(&self.inner))
    }

    /// Ends the thread that follows the ledgers; to be called once the listener has ended and every request in flight
    /// was answered. Blocks for a fraction of a second.
    pub fn stop(self) {
        drop(self.following);
    }
}

impl Inner {
    pub(crate) fn new(
        log: Box<dyn UploadLog>,
        decisions: Arc<Decisions>,
        network: NetworkFeed,
        config: GatewayConfig,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Self {
        let limits = Limits::new(&config);
        let decoders = Arc::new(Semaphore::new(DECODERS));
        Self { log, decisions, network, limits, decoders, metrics, clock, config }
    }

    /// Looks into a body, which costs the more the worse it is: apart from the threads that serve, and few at a time,
    /// those included whose clients have gone meanwhile. Waits for its turn.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.decoders).acquire_owned().await.ok();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.unwrap_or_else(|_| Err(Problem::rejection(Rejection::Body, "the body can not be read")))
    }
}

pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/diagnosiskeys/upload", post(upload::upload))
        .route("/diagnosiskeys/check", post(check::check))
        .route(receipts::PATH, get(receipts::receipt))
        .with_state(inner)
}
