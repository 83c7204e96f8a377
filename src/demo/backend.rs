//! A national backend, as it would be written against the HTTP contract: signs with the `openssl` command, uploads over
//! mutual TLS, follows its downloads by the tags.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    canonical::Canonical,
    efgs::{self, Encoding},
    world::World,
};
use reqwest::{Client, StatusCode};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::process::Command;

use super::{plan::Upload, stage::Stage};

/// How often the end of the downloads is asked for a successor.
const POLL: Duration = Duration::from_millis(10);

/// A key that came with a download.
pub(super) struct Arrival {
    pub key_data: Vec<u8>,
    pub report_type: i32,
    pub at: Instant,
}

/// What the gateway answered, and when the upload was sent.
pub(super) struct Answer {
    pub origin: String,
    pub index: usize,
    pub sent_at: Instant,
    pub status: u16,
    pub body: String,
}

/// One backend. Cheap to clone.
#[derive(Clone)]
pub(super) struct Backend {
    country: String,
    client: Client,
    url: String,
    folder: PathBuf,
    pub sent: Arc<AtomicUsize>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Backend {
    pub fn new(country: &str, stage: &Stage, world: &World) -> Result<Self> {
        let nation = world.nation(country)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(stage.server.certificate.x509().to_der()?))?;
        let own = vec![CertificateDer::from(nation.authentication.certificate.x509().to_der()?)];
        let key =
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(nation.authentication.key.private_key_to_pkcs8()?));
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(own, key)?;
        Ok(Self {
            country: country.to_owned(),
            client: Client::builder().no_proxy().tls_backend_preconfigured(tls).build()?,
            url: format!("{}/diagnosiskeys", stage.url()),
            folder: stage.path().to_owned(),
            sent: Arc::default(),
            arrivals: Arc::default(),
        })
    }

    pub fn country(&self) -> &str {
        &self.country
    }

    /// Number of keys downloaded so far.
    pub fn received(&self) -> usize {
        self.arrivals.lock().map(|a| a.len()).unwrap_or_default()
    }

    /// Calls `f` with every key that was downloaded.
    pub fn arrivals<T>(&self, f: impl FnOnce(&[Arrival]) -> T) -> Result<T> {
        Ok(f(&self.arrivals.lock().map_err(|_| anyhow::anyhow!("a follower panicked"))?))
    }

    /// Whether the exchange answers at all.
    pub async fn is_answered(&self) -> bool {
        let today = SystemClock.now().day().date();
        self.client.get(format!("{}/download/{today}", self.url)).send().await.is_ok()
    }

    /// Sends uploads one after another. An answer that says "send again" is obeyed.
    pub async fn upload_all(&self, uploads: &[Upload]) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for upload in uploads {
            let signature = self.sign(upload).await?;
            let body = efgs::encode_protobuf(&upload.keys);
            let index = self.sent.load(Ordering::Relaxed);
            let sent_at = Instant::now();
            let (status, body) = loop {
                let answer = self.post(&upload.tag, &signature, body.clone()).await?;
                match answer.0 {
                    503 | 429 if sent_at.elapsed() < Duration::from_secs(60) => {
                        tokio::time::sleep(Duration::from_millis(500)).await
                    }
                    _ => break answer,
                }
            };
            self.sent.fetch_add(1, Ordering::Relaxed);
            answers.push(Answer { origin: self.country.clone(), index, sent_at, status, body });
        }
        Ok(answers)
    }

    async fn post(&self, tag: &str, signature: &str, body: Vec<u8>) -> Result<(u16, String)> {
        let answer = self
            .client
            .post(format!("{}/upload", self.url))
            .header("Content-Type", Encoding::Protobuf.content_type())
            .header("batchTag", tag)
            .header("batchSignature", signature)
            .body(body)
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// `openssl cms -sign` over the canonical bytes, detached.
    async fn sign(&self, upload: &Upload) -> Result<String> {
        let signed = if upload.bad_signature {
            b"something else".to_vec()
        } else {
            Canonical::of(&upload.keys).bytes().to_vec()
        };
        let at = |name: &str| self.folder.join(format!("{}.{name}", self.country));
        tokio::fs::write(at("canonical"), signed).await?;
        let output = Command::new("openssl")
            .args(["cms", "-sign", "-binary", "-md", "sha256", "-outform", "DER"])
            .arg("-in")
            .arg(at("canonical"))
            .arg("-signer")
            .arg(at("signing.pem"))
            .arg("-inkey")
            .arg(at("signing.key"))
            // Nothing of it outlives us, and Ctrl-C in a terminal is not for it.
            .process_group(0)
            .kill_on_drop(true)
            .output()
            .await
            .context("openssl")?;
        ensure!(output.status.success(), "openssl cms: {}", String::from_utf8_lossy(&output.stderr));
        Ok(STANDARD.encode(output.stdout))
    }

    /// Downloads from today's first batch on, and whatever comes.
    pub async fn follow(self) {
        let date = SystemClock.now().day().date().to_string();
        let mut tag: Option<String> = None;
        loop {
            // A fault of the network is as good as nothing new: the next round asks again.
            match self.next(&date, tag.as_deref()).await {
                Ok(Some(next)) => tag = Some(next),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Downloads the batch after `tag`, or the first; returns its tag.
    async fn next(&self, date: &str, tag: Option<&str>) -> Result<Option<String>> {
        let url = format!("{}/download/{date}", self.url);
        let accept = Encoding::Protobuf.content_type();
        let next = match tag {
            None => None,
            Some(tag) => {
                // Only the head of the last one: that is where its successor is named.
                let last =
                    self.client.head(&url).header("Accept", accept).header("batchTag", tag).send().await?;
                match last.headers().get("nextBatchTag").map(|v| v.to_str().map(str::to_owned)).transpose()? {
                    Some(next) if next != "null" => Some(next),
                    _ => return Ok(None),
                }
            }
        };
        let request = self.client.get(&url).header("Accept", accept);
        let request = next.into_iter().fold(request, |request, next| request.header("batchTag", next));
        let answer = request.send().await?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        let tag = answer.headers().get("batchTag").context("no batchTag")?.to_str()?.to_owned();
        let keys = efgs::decode_joined(answer.bytes().await?)?;
        let at = Instant::now();
        if let Ok(mut arrivals) = self.arrivals.lock() {
            arrivals.extend(keys.into_iter().map(|k| Arrival {
                key_data: k.key_data.to_vec(),
                report_type: k.report_type,
                at,
            }));
        }
        Ok(Some(tag))
    }
}
