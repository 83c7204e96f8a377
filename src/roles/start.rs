//! Start and end of the roles in one process.

use std::{sync::Arc, thread, time::Duration};

use axum::Router;
use keyferry_processors::role::{self, ProcessConfig};
use keyferry_producers::Gateway;
use keyferry_runtime::{
    admin::{self, AdminServer},
    clock::{SharedClock, SystemClock},
    codec::Codec,
    config::TrustConfig,
    exit::Fatal,
    health::Health,
    http,
    kafka::Kafka,
    network::{NetworkFeed, NetworkUnavailable},
    registry,
    shutdown::Shutdown,
};
use keyferry_schemas::topics;
use keyferry_sinks::Distribution;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};

use super::Config;

/// How long threads that are in the middle of a request to a dead broker may keep the process at its end.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// Runs the roles of `config` to their end on a tokio runtime of their own.
pub(super) fn block_on(config: Config) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fatal::failure(format_args!("no threads can be made: {e}")))?;
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let mut roles = Roles::default();
        // A signal while the brokers do not answer must not wait for them.
        let started = tokio::select! {
            started = roles.start(config) => started,
            () = shutdown.wait() => Ok(()),
        };
        let ended = match started {
            Ok(()) => roles.until_one_ends(&shutdown).await,
            Err(fatal) => Err(fatal),
        };
        // What ended first is what an operator has to know.
        let stopped = roles.stop().await;
        ended.and(stopped)
    });
    runtime.shutdown_timeout(LEFTOVERS);
    ended
}

/// What runs.
#[derive(Default)]
struct Roles {
    feed: Option<NetworkFeed>,
    admin: Option<AdminServer>,
    gateway: Option<Gateway>,
    distribution: Option<Distribution>,
    listener: Option<Listener>,
    processor: Option<Processor>,
}

struct Listener {
    /// How long it goes on while nobody should come any more.
    drain: Duration,
    health: Health,
    stop: Shutdown,
    ended: JoinHandle<()>,
}

struct Processor {
    stop: Shutdown,
    ended: oneshot::Receiver<Result<(), Fatal>>,
}

impl Roles {
    async fn start(&mut self, config: Config) -> Result<(), Fatal> {
        let kafka = |role: &str| Kafka::new(&config.kafka, role);
        let registry = config.registry.clone();
        let codec = blocking(move || registry::codec(registry.as_ref())).await?;
        let anchors = config.trust_anchors.as_ref().map(TrustConfig::load).transpose()?.unwrap_or_default();
        let (reader, of_feed) = (kafka("network"), codec.clone());
        let feed = blocking(move || {
            NetworkFeed::start(&reader, of_feed, anchors).map_err(|e| match e {
                NetworkUnavailable::Kafka(e) => reader.fatal(topics::NETWORK, &e),
                other => other.into(),
            })
        })
        .await?;
        self.feed = Some(feed.clone());

        let health = Health::new("keyferry");
        let clock: SharedClock = Arc::new(SystemClock);
        if let Some(admin) = &config.admin {
            self.admin = Some(admin::serve(admin, health.clone()).await?);
        }
        if let Some(process) = config.process.clone() {
            let health = health.role("process");
            self.processor =
                Some(Processor::start(process, kafka("process"), codec.clone(), feed.clone(), health)?);
        }
        let mut router = Router::new();
        if let Some(gateway) = config.gateway.clone() {
            let (kafka, codec, feed, clock) =
                (kafka("gateway"), codec.clone(), feed.clone(), Arc::clone(&clock));
            let health = health.role("gateway");
            let gateway =
                blocking(move || Gateway::start(&kafka, codec, feed, gateway, clock, &health)).await?;
            router = router.merge(gateway.router());
            self.gateway = Some(gateway);
        }
        if let Some(distribute) = config.distribute.clone() {
            let health = health.role("distribute");
            let kafka = kafka("distribute");
            let distribution = Distribution::start(&kafka, codec, feed, distribute, clock, &health).await?;
            router = router.merge(distribution.router());
            self.distribution = Some(distribution);
        }
        if let Some(http) =
            config.http.as_ref().filter(|_| self.gateway.is_some() || self.distribution.is_some())
        {
            let stop = Shutdown::new();
            let server = http::serve(http, router, stop.clone()).await?;
            let ended = tokio::spawn(server.stopped());
            self.listener = Some(Listener { drain: http.drain(), health: health.clone(), stop, ended });
        }
        Ok(())
    }

    /// Waits for the signal, or until a role ends by itself, which none should.
    async fn until_one_ends(&mut self, shutdown: &Shutdown) -> Result<(), Fatal> {
        let ended = tokio::select! {
            () = shutdown.wait() => return Ok(()),
            fatal = Processor::ended(&mut self.processor) => fatal,
            () = Listener::ended(&mut self.listener) => Fatal::failure("the listener stopped; its log says why"),
        };
        tracing::error!(reason = %ended, "stopping");
        Err(ended)
    }

    /// Uploads in flight wait for their decision, so the processor goes on until the listener has answered them all.
    async fn stop(self) -> Result<(), Fatal> {
        if let Some(Listener { drain, health, stop, ended }) = self.listener {
            health.leave();
            tokio::time::sleep(drain).await;
            stop.trip();
            // One that panicked has stopped as well.
            let _ = ended.await;
        }
        if let Some(gateway) = self.gateway {
            let stopped = move || {
                gateway.stop();
                Ok(())
            };
            blocking(stopped).await?;
        }
        let mut last = Ok(());
        if let Some(Processor { stop, ended }) = self.processor {
            stop.trip();
            // A thread that panicked says nothing; its log does.
            let panicked =
                || Fatal::failure("the processor ended unexpectedly while it stopped; its log says why");
            last = ended.await.unwrap_or_else(|_| Err(panicked()));
        }
        if let Some(distribution) = self.distribution {
            distribution.stop().await;
        }
        if let Some(feed) = self.feed {
            feed.stop();
        }
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        tracing::info!("stopped");
        last
    }
}

impl Listener {
    /// Waits for its end; for ever if there is none.
    async fn ended(listener: &mut Option<Self>) {
        match listener {
            None => std::future::pending().await,
            Some(running) => {
                // One that panicked has ended as well.
                let _ = (&mut running.ended).await;
                *listener = None;
            }
        }
    }
}

impl Processor {
    /// Waits for its end, which is a fault by itself; for ever if there is none.
    async fn ended(processor: &mut Option<Self>) -> Fatal {
        let ended = match processor {
            None => std::future::pending().await,
            Some(running) => (&mut running.ended).await,
        };
        *processor = None;
        match ended {
            Ok(Ok(())) => Fatal::failure("the processor ended without being asked to"),
            Ok(Err(fatal)) => fatal,
            Err(_) => Fatal::failure("the processor ended unexpectedly; its log says why"),
        }
    }

    /// The transaction loop blocks: it has a thread of its own.
    fn start(
        config: ProcessConfig,
        kafka: Kafka,
        codec: Codec,
        feed: NetworkFeed,
        health: Health,
    ) -> Result<Self, Fatal> {
        let stop = Shutdown::new();
        let (tell, ended) = oneshot::channel();
        let told = stop.clone();
        let run = move || {
            // Nobody listens any more only at the very end.
            let _ = tell.send(role::run(&config, kafka, codec, feed, &health, &told));
        };
        let thread = thread::Builder::new().name("process".into()).spawn(run);
        thread.map_err(|e| Fatal::failure(format_args!("no thread for the processor: {e}")))?;
        Ok(Self { stop, ended })
    }
}

/// Runs what blocks beside the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fatal> + Send + 'static,
) -> Result<T, Fatal> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Fatal::failure("a part ended unexpectedly while it started or stopped")))
}

#[cfg(test)]
mod tests {
    use keyferry_runtime::exit::Exit;

    use super::*;

    #[tokio::test]
    async fn a_processor_that_panics_while_it_stops_is_a_failure() {
        let (tell, ended) = oneshot::channel();
        let stop = Shutdown::new();
        let roles = Roles { processor: Some(Processor { stop, ended }), ..Roles::default() };
        // As a thread that panics does.
        drop(tell);
        assert_eq!(roles.stop().await.unwrap_err().exit, Exit::Failure);
    }
}
