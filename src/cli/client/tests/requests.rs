//! One request: what is sent again, and what is not.

use keyferry_runtime::exit::{Exit, Fatal};

use super::*;
use crate::cli::client::failure::Failure;

async fn send(fake: &Fake, limit: usize) -> Result<(u16, u32), Failure> {
    let hub = fake.hub();
    let answer = hub.send(|| hub.client.get(hub.at(&["x"])), limit).await?;
    Ok((answer.status.as_u16(), answer.attempts))
}

#[tokio::test]
async fn what_may_pass_is_sent_again() {
    let fake = Fake::start(|n, _| match n {
        0 => answer(503, &[("Retry-After", "0")], r#"{"code":"not-yet-decided","detail":"stored"}"#),
        1 => answer(429, &[], ""),
        2 => broken(),
        3 => answer(504, &[], "<html>"),
        _ => answer(201, &[], ""),
    })
    .await;
    assert_eq!(send(&fake, 100).await.unwrap(), (201, 5));
}

#[tokio::test]
async fn what_stays_is_not() {
    for status in [200, 207, 302, 304, 400, 403, 404, 409, 410, 413, 500] {
        let fake = Fake::start(move |_, _| answer(status, &[], "")).await;
        assert_eq!(send(&fake, 100).await.unwrap(), (status, 1));
    }
}

#[tokio::test]
async fn enough_is_enough_and_says_what_the_hub_said() {
    let fake = Fake::start(|_, _| problem(503, "broker-unreachable")).await;
    let fatal = Fatal::from(send(&fake, 100).await.unwrap_err());
    assert_eq!((fatal.exit, fake.lines().len()), (Exit::Unreachable, 5));
    assert!(fatal.message.contains("503 broker-unreachable: because; asked 5 time(s)"), "{fatal}");

    let fake = Fake::start(|_, _| answer(503, &[("Retry-After", "3600")], "")).await;
    let fatal = Fatal::from(send(&fake, 100).await.unwrap_err());
    assert_eq!((fatal.exit, fake.lines().len()), (Exit::Unreachable, 1));
    assert!(fatal.message.ends_with("run it again in 3600 s"), "{fatal}");
}

#[tokio::test]
async fn nobody_there_is_unreachable_in_the_end() {
    let fake = Fake::start(|_, _| answer(200, &[], "")).await;
    let hub = fake.hub();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let failure = hub.send(|| hub.client.get(format!("http://{gone}/")), 100).await.err().unwrap();
    let fatal = Fatal::from(failure);
    assert!(fatal.exit == Exit::Unreachable && fatal.message.contains(&gone.to_string()), "{fatal}");
}

#[tokio::test]
async fn an_answer_is_bounded() {
    let fake = Fake::start(|_, _| answer(200, &[], "x".repeat(101))).await;
    assert_eq!(Fatal::from(send(&fake, 100).await.unwrap_err()).exit, Exit::Failure);
    assert_eq!(send(&fake, 101).await.unwrap(), (200, 1));
}
