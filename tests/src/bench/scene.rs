//! The whole exchange in one process, as it is measured: gateway and distribution service with the settings they have by
//! themselves, over mutual TLS, on threads that bear the names of their roles.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use keyferry_producers::{Gateway, GatewayConfig};
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    health::Health,
    http::{Server, serve},
    shutdown::Shutdown,
    transaction::Settings,
};
use keyferry_schemas::{
    country::Country,
    records::Upload,
    world::{Rng, World, key},
};
use keyferry_sinks::{DistributeConfig, Distribution};
use tokio::runtime::{Builder, Runtime};

use crate::{
    downloads,
    exchange::{listener, tls},
    front::Door,
    hub::Hub,
    processor::Processor,
};

/// Each of them sends to the four others.
pub(super) const COUNTRIES: [&str; 5] = ["DE", "FR", "IT", "NL", "PL"];

/// All roles, and what stands around them.
pub(super) struct Scene {
    pub hub: Hub,
    pub load: Runtime,
    processor: Option<Processor>,
    gateway: Option<Gateway>,
    distribution: Option<Distribution>,
    servers: [Server; 2],
    roles: [Runtime; 2],
    shutdown: Shutdown,
    folder: tempfile::TempDir,
}

impl Scene {
    /// Starts all of it. Takes some seconds.
    pub fn start() -> Result<Self> {
        // It was installed already, perhaps.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let hub = super::hub(&COUNTRIES)?;
        let named = |name: &str| Builder::new_multi_thread().thread_name(name).enable_all().build();
        let (roles, load) = ([named("gateway")?, named("distribute")?], named("load")?);
        let (network, shutdown, folder) = (hub.network()?, Shutdown::new(), tempfile::tempdir()?);
        let processor = hub.processor_following(network.clone(), Settings::new("p-0"), &[])?;
        // How much one member may send is no question of speed.
        let limits = GatewayConfig { uploads_per_minute_per_member: 60_000, ..GatewayConfig::default() };
        let gateway = hub.gateway(network.clone(), limits)?;
        let config = DistributeConfig {
            max_keys_per_download_batch: 20_000,
            ..downloads::config(&folder.path().join("store"), 0)
        };
        let (kafka, health) = (hub.kafka("distribute"), Health::new("distribute"));
        let distribution = roles[1].block_on(Distribution::start(
            &kafka,
            hub.codec.clone(),
            network,
            config,
            Arc::new(SystemClock),
            &health,
        ));
        let distribution = distribution.map_err(|e| anyhow!("{e}"))?;
        let listen = |runtime: &Runtime, routes| {
            let config = listener(Door::Tls, &hub.world, folder.path())?;
            runtime.block_on(serve(&config, routes, shutdown.clone())).map_err(|e| anyhow!("{e}"))
        };
        let servers = [listen(&roles[0], gateway.router())?, listen(&roles[1], distribution.router())?];
        let (processor, gateway, distribution) = (Some(processor), Some(gateway), Some(distribution));
        Ok(Self { hub, load, processor, gateway, distribution, servers, roles, shutdown, folder })
    }

    /// Where uploads go.
    pub fn uploads(&self) -> String {
        format!("https://{}/diagnosiskeys/upload", self.servers[0].local_addr())
    }

    /// Where downloads come from.
    pub fn downloads(&self) -> String {
        format!("https://{}/diagnosiskeys", self.servers[1].local_addr())
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The backend of a country: mutual TLS, a connection for each request at a time, kept alive.
    pub fn backend(&self, country: &str) -> Result<reqwest::Client> {
        let world = &self.hub.world;
        let config = tls(world, Some(&world.nation(country)?.authentication))?;
        let client = reqwest::Client::builder().no_proxy().http1_only().timeout(Duration::from_secs(60));
        Ok(client.tls_backend_preconfigured(config).build()?)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.trip();
        drop(self.processor.take());
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
        if let Some(distribution) = self.distribution.take() {
            self.roles[1].block_on(distribution.stop());
        }
    }
}

/// Makes signed uploads of new keys, ready to be sent.
pub(super) struct Maker {
    rng: Rng,
    made: u64,
}

impl Maker {
    pub fn new() -> Result<Self> {
        Ok(Self { rng: Rng::from_entropy()?, made: 0 })
    }

    /// One upload of so many keys.
    pub fn upload(&mut self, world: &World, origin: &str, keys: usize) -> Result<Upload> {
        self.made += 1;
        let visited: Vec<_> = COUNTRIES.into_iter().filter(|c| *c != origin).collect();
        let keys: Vec<_> =
            (0..keys).map(|_| key(&mut self.rng, origin, &visited, SystemClock.now())).collect();
        world.upload(origin, &format!("bench-{}", self.made), &keys)
    }
}

/// The countries that an upload of `origin` goes to.
pub(super) fn destinations(origin: &str) -> impl Iterator<Item = Country> {
    COUNTRIES.into_iter().filter(move |c| *c != origin).filter_map(|c| c.parse().ok())
}
