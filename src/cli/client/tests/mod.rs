//! The client against a hub that answers as each test wants it to.

mod callbacks;
mod downloads;
mod proofs;
mod requests;
mod uploads;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use keyferry_schemas::{
    efgs::DiagnosisKey,
    time::Millis,
    world::{Rng, World, key},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{hub::Hub, retry::Policy};

/// 2027-01-15T08:00:00Z.
const NOW: Millis = Millis(1_800_000_000_000);

/// A request as it came.
struct Seen {
    /// `GET /diagnosiskeys/download/2026-11-24`, with the query.
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// A hub on a port of its own, without TLS.
struct Fake {
    seen: Arc<Mutex<Vec<Seen>>>,
    url: reqwest::Url,
    task: JoinHandle<()>,
}

impl Fake {
    /// One that answers its n-th request, from 0, so.
    async fn start(answer: impl Fn(usize, &Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let handler = async move |request: Request| {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, 1 << 24).await.unwrap();
            let line = format!("{} {}", parts.method, parts.uri);
            let this = Seen { line, headers: parts.headers, body };
            let mut log = log.lock().unwrap();
            let response = answer(log.len(), &this);
            log.push(this);
            response
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { seen, url, task }
    }

    fn hub(&self) -> Hub {
        let (first, longest) = (Duration::from_millis(1), Duration::from_millis(4));
        let policy = Policy { retries: 4, first, longest };
        Hub::plain(self.url.clone(), policy, Arc::new(NOW))
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

fn problem(status: u16, code: &str) -> Response {
    answer(status, &[], json!({ "code": code, "detail": "because" }).to_string())
}

/// One whose connection breaks in the middle of the body.
fn broken() -> Response {
    let parts = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))];
    let mut response = Response::new(Body::from_stream(stream::iter(parts)));
    *response.status_mut() = StatusCode::OK;
    response
}

fn world() -> World {
    World::new(&["DE", "FR", "NL"], NOW.timestamp()).unwrap()
}

fn keys(origin: &str, seed: u64, n: usize) -> Vec<DiagnosisKey> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| key(&mut rng, origin, &[], NOW)).collect()
}

/// What a hub's audit says about an upload of these keys.
fn entry(world: &World, origin: &str, keys: &[DiagnosisKey]) -> Value {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let nation = world.nation(origin).unwrap();
    let upload = world.upload(origin, "tag", keys).unwrap();
    let pem = |identity: &keyferry_schemas::world::Identity| {
        let pem = identity.certificate_pem().unwrap();
        let signature = STANDARD.encode(world.anchor.sign_raw(pem.as_bytes()).unwrap());
        (pem, signature, hex::encode(identity.certificate.sha256()))
    };
    let (client, signing) = (pem(&nation.authentication), pem(&nation.signing));
    json!({
        "country": origin, "uploadedTime": "2027-01-15T08:00:00Z", "uploaderThumbprint": client.2,
        "uploaderSigningThumbprint": signing.2, "amount": keys.len(),
        "batchSignature": STANDARD.encode(upload.batch_signature), "uploaderCertificate": client.0,
        "uploaderOperatorSignature": client.1, "signingCertificate": signing.0,
        "signingCertificateOperatorSignature": signing.1,
    })
}
