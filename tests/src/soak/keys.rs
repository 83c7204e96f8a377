//! The rules about keys: which is good, which revises another, and in which order they are signed.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use keyferry_schemas::efgs::DiagnosisKey;

/// A clinical diagnosis becomes a confirmed test, either is revoked; nothing else changes.
pub(super) fn revises(old: &DiagnosisKey, new: &DiagnosisKey) -> bool {
    let as_before = DiagnosisKey { report_type: old.report_type, ..new.clone() };
    as_before == *old && matches!((old.report_type, new.report_type), (2, 1) | (2 | 1, 5))
}

/// Why this is no key that may be uploaded.
pub(super) fn fault(key: &DiagnosisKey, now: Timestamp) -> Option<&'static str> {
    let (today, start) = (now.as_second() / 86_400, i64::from(key.rolling_start_interval_number));
    let country = |c: &str| c.len() == 2 && c.bytes().all(|b| b.is_ascii_uppercase());
    let rules = [
        (key.key_data.len() == 16, "key-data-length"),
        (start <= now.as_second() / 600 + 1, "key-in-future"),
        (start >= (today - 15) * 144, "key-too-old"),
        ((1..=144).contains(&key.rolling_period), "rolling-period"),
        (
            (0..=8).contains(&key.transmission_risk_level) || key.transmission_risk_level == i32::MAX,
            "risk-level",
        ),
        ((0..=5).contains(&key.report_type), "report-type"),
        (key.visited_countries.iter().all(country), "country-malformed"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, code)| code)
}

/// The signed text of a key: its fields in base64, each with a dot behind it.
pub(super) fn text(key: &DiagnosisKey) -> String {
    let fields = [
        key.key_data.to_vec(),
        key.rolling_start_interval_number.to_be_bytes().to_vec(),
        key.rolling_period.to_be_bytes().to_vec(),
        key.transmission_risk_level.to_be_bytes().to_vec(),
        key.visited_countries.iter().collect::<Vec<_>>().join(",").into_bytes(),
        key.origin.as_bytes().to_vec(),
        key.report_type.to_be_bytes().to_vec(),
        key.days_since_onset_of_symptoms.to_be_bytes().to_vec(),
    ];
    fields.map(|field| STANDARD.encode(field) + ".").concat()
}

/// The indexes of the keys in the order of the base64 of their texts.
pub(super) fn canonical_order(keys: &[DiagnosisKey]) -> Vec<usize> {
    let mut order: Vec<_> = keys.iter().enumerate().map(|(i, k)| (STANDARD.encode(text(k)), i)).collect();
    order.sort();
    order.into_iter().map(|(_, i)| i).collect()
}
