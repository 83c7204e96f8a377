//! The golden signatures of `vectors/signatures.json`, made by programs of others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_schemas::{certificate::Certificate, cms::Detached};
use serde_json::Value;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The code of the refusal, or what else there is to say.
fn judged(vector: &Value, content: &[u8]) -> &'static str {
    let certificate = Certificate::from_pem(vector["certificate"].as_str().unwrap()).unwrap();
    match Detached::read(&bytes(&vector["cms"])) {
        Err(rejection) => rejection.code(),
        Ok(cms) if cms.names(&certificate) && cms.verify(content, &certificate) => "holds",
        Ok(_) => "does-not-hold",
    }
}

#[test]
fn signatures_by_programs_of_others() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/signatures.json")).unwrap();
    let content = bytes(&vectors["content"]);
    let list = |name: &str| vectors[name].as_array().unwrap();
    for good in list("good") {
        assert_eq!(judged(good, &content), "holds", "{}", good["name"]);
        assert_eq!(judged(good, b""), "does-not-hold", "{}", good["name"]);
    }
    for bad in list("bad") {
        assert_eq!(judged(bad, &content), bad["refused"].as_str().unwrap(), "{}", bad["name"]);
    }
    assert_eq!((list("good").len(), list("bad").len()), (19, 14));
}
