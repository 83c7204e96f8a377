//! The admin listener over HTTP.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use keyferry_runtime::{
    admin::{self, AdminServer},
    config::AdminConfig,
    exit::Exit,
    health::Health,
    metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn start(health: &Health) -> AdminServer {
    admin::serve(&AdminConfig { listen: "127.0.0.1:0".parse().unwrap() }, health.clone()).await.unwrap()
}

async fn get(server: &AdminServer, path: &str) -> (u16, String) {
    // A client of HTTP only still builds its TLS: it needs a provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let answer = reqwest::get(format!("http://{}{path}", server.address())).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn live_and_ready_follow_the_parts() {
    let health = Health::new("gateway");
    let server = start(&health).await;
    assert_eq!(get(&server, "/livez").await.0, 200);
    assert_eq!(get(&server, "/readyz").await, (503, "nothing runs yet\n".into()));

    let beat = health.component("ledger-tail", Duration::from_millis(200));
    beat.progress();
    assert_eq!(get(&server, "/readyz").await, (503, "gateway/ledger-tail: not ready\n".into()));
    beat.ready(true);
    assert_eq!(get(&server, "/readyz").await, (200, "gateway/ledger-tail: ready\n".into()));

    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, text) = get(&server, "/livez").await;
    assert_eq!(status, 503);
    assert!(text.starts_with("gateway/ledger-tail: stalled: silent for "), "{text}");
    beat.idle();
    assert_eq!(get(&server, "/livez").await.0, 200);
    beat.fail("the topic is gone");
    assert_eq!(
        get(&server, "/livez").await,
        (503, "gateway/ledger-tail: failed: the topic is gone\n".into())
    );
    assert_eq!(get(&server, "/nothing").await.0, 404);
}

#[tokio::test]
async fn metrics_are_text_and_know_progress() {
    let health = Health::new("admin-test");
    let beat = health.component("loop", Duration::from_secs(10));
    beat.progress();
    let counter = metrics::counter("keyferry_test_scraped_total", "Test.", &["origin"]).unwrap();
    counter.with_label_values(&["DE"]);
    let server = start(&health).await;
    let (status, text) = get(&server, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("keyferry_test_scraped_total{origin=\"DE\"} 0\n"), "{text}");
    assert!(text.contains("keyferry_build_info{revision="), "{text}");
    let name = "keyferry_last_progress_timestamp_seconds{role=\"admin-test\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    assert!(line.parse::<f64>().unwrap() > 1_700_000_000.0, "{line}");
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let health = Health::new("gateway");
    let server = start(&health).await;
    let fatal = admin::serve(&AdminConfig { listen: server.address() }, health).await.unwrap_err();
    assert_eq!(fatal.exit, Exit::Failure);
    let expected = format!("admin.listen: can not listen on {}: Address already in use", server.address());
    assert!(fatal.message.starts_with(&expected) && !fatal.message.contains('\n'), "{fatal}");
}

#[tokio::test]
async fn it_stops_when_told_although_a_client_stays_connected() {
    let server = start(&Health::new("gateway")).await;
    let address = server.address();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    client.read_u8().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.unwrap();
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn dropping_stops_it_too() {
    let server = start(&Health::new("gateway")).await;
    let address = server.address();
    drop(server);
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it still listens");
}
