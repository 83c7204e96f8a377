//! Callbacks on a real Kafka: subscriptions that every instance knows, and calls that come in order and are not lost.
//!
//! Operations: subscribe, change, list, end, by several countries at several instances; uploads all the while.
//! Failures: a subscriber that fails, hangs, closes, and shows another certificate; instances that are stopped, one and
//! both; one that is killed in the middle of a call; keys that are erased before their call; a revoked certificate.
//! Known nondeterminism: calls may be repeated where an instance takes over from another one. Uploads may be joined into
//! one batch.
//! Not here: which addresses are refused (unit tests of `outbound`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    network::Use,
    time::Millis,
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_sinks::callbacks::CallbacksConfig;
use keyferry_tests::{
    callee::{Mood, Subscriber, files},
    hub::Hub,
    processor::Processor,
    service::{Service, stored},
    wait::wait_until,
};
use prometheus::proto::Metric;
use serde_json::json;

fn identity(country: &str, name: &str) -> Identity {
    Identity::new(country, name, Algorithm::P256, Timestamp::now()).unwrap()
}

/// What the tests of this file share, one after the other: each has a country of its own, and every key of DE goes to all.
struct Scene {
    hub: Hub,
    /// What the countries show when they are called.
    own: BTreeMap<&'static str, Identity>,
    /// Uploads of DE so far, of one key each.
    sent: usize,
    _processor: Processor,
}

fn scene() -> MutexGuard<'static, Scene> {
    // Never dropped: the broker ends with this process all the same.
    static SCENE: LazyLock<Mutex<Scene>> = LazyLock::new(|| {
        let (now, day) = (Timestamp::now(), SignedDuration::from_hours(24));
        let mut world = World::new(&["DE", "FR", "IT", "NL"], now).unwrap();
        let own: BTreeMap<_, _> = ["FR", "IT", "NL"].map(|c| (c, identity(c, "Callback"))).into();
        for (country, identity) in &own {
            // It names this machine.
            let entry = world.register(identity, Use::Callback, now - day, now + day).unwrap();
            world.member_mut(country).unwrap().certificates.push(entry);
        }
        let hub = Hub::start(world).unwrap();
        let processor = hub.processor("p-0").unwrap();
        Mutex::new(Scene { hub, own, sent: 0, _processor: processor })
    });
    SCENE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    fn upload(&mut self, n: usize) {
        let mut rng = Rng::from_entropy().unwrap();
        for _ in 0..n {
            self.sent += 1;
            let keys = [key(&mut rng, "DE", &[], SystemClock.now())];
            let upload = self.hub.world.upload("DE", &format!("tag-{}", self.sent), &keys).unwrap();
            self.hub.send(&upload).unwrap();
        }
        self.hub.decided("DE", self.sent).unwrap();
    }

    /// Waits until all that was uploaded is in the store of a country.
    fn wait_until_stored(&self, store: &Path, country: &str) {
        let keys = || stored(store, country.parse().unwrap()).iter().map(|(_, keys)| *keys).sum::<u64>();
        wait_until("what was uploaded is stored", || keys() == self.sent as u64);
    }
}

/// The tags in the store of a country.
fn tags(store: &Path, country: &str) -> Vec<String> {
    stored(store, country.parse().unwrap()).into_iter().map(|(tag, _)| tag).collect()
}

fn config(folder: &Path, ours: &Identity) -> CallbacksConfig {
    CallbacksConfig {
        client: files(ours, folder, "client"),
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        timeout_ms: 2000,
        retry_max_s: 1,
        max_per_member: 3,
    }
}

fn encoded(url: &str) -> String {
    url.bytes().map(|b| format!("%{b:02X}")).collect()
}

#[test]
fn every_instance_knows_the_subscriptions_and_each_country_its_own_only() {
    let scene = scene();
    let hub = &scene.hub;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let config = config(folder.path(), &identity("EU", "Hub"));
    let services = [(); 2].map(|()| Service::start(hub, &store, Some(config.clone())));
    let [one, two] = &services;
    let put = |service: &Service, country: &str, id: &str, url: &str| {
        service.ask(hub, country, "PUT", &format!("/{id}?url={}", encoded(url)))
    };
    let list = |service: &Service, country: &str| service.ask(hub, country, "GET", "");
    let good = "https://localhost:1/new";

    assert_eq!(list(one, "IT"), (200, json!([])));
    assert_eq!(put(one, "IT", "b", good).0, 200);
    assert_eq!(put(two, "IT", "a", "https://127.0.0.1:1").0, 200);
    let two_of_them =
        json!([{"callbackId": "a", "url": "https://127.0.0.1:1"}, {"callbackId": "b", "url": good}]);
    for service in &services {
        assert_eq!(list(service, "IT"), (200, two_of_them.clone()), "at once, wherever it was made");
        assert_eq!(list(service, "DE"), (200, json!([])));
    }
    assert_eq!(put(two, "IT", "a", good).0, 200);
    assert_eq!(list(one, "IT").1[0]["url"], good);

    let code = |(status, body): (u16, serde_json::Value)| {
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    for (id, url, expected) in [
        ("a%2Fb", good, "callback-id-malformed"),
        (&"x".repeat(65), good, "callback-id-malformed"),
        ("c", "nowhere", "callback-url-malformed"),
        ("c", &format!("https://localhost/{}", "x".repeat(600)), "callback-url-too-long"),
        ("c", "http://localhost/", "callback-url-not-https"),
        ("c", "https://user@localhost/", "callback-url-userinfo"),
        ("c", "https://localhost/?a=b", "callback-url-query"),
        ("c", "https://localhost/#a", "callback-url-fragment"),
        ("c", "https://elsewhere.example/", "callback-certificate-missing"),
    ] {
        assert_eq!(code(put(one, "IT", id, url)), (400, expected.into()), "{id} {url}");
    }
    for query in ["", "?url", "?uri=https://localhost/", "?url=https://localhost/&url=https://localhost/"] {
        let answer = code(one.ask(hub, "IT", "PUT", &format!("/c{query}")));
        assert!(answer.0 == 400 && answer.1.starts_with("callback-url-"), "{query}: {answer:?}");
    }
    assert_eq!(code(put(one, "IT", "%FF", good)), (404, "not-found".into()), "a path that is no text");
    let foreign = code(put(one, "DE", "c", good));
    assert_eq!(foreign, (400, "callback-certificate-missing".into()), "the certificate is of IT");
    assert_eq!(put(one, "IT", "c", good).0, 200);
    assert_eq!(code(put(two, "IT", "d", good)), (400, "callback-too-many".into()));
    assert_eq!(put(two, "IT", "c", "https://localhost:2/").0, 200, "it is one of them");

    for (country, id) in [("DE", "a"), ("IT", "z")] {
        let answer = code(one.ask(hub, country, "DELETE", &format!("/{id}")));
        assert_eq!(answer, (404, "callback-unknown".into()), "{country} {id}");
    }
    for (service, status) in [(two, 200), (one, 404), (two, 404)] {
        assert_eq!(service.ask(hub, "IT", "DELETE", "/c").0, status);
    }
    assert_eq!(one.ask(hub, "IT", "POST", "/a").0, 405);

    let strict =
        Service::start(hub, &store, Some(CallbacksConfig { allowed_networks: Vec::new(), ..config.clone() }));
    for host in ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1"] {
        let answer = code(put(&strict, "IT", "d", &format!("https://{host}/")));
        assert_eq!(answer, (400, "callback-address-refused".into()), "{host}");
    }
    let without = Service::start(hub, &store, None);
    for (method, path) in [("GET", ""), ("PUT", "/a?url=x"), ("DELETE", "/a")] {
        assert_eq!(code(without.ask(hub, "IT", method, path)), (501, "callbacks-not-offered".into()));
    }
    services.into_iter().chain([strict, without]).for_each(Service::stop);

    let later = Service::start(hub, &store, Some(config));
    let kept = json!([{"callbackId": "a", "url": good}, {"callbackId": "b", "url": good}]);
    assert_eq!(list(&later, "IT"), (200, kept));
    later.stop();
}

/// A clock that is ahead.
struct Ahead(SignedDuration);

impl Clock for Ahead {
    fn now(&self) -> Millis {
        (SystemClock.now().timestamp() + self.0).into()
    }
}

/// The sum of a metric of FR, with this result if it has one; `None` if there is none.
fn metric(name: &str, result: &str) -> Option<f64> {
    let families = prometheus::gather();
    let family = families.iter().find(|family| family.name() == name)?;
    let is = |m: &&Metric, label: &str, value: &str| {
        m.get_label().iter().all(|l| l.name() != label || l.value() == value)
    };
    let found = family.get_metric().iter().filter(|m| is(m, "destination", "FR") && is(m, "result", result));
    found.map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).reduce(|a, b| a + b)
}

/// Each for the first time.
fn first(tags: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    tags.into_iter().filter(|tag| seen.insert(tag.clone())).collect()
}

#[test]
fn calls_come_in_order_one_at_a_time_and_none_is_lost() {
    let mut scene = scene();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let (ours, other) = (identity("EU", "Hub"), identity("FR", "Callback"));
    let config = config(folder.path(), &ours);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let subscriber = Subscriber::start(&runtime, folder.path(), &scene.own["FR"], &other);
    let start = |scene: &Scene| Service::start(&scene.hub, &store, Some(config.clone()));
    let put = |service: &Service, scene: &Scene, id: &str, path: &str| {
        let address = encoded(&subscriber.url(path));
        service.ask(&scene.hub, "FR", "PUT", &format!("/{id}?url={address}"))
    };

    // What was there before is not called for.
    let service = start(&scene);
    scene.upload(2);
    scene.wait_until_stored(&store, "FR");
    let before = tags(&store, "FR").len();
    assert_eq!(put(&service, &scene, "one", "first").0, 200);
    let all = || tags(&store, "FR").split_off(before);
    let called = |scene: &Scene| {
        scene.wait_until_stored(&store, "FR");
        wait_until("a call for each batch", || first(subscriber.heard("first")) == all());
    };
    scene.upload(3);
    called(&scene);
    assert!(!all().is_empty());
    assert_eq!(subscriber.heard("first"), all(), "each once");
    assert!(subscriber.callers().iter().all(|c| *c == Some(ours.certificate.sha256())));

    let oldest = || metric("keyferry_callback_oldest_unacknowledged_timestamp_seconds", "");
    wait_until("nothing is waited for", || oldest().is_none());
    assert_eq!(metric("keyferry_callbacks_in_charge", ""), Some(1.0));
    for mood in [Mood::Fails, Mood::Hangs, Mood::Closes, Mood::Poses] {
        subscriber.set(mood);
        let heard = subscriber.heard("first").len();
        scene.upload(2);
        wait_until("more than one attempt", || subscriber.met() > 1);
        assert_eq!(subscriber.heard("first").len(), heard, "{mood:?}");
        assert!(oldest().unwrap() > 1.7e9, "{mood:?}");
        subscriber.set(Mood::Well);
        called(&scene);
    }
    let counted = |result| metric("keyferry_callbacks_total", result);
    wait_until("all is counted", || counted("acknowledged") == Some(all().len() as f64));
    assert!(counted("failed") >= Some(4.0), "one in each mood");
    assert_eq!(counted("skipped"), Some(0.0));

    // Nobody calls while the service is away; the next one knows how far it had come.
    subscriber.set(Mood::Fails);
    scene.upload(1);
    wait_until("an attempt", || subscriber.met() > 0);
    service.stop();
    subscriber.set(Mood::Well);
    scene.upload(2);
    let service = start(&scene);
    called(&scene);
    assert_eq!(subscriber.heard("first"), all(), "each once, as it was stopped in good order");
    assert_eq!(subscriber.most_at_a_time(), 1);

    // Of two, one calls; whichever goes, the other one goes on.
    let mut pair = vec![service, start(&scene)];
    let (heard, batches) = (subscriber.heard("first").len(), all().len());
    for _ in 0..6 {
        scene.upload(1);
        called(&scene);
    }
    let (calls, batches) = (subscriber.heard("first").len() - heard, all().len() - batches);
    assert!(calls < batches + batches / 2, "{calls} calls for {batches} batches: both of them called");
    for _ in 0..2 {
        scene.upload(2);
        called(&scene);
        pair.remove(0).stop();
        scene.upload(2);
        pair.push(start(&scene));
        called(&scene);
    }
    pair.remove(0).stop();
    let service = pair.remove(0);

    // Another address of the same subscription goes on where the former stood; one that ended is not called.
    subscriber.set(Mood::Fails);
    scene.upload(1);
    wait_until("an attempt", || subscriber.met() > 0);
    let heard = first(subscriber.heard("first")).len();
    assert_eq!(put(&service, &scene, "one", "second").0, 200);
    subscriber.set(Mood::Well);
    wait_until("calls at the new address", || {
        let called = first(subscriber.heard("second"));
        !called.is_empty() && all().ends_with(&called) && called.len() >= all().len() - heard
    });
    assert_eq!(put(&service, &scene, "two", "third").0, 200);
    assert_eq!(service.ask(&scene.hub, "FR", "DELETE", "/one").0, 200);
    let (ended, since) = (subscriber.heard("second").len(), all().len());
    scene.upload(3);
    scene.wait_until_stored(&store, "FR");
    wait_until("calls of the other one", || subscriber.heard("third") == all()[since..]);
    assert_eq!(subscriber.heard("second").len(), ended);
    assert_eq!(first(subscriber.heard("first")).len(), heard);

    // What is erased before it was called for is passed over, and what comes behind it is not.
    subscriber.set(Mood::Fails);
    scene.upload(1);
    wait_until("an attempt", || subscriber.met() > 0);
    service.stop();
    let ahead = Ahead(SignedDuration::from_hours(24 * 15));
    let service = Service::start_at(&scene.hub, &store, Some(config.clone()), Arc::new(ahead));
    wait_until("a skipped batch", || counted("skipped") == Some(1.0));
    service.stop();
    subscriber.set(Mood::Well);
    let service = start(&scene);
    let (before_it, after_it) = (subscriber.heard("third"), all().len());
    scene.upload(1);
    scene.wait_until_stored(&store, "FR");
    wait_until("the call behind it", || {
        subscriber.heard("third") == [before_it.as_slice(), &all()[after_it..]].concat()
    });

    // A certificate that is revoked is believed no more.
    let registered = &mut scene.hub.world.member_mut("FR").unwrap().certificates;
    registered.last_mut().unwrap().revoked = Some(Timestamp::now());
    scene.hub.world.document.version += 1;
    scene.hub.publish().unwrap();
    let refused = || put(&service, &scene, "x", "x").1["code"] == "callback-certificate-missing";
    wait_until("a revocation", refused);
    let (met, heard) = (subscriber.met(), subscriber.heard("third").len());
    let failed = counted("failed");
    scene.upload(1);
    wait_until("an attempt that fails", || counted("failed") > failed);
    assert_eq!(
        (subscriber.met(), subscriber.heard("third").len()),
        (met, heard),
        "nobody is even connected to"
    );
    service.stop();
}

#[test]
fn an_instance_that_is_killed_in_a_call_leaves_it_to_the_next_one() {
    let mut scene = scene();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let config = config(folder.path(), &identity("EU", "Hub"));
    let section = folder.path().join("callbacks.yaml");
    let (certificate, key) = (config.client.certificate.display(), config.client.key.display());
    let rest = "allowed_networks: [127.0.0.0/8], retry_max_s: 1, timeout_ms: 60000";
    let text = format!("{{client: {{certificate: {certificate}, key: {key}}}, {rest}}}");
    std::fs::write(&section, text).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = &scene.own["NL"];
    let subscriber = Subscriber::start(&runtime, folder.path(), own, own);
    let first_one = Service::start(&scene.hub, &store, Some(config));
    scene.wait_until_stored(&store, "NL");
    let before = tags(&store, "NL").len();
    let address = encoded(&subscriber.url("new"));
    assert_eq!(first_one.ask(&scene.hub, "NL", "PUT", &format!("/one?url={address}")).0, 200);
    first_one.stop();

    let lone = |scene: &Scene| {
        let program = env!("CARGO_BIN_EXE_lone-distribution");
        scene.hub.lone_distribution_that_calls(program, &store, &section).unwrap()
    };
    let all = || tags(&store, "NL").split_off(before);
    let doomed = lone(&scene);
    scene.upload(2);
    wait_until("the first calls", || !all().is_empty() && subscriber.heard("new") == all());
    subscriber.set(Mood::Hangs);
    scene.upload(1);
    wait_until("a call in flight", || subscriber.met() > 0);
    doomed.signal("KILL").unwrap();
    scene.upload(1);
    subscriber.set(Mood::Well);
    let _next = lone(&scene);
    scene.wait_until_stored(&store, "NL");
    // The dead one is in charge until the group has missed it for 10 s.
    wait_until("every call", || first(subscriber.heard("new")) == all());
}
