//! The routes over a store in memory, and what a client of them sees.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use bytes::Bytes;
use keyferry_runtime::{
    health::Health,
    http::{ClientCertificate, app},
    network::NetworkFeed,
    shutdown::Shutdown,
};
use keyferry_schemas::{
    batch::SignedBatch,
    efgs::{self, Encoding},
    time::Millis,
};
use keyferry_sinks::{
    api::{Api, Periods, Shelves},
    download::routes,
    shelf::Shelf,
    store::Store,
};
use object_store::{ObjectStore, memory::InMemory};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::{
    DAY, Hub, NOON, cc,
    instance::{Instance, List, Terms, tokio},
};

pub const PROTOBUF: &str = "application/protobuf; version=1.0";
pub const JSON: &str = "application/json; version=1.0";

pub struct Service {
    pub hub: Hub,
    pub tokio: Runtime,
    pub objects: Arc<InMemory>,
    pub list: List,
    pub now: Millis,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn code(&self) -> String {
        serde_json::from_slice::<Value>(&self.body).unwrap()["code"].as_str().unwrap().into()
    }
}

impl Service {
    pub fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        Self { hub: Hub::new(NOON), tokio: tokio(), objects, list: List::default(), now: NOON }
    }

    /// Each a download batch of its own, of this many keys, made at this time.
    pub fn publish(&mut self, batches: &[(usize, Millis)]) {
        for (keys, at) in batches {
            let batch = self.hub.batch("FR", "DE", *keys, *at);
            self.publish_one(&batch);
        }
    }

    pub fn publish_one(&self, batch: &SignedBatch) {
        let last = self.list.push(batch);
        let objects = Arc::clone(&self.objects) as Arc<dyn ObjectStore>;
        let instance =
            Instance::start(self.tokio.handle(), cc("DE"), objects, &self.list, &self.hub.versions);
        instance.wait_for(last);
        instance.stop();
    }

    /// All in one download batch, as long as they are of one day.
    pub fn publish_joined(&self, batches: &[SignedBatch]) {
        let objects = Arc::clone(&self.objects) as Arc<dyn ObjectStore>;
        let shelf = self.tokio.block_on(Shelf::open(Store::over(objects), cc("DE"))).unwrap();
        let (health, terms, stop) =
            (Health::new("distribute"), Terms::of(10_000, 3_600_000), Shutdown::new());
        let versions = &self.hub.versions;
        let instance = Instance::run(health, self.tokio.handle(), shelf, &self.list, versions, terms, stop);
        batches.iter().for_each(|batch| _ = self.list.push(batch));
        self.list.wait_until_read();
        // With its end all that waits is stored.
        instance.stop();
    }

    pub fn api(&self) -> Api {
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

    pub fn router(&self, country: &str) -> Router {
        let sha256 = self.hub.nation(cc(country)).authentication.certificate.sha256();
        let client = ClientCertificate { sha256, subject_country: Some(cc(country)) };
        // As it is served: what a listener answers by itself is there, too.
        app(routes(self.api()).layer(Extension(client)), &[])
    }

    pub fn ask(&self, router: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask_as("GET", router, path, headers)
    }

    pub fn ask_as(&self, method: &str, router: &Router, path: &str, headers: &[(&str, &str)]) -> Answer {
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

    pub fn download(&self, router: &Router, date: &str, tag: Option<&str>) -> Answer {
        let tag = tag.map(|t| ("batchTag", t));
        let headers: Vec<_> = [("Accept", PROTOBUF)].into_iter().chain(tag).collect();
        self.ask(router, &format!("download/{date}"), &headers)
    }
}

pub fn keys(answer: &Answer) -> usize {
    efgs::decode(Encoding::Protobuf, answer.body.clone()).unwrap().len()
}
