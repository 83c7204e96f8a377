//! Bodies as strangers send them: none may cost more than it is worth.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use bytes::Bytes;
use jiff::Timestamp;
use keyferry_schemas::{
    efgs::{BadBody, DiagnosisKey, Encoding, MAX_KEYS, decode, encode_json, encode_protobuf},
    topics::MAX_UPLOAD_BYTES,
    world::{Rng, key},
};
use proptest::prelude::*;

fn keys(n: usize) -> Vec<DiagnosisKey> {
    let mut rng = Rng::new(1);
    let now = Timestamp::constant(1_603_022_400, 0).into();
    (0..n).map(|_| key(&mut rng, "NL", &["DE"], now)).collect()
}

fn both(keys: &[DiagnosisKey]) -> [(Encoding, Bytes); 2] {
    [(Encoding::Protobuf, encode_protobuf(keys).into()), (Encoding::Json, encode_json(keys).into())]
}

#[test]
fn the_most_keys_are_read_and_one_more_is_counted() {
    let keys = keys(MAX_KEYS + 1);
    for (encoding, body) in both(&keys[..MAX_KEYS]) {
        assert!(decode(encoding, body).unwrap() == keys[..MAX_KEYS], "{encoding:?}");
    }
    for (encoding, body) in both(&keys) {
        assert_eq!(decode(encoding, body), Err(BadBody::TooMany(MAX_KEYS + 1)), "{encoding:?}");
    }
}

#[test]
fn a_body_full_of_empty_keys_is_counted_and_not_held() {
    let protobuf = [0x0a, 0x00].repeat(MAX_UPLOAD_BYTES / 2);
    assert_eq!(decode(Encoding::Protobuf, protobuf.into()), Err(BadBody::TooMany(1 << 20)));
    let json = format!(r#"{{"keys":[{}{{}}]}}"#, "{},".repeat(699_000));
    assert_eq!(decode(Encoding::Json, json.into()), Err(BadBody::TooMany(699_001)));
    // Behind the last key that is held, anything that is JSON counts; what is not, is an error still.
    let odd = format!(r#"{{"keys":[{}[[0]]]}}"#, "{},".repeat(MAX_KEYS));
    assert_eq!(decode(Encoding::Json, odd.into()), Err(BadBody::TooMany(MAX_KEYS + 1)));
    let cut = format!(r#"{{"keys":[{}"#, "{},".repeat(MAX_KEYS + 1));
    assert!(matches!(decode(Encoding::Json, cut.into()), Err(BadBody::Json(_))));
}

#[test]
fn counting_changes_nothing_for_other_bodies() {
    let good = encode_protobuf(&keys(3));
    // Unknown fields do not count, and what ends too early is named by the decoder.
    let unknown = [&good[..], &[0x10, 0x05, 0x1a, 0x01, 0x00]].concat();
    assert_eq!(decode(Encoding::Protobuf, unknown.into()).unwrap().len(), 3);
    for end in 0..good.len() {
        match decode(Encoding::Protobuf, Bytes::copy_from_slice(&good[..end])) {
            Ok(keys) => assert!(encode_protobuf(&keys).len() == end, "{end}"),
            Err(error) => assert!(matches!(error, BadBody::Protobuf(_)), "{end}"),
        }
    }
    let nested = "[".repeat(1 << 20);
    for json in [format!(r#"{{"keys":{nested}"#), format!(r#"{{"other":{nested}"#), nested] {
        assert!(matches!(decode(Encoding::Json, json.into()), Err(BadBody::Json(_))));
    }
    // Keys are objects; nothing is told from its position in an array.
    let by_position = r#"{"keys":[["dcc0xt0aeC3nqWXaXrkxJQ==",2642976,144,1,["DE"],"NL",1,0]]}"#;
    for json in [r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, by_position, "[]", "[[]]", "", "null"] {
        assert!(matches!(decode(Encoding::Json, json.into()), Err(BadBody::Json(_))), "{json}");
    }
    assert_eq!(decode(Encoding::Json, "{}".into()), Ok(Vec::new()));
}

proptest! {
    #[test]
    fn no_body_panics(body: Vec<u8>, at: proptest::sample::Index, byte: u8) {
        let _ = decode(Encoding::Protobuf, body.clone().into());
        let _ = decode(Encoding::Json, body.into());
        for (encoding, body) in both(&keys(2)) {
            let mut changed = body.to_vec();
            changed[at.index(body.len())] = byte;
            if let Err(error) = decode(encoding, changed.into()) {
                // Neither encoding's error may quote what it could not read: it has no text beyond its own words.
                let words = error.to_string();
                prop_assert!(words.len() < 300 && words.is_ascii() && !words.contains("=="), "{words}");
            }
        }
    }
}
