//! The golden signatures of `vectors/signatures.json`, made by programs of others; and bare ones, by the trust anchor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_schemas::{
    certificate::Certificate,
    cms::Detached,
    world::{Algorithm, Identity, World},
};
use openssl::{hash::MessageDigest, sign::Signer};
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

#[test]
fn the_anchor_signs_registrations_with_any_of_sha2() {
    let now = jiff::Timestamp::constant(1_603_022_400, 0);
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Rsa(3072)] {
        let mut world = World::new(&["DE", "FR"], now).unwrap();
        world.anchor = Identity::new("EU", "Anchor", algorithm, now).unwrap();
        let mut sign = |digest| {
            for entry in world.document.members.iter_mut().flat_map(|member| &mut member.certificates) {
                let mut signer = Signer::new(digest, &world.anchor.key).unwrap();
                let signature = signer.sign_oneshot_to_vec(entry.pem.as_bytes()).unwrap();
                entry.anchor_signature = STANDARD.encode(signature);
            }
            world.network().map(drop)
        };
        for digest in [MessageDigest::sha256(), MessageDigest::sha384(), MessageDigest::sha512()] {
            sign(digest).unwrap();
        }
        for weak in [MessageDigest::sha1(), MessageDigest::sha224()] {
            assert!(sign(weak).is_err(), "{algorithm:?}");
        }
    }
}
