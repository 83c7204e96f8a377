//! A hub as a national backend sees it: broker, processor, and a gateway that is spoken to over HTTP.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_producers::{Gateway, GatewayConfig};
use keyferry_runtime::{
    clock::{SharedClock, SystemClock},
    http::{Server, serve},
    network::NetworkFeed,
    shutdown::Shutdown,
    transaction::Settings,
};
use keyferry_schemas::{efgs::DiagnosisKey, records::Upload, world::World};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    exchange::{client, listener},
    hub::Hub,
    processor::Processor,
};

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// By the headers of a proxy.
    Proxy,
    /// By a certificate of their own.
    Tls,
}

/// A hub, its processor and its gateway, which share one view of the network document: once a version is known, both
/// apply it.
pub struct Front {
    /// The hub.
    pub hub: Hub,
    /// The network document as both follow it.
    pub network: NetworkFeed,
    /// Its processor, `p-0`.
    pub processor: Processor,
    door: Door,
    runtime: Runtime,
    server: Server,
    gateway: Option<Gateway>,
    shutdown: Shutdown,
    client: Client,
    _files: tempfile::TempDir,
}

/// What a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// The header `batchTag`.
    pub tag: Option<String>,
    /// The body, if it is JSON.
    pub body: Value,
}

impl Answer {
    /// Indexes that a 207 lists under `status`.
    #[must_use]
    pub fn listed(&self, status: &str) -> Vec<u64> {
        self.body[status].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    }

    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Front {
    /// Starts all of it behind a proxy. Takes some seconds.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(world: World) -> Result<Self> {
        Self::behind(Door::Proxy, world)
    }

    /// Starts all of it with this kind of door.
    ///
    /// # Errors
    /// Something does not start.
    pub fn behind(door: Door, world: World) -> Result<Self> {
        Self::over(Hub::start(world)?, door)
    }

    /// Starts processor and gateway of a hub, which read and write records as it does.
    ///
    /// # Errors
    /// Something does not start.
    pub fn over(hub: Hub, door: Door) -> Result<Self> {
        // A shared machine may be slow; what a wait that is too short leads to is not asked here.
        Self::with(hub, door, GatewayConfig { decision_wait_ms: 15_000, ..GatewayConfig::default() })
    }

    /// The same, with a gateway that is told this.
    ///
    /// # Errors
    /// Something does not start.
    pub fn with(hub: Hub, door: Door, config: GatewayConfig) -> Result<Self> {
        Self::at(hub, door, config, Arc::new(SystemClock))
    }

    /// The same, with a gateway that goes by this clock.
    ///
    /// # Errors
    /// Something does not start.
    pub fn at(hub: Hub, door: Door, config: GatewayConfig, clock: SharedClock) -> Result<Self> {
        // Another test of this process may have done so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let network = hub.network()?;
        let processor = hub.processor_following(network.clone(), Settings::new("p-0"), &[])?;
        let gateway = hub.gateway_at(network.clone(), config, clock)?;
        let files = tempfile::tempdir()?;
        let config = listener(door, &hub.world, files.path())?;
        let (runtime, shutdown) = (Runtime::new()?, Shutdown::new());
        let server = runtime
            .block_on(serve(&config, gateway.router(), shutdown.clone()))
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        let client = Client::builder().no_proxy().build()?;
        let gateway = Some(gateway);
        Ok(Self { hub, network, processor, door, runtime, server, gateway, shutdown, client, _files: files })
    }

    /// Where the gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Changes the world, publishes the next version of its document and waits until it is in force.
    ///
    /// # Errors
    /// It does not come into force.
    pub fn publish(&mut self, change: impl FnOnce(&mut World)) -> Result<()> {
        change(&mut self.hub.world);
        self.hub.world.document.version += 1;
        self.hub.publish()?;
        let version = self.hub.world.document.version;
        ensure!(self.network.wait_for(version, Duration::from_secs(30)), "version {version} is not in force");
        Ok(())
    }

    /// Sends keys of `code` as its backend would.
    ///
    /// # Errors
    /// There is no answer.
    pub fn send(&self, code: &str, tag: &str, keys: &[DiagnosisKey]) -> Result<Answer> {
        self.post(&self.hub.world.upload(code, tag, keys)?)
    }

    /// Sends an upload with what its record says: tag, signature, body, certificate.
    ///
    /// # Errors
    /// There is no answer.
    pub fn post(&self, upload: &Upload) -> Result<Answer> {
        self.post_to("upload", upload)
    }

    /// The same, only to hear what would become of it.
    ///
    /// # Errors
    /// There is no answer.
    pub fn check(&self, upload: &Upload) -> Result<Answer> {
        self.post_to("check", upload)
    }

    fn post_to(&self, path: &str, upload: &Upload) -> Result<Answer> {
        let client = match self.door {
            Door::Proxy => self.client.clone(),
            Door::Tls => {
                let world = &self.hub.world;
                client(world, Some(&world.nation(upload.origin.as_str())?.authentication))?
            }
        };
        self.runtime.block_on(answer(self.request(&client, self.address(), path, upload)))
    }

    /// The same through something in between, on a connection of its own.
    ///
    /// # Errors
    /// There is no answer.
    pub fn post_via(&self, address: SocketAddr, upload: &Upload) -> Result<Answer> {
        let request = self.request(&self.client, address, "upload", upload).header("Connection", "close");
        self.runtime.block_on(answer(request))
    }

    /// Sends all at once; the answers are in their order.
    ///
    /// # Errors
    /// One has no answer.
    pub fn post_at_once(&self, uploads: &[Upload]) -> Result<Vec<Answer>> {
        self.runtime.block_on(async {
            // On threads of the runtime, so that they do run at the same time.
            let sent: Vec<_> = uploads
                .iter()
                .map(|u| tokio::spawn(answer(self.request(&self.client, self.address(), "upload", u))))
                .collect();
            let mut answers = Vec::new();
            for one in sent {
                answers.push(one.await??);
            }
            Ok(answers)
        })
    }

    fn request(&self, client: &Client, address: SocketAddr, path: &str, upload: &Upload) -> RequestBuilder {
        let scheme = if self.door == Door::Tls { "https" } else { "http" };
        client
            .post(format!("{scheme}://{address}/diagnosiskeys/{path}"))
            // Nothing but noise where there is no proxy.
            .header("X-SSL-Client-SHA256", hex::encode(upload.client_certificate))
            .header("X-SSL-Client-DN", format!("C={}", upload.origin))
            .header("batchTag", &upload.batch_tag)
            .header("batchSignature", STANDARD.encode(&upload.batch_signature))
            .header("Content-Type", &upload.content_type)
            .body(upload.payload.clone())
    }

    /// That `destination` was sent exactly these keys, each as often as it stands here.
    ///
    /// # Errors
    /// It was not; the error tells how many are missing and how many too many.
    pub fn delivered_exactly(&self, destination: &str, expected: &[&DiagnosisKey]) -> Result<()> {
        let mut balance = BTreeMap::<Vec<u8>, i64>::new();
        for key in expected {
            *balance.entry(key.key_data.to_vec()).or_default() += 1;
        }
        for key in self.hub.delivered(destination)? {
            *balance.entry(key).or_default() -= 1;
        }
        let missing: i64 = balance.values().filter(|n| **n > 0).sum();
        let surplus: i64 = balance.values().filter(|n| **n < 0).sum();
        if (missing, surplus) != (0, 0) {
            bail!(
                "{destination}: {missing} of {} keys are missing, {} are too many",
                expected.len(),
                -surplus
            );
        }
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shutdown.trip();
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer> {
    let response = request.timeout(Duration::from_secs(60)).send().await?;
    let status = response.status().as_u16();
    let tag = response.headers().get("batchTag").map(|t| t.to_str().map(ToOwned::to_owned)).transpose()?;
    let text = response.text().await?;
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
    Ok(Answer { status, tag, body })
}
