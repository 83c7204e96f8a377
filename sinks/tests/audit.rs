//! What a downloader does with an audit, by what it holds: the keys, the answer, and the anchor's certificate.
#![allow(clippy::unwrap_used)]

mod common;

use axum::Router;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{
    DAY, NOON, cc,
    web::{JSON, PROTOBUF, Service},
};
use keyferry_schemas::{batch::Level, canonical::Canonical, certificate::Certificate, cms::Detached, efgs};
use openssl::{hash::MessageDigest, sign::Verifier};
use serde_json::Value;

fn audited(service: &Service, router: &Router, tag: &str) -> Vec<Value> {
    let answer = service.ask(router, &format!("audit/download/2020-10-23/{tag}"), &[]);
    assert_eq!((answer.status, answer.header("content-type")), (200, JSON));
    serde_json::from_slice(&answer.body).unwrap()
}

fn certificate(entry: &Value, role: &str, thumbprint: &str) -> Certificate {
    let certificate = Certificate::from_pem(entry[format!("{role}Certificate")].as_str().unwrap()).unwrap();
    assert_eq!(entry[thumbprint], hex::encode(certificate.sha256()));
    certificate
}

/// Walks the keys of a batch by the amounts of its audit. Returns who sent how many, and whether that is proven.
fn proven(service: &Service, router: &Router, tag: &str) -> Vec<(String, usize, bool)> {
    let headers = [("Accept", PROTOBUF), ("batchTag", tag)];
    let body = service.ask(router, "download/2020-10-23", &headers).body;
    let keys = efgs::decode_joined(body).unwrap();
    let mut rest = &keys[..];
    let mut all = Vec::new();
    for entry in audited(service, router, tag) {
        let (part, behind) = rest.split_at(entry["amount"].as_u64().unwrap() as usize);
        rest = behind;
        let country = entry["country"].as_str().unwrap();
        assert!(part.iter().all(|key| key.origin == country), "{tag}: keys of another origin than {country}");
        let uploader = certificate(&entry, "uploader", "uploaderThumbprint");
        let signing = certificate(&entry, "signing", "uploaderSigningThumbprint");
        let nation = service.hub.nation(cc(country));
        assert_eq!(uploader.sha256(), nation.authentication.certificate.sha256());
        assert_eq!(signing.sha256(), nation.signing.certificate.sha256());
        let anchored = |certificate: &str, signature: &str| {
            let key = service.hub.world.anchors()[0].x509().public_key().unwrap();
            let signature = STANDARD.decode(entry[signature].as_str().unwrap()).unwrap();
            // What is signed is the text of the certificate.
            let text = entry[certificate].as_str().unwrap().as_bytes();
            Verifier::new(MessageDigest::sha256(), &key).unwrap().verify_oneshot(&signature, text).unwrap()
        };
        assert!(anchored("uploaderCertificate", "uploaderOperatorSignature"));
        assert!(anchored("signingCertificate", "signingCertificateOperatorSignature"));
        let holds = entry["batchSignature"].as_str().is_some_and(|signature| {
            let cms = Detached::read(&STANDARD.decode(signature).unwrap()).ok().unwrap();
            cms.verify(Canonical::of(part).bytes(), &signing)
        });
        assert_eq!(entry["originProof"] == false, !holds, "{tag}: exactly what is not proven says so");
        all.push((country.to_owned(), part.len(), holds));
    }
    assert!(rest.is_empty(), "{tag}: keys that no upload accounts for");
    all
}

#[test]
fn joined_batches_are_proven_one_by_one() {
    let mut service = Service::new();
    let parts =
        [("FR", 3, Level::Whole), ("NL", 2, Level::Whole), ("FR", 4, Level::Subset), ("FR", 1, Level::Whole)];
    let batches = parts.map(|(origin, n, level)| service.hub.batch_of(origin, "DE", n, NOON, level));
    service.publish_joined(&batches);
    let alone = service.hub.batch("IT", "DE", 5, NOON);
    service.publish_joined(&[alone]);
    let router = service.router("DE");
    let expected = parts.map(|(origin, n, level)| (origin.to_owned(), n, level == Level::Whole));
    assert_eq!(proven(&service, &router, "20201023-1"), expected);
    assert_eq!(proven(&service, &router, "20201023-2"), [("IT".to_owned(), 5, true)]);
}

/// The form of EFGS, and nothing besides.
#[test]
fn every_field_is_there_and_in_its_form() {
    let mut service = Service::new();
    let (whole, subset) =
        (service.hub.batch("FR", "DE", 3, NOON), service.hub.batch_of("FR", "DE", 2, NOON, Level::Subset));
    service.publish_joined(&[whole, subset]);
    let entries = audited(&service, &service.router("DE"), "20201023-1");
    let names = |entry: &Value| entry.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = [
        "amount",
        "batchSignature",
        "country",
        "signingCertificate",
        "signingCertificateOperatorSignature",
        "uploadedTime",
        "uploaderCertificate",
        "uploaderOperatorSignature",
        "uploaderSigningThumbprint",
        "uploaderThumbprint",
    ];
    assert_eq!(names(&entries[0]), expected);
    (expected[1], expected[2], expected[0]) = ("country", "originProof", "amount");
    assert_eq!(names(&entries[1]), expected, "without a batch signature");
    assert_eq!(
        (&entries[0]["country"], &entries[0]["uploadedTime"]),
        (&"FR".into(), &"2020-10-23T12:00:00Z".into())
    );
}

#[test]
fn dates_and_tags_of_audits() {
    let mut service = Service::new();
    service.publish(&[(1, NOON.plus(-DAY)), (2, NOON)]);
    let table = [
        ("2020-10-23/20201023-1", 200, ""),
        // Clients audit a chain with its starting date.
        ("2020-10-20/20201023-1", 200, ""),
        ("2020-10-09/20201022-1", 200, ""),
        ("2020-10-24/20201023-1", 404, "batch-unknown"),
        ("2020-10-23/20201022-1", 404, "batch-unknown"),
        ("2020-10-23/20201023-2", 404, "batch-unknown"),
        ("2020-10-23/null", 404, "batch-unknown"),
        ("2020-10-23/20201023-01", 404, "batch-unknown"),
        ("2020-10-08/20201023-1", 410, "date-too-old"),
        ("today/20201023-1", 400, "date-malformed"),
        ("20201023/20201023-1", 400, "date-malformed"),
    ];
    let router = service.router("DE");
    for (path, status, code) in table {
        let answer = service.ask(&router, &format!("audit/download/{path}"), &[]);
        let found = if status == 200 { String::new() } else { answer.code() };
        assert_eq!((answer.status, found.as_str()), (status, code), "{path}");
    }
    let foreign = service.ask(&service.router("FR"), "audit/download/2020-10-23/20201023-1", &[]);
    assert_eq!((foreign.status, foreign.code().as_str()), (404, "batch-unknown"), "of another country");
    let elsewhere = service.ask(&service.router("NL"), "audit/download/2020-10-23/20201023-1", &[]);
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (421, "country-not-served"));
    assert_eq!(service.ask_as("PUT", &router, "audit/download/2020-10-23/20201023-1", &[]).status, 405);
}

/// The proof of what was delivered outlives the keys.
#[test]
fn an_audit_is_there_when_the_keys_are_gone() {
    let mut service = Service::new();
    service.publish(&[(1, NOON)]);
    service.now = NOON.plus(14 * DAY);
    let router = service.router("DE");
    assert_eq!(service.download(&router, "2020-10-23", Some("20201023-1")).status, 410);
    assert_eq!(audited(&service, &router, "20201023-1").len(), 1);
}
