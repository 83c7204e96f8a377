//! As much as may be sent, one more than that, and far more: through gateway, processor and topics.
//!
//! Operations: the largest uploads there are, in both encodings, to every other country; bodies that do not end;
//! records that a direct writer puts on its own topic. Failures: clients that announce or send far too much; direct
//! writers that lie, send what is no upload, or fill the record to its limit.
//! Not here: clients that send slowly, and too many at a time (tests of the gateway itself).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
    tail::Record,
};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey, Encoding},
    records::{LedgerEntry, Outcome, Upload},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    front::Front,
    hub::{Hub, block_on},
    raw,
};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};

/// Germany, and every country that it may name.
const COUNTRIES: [&str; 32] = [
    "DE", "AT", "BE", "BG", "CH", "CY", "CZ", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS",
    "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK", "XI",
];

fn world(countries: &[&str]) -> World {
    World::new(countries, SystemClock.now().timestamp()).unwrap()
}

fn pool(seed: u64, n: usize, visited: &[&str]) -> Vec<DiagnosisKey> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| key(&mut rng, "DE", visited, SystemClock.now())).collect()
}

fn as_json(mut upload: Upload, keys: &[DiagnosisKey]) -> Upload {
    upload.content_type = Encoding::Json.content_type().into();
    upload.payload = efgs::encode_json(keys).into();
    upload
}

#[test]
fn five_thousand_keys_with_every_country_on_each() {
    let front = Front::start(world(&COUNTRIES)).unwrap();
    let keys = pool(1, 10_000, &COUNTRIES[1..]);
    let (first, second) = keys.split_at(5000);
    let protobuf = front.hub.world.upload("DE", "protobuf", first).unwrap();
    assert_eq!(front.post(&protobuf).unwrap().status, 201);
    let json = as_json(front.hub.world.upload("DE", "json", second).unwrap(), second);
    assert_eq!(front.post(&json).unwrap().status, 201);

    let many = pool(2, 5001, &[]);
    let upload = front.hub.world.upload("DE", "many", &many).unwrap();
    for upload in [upload.clone(), as_json(upload, &many)] {
        let answer = front.post(&upload).unwrap();
        assert_eq!((answer.status, answer.code()), (413, "too-many-keys"));
    }
    assert_eq!(front.hub.ledger("DE").unwrap().len(), 2, "what was refused at the door reached the topic");
    for country in ["AT", "FR", "XI"] {
        front.delivered_exactly(country, &keys.iter().collect::<Vec<_>>()).unwrap();
    }
    front.delivered_exactly("DE", &[]).unwrap();

    refused_unread(&front);
}

/// A body that is far too large is answered while it is still being sent, and most of it stays with the client.
fn refused_unread(front: &Front) {
    const WHOLE: usize = 100 << 20;
    // What the gateway reads to be polite, and what lies in the buffers of both sides.
    const MOST: usize = 24 << 20;
    for (framing, expected) in
        [(format!("content-length: {WHOLE}"), 413), ("transfer-encoding: chunked".into(), 413)]
    {
        let upload = front.hub.world.upload("DE", "garbage", &pool(3, 1, &[])).unwrap();
        let mut stream = TcpStream::connect(front.address()).unwrap();
        let head = format!(
            "POST /diagnosiskeys/upload HTTP/1.1\r\nhost: hub\r\nx-ssl-client-sha256: {}\r\nx-ssl-client-dn: C=DE\r\n\
             batchtag: garbage\r\nbatchsignature: MAA=\r\ncontent-type: {}\r\n{framing}\r\n\r\n",
            hex::encode(upload.client_certificate),
            upload.content_type,
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let chunk = [b"4000\r\n".as_slice(), &[7; 0x4000], b"\r\n"].concat();
        let chunk = if framing.starts_with("transfer") { &chunk[..] } else { &chunk[6..6 + 0x4000] };
        let (mut written, mut answer) = (0, Vec::new());
        let begun = Instant::now();
        while written < WHOLE && begun.elapsed() < Duration::from_secs(3) {
            match stream.write(&chunk[written % chunk.len()..]) {
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                // It is closed after a while, and the rest of the body with it.
                Err(_) => break,
            }
            let mut buffer = [0; 4096];
            if let Ok(n) = stream.read(&mut buffer) {
                answer.extend_from_slice(&buffer[..n]);
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{framing}: {answer:?}");
        assert!(answer.contains("body-too-large"), "{framing}: {answer}");
        assert!(written < MOST, "{framing}: {written} bytes were taken");
    }
}

/// Puts a record on a topic as a country does that writes to Kafka itself; tells whether the broker took it.
fn write(hub: &Hub, topic: &str, key: &[u8], value: Option<&[u8]>, options: &[(&str, &str)]) -> bool {
    let mut config = hub.kafka("test").producer_config();
    for (key, value) in options {
        config.set(*key, *value);
    }
    let producer: FutureProducer = config.create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "traceparent", value: Some("00-aa-bb-01") })
        // For whoever reads the rejects and takes the first of a name.
        .insert(Header { key: "__keyferry.errors.code", value: Some("nothing-to-see-here") });
    let record = FutureRecord {
        topic,
        partition: Some(0),
        payload: value,
        key: Some(key),
        timestamp: None,
        headers: Some(headers),
    };
    block_on(producer.send(record, Duration::from_secs(10))).is_ok()
}

fn header(record: &Record, name: &str) -> Option<String> {
    let mut values = record.headers.iter().filter(|(key, _)| key == name);
    let text = |value: &Option<Bytes>| String::from_utf8(value.as_ref().unwrap().to_vec()).unwrap();
    let value = values.next().map(|(_, value)| text(value));
    assert!(values.next().is_none(), "{name} stands there twice");
    value
}

/// That a record is rejected for this reason: in the ledger, and untouched among the rejects with everything about it.
fn check_reject(entry: &LedgerEntry, original: &Record, reject: &Record, stage: &str, code: &str) {
    assert_eq!((entry.outcome, entry.code.as_deref()), (Outcome::Rejected, Some(code)), "{entry:?}");
    assert!(entry.deliveries.is_empty() && entry.keys_accepted == 0);
    assert_eq!((entry.source_offset, &reject.key), (original.offset, &original.key), "{code}");
    assert!(reject.value == original.value, "{code}: the value changed");
    assert_eq!(header(reject, "traceparent").as_deref(), Some("00-aa-bb-01"), "{code}");
    let expected = [
        ("topic", topics::uploads("DE".parse().unwrap())),
        ("partition", "0".into()),
        ("offset", entry.source_offset.to_string()),
        ("timestamp", original.timestamp.0.to_string()),
        ("stage", stage.into()),
        ("code", code.into()),
        ("message", entry.detail.clone().unwrap()),
        ("policy.version", entry.network_version.to_string()),
        ("attempt", "1".into()),
    ];
    for (name, expected) in &expected {
        assert_eq!(
            header(reject, &format!("__keyferry.errors.{name}")).as_ref(),
            Some(expected),
            "{code}: {name}"
        );
    }
    assert_eq!(reject.headers.len(), expected.len() + 1, "{code}");
}

#[test]
fn a_direct_writer_deceives_nobody() {
    let front = Front::start(world(&["DE", "FR", "NL"])).unwrap();
    let (hub, k) = (&front.hub, pool(1, 5001, &["FR"]));
    let topic = topics::uploads("DE".parse().unwrap());
    let good = |tag: &str| hub.world.upload("DE", tag, &k[..2]).unwrap();
    let of_fr = DiagnosisKey { origin: "FR".into(), ..k[0].clone() };
    let fr = hub.world.upload("FR", "fr", std::slice::from_ref(&of_fr)).unwrap();
    let certificate_of_fr = hub.world.nation("FR").unwrap().authentication.certificate.sha256();
    let mut bit_flipped = good("bit");
    let mut signature = bit_flipped.batch_signature.to_vec();
    *signature.last_mut().unwrap() ^= 1;
    bit_flipped.batch_signature = signature.into();
    let lies = [
        ("origin-not-topic", fr.clone()),
        ("key-origin-foreign", hub.world.upload("DE", "foreign", &[k[0].clone(), of_fr]).unwrap()),
        (
            "client-certificate-unknown",
            Upload { client_certificate: certificate_of_fr, ..good("certificate") },
        ),
        ("client-certificate-unknown", Upload { client_certificate: [0; 32], ..good("no-certificate") }),
        ("too-many-keys", hub.world.upload("DE", "many", &k).unwrap()),
        ("no-keys", hub.world.upload("DE", "none", &[]).unwrap()),
        (
            "signature-invalid",
            Upload { payload: efgs::encode_protobuf(&k[1..3]).into(), ..good("other-keys") },
        ),
        ("signature-invalid", bit_flipped),
        (
            "signing-certificate-foreign",
            Upload { batch_signature: fr.batch_signature.clone(), ..good("signed-by-fr") },
        ),
        (
            "signature-malformed",
            Upload { batch_signature: b"no CMS at all".as_slice().into(), ..good("no-signature") },
        ),
        ("batch-tag-malformed", good(&"x".repeat(129))),
        ("batch-tag-malformed", good("")),
        ("batch-tag-malformed", good("line\nbreak")),
        ("content-type-unknown", Upload { content_type: "application/protobuf".into(), ..good("type") }),
        ("body-unreadable", Upload { payload: vec![0xff; 1000].into(), ..good("body") }),
    ];
    let none = [("compression.type", "none")];
    for (_, upload) in &lies {
        assert!(write(hub, &topic, b"a key", Some(&hub.codec.encode(upload)), &none));
    }
    // The largest record that the broker takes, and nothing in it is an upload.
    let mut noise = Rng::new(9);
    let noise: Vec<u8> = (0..topics::MAX_UPLOAD_BYTES / 8).flat_map(|_| noise.bytes::<8>()).collect();
    assert!(!write(hub, &topic, b"big", Some(&noise), &none), "a record above the limit");
    (80..200).find(|less| write(hub, &topic, b"big", Some(&noise[*less..]), &none)).expect("one that fits");
    assert!(write(hub, &topic, b"empty", Some(&[]), &none));
    assert!(write(hub, &topic, b"tombstone", None, &none));
    let undecodable = [("decode", "undecodable-record"); 3];
    let expected: Vec<_> = lies.iter().map(|(code, _)| ("validate", *code)).chain(undecodable).collect();
    let ledger = hub.decided("DE", expected.len()).unwrap();
    let originals = hub.records(&topic, Isolation::Committed).unwrap();
    let rejects = hub.records(topics::REJECTS, Isolation::Committed).unwrap();
    assert_eq!((originals.len(), rejects.len()), (expected.len(), expected.len()));
    for (i, (stage, code)) in expected.into_iter().enumerate() {
        check_reject(&ledger[i], &originals[i], &rejects[i], stage, code);
        assert_eq!(ledger[i].upload_id, lies.get(i).map(|(_, upload)| upload.upload_id));
    }
    inflated(hub, &topic, lies.len() + 3);

    // Kafka takes any bytes for the name of a header, and libraries that want text of it fall over it.
    raw::produce(hub.broker.bootstrap_servers(), &topic, b"hostile", b"\xff\xfe").unwrap();
    let ledger = hub.decided("DE", lies.len() + 4).unwrap();
    assert_eq!(ledger.last().unwrap().code.as_deref(), Some("undecodable-record"));

    for country in ["DE", "FR", "NL"] {
        front.delivered_exactly(country, &[]).unwrap();
    }
    // The stream goes on, and no lie has bound a tag or taken a key.
    assert_eq!(front.send("DE", "bit", &k[..2]).unwrap().status, 201);
    for country in ["FR", "NL"] {
        front.delivered_exactly(country, &[&k[0], &k[1]]).unwrap();
    }
}

/// A record that is small only while it is compressed would pass a limit that counts compressed bytes, and be too large
/// to be written again. The topic counts what is inside.
fn inflated(hub: &Hub, topic: &str, decided: usize) {
    let zeros = vec![0; 40 << 20];
    let options = [("compression.type", "zstd"), ("message.max.bytes", "100000000")];
    assert!(!write(hub, topic, b"inflated", Some(&zeros), &options));
    assert_eq!(hub.ledger("DE").unwrap().len(), decided);
}
