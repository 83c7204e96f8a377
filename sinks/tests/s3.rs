//! The same on S3: on a server of its own, which `make setup` installs, with the credentials that `make test` makes up.
//!
//! Operations: two instances write one log while batches come, with bounds of their own, so that they join them
//! differently. Failures: one is killed before or after a request, and another one takes its place.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    Hub, NOON, cc,
    flaky::Flaky,
    instance::{Instance, List, Terms, tokio},
};
use keyferry_runtime::{dependent::Dependent, health::Health, shutdown::Shutdown};
use keyferry_schemas::time::Millis;
use keyferry_sinks::{
    shelf::Shelf,
    store::{Created, S3Config, Store, StoreConfig, data_path, log_path, log_prefix},
    sweep::sweep,
    verify::verify_store,
};
use object_store::{aws::AmazonS3Builder, prefix::PrefixStore};
use tempfile::NamedTempFile;

/// A server with a bucket `keyferry`; it ends with this.
struct Server {
    _process: Dependent,
    _log: NamedTempFile,
    address: String,
}

/// What is answered to a request without a body.
fn ask(address: &str, request: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    write!(connection, "{request} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Server {
    fn start() -> Self {
        let named =
            std::env::var("AWS_ACCESS_KEY_ID").is_ok() && std::env::var("AWS_SECRET_ACCESS_KEY").is_ok();
        assert!(
            named,
            "the environment has no credentials for S3: run `make test`, or set any two as it does"
        );
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/moto_server");
        assert!(program.exists(), "{} is missing: run `make setup`", program.display());
        let log = NamedTempFile::new().unwrap();
        // It takes a free port itself and says which: one that was free a moment ago may be anybody's by now.
        let process = Dependent::launch(&program, ["-H", "127.0.0.1", "-p", "0"], log.path(), None).unwrap();
        let give_up = Instant::now() + Duration::from_secs(60);
        let address = loop {
            let said = std::fs::read_to_string(log.path()).unwrap();
            let address = said.lines().find_map(|line| line.split("Running on http://").nth(1));
            // Whoever answers has to be it, and to answer.
            if let Some(address) = address.map(str::trim)
                && ask(address, "GET /moto-api/").is_ok_and(|page| page.contains("Moto"))
            {
                break address.to_owned();
            }
            assert!(Instant::now() < give_up, "the server does not answer: {said}");
            std::thread::sleep(Duration::from_millis(100));
        };
        let made = ask(&address, "PUT /keyferry").unwrap();
        assert!(made.contains(" 200 "), "{made}");
        Self { _process: process, _log: log, address }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn store(&self, prefix: &str) -> Store {
        let config = S3Config {
            bucket: "keyferry".into(),
            region: Some("us-east-1".into()),
            endpoint: Some(self.endpoint()),
            prefix: Some(prefix.into()),
            allow_http: true,
        };
        Store::open(&StoreConfig::S3(config)).await.unwrap()
    }
}

#[tokio::test]
async fn a_bucket_creates_once() {
    let server = Server::start();
    let store = server.store("some/prefix").await;
    let path = log_path(cc("DE"), 1);
    store.delete(&path).await.unwrap();
    assert_eq!(store.create(&path, Bytes::from_static(b"a")).await.unwrap(), Created::New);
    assert_eq!(store.create(&path, Bytes::from_static(b"b")).await.unwrap(), Created::Exists);
    assert_eq!(store.get(&path).await.unwrap().unwrap(), "a");
    assert!(!store.exists(&log_path(cc("DE"), 2)).await.unwrap());
    let name = "0000000001-10-0011223344556677";
    store.put(&data_path(cc("DE"), name), Bytes::from_static(b"keys")).await.unwrap();
    let swept = sweep(&store, cc("DE"), Millis(10)).await.unwrap();
    assert_eq!((swept.erased, swept.oldest), (1, None));
    assert_eq!(store.get(&data_path(cc("DE"), name)).await.unwrap(), None);
}

/// Every log object of DE by name, byte for byte.
async fn published(store: &Store) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for path in store.list(&log_prefix(cc("DE"))).await.unwrap() {
        all.insert(path.to_string(), store.get(&path).await.unwrap().unwrap());
    }
    all
}

#[test]
fn instances_on_one_bucket_publish_everything_once_and_change_nothing() {
    const BATCHES: i64 = 24;
    let (tokio, server) = (tokio(), Server::start());
    for (after, prefix) in [(false, "killed/before"), (true, "killed/after")] {
        let mut hub = Hub::new(NOON);
        let list = List::default();
        let store = || tokio.block_on(server.store(prefix));
        let shelf = |store| tokio.block_on(Shelf::open(store, cc("DE"))).unwrap();
        let versions = hub.versions.clone();
        // One of them waits for more, so that they join uploads differently.
        let run = |shelf, (max_keys, wait_ms), stop| {
            let terms = Terms::of(max_keys, wait_ms);
            Instance::run(Health::new("distribute"), tokio.handle(), shelf, &list, &versions, terms, stop)
        };
        let stop = Shutdown::new();
        let bucket = AmazonS3Builder::from_env().with_bucket_name("keyferry").with_region("us-east-1");
        let bucket = bucket.with_endpoint(server.endpoint()).with_allow_http(true).build().unwrap();
        let bucket = Arc::new(PrefixStore::new(bucket, prefix));
        let flaky = Flaky::new(bucket, 14, after, 0, stop.clone());
        let first = run(shelf(store()), (5, 20), Shutdown::new());
        let mortal = run(shelf(Store::over(Arc::clone(&flaky) as _)), (3, 0), stop);

        let reader = store();
        let mut seen = BTreeMap::new();
        let mut last = 0;
        let mut more = |until: i64, hub: &mut Hub| {
            while last < until {
                last += 1;
                list.push(&hub.batch("FR", "DE", 1 + last as usize % 3, NOON));
                std::thread::sleep(Duration::from_millis(25));
                if last % 4 == 0 {
                    let now = tokio.block_on(published(&reader));
                    let changed = seen.iter().find(|(name, bytes)| now.get(*name) != Some(bytes));
                    assert!(changed.is_none(), "{prefix}: something published has changed: {changed:?}");
                    seen = now;
                }
            }
            list.last()
        };
        let end = more(BATCHES / 2, &mut hub);
        first.wait_for(end);
        mortal.wait_for(end);
        assert!(flaky.is_dead(), "{prefix}: it was to be killed by now");
        mortal.stop();
        let successor = run(shelf(store()), (4, 0), Shutdown::new());
        let end = more(BATCHES, &mut hub);
        first.wait_for(end);
        successor.wait_for(end);
        first.stop();
        successor.stop();
        let report = tokio.block_on(verify_store(&shelf(store()), &hub.versions, Millis(0))).unwrap();
        let sequences: Vec<_> = report.batches.iter().map(|b| b.sequence).collect();
        assert_eq!((report.fault, sequences), (None, (1..=BATCHES).collect()), "{prefix}");
    }
}
