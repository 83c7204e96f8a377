//! What the gateway takes, and how it answers once the pipeline has decided, or has not.

use std::time::{Duration, Instant};

use keyferry_schemas::{efgs, records::Kind, rejection::Rejection};
use reqwest::Response;

use super::fixture::*;
use crate::answer::Decision;

fn created() -> Fate {
    Fate::Decided(Decision::Created { batch_tag: "tag".into() })
}

fn partial() -> Fate {
    Fate::Decided(Decision::Partial { keys: 3, refused: vec![1] })
}

fn rejected(reason: Rejection) -> Fate {
    let keys = vec![(1, Rejection::KeyTooOld.code().into())];
    Fate::Decided(Decision::Rejected {
        code: reason.code().into(),
        detail: "the reason in words".into(),
        keys,
    })
}

async fn plain(response: Response) -> (u16, String) {
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn the_answer_is_what_the_ledger_says() {
    let world = World::start(created()).await;
    let response = world.upload(3).send().await.unwrap();
    assert_eq!(response.headers()["batchTag"], "tag");
    assert_eq!(plain(response).await, (201, String::new()));

    world.decide(partial());
    let response = world.upload(3).send().await.unwrap();
    assert_eq!(plain(response).await, (207, r#"{"201":[0,2],"409":[1],"500":[]}"#.into()));

    for reason in [Rejection::BatchTagConflict, Rejection::InvalidKeys, Rejection::SigningCertificateForeign]
    {
        world.decide(rejected(reason));
        let answer = problem(world.upload(3).send().await.unwrap()).await;
        assert_eq!(answer, (reason.status(), reason.code().into()));
    }
}

#[tokio::test]
async fn the_record_is_what_was_sent() {
    let world = World::start(created()).await;
    let json = efgs::encode_json(&keys(2));
    let request = world.from("POST", "/diagnosiskeys/upload", "GR", "EL").header("batchTag", "a/b+c==");
    let request =
        request.header("batchSignature", "MIAA").header("Content-Type", "application/json;version=1.0");
    assert_eq!(request.body(json.clone()).send().await.unwrap().status(), 201);
    let written = world.pipeline.written.lock().unwrap();
    let upload = &written[0];
    assert_eq!((upload.origin.as_str(), upload.kind, upload.received_at), ("GR", Kind::ExposedKeys, NOW));
    assert_eq!((upload.batch_tag.as_str(), &upload.batch_signature[..]), ("a/b+c==", &[0x30, 0x80, 0][..]));
    assert_eq!(
        (upload.content_type.as_str(), &upload.payload[..]),
        ("application/json; version=1.0", &json[..])
    );
    assert_eq!(hex::encode(upload.client_certificate), world.thumbprint("GR"));
}

#[tokio::test]
async fn undecided_is_503_and_a_repeat_gets_the_answer() {
    let world = World::start(Fate::Undecided).await;
    let response = world.upload(1).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await, (503, "not-yet-decided".into()));
    world.decide(created());
    assert_eq!(world.upload(1).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_client_that_asks_for_it_gets_a_receipt() {
    let world = World::start(Fate::Undecided).await;
    let response = world.upload(3).header("Prefer", "respond-async").send().await.unwrap();
    assert_eq!(response.status(), 202);
    let place = response.headers()["location"].to_str().unwrap().to_owned();
    let receipt = async |country| world.from("GET", &place, country, country).send().await.unwrap();
    assert_eq!(receipt("DE").await.status(), 202);
    assert_eq!(problem(receipt("GR").await).await, (404, "receipt-unknown".into()), "another country's");

    let id = world.pipeline.written.lock().unwrap()[0].upload_id;
    let decision = Decision::Partial { keys: 3, refused: vec![1] };
    world.pipeline.decisions.decided("DE".parse().unwrap(), 0, Some(id), decision, NOW);
    assert_eq!(plain(receipt("DE").await).await, (207, r#"{"201":[0,2],"409":[1],"500":[]}"#.into()));
    assert_eq!(problem(receipt("GR").await).await, (404, "receipt-unknown".into()), "another country's");
}

#[tokio::test]
async fn a_decision_in_time_goes_before_a_receipt() {
    let world = World::start(created()).await;
    assert_eq!(world.upload(1).header("Prefer", "respond-async").send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_broker_that_is_away() {
    let world = World::start(Fate::NotAccepted).await;
    let response = world.upload(1).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await, (503, "broker-unreachable".into()));

    world.decide(Fate::Unconfirmed);
    let unconfirmed = world.upload(1).header("Prefer", "respond-async").send().await.unwrap();
    assert_eq!(
        problem(unconfirmed).await,
        (503, "not-confirmed".into()),
        "no receipt for what may not be there"
    );

    world.decide(Fate::UnconfirmedAndDecided(Decision::Created { batch_tag: "tag".into() }));
    assert_eq!(world.upload(1).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_broker_that_takes_its_time_keeps_nobody_beyond_the_wait() {
    let world = World::start(Fate::Slow).await;
    let begun = Instant::now();
    let answer = problem(world.upload(1).send().await.unwrap()).await;
    assert_eq!(answer, (503, "not-confirmed".into()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_was_decided_was_received() {
    let received = || {
        let all = prometheus::default_registry().gather();
        let metric = all.iter().find(|f| f.name() == "keyferry_uploads_received_total").unwrap();
        let series = metric.get_metric().iter().find(|m| m.get_label()[0].value() == "LU");
        series.map_or(0.0, |m| m.get_counter().get_value())
    };
    let decision = Decision::Created { batch_tag: "tag".into() };
    for (fate, counted) in [
        (Fate::Unconfirmed, 0.0),
        (Fate::UnconfirmedAndDecided(decision.clone()), 1.0),
        (Fate::Decided(decision), 2.0),
    ] {
        let world = World::start(fate).await;
        // The only test in which LU uploads.
        let upload = world.from("POST", "/diagnosiskeys/upload", "LU", "LU").header("batchTag", "tag");
        let upload = upload
            .header("batchSignature", "MAA=")
            .header("Content-Type", "application/protobuf; version=1.0");
        upload.body(body(1)).send().await.unwrap();
        assert_eq!(received(), counted);
    }
}

#[tokio::test]
async fn a_stop_answers_what_was_accepted() {
    let world = World::start(Fate::Undecided).await;
    let pending = world.upload(1).send();
    let stop = async {
        while world.pipeline.written.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.shutdown.trip();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let id = world.pipeline.written.lock().unwrap()[0].upload_id;
        let decision = Decision::Created { batch_tag: "tag".into() };
        world.pipeline.decisions.decided("DE".parse().unwrap(), 0, Some(id), decision, NOW);
    };
    let (answer, ()) = tokio::join!(pending, stop);
    assert_eq!(answer.unwrap().status(), 201);
    assert!(world.upload(1).send().await.is_err(), "nobody listens any more");
    world.server.stopped().await;
}
