//! Clients that take their time: none keeps a place for longer than it is given.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    HttpConfig, Server,
    server::{Patience, serve_with},
};
use crate::shutdown::Shutdown;

/// More than the buffers of both sides hold.
const LARGE: usize = 64 << 20;
const LONG: Duration = Duration::from_secs(60);

async fn start(patience: Patience) -> (Server, Shutdown) {
    let config = HttpConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        trusted_proxies: Vec::new(),
        max_connections: 1,
        max_connections_per_address: 1,
        drain_s: 0,
    };
    let router = Router::new().route("/large", get(async || vec![7u8; LARGE]));
    let shutdown = Shutdown::new();
    (serve_with(&config, router, shutdown.clone(), patience).await.unwrap(), shutdown)
}

/// Everything that the server sends until it closes the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // That it is reset is as good as that it ends.
    let _ = timeout(LONG, stream.read_to_end(&mut all)).await.expect("it is closed");
    all
}

/// There is one place only, so that an answer shows that it is free.
async fn assert_free(server: &Server) {
    let ask = async || {
        let mut stream = TcpStream::connect(server.local_addr()).await.ok()?;
        stream.write_all(b"GET /none HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.ok()?;
        all.starts_with(b"HTTP/1.1 404 ").then_some(())
    };
    let free = async {
        while ask().await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, free).await.expect("its place is free");
}

#[tokio::test]
async fn who_does_not_end_a_head_is_closed() {
    let (server, _shutdown) =
        start(Patience { head: Duration::from_millis(300), ..Patience::default() }).await;
    for begin in ["", "GET /large HTTP/1.1\r\nhost: hu"] {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{begin:?}");
        drop(stream);
        assert_free(&server).await;
    }
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_closed() {
    let (server, _shutdown) =
        start(Patience { answer: Duration::from_millis(300), ..Patience::default() }).await;
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: hub\r\n\r\n").await.unwrap();
    // Nothing is read while another one waits for the place.
    assert_free(&server).await;
    let taken = rest(&mut stream).await;
    assert!(taken.starts_with(b"HTTP/1.1 200 ") && taken.len() < LARGE, "{}", taken.len());
}

#[tokio::test]
async fn who_takes_an_answer_slowly_gets_all_of_it() {
    let patience = Patience { answer: Duration::from_secs(5), ..Patience::default() };
    let (server, _shutdown) = start(patience).await;
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut taken, mut chunk) = (0, vec![0; 4 << 20]);
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match stream.read(&mut chunk).await.unwrap() {
            0 => break,
            n => taken += n,
        }
    }
    assert!(taken > LARGE);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_and_not_kept() {
    let (server, _shutdown) = start(Patience::default()).await;
    for (name, head) in [
        ("headers", format!("GET / HTTP/1.1\r\nhost: hub\r\nx: {}\r\n\r\n", "a".repeat(70_000))),
        ("many", format!("GET / HTTP/1.1\r\nhost: hub\r\n{}\r\n", "x: y\r\n".repeat(100))),
        ("path", format!("GET /{} HTTP/1.1\r\nhost: hub\r\n\r\n", "a".repeat(70_000))),
    ] {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        // It need not take all of it.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(&mut stream).await;
        let line = String::from_utf8_lossy(&answer);
        assert!(line.starts_with("HTTP/1.1 431 "), "{name}: {line}");
        drop(stream);
        assert_free(&server).await;
    }
}
