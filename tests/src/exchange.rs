//! The whole exchange as a national backend sees it: gateway, processor and distribution service over one hub, and the
//! same routes behind two doors at once.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use keyferry_producers::{Gateway, GatewayConfig};
use keyferry_runtime::{
    clock::{SharedClock, SystemClock},
    health::Health,
    http::{HttpConfig, Server, TlsConfig, serve},
    network::NetworkFeed,
    shutdown::Shutdown,
    transaction::Settings,
};
use keyferry_schemas::{
    records::Hash,
    world::{Identity, World},
};
use keyferry_sinks::Distribution;
use reqwest::{
    Client, Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{downloads, front::Door, hub::Hub, processor::Processor};

/// Headers of a proxy: who the client is.
pub const SHA256_HEADER: &str = "x-ssl-client-sha256";
/// The other one.
pub const DN_HEADER: &str = "x-ssl-client-dn";

/// All roles, and two listeners in front of them.
pub struct Exchange {
    /// The hub.
    pub hub: Hub,
    /// The network document as the roles follow it.
    pub network: NetworkFeed,
    processor: Option<Processor>,
    gateway: Option<Gateway>,
    distribution: Option<Distribution>,
    behind_proxy: Server,
    over_tls: Server,
    shutdown: Shutdown,
    runtime: Runtime,
    clients: Mutex<HashMap<Option<Hash>, Client>>,
    _files: tempfile::TempDir,
}

/// A request, but for who makes it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Its path, with the slash it begins with.
    pub path: String,
    /// Its headers. Those of a proxy are added where they are not among them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Call {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Sets a header; what stood there is gone.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a slip in a test")]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().expect("a name of a header");
        self.headers.insert(name, HeaderValue::from_bytes(value.as_ref()).expect("a header"));
        self
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// A header that stands there; else an empty text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The body, if it is JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Exchange {
    /// Starts all of it but the processor. Takes some seconds.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(world: World, config: GatewayConfig) -> Result<Self> {
        // Another test of this process may have done so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let hub = Hub::start(world)?;
        let network = hub.network()?;
        let (runtime, shutdown, files) = (Runtime::new()?, Shutdown::new(), tempfile::tempdir()?);
        let gateway = hub.gateway(network.clone(), config)?;
        let distribution = runtime
            .block_on(Distribution::start(
                &hub.kafka("distribute"),
                hub.codec.clone(),
                network.clone(),
                downloads::config(&files.path().join("store"), 0),
                Arc::new(SystemClock),
                &Health::new("distribute"),
            ))
            .map_err(|e| anyhow!("{e}"))?;
        let routes = gateway.router().merge(distribution.router());
        let listen = |config: HttpConfig| {
            let served = runtime.block_on(serve(&config, routes.clone(), shutdown.clone()));
            served.map_err(|e| anyhow!("{e}"))
        };
        let behind_proxy = listen(listener(Door::Proxy, &hub.world, files.path())?)?;
        let over_tls = listen(listener(Door::Tls, &hub.world, files.path())?)?;
        Ok(Self {
            hub,
            network,
            processor: None,
            gateway: Some(gateway),
            distribution: Some(distribution),
            behind_proxy,
            over_tls,
            shutdown,
            runtime,
            clients: Mutex::default(),
            _files: files,
        })
    }

    /// Starts the processor.
    ///
    /// # Errors
    /// It can not be made.
    pub fn process(&mut self) -> Result<()> {
        self.processor =
            Some(self.hub.processor_following(self.network.clone(), Settings::new("p-0"), &[])?);
        Ok(())
    }

    /// Sends a request as `who`: with its certificate, or with what a proxy says of it.
    ///
    /// # Errors
    /// There is no answer.
    pub fn call(&self, door: Door, who: Option<&Identity>, call: &Call) -> Result<Reply> {
        let mut headers = call.headers.clone();
        let (client, base) = match door {
            Door::Tls => (self.client(who)?, format!("https://{}", self.over_tls.local_addr())),
            Door::Proxy => {
                if let Some(who) = who {
                    let said =
                        [(SHA256_HEADER, hex::encode(who.certificate.sha256())), (DN_HEADER, dn(who)?)];
                    for (name, value) in said {
                        headers.entry(name).or_insert(value.parse()?);
                    }
                }
                (self.client(None)?, format!("http://{}", self.behind_proxy.local_addr()))
            }
        };
        let request = client.request(call.method.clone(), base + &call.path).headers(headers);
        self.runtime.block_on(async {
            let sent = request.body(call.body.clone()).timeout(Duration::from_secs(60)).send().await?;
            let (status, headers) = (sent.status().as_u16(), sent.headers().clone());
            Ok(Reply { status, headers, body: sent.bytes().await? })
        })
    }

    fn client(&self, who: Option<&Identity>) -> Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let name = who.map(|who| who.certificate.sha256());
        if let Some(known) = clients.get(&name) {
            return Ok(known.clone());
        }
        let client = client(&self.hub.world, who)?;
        clients.insert(name, client.clone());
        Ok(client)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shutdown.trip();
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
        if let Some(distribution) = self.distribution.take() {
            self.runtime.block_on(distribution.stop());
        }
    }
}

impl Hub {
    /// Starts a gateway.
    ///
    /// # Errors
    /// It does not start.
    pub fn gateway(&self, network: NetworkFeed, config: GatewayConfig) -> Result<Gateway> {
        self.gateway_at(network, config, Arc::new(SystemClock))
    }

    /// The same by another clock.
    ///
    /// # Errors
    /// It does not start.
    pub fn gateway_at(
        &self,
        network: NetworkFeed,
        config: GatewayConfig,
        clock: SharedClock,
    ) -> Result<Gateway> {
        let (kafka, health) = (self.kafka("gateway"), Health::new("gateway"));
        Gateway::start(&kafka, self.codec.clone(), network, config, clock, &health)
            .map_err(|e| anyhow!("{e}"))
    }
}

/// The listener behind a door, with its certificate in `folder`: the anchor's, which names this machine.
///
/// # Errors
/// It can not be written.
pub fn listener(door: Door, world: &World, folder: &Path) -> Result<HttpConfig> {
    let (tls, trusted_proxies) = match door {
        Door::Proxy => (None, vec!["127.0.0.1/32".parse()?]),
        Door::Tls => {
            let files = TlsConfig { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
            std::fs::write(&files.certificate, world.anchor.certificate_pem()?)?;
            std::fs::write(&files.key, world.anchor.key_pem()?)?;
            (Some(files), Vec::new())
        }
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(HttpConfig {
        listen,
        tls,
        trusted_proxies,
        max_connections: 200,
        max_connections_per_address: 200,
        drain_s: 0,
    })
}

/// A client with this certificate, or with none, that trusts the listeners of this world.
///
/// # Errors
/// The certificate can not be used.
pub fn client(world: &World, who: Option<&Identity>) -> Result<Client> {
    Ok(Client::builder().no_proxy().tls_backend_preconfigured(tls(world, who)?).build()?)
}

/// How such a client proves who it is, and whom it trusts.
///
/// # Errors
/// The certificate can not be used.
pub fn tls(world: &World, who: Option<&Identity>) -> Result<ClientConfig> {
    let der = |identity: &Identity| anyhow::Ok(identity.certificate.x509().to_der()?.into());
    let mut roots = RootCertStore::empty();
    roots.add(der(&world.anchor)?)?;
    let config = ClientConfig::builder().with_root_certificates(roots);
    Ok(match who {
        None => config.with_no_client_auth(),
        Some(who) => {
            let key = PrivateKeyDer::from_pem_slice(who.key_pem()?.as_bytes())?;
            config.with_client_auth_cert(vec![der(who)?], key)?
        }
    })
}

/// The subject as a proxy writes it, RFC 2253: the last attribute first.
fn dn(who: &Identity) -> Result<String> {
    let subject = who.certificate.x509().subject_name();
    let attribute = |entry: &openssl::x509::X509NameEntryRef| {
        let kind = entry.object().nid().short_name()?;
        anyhow::Ok(format!("{kind}={}", entry.data().to_string().context("text in a name")?))
    };
    let attributes: Result<Vec<_>> = subject.entries().map(attribute).collect();
    Ok(attributes?.into_iter().rev().collect::<Vec<_>>().join(","))
}
