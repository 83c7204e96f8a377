//! A distribution service in a process of its own, for tests that kill it: `lone-distribution BOOTSTRAP STORE FOLDER
//! JOIN_WAIT_MS [CALLBACKS]`, the last a file with that section of its configuration.
//!
//! Once it answers, the file `addresses` in its folder says where: downloads first, then metrics and probes. It believes
//! whoever comes from this machine to be a proxy.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, anyhow};
use keyferry_runtime::{
    admin,
    clock::SystemClock,
    codec::Codec,
    config::{AdminConfig, LogConfig},
    exit::Fatal,
    health::Health,
    http::{self, HttpConfig},
    network::NetworkFeed,
    shutdown::Shutdown,
    telemetry,
};
use keyferry_sinks::Distribution;
use keyferry_tests::{downloads::config, hub::clients, lone};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("lone-distribution BOOTSTRAP STORE FOLDER JOIN_WAIT_MS");
    let (bootstrap, store, folder) = (next()?, PathBuf::from(next()?), PathBuf::from(next()?));
    let mut config = config(&store, next()?.parse()?);
    if let Ok(callbacks) = next() {
        config.callbacks = Some(serde_saphyr::from_str(&std::fs::read_to_string(callbacks)?)?);
    }
    if std::env::var_os("KEYFERRY_LOG").is_some() {
        telemetry::init(&LogConfig::default()).map_err(said)?;
    }
    let kafka = clients(&bootstrap, &[], "distribute");
    let anchor = lone::anchor(&folder)?;
    let codec = Codec::single_object()?;
    let feed = NetworkFeed::start(&kafka, codec.clone(), vec![anchor])?;
    let health = Health::new("distribute");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let clock = Arc::new(SystemClock);
        let distribution =
            Distribution::start(&kafka, codec, feed, config, clock, &health).await.map_err(said)?;
        let listen = "127.0.0.1:0".parse()?;
        let config = HttpConfig {
            listen,
            tls: None,
            trusted_proxies: vec!["127.0.0.0/8".parse()?],
            max_connections: 100,
            max_connections_per_address: 100,
            drain_s: 0,
        };
        let server = http::serve(&config, distribution.router(), Shutdown::new()).await.map_err(said)?;
        let admin = admin::serve(&AdminConfig { listen }, health).await.map_err(said)?;
        let new = folder.join("addresses.new");
        std::fs::write(&new, format!("{}\n{}\n", server.local_addr(), admin.address()))?;
        std::fs::rename(new, folder.join("addresses"))?;
        server.stopped().await;
        anyhow::Ok(())
    })
}

fn said(fatal: Fatal) -> anyhow::Error {
    anyhow!("{fatal}")
}
