//! A distribution service whose object store fails, is slow or full, while batches keep coming: nothing is lost, nothing
//! that was published changes, what was published can be downloaded wherever it can be read, the service says in one line
//! what is wrong, and goes on by itself once the store is well again.
//!
//! Operations: batches of DE for FR, one after the other; downloads of all of them after each.
//! Failures, each at the data object, at the log object, or at reads: refusals, 503, 507, answers that are lost, two
//! seconds for each request; a file system that is full at the first byte, and between data and log.
//! Not here: instances that die or race (`progress`, `stores`), damaged objects (`tampering`), how S3 creates once (`s3`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{fs, path::Path, process::Command, time::Duration};

use axum::http::Method;
use keyferry_schemas::{batch::SignedBatch, world::World};
use keyferry_tests::{
    bucket::{Bucket, Fault},
    chains::KEYS,
    downloads::{Addresses, Client, End, Page},
    hub::Hub,
    operator::prepare,
    role::{Role, address},
    wait::wait_until,
};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

struct Scene {
    hub: Hub,
    role: Role,
    at: Addresses,
    client: Client,
    batches: Vec<SignedBatch>,
    sent: usize,
    seen: Vec<Page>,
    folder: tempfile::TempDir,
}

/// With this as `distribute.store`.
fn service(hub: &Hub, folder: &Path, store: &str, listen: &str) -> Role {
    Role::start_with("distribute", folder, hub, listen, |text| {
        let dir = folder.display();
        let local = format!("store: {{local: {{path: {dir}/store}}}}");
        let text = text.replace(&local, &format!("store: {store}"));
        let tls = format!("tls: {{certificate: {dir}/server.pem, key: {dir}/server.key}}}}\n");
        text.replacen(&tls, "trusted_proxies: ['127.0.0.0/8']}\n", 1)
    })
}

impl Scene {
    fn start(store: &str) -> Self {
        let hub = Hub::start(World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &hub.world);
        let (runtime, listen) = (Runtime::new().unwrap(), address());
        let mut role = service(&hub, folder.path(), store, &listen);
        role.wait_until_ready(&runtime);
        let at = Addresses::of(&listen, role.admin());
        let batches = hub.chains(20).unwrap().remove(&"FR".parse().unwrap()).unwrap();
        let client = Client::new().unwrap();
        Self { hub, role, at, client, batches, sent: 0, seen: Vec::new(), folder }
    }

    /// One more batch is on the topic.
    fn send(&mut self) {
        self.hub.deliver("FR", &self.batches[self.sent]).unwrap();
        self.sent += 1;
    }

    /// What was published once can be downloaded, and is as it was. Tells how many batches of DE that is, which may be
    /// joined.
    fn published(&mut self) -> usize {
        let (pages, end) = self.client.walk(&self.hub, &self.at, "FR").unwrap();
        assert!(matches!(end, End::Null | End::Nothing), "{end:?}");
        assert!(pages.starts_with(&self.seen), "what was published has changed");
        self.seen = pages;
        self.seen.iter().map(|page| page.keys.len()).sum::<usize>() / KEYS
    }

    /// Everything that was sent comes, each batch once.
    fn all_comes(&mut self, what: &str) {
        let sent = self.sent;
        wait_until(what, || self.published() == sent);
        wait_until("it is well", || self.is_up());
        let keys: Vec<_> =
            self.seen.iter().flat_map(|page| &page.keys).map(|k| k.key_data.to_vec()).collect();
        let wanted: Vec<_> = self.batches[..sent].iter().flat_map(keys_of).collect();
        assert_eq!(keys, wanted, "{what}");
    }

    fn is_up(&self) -> bool {
        let (_, metrics) = self.client.admin(&self.at, "metrics").unwrap();
        metrics.contains("keyferry_distribution_up{destination=\"FR\"} 1\n")
    }

    /// It says so, in one line, and is no reason to restart it or to take it away from those who download.
    fn says(&self, what: &str) {
        wait_until(what, || !self.role.says(what).is_empty());
        let line = &self.role.says(what)[0];
        assert!(line.contains("the store does not answer") && line.contains("FR"), "{line}");
        wait_until("the metric", || !self.is_up());
        for page in ["readyz", "livez"] {
            let (status, said) = self.client.admin(&self.at, page).unwrap();
            assert_eq!(status, StatusCode::OK, "{page}: {said}");
        }
    }
}

fn keys_of(batch: &SignedBatch) -> Vec<Vec<u8>> {
    let keys = keyferry_schemas::efgs::decode(keyferry_schemas::efgs::Encoding::Protobuf, batch.keys.clone());
    keys.ok().unwrap().iter().map(|k| k.key_data.to_vec()).collect()
}

#[test]
fn a_bucket_that_fails_anywhere_or_is_slow_loses_and_changes_nothing() {
    let bucket = Bucket::start();
    let config = bucket.config();
    let mut scene = Scene::start(&config);
    scene.send();
    scene.all_comes("the first");
    let put = [Method::PUT];
    for (what, fault) in [
        ("503 for data", Fault::refused(&put, "data/", 503)),
        ("507 for data", Fault::refused(&put, "data/", 507)),
        ("503 for the log", Fault::refused(&put, "log/", 503)),
        // Its answer is lost: then the object is there, and is our own.
        ("the log is written and nobody hears of it", Fault::refused(&put, "log/", 500).done()),
        ("data are written and nobody hears of it", Fault::refused(&put, "data/", 500).done()),
    ] {
        bucket.ail(fault);
        scene.send();
        wait_until(what, || bucket.met() >= 2);
        scene.send();
        scene.published();
        bucket.heal();
        scene.all_comes(what);
    }
    // The credentials have ended, say: no use in asking again at once, and it is said.
    bucket.ail(Fault::refused(&put, "", 403));
    scene.send();
    scene.says("lacked the necessary privileges");
    scene.published();
    bucket.heal();
    scene.all_comes("after a refusal");

    // While nothing can be read a download says so, and is the same as before afterwards.
    bucket.ail(Fault::refused(&[Method::GET, Method::HEAD], "", 403));
    let (pages, end) = scene.client.walk(&scene.hub, &scene.at, "FR").unwrap();
    assert_eq!((pages.len(), end), (0, End::Status(StatusCode::SERVICE_UNAVAILABLE)));
    scene.send();
    bucket.heal();
    scene.all_comes("reads again");

    // Two seconds for each request, of which a batch takes two.
    let before = bucket.objects("log/fr/").len();
    bucket.ail(Fault::slow(Duration::from_secs(2)));
    scene.send();
    wait_until("a slow request", || bucket.met() >= 1);
    let (status, said) = scene.client.admin(&scene.at, "livez").unwrap();
    assert_eq!(status, StatusCode::OK, "{said}");
    wait_until("a slow batch", || bucket.objects("log/fr/").len() > before);
    bucket.heal();
    scene.all_comes("slowly");

    // A start says what is missing, and ends.
    bucket.ail(Fault::refused(&[Method::GET, Method::HEAD, Method::PUT], "", 403));
    let mut second = service(&scene.hub, scene.folder.path(), &config, &address());
    assert_eq!(second.ended().code(), Some(3));
    // The one line behind those of the first, whose log it shares.
    let said = second.says("").pop().unwrap();
    assert!(said.contains("the store does not answer"), "{said}");
    bucket.heal();
    let log = bucket.objects("log/fr/");
    scene.send();
    scene.all_comes("the last");
    assert!(
        log.iter().all(|(name, bytes)| bucket.objects("log/fr/").get(name) == Some(bytes)),
        "a log object changed"
    );
}

/// A file system of 256 KiB, if the machine allows it.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    /// Leaves so many pages of 4 KiB.
    fn fill(&self, left: usize) {
        let filler = self.0.join("filler");
        let page = [1; 4096];
        let mut all = Vec::new();
        // Its size is found by trying, as the system keeps some for itself.
        while fs::write(&filler, [all.as_slice(), &page].concat()).is_ok() {
            all.extend(page);
        }
        all.truncate(all.len().saturating_sub(left * page.len()));
        fs::write(&filler, all).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazily, since the service may still be in it.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_file_system_loses_and_changes_nothing() {
    let mounts = tempfile::tempdir().unwrap();
    let at = mounts.path().join("small");
    let Some(small) = Small::mount(&at) else {
        println!("SKIPPED: a_full_file_system_loses_and_changes_nothing: this machine lets us mount nothing");
        return;
    };
    let config = format!("{{local: {{path: {}}}}}", at.display());
    let mut scene = Scene::start(&config);
    scene.send();
    scene.all_comes("the first");
    // At the data object, between it and the log object, and somewhere else on the way.
    for left in 0..3 {
        let before = scene.sent;
        let said = scene.role.says("No space left on device").len();
        small.fill(left);
        scene.send();
        scene.send();
        wait_until("it is full", || scene.role.says("No space left on device").len() > said);
        scene.says("No space left on device");
        let published = scene.published();
        assert!((before..scene.sent).contains(&published), "{published} with {left} pages left");
        small.free();
        scene.all_comes(&format!("room again after {left} pages"));
    }
    let report = scene.hub.verify_store(&at, "FR").unwrap();
    assert_eq!((report.fault, report.batches.len()), (None, scene.sent));
    drop(scene);
}
