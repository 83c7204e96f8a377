//! The service as a whole over a local store, without a way to a broker: what is stored is served all the same.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{Extension, body::Body, http::Request};
use common::{
    DAY, HOUR, Hub, NOON, Set, cc,
    instance::{Instance, List, tokio},
    metric,
};
use keyferry_runtime::{
    codec::Codec, config::KafkaConfig, health::Health, http::ClientCertificate, kafka::Kafka,
    network::NetworkFeed,
};
use keyferry_schemas::network::{MemberState, StateSince};
use keyferry_sinks::{
    Countries, DistributeConfig, Distribution,
    store::{LocalConfig, StoreConfig},
};
use object_store::local::LocalFileSystem;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// Metrics are of the process, so one test at a time looks at them.
static ALONE: Mutex<()> = Mutex::new(());

struct World {
    _alone: MutexGuard<'static, ()>,
    tokio: Runtime,
    hub: Hub,
    store: TempDir,
    clock: Arc<Set>,
    health: Health,
}

impl World {
    /// One batch from each of the others is stored for DE and for FR.
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokio, mut hub, store) = (tokio(), Hub::new(NOON), tempfile::tempdir().unwrap());
        for (origin, destination) in [("FR", "DE"), ("DE", "FR")] {
            let list = List::default();
            let objects = Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap());
            let last = list.push(&hub.batch(origin, destination, 2, NOON));
            let writer = Instance::start(tokio.handle(), cc(destination), objects, &list, &hub.versions);
            writer.wait_for(last);
            writer.stop();
        }
        let clock = Set::at(NOON);
        Self { _alone: alone, tokio, hub, store, clock, health: Health::new("distribute") }
    }

    fn path(&self) -> &Path {
        self.store.path()
    }

    fn start(&self, countries: &[&str]) -> Distribution {
        // Refused at once: nobody has to wait for a broker that does not answer.
        let options = [("security.protocol", "ssl"), ("ssl.ca.location", "/nowhere")]
            .map(|(k, v)| (k.into(), v.into()));
        let kafka =
            KafkaConfig { bootstrap_servers: "127.0.0.1:1".into(), client_id: None, options: options.into() };
        let config = DistributeConfig {
            countries: Countries::Only(countries.iter().map(|c| cc(c)).collect()),
            store: StoreConfig::Local(LocalConfig { path: self.path().into() }),
            download_window_days: 14,
            retention_days: 14,
            sweep_interval_s: 1,
            max_keys_per_download_batch: 100,
            join_wait_ms: 0,
            callbacks: None,
        };
        let kafka = Kafka::new(&kafka, "distribute");
        let feed = NetworkFeed::fixed(self.hub.versions.clone());
        let codec = Codec::single_object().unwrap();
        let clock = Arc::clone(&self.clock) as _;
        let started = Distribution::start(&kafka, codec, feed, config, clock, &self.health);
        self.tokio.block_on(started).unwrap()
    }

    /// The status of a download of the first batch.
    fn download(&self, service: &Distribution, country: &str) -> u16 {
        let sha256 = self.hub.nation(cc(country)).authentication.certificate.sha256();
        let client = ClientCertificate { sha256, subject_country: Some(cc(country)) };
        let router = service.router().layer(Extension(client));
        let request = Request::get("/diagnosiskeys/download/2020-10-23")
            .header("Accept", "application/protobuf; version=1.0")
            .body(Body::empty());
        self.tokio.block_on(router.oneshot(request.unwrap())).unwrap().status().as_u16()
    }

    fn objects(&self, folder: &str) -> usize {
        std::fs::read_dir(self.path().join(folder)).map_or(0, Iterator::count)
    }

    fn stop(self, service: Distribution) {
        self.tokio.block_on(service.stop());
    }
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_damaged_log_stops_its_country_and_no_other() {
    let world = World::new();
    let object = world.path().join("log/de/0000000001");
    let good = std::fs::read(&object).unwrap();
    std::fs::write(&object, b"{}").unwrap();
    let service = world.start(&["DE", "FR"]);
    assert_eq!((world.download(&service, "DE"), world.download(&service, "FR")), (503, 200));
    assert_eq!(metric("keyferry_distribution_up", "DE"), Some(0.0));
    assert_eq!(world.download(&service, "NL"), 421);
    std::fs::write(&object, good).unwrap();
    wait_until("it is mended and not served", || world.download(&service, "DE") == 200);
    world.stop(service);
}

#[test]
fn a_sweep_that_fails_keeps_no_other_country_from_its_own_and_nobody_from_downloading() {
    let world = World::new();
    // What has to be erased is a folder and stays.
    let due = world.path().join("data/de/0000000001-10-0011223344556677#1");
    std::fs::create_dir(due).unwrap();
    let service = world.start(&["DE", "FR"]);
    assert_eq!((world.objects("data/fr"), world.download(&service, "FR")), (1, 200));
    wait_until("one can not be swept, and that is no reason to stop", || world.health.ready().ok);
    world.clock.put(NOON.plus(14 * DAY));
    wait_until("FR is swept", || world.objects("data/fr") == 0);
    std::thread::sleep(Duration::from_secs(3));
    let live = world.health.live().to_string();
    let sweep = live.lines().find(|l| l.contains("/sweep: ok")).unwrap_or_default();
    assert!(sweep.contains("ms ago") || sweep.contains(" 1.0s ago"), "it does not look alive: {live}");
    world.stop(service);
}

#[test]
fn a_member_that_leaves_is_served_no_more_and_its_keys_are_erased() {
    let mut world = World::new();
    let from = NOON.plus(HOUR).timestamp();
    let states = &mut world.hub.world.member_mut("DE").unwrap().states;
    states.push(StateSince { state: MemberState::Left, from });
    world.hub.publish(2);
    let service = world.start(&["DE", "FR"]);
    assert_eq!((world.download(&service, "DE"), world.download(&service, "FR")), (200, 200));
    assert_eq!(metric("keyferry_distribution_up", "DE"), Some(0.0));
    world.clock.put(NOON.plus(HOUR));
    wait_until("DE is not served any more", || service.countries() == [cc("FR")]);
    wait_until("its keys are erased", || world.objects("data/de") == 0);
    assert_eq!((world.objects("log/de"), world.objects("data/fr")), (1, 1), "its log stays, and all of FR");
    assert_eq!(metric("keyferry_distribution_up", "DE"), None, "nobody misses it");
    assert!(!world.health.ready().to_string().contains("keys.de"), "{}", world.health.ready());
    world.stop(service);
}
