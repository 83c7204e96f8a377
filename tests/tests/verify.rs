//! `keyferry verify` on what really stands on topics, in stores and in files: it names the level of each batch where all is
//! well, and the place where something is not.
//!
//! Operations: batches of one origin for many countries, made by the pipeline's own step; a distribution service that
//! stores them; the real program.
//! Failures: a changed byte, records and objects dropped, doubled, swapped, of another country, another anchor; a topic of
//! which the start is gone; nothing at all.
//! Not here: what the roles do then (`tampering`); keys that were erased in time, and every field (tests of the crates).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use keyferry_schemas::{
    batch::SignedBatch,
    network::{MemberState, OriginProof, Routing, StateSince},
    topics,
    world::World,
};
use keyferry_tests::{
    chains::{Chains, KEYS, changed, forged},
    downloads::Client,
    hub::{Hub, block_on},
    operator::{keyferry, prepare, write_network},
    program::Run,
    wait::wait_until,
};
use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use serde_json::Value;

const WHOLE: &str = "whole: signed by the origin";
const SUBSET: &str = "subset: attested by the hub";

/// NL gets parts of uploads, all others the whole of them.
fn hub(countries: &[&str]) -> Hub {
    let mut world = World::new(countries, Timestamp::now()).unwrap();
    let nl = world.member_mut("NL").unwrap();
    (nl.routing, nl.origin_proof) = (Routing::Visited, OriginProof::Hub);
    Hub::start(world).unwrap()
}

fn good(run: &Run, level: &str, batches: usize) {
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.out.lines().filter(|l| l.contains(level)).count(), batches, "{}", run.out);
}

/// Not verified, said in one line, with one of these places in it.
fn bad(run: &Run, places: &[&str], what: &str) {
    assert_eq!((run.code, run.err.lines().count()), (Some(4), 1), "{what}: {run:?}");
    assert!(places.iter().any(|place| run.err.contains(place)), "{what}: {} has none of {places:?}", run.err);
    assert!(!run.err.contains("panicked"), "{what}: {}", run.err);
}

/// The document as it was published, in a file: with it, and without Kafka, the rest is verified.
fn show(hub: &Hub, dir: &str) -> String {
    let (brokers, file) = (hub.broker.bootstrap_servers(), format!("{dir}/published.yaml"));
    let run = keyferry(&format!(
        "network show --version 1 --out {file} --bootstrap {brokers} --anchor {dir}/anchor.pem"
    ));
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    file
}

#[test]
fn a_topic_is_verified_and_every_change_is_named_with_its_offset() {
    let hub = hub(&["DE", "LU", "NL", "FR", "ES", "IT", "AT", "PL", "CZ", "BE", "IE"]);
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let dir = folder.path().display();
    let brokers = hub.broker.bootstrap_servers();
    let verify = |country: &str, anchor: &str, more: &str| {
        keyferry(&format!(
            "verify topic --country {country} --bootstrap {brokers} --anchor {dir}/{anchor}.pem \
             --network {dir}/network.yaml {more}"
        ))
    };
    let all = hub.chains(4).unwrap();
    let of = |country: &str, n: usize| all[&country.parse().unwrap()][n - 1].clone();
    for country in ["LU", "NL", "IE"] {
        (1..=4).for_each(|n| hub.deliver(country, &of(country, n)).unwrap());
    }
    for country in ["FR", "ES", "IT", "AT", "PL", "CZ"] {
        hub.deliver(country, &of(country, 1)).unwrap();
    }
    let rest = |country: &str, batches: &[SignedBatch]| {
        batches.iter().for_each(|batch| hub.deliver(country, batch).unwrap());
        country.to_owned()
    };
    let mutations = [
        ("dropped", rest("FR", &[of("FR", 3)])),
        ("doubled", rest("ES", &[of("ES", 1), of("ES", 2)])),
        ("swapped", rest("IT", &[of("IT", 3), of("IT", 2)])),
        ("of another country", rest("AT", &[of("PL", 2)])),
        ("changed", rest("PL", &[changed(&of("PL", 2))])),
        ("forged", rest("CZ", &[forged(&of("CZ", 2))])),
    ];
    good(&verify("LU", "anchor", ""), WHOLE, 4);
    good(&verify("NL", "anchor", ""), SUBSET, 4);
    for (what, country) in &mutations {
        bad(&verify(country, "anchor", ""), &["offset 1: "], what);
    }
    bad(&verify("LU", "other", ""), &["network.yaml: "], "another anchor");
    bad(&verify("BE", "anchor", ""), &["nothing to verify in keyferry.keys.be"], "nothing");

    let stated = |run: &Run| -> Value {
        let report: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(report["batches"][0]["origin_signature"], "holds");
        report["chains"]["DE"]["stated_at"].clone()
    };
    assert_eq!(stated(&verify("LU", "anchor", "--json")), Value::Null);
    hub.state("LU", 4, &of("LU", 4)).unwrap();
    let confirmed = stated(&verify("LU", "anchor", "--json"));
    assert!(confirmed.as_str().unwrap().parse::<Timestamp>().is_ok(), "{confirmed}");

    // The law takes the start of a topic away; only the hub's word can stand for what it was.
    let mut start = TopicPartitionList::new();
    let topic = topics::keys("IE".parse().unwrap());
    start.add_partition_offset(&topic, 0, Offset::Offset(2)).unwrap();
    let admin = hub.kafka("test").admin().unwrap();
    block_on(admin.delete_records(&start, &AdminOptions::new())).unwrap();
    bad(&verify("IE", "anchor", ""), &["from DE begins in its middle, at sequence 3"], "its start is gone");
    hub.state("IE", 4, &of("IE", 4)).unwrap();
    good(&verify("IE", "anchor", ""), WHOLE, 2);
    hub.state("IE", 5, &of("IE", 4)).unwrap();
    bad(&verify("IE", "anchor", ""), &["offset 5: "], "cut off at its end");
}

#[test]
fn batches_in_files_are_verified_and_the_file_at_fault_is_named() {
    let hub = hub(&["DE", "LU", "NL", "FR"]);
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let dir = folder.path().display().to_string();
    let all = hub.chains(3).unwrap();
    let write = |name: &str, batch: &SignedBatch| {
        fs::write(folder.path().join(name), hub.codec.encode(batch)).unwrap();
    };
    for (country, batches) in &all {
        (1..).zip(batches).for_each(|(n, batch)| write(&format!("{country}{n}"), batch));
    }
    let lu = &all[&"LU".parse().unwrap()];
    write("changed", &changed(&lu[1]));
    write("forged", &forged(&lu[1]));
    let shown = show(&hub, &dir);
    let verify = |files: &str, anchor: &str| {
        let files: String = files.split(' ').map(|file| format!("{dir}/{file} ")).collect();
        keyferry(&format!("verify batch {files} --network {shown} --anchor {dir}/{anchor}.pem"))
    };
    good(&verify("LU1 LU2 LU3", "anchor"), WHOLE, 3);
    good(&verify("LU3", "anchor"), WHOLE, 1);
    good(&verify("NL1 NL2", "anchor"), SUBSET, 2);
    for (what, files, place) in [
        ("dropped", "LU1 LU3", "LU3: "),
        ("doubled", "LU1 LU1", "LU1: "),
        ("swapped", "LU2 LU1", "LU1: "),
        ("of another country", "LU1 FR2", "FR2: "),
        ("changed", "LU1 changed", "changed: "),
        ("forged", "LU1 forged", "forged: "),
    ] {
        bad(&verify(files, "anchor"), &[place], what);
    }
    bad(&verify("LU1", "other"), &["published.yaml: "], "another anchor");
}

/// The objects of a country in a local store, in order.
fn objects(store: &Path, kind: &str, country: &str) -> Vec<PathBuf> {
    let folder = store.join(kind).join(country);
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    all.sort();
    all
}

/// A store that a distribution service has filled, a download batch for each batch.
fn fill(hub: &Hub, store: &Path, all: &Chains) {
    for country in ["LU", "NL"] {
        all[&country.parse().unwrap()].iter().for_each(|batch| hub.deliver(country, batch).unwrap());
    }
    let service = hub.lone_distribution(env!("CARGO_BIN_EXE_lone-distribution"), store).unwrap();
    let (at, client) = (service.addresses().unwrap(), Client::new().unwrap());
    let keys = |country: &str| -> usize {
        client.walk(hub, &at, country).unwrap().0.iter().map(|page| page.keys.len()).sum()
    };
    wait_until("all of LU and NL", || keys("LU") == 4 * KEYS && keys("NL") == 4 * KEYS / 2);
}

/// What it is, how it is done, and the places of which one is named.
type Mutation<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

#[test]
fn a_store_is_verified_and_the_object_at_fault_is_named() {
    let mut hub = hub(&["DE", "LU", "NL"]);
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let dir = folder.path().display().to_string();
    let store = folder.path().join("store");
    fill(&hub, &store, &hub.chains(4).unwrap());
    let shown = show(&hub, &dir);
    let verify = |country: &str, anchor: &str| {
        keyferry(&format!(
            "verify store --country {country} --path {} --network {shown} --anchor {dir}/{anchor}.pem",
            store.display()
        ))
    };
    good(&verify("LU", "anchor"), WHOLE, 4);
    good(&verify("NL", "anchor"), SUBSET, 4);
    bad(&verify("LU", "other"), &["published.yaml: "], "another anchor");
    bad(&verify("DE", "anchor"), &["nothing to verify in "], "nothing");

    let (log, data) = (objects(&store, "log", "lu"), objects(&store, "data", "lu"));
    let of_nl = objects(&store, "log", "nl");
    assert_eq!((log.len(), data.len()), (4, 4));
    // A changed byte in the middle, where a log object has digits and a data object has keys.
    let change = |object: &Path| {
        let mut bytes = fs::read(object).unwrap();
        let middle = (bytes.len() / 2..bytes.len()).find(|i| bytes[*i].is_ascii_alphanumeric()).unwrap();
        bytes[middle] = if bytes[middle] == b'0' { b'1' } else { b'0' };
        fs::write(object, bytes).unwrap();
    };
    let copy = |from: &Path, to: &Path| fs::write(to, fs::read(from).unwrap()).unwrap();
    let mutations: [Mutation; 8] = [
        ("a key is changed", &|| change(&data[1]), &["log object 2: "]),
        // A log object is held by itself, or by the one behind it.
        ("the log is changed", &|| change(&log[1]), &["log object 2: ", "log object 3: "]),
        ("a log object is dropped", &|| fs::remove_file(&log[1]).unwrap(), &["log object 2: it is gone"]),
        ("the first is dropped", &|| fs::remove_file(&log[0]).unwrap(), &["log object 1: it is gone"]),
        ("keys are dropped", &|| fs::remove_file(&data[1]).unwrap(), &["log object 2: its keys are gone"]),
        ("doubled", &|| copy(&log[0], &log[1]), &["log object 2: "]),
        ("of another country", &|| copy(&of_nl[1], &log[1]), &["log object 2: "]),
        (
            "swapped",
            &|| {
                let (second, third) = (fs::read(&log[1]).unwrap(), fs::read(&log[2]).unwrap());
                fs::write(&log[1], third).unwrap();
                fs::write(&log[2], second).unwrap();
            },
            &["log object 2: "],
        ),
    ];
    for (what, mutate, places) in mutations {
        let before: Vec<_> = log.iter().chain(&data).map(|path| (path, fs::read(path).unwrap())).collect();
        mutate();
        bad(&verify("LU", "anchor"), places, what);
        before.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
    good(&verify("LU", "anchor"), WHOLE, 4);

    // Of a member that has left the keys are erased at once, and with them what its partners' signatures were over.
    hub.world.document.version = 2;
    let left = StateSince { state: MemberState::Left, from: Timestamp::now() };
    hub.world.member_mut("LU").unwrap().states.push(left);
    write_network(folder.path(), "left.yaml", &hub.world);
    fs::remove_file(&data[1]).unwrap();
    let verify = |more: &str| {
        keyferry(&format!(
            "verify store --country LU --path {} --network {shown} --network {dir}/left.yaml --anchor {dir}/anchor.pem {more}",
            store.display()
        ))
    };
    good(&verify(""), WHOLE, 3);
    good(&verify(""), "the origin's signature is not checked, as the keys are erased", 1);
    let report: Value = serde_json::from_str(&verify("--json").out).unwrap();
    assert_eq!(report["batches"][1]["origin_signature"], "not checked, the keys are erased");
}
