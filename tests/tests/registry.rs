//! A schema registry in use: records are framed with its ids, and those of every other writer are read.
//!
//! Operations: registration before the first start and again; uploads over the gateway, and written by others: without a
//! registry, with an older schema, with a schema that is registered while nobody looks.
//! Failures: schemas that are not registered, ids that nobody knows, a schema that is no record, a registry that stops.
//! Not here: what a registry answers that is none (unit tests of `registry`), incompatible schemas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    codec::Codec,
    kafka::Isolation,
    registry,
};
use keyferry_schemas::{
    avro::Record,
    records::{LedgerEntry, Outcome, Upload},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    front::{Door, Front},
    hub::Hub,
    operator::{configuration, keyferry, prepare, write},
    program::Run,
    registry::Registry,
    subscriber::subscribe,
    wait::wait_until,
};

/// `Upload` as an older release may have had it: with a field that was taken out since.
fn older() -> String {
    with_field("shift", Upload::SCHEMA)
}

/// What a record of [`older`] is: that field comes first.
fn in_older(upload: &Upload) -> Vec<u8> {
    [b"\x08late", upload.to_avro().as_slice()].concat()
}

fn with_field(name: &str, schema: &str) -> String {
    let mut schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let field = serde_json::json!({ "name": name, "type": "string" });
    schema["fields"].as_array_mut().unwrap().insert(0, field);
    schema.to_string()
}

fn framed(id: u32, binary: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), binary].concat()
}

fn failed(run: &Run, code: i32, says: &[&str]) {
    assert_eq!((run.code, run.err.lines().count()), (Some(code), 1), "{run:?}");
    assert!(says.iter().all(|what| run.err.contains(what)), "{run:?}");
}

#[test]
fn schemas_are_registered_once_and_before_a_role_starts() {
    let mut registry = Registry::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &World::new(&["DE"], jiff::Timestamp::now()).unwrap());
    let nobody = configuration(&dir, "127.0.0.1:1", "anchor");
    let text = format!("{nobody}registry: {{url: '{}', timeout_ms: 30000}}\n", registry.url());
    write(folder.path(), "roles.yaml", text);
    let config = format!("--config {dir}/roles.yaml");
    let subjects = [
        "Upload",
        "LedgerEntry",
        "Head",
        "Network",
        "Manifest",
        "SignedBatch",
        "Checkpoint",
        "Callback",
        "CallbackProgress",
    ];

    let before = keyferry(&format!("schemas check {config}"));
    failed(&before, 2, &["not registered: ", "`keyferry schemas register`"]);
    assert!(subjects.iter().all(|s| before.err.contains(&format!("keyferry.v1.{s}"))), "{before:?}");
    for role in ["gateway", "process", "distribute", "run"] {
        let refused = keyferry(&format!("{role} {config}"));
        failed(&refused, 2, &["does not know keyferry.v1.Upload, ", "`keyferry schemas register`"]);
    }

    registry.register("of.somebody.else", r#""string""#).unwrap();
    let first = keyferry(&format!("schemas register {config}"));
    assert_eq!((first.code, first.err.as_str()), (Some(0), ""), "{first:?}");
    registry.register("of.somebody.else", r#""long""#).unwrap();
    let again = keyferry(&format!("schemas register {config}"));
    assert_eq!((again.code, &again.out), (Some(0), &first.out), "{again:?}");

    let after = keyferry(&format!("schemas check {config}"));
    assert_eq!((after.code, after.err.as_str()), (Some(0), ""), "{after:?}");
    assert_eq!(after.out.matches(" yes\n").count(), subjects.len(), "{}", after.out);
    // What it lacks now is a broker.
    failed(&keyferry(&format!("process {config}")), 3, &["127.0.0.1:1", "do not answer"]);

    registry.stop().unwrap();
    for command in ["schemas check", "schemas register", "process"] {
        failed(&keyferry(&format!("{command} {config}")), 3, &["does not answer", "`registry.url`"]);
    }
}

/// Processor and gateway over a registry that knew an older `Upload` first.
fn start(registry: &Registry) -> (Front, u32) {
    let old = registry.register("keyferry.v1.Upload", &older()).unwrap();
    registry.register("of.somebody.else", r#""string""#).unwrap();
    registry::Registry::new(&registry.config()).unwrap().register().unwrap();
    // The network document is written without a registry, before there is one.
    let mut hub = Hub::start(World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap()).unwrap();
    hub.codec = registry::codec(Some(&registry.config())).unwrap();
    (Front::over(hub, Door::Proxy).unwrap(), old)
}

struct Sender(Rng);

impl Sender {
    fn upload(&mut self, front: &Front, origin: &str, tag: &str) -> Upload {
        let keys = [key(&mut self.0, origin, &[], SystemClock.now())];
        front.hub.world.upload(origin, tag, &keys).unwrap()
    }
}

/// That every record of a topic begins with the id of this schema; the records without it.
fn all_framed(front: &Front, registry: &Registry, topic: &str, name: &str, schema: &str) -> Vec<Vec<u8>> {
    let ours = registry::Registry::new(&registry.config()).unwrap();
    let id = ours.lookup(&format!("keyferry.v1.{name}"), schema).unwrap().unwrap();
    let records = front.hub.records(topic, Isolation::Committed).unwrap();
    assert!(!records.is_empty(), "{topic}");
    let binary = |value: &[u8]| value.strip_prefix(framed(id, &[]).as_slice()).map(<[u8]>::to_vec);
    records.iter().map(|r| binary(r.value.as_ref().unwrap()).expect(topic)).collect()
}

#[test]
fn every_record_names_its_schema_and_every_writer_is_read() {
    let registry = Registry::start().unwrap();
    let (front, old) = start(&registry);
    let mut sender = Sender(Rng::new(1));
    let (uploads, ledger) = (topics::uploads("DE".parse().unwrap()), topics::ledger("DE".parse().unwrap()));

    let upload = sender.upload(&front, "DE", "over-the-gateway");
    assert_eq!(front.post(&upload).unwrap().status, 201);
    all_framed(&front, &registry, &uploads, Upload::NAME, Upload::SCHEMA);

    // Others write to the topic itself: without a registry, and as an older release does.
    let bare = Codec::single_object().unwrap().encode(&sender.upload(&front, "DE", "without-a-registry"));
    front.hub.put(&uploads, bare).unwrap();
    let aged = in_older(&sender.upload(&front, "DE", "of-an-older-schema"));
    front.hub.put(&uploads, framed(old, &aged)).unwrap();
    let entries = front.hub.decided("DE", 3).unwrap();
    let accepted = entries.iter().filter(|e| e.outcome == Outcome::Accepted).count();
    assert_eq!(accepted, 3, "{entries:?}");
    assert_eq!(entries[2].batch_tag.as_deref(), Some("of-an-older-schema"));

    // What nobody knows, and what is no record at all.
    let unknown = framed(0x7fff_ffff, &sender.upload(&front, "DE", "of-nobody").to_avro());
    let secret = b"Nobody may quote this";
    let bytes = registry.register("of.somebody.else", r#""bytes""#).unwrap();
    let bytes = framed(bytes, &[[secret.len() as u8 * 2].as_slice(), secret].concat());
    for value in [&unknown, &bytes] {
        front.hub.put(&uploads, value.clone()).unwrap();
    }
    let entries = front.hub.decided("DE", 5).unwrap();
    for entry in &entries[3..] {
        let why = (entry.outcome, entry.code.as_deref());
        assert_eq!(why, (Outcome::Rejected, Some("undecodable-record")), "{entry:?}");
    }
    // To the letter, since a quotation can have any form.
    let begin = "the record is no Upload: the ";
    let schema = "schema of the record is not known: id 2147483647";
    assert_eq!(entries[3].detail, Some(format!("{begin}{schema}")));
    let other = "schema of the record is not known: no record instead of Upload";
    assert_eq!(entries[4].detail, Some(format!("{begin}{other}")));
    let rejects = front.hub.records(topics::REJECTS, Isolation::Committed).unwrap();
    let values: Vec<_> = rejects.iter().map(|r| r.value.clone().unwrap().to_vec()).collect();
    assert_eq!(values, [unknown, bytes]);

    // Other readers, with nothing but what the registry says.
    let ours = registry::Registry::new(&registry.config()).unwrap();
    let id = ours.lookup("keyferry.v1.LedgerEntry", LedgerEntry::SCHEMA).unwrap().unwrap();
    let schema = Schema::parse_str(&registry.schema(id).unwrap()).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let binary = all_framed(&front, &registry, &ledger, LedgerEntry::NAME, LedgerEntry::SCHEMA);
    for (entry, binary) in entries.iter().zip(binary) {
        let Value::Record(fields) = reader.read_value(&mut binary.as_slice()).unwrap() else { panic!() };
        let sequence = fields.iter().find(|(name, _)| name == "sequence").unwrap();
        assert_eq!(sequence.1, Value::Long(entry.sequence));
    }
    let anchor = front.hub.world.anchor.certificate_pem().unwrap();
    let output = subscribe(&front.hub, "FR", &anchor, &["--registry", &registry.url()]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("keyferry.keys.fr: 3 batches verified, 3 keys, 3 new\n"), "{said}");
    assert_eq!(front.hub.delivered("FR").unwrap().len(), 3);
}

#[test]
fn a_record_waits_for_a_registry_that_does_not_answer() {
    let mut registry = Registry::start().unwrap();
    let (front, _) = start(&registry);
    let mut sender = Sender(Rng::new(2));
    let later = registry.register("of.a.newer.release", &with_field("since", Upload::SCHEMA)).unwrap();
    registry.stop().unwrap();

    let waiting = in_older(&sender.upload(&front, "DE", "not-seen-yet"));
    front.hub.put(&topics::uploads("DE".parse().unwrap()), framed(later, &waiting)).unwrap();
    front.hub.send(&sender.upload(&front, "DE", "behind-it")).unwrap();
    // Others go on meanwhile, one after the other, so that there was more than one attempt.
    for n in 1..=4 {
        front.hub.send(&sender.upload(&front, "FR", &format!("tag-{n}"))).unwrap();
        front.hub.decided("FR", n).unwrap();
    }
    assert!(front.hub.ledger("DE").unwrap().is_empty());
    assert_eq!(front.post(&sender.upload(&front, "FR", "over-the-gateway")).unwrap().status, 201);

    registry.start_again().unwrap();
    let entries = front.hub.decided("DE", 2).unwrap();
    assert!(entries.iter().all(|e| e.outcome == Outcome::Accepted), "{entries:?}");
    let tags: Vec<_> = entries.iter().map(|e| e.batch_tag.clone().unwrap()).collect();
    assert_eq!(tags, ["not-seen-yet", "behind-it"]);
    assert!(front.hub.records(topics::REJECTS, Isolation::Committed).unwrap().is_empty());
}

#[test]
fn a_take_over_waits_for_a_registry_that_does_not_answer() {
    let mut registry = Registry::start().unwrap();
    let ours = registry::Registry::new(&registry.config()).unwrap();
    ours.register().unwrap();
    let mut hub = Hub::start(World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap()).unwrap();
    // The ledger begins under an id that nobody looks up at the start.
    let other = LedgerEntry::SCHEMA.replacen("\"doc\": \"", "\"doc\": \"Earlier: ", 1);
    let mut ids = ours.ids().unwrap();
    ids.insert("LedgerEntry".into(), registry.register("of.an.earlier.release", &other).unwrap());
    hub.codec = Codec::with_registry(&ids, Box::new(ours)).unwrap();
    let mut rng = Rng::new(3);
    let mut send = |hub: &Hub, tag: &str| {
        let keys = [key(&mut rng, "DE", &[], SystemClock.now())];
        hub.send(&hub.world.upload("DE", tag, &keys).unwrap()).unwrap();
    };
    let processor = hub.processor("p-0").unwrap();
    send(&hub, "first");
    hub.decided("DE", 1).unwrap();
    processor.stop().unwrap();

    hub.codec = registry::codec(Some(&registry.config())).unwrap();
    registry.stop().unwrap();
    let _processor = hub.processor("p-1").unwrap();
    send(&hub, "second");
    // A new origin needs no ledger.
    let keys = [key(&mut Rng::new(4), "FR", &[], SystemClock.now())];
    hub.send(&hub.world.upload("FR", "third", &keys).unwrap()).unwrap();
    hub.decided("FR", 1).unwrap();
    registry.start_again().unwrap();
    // Not `decided`: this reader has heard of the silence, too.
    wait_until("the second decision", || hub.ledger("DE").is_ok_and(|ledger| ledger.len() == 2));
}
