//! The roles as an operator runs them: the real program with a configuration file and mutual TLS, in one process and in
//! three.
//!
//! Operations: uploads of three countries at a time, a download; metrics and probes; SIGTERM while uploads are in flight,
//! and before one that comes late.
//! Failures: none but the end itself. Not here: kills (`killed`, `stores`), bad configurations (`commands`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use keyferry_runtime::{
    clock::{Clock, SystemClock},
    dependent::last_lines,
    kafka::Isolation,
};
use keyferry_schemas::{
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    backend::Backend,
    hub::Hub,
    operator::prepare,
    role::{Role, address},
    wait::wait_until,
};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

const COUNTRIES: [&str; 3] = ["DE", "FR", "NL"];
const KEYS: usize = 20;

fn hub() -> Hub {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Hub::start(World::new(&COUNTRIES, jiff::Timestamp::now()).unwrap()).unwrap()
}

/// What became of the uploads of one sender: tag, answer, and the key data in each.
type Sent = Vec<(String, Option<StatusCode>, Vec<Vec<u8>>)>;

/// Uploads of `country`, one after the other until nobody answers any more.
async fn send(
    hub: Arc<Hub>,
    backend: Backend,
    country: &'static str,
    seed: u64,
    begun: Arc<AtomicUsize>,
) -> Sent {
    let mut rng = Rng::new(seed);
    let mut sent = Sent::new();
    loop {
        let tag = format!("{seed}-{}", sent.len());
        let keys: Vec<_> = (0..KEYS).map(|_| key(&mut rng, country, &[], SystemClock.now())).collect();
        let upload = hub.world.upload(country, &tag, &keys).unwrap();
        begun.fetch_add(1, Ordering::Relaxed);
        let answer = backend.upload(&upload).await.ok();
        begun.fetch_sub(1, Ordering::Relaxed);
        sent.push((tag, answer, keys.into_iter().map(|k| k.key_data.to_vec()).collect()));
        if answer.is_none() {
            return sent;
        }
    }
}

#[test]
fn asked_to_end_it_answers_and_delivers_what_it_has_accepted() {
    let hub = Arc::new(hub());
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let listen = address();
    let mut role = Role::start("run", folder.path(), &hub, &listen);
    let runtime = Runtime::new().unwrap();
    role.wait_until_ready(&runtime);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..12)
        .map(|i| {
            let country = COUNTRIES[i % COUNTRIES.len()];
            let server = folder.path().join("server.pem");
            let backend = Backend::new(&hub.world, country, &server, &listen).unwrap();
            let sender = send(Arc::clone(&hub), backend, country, i as u64, Arc::clone(&in_flight));
            (country, runtime.spawn(sender))
        })
        .collect();
    let entries = || COUNTRIES.iter().map(|c| hub.ledger(c).unwrap().len()).sum::<usize>();
    wait_until("some uploads", || entries() >= 12);

    let (status, metrics) = role.page(&runtime, "metrics").unwrap();
    assert_eq!(status, StatusCode::OK);
    for name in [
        "keyferry_uploads_received_total{origin=\"DE\"}",
        "keyferry_uploads_decided_total{",
        "keyferry_keys_accepted_total{origin=\"FR\"}",
        "keyferry_keys_delivered_total{",
        "keyferry_transactions_total{result=\"committed\"}",
        "keyferry_seen_keys{origin=\"NL\"}",
        "keyferry_build_info{",
    ] {
        assert!(metrics.contains(name), "{name} is not in:\n{metrics}");
    }
    for probe in ["livez", "readyz"] {
        assert_eq!(role.page(&runtime, probe).unwrap().0, StatusCode::OK, "{probe}");
    }

    wait_until("an upload in flight", || in_flight.load(Ordering::Relaxed) > 6);
    role.terminate();
    let sent: Vec<(_, Sent)> =
        senders.into_iter().map(|(country, sender)| (country, runtime.block_on(sender).unwrap())).collect();
    let ended = role.ended();
    assert!(ended.success(), "{ended}: {}", last_lines(&role.log, 0));

    let mut accepted: BTreeMap<_, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for country in COUNTRIES {
        let of_country = sent.iter().filter(|(c, _)| *c == country).flat_map(|(_, sent)| sent);
        let answered: BTreeMap<_, _> =
            of_country.filter_map(|(tag, answer, keys)| Some((tag, ((*answer)?, keys)))).collect();
        let ledger = hub.ledger(country).unwrap();
        let uploads = hub.records(&topics::uploads(country.parse().unwrap()), Isolation::Committed).unwrap();
        assert_eq!(uploads.len(), ledger.len(), "{country}: an upload was taken and not decided");
        for tag in ledger.iter().map(|entry| entry.batch_tag.clone().unwrap()) {
            let (status, keys) =
                answered.get(&tag).unwrap_or_else(|| panic!("{country} {tag} has no answer"));
            assert_eq!(*status, StatusCode::CREATED, "{country} {tag}");
            accepted.entry(country).or_default().extend((*keys).clone());
        }
        let created = answered.values().filter(|(status, _)| *status == StatusCode::CREATED).count();
        assert_eq!(created, ledger.len(), "{country}: an answer for what was not decided");
    }
    for destination in COUNTRIES {
        let others = accepted.iter().filter(|(origin, _)| **origin != destination);
        let expected: BTreeSet<_> = others.flat_map(|(_, keys)| keys.clone()).collect();
        let delivered = hub.delivered(destination).unwrap();
        assert_eq!(delivered.len(), expected.len(), "{destination}");
        assert!(delivered.into_iter().collect::<BTreeSet<_>>() == expected, "{destination}");
    }
}

#[test]
fn who_is_about_to_end_says_so_first_and_takes_what_still_comes() {
    let hub = hub();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let listen = address();
    let drained = |text: String| text.replace("http: {", "http: {drain_s: 6, ");
    let mut role = Role::start_with("run", folder.path(), &hub, &listen, drained);
    let runtime = Runtime::new().unwrap();
    role.wait_until_ready(&runtime);
    role.terminate();
    wait_until("a role that is not ready", || {
        role.page(&runtime, "readyz")
            .is_some_and(|(status, page)| !status.is_success() && page.contains("about to stop"))
    });
    // A client that has not heard of it yet.
    let late = Backend::new(&hub.world, "DE", &folder.path().join("server.pem"), &listen).unwrap();
    let keys = [key(&mut Rng::new(1), "DE", &[], SystemClock.now())];
    let upload = hub.world.upload("DE", "late", &keys).unwrap();
    assert_eq!(runtime.block_on(late.upload(&upload)).unwrap(), StatusCode::CREATED);
    let ended = role.ended();
    assert!(ended.success(), "{ended}: {}", last_lines(&role.log, 0));
}

#[test]
fn three_processes_carry_an_upload_to_a_download() {
    let hub = hub();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    fs::create_dir(folder.path().join("store")).unwrap();
    let (up, down) = (address(), address());
    let runtime = Runtime::new().unwrap();
    let mut roles = [("gateway", &up), ("process", &up), ("distribute", &down)]
        .map(|(name, listen)| Role::start(name, folder.path(), &hub, listen));
    roles.iter_mut().for_each(|role| role.wait_until_ready(&runtime));
    let server = folder.path().join("server.pem");
    let de = Backend::new(&hub.world, "DE", &server, &up).unwrap();
    let fr = Backend::new(&hub.world, "FR", &server, &down).unwrap();
    let mut rng = Rng::new(1);
    let keys: Vec<_> = (0..KEYS).map(|_| key(&mut rng, "DE", &[], SystemClock.now())).collect();
    let upload = hub.world.upload("DE", "tag", &keys).unwrap();
    assert_eq!(runtime.block_on(de.upload(&upload)).unwrap(), StatusCode::CREATED);
    let mut came = Vec::new();
    wait_until("a download", || {
        came = runtime.block_on(fr.first_batch()).unwrap();
        !came.is_empty()
    });
    let data = |keys: &[keyferry_schemas::efgs::DiagnosisKey]| {
        keys.iter().map(|k| k.key_data.to_vec()).collect::<BTreeSet<_>>()
    };
    assert!(came.len() == KEYS && data(&came) == data(&keys), "other keys than were sent");
    // Each serves its own part of the contract only.
    assert_eq!(runtime.block_on(fr.upload(&upload)).unwrap(), StatusCode::NOT_FOUND);
    for role in &mut roles {
        role.terminate();
        let ended = role.ended();
        assert!(ended.success(), "{ended}: {}", last_lines(&role.log, 0));
    }
}
