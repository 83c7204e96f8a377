//! Calls over real TLS: to whom they go, what is believed, and when they end.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Extension, Router, body::Body, http::StatusCode, response::Redirect, routing::get};
use axum_server::tls_rustls::RustlsConfig;
use futures::{future::BoxFuture, stream};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    http::{ClientCertificate, HttpConfig, IpNet, TlsConfig, serve},
    outbound::{Caller, ClientIdentity, Failed, Guard, Refused, Resolver, SystemResolver, Url},
    shutdown::Shutdown,
};
use keyferry_schemas::{
    records::Hash,
    world::{Algorithm, Identity},
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tempfile::TempDir;

fn identity(country: &str) -> Identity {
    Identity::new(country, "Callback", Algorithm::P256, SystemClock.now().timestamp()).unwrap()
}

fn write(identity: &Identity, folder: &Path, name: &str) -> TlsConfig {
    let at = |end: &str| folder.join(format!("{name}.{end}"));
    let files = TlsConfig { certificate: at("crt"), key: at("key") };
    fs::write(&files.certificate, identity.certificate_pem().unwrap()).unwrap();
    fs::write(&files.key, identity.key_pem().unwrap()).unwrap();
    files
}

fn networks(allowed: &[&str]) -> Vec<IpNet> {
    allowed.iter().map(|net| net.parse().unwrap()).collect()
}

/// Who called, by SHA-256 and path.
type Seen = Arc<Mutex<Vec<(Option<Hash>, &'static str)>>>;

/// A server, and a caller that may reach this machine.
struct Scene {
    ours: Identity,
    theirs: Identity,
    address: SocketAddr,
    client: ClientIdentity,
    seen: Seen,
    shutdown: Shutdown,
    _folder: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let (folder, ours, theirs) = (TempDir::new().unwrap(), identity("EU"), identity("DE"));
        let client = ClientIdentity::load(&write(&ours, folder.path(), "client")).unwrap();
        let config = HttpConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            tls: Some(write(&theirs, folder.path(), "server")),
            trusted_proxies: Vec::new(),
            max_connections: 100,
            max_connections_per_address: 100,
            drain_s: 0,
        };
        let seen = Seen::default();
        let note = |path: &'static str| {
            let seen = Arc::clone(&seen);
            move |client: Option<Extension<ClientCertificate>>| {
                seen.lock().unwrap().push((client.map(|c| c.sha256), path));
            }
        };
        let (ok, moved, endless, error) = (note("ok"), note("moved"), note("endless"), note("error"));
        let router = Router::new()
            .route("/ok", get(async move |client| ok(client)))
            .route(
                "/moved",
                get(async move |client| {
                    moved(client);
                    Redirect::temporary("/ok")
                }),
            )
            .route(
                "/endless",
                get(async move |client| {
                    endless(client);
                    Body::from_stream(stream::repeat_with(|| Ok::<_, io::Error>(vec![0; 1 << 16])))
                }),
            )
            .route(
                "/error",
                get(async move |client| {
                    error(client);
                    StatusCode::INTERNAL_SERVER_ERROR
                }),
            );
        let shutdown = Shutdown::new();
        let address = serve(&config, router, shutdown.clone()).await.unwrap().local_addr();
        Self { ours, theirs, address, client, seen, shutdown, _folder: folder }
    }

    fn caller(&self, resolver: Arc<dyn Resolver>, allowed: &[&str]) -> Caller {
        Caller::new(Guard::new(resolver, &networks(allowed)), self.client.clone(), Duration::from_secs(10))
    }

    async fn call(&self, path: &str, pins: &[Hash]) -> Result<(), Failed> {
        let url = format!("https://{}/{path}", self.address).parse().unwrap();
        self.caller(Arc::new(SystemResolver), &["127.0.0.0/8"]).get(url, pins.to_vec()).await
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.trip();
    }
}

#[tokio::test]
async fn the_peer_is_who_holds_the_key_of_a_known_certificate() {
    let scene = Scene::start().await;
    let (pin, other) = (scene.theirs.certificate.sha256(), identity("DE").certificate.sha256());
    scene.call("ok", &[other, pin]).await.unwrap();
    let ours = scene.ours.certificate.sha256();
    assert_eq!(*scene.seen.lock().unwrap(), [(Some(ours), "ok")], "and it knows us by our certificate");
    for pins in [&[other][..], &[]] {
        let failed = scene.call("ok", pins).await.unwrap_err();
        assert!(matches!(&failed, Failed::Unanswered(why) if why.contains("certificate")), "{failed}");
    }
    assert_eq!(scene.count(), 1);
}

/// Shows a certificate with a key that does not belong to it.
#[derive(Debug)]
struct Borrowed(Arc<CertifiedKey>);

impl ResolvesServerCert for Borrowed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_nobodys() {
    let scene = Scene::start().await;
    let thief = PrivateKeyDer::from_pem_slice(identity("DE").key_pem().unwrap().as_bytes()).unwrap();
    let thief = aws_lc_rs::sign::any_supported_type(&thief).unwrap();
    let der = scene.theirs.certificate.x509().to_der().unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let shown = Borrowed(Arc::new(CertifiedKey::new(vec![der.clone().into()], Arc::clone(&thief))));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url: Url = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let app = Router::new().route("/", get(async || "welcome")).into_make_service();
        let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config)));
        tokio::spawn(server.unwrap().serve(app));
        let caller = scene.caller(Arc::new(SystemResolver), &["127.0.0.0/8"]);
        let failed = caller.get(url, vec![scene.theirs.certificate.sha256()]).await.unwrap_err();
        assert!(matches!(&failed, Failed::Unanswered(why) if why.contains("BadSignature")), "{failed}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed_and_bodies_not_read() {
    let scene = Scene::start().await;
    let pin = [scene.theirs.certificate.sha256()];
    let moved = scene.call("moved", &pin).await;
    assert!(matches!(moved, Err(Failed::Status(StatusCode::TEMPORARY_REDIRECT))), "{moved:?}");
    let error = scene.call("error", &pin).await;
    assert!(matches!(error, Err(Failed::Status(StatusCode::INTERNAL_SERVER_ERROR))), "{error:?}");
    scene.call("endless", &pin).await.unwrap();
    let paths: Vec<_> = scene.seen.lock().unwrap().iter().map(|(_, path)| *path).collect();
    assert_eq!(paths, ["moved", "error", "endless"]);
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for_for_ever() {
    let scene = Scene::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let guard = Guard::new(Arc::new(SystemResolver), &networks(&["127.0.0.0/8"]));
    let caller = Caller::new(guard, scene.client.clone(), Duration::from_millis(300));
    let begun = Instant::now();
    let url = format!("https://{}/", silent.local_addr().unwrap()).parse().unwrap();
    let failed = caller.get(url, vec![[0; 32]]).await.unwrap_err();
    assert!(matches!(&failed, Failed::Unanswered(why) if why == "not in time"), "{failed}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

/// Says one address the first time and another one from then on.
struct Rebinding {
    first: IpAddr,
    then: IpAddr,
    asked: AtomicUsize,
}

impl Resolver for Rebinding {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        assert_eq!(name, "backend.example");
        let first = self.asked.fetch_add(1, Ordering::Relaxed) == 0;
        let address = if first { self.first } else { self.then };
        Box::pin(async move { Ok(vec![address]) })
    }
}

#[tokio::test]
async fn a_name_that_was_public_and_is_not_any_more_is_refused_at_connect() {
    let scene = Scene::start().await;
    let pin = vec![scene.theirs.certificate.sha256()];
    let url: Url = format!("https://backend.example:{}/ok", scene.address.port()).parse().unwrap();
    let rebinding = |then: &str| {
        let first = "192.0.1.1".parse().unwrap();
        Arc::new(Rebinding { first, then: then.parse().unwrap(), asked: AtomicUsize::new(0) })
    };
    let resolver = rebinding("127.0.0.1");
    let caller = scene.caller(resolver.clone(), &[]);
    caller.guard().check(&url).await.unwrap();
    let failed = caller.get(url.clone(), pin.clone()).await.unwrap_err();
    assert!(matches!(&failed, Failed::Refused(Refused::NotPublic { what: "loopback", .. })), "{failed}");
    assert_eq!((scene.count(), resolver.asked.load(Ordering::Relaxed)), (0, 2));

    // What is connected to is what the resolver said: no other one is asked.
    let caller = scene.caller(rebinding("127.0.0.1"), &["127.0.0.1/32"]);
    caller.guard().check(&url).await.unwrap();
    caller.get(url, pin).await.unwrap();
    assert_eq!(scene.count(), 1);
}

#[tokio::test]
async fn an_address_that_stands_in_the_url_is_looked_at_as_well() {
    let scene = Scene::start().await;
    let pin = vec![scene.theirs.certificate.sha256()];
    let caller = scene.caller(Arc::new(SystemResolver), &[]);
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"] {
        let url: Url = format!("https://{host}:{}/ok", scene.address.port()).parse().unwrap();
        let failed = caller.get(url, pin.clone()).await.unwrap_err();
        assert!(matches!(&failed, Failed::Refused(Refused::NotPublic { .. })), "{host}: {failed}");
    }
    assert_eq!(scene.count(), 0);
}
