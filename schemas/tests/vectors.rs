//! The golden vectors of `vectors/`, made by another implementation: both have to agree, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use keyferry_schemas::{
    avro::{AvroError, Record},
    batch::{
        Checkpoint, DataClass, Level, Manifest, SignedBatch, manifest_signature_holds, sha256, sign_manifest,
    },
    canonical::{Canonical, write_key},
    certificate::Certificate,
    chain::{Break, Chains, VerifiedBatch},
    cms::Detached,
    country::Country,
    efgs::{self, DiagnosisKey, Encoding, Onset},
    network::Network,
    records::{Kind, NetworkRecord},
    time::Millis,
    world::{Algorithm, Identity},
};
use serde_json::Value;

macro_rules! vectors {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../vectors/", $name, ".json"))).unwrap()
    };
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Bytes {
    hex::decode(text(value)).unwrap().into()
}

fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).as_ref().try_into().unwrap()
}

fn number<T: TryFrom<i64, Error: std::fmt::Debug>>(value: &Value) -> T {
    value.as_i64().unwrap().try_into().unwrap()
}

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn named<'a>(vectors: &'a Value, name: &Value) -> &'a Value {
    list(&vectors["good"]).iter().find(|v| v["name"] == *name).unwrap()
}

fn key(value: &Value) -> DiagnosisKey {
    DiagnosisKey {
        key_data: bytes(&value["key_data"]),
        rolling_start_interval_number: number(&value["rolling_start_interval_number"]),
        rolling_period: number(&value["rolling_period"]),
        transmission_risk_level: number(&value["transmission_risk_level"]),
        visited_countries: value["visited_countries"].as_array().unwrap().iter().map(text).collect(),
        origin: text(&value["origin"]).into(),
        report_type: number(&value["report_type"]),
        days_since_onset_of_symptoms: number(&value["days_since_onset_of_symptoms"]),
    }
}

fn canonical(key: &DiagnosisKey) -> String {
    let mut out = Vec::new();
    write_key(key, &mut out);
    String::from_utf8(out).unwrap()
}

/// Who signs, if a signature is needed.
fn origin() -> Identity {
    Identity::new("NL", "Batch signing", Algorithm::P256, jiff::Timestamp::constant(1_603_022_400, 0))
        .unwrap()
}

/// Whether what `origin` signs over `bad` is refused where `good` has to stand, and the other way round.
fn refused(origin: &Identity, good: &[u8], bad: &[u8]) -> bool {
    let holds = |signed: &[u8], content: &[u8]| {
        let cms = Detached::read(&origin.sign(signed).unwrap()).unwrap();
        cms.names(&origin.certificate) && cms.verify(content, &origin.certificate)
    };
    assert!(holds(good, good) && holds(bad, bad));
    !holds(bad, good) && !holds(good, bad)
}

#[test]
fn canonical_form_protobuf_and_json_of_a_key() {
    let vectors = vectors!("canonical_keys");
    let mut every_byte = [false; 256];
    for vector in list(&vectors["good"]) {
        let (name, key) = (text(&vector["name"]), key(&vector["key"]));
        assert_eq!(canonical(&key), text(&vector["canonical"]), "{name}");
        assert_eq!(hex::encode(sha256(canonical(&key).as_bytes())), text(&vector["sha256"]), "{name}");
        let protobuf = bytes(&vector["protobuf"]);
        assert_eq!(efgs::encode_protobuf([&key]), protobuf, "{name}");
        assert!(efgs::decode(Encoding::Protobuf, protobuf).unwrap() == [key.clone()], "{name}");
        let json = Bytes::from(text(&vector["json"]).to_owned());
        assert_eq!(efgs::encode_json(std::slice::from_ref(&key)), json, "{name}");
        assert!(efgs::decode(Encoding::Json, json).unwrap() == [key.clone()], "{name}");
        key.key_data.iter().for_each(|b| every_byte[usize::from(*b)] = true);
    }
    assert!(every_byte.iter().all(|seen| *seen));
    let worked = &named(&vectors, &"worked_example".into())["sha256"];
    assert_eq!(text(worked), "398cdae15ca558987555929ae06a81ebca5f4366b668a3ab41b5782baae5597d");

    let origin = origin();
    for bad in list(&vectors["bad"]) {
        let of = key(&named(&vectors, &bad["of"])["key"]);
        let why = &bad["why"];
        assert!(refused(&origin, canonical(&of).as_bytes(), text(&bad["canonical"]).as_bytes()), "{why}");
    }
}

#[test]
fn only_the_form_of_a_country_keeps_these_lists_apart() {
    let vectors = vectors!("canonical_keys");
    for bad in list(&vectors["malformed_countries"]) {
        let same = key(&named(&vectors, &bad["same_bytes_as"])["key"]);
        let visited = list(&bad["visited_countries"]).iter().map(text).collect();
        let posing = DiagnosisKey { visited_countries: visited, ..same.clone() };
        assert_eq!(canonical(&posing), canonical(&same));
        assert!(posing.visited_countries.iter().any(|c| c.parse::<Country>().is_err()), "{}", bad["name"]);
    }
}

#[test]
fn the_order_of_a_batch_is_none_of_those_that_come_to_mind() {
    let vectors = vectors!("canonical_batches");
    for vector in list(&vectors["good"]) {
        let keys: Vec<_> = list(&vector["keys"]).iter().map(key).collect();
        let ours = Canonical::of(&keys);
        let order: Vec<usize> = ours.iter().map(|(index, _)| index).collect();
        assert_eq!(order, indexes(&vector["order"]), "{}", vector["name"]);
        assert_eq!(hex::encode(sha256(ours.bytes())), text(&vector["sha256"]), "{}", vector["name"]);
    }
    let vector = named(&vectors, &"three_orders".into());
    let keys: Vec<_> = list(&vector["keys"]).iter().map(key).collect();
    let orders = [
        sorted(&keys, |k| STANDARD.encode(canonical(k)).into_bytes()),
        sorted(&keys, |k| canonical(k).into_bytes()),
        sorted(&keys, |k| k.key_data.to_vec()),
    ];
    assert_eq!(orders[0], indexes(&vector["order"]));
    assert!(orders[0] != orders[1] && orders[1] != orders[2] && orders[2] != orders[0], "{orders:?}");
    for bad in list(&vectors["bad"]) {
        let order = indexes(&bad["order"]);
        let joined: String = order.iter().map(|i| canonical(&keys[*i])).collect();
        // The digest is really that of the wrong order, and a signature over that is none over ours.
        assert_eq!(hex::encode(sha256(joined.as_bytes())), text(&bad["sha256"]));
        assert!(refused(&origin(), Canonical::of(&keys).bytes(), joined.as_bytes()), "{}", bad["name"]);
    }
}

fn indexes(order: &Value) -> Vec<usize> {
    list(order).iter().map(number).collect()
}

fn sorted(keys: &[DiagnosisKey], by: impl Fn(&DiagnosisKey) -> Vec<u8>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|i| by(&keys[*i]));
    order
}

#[test]
fn every_value_of_days_since_onset() {
    let vectors = vectors!("onset");
    let range = |value: i32| {
        let holds = |r: &&Value| (number::<i32>(&r["from"])..=number(&r["to"])).contains(&value);
        list(&vectors["ranges"]).iter().find(holds).map(|r| match text(&r["range"]) {
            "known" => Onset::Known,
            "range" => Onset::Range,
            "unknown" => Onset::Unknown,
            "asymptomatic" => Onset::Asymptomatic,
            "no-information" => Onset::NoInformation,
            other => panic!("{other}"),
        })
    };
    for value in -5_000..10_000 {
        assert_eq!(Onset::of(value), range(value), "{value}");
    }
    for bad in list(&vectors["bad"]) {
        assert_eq!(Onset::of(number(bad)), None, "{bad}");
    }
}

fn country(value: &Value) -> Country {
    text(value).parse().unwrap()
}

fn manifest(of: &Value) -> Manifest {
    Manifest {
        schema_version: number(&of["schema_version"]),
        network: text(&of["network"]).into(),
        network_version: number(&of["network_version"]),
        batch_id: text(&of["batch_id"]).into(),
        origin: country(&of["origin"]),
        destination: country(&of["destination"]),
        sequence: number(&of["sequence"]),
        previous: fixed(&of["previous"]),
        upload_id: fixed(&of["upload_id"]),
        batch_tag: text(&of["batch_tag"]).into(),
        kind: *Kind::ALL.iter().find(|k| k.symbol() == text(&of["kind"])).unwrap(),
        keys: number(&of["keys"]),
        level: *Level::ALL.iter().find(|l| l.symbol() == text(&of["level"])).unwrap(),
        canonical: fixed(&of["canonical"]),
        content: fixed(&of["content"]),
        bitmap: fixed(&of["bitmap"]),
        origin_signature: fixed(&of["origin_signature"]),
        client_certificate: fixed(&of["client_certificate"]),
        signing_certificate: fixed(&of["signing_certificate"]),
        agreement: number(&of["agreement"]),
        data_class: *DataClass::ALL.iter().find(|c| c.symbol() == text(&of["data_class"])).unwrap(),
        created_at: Millis(number(&of["created_at"])),
        signing_key: text(&of["signing_key"]).into(),
    }
}

fn network() -> Network {
    let vector = vectors!("network");
    let record = NetworkRecord {
        network: text(&vector["record"]["network"]).into(),
        version: number(&vector["record"]["version"]),
        document: text(&vector["document"]).to_owned().into(),
        signature: bytes(&vector["signature"]),
    };
    Network::open(&record, &[Certificate::from_pem(text(&vector["anchor"])).unwrap()]).unwrap()
}

/// The vector `of`, with whatever `change` says otherwise.
fn signed_batch(of: &Value, change: &Value) -> SignedBatch {
    let part = |name: &str| change.get(name).unwrap_or(&of[name]);
    SignedBatch {
        manifest: bytes(part("avro")),
        signature: fixed(part("signature")),
        keys: bytes(part("keys")),
        new: bytes(part("new")),
        origin_signature: Some(part("origin_signature")).filter(|v| !v.is_null()).map(bytes),
    }
}

#[test]
fn batches_of_another_implementation_verify_from_end_to_end() {
    let (vectors, network) = (vectors!("batches"), network());
    let hub = SigningKey::from_bytes(&fixed(&vectors["about"]["seed"]));
    assert_eq!(hub.verifying_key().as_bytes(), bytes(&vectors["about"]["public_key"]).as_ref());
    let mut chains = Chains::new("DE".parse().unwrap());
    for vector in list(&vectors["good"]) {
        let (manifest, avro) = (manifest(&vector["manifest"]), bytes(&vector["avro"]));
        assert_eq!(manifest.to_avro(), avro);
        assert_eq!(Manifest::from_avro(avro.clone()), Ok(manifest.clone()));
        assert_eq!(sha256(&avro), fixed(&vector["sha256"]));
        assert_eq!(sign_manifest(&hub, &avro), fixed(&vector["signature"]));
        let verified = VerifiedBatch::verify(&signed_batch(vector, &Value::Null), &network).unwrap();
        assert_eq!(*verified.manifest(), manifest);
        chains.append(&verified).unwrap();
    }
}

#[test]
fn bad_batches_are_refused_for_what_is_wrong_with_them() {
    let (vectors, network) = (vectors!("batches"), network());
    let hub = SigningKey::from_bytes(&fixed(&vectors["about"]["seed"])).verifying_key();
    // Every field, as the schema lists them, of both levels.
    let schema: Value = serde_json::from_str(Manifest::SCHEMA).unwrap();
    let fields: Vec<_> = list(&schema["fields"]).iter().map(|f| text(&f["name"])).collect();
    let mut untouched: BTreeSet<_> =
        ["whole", "subset"].iter().flat_map(|level| fields.iter().map(move |f| (*level, *f))).collect();
    for bad in list(&vectors["bad"]) {
        let of = named(&vectors, &bad["of"]);
        let batch = signed_batch(of, bad);
        let refused = match VerifiedBatch::verify(&batch, &network).err() {
            Some(Break::Manifest) => "manifest",
            Some(Break::Network(_)) => "network",
            Some(Break::NetworkVersion(_)) => "network-version",
            Some(Break::SigningKey(_)) => "signing-key",
            Some(Break::Signature) => "signature",
            Some(Break::BatchId) => "batch-id",
            Some(Break::Agreement(_)) => "agreement",
            Some(Break::DataClass) => "data-class",
            Some(Break::Part(_)) => "part",
            Some(Break::Origin) => "origin",
            other => panic!("{}: {other:?}", bad["name"]),
        };
        assert_eq!(refused, text(&bad["refused"]), "{}", bad["name"]);
        // Whatever else refuses a changed field, the old signature alone would.
        if bad.get("field").is_some() && bad.get("signature").is_none() {
            assert!(!manifest_signature_holds(&hub, &batch.manifest, &batch.signature), "{}", bad["name"]);
            assert!(untouched.remove(&(text(&bad["of"]), text(&bad["field"]))), "{}", bad["name"]);
        }
    }
    assert!(untouched.is_empty(), "without a bad vector: {untouched:?}");
}

#[test]
fn checkpoints() {
    let (vectors, network) = (vectors!("checkpoints"), network());
    let hub = SigningKey::from_bytes(&fixed(&vectors!("batches")["about"]["seed"]));
    let good = &vectors["good"][0];
    let of = &good["checkpoint"];
    let ours = Checkpoint {
        network: text(&of["network"]).into(),
        network_version: number(&of["network_version"]),
        origin: country(&of["origin"]),
        destination: country(&of["destination"]),
        sequence: number(&of["sequence"]),
        manifest: fixed(&of["manifest"]),
        now: Millis(number(&of["now"])),
        at: Millis(number(&of["at"])),
        signing_key: text(&of["signing_key"]).into(),
        signature: [0; 64],
    }
    .signed(&hub);
    assert_eq!(ours.signature, fixed(&good["signature"]));
    assert_eq!(ours.to_avro(), bytes(&good["avro"]));
    let read =
        |vector: &Value| -> Result<Checkpoint, AvroError> { Checkpoint::from_avro(bytes(&vector["avro"])) };
    let check = |c: &Checkpoint| Chains::new("DE".parse().unwrap()).checkpoint(c, &network);
    assert_eq!(check(&read(good).unwrap()), Ok(()));
    let mut untouched: Vec<_> = of.as_object().unwrap().keys().map(|field| format!("bad_{field}")).collect();
    for bad in list(&vectors["bad"]) {
        let checkpoint = read(bad).unwrap();
        assert!(!checkpoint.holds(&hub.verifying_key()), "{}", bad["name"]);
        assert!(check(&checkpoint).is_err(), "{}", bad["name"]);
        untouched.retain(|name| name != text(&bad["name"]));
    }
    assert!(untouched.is_empty(), "without a bad vector: {untouched:?}");
}
