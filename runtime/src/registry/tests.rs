//! Against a small stand-in for a registry: what the whole-system tests try on a real one.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use serde_json::{Value, json};

use super::*;
use crate::exit::Exit;

/// Schemas in the order of their ids, and the subjects that have a rule.
#[derive(Default)]
struct Store {
    schemas: Vec<(String, String)>,
    rules: Vec<String>,
}

type Shared = Arc<Mutex<Store>>;
type Answer = (StatusCode, String);

fn absent() -> Answer {
    (StatusCode::NOT_FOUND, json!({ "error_code": 40403, "message": "not found" }).to_string())
}

fn text(body: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()["schema"].as_str().unwrap().to_owned()
}

fn find(store: &Shared, subject: &str, body: &str) -> Option<usize> {
    let schema = text(body);
    store.lock().unwrap().schemas.iter().position(|(s, text)| s == subject && *text == schema)
}

async fn register(State(store): State<Shared>, Path(subject): Path<String>, body: String) -> String {
    let id = find(&store, &subject, &body).unwrap_or_else(|| {
        let mut store = store.lock().unwrap();
        store.schemas.push((subject, text(&body)));
        store.schemas.len() - 1
    });
    json!({ "id": id + 100 }).to_string()
}

async fn lookup(State(store): State<Shared>, Path(subject): Path<String>, body: String) -> Answer {
    find(&store, &subject, &body)
        .map_or_else(absent, |id| (StatusCode::OK, json!({ "id": id + 100 }).to_string()))
}

async fn by_id(State(store): State<Shared>, Path(id): Path<usize>) -> Answer {
    match store.lock().unwrap().schemas.get(id - 100) {
        Some((_, text)) => (StatusCode::OK, json!({ "schema": text }).to_string()),
        None => absent(),
    }
}

/// As some registries do, it has no rule for a subject that is not there.
async fn rule(State(store): State<Shared>, Path(subject): Path<String>, body: String) -> Answer {
    let mut store = store.lock().unwrap();
    if !store.schemas.iter().any(|(s, _)| *s == subject) {
        return absent();
    }
    assert_eq!(body, r#"{"compatibility":"BACKWARD_TRANSITIVE"}"#);
    store.rules.push(subject);
    (StatusCode::OK, body)
}

fn start() -> (SocketAddr, Shared) {
    let store = Shared::default();
    let routes = Router::new()
        .route("/api/subjects/{subject}/versions", post(register))
        .route("/api/subjects/{subject}", post(lookup))
        .route("/api/schemas/ids/{id}", get(by_id))
        .route("/api/config/{subject}", put(rule))
        .with_state(Arc::clone(&store));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
    });
    (told.recv().unwrap(), store)
}

fn config(address: SocketAddr) -> RegistryConfig {
    RegistryConfig { url: format!("http://user:secret@{address}/api/"), timeout_ms: 5000 }
}

#[test]
fn a_role_starts_only_with_its_own_schemas_registered() {
    let (address, store) = start();
    let Err(fatal) = codec(Some(&config(address))) else { panic!("nothing is registered yet") };
    assert_eq!(fatal.exit, Exit::Config);
    let text = fatal.to_string();
    assert!(
        text.contains("keyferry.v1.Upload") && text.ends_with("run `keyferry schemas register`"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");

    let registry = Registry::new(&config(address)).unwrap();
    let first = registry.register().unwrap();
    assert_eq!(store.lock().unwrap().rules.len(), SCHEMAS.len());
    assert_eq!(registry.register().unwrap(), first);
    let codec = codec(Some(&config(address))).unwrap();
    assert_eq!(codec.frame::<keyferry_schemas::records::Upload>(&[])[..], [0, 0, 0, 0, 100]);
    assert_eq!(registry.schema(100).unwrap().as_deref(), Some(SCHEMAS[0].1));
    assert_eq!(registry.schema(999).unwrap(), None);
}

#[tokio::test]
async fn it_may_be_asked_from_within_a_runtime() {
    let (address, _) = start();
    let registry = Registry::new(&config(address)).unwrap();
    assert_eq!(registry.lookup("keyferry.v1.Upload", "{}").unwrap(), None);
}

#[test]
fn no_registry_is_one_line_and_the_code_for_it() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Err(fatal) = codec(Some(&config(closed))) else { panic!() };
    assert_eq!(fatal.exit, Exit::Unreachable);
    let expected = format!("the schema registry at http://{closed}/api does not answer: Connection refused");
    assert!(fatal.message.starts_with(&expected), "{fatal}");
}
