//! The HTTP contract, as clients of national backends speak it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use bytes::Bytes;
use common::{
    DAY, HOUR, Hub, NOON, cc,
    instance::{Instance, List, tokio},
};
use keyferry_runtime::{http::ClientCertificate, network::NetworkFeed};
use keyferry_schemas::{
    batch::Level,
    efgs::{self, Encoding},
    time::Millis,
};
use keyferry_sinks::{
    api::{Api, Periods, Shelves},
    download::routes,
    shelf::Shelf,
    store::Store,
    sweep::sweep,
};
use object_store::{ObjectStore, memory::InMemory};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;

const PROTOBUF: &str = "application/protobuf; version=1.0";

struct Service {
    hub: Hub,
    tokio: Runtime,
    objects: Arc<InMemory>,
    list: List,
    now: Millis,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn code(&self) -> String {
        serde_json::from_slice::<Value>(&self.body).unwrap()["code"].as_str().unwrap().into()
    }
}

impl Service {
    fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        Self { hub: Hub::new(NOON), tokio: tokio(), objects, list: List::default(), now: NOON }
    }

    /// Each a download batch of its own, of this many keys, made at this time.
    fn publish(&mut self, batches: &[(usize, Millis)]) {
        for (keys, at) in batches {
            let batch = self.hub.batch("FR", "DE", *keys, *at);
            self.publish_one(&batch);
        }
    }

    fn publish_one(&self, batch: &keyferry_schemas::batch::SignedBatch) {
        let last = self.list.push(batch);
        let objects = Arc::clone(&self.objects) as Arc<dyn ObjectStore>;
        let instance =
            Instance::start(self.tokio.handle(), cc("DE"), objects, &self.list, &self.hub.versions);
        instance.wait_for(last);
        instance.stop();
    }

    fn api(&self) -> Api {
        let shelves = Shelves::default();
        let store = Store::over(Arc::clone(&self.objects) as _);
        for served in ["DE", "FR"] {
            let shelf = self.tokio.block_on(Shelf::open(store.clone(), cc(served))).unwrap();
            shelves.add(Arc::new(shelf));
        }
        Api {
            shelves,
            feed: NetworkFeed::fixed(self.hub.versions.clone()),
            clock: Arc::new(self.now),
            periods: Periods { window_days: 14, retention_ms: 14 * DAY },
        }
    }

    fn router(&self, country: &str) -> Router {
        let sha256 = self.hub.nation(cc(country)).authentication.certificate.sha256();
        let client = ClientCertificate { sha256, subject_country: Some(cc(country)) };
        routes(self.api()).layer(Extension(client))
    }

    fn ask(&self, router: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask_as("GET", router, path, headers)
    }

    fn ask_as(&self, method: &str, router: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/diagnosiskeys/{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.tokio.block_on(async {
            let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Answer { status, headers, body: to_bytes(response.into_body(), 1 << 20).await.unwrap() }
        })
    }

    fn download(&self, router: &Router, date: &str, tag: Option<&str>) -> Answer {
        let tag = tag.map(|t| ("batchTag", t));
        let headers: Vec<_> = [("Accept", PROTOBUF)].into_iter().chain(tag).collect();
        self.ask(router, &format!("download/{date}"), &headers)
    }
}

fn keys(answer: &Answer) -> usize {
    efgs::decode(Encoding::Protobuf, answer.body.clone()).unwrap().len()
}

#[test]
fn a_walk_crosses_midnight_and_ends_with_null() {
    let mut service = Service::new();
    service.now = NOON.plus(2 * DAY);
    let midnight = NOON.plus(12 * HOUR);
    service.publish(&[(1, NOON), (2, midnight.plus(-1)), (3, midnight), (4, midnight.plus(DAY))]);
    let router = service.router("DE");
    let mut tag = None;
    let mut walked = Vec::new();
    while tag.as_deref() != Some("null") {
        let answer = service.download(&router, "2020-10-20", tag.as_deref());
        assert_eq!((answer.status, answer.header("content-type")), (200, PROTOBUF));
        walked.push((answer.header("batchTag").to_owned(), keys(&answer)));
        tag = Some(answer.header("nextBatchTag").to_owned());
    }
    let expected = [("20201023-1", 1), ("20201023-2", 2), ("20201024-1", 3), ("20201025-1", 4)];
    assert_eq!(walked, expected.map(|(t, n)| (t.to_owned(), n)));

    // Polling the last tag again yields its successor when there is one.
    service.publish(&[(5, midnight.plus(DAY + 1))]);
    let etag = service.download(&router, "2020-10-25", Some("20201025-1")).header("etag").to_owned();
    let headers = [("Accept", PROTOBUF), ("batchTag", "20201025-1"), ("If-None-Match", &etag)];
    let poll = service.ask(&router, "download/2020-10-25", &headers);
    assert_eq!((poll.status, poll.header("nextBatchTag"), poll.body.len()), (304, "20201025-2", 0));
    let headers = [("Accept", "application/json; version=1.0"), headers[1], headers[2]];
    assert_eq!(service.ask(&router, "download/2020-10-25", &headers).status, 200, "another encoding");
}

#[test]
fn dates_and_tags_are_answered_as_efgs_answered() {
    let mut service = Service::new();
    service.publish(&[(1, NOON.plus(-DAY)), (2, NOON)]);
    let router = service.router("DE");
    let table: [(&str, Option<&str>, u16, &str); 14] = [
        ("2020-10-22", None, 200, "20201022-1"),
        ("2020-10-21", None, 200, "20201022-1"),
        ("2020-10-23", None, 200, "20201023-1"),
        ("2020-10-22", Some("20201023-1"), 200, "20201023-1"),
        ("2020-10-09", Some("20201023-1"), 200, "20201023-1"),
        ("2020-10-24", None, 404, "no-batch"),
        ("2020-10-22", Some("20201022-2"), 404, "batch-unknown"),
        ("2020-10-22", Some("null"), 404, "batch-unknown"),
        ("2020-10-23", Some("20201022-1"), 400, "date-after-batch"),
        ("2020-10-08", None, 410, "date-too-old"),
        ("2020-10-08", Some("20201023-1"), 410, "date-too-old"),
        ("2020-13-01", None, 400, "date-malformed"),
        ("20201023", None, 400, "date-malformed"),
        ("today", None, 400, "date-malformed"),
    ];
    for (date, tag, status, what) in table {
        let answer = service.download(&router, date, tag);
        let found = if status == 200 { answer.header("batchTag").into() } else { answer.code() };
        assert_eq!((answer.status, found.as_str()), (status, what), "{date} {tag:?}");
    }
    let empty = service.router("FR");
    assert_eq!(service.download(&empty, "2020-10-23", None).code(), "no-batch");
    for (accept, status) in [("application/protobuf", 415), ("text/html", 406)] {
        assert_eq!(
            service.ask(&router, "download/2020-10-23", &[("Accept", accept)]).status,
            status,
            "{accept}"
        );
    }
    assert_eq!(service.ask_as("POST", &router, "download/2020-10-23", &[]).status, 405);
}

#[test]
fn both_encodings_and_head_tell_the_same() {
    let mut service = Service::new();
    service.publish(&[(3, NOON)]);
    let router = service.router("DE");
    let protobuf = service.download(&router, "2020-10-23", None);
    let accept = [("Accept", "application/json; version=1.0")];
    let json = service.ask(&router, "download/2020-10-23", &accept);
    assert_eq!(json.header("content-type"), "application/json; version=1.0");
    let read = |encoding, body| efgs::decode(encoding, body).unwrap();
    assert!(read(Encoding::Json, json.body.clone()) == read(Encoding::Protobuf, protobuf.body.clone()));
    let head = service.ask_as("HEAD", &router, "download/2020-10-23", &[("Accept", PROTOBUF)]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["batchTag", "nextBatchTag", "etag", "content-type", "content-length"] {
        let length = protobuf.body.len().to_string();
        let expected = if name == "content-length" { &length } else { protobuf.header(name) };
        assert_eq!(head.header(name), expected, "{name}");
    }
    let head = service.ask_as("HEAD", &router, "download/2020-10-23", &accept);
    assert_eq!((head.status, head.body.len(), head.header("etag")), (200, 0, json.header("etag")));
    assert!(!head.headers.contains_key("content-length"), "it is not that of an empty body");
}

#[test]
fn a_country_sees_its_own_store_only() {
    let mut service = Service::new();
    service.publish(&[(3, NOON)]);
    assert_eq!(service.download(&service.router("FR"), "2020-10-23", Some("20201023-1")).status, 404);
    let elsewhere = service.download(&service.router("NL"), "2020-10-23", None);
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (421, "country-not-served"));
    let bare = |client: Option<ClientCertificate>| {
        let router = routes(service.api());
        let router = client.map_or(router.clone(), |client| router.layer(Extension(client)));
        service.download(&router, "2020-10-23", None)
    };
    assert_eq!(bare(None).code(), "client-certificate-missing");
    assert_eq!(
        bare(Some(ClientCertificate { sha256: [0; 32], subject_country: Some(cc("DE")) })).status,
        403
    );
}

#[test]
fn what_is_erased_is_gone_and_what_is_not_is_found() {
    let mut service = Service::new();
    let times =
        [(1, NOON.plus(-2 * HOUR)), (2, NOON.plus(-HOUR)), (3, NOON.plus(HOUR)), (4, NOON.plus(2 * HOUR))];
    service.publish(&times);
    service.now = NOON.plus(14 * DAY);
    let router = service.router("DE");
    let first = service.download(&router, "2020-10-23", None);
    assert_eq!((first.header("batchTag"), keys(&first)), ("20201023-3", 3), "the first that is still there");
    let erased = service.download(&router, "2020-10-23", Some("20201023-2"));
    assert_eq!((erased.status, erased.code().as_str()), (410, "batch-erased"));

    let store = Store::over(Arc::clone(&service.objects) as _);
    let swept = service.tokio.block_on(sweep(&store, cc("DE"), NOON)).unwrap();
    assert_eq!((swept.erased, swept.oldest), (2, Some(NOON.plus(HOUR))));
    // What was erased early, by whomever, is gone as well, whatever the clock says.
    service.now = NOON;
    let router = service.router("DE");
    assert_eq!(service.download(&router, "2020-10-23", Some("20201023-2")).status, 410);
    assert_eq!(service.download(&router, "2020-10-23", Some("20201023-3")).status, 200);
}

/// One origin may lag behind the others, so that a batch is older than the one before it.
#[test]
fn what_is_kept_is_found_among_what_is_erased() {
    let mut service = Service::new();
    // Along one chain times never fall; but an origin may have waited for long, and another not.
    for (origin, hours) in [("FR", -3), ("FR", -2), ("FR", 2), ("NL", -1), ("NL", 1), ("IT", -1)] {
        let batch = service.hub.batch(origin, "DE", 1, NOON.plus(hours * HOUR));
        service.publish_one(&batch);
    }
    service.now = NOON.plus(14 * DAY);
    let router = service.router("DE");
    for _ in 0..2 {
        assert_eq!(service.download(&router, "2020-10-23", None).header("batchTag"), "20201023-3");
    }
    let next = |tag: &str| {
        let answer = service.download(&router, "2020-10-23", Some(tag));
        (answer.status, answer.header("nextBatchTag").to_owned())
    };
    // A walk meets what is erased and goes on behind it.
    assert_eq!(next("20201023-3"), (200, "20201023-4".into()));
    assert_eq!(next("20201023-4"), (410, "20201023-5".into()));
    assert_eq!(next("20201023-5"), (200, "20201023-6".into()));
    assert_eq!(next("20201023-6"), (410, "null".into()));
}

#[test]
fn an_audit_shows_what_proves_the_origin() {
    let mut service = Service::new();
    service.publish(&[(3, NOON)]);
    let subset = service.hub.batch_of("FR", "DE", 2, NOON, Level::Subset);
    service.publish_one(&subset);
    let router = service.router("DE");
    let audit = |tag: &str| service.ask(&router, &format!("audit/download/2020-10-22/{tag}"), &[]);
    let entries: Value = serde_json::from_slice(&audit("20201023-1").body).unwrap();
    let entry = &entries[0];
    assert_eq!(
        (entries.as_array().unwrap().len(), &entry["country"], &entry["amount"]),
        (1, &"FR".into(), &3.into())
    );
    assert_eq!(entry["uploadedTime"], "2020-10-23T12:00:00Z");
    let fr = service.hub.nation(cc("FR"));
    for (identity, role) in [(&fr.authentication, "uploader"), (&fr.signing, "signing")] {
        assert_eq!(entry[format!("{role}Certificate")], identity.certificate_pem().unwrap());
    }
    assert!(entry["batchSignature"].is_string() && entry["uploaderOperatorSignature"].is_string());
    assert!(entry["signingCertificateOperatorSignature"].is_string() && entry["originProof"].is_null());
    let entries: Value = serde_json::from_slice(&audit("20201023-2").body).unwrap();
    assert!(entries[0]["originProof"] == false && entries[0]["batchSignature"].is_null());
    assert_eq!(audit("20201023-3").status, 404);
    assert_eq!(service.ask(&router, "audit/download/2020-10-24/20201023-1", &[]).status, 404);
    assert_eq!(service.ask(&router, "audit/download/2020-10-01/20201023-1", &[]).status, 410);
}
