//! `/openapi.json` is what the service does: schemathesis, which reads nothing else, sends what the description allows and
//! what it does not, and holds every answer against it.
//!
//! Operations: the program with all roles on one listener, over mutual TLS; uploads that are taken, in part and not; then
//! requests to every operation, the same uploads among them. Failures: everything about a request that the
//! description can tell is wrong.
//! Not here: answers that need an accident (tests of the gateway and of the distribution service).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey, Encoding},
    records::Upload,
    world::{Rng, World, key},
};
use keyferry_tests::{
    backend::Backend,
    hub::Hub,
    operator::{prepare, write},
    role::{Role, address},
    wait::wait_until,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// What each answer is held against. Not asked: that valid data are accepted, since nobody signs what is made up; and
/// `Allow` of OPTIONS, which is that of EFGS for the contract as a whole.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,missing_required_header,\
    unsupported_method";
/// Requests to each operation beside those that go through the edges of each parameter.
const EXAMPLES: &str = "40";

fn st() -> PathBuf {
    let st = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/st");
    assert!(st.exists(), "{} is not there: run make setup", st.display());
    st
}

/// Of what is made up half is what exists, so that there is something to answer with.
fn settings() -> String {
    let now = TimeZone::UTC.to_datetime(Timestamp::now());
    // As it may become midnight meanwhile.
    let days = [0, 1].map(|ago| now.date().checked_sub(ago.days()).unwrap());
    let tags = days.map(|day| format!("{}-1", day.strftime("%Y%m%d")));
    let mut text = String::from("suppress-health-check = [\"all\"]\n");
    for (name, values) in [("days", days.map(|d| d.to_string())), ("tags", tags)] {
        writeln!(text, "[dictionaries.{name}]\nvalues = {values:?}").unwrap();
    }
    for (parameter, name) in [("path.date", "days"), ("path.batchTag", "tags"), ("header.batchTag", "tags")] {
        writeln!(text, "[parameters.\"{parameter}\"]\ndictionary = \"{name}\"\nprobability = 0.5").unwrap();
    }
    text
}

/// The description as it is served, with uploads and receipts that exist as examples.
fn with_examples(mut document: Value, uploads: &[Upload], receipts: &[String]) -> Value {
    let list = |values: Vec<Value>| {
        let named =
            values.into_iter().enumerate().map(|(i, value)| (i.to_string(), json!({ "value": value })));
        Value::Object(named.collect())
    };
    let tags = uploads.iter().map(|u| u.batch_tag.clone().into());
    let signatures = uploads.iter().map(|u| STANDARD.encode(&u.batch_signature).into());
    let bodies = uploads.iter().map(|u| serde_json::from_slice(&u.payload).unwrap());
    let shared = &mut document["components"];
    shared["parameters"]["UploadTag"]["examples"] = list(tags.collect());
    shared["parameters"]["BatchSignature"]["examples"] = list(signatures.collect());
    let body = &mut shared["requestBodies"]["Upload"]["content"]["application/json; version=1.0"];
    body["examples"] = list(bodies.collect());
    for method in ["get", "head"] {
        let receipt = &mut document["paths"]["/diagnosiskeys/receipts/{id}"][method];
        receipt["parameters"][0]["examples"] = list(receipts.iter().map(|id| id.clone().into()).collect());
    }
    document
}

fn run(folder: &Path, address: &str) -> Output {
    let file = |name: &str| folder.join(name).display().to_string();
    write(folder, "st.toml", settings());
    Command::new(st())
        .current_dir(folder)
        .args(["--config-file", &file("st.toml"), "run", &file("openapi.json")])
        .args(["--url", &format!("https://{address}")])
        .args(["--request-cert", &file("client.pem"), "--request-cert-key", &file("client.key")])
        .args(["--tls-verify", &file("server.pem"), "--checks", CHECKS])
        .args(["--phases", "examples,coverage,fuzzing", "--seed", "1", "--max-examples", EXAMPLES])
        .args(["--report", "har", "--report-har-path", &file("sent.har")])
        .args(["--generation-database", "none", "--continue-on-failure", "--no-color"])
        // What is beside the point here: that made-up data are refused, most often.
        .args(["--warnings", "off", "--request-timeout", "60"])
        // All it asks is on this machine.
        .env("no_proxy", "127.0.0.1")
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap()
}

/// What was sent and answered, by the report: method, path as it is described, answer.
fn answered(folder: &Path, document: &Value) -> Vec<(String, String, Value)> {
    let report: Value = serde_json::from_slice(&std::fs::read(folder.join("sent.har")).unwrap()).unwrap();
    let described = |path: &str| {
        let is = |template: &&String| {
            let parts = || template.split('/').zip(path.split('/'));
            let same = parts().all(|(t, p)| t == p || t.starts_with('{'));
            same && template.split('/').count() == path.split('/').count()
        };
        document["paths"].as_object().unwrap().keys().find(is).cloned()
    };
    let entries = report["log"]["entries"].as_array().unwrap().iter();
    let known = entries.filter_map(|entry| {
        let url = entry["request"]["url"].as_str().unwrap().splitn(4, '/').nth(3)?;
        let path = described(&format!("/{}", url.split('?').next()?))?;
        Some((entry["request"]["method"].as_str()?.to_owned(), path, entry["response"].clone()))
    });
    known.collect()
}

/// That a method which is not described is answered by 405 and those that are.
fn check_allowed(document: &Value, answered: &[(String, String, Value)]) {
    let mut seen = BTreeSet::new();
    for (method, path, answer) in answered.iter().filter(|(_, _, answer)| answer["status"] == 405) {
        let mut headers = answer["headers"].as_array().unwrap().iter();
        let allow = headers.find(|h| h["name"].as_str().unwrap().eq_ignore_ascii_case("allow")).unwrap();
        let allowed: BTreeSet<_> = allow["value"].as_str().unwrap().split(',').map(str::to_owned).collect();
        let described = document["paths"][path].as_object().unwrap().keys();
        assert_eq!(allowed, described.map(|m| m.to_uppercase()).collect(), "{method} {path}");
        seen.insert(path);
    }
    assert_eq!(seen.len(), document["paths"].as_object().unwrap().len(), "{seen:?}");
}

fn json(upload: Upload, keys: &[DiagnosisKey]) -> Upload {
    let content_type = Encoding::Json.content_type().into();
    Upload { content_type, payload: efgs::encode_json(keys).into(), ..upload }
}

#[test]
fn the_service_is_as_it_is_described() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let hub = Hub::start(World::new(&["DE", "FR"], Timestamp::now()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    std::fs::create_dir(folder.path().join("store")).unwrap();
    let fr = &hub.world.nation("FR").unwrap().authentication;
    write(folder.path(), "client.pem", fr.certificate_pem().unwrap());
    write(folder.path(), "client.key", fr.key_pem().unwrap());
    let listen = address();
    let mut role = Role::start("run", folder.path(), &hub, &listen);
    let runtime = Runtime::new().unwrap();
    role.wait_until_ready(&runtime);

    let server = folder.path().join("server.pem");
    let backend = |country| Backend::new(&hub.world, country, &server, &listen).unwrap();
    let (de, fr) = (backend("DE"), backend("FR"));
    let mut rng = Rng::new(1);
    let mut keys =
        |country| (0..8).map(|_| key(&mut rng, country, &[], SystemClock.now())).collect::<Vec<_>>();
    let upload = hub.world.upload("DE", "tag", &keys("DE")).unwrap();
    assert_eq!(runtime.block_on(de.upload(&upload)).unwrap(), StatusCode::CREATED);
    let k = keys("FR");
    let bad = DiagnosisKey { rolling_period: 145, ..k[7].clone() };
    let own = [("a", &k[..3], 201), ("b/+=", &k[2..5], 207), ("a", &k[5..6], 409), ("c", &[bad][..], 400)];
    let own = own.map(|(tag, keys, status)| (json(hub.world.upload("FR", tag, keys).unwrap(), keys), status));
    for (upload, status) in &own {
        assert_eq!(runtime.block_on(fr.upload(upload)).unwrap().as_u16(), *status);
    }
    wait_until("a download", || !runtime.block_on(fr.first_batch()).unwrap().is_empty());

    let document = runtime.block_on(fr.description()).unwrap();
    let receipts = hub.decided("FR", own.len()).unwrap().into_iter().filter_map(|entry| entry.upload_id);
    let receipts: Vec<_> = receipts.map(|id| uuid::Uuid::from_bytes(id).to_string()).collect();
    let document = with_examples(document, &own.map(|(upload, _)| upload), &receipts);
    write(folder.path(), "openapi.json", document.to_string());
    let output = run(folder.path(), &listen);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));

    let answered = answered(folder.path(), &document);
    check_allowed(&document, &answered);
    let statuses: BTreeSet<_> = answered
        .iter()
        .map(|(method, path, answer)| format!("{method} {path} {}", answer["status"]))
        .collect();
    for (operation, expected) in [
        ("POST /diagnosiskeys/upload", &[201, 207, 400, 409, 415][..]),
        ("POST /diagnosiskeys/check", &[200, 400, 415]),
        ("GET /diagnosiskeys/receipts/{id}", &[201, 207, 400, 404, 409]),
        ("HEAD /diagnosiskeys/receipts/{id}", &[201, 207, 400, 404, 409]),
        ("GET /diagnosiskeys/download/{date}", &[200, 400, 404, 406, 415]),
        ("HEAD /diagnosiskeys/download/{date}", &[200, 400, 404, 406, 415]),
        ("GET /diagnosiskeys/audit/download/{date}/{batchTag}", &[200, 400, 404]),
        ("HEAD /diagnosiskeys/audit/download/{date}/{batchTag}", &[200, 400, 404]),
        ("GET /openapi.json", &[200]),
        ("GET /diagnosiskeys/callback", &[200]),
        ("PUT /diagnosiskeys/callback/{id}", &[400]),
        ("DELETE /diagnosiskeys/callback/{id}", &[400, 404]),
        ("OPTIONS /diagnosiskeys", &[200]),
    ] {
        for status in expected {
            let wanted = format!("{operation} {status}");
            assert!(statuses.contains(&wanted), "nothing was held against {wanted}: {statuses:?}");
        }
    }
}
