//! What the gateway refuses by itself: every row of the contract, by status and code.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::stream;
use keyferry_schemas::efgs;
use reqwest::{Body, RequestBuilder};

use super::fixture::*;
use crate::config::GatewayConfig;

/// The request with this header set to another value, or left out.
async fn refused(world: &World, request: RequestBuilder, header: &str, value: Option<&str>) -> (u16, String) {
    let (client, request) = request.build_split();
    let mut request = request.unwrap();
    request.headers_mut().remove(header);
    if let Some(value) = value {
        let name: reqwest::header::HeaderName = header.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = problem(client.execute(request).await.unwrap()).await;
    assert!(world.pipeline.written.lock().unwrap().is_empty(), "nothing that is refused reaches the log");
    answer
}

#[tokio::test]
async fn headers() {
    let world = World::start(Fate::Undecided).await;
    for (header, value, status, code) in [
        ("batchTag", None, 400, "batch-tag-missing"),
        ("batchTag", Some(""), 400, "batch-tag-malformed"),
        ("batchSignature", None, 400, "signature-missing"),
        ("batchSignature", Some("no base64"), 400, "signature-not-base64"),
        ("content-type", Some("application/protobuf"), 400, "media-type-version-missing"),
        ("content-type", Some("application/json; version=one"), 400, "media-type-version-malformed"),
        ("content-type", Some("application/json; version=1.1"), 406, "media-type-version-unknown"),
        ("content-type", Some("text/plain; version=1.0"), 415, "media-type-unknown"),
        ("content-type", None, 415, "media-type-unknown"),
        ("x-ssl-client-sha256", None, 403, "client-certificate-missing"),
        ("x-ssl-client-sha256", Some("00"), 403, "client-certificate-missing"),
        ("x-ssl-client-sha256", Some(&"0".repeat(64)), 403, "client-certificate-unknown"),
        ("x-ssl-client-sha256", Some(world.thumbprint("signing")), 403, "client-certificate-unknown"),
        ("x-ssl-client-sha256", Some(world.thumbprint("GR")), 403, "client-country-mismatch"),
        ("x-ssl-client-sha256", Some(world.thumbprint("revoked")), 403, "client-certificate-not-in-force"),
        ("x-ssl-client-dn", None, 403, "client-certificate-missing"),
        ("x-ssl-client-dn", Some("CN=backend"), 400, "client-country-missing"),
        ("x-ssl-client-dn", Some("C=FR"), 403, "client-country-mismatch"),
    ] {
        let answer = refused(&world, world.upload(1), header, value).await;
        assert_eq!(answer, (status, code.to_owned()), "{header}: {value:?}");
    }
    let stranger = world.request("POST", "/diagnosiskeys/upload").send().await.unwrap();
    assert!(stranger.headers().get("connection").is_none(), "the connection of a proxy is everybody's");
    let accept = world.from("POST", "/diagnosiskeys/upload", "DE", "DE").send().await.unwrap();
    assert_eq!(accept.status(), 415);
    assert_eq!(
        accept.headers()["accept"],
        "application/json; version=1.0, application/protobuf; version=1.0"
    );
}

#[tokio::test]
async fn members_that_can_not_send() {
    let world = World::start(Fate::Undecided).await;
    for country in ["IT", "PL"] {
        let request = world.from("POST", "/diagnosiskeys/upload", country, country);
        assert_eq!(
            problem(request.send().await.unwrap()).await,
            (403, "member-not-active".into()),
            "{country}"
        );
    }
    let receipt = |country| world.from("GET", "/diagnosiskeys/receipts/x", country, country);
    assert_eq!(problem(receipt("IT").send().await.unwrap()).await, (404, "receipt-unknown".into()));
    assert_eq!(problem(receipt("PL").send().await.unwrap()).await, (403, "member-not-active".into()));
    let alias = world.from("GET", "/diagnosiskeys/receipts/x", "GR", "EL");
    assert_eq!(problem(alias.send().await.unwrap()).await, (404, "receipt-unknown".into()));
}

#[tokio::test]
async fn bodies() {
    let world = World::start(Fate::Undecided).await;
    let mut short_json = efgs::encode_json(&keys(2));
    short_json.truncate(short_json.len() - 5);
    let bad_base64 = br#"{"keys":[{"keyData":"%%%"}]}"#.to_vec();
    let json = "application/json; version=1.0";
    let protobuf = "application/protobuf; version=1.0";
    for (content_type, body, status, code) in [
        (protobuf, vec![0xff; 40], 400, "body-unreadable"),
        (json, short_json, 400, "body-unreadable"),
        (json, bad_base64, 400, "body-unreadable"),
        (json, b"{}".to_vec(), 400, "no-keys"),
        (protobuf, Vec::new(), 400, "no-keys"),
        (protobuf, body(4), 413, "too-many-keys"),
        (protobuf, vec![0; (64 << 10) + 1], 413, "body-too-large"),
    ] {
        let length = body.len();
        let request = world.upload(1).body(body);
        let answer = refused(&world, request, "content-type", Some(content_type)).await;
        assert_eq!(answer, (status, code.to_owned()), "{content_type}, {length} bytes");
    }
}

#[tokio::test]
async fn a_hundred_megabytes_are_not_read() {
    let world = World::start(Fate::Undecided).await;
    let announced = world.upload(1).body(vec![7; 100 << 20]);
    assert_eq!(problem(announced.send().await.unwrap()).await, (413, "body-too-large".into()));
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let chunks = (0..12_800).map(move |_| {
        count.fetch_add(8192, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Bytes::from_static(&[7; 8192]))
    });
    let chunked = world.upload(1).body(Body::wrap_stream(stream::iter(chunks)));
    assert_eq!(problem(chunked.send().await.unwrap()).await, (413, "body-too-large".into()));
    assert!(sent.load(Ordering::Relaxed) < 50 << 20, "what was sent is in the buffers of sockets");
}

#[tokio::test]
async fn more_than_a_member_may_send() {
    let config = GatewayConfig {
        decision_wait_ms: 300,
        max_concurrent_uploads_per_member: 1,
        uploads_per_minute_per_member: 1,
        ..GatewayConfig::default()
    };
    let world = World::with(Fate::Undecided, config).await.unwrap();
    let (one, two) = tokio::join!(world.upload(1).send(), world.upload(1).send());
    let both = [one.unwrap(), two.unwrap()];
    assert!(both.iter().all(|response| response.headers().contains_key("retry-after")));
    let mut statuses = both.map(|r| r.status().as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [429, 503], "one at a time");
    let third = world.upload(1).send().await.unwrap();
    assert!(third.headers().contains_key("retry-after"));
    assert_eq!(problem(third).await, (429, "too-many-uploads".into()), "one per minute");
}

#[tokio::test]
async fn paths_and_methods() {
    let world = World::start(Fate::Undecided).await;
    let options = world.request("OPTIONS", "/diagnosiskeys").send().await.unwrap();
    assert_eq!(
        (options.status().as_u16(), &options.headers()["allow"]),
        (200, &"POST,GET,OPTIONS".parse().unwrap())
    );
    assert_eq!(
        options.headers()["accept"],
        "application/json; version=1.0, application/protobuf; version=1.0"
    );
    let unknown = world.request("GET", "/nowhere").send().await.unwrap();
    assert_eq!(problem(unknown).await, (404, "not-found".into()));
    let wrong = world.request("PUT", "/diagnosiskeys/upload").send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "POST");
    assert_eq!(problem(wrong).await, (405, "method-not-allowed".into()));
}
