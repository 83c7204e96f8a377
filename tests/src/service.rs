//! Distribution services in this process, spoken to over HTTP, and what is in their store.
#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use keyferry_runtime::{
    clock::{SharedClock, SystemClock},
    health::Health,
    http::serve,
    shutdown::Shutdown,
};
use keyferry_schemas::country::Country;
use keyferry_sinks::{
    DistributeConfig, Distribution,
    callbacks::CallbacksConfig,
    shelf::Shelf,
    store::{LocalConfig, Store, StoreConfig},
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    callee::plain,
    downloads,
    hub::{Hub, block_on},
};

/// A distribution service in this process, spoken to over HTTP as by a proxy.
pub struct Service {
    runtime: Runtime,
    distribution: Distribution,
    address: SocketAddr,
    shutdown: Shutdown,
    client: reqwest::Client,
}

impl Service {
    /// Starts one over the store in this folder.
    ///
    /// # Panics
    /// It can not be started.
    #[must_use]
    pub fn start(hub: &Hub, store: &Path, callbacks: Option<CallbacksConfig>) -> Self {
        Self::start_at(hub, store, callbacks, Arc::new(SystemClock))
    }

    /// The same, by another clock.
    ///
    /// # Panics
    /// It can not be started.
    #[must_use]
    pub fn start_at(hub: &Hub, store: &Path, callbacks: Option<CallbacksConfig>, clock: SharedClock) -> Self {
        // It was installed already, perhaps.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = DistributeConfig { callbacks, ..downloads::config(store, 0) };
        let shutdown = Shutdown::new();
        let (kafka, health) = (hub.kafka("distribute"), Health::new("distribute"));
        let (distribution, address) = runtime.block_on(async {
            let distribution = Distribution::start(
                &kafka,
                hub.codec.clone(),
                hub.network().unwrap(),
                config,
                clock,
                &health,
            );
            let distribution = distribution.await.unwrap();
            let server = serve(&plain(), distribution.router(), shutdown.clone()).await.unwrap();
            (distribution, server.local_addr())
        });
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        Self { runtime, distribution, address, shutdown, client }
    }

    /// One request of `country` about its callbacks; status and body.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn ask(&self, hub: &Hub, country: &str, method: &str, path: &str) -> (u16, Value) {
        let nation = hub.world.nation(country).unwrap();
        let request = self
            .client
            .request(method.parse().unwrap(), format!("http://{}/diagnosiskeys/callback{path}", self.address))
            .header("X-SSL-Client-SHA256", hex::encode(nation.authentication.certificate.sha256()))
            .header("X-SSL-Client-DN", format!("C={country}"));
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
            (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
        })
    }

    /// Ends it in good order.
    pub fn stop(self) {
        self.shutdown.trip();
        self.runtime.block_on(self.distribution.stop());
    }
}

/// The batches in a store, in order: tag and number of keys. None while there is no store yet.
///
/// # Panics
/// It can not be read.
#[must_use]
pub fn stored(store: &Path, country: Country) -> Vec<(String, u64)> {
    let config = StoreConfig::Local(LocalConfig { path: store.to_owned() });
    block_on(async {
        let mut batches = Vec::new();
        let Ok(objects) = Store::read_only(&config) else { return batches };
        let shelf = Shelf::open(objects, country).await.unwrap();
        while let Some(sealed) = shelf.entry(batches.len() as u64 + 1).await.unwrap() {
            batches.push((sealed.entry.tag.to_string(), sealed.entry.data.keys));
        }
        batches
    })
}
