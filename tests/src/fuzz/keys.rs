//! Keys as backends send them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use keyferry_schemas::{
    canonical::{Canonical, base64_order},
    country::Country,
    efgs::{
        BadBody, DiagnosisKey, Encoding, MAX_KEYS, ReportType, decode, decode_joined, encode_json,
        encode_protobuf,
    },
};
use serde_json::Value;

use super::one_line;

/// An upload as protobuf.
pub fn protobuf(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let joined = decode_joined(data.clone());
    match decode(Encoding::Protobuf, data.clone()) {
        Ok(keys) => {
            assert!(joined.is_ok_and(|j| j == keys), "an upload is read otherwise than a download");
            holds_no_more_than(&data, &keys);
            both_encodings_carry(&keys);
            // A batch of batches: what distribution relies on when it joins them.
            let twice = decode_joined([&data[..], &data].concat().into()).unwrap();
            assert!(twice == [&keys[..], &keys].concat(), "two batches in a row are not both batches");
        }
        Err(BadBody::TooMany(n)) => {
            assert!(n > MAX_KEYS);
            assert!(joined.map_or(true, |keys| keys.len() == n), "keys are counted otherwise than read");
        }
        Err(error) => {
            one_line(&error);
            assert_eq!(joined.err(), Some(error));
        }
    }
}

/// An upload as JSON.
pub fn json(data: &[u8]) {
    let keys = match decode(Encoding::Json, Bytes::copy_from_slice(data)) {
        Ok(keys) => keys,
        Err(error) => return one_line(&error),
    };
    holds_no_more_than(data, &keys);
    both_encodings_carry(&keys);
    // Another reader of the same text must find the same keys; it may refuse numbers that were passed over.
    let Ok(text) = serde_json::from_slice::<Value>(data) else { return };
    assert!(text.is_object());
    let listed = text.get("keys").map_or(&[][..], |k| k.as_array().unwrap());
    assert_eq!(listed.len(), keys.len());
    for (key, value) in keys.iter().zip(listed) {
        let text_of = |name: &str| value.get(name).map_or("", |v| v.as_str().unwrap());
        let number = |name: &str| value.get(name).map_or(0, |v| v.as_i64().unwrap());
        assert!(STANDARD.encode(&key.key_data) == text_of("keyData"));
        assert_eq!(key.origin, text_of("origin"));
        assert_eq!(i64::from(key.rolling_start_interval_number), number("rollingStartIntervalNumber"));
        assert_eq!(i64::from(key.rolling_period), number("rollingPeriod"));
        assert_eq!(i64::from(key.transmission_risk_level), number("transmissionRiskLevel"));
        let kind = value.get("reportType").map_or(Some(0), |v| match v.as_str() {
            Some(name) => ReportType::named(name).map(|t| i64::from(t as i32)),
            None => v.as_i64(),
        });
        assert_eq!(Some(i64::from(key.report_type)), kind);
        let onset = ["days_since_onset_of_symptoms", "daysSinceOnsetOfSymptoms"].map(number);
        assert_eq!(i64::from(key.days_since_onset_of_symptoms), onset[0] + onset[1]);
    }
}

/// The bytes that an origin signs, against the words of the contract done slowly.
pub fn canonical(data: &[u8]) {
    // Without the limit of uploads: more than one key decides nothing here.
    let Ok(keys) = decode_joined(Bytes::copy_from_slice(data)) else { return };
    let mut slow: Vec<_> = keys.iter().map(in_words).collect();
    slow.sort_by_key(|text| STANDARD.encode(text));
    let canonical = Canonical::of(&keys);
    assert!(canonical.bytes() == slow.concat().as_bytes(), "not the canonical bytes");
    let mut indexes: Vec<_> = canonical.iter().map(|(index, _)| index).collect();
    indexes.sort_unstable();
    assert!(indexes.into_iter().eq(0..keys.len()), "a key is lost or doubled");
    let reversed: Vec<_> = keys.iter().rev().cloned().collect();
    assert!(Canonical::of(&reversed).bytes() == canonical.bytes(), "the order of an upload matters");
    // Two keys that are taken for one would be one to every signature.
    let own: Vec<_> = canonical.iter().collect();
    for pair in own.windows(2).filter(|pair| pair[0].1 == pair[1].1) {
        let pair = [&keys[pair[0].0], &keys[pair[1].0]];
        assert!(pair[0] == pair[1] || pair.iter().any(|key| !well_formed(key)), "two keys are one");
    }
    let (a, b) = data.split_at(data.len() / 2);
    assert_eq!(base64_order(a, b), STANDARD.encode(a).cmp(&STANDARD.encode(b)));
}

fn well_formed(key: &DiagnosisKey) -> bool {
    key.visited_countries.iter().all(|c| c.parse::<Country>().is_ok())
}

fn in_words(key: &DiagnosisKey) -> String {
    let visited = key.visited_countries.iter().collect::<Vec<_>>().join(",");
    let fields: [&[u8]; 8] = [
        &key.key_data,
        &key.rolling_start_interval_number.to_be_bytes(),
        &key.rolling_period.to_be_bytes(),
        &key.transmission_risk_level.to_be_bytes(),
        visited.as_bytes(),
        key.origin.as_bytes(),
        &key.report_type.to_be_bytes(),
        &key.days_since_onset_of_symptoms.to_be_bytes(),
    ];
    fields.map(|field| STANDARD.encode(field) + ".").concat()
}

fn both_encodings_carry(keys: &[DiagnosisKey]) {
    for (encoding, body) in [(Encoding::Protobuf, encode_protobuf(keys)), (Encoding::Json, encode_json(keys))]
    {
        assert!(decode(encoding, body.into()).is_ok_and(|back| back == keys), "{encoding:?} loses something");
    }
}

/// Text and bytes can not be more than what was sent; nor keys, of which the shortest takes two bytes.
fn holds_no_more_than(data: &[u8], keys: &[DiagnosisKey]) {
    assert!(keys.len() <= MAX_KEYS && keys.len() * 2 <= data.len());
    let held = |k: &DiagnosisKey| {
        k.key_data.len() + k.origin.len() + k.visited_countries.iter().map(str::len).sum::<usize>()
    };
    assert!(keys.iter().map(held).sum::<usize>() <= data.len());
}
