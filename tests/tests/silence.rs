//! What checkpoints and ledgers show that no batch shows: a processor that stands still, topics that are cut at either end,
//! and a hub that gives two countries different things. Each is found by the distribution service or by `keyferry verify`.
//!
//! Operations: a processor that states its chains three times a second; the real program.
//! Failures: the processor stops; records vanish from the end and from the beginning of topics, before their time and by it;
//! another batch under one sequence, for a destination and for a ledger.
//! Not here: batches that do not verify (`tampering`, `verify`), how checkpoints are made (`checkpoints`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{fs, path::Path, time::Duration};

use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    codec::KeysRecord,
    kafka::Isolation,
    tail::Record,
    transaction::Settings,
};
use keyferry_schemas::{topics, world::World};
use keyferry_tests::{
    downloads::{Addresses, Client},
    hub::Hub,
    operator::{keyferry, prepare},
    program::Run,
    role::{Role, address},
    wait::wait_until,
};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

fn keys(country: &str) -> String {
    topics::keys(country.parse().unwrap())
}

/// The time of the last checkpoint from `origin`, as the service shows it.
fn last_stated(client: &Client, at: &Addresses, origin: &str) -> Option<f64> {
    let (_, metrics) = client.admin(at, "metrics").unwrap();
    let name = format!("keyferry_checkpoint_timestamp_seconds{{origin=\"{origin}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.parse().unwrap())
}

fn is_up(client: &Client, at: &Addresses, country: &str) -> bool {
    let (_, metrics) = client.admin(at, "metrics").unwrap();
    metrics.contains(&format!("keyferry_distribution_up{{destination=\"{country}\"}} 1\n"))
}

fn distribute(hub: &Hub, folder: &Path, runtime: &Runtime) -> (Role, Addresses) {
    let listen = address();
    let mut role = Role::start_with("distribute", folder, hub, &listen, |text| {
        let dir = folder.display();
        let tls = format!("tls: {{certificate: {dir}/server.pem, key: {dir}/server.key}}}}\n");
        text.replacen(&tls, "trusted_proxies: ['127.0.0.0/8']}\n", 1)
    });
    role.wait_until_ready(runtime);
    let at = Addresses::of(&listen, role.admin());
    (role, at)
}

fn good(run: &Run, says: &str) {
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.out.contains(says), "{run:?}");
}

fn bad(run: &Run, says: &str) {
    assert_eq!((run.code, run.err.lines().count()), (Some(4), 1), "{run:?}");
    assert!(run.err.contains(says), "{run:?}");
}

/// The program as an auditor runs it, who keeps its answers.
struct Auditor<'a> {
    hub: &'a Hub,
    dir: &'a Path,
}

impl Auditor<'_> {
    fn ask(&self, what: &str) -> Run {
        let (brokers, dir) = (self.hub.broker.bootstrap_servers(), self.dir.display());
        keyferry(&format!("verify {what} --bootstrap {brokers} --anchor {dir}/anchor.pem"))
    }

    fn keep(&self, name: &str, what: &str) {
        let run = self.ask(&format!("{what} --json"));
        assert_eq!(run.code, Some(0), "{run:?}");
        fs::write(self.dir.join(name), run.out).unwrap();
    }

    /// Holds reports of everything together, those of ledgers made first.
    fn compare(&self) -> Run {
        self.keep("ledger", "ledger --country DE");
        for country in ["FR", "NL"] {
            self.keep(country, &format!("topic --country {country}"));
        }
        self.together("ledger FR NL")
    }

    fn together(&self, names: &str) -> Run {
        let files: String = names.split(' ').map(|name| format!(" {}/{name}", self.dir.display())).collect();
        keyferry(&format!("verify compare{files}"))
    }

    /// With one text of a report replaced, as if the hub had said so to that country.
    fn lie(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.dir.join(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        fs::write(self.dir.join(name), text.replacen(from, to, 1)).unwrap();
    }
}

/// One value of a report.
fn value(dir: &Path, name: &str, pointer: &str) -> String {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(name)).unwrap()).unwrap();
    report.pointer(pointer).unwrap().as_str().unwrap().to_owned()
}

#[test]
fn what_is_missing_or_not_the_same_for_all_is_found() {
    let hub = Hub::start(World::new(&["DE", "FR", "NL"], jiff::Timestamp::now()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (dir, client, runtime) = (folder.path(), Client::new().unwrap(), Runtime::new().unwrap());
    prepare(dir, &hub.world);
    let auditor = Auditor { hub: &hub, dir };
    let settings = Settings { checkpoint_interval: Some(Duration::from_millis(300)), ..Settings::new("p-0") };
    let processor = hub.processor_with(settings, &[]).unwrap();
    let (mut service, at) = distribute(&hub, dir, &runtime);

    // While all is well every origin is heard again and again, also those that send nothing.
    hub.send_new("DE", 4).unwrap();
    hub.decided("DE", 4).unwrap();
    let begun = SystemClock.now().0 as f64 / 1000.0;
    wait_until("each is heard", || {
        ["DE", "FR", "NL"].iter().all(|o| last_stated(&client, &at, o).is_some_and(|t| t > begun))
    });
    good(&auditor.ask("topic --country FR --stated-within-s 600"), " s ago");
    good(
        &auditor.compare(),
        "3 reports agree: 4 upload(s) that several received, 8 batch(es) that a ledger names",
    );

    // A processor that stands still is noticed by its silence, and that by whoever starts only then.
    processor.stop().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let stopped = last_stated(&client, &at, "DE").unwrap();
    bad(&auditor.ask("topic --country FR --stated-within-s 0"), "from DE was stated last at");
    service.terminate();
    assert!(service.ended().success());
    let (mut service, at) = distribute(&hub, dir, &runtime);
    wait_until("it is waited for", || last_stated(&client, &at, "DE").is_some());
    std::thread::sleep(Duration::from_millis(1500));
    let waited = last_stated(&client, &at, "DE").unwrap();
    assert!(waited >= stopped && waited < SystemClock.now().0 as f64 / 1000.0 - 1.0, "{stopped} {waited}");

    // The hub gives FR and NL different things: under one upload, and beside the ledger.
    let keep = |name: &str| fs::read(dir.join(name)).unwrap();
    let (fr, ledger) = (keep("FR"), keep("ledger"));
    auditor.lie("FR", &value(dir, "FR", "/batches/2/canonical_sha256"), &"0".repeat(64));
    bad(
        &auditor.together("FR NL"),
        "FR and NL received different keys of one upload of DE: sequence 3 and sequence 3",
    );
    fs::write(dir.join("FR"), &fr).unwrap();
    auditor.lie("FR", &value(dir, "FR", "/batches/1/manifest_sha256"), &"0".repeat(64));
    bad(&auditor.together("ledger FR NL"), "sequence 2 of DE for FR is another batch than the ledger says");
    fs::write(dir.join("FR"), &fr).unwrap();
    auditor.lie("ledger", "\"sequence\": 3,", "\"sequence\": 9,");
    let run = auditor.together("ledger FR NL");
    assert_eq!(run.code, Some(4), "{run:?}");
    fs::write(dir.join("ledger"), &ledger).unwrap();
    auditor.lie("NL", "\"verified\": true", "\"verified\": false");
    bad(&auditor.together("ledger FR NL"), "it did not verify");
    fs::write(dir.join("NL"), "{}").unwrap();
    assert_eq!(auditor.together("ledger NL").code, Some(2));

    // Cut at its end, with the checkpoints that would say so: then only the ledger knows.
    let records = hub.records(&keys("FR"), Isolation::Committed).unwrap();
    let cut = offsets(&hub, &records)[2];
    let whole = keep("FR");
    hub.remove(&keys("FR")).unwrap();
    let topic = topics::of_member("FR".parse().unwrap()).into_iter().find(|t| t.name == keys("FR"));
    hub.create(topic.into_iter()).unwrap();
    wait_until("the topic again", || hub.records(&keys("FR"), Isolation::Committed).is_ok());
    for record in records.iter().filter(|r| r.offset < cut) {
        hub.put(&keys("FR"), record.value.clone().unwrap().to_vec()).unwrap();
    }
    bad(&auditor.ask("topic --country FR --stated-within-s 0"), "the end of the topic is cut off");
    auditor.keep("FR", "topic --country FR");
    auditor.keep("NL", "topic --country NL");
    bad(&auditor.together("ledger FR NL"), "sequence 3 of DE for FR is missing at the end");
    // The service has more than the topic: it was made anew, or cut.
    wait_until("the service says so", || {
        service.says("was the topic made anew?").len() > 1 || !is_up(&client, &at, "FR")
    });
    let (pages, _) = client.walk(&hub, &at, "FR").unwrap();
    assert_eq!(pages.iter().map(|p| p.keys.len()).sum::<usize>(), 4, "what was published is served");
    fs::write(dir.join("FR"), whole).unwrap();
    good(&auditor.together("ledger FR NL"), "3 reports agree");

    // Gone from the beginning before their time: a checkpoint confirms what is left, and the ledger knows what is not.
    let of_nl = hub.records(&keys("NL"), Isolation::Committed).unwrap();
    hub.expire(&keys("NL"), offsets(&hub, &of_nl)[2]).unwrap();
    auditor.keep("NL", "topic --country NL");
    bad(
        &auditor.together("ledger FR NL"),
        "sequence 1 of DE for NL is missing at the beginning, before its time",
    );
    // Had they been decided long ago, the law would have taken them.
    for sequence in [1, 2] {
        let at = format!("\"at_ms\": {}", at_ms(dir, "NL", sequence));
        let text = fs::read_to_string(dir.join("ledger")).unwrap();
        fs::write(dir.join("ledger"), text.replace(&at, "\"at_ms\": 1")).unwrap();
    }
    good(&auditor.together("ledger FR NL"), "3 reports agree");
    assert_eq!(client.admin(&at, "readyz").unwrap().0, StatusCode::OK);
    service.terminate();
    assert!(service.ended().success());
}

/// Where the batches stand among these records.
fn offsets(hub: &Hub, records: &[Record]) -> Vec<i64> {
    let is_batch = |r: &&Record| {
        matches!(hub.codec.decode_keys(r.value.clone().unwrap()).unwrap(), KeysRecord::Batch(_))
    };
    records.iter().filter(is_batch).map(|r| r.offset).collect()
}

/// When the ledger caused a batch for a country.
fn at_ms(dir: &Path, destination: &str, sequence: i64) -> i64 {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("ledger")).unwrap()).unwrap();
    let deliveries = report["deliveries"].as_array().unwrap();
    let found = deliveries.iter().find(|d| d["destination"] == destination && d["sequence"] == sequence);
    found.unwrap()["at_ms"].as_i64().unwrap()
}
