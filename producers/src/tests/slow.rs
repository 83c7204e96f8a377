//! Bodies that do not come.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::fixture::*;
use crate::{answer::Decision, body::PATIENCE, config::GatewayConfig};

/// Sends what is given of an upload, a byte of body every half second after it, and returns the answer.
async fn drip(world: &World, framing: &str) -> String {
    let mut stream = TcpStream::connect(world.server.local_addr()).await.unwrap();
    let head = format!(
        "POST /diagnosiskeys/upload HTTP/1.1\r\nhost: hub\r\nx-ssl-client-sha256: {}\r\nx-ssl-client-dn: C=DE\r\n\
         batchtag: tag\r\nbatchsignature: MAA=\r\ncontent-type: application/protobuf; version=1.0\r\n{framing}\r\n\r\n",
        world.thumbprint("DE"),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut from, mut to) = stream.split();
    let dripping = async {
        while to.write_all(if framing.starts_with("transfer") { b"1\r\nx\r\n" } else { b"x" }).await.is_ok() {
            sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; 4096];
    let answered = async {
        let length = from.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    tokio::select! {
        answer = timeout(PATIENCE * 6, answered) => answer.unwrap(),
        () = dripping => unreachable!(),
    }
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_answered_and_leaves_its_place() {
    let config = GatewayConfig { max_concurrent_uploads_per_member: 2, ..GatewayConfig::default() };
    let world = World::with(Fate::Undecided, config).await.unwrap();
    let begun = Instant::now();
    let answers =
        tokio::join!(drip(&world, "content-length: 1000"), drip(&world, "transfer-encoding: chunked"));
    assert!(begun.elapsed() >= PATIENCE);
    for answer in [answers.0, answers.1] {
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body-too-slow"), "{answer}");
    }
    assert!(world.pipeline.written.lock().unwrap().is_empty());
    world.decide(Fate::Decided(Decision::Created { batch_tag: "tag".into() }));
    assert_eq!(world.upload(1).send().await.unwrap().status(), 201);
}
