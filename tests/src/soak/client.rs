//! A national backend that uploads: it sends again until it has an answer, and goes to the other gateway where one does
//! not answer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_schemas::efgs::Encoding;
use reqwest::Client;
use serde_json::Value;

use super::{
    scene::{COUNTRIES, Scene},
    stream::Ready,
};
use crate::{exchange::client, front::Door};

/// Whoever has no answer after this time will never have one.
const LIMIT: Duration = Duration::from_secs(300);

/// A gateway as clients know it.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Its address.
    pub address: SocketAddr,
    /// How one proves who one is there.
    pub door: Door,
    /// Whether it is about to end, so that nothing new is sent there: what a load balancer knows.
    pub resting: Arc<AtomicBool>,
}

/// An answer that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// The code of a refusal.
    pub code: String,
    /// The keys that were not taken, with the codes of a refusal.
    pub refused: Vec<(usize, String)>,
}

/// What happened on the way to the answers.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Answers that ask to come again.
    pub put_off: AtomicUsize,
    /// Those that say that the upload is stored, and its decision late.
    pub late: AtomicUsize,
    /// Requests that were sent and never answered.
    pub lost: AtomicUsize,
    /// Gateways that nobody listened at.
    pub closed: AtomicUsize,
    /// How long a request is waited for, in milliseconds.
    pub patience_ms: AtomicU64,
}

/// The HTTP clients of all countries.
pub struct Clients {
    gates: Vec<Gate>,
    over_tls: BTreeMap<&'static str, Client>,
    plain: Client,
    certificates: BTreeMap<&'static str, String>,
    /// What happened.
    pub trouble: Arc<Trouble>,
}

impl Clients {
    /// Clients that know these gateways.
    ///
    /// # Errors
    /// A certificate can not be used.
    pub fn new(scene: &Scene, gates: Vec<Gate>) -> Result<Self> {
        let (mut over_tls, mut certificates) = (BTreeMap::new(), BTreeMap::new());
        for country in COUNTRIES {
            let identity = &scene.hub.world.nation(country)?.authentication;
            over_tls.insert(country, client(&scene.hub.world, Some(identity))?);
            certificates.insert(country, hex::encode(scene.client(country)?));
        }
        // No connection is kept, so that none is used that is closed at that moment.
        let plain = Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        let trouble = Arc::new(Trouble::default());
        trouble.patience_ms.store(6000, SeqCst);
        Ok(Self { gates, over_tls, plain, certificates, trouble })
    }

    /// Sends an upload until it is answered.
    ///
    /// # Errors
    /// It never is.
    pub async fn send(&self, country: &'static str, ready: &Ready, mut turn: usize) -> Result<Answer> {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            ensure!(begun.elapsed() < LIMIT, "no answer for {} in {LIMIT:?}; last: {last}", ready.upload.tag);
            let gate = (0..self.gates.len()).find_map(|_| {
                turn += 1;
                Some(&self.gates[turn % self.gates.len()]).filter(|gate| !gate.resting.load(SeqCst))
            });
            let gate = gate.context("every gateway is about to end")?;
            match self.once(country, ready, gate).await {
                Ok(answer) if answer.status < 500 && answer.status != 429 => return Ok(answer),
                Ok(answer) => {
                    let late = answer.code == "not-yet-decided";
                    let count = if late { &self.trouble.late } else { &self.trouble.put_off };
                    count.fetch_add(1, SeqCst);
                    last = format!("{} {}", answer.status, answer.code);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => {
                    let closed =
                        error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect);
                    let count = if closed { &self.trouble.closed } else { &self.trouble.lost };
                    count.fetch_add(1, SeqCst);
                    last = format!("{error:#}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn once(&self, country: &'static str, ready: &Ready, gate: &Gate) -> Result<Answer> {
        let (client, scheme) = match gate.door {
            Door::Tls => (self.over_tls.get(country).context("a country")?, "https"),
            Door::Proxy => (&self.plain, "http"),
        };
        let mut request = client
            .post(format!("{scheme}://{}/diagnosiskeys/upload", gate.address))
            .header("batchTag", &ready.upload.tag)
            .header("batchSignature", STANDARD.encode(&ready.signature))
            .header("Content-Type", Encoding::Protobuf.content_type())
            .header("Connection", "close")
            .timeout(Duration::from_millis(self.trouble.patience_ms.load(SeqCst)))
            .body(ready.body.clone());
        if gate.door == Door::Proxy {
            request = request
                .header("X-SSL-Client-SHA256", &self.certificates[country])
                .header("X-SSL-Client-DN", format!("C={country}"));
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.bytes().await?;
        Ok(read(status, &serde_json::from_slice(&text).unwrap_or_default()))
    }
}

fn read(status: u16, body: &Value) -> Answer {
    let index = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refused = match status {
        207 => list("409").iter().map(|i| (index(i), String::new())).collect(),
        _ => list("invalid_keys").iter().map(|k| (index(&k["index"]), text(&k["code"]))).collect(),
    };
    Answer { status, code: text(&body["code"]), refused }
}
