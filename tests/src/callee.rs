//! A subscriber to callbacks, which is well or ill.
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, extract::RawQuery, http::StatusCode, routing::get};
use keyferry_runtime::{
    http::{ClientCertificate, HttpConfig, TlsConfig, serve},
    shutdown::Shutdown,
};
use keyferry_schemas::{records::Hash, world::Identity};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// What a subscriber does when it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It acknowledges.
    Well,
    /// It answers with 500.
    Fails,
    /// It takes the connection and says nothing.
    Hangs,
    /// It closes the connection at once.
    Closes,
    /// It shows another certificate, whose key it has.
    Poses,
}

/// A subscriber on an address of its own.
pub struct Subscriber {
    address: SocketAddr,
    state: Arc<State>,
    shutdown: Shutdown,
}

struct State {
    mood: Mutex<Mood>,
    /// Connections in the mood it is in.
    met: AtomicUsize,
    /// What it acknowledged: path and query, and who called.
    heard: Mutex<Vec<(String, Option<Hash>)>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Subscriber {
    /// Starts one that is well and has this certificate; `other` is the one it poses with.
    ///
    /// # Panics
    /// It can not be started.
    #[must_use]
    pub fn start(runtime: &Runtime, folder: &Path, own: &Identity, other: &Identity) -> Self {
        let state = Arc::new(State {
            mood: Mutex::new(Mood::Well),
            met: AtomicUsize::new(0),
            heard: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let shutdown = Shutdown::new();
        let address = runtime.block_on(async {
            let mut doors = Vec::new();
            for (name, identity) in [("own", own), ("other", other)] {
                let config = HttpConfig { tls: Some(files(identity, folder, name)), ..plain() };
                let router = router(&state);
                doors.push(serve(&config, router, shutdown.clone()).await.unwrap().local_addr());
            }
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(front(listener, [doors[0], doors[1]], Arc::clone(&state)));
            address
        });
        Self { address, state, shutdown }
    }

    /// Its address with this path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    /// From now on it is in this mood.
    ///
    /// # Panics
    /// It panicked itself.
    pub fn set(&self, mood: Mood) {
        let mut now = self.state.mood.lock().unwrap();
        *now = mood;
        self.state.met.store(0, Ordering::SeqCst);
    }

    /// How often somebody came since its mood changed.
    #[must_use]
    pub fn met(&self) -> usize {
        self.state.met.load(Ordering::SeqCst)
    }

    /// The tags that it acknowledged at this path, in order.
    ///
    /// # Panics
    /// It was called otherwise than it should be.
    #[must_use]
    pub fn heard(&self, path: &str) -> Vec<String> {
        let heard = self.state.heard.lock().unwrap();
        let begin = format!("{path}?batchTag=");
        let calls = heard.iter().filter_map(|(call, _)| call.strip_prefix(&begin));
        calls
            .map(|rest| {
                let (tag, date) = rest.split_once("&date=").unwrap();
                assert_eq!(date.replace('-', ""), tag[..8], "{rest}");
                tag.to_owned()
            })
            .collect()
    }

    /// Who called, by SHA-256 of the certificate.
    ///
    /// # Panics
    /// It panicked itself.
    #[must_use]
    pub fn callers(&self) -> Vec<Option<Hash>> {
        self.state.heard.lock().unwrap().iter().map(|(_, caller)| *caller).collect()
    }

    /// Most calls that were in its hands at a time.
    #[must_use]
    pub fn most_at_a_time(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shutdown.trip();
    }
}

fn router(state: &Arc<State>) -> Router {
    let state = Arc::clone(state);
    let answer = async move |uri: axum::http::Uri,
                             RawQuery(query): RawQuery,
                             client: Option<Extension<ClientCertificate>>| {
        let at_a_time = state.now.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(at_a_time, Ordering::SeqCst);
        // Long enough for a second call to come, if there were one.
        tokio::time::sleep(Duration::from_millis(20)).await;
        state.now.fetch_sub(1, Ordering::SeqCst);
        if *state.mood.lock().unwrap() != Mood::Well {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let call = format!("{}?{}", uri.path().trim_start_matches('/'), query.unwrap_or_default());
        state.heard.lock().unwrap().push((call, client.map(|c| c.sha256)));
        StatusCode::OK
    };
    Router::new().route("/{*path}", get(answer))
}

/// Leads each connection to where the mood wants it.
async fn front(listener: TcpListener, [own, other]: [SocketAddr; 2], state: Arc<State>) {
    let mut held = Vec::new();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let mood = {
            let mood = state.mood.lock().unwrap();
            state.met.fetch_add(1, Ordering::SeqCst);
            *mood
        };
        let door = match mood {
            Mood::Well | Mood::Fails => own,
            Mood::Poses => other,
            Mood::Closes => continue,
            Mood::Hangs => {
                held.push(stream);
                continue;
            }
        };
        tokio::spawn(async move {
            let mut behind = TcpStream::connect(door).await.unwrap();
            // Either side may end first.
            let _ = copy_bidirectional(&mut stream, &mut behind).await;
        });
    }
}

/// A listener on a free port of this machine, which believes whoever comes from here to be a proxy.
///
/// # Panics
/// Never.
#[must_use]
pub fn plain() -> HttpConfig {
    HttpConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        max_connections: 100,
        max_connections_per_address: 100,
        drain_s: 0,
    }
}

/// Certificate and key of `identity` in files of this name.
///
/// # Panics
/// They can not be written.
#[must_use]
pub fn files(identity: &Identity, folder: &Path, name: &str) -> TlsConfig {
    let at = |end: &str| folder.join(format!("{name}.{end}"));
    let files = TlsConfig { certificate: at("crt"), key: at("key") };
    std::fs::write(&files.certificate, identity.certificate_pem().unwrap()).unwrap();
    std::fs::write(&files.key, identity.key_pem().unwrap()).unwrap();
    files
}
