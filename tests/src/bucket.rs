//! A bucket of S3's kind in this process, with as much of the protocol as Keyferry uses, that fails as it is told: it
//! refuses, is full, takes its time, or does what it is asked and says that it did not.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, runtime::Runtime};

/// Its name.
pub const NAME: &str = "keyferry";

/// What goes wrong with requests.
#[derive(Debug, Clone)]
pub struct Fault {
    /// With those of these methods.
    pub methods: Vec<Method>,
    /// And about objects whose names begin so; all, if it is empty.
    pub objects: &'static str,
    /// They are answered so. Nothing else goes wrong if there is none.
    pub status: Option<StatusCode>,
    /// And were done all the same.
    pub done: bool,
    /// Each takes this long.
    pub delay: Duration,
}

impl Fault {
    /// Requests by `methods` about `objects` are not done, and answered with `status`.
    #[must_use]
    pub fn refused(methods: &[Method], objects: &'static str, status: u16) -> Self {
        let status = Some(StatusCode::from_u16(status).unwrap());
        Self { methods: methods.to_vec(), objects, status, done: false, delay: Duration::ZERO }
    }

    /// All requests take so long.
    #[must_use]
    pub fn slow(delay: Duration) -> Self {
        let methods = vec![Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE];
        Self { methods, objects: "", status: None, done: false, delay }
    }

    /// They are done, and the answer says that they were not.
    #[must_use]
    pub fn done(self) -> Self {
        Self { done: true, ..self }
    }
}

/// The bucket. It ends with this.
pub struct Bucket {
    shared: Arc<Mutex<Shared>>,
    address: SocketAddr,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    objects: BTreeMap<String, Bytes>,
    fault: Option<Fault>,
    met: usize,
}

impl Bucket {
    /// An empty one that is well.
    ///
    /// # Panics
    /// There is no port.
    #[must_use]
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::<Mutex<Shared>>::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { shared, address, _runtime: runtime }
    }

    /// The section `store` of a configuration.
    #[must_use]
    pub fn config(&self) -> String {
        let endpoint = format!("http://{}", self.address);
        format!("{{s3: {{bucket: {NAME}, region: us-east-1, endpoint: '{endpoint}', allow_http: true}}}}")
    }

    /// From now on this goes wrong, and nothing else.
    pub fn ail(&self, fault: Fault) {
        let mut shared = lock(&self.shared);
        (shared.fault, shared.met) = (Some(fault), 0);
    }

    /// It is well again.
    pub fn heal(&self) {
        lock(&self.shared).fault = None;
    }

    /// How many requests have met the fault.
    #[must_use]
    pub fn met(&self) -> usize {
        lock(&self.shared).met
    }

    /// Every object whose name begins so.
    #[must_use]
    pub fn objects(&self, prefix: &str) -> BTreeMap<String, Bytes> {
        let shared = lock(&self.shared);
        shared
            .objects
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(n, b)| (n.clone(), b.clone()))
            .collect()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Each change under this lock is whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let name =
        uri.path().trim_start_matches('/').strip_prefix(NAME).unwrap_or_default().trim_start_matches('/');
    let fault = {
        let mut shared = lock(&shared);
        let met = shared.fault.clone();
        let met = met.filter(|f| f.methods.contains(&method) && name.starts_with(f.objects));
        shared.met += usize::from(met.is_some());
        met
    };
    if let Some(fault) = &fault {
        tokio::time::sleep(fault.delay).await;
    }
    let refusal = fault.as_ref().and_then(|f| f.status);
    let once = headers.contains_key(header::IF_NONE_MATCH);
    let done = refusal.is_none() || fault.is_some_and(|f| f.done);
    let answer =
        done.then(|| act(&mut lock(&shared), &method, name, uri.query().unwrap_or_default(), once, body));
    refusal
        .map(|status| {
            (status, "<Error><Code>Ill</Code><Message>as it was told</Message></Error>").into_response()
        })
        .or(answer)
        .unwrap()
}

fn act(shared: &mut Shared, method: &Method, name: &str, query: &str, once: bool, body: Bytes) -> Response {
    match *method {
        Method::PUT if once && shared.objects.contains_key(name) => {
            StatusCode::PRECONDITION_FAILED.into_response()
        }
        Method::PUT => {
            shared.objects.insert(name.into(), body);
            [(header::ETAG, "\"1\"")].into_response()
        }
        Method::GET if name.is_empty() => list(shared, query).into_response(),
        Method::GET | Method::HEAD => match shared.objects.get(name) {
            Some(bytes) => ([(header::ETAG, "\"1\"")], Body::from(bytes.clone())).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        _ => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

fn list(shared: &Shared, query: &str) -> String {
    let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = prefix.replace("%2F", "/");
    let mut all = String::from("<ListBucketResult>");
    for (name, bytes) in shared.objects.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        let _ = write!(
            all,
            "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2020-01-01T00:00:00Z</LastModified></Contents>",
            bytes.len()
        );
    }
    all + "</ListBucketResult>"
}
