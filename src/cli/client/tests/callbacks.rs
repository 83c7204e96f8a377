//! Callbacks.

use keyferry_runtime::exit::{Exit, Fatal};

use super::*;
use crate::cli::client::callback::{delete, list, set};

#[tokio::test]
async fn they_are_listed_set_and_deleted_as_the_contract_says() {
    let fake = Fake::start(|n, _| match n {
        0 => answer(200, &[], r#"[{"callbackId":"a","url":"https://backend.example/new"}]"#),
        _ => answer(200, &[], ""),
    })
    .await;
    let hub = fake.hub();
    list(&hub, false).await.unwrap();
    set(&hub, "a/b c", &"https://backend.example/new".parse().unwrap(), false).await.unwrap();
    delete(&hub, "a/b c", true).await.unwrap();
    assert_eq!(
        fake.lines(),
        [
            "GET /diagnosiskeys/callback",
            "PUT /diagnosiskeys/callback/a%2Fb%20c?url=https%3A%2F%2Fbackend.example%2Fnew",
            "DELETE /diagnosiskeys/callback/a%2Fb%20c",
        ]
    );
}

#[tokio::test]
async fn one_that_is_gone_after_a_lost_answer_is_deleted_and_an_unknown_one_is_not() {
    let fake = Fake::start(|n, _| if n == 0 { broken() } else { problem(404, "callback-unknown") }).await;
    delete(&fake.hub(), "a", false).await.unwrap();
    let fatal = Fatal::from(delete(&fake.hub(), "a", false).await.unwrap_err());
    assert!(fatal.exit == Exit::Failure && fatal.message.contains("404 callback-unknown"), "{fatal}");
}

#[tokio::test]
async fn what_the_hub_would_never_call_is_not_sent() {
    let fake = Fake::start(|_, _| answer(200, &[], "")).await;
    for address in ["http://backend.example/", "https://backend.example/?a=b", "https://backend.example/#a"] {
        let fatal = Fatal::from(set(&fake.hub(), "a", &address.parse().unwrap(), false).await.unwrap_err());
        assert_eq!(fatal.exit, Exit::Config, "{address}");
    }
    assert_eq!(fake.lines().len(), 0);
}
