//! The HTTP contract, as clients of national backends speak it.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use axum::Extension;
use common::{
    DAY, HOUR, NOON, cc,
    web::{PROTOBUF, Service, keys},
};
use keyferry_runtime::http::ClientCertificate;
use keyferry_schemas::{
    efgs::{self, Encoding},
    media::ACCEPTED,
};
use keyferry_sinks::{download::routes, store::Store, sweep::sweep};

#[test]
fn a_walk_crosses_midnight_and_ends_with_null() {
    let mut service = Service::new();
    service.now = NOON.plus(2 * DAY);
    let midnight = NOON.plus(12 * HOUR);
    service.publish(&[(1, NOON), (2, midnight.plus(-1)), (3, midnight), (4, midnight.plus(DAY))]);
    let router = service.router("DE");
    let mut tag = None;
    let mut walked = Vec::new();
    while tag.as_deref() != Some("null") {
        let answer = service.download(&router, "2020-10-20", tag.as_deref());
        assert_eq!((answer.status, answer.header("content-type")), (200, PROTOBUF));
        walked.push((answer.header("batchTag").to_owned(), keys(&answer)));
        tag = Some(answer.header("nextBatchTag").to_owned());
    }
    let expected = [("20201023-1", 1), ("20201023-2", 2), ("20201024-1", 3), ("20201025-1", 4)];
    assert_eq!(walked, expected.map(|(t, n)| (t.to_owned(), n)));

    // Polling the last tag again yields its successor when there is one.
    service.publish(&[(5, midnight.plus(DAY + 1))]);
    let etag = service.download(&router, "2020-10-25", Some("20201025-1")).header("etag").to_owned();
    let headers = [("Accept", PROTOBUF), ("batchTag", "20201025-1"), ("If-None-Match", &etag)];
    let poll = service.ask(&router, "download/2020-10-25", &headers);
    assert_eq!((poll.status, poll.header("nextBatchTag"), poll.body.len()), (304, "20201025-2", 0));
    let headers = [("Accept", "application/json; version=1.0"), headers[1], headers[2]];
    assert_eq!(service.ask(&router, "download/2020-10-25", &headers).status, 200, "another encoding");
}

#[test]
fn dates_and_tags_are_answered_as_efgs_answered() {
    let mut service = Service::new();
    service.publish(&[(1, NOON.plus(-DAY)), (2, NOON)]);
    let router = service.router("DE");
    let table: [(&str, Option<&str>, u16, &str); 14] = [
        ("2020-10-22", None, 200, "20201022-1"),
        ("2020-10-21", None, 200, "20201022-1"),
        ("2020-10-23", None, 200, "20201023-1"),
        ("2020-10-22", Some("20201023-1"), 200, "20201023-1"),
        ("2020-10-09", Some("20201023-1"), 200, "20201023-1"),
        ("2020-10-24", None, 404, "no-batch"),
        ("2020-10-22", Some("20201022-2"), 404, "batch-unknown"),
        ("2020-10-22", Some("null"), 404, "batch-unknown"),
        ("2020-10-23", Some("20201022-1"), 400, "date-after-batch"),
        ("2020-10-08", None, 410, "date-too-old"),
        ("2020-10-08", Some("20201023-1"), 410, "date-too-old"),
        ("2020-13-01", None, 400, "date-malformed"),
        ("20201023", None, 400, "date-malformed"),
        ("today", None, 400, "date-malformed"),
    ];
    for (date, tag, status, what) in table {
        let answer = service.download(&router, date, tag);
        let found = if status == 200 { answer.header("batchTag").into() } else { answer.code() };
        assert_eq!((answer.status, found.as_str()), (status, what), "{date} {tag:?}");
    }
    let empty = service.router("FR");
    assert_eq!(service.download(&empty, "2020-10-23", None).code(), "no-batch");
    for (accept, status, code) in [
        (Some("application/protobuf"), 415, "accept-version"),
        (Some("application/protobuf; version=2.0"), 415, "accept-version"),
        (Some("*/*"), 415, "accept-version"),
        (None, 415, "accept-version"),
        (Some("text/html"), 406, "accept-media-type"),
    ] {
        let headers: Vec<_> = accept.map(|a| ("Accept", a)).into_iter().collect();
        let refused = service.ask(&router, "download/2020-10-23", &headers);
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{accept:?}");
        assert_eq!(refused.header("accept"), ACCEPTED, "it names what there is");
    }
    for path in ["download/%ff", "audit/download/2020-10-23/%ff"] {
        let garbage = service.ask(&router, path, &[("Accept", PROTOBUF)]);
        assert_eq!((garbage.status, garbage.code().as_str()), (404, "not-found"), "{path}");
    }
    assert_eq!(service.ask_as("POST", &router, "download/2020-10-23", &[]).status, 405);
}

#[test]
fn both_encodings_and_head_tell_the_same() {
    let mut service = Service::new();
    service.publish(&[(3, NOON)]);
    let router = service.router("DE");
    let protobuf = service.download(&router, "2020-10-23", None);
    let accept = [("Accept", "application/json; version=1.0")];
    let json = service.ask(&router, "download/2020-10-23", &accept);
    assert_eq!(json.header("content-type"), "application/json; version=1.0");
    let read = |encoding, body| efgs::decode(encoding, body).unwrap();
    assert!(read(Encoding::Json, json.body.clone()) == read(Encoding::Protobuf, protobuf.body.clone()));
    let head = service.ask_as("HEAD", &router, "download/2020-10-23", &[("Accept", PROTOBUF)]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["batchTag", "nextBatchTag", "etag", "content-type", "content-length"] {
        let length = protobuf.body.len().to_string();
        let expected = if name == "content-length" { &length } else { protobuf.header(name) };
        assert_eq!(head.header(name), expected, "{name}");
    }
    let head = service.ask_as("HEAD", &router, "download/2020-10-23", &accept);
    assert_eq!((head.status, head.body.len(), head.header("etag")), (200, 0, json.header("etag")));
    assert!(!head.headers.contains_key("content-length"), "it is not that of an empty body");
}

#[test]
fn a_country_sees_its_own_store_only() {
    let mut service = Service::new();
    service.publish(&[(3, NOON)]);
    assert_eq!(service.download(&service.router("FR"), "2020-10-23", Some("20201023-1")).status, 404);
    let elsewhere = service.download(&service.router("NL"), "2020-10-23", None);
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (421, "country-not-served"));
    let bare = |client: Option<ClientCertificate>| {
        let router = routes(service.api());
        let router = client.map_or(router.clone(), |client| router.layer(Extension(client)));
        service.download(&router, "2020-10-23", None)
    };
    assert_eq!(bare(None).code(), "client-certificate-missing");
    assert_eq!(
        bare(Some(ClientCertificate { sha256: [0; 32], subject_country: Some(cc("DE")) })).status,
        403
    );
}

#[test]
fn what_is_erased_is_gone_and_what_is_not_is_found() {
    let mut service = Service::new();
    let times =
        [(1, NOON.plus(-2 * HOUR)), (2, NOON.plus(-HOUR)), (3, NOON.plus(HOUR)), (4, NOON.plus(2 * HOUR))];
    service.publish(&times);
    service.now = NOON.plus(14 * DAY);
    let router = service.router("DE");
    let first = service.download(&router, "2020-10-23", None);
    assert_eq!((first.header("batchTag"), keys(&first)), ("20201023-3", 3), "the first that is still there");
    let erased = service.download(&router, "2020-10-23", Some("20201023-2"));
    assert_eq!((erased.status, erased.code().as_str()), (410, "batch-erased"));

    let store = Store::over(Arc::clone(&service.objects) as _);
    let swept = service.tokio.block_on(sweep(&store, cc("DE"), NOON)).unwrap();
    assert_eq!((swept.erased, swept.oldest), (2, Some(NOON.plus(HOUR))));
    // What was erased early, by whomever, is gone as well, whatever the clock says.
    service.now = NOON;
    let router = service.router("DE");
    assert_eq!(service.download(&router, "2020-10-23", Some("20201023-2")).status, 410);
    assert_eq!(service.download(&router, "2020-10-23", Some("20201023-3")).status, 200);
}

/// One origin may lag behind the others, so that a batch is older than the one before it.
#[test]
fn what_is_kept_is_found_among_what_is_erased() {
    let mut service = Service::new();
    // Along one chain times never fall; but an origin may have waited for long, and another not.
    for (origin, hours) in [("FR", -3), ("FR", -2), ("FR", 2), ("NL", -1), ("NL", 1), ("IT", -1)] {
        let batch = service.hub.batch(origin, "DE", 1, NOON.plus(hours * HOUR));
        service.publish_one(&batch);
    }
    service.now = NOON.plus(14 * DAY);
    let router = service.router("DE");
    for _ in 0..2 {
        assert_eq!(service.download(&router, "2020-10-23", None).header("batchTag"), "20201023-3");
    }
    let next = |tag: &str| {
        let answer = service.download(&router, "2020-10-23", Some(tag));
        (answer.status, answer.header("nextBatchTag").to_owned())
    };
    // A walk meets what is erased and goes on behind it.
    assert_eq!(next("20201023-3"), (200, "20201023-4".into()));
    assert_eq!(next("20201023-4"), (410, "20201023-5".into()));
    assert_eq!(next("20201023-5"), (200, "20201023-6".into()));
    assert_eq!(next("20201023-6"), (410, "null".into()));
}
