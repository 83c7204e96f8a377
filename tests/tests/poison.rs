//! Poison: records that somebody who bypasses the gateway puts on topics. On `uploads` the stream goes on past thousands of
//! them; on topics that only processors may write, the origin that reads them at a take-over stops loudly, and no other.
//!
//! Operations: a direct writer, processors that come and go meanwhile.
//! Failures: no bytes, garbage, bytes of another schema, cut and padded uploads, tombstones, headers that pose as ours,
//! thousands in a row and between good ones; garbage, a forged entry and a doubled one in ledgers, garbage in `heads`.
//! Not here: each lie that an upload may tell, records at the limit and compressed bombs (`limits`); `keys.<cc>` (`tampering`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;

use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    kafka::Isolation,
    tail::Record,
};
use keyferry_schemas::{
    records::{Head, Outcome, Upload},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    hub::Hub,
    operator::prepare,
    role::{Role, address},
    wait::wait_until,
};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

/// Good records among these, one in so many.
const GOOD: usize = 125;
const ALL: usize = 2500;

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

fn uploads(origin: &str) -> String {
    topics::uploads(origin.parse().unwrap())
}

/// What the `i`th poison is made of; `None` for a tombstone.
fn poison(hub: &Hub, good: &Upload, rng: &mut Rng, i: usize) -> Option<Vec<u8>> {
    let whole = hub.codec.encode(good);
    Some(match i % 7 {
        0 => (0..rng.below(64)).flat_map(|_| rng.bytes::<8>()).collect(),
        // The frame of an upload, and then something else.
        1 => [&whole[..10], &rng.bytes::<32>()].concat(),
        2 => whole[..whole.len() - 1 - i % 40].to_vec(),
        3 => [&whole[..], b"more"].concat(),
        // Another record of ours, in good order.
        4 => hub.codec.encode(&head(good)),
        5 => Vec::new(),
        _ => return None,
    })
}

fn head(of: &Upload) -> Head {
    Head {
        origin: of.origin,
        sequence: 1,
        entry: [1; 32],
        source_offset: 0,
        now: SystemClock.now(),
        checkpoint_at: SystemClock.now(),
        network_version: 1,
        chains: Vec::new(),
    }
}

fn error(record: &Record, name: &str) -> String {
    let name = format!("__keyferry.errors.{name}");
    let values: Vec<_> = record.headers.iter().filter(|(key, _)| *key == name).collect();
    assert_eq!(values.len(), 1, "{name}");
    String::from_utf8(values[0].1.as_ref().unwrap().to_vec()).unwrap()
}

#[test]
fn thousands_of_poison_records_hold_up_nothing_and_stand_among_the_rejects_untouched() {
    let hub = hub(&["DE", "FR", "NL"]);
    let topic = uploads("DE");
    let producer: BaseProducer = hub.kafka("test").producer_config().create().unwrap();
    let mut rng = Rng::new(7);
    let mut good = Vec::new();
    let first = hub.processor("p-0").unwrap();
    let some = key(&mut rng, "DE", &[], SystemClock.now());
    let model = hub.world.upload("DE", "model", &[some]).unwrap();
    for i in 0..ALL {
        let value = if i % GOOD == GOOD - 1 {
            let keys = [key(&mut rng, "DE", &[], SystemClock.now())];
            good.push(keys[0].key_data.to_vec());
            Some(hub.codec.encode(&hub.world.upload("DE", &format!("tag-{i}"), &keys).unwrap()))
        } else {
            poison(&hub, &model, &mut rng, i)
        };
        // What a sender calls so must not be read for what we say.
        let headers = OwnedHeaders::new()
            .insert(Header { key: "", value: Some("no name") })
            .insert(Header { key: "__keyferry.errors.offset", value: Some("0") })
            .insert(Header::<&[u8]> { key: "\u{1f511}", value: None });
        let name = i.to_string();
        let mut record = BaseRecord::to(&topic).key(&name).partition(0).headers(headers);
        record.payload = value.as_ref();
        producer.send(record).map_err(|(e, _)| e).unwrap();
        producer.poll(std::time::Duration::ZERO);
    }
    producer.flush(std::time::Duration::from_secs(30)).unwrap();
    // Another one takes over in the middle of it, and others are not kept waiting.
    wait_until("some of it", || hub.ledger("DE").unwrap().len() > 100);
    first.stop().unwrap();
    let _second = hub.processor("p-1").unwrap();
    hub.send_new("NL", 1).unwrap();
    hub.decided("NL", 1).unwrap();
    wait_until("all of it", || hub.ledger("DE").unwrap().len() >= ALL);

    let ledger = hub.ledger("DE").unwrap();
    let originals = hub.records(&topic, Isolation::Committed).unwrap();
    let rejects = hub.records(topics::REJECTS, Isolation::Committed).unwrap();
    assert_eq!((ledger.len(), originals.len(), rejects.len()), (ALL, ALL, ALL - good.len()));
    let rejects: BTreeMap<i64, _> =
        rejects.iter().map(|r| (error(r, "offset").parse().unwrap(), r)).collect();
    for (entry, original) in ledger.iter().zip(&originals) {
        assert_eq!(entry.source_offset, original.offset);
        let Some(reject) = rejects.get(&original.offset) else {
            assert_eq!(entry.outcome, Outcome::Accepted, "{entry:?}");
            continue;
        };
        assert_eq!((entry.outcome, entry.code.as_deref()), (Outcome::Rejected, Some("undecodable-record")));
        assert!(
            (&reject.key, &reject.value) == (&original.key, &original.value),
            "{} changed",
            original.offset
        );
        assert!(reject.headers.starts_with(&[original.headers[0].clone(), original.headers[2].clone()]));
    }
    let mut of_de = hub.delivered("FR").unwrap();
    of_de.retain(|key| good.contains(key));
    assert_eq!(of_de, good, "not each good one once and in order");
}

#[test]
fn poison_on_topics_of_processors_stops_only_the_origin_that_reads_it() {
    let origins = ["DE", "ES", "FR", "IT", "NL", "PL"];
    let hub = hub(&origins);
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let mut before = Role::start("process", folder.path(), &hub, &address());
    for origin in origins {
        hub.send_new(origin, 2).unwrap();
        hub.decided(origin, 2).unwrap();
    }
    let ledger = |origin: &str| topics::ledger(origin.parse().unwrap());
    let records = hub.records(&ledger("ES"), Isolation::Committed).unwrap();
    hub.put(&ledger("DE"), b"garbage".to_vec()).unwrap();
    hub.put(&ledger("ES"), records[1].value.clone().unwrap().to_vec()).unwrap();
    let mut forged = hub.ledger("IT").unwrap().pop().unwrap();
    (forged.sequence, forged.source_offset) = (3, 2);
    hub.put(&ledger("IT"), hub.codec.encode(&forged)).unwrap();
    hub.put_keyed(topics::HEADS, "NL", b"garbage".to_vec()).unwrap();
    hub.put_keyed(topics::HEADS, "PL", hub.codec.encode(&head_of(&hub, "PL"))).unwrap();
    // Whoever owns the origins does not read these, and goes on.
    for origin in origins {
        hub.send_new(origin, 1).unwrap();
    }
    wait_until("all of FR", || hub.ledger("FR").unwrap().len() == 3);
    wait_until("every upload", || origins.iter().all(|o| hub.committed(o).unwrap() == Some(3)));
    before.terminate();
    assert!(before.ended().success());

    let runtime = Runtime::new().unwrap();
    let role = Role::start("process", folder.path(), &hub, &address());
    for origin in origins {
        hub.send_new(origin, 1).unwrap();
    }
    // The head of PL was written anew with its next upload.
    for origin in ["FR", "PL"] {
        wait_until(origin, || hub.committed(origin).unwrap() == Some(4));
    }
    wait_until("the others", || role.says("ORIGIN STOPPED").len() == 4);
    for (origin, why) in [
        ("DE", "keyferry.ledger.de offset"),
        ("ES", "ledger entry 2 follows 2"),
        ("IT", "ledger entry 3 names another predecessor"),
        ("NL", "keyferry.heads offset"),
    ] {
        let lines: Vec<_> =
            role.says("ORIGIN STOPPED").into_iter().filter(|line| line.contains(why)).collect();
        assert_eq!(lines.len(), 1, "{origin}: {:?}", role.says("ORIGIN STOPPED"));
        assert_eq!(hub.committed(origin).unwrap(), Some(3), "{origin}");
    }
    assert_eq!(role.page(&runtime, "readyz").unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(role.page(&runtime, "livez").unwrap().0, StatusCode::OK);
}

fn head_of(hub: &Hub, origin: &str) -> Head {
    let record = hub.records(topics::HEADS, Isolation::Committed).unwrap();
    let record = record.into_iter().rfind(|r| r.key.as_deref() == Some(origin.as_bytes())).unwrap();
    let mut head: Head = hub.codec.decode(record.value.unwrap()).unwrap();
    head.sequence += 5;
    head
}
