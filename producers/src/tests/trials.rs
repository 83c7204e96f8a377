//! `POST /diagnosiskeys/check` at the door: who may try, and that nothing is written.

use super::fixture::*;
use crate::config::GatewayConfig;

#[tokio::test]
async fn strangers_and_those_that_may_not_send_are_refused_before_their_body() {
    let world = World::start(Fate::Undecided).await;
    let check = |certificate, country| world.from("POST", "/diagnosiskeys/check", certificate, country);
    let stranger = world.request("POST", "/diagnosiskeys/check").send().await.unwrap();
    assert_eq!(problem(stranger).await, (403, "client-certificate-missing".into()));
    for (certificate, country, status, code) in [
        ("revoked", "DE", 403, "client-certificate-not-in-force"),
        ("GR", "DE", 403, "client-country-mismatch"),
        ("IT", "IT", 403, "member-not-active"),
        ("DE", "DE", 415, "media-type-unknown"),
    ] {
        // More than may be sent, which would be the answer if it was read.
        let refused = check(certificate, country).body(vec![0; 128 << 10]).send().await.unwrap();
        assert_eq!(problem(refused).await, (status, code.into()));
    }
    let upload = |body| {
        check("DE", "DE")
            .header("batchTag", "tag")
            .header("batchSignature", "MAA=")
            .header("Content-Type", "application/protobuf; version=1.0")
            .body(body)
    };
    let large = upload(vec![0; 128 << 10]).send().await.unwrap();
    assert_eq!(problem(large).await, (413, "body-too-large".into()));
    let unsigned = upload(body(1)).send().await.unwrap();
    assert_eq!(problem(unsigned).await, (400, "signature-malformed".into()));
    assert!(world.pipeline.written.lock().unwrap().is_empty());
    assert_eq!(world.request("GET", "/diagnosiskeys/check").send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn trials_and_uploads_share_their_limits() {
    let config = GatewayConfig { uploads_per_minute_per_member: 2, ..GatewayConfig::default() };
    let world = World::with(Fate::NotAccepted, config).await.unwrap();
    let trial = || {
        world
            .from("POST", "/diagnosiskeys/check", "DE", "DE")
            .header("batchTag", "tag")
            .header("batchSignature", "MAA=")
            .header("Content-Type", "application/protobuf; version=1.0")
            .body(body(1))
    };
    assert_eq!(problem(trial().send().await.unwrap()).await.1, "signature-malformed");
    assert_eq!(problem(world.upload(1).send().await.unwrap()).await.1, "broker-unreachable");
    for refused in [trial(), world.upload(1)] {
        assert_eq!(problem(refused.send().await.unwrap()).await, (429, "too-many-uploads".into()));
    }
}
