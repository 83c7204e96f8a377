//! What gzip changes of an answer, and what it must not.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;

use axum::Router;
use bytes::Bytes;
use common::{
    NOON,
    web::{Answer, JSON, PROTOBUF, Service},
};
use flate2::read::GzDecoder;

const DOWNLOAD: &str = "download/2020-10-23";
const AUDIT: &str = "audit/download/2020-10-23/20201023-1";
/// Every answer there is to keep: its path, its `Accept`, and what it depends on.
const ANSWERS: [(&str, &str, &str); 3] = [
    (DOWNLOAD, PROTOBUF, "accept, accept-encoding"),
    (DOWNLOAD, JSON, "accept, accept-encoding"),
    (AUDIT, JSON, "accept-encoding"),
];

fn service() -> (Service, Router) {
    let mut service = Service::new();
    service.publish(&[(200, NOON), (1, NOON)]);
    let router = service.router("DE");
    (service, router)
}

fn unpacked(answer: &Answer) -> Bytes {
    let mut bytes = Vec::new();
    GzDecoder::new(&answer.body[..]).read_to_end(&mut bytes).unwrap();
    bytes.into()
}

fn with<'a>(accept: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [("Accept", accept)].into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn a_packed_answer_is_the_same_one_and_smaller() {
    let (service, router) = service();
    for (path, accept, vary) in ANSWERS {
        let plain = service.ask(&router, path, &with(accept, &[]));
        let packed = service.ask(&router, path, &with(accept, &[("Accept-Encoding", "br, gzip")]));
        let what = format!("{path} {accept}");
        assert_eq!((plain.status, packed.status), (200, 200), "{what}");
        assert!(!plain.headers.contains_key("content-encoding"), "{what}");
        assert_eq!(packed.header("content-encoding"), "gzip", "{what}");
        assert!(packed.body.len() < plain.body.len(), "{what}: {} bytes", packed.body.len());
        assert_eq!(unpacked(&packed), plain.body, "{what}");
        for name in ["content-type", "batchTag", "nextBatchTag", "cache-control", "vary"] {
            assert_eq!(packed.header(name), plain.header(name), "{what}: {name}");
        }
        assert_eq!(plain.header("vary"), vary, "{what}");
        let (strong, weak) = (plain.header("etag"), packed.header("etag"));
        assert!(strong.starts_with('"') && weak.starts_with("W/\""), "{what}: {strong}, {weak}");
        assert_ne!(weak.trim_start_matches("W/"), strong, "{what}");
    }
}

#[test]
fn head_has_the_headers_of_get() {
    let (service, router) = service();
    for (path, accept, _) in ANSWERS {
        for coding in ["gzip", "identity"] {
            let headers = with(accept, &[("Accept-Encoding", coding)]);
            let get = service.ask(&router, path, &headers);
            let head = service.ask_as("HEAD", &router, path, &headers);
            let what = format!("{path} {accept} {coding}");
            assert_eq!((head.status, head.body.len()), (200, 0), "{what}");
            // A length may be left out, and may not be wrong.
            if let Some(length) = head.headers.get("content-length") {
                assert_eq!(length.to_str().unwrap(), get.body.len().to_string(), "{what}");
            }
            let all = |answer: &Answer| {
                let mut headers = answer.headers.clone();
                headers.remove("content-length");
                headers
            };
            assert_eq!(all(&head), all(&get), "{what}");
        }
    }
}

#[test]
fn each_form_is_known_again_and_not_taken_for_another() {
    let (service, router) = service();
    let forms: Vec<_> = ANSWERS
        .iter()
        .flat_map(|(path, accept, _)| ["gzip", "identity"].map(|c| (*path, *accept, c)))
        .collect();
    let ask = |(path, accept, coding): (&str, &str, &str), held: &str| {
        let headers = with(accept, &[("Accept-Encoding", coding), ("If-None-Match", held)]);
        service.ask(&router, path, &headers)
    };
    let etags: Vec<_> = forms.iter().map(|form| ask(*form, "").header("etag").to_owned()).collect();
    for (i, form) in forms.iter().enumerate() {
        for (j, etag) in etags.iter().enumerate() {
            let answer = ask(*form, etag);
            assert_eq!(answer.status, if i == j { 304 } else { 200 }, "{form:?} for {etag}");
            if i == j {
                assert_eq!((answer.header("etag"), answer.body.len()), (etag.as_str(), 0), "{form:?}");
                // It says how a body is coded, and there is none.
                assert!(!answer.headers.contains_key("content-encoding"), "{form:?}");
                assert!(answer.header("vary").contains("accept-encoding"), "{form:?}");
                let next = if form.0 == DOWNLOAD { "20201023-2" } else { "" };
                assert_eq!(answer.header("nextBatchTag"), next, "{form:?}");
            }
        }
        let strong = etags[i].trim_start_matches("W/");
        assert_eq!(ask(*form, strong).status, 304, "the comparison is weak");
    }
}

/// Tags name what does not change: two instances that never met give the same ones.
#[test]
fn etags_do_not_depend_on_who_answers() {
    let (service, _) = service();
    let etags = || -> Vec<String> {
        let router = service.router("DE");
        let ask =
            |(path, accept, _)| service.ask(&router, path, &with(accept, &[("Accept-Encoding", "gzip")]));
        ANSWERS.map(ask).iter().map(|a| a.header("etag").to_owned()).collect()
    };
    assert_eq!(etags(), etags());
}
