//! Uploads: what is signed and sent, what is sent again, and what is said about it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_runtime::exit::{Exit, Fatal};
use keyferry_schemas::{canonical::Canonical, cms::Detached, efgs};

use super::*;
use crate::cli::client::{failure::Failure, identity::Identity, parts::divide, upload::Sender};

/// Sends 10 keys, 4 at a time; their signer's certificate comes along.
async fn send(fake: &Fake, tag: Option<&str>) -> Result<Identity, Failure> {
    let nation = world();
    let nation = nation.nation("DE").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&cert, nation.signing.certificate_pem().unwrap()).unwrap();
    std::fs::write(&key, nation.signing.key_pem().unwrap()).unwrap();
    let signer = Identity::read("a", &cert, "b", &key).unwrap();
    let parts = divide(keys("DE", 1, 10), 4, tag);
    let hub = fake.hub();
    Sender { hub: &hub, signer: &signer, tag, json: false }.send_all(&parts).await?;
    Ok(signer)
}

/// The keys of a request, if its signature holds.
fn signed(seen: &Seen, signer: &Identity) -> Vec<DiagnosisKey> {
    assert_eq!(seen.line, "POST /diagnosiskeys/upload");
    assert_eq!(seen.header("content-type"), "application/protobuf; version=1.0");
    let keys = efgs::decode_joined(seen.body.clone()).unwrap();
    let cms = Detached::read(&STANDARD.decode(seen.header("batchSignature")).unwrap()).unwrap();
    assert!(cms.verify(Canonical::of(&keys).bytes(), &signer.certificate));
    keys
}

#[tokio::test]
async fn a_file_goes_out_in_signed_parts_whose_tags_stay() {
    let fake = Fake::start(|_, _| answer(201, &[], "")).await;
    let signer = send(&fake, None).await.unwrap();
    let sent = std::mem::take(&mut *fake.seen.lock().unwrap());
    let all: Vec<_> = sent.iter().flat_map(|seen| signed(seen, &signer)).collect();
    assert!(sent.len() == 3 && all == keys("DE", 1, 10));
    send(&fake, None).await.unwrap();
    let tags = |seen: &[Seen]| seen.iter().map(|s| s.header("batchTag").to_owned()).collect::<Vec<_>>();
    let again = tags(&fake.seen.lock().unwrap());
    assert_eq!(tags(&sent), again);
}

#[tokio::test]
async fn only_what_stands_under_500_is_sent_again() {
    let fake = Fake::start(|n, _| match n {
        0 => answer(207, &[], r#"{"201":[0],"409":[1],"500":[2,3]}"#),
        1 => answer(207, &[], r#"{"201":[],"409":[],"500":[0,1]}"#),
        2 => answer(207, &[], r#"{"201":[1],"409":[0]}"#),
        _ => answer(201, &[], ""),
    })
    .await;
    let signer = send(&fake, Some("t")).await.unwrap();
    let seen = fake.seen.lock().unwrap();
    let sent: Vec<_> = seen.iter().map(|s| signed(s, &signer)).collect();
    let file = keys("DE", 1, 10);
    let expected = [&file[0..4], &file[2..4], &file[2..4], &file[4..8], &file[8..10]];
    assert!(sent.iter().map(Vec::as_slice).eq(expected));
    let tags: Vec<_> = seen.iter().map(|s| s.header("batchTag")).collect();
    assert_eq!((tags[0], tags[3], tags[4]), ("t-1", "t-2", "t-3"));
    assert!(tags[1].starts_with("t-") && tags[1] == tags[2] && tags[1].len() > 30, "{tags:?}");
}

#[tokio::test]
async fn what_is_wanted_again_for_ever_ends_as_unreachable() {
    let fake = Fake::start(|n, _| match n {
        0 => answer(207, &[], r#"{"201":[0,1,2],"409":[],"500":[3]}"#),
        _ => answer(207, &[], r#"{"201":[],"409":[],"500":[0]}"#),
    })
    .await;
    let fatal = Fatal::from(send(&fake, None).await.err().unwrap());
    assert_eq!((fatal.exit, fake.lines().len()), (Exit::Unreachable, 5));
}

#[tokio::test]
async fn a_refusal_names_the_upload_and_the_keys_by_their_place_in_the_file() {
    let fake = Fake::start(|n, _| match n {
        0 => answer(201, &[], ""),
        _ => {
            let keys = json!([{ "index": 1, "code": "key-too-old" }]);
            let body = json!({ "code": "invalid-keys", "detail": "1 of 4", "invalid_keys": keys });
            answer(400, &[], body.to_string())
        }
    })
    .await;
    let fatal = Fatal::from(send(&fake, Some("t")).await.err().unwrap());
    assert_eq!((fatal.exit, fake.lines().len()), (Exit::Failure, 2), "what follows waits");
    let says = "the hub answers 400 invalid-keys: upload 2 of 3, tag t-2: 1 of 4: keys 5 (key-too-old)";
    assert!(fatal.message.starts_with(says), "{fatal}");
}

#[tokio::test]
async fn an_answer_that_leaves_a_key_out_or_names_one_twice_is_none() {
    for body in ["", "[]", r#"{"201":[0,1,2]}"#, r#"{"201":[0,1,2,3,4]}"#, r#"{"201":[0,1,2,3],"409":[3]}"#] {
        let fake = Fake::start(move |_, _| answer(207, &[], body)).await;
        let fatal = Fatal::from(send(&fake, None).await.err().unwrap());
        assert!(fatal.exit == Exit::Failure && fatal.message.contains("207"), "{body}: {fatal}");
    }
}
