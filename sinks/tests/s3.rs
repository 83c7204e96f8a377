//! The same on S3: on a server of its own, which `make setup` installs, with the credentials that `make test` makes up.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::cc;
use keyferry_runtime::dependent::Dependent;
use keyferry_schemas::time::Millis;
use keyferry_sinks::{
    store::{Created, S3Config, Store, StoreConfig, data_path, log_path},
    sweep::sweep,
};

/// Starts the server with a bucket `keyferry`; it ends with what is returned.
fn server() -> (Dependent, String) {
    let named = std::env::var("AWS_ACCESS_KEY_ID").is_ok() && std::env::var("AWS_SECRET_ACCESS_KEY").is_ok();
    assert!(named, "the environment has no credentials for S3: run `make test`, or set any two as it does");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/moto_server");
    assert!(program.exists(), "{} is missing: run `make setup`", program.display());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()];
    let server = Dependent::launch(&program, arguments, Path::new("/dev/null"), None).unwrap();
    let address = format!("127.0.0.1:{port}");
    let give_up = Instant::now() + Duration::from_secs(60);
    let mut connection = loop {
        match TcpStream::connect(&address) {
            Ok(connection) => break connection,
            Err(e) if Instant::now() > give_up => panic!("the server does not answer: {e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let request = format!("PUT /keyferry HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    (server, format!("http://{address}"))
}

#[tokio::test]
async fn a_bucket_creates_once() {
    let (_server, endpoint) = server();
    let config = S3Config {
        bucket: "keyferry".into(),
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint),
        prefix: Some("some/prefix".into()),
        allow_http: true,
    };
    let store = Store::open(&StoreConfig::S3(config)).await.unwrap();
    let path = log_path(cc("DE"), 1);
    store.delete(&path).await.unwrap();
    assert_eq!(store.create(&path, Bytes::from_static(b"a")).await.unwrap(), Created::New);
    assert_eq!(store.create(&path, Bytes::from_static(b"b")).await.unwrap(), Created::Exists);
    assert_eq!(store.get(&path).await.unwrap().unwrap(), "a");
    assert!(!store.exists(&log_path(cc("DE"), 2)).await.unwrap());
    let name = "0000000001-10-0011223344556677";
    store.put(&data_path(cc("DE"), name), Bytes::from_static(b"keys")).await.unwrap();
    let swept = sweep(&store, cc("DE"), Millis(10)).await.unwrap();
    assert_eq!((swept.erased, swept.oldest), (1, None));
    assert_eq!(store.get(&data_path(cc("DE"), name)).await.unwrap(), None);
}
