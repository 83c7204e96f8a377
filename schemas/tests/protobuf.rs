//! The codec of keys is written by hand: it has to read, refuse and write what generated code does.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use keyferry_schemas::{
    efgs::{BadBody, DiagnosisKey, Encoding, MAX_KEYS, ReportType, decode, decode_joined, encode_protobuf},
    world::Rng,
};
use proptest::prelude::*;
use prost::Message;

#[allow(clippy::pedantic)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/keyferry.efgs.rs"));
}

fn ours(key: &wire::DiagnosisKey) -> DiagnosisKey {
    DiagnosisKey {
        key_data: key.key_data.clone(),
        rolling_start_interval_number: key.rolling_start_interval_number,
        rolling_period: key.rolling_period,
        transmission_risk_level: key.transmission_risk_level,
        visited_countries: key.visited_countries.iter().map(String::as_str).collect(),
        origin: key.origin.as_str().into(),
        report_type: key.report_type,
        days_since_onset_of_symptoms: key.days_since_onset_of_symptoms,
    }
}

/// Whether it was a batch.
fn same(body: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(body);
    let theirs = wire::DiagnosisKeyBatch::decode(body.clone());
    let expected = theirs.as_ref().ok().map(|batch| batch.keys.iter().map(ours).collect::<Vec<_>>());
    assert!(decode_joined(body.clone()).ok() == expected, "{}", hex::encode(&body));
    if let Ok(batch) = &theirs {
        let keys: Vec<_> = batch.keys.iter().map(ours).collect();
        assert!(encode_protobuf(&keys) == batch.encode_to_vec(), "{}", hex::encode(&body));
    }
    match decode(Encoding::Protobuf, body) {
        Err(BadBody::TooMany(n)) => assert!(n > MAX_KEYS),
        other => assert!(other.ok() == expected),
    }
    theirs.is_ok()
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        0u64..300,
        any::<u32>().prop_map(u64::from),
        any::<i32>().prop_map(|n| n as u64),
        any::<u64>()
    ]
}

/// With up to so many needless bytes, as some writers leave them.
fn varint(mut n: u64, needless: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    for _ in 0..needless {
        *out.last_mut().unwrap() |= 0x80;
        out.push(0);
    }
    out
}

/// One field of any number and form, mostly those that a key has.
fn field(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let texts = prop_oneof![
        3 => "[A-Z]{2}".prop_map(String::into_bytes),
        1 => ".{0,4}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    let forms = prop_oneof![
        3 => (number(), 0usize..3).prop_map(|(n, needless)| (0, varint(n, needless))),
        1 => any::<[u8; 8]>().prop_map(|b| (1, b.to_vec())),
        5 => (texts, 0usize..2).prop_map(|(b, more)| (2, [varint(b.len() as u64, more), b].concat())),
        1 => any::<[u8; 4]>().prop_map(|b| (5, b.to_vec())),
        1 => (0u8..8, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(form, b)| (form, b)),
    ];
    let flat = (prop_oneof![9 => 1u64..9, 1 => 0u64..40_000], forms)
        .prop_map(|(n, (form, value))| [varint(n << 3 | u64::from(form), 0), value].concat());
    if depth == 0 {
        return flat.boxed();
    }
    let group = (1u64..12, prop::collection::vec(field(depth - 1), 0..3), prop::bool::weighted(0.9))
        .prop_map(|(n, inner, right)| {
            let end = if right { n } else { n + 1 };
            [varint(n << 3 | 3, 0), inner.concat(), varint(end << 3 | 4, 0)].concat()
        });
    prop_oneof![9 => flat, 1 => group].boxed()
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    // Fields as they stand in a key, now and then with a length that is wrong.
    let key = (prop::collection::vec(field(2), 0..10), prop_oneof![30 => Just(0i64), 1 => -2i64..3])
        .prop_map(|(fields, off)| {
            let fields = fields.concat();
            let length = (fields.len() as i64 + off).max(0) as u64;
            [vec![0x0a], varint(length, 0), fields].concat()
        });
    prop::collection::vec(prop_oneof![9 => key, 1 => field(2)], 0..4).prop_map(|parts| parts.concat())
}

fn whole_key() -> impl Strategy<Value = wire::DiagnosisKey> {
    let codes = prop::collection::vec(prop_oneof![9 => "[A-Z]{2}", 1 => ".{0,3}"], 0..70);
    (prop::collection::vec(any::<u8>(), 0..40), any::<[u32; 2]>(), any::<[i32; 3]>(), codes, "[A-Z]{0,3}")
        .prop_map(|(key_data, [start, period], [risk, report_type, onset], visited_countries, origin)| {
            wire::DiagnosisKey {
                key_data: key_data.into(),
                rolling_start_interval_number: start,
                rolling_period: period,
                transmission_risk_level: risk,
                visited_countries,
                origin,
                report_type,
                days_since_onset_of_symptoms: onset,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fields_are_read_as_generated_code_reads_them(body in body()) {
        same(&body);
    }

    #[test]
    fn any_bytes_are_read_as_generated_code_reads_them(body: Vec<u8>) {
        same(&body);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_key_is_written_as_generated_code_writes_it(
        keys in prop::collection::vec(whole_key(), 0..4),
        cut: prop::sample::Index,
        spoilt: u8,
    ) {
        let mut body = wire::DiagnosisKeyBatch { keys }.encode_to_vec();
        prop_assert!(same(&body));
        if !body.is_empty() {
            let at = cut.index(body.len());
            same(&body[..at]);
            body[at] = spoilt;
            same(&body);
        }
    }
}

#[test]
fn the_forms_that_matter_are_met() {
    // What the strategy makes is of both kinds, or it compares nothing.
    let mut rng = Rng::new(1);
    let group = |levels: usize| [vec![0x4b; levels], vec![0x4c; levels]].concat();
    let inside = |fields: &[u8]| [&[0x0a], &varint(fields.len() as u64, 0)[..], fields].concat();
    for (levels, holds) in [(1, true), (100, true), (101, false)] {
        assert_eq!(same(&group(levels)), holds, "{levels}");
    }
    for (levels, holds) in [(1, true), (98, true), (99, true), (100, false)] {
        assert_eq!(same(&inside(&group(levels))), holds, "{levels} in a key");
    }
    let table: [(&[u8], bool); 14] = [
        (&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], true),
        (&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], false),
        (&[0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], true),
        (&[0x10, 0x80], false),
        (&[0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], true),
        (&[0x0a, 2, 1, 2, 0x0a, 1, 3], true),
        (&[0x12, 1, 0], false),
        (&[0x08, 1], false),
        (&[0x32, 2, 0xc3, 0x28], false),
        (&[0x2a, 1, 0xff], false),
        (&[0x2a, 0, 0x2a, 2, b'D', b'E'], true),
        (&[0x00, 1], false),
        (&[0x80, 0x80, 0x80, 0x80, 0x10, 0], false),
        (&[0x4c], false),
    ];
    for (fields, holds) in table {
        assert_eq!(same(&inside(fields)), holds, "{fields:?}");
        same(fields);
    }
    let mut body: Vec<u8> = inside(&[0x10, 7]).repeat(MAX_KEYS);
    assert!(same(&body));
    body.extend_from_slice(&inside(&[rng.number() as u8 & 7]));
    same(&body);
}

#[test]
fn report_types_are_those_of_the_contract() {
    for number in -1..8 {
        let theirs = wire::ReportType::try_from(number).ok().map(|t| t.as_str_name());
        assert_eq!(ReportType::of(number).map(ReportType::name), theirs);
    }
}
