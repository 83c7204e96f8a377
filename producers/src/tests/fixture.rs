//! A gateway on a free port, and clients of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use jiff::SignedDuration;
use keyferry_runtime::{
    exit::Fatal,
    http::{HttpConfig, Server, serve},
    network::NetworkFeed,
    producer::ProduceError,
    shutdown::Shutdown,
};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey},
    network::{MemberState, Network, StateSince, Use},
    records::Upload,
    time::Millis,
    world::{Algorithm, Identity, World as MadeUp},
};
use reqwest::{Client, RequestBuilder, Response};

use crate::{
    answer::Decision,
    config::GatewayConfig,
    decisions::{Bounds, Decisions},
    gateway::{Inner, router},
    log::{UploadLog, Written},
    metrics::Metrics,
};

pub const NOW: Millis = Millis(1_700_000_000_000);

/// What becomes of an upload.
#[derive(Clone)]
pub enum Fate {
    Decided(Decision),
    Undecided,
    NotAccepted,
    Unconfirmed,
    /// The acknowledgement got lost, the record did not.
    UnconfirmedAndDecided(Decision),
    /// The broker takes a long time.
    Slow,
}

/// The log and the pipeline.
pub struct Pipeline {
    pub fate: Mutex<Fate>,
    pub written: Mutex<Vec<Upload>>,
    pub decisions: Arc<Decisions>,
}

impl UploadLog for Arc<Pipeline> {
    fn write(&self, upload: Upload) -> Written<'_> {
        let mut written = self.written.lock().unwrap();
        let (offset, country, id) = (written.len() as i64, upload.origin, upload.upload_id);
        written.push(upload);
        // Before the delivery report, as it may happen.
        let decide = |decision| self.decisions.decided(country, offset, Some(id), decision, NOW);
        let outcome = match self.fate.lock().unwrap().clone() {
            Fate::Decided(decision) => {
                decide(decision);
                Ok(offset)
            }
            Fate::Undecided => Ok(offset),
            Fate::NotAccepted => Err(ProduceError::NotAccepted("no broker".into())),
            Fate::Unconfirmed => Err(ProduceError::Unknown("timed out".into())),
            Fate::UnconfirmedAndDecided(decision) => {
                decide(decision);
                Err(ProduceError::Unknown("timed out".into()))
            }
            Fate::Slow => {
                return Box::pin(async move {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    Ok(offset)
                });
            }
        };
        Box::pin(async move { outcome })
    }
}

pub struct World {
    pub pipeline: Arc<Pipeline>,
    pub shutdown: Shutdown,
    pub server: Server,
    client: Client,
    certificates: BTreeMap<&'static str, String>,
}

/// DE is active with a certificate in force (`DE`), a revoked one (`revoked`) and one to sign with (`signing`); GR is
/// active and EL its alias; LU is active; IT is paused; PL is pending.
fn network() -> anyhow::Result<(Arc<Network>, BTreeMap<&'static str, String>)> {
    let now = NOW.timestamp();
    let mut made_up = MadeUp::new(&["DE", "GR", "IT", "LU", "PL"], now)?;
    let mut certificates = BTreeMap::new();
    for code in ["DE", "GR", "IT", "LU", "PL"] {
        certificates.insert(code, made_up.nation(code)?.authentication.certificate.sha256());
        made_up.member_mut(code)?.max_keys_per_upload = 3;
    }
    certificates.insert("signing", made_up.nation("DE")?.signing.certificate.sha256());
    let former = Identity::new("DE", "Backend", Algorithm::P256, now)?;
    certificates.insert("revoked", former.certificate.sha256());
    let (from, until) = (now - SignedDuration::from_hours(24), now + SignedDuration::from_hours(24));
    let mut registration = made_up.register(&former, Use::Authentication, from, until)?;
    registration.revoked = Some(now);
    made_up.member_mut("DE")?.certificates.push(registration);
    made_up.member_mut("IT")?.states.push(StateSince { state: MemberState::Paused, from: now });
    made_up.member_mut("PL")?.states.clear();
    made_up.document.aliases.insert("EL".parse()?, "GR".parse()?);
    Ok((made_up.network()?, certificates.into_iter().map(|(name, hash)| (name, hex::encode(hash))).collect()))
}

impl World {
    pub async fn start(fate: Fate) -> Self {
        let config =
            GatewayConfig { decision_wait_ms: 200, max_body_bytes: 64 << 10, ..GatewayConfig::default() };
        Self::with(fate, config).await.unwrap()
    }

    pub async fn with(fate: Fate, config: GatewayConfig) -> Result<Self, Fatal> {
        // Whichever test comes first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (network, certificates) = network().unwrap();
        let decisions = Arc::new(Decisions::new(Bounds::default()));
        decisions.follow(network.countries().collect());
        let pipeline = Arc::new(Pipeline {
            fate: Mutex::new(fate),
            written: Mutex::default(),
            decisions: Arc::clone(&decisions),
        });
        let feed = NetworkFeed::fixed([(1, network)].into());
        let log = Box::new(Arc::clone(&pipeline));
        let inner = Inner::new(log, decisions, feed, config, Arc::new(NOW), Metrics::new()?);
        let shutdown = Shutdown::new();
        let http = HttpConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
            max_connections: 10,
            max_connections_per_address: 10,
            drain_s: 0,
        };
        let server = serve(&http, router(Arc::new(inner)), shutdown.clone()).await?;
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Ok(Self { pipeline, shutdown, server, client, certificates })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.local_addr())
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), self.url(path))
    }

    pub fn thumbprint(&self, certificate: &str) -> &str {
        &self.certificates[certificate]
    }

    /// A request by the holder of this certificate, whose subject names `country`.
    pub fn from(&self, method: &str, path: &str, certificate: &str, country: &str) -> RequestBuilder {
        self.request(method, path)
            .header("X-SSL-Client-SHA256", self.thumbprint(certificate))
            .header("X-SSL-Client-DN", format!("CN=backend,C={country}"))
    }

    /// A good upload of so many keys by DE.
    pub fn upload(&self, keys: usize) -> RequestBuilder {
        self.from("POST", "/diagnosiskeys/upload", "DE", "DE")
            .header("batchTag", "tag")
            .header("batchSignature", "MAA=")
            .header("Content-Type", "application/protobuf; version=1.0")
            .body(body(keys))
    }

    pub fn decide(&self, fate: Fate) {
        *self.pipeline.fate.lock().unwrap() = fate;
    }
}

pub fn keys(n: usize) -> Vec<DiagnosisKey> {
    let key =
        DiagnosisKey { key_data: Bytes::from_static(&[7; 16]), origin: "DE".into(), ..Default::default() };
    vec![key; n]
}

pub fn body(n: usize) -> Vec<u8> {
    efgs::encode_protobuf(&keys(n))
}

/// Status and code of a problem.
pub async fn problem(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["status"], status);
    assert!(body["detail"].as_str().unwrap().len() > 10);
    (status, body["code"].as_str().unwrap().to_owned())
}
