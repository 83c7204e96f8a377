//! The listener over real TLS: who gets in, what a handler learns about it, and how it ends.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{fs, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::Path, routing::get};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    config::{Check, Faults},
    http::{ClientCertificate, Code, HttpConfig, Problem, Server, TlsConfig, identify, serve},
    shutdown::Shutdown,
};
use keyferry_schemas::world::{Algorithm, Identity, World as Network};
use reqwest::Client;
use rustls::{
    ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

fn identity(country: &str, algorithm: Algorithm) -> Identity {
    Identity::new(country, "Backend", algorithm, SystemClock.now().timestamp()).unwrap()
}

fn write(identity: &Identity, directory: &std::path::Path) -> TlsConfig {
    let files = TlsConfig { certificate: directory.join("tls.crt"), key: directory.join("tls.key") };
    fs::write(&files.certificate, identity.certificate_pem().unwrap()).unwrap();
    fs::write(&files.key, identity.key_pem().unwrap()).unwrap();
    files
}

fn der(identity: &Identity) -> CertificateDer<'static> {
    identity.certificate.x509().to_der().unwrap().into()
}

/// Shows a certificate with whatever key: also one that does not belong to it.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct World {
    own: Identity,
    server: Server,
    shutdown: Shutdown,
    _directory: TempDir,
}

impl World {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let own = identity("EU", Algorithm::P256);
        let config = HttpConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: Some(write(&own, directory.path())),
            trusted_proxies: Vec::new(),
            max_connections: 4,
            max_connections_per_address: 3,
            drain_s: 0,
        };
        let mut faults = Faults::default();
        config.check(&mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let who = async |client: Option<Extension<ClientCertificate>>| {
            client.map_or("nobody".into(), |c| format!("{:?} {}", c.subject_country, hex::encode(c.sha256)))
        };
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        };
        let member = async |client: Option<Extension<ClientCertificate>>| {
            let now = SystemClock.now();
            let network = Network::new(&["DE", "FR"], now.timestamp()).unwrap().network().unwrap();
            identify(client.map(|c| c.0).as_ref(), &network, now).map(|country| country.to_string())
        };
        let refusing = async || Problem::new(Code::CountryNotServed, "a sentence");
        let routes = Router::new()
            .route("/who", get(who))
            .route("/member", get(member))
            .route("/slow", get(slow))
            .route("/by/{name}", get(async |Path(name): Path<String>| name))
            .route("/elsewhere", get(refusing));
        let shutdown = Shutdown::new();
        let server = serve(&config, routes, shutdown.clone()).await.unwrap();
        Self { own, server, shutdown, _directory: directory }
    }

    fn client(
        &self,
        shown: Option<(&Identity, &Identity)>,
        version: &'static SupportedProtocolVersion,
    ) -> Client {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.own)).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = provider
                    .key_provider
                    .load_private_key(
                        PrivateKeyDer::from_pem_slice(key.key_pem().unwrap().as_bytes()).unwrap(),
                    )
                    .unwrap();
                let shown = CertifiedKey::new(vec![der(certificate)], key);
                config.with_client_cert_resolver(Arc::new(Shown(Arc::new(shown))))
            }
        };
        Client::builder().no_proxy().tls_backend_preconfigured(config).build().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.server.local_addr())
    }

    async fn get(&self, client: &Client, path: &str) -> String {
        client.get(self.url(path)).send().await.unwrap().text().await.unwrap()
    }
}

#[tokio::test]
async fn a_certificate_counts_if_its_key_is_proven() {
    let world = World::start().await;
    for (version, algorithm) in [
        (&TLS12, Algorithm::P256),
        (&TLS12, Algorithm::Rsa(2048)),
        (&TLS13, Algorithm::Rsa(2048)),
        (&TLS13, Algorithm::P384),
    ] {
        let (own, other) = (identity("DE", algorithm), identity("DE", algorithm));
        let seen = world.get(&world.client(Some((&own, &own)), version), "/who").await;
        assert_eq!(seen, format!("Some(DE) {}", hex::encode(own.certificate.sha256())));
        let impostor = world.client(Some((&own, &other)), version).get(world.url("/who")).send().await;
        assert!(impostor.is_err(), "a certificate without its key");
        assert_eq!(world.get(&world.client(None, version), "/who").await, "nobody");
    }
}

#[tokio::test]
async fn headers_of_strangers_mean_nothing() {
    let world = World::start().await;
    let request = world.client(None, &TLS13).get(world.url("/who"));
    let request = request.header("X-SSL-Client-SHA256", "00".repeat(32)).header("X-SSL-Client-DN", "C=DE");
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), "nobody");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let world = World::start().await;
    let client = world.client(None, &TLS13);
    for (method, path, status, code) in [
        ("GET", "/x", 404, "not-found"),
        ("GET", "/by/%ff", 404, "not-found"),
        ("POST", "/who", 405, "method-not-allowed"),
        ("GET", "/elsewhere", 421, "country-not-served"),
    ] {
        let response = client.request(method.parse().unwrap(), world.url(path)).send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers().get("allow").is_some(), status == 405);
        assert!(response.text().await.unwrap().contains(code));
    }
}

/// Whatever roles are behind it, and to anybody.
#[tokio::test]
async fn every_listener_says_what_it_speaks() {
    let world = World::start().await;
    let client = world.client(None, &TLS13);
    let ask = async |method: reqwest::Method, path: &str| {
        let response = client.request(method, world.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.headers().clone(), response.bytes().await.unwrap())
    };
    let (status, headers, body) = ask(reqwest::Method::OPTIONS, "/diagnosiskeys").await;
    let spoken = "application/json; version=1.0, application/protobuf; version=1.0";
    assert_eq!(
        (status, &headers["allow"], &headers["accept"]),
        (200, &"POST,GET,OPTIONS".parse().unwrap(), &spoken.parse().unwrap())
    );
    assert!(body.is_empty());
    let (status, headers, body) = ask(reqwest::Method::GET, "/openapi.json").await;
    assert_eq!((status, &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    assert!(body.starts_with(b"{") && body.windows(21).any(|w| w == b"/diagnosiskeys/upload"));
    let (status, of_head, none) = ask(reqwest::Method::HEAD, "/openapi.json").await;
    assert_eq!((status, &of_head["content-length"], none.len()), (200, &headers["content-length"], 0));
}

/// Who has nothing to show, or shows what nobody registered, gets its answer and keeps no place.
#[tokio::test]
async fn a_stranger_keeps_no_connection() {
    let world = World::start().await;
    let stranger = identity("DE", Algorithm::P256);
    for shown in [None, Some((&stranger, &stranger))] {
        let response = world.client(shown, &TLS13).get(world.url("/member")).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["connection"]),
            (403, &"close".parse().unwrap())
        );
    }
    let response = world.client(None, &TLS13).get(world.url("/conflict")).send().await.unwrap();
    assert!(!response.headers().contains_key("connection"), "another refusal is no reason");
}

#[tokio::test]
async fn connections_above_the_cap_are_closed() {
    let world = World::start().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let client = world.client(None, &TLS12);
        world.get(&client, "/who").await;
        held.push(client);
    }
    assert!(world.client(None, &TLS12).get(world.url("/who")).send().await.is_err());
    held.clear();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.get(&world.client(None, &TLS12), "/who").await, "nobody");
}

#[tokio::test]
async fn the_end_finishes_what_was_begun() {
    let world = World::start().await;
    let client = world.client(None, &TLS13);
    world.get(&client, "/who").await;
    let begun = client.get(world.url("/slow")).send();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.shutdown.trip();
    };
    let (answer, ()) = tokio::join!(begun, stop);
    assert_eq!(answer.unwrap().text().await.unwrap(), "done");
    let late = world.client(None, &TLS13).get(world.url("/who")).send().await;
    assert!(late.is_err());
    world.server.stopped().await;
}

#[tokio::test]
async fn faults_are_named() {
    let directory = TempDir::new().unwrap();
    let files = write(&identity("EU", Algorithm::P256), directory.path());
    let nothing = HttpConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        trusted_proxies: Vec::new(),
        max_connections: 0,
        max_connections_per_address: 0,
        drain_s: 0,
    };
    let mut faults = Faults::default();
    nothing.check(&mut faults);
    let text = format!("{faults:?}");
    assert!(
        text.contains("trusted_proxies") && text.contains("max_connections") && text.contains("per_address"),
        "{text}"
    );
    fs::write(&files.key, identity("EU", Algorithm::P256).key_pem().unwrap()).unwrap();
    let mismatch =
        HttpConfig { tls: Some(files), max_connections: 1, max_connections_per_address: 1, ..nothing };
    let fatal = serve(&mismatch, Router::new(), Shutdown::new()).await.unwrap_err();
    assert!(fatal.to_string().starts_with("http.tls: certificate and key can not be used"), "{fatal}");
}
