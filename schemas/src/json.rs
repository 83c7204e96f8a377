//! The JSON form of an EFGS batch: protobuf field names, camelCase accepted too, bytes as base64.

use std::{fmt, marker::PhantomData};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::efgs::{BadBody, DiagnosisKey, MAX_KEYS, ReportType};

#[derive(Deserialize)]
struct Batch {
    #[serde(default)]
    keys: Keys,
}

/// A JSON object. A derived struct alone would read an array as well, its fields by position, which nobody agreed on.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Named(PhantomData))
    }
}

/// The first [`MAX_KEYS`] keys, and how many there are.
#[derive(Default)]
struct Keys {
    held: Vec<DiagnosisKey>,
    count: usize,
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;

        impl<'de> Visitor<'de> for Counting {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Keys, A::Error> {
                let mut held = Vec::new();
                while held.len() < MAX_KEYS {
                    match list.next_element::<Object<Key>>()? {
                        Some(Object(key)) => held.push(key.into()),
                        None => return Ok(Keys { count: held.len(), held }),
                    }
                }
                let mut count = held.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Keys { held, count })
            }
        }

        deserializer.deserialize_seq(Counting)
    }
}

#[derive(Serialize)]
struct BatchOut<'a> {
    keys: Vec<KeyOut<'a>>,
}

// Unknown fields are ignored, as the protobuf form ignores them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    #[serde(default, deserialize_with = "base64_bytes")]
    key_data: Bytes,
    #[serde(default)]
    rolling_start_interval_number: u32,
    #[serde(default)]
    rolling_period: u32,
    #[serde(default)]
    transmission_risk_level: i32,
    #[serde(default)]
    visited_countries: Vec<String>,
    #[serde(default)]
    origin: String,
    #[serde(default, deserialize_with = "report_type")]
    report_type: i32,
    #[serde(default, alias = "days_since_onset_of_symptoms")]
    days_since_onset_of_symptoms: i32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyOut<'a> {
    #[serde(serialize_with = "write_base64")]
    key_data: &'a [u8],
    rolling_start_interval_number: u32,
    rolling_period: u32,
    transmission_risk_level: i32,
    visited_countries: Vec<&'a str>,
    origin: &'a str,
    #[serde(serialize_with = "write_report_type")]
    report_type: i32,
    #[serde(rename = "days_since_onset_of_symptoms")]
    days_since_onset_of_symptoms: i32,
}

pub(crate) fn decode(body: &[u8]) -> Result<Vec<DiagnosisKey>, BadBody> {
    // serde_json's own message may quote a value, which may be key data: only the place is passed on.
    let place =
        |e: serde_json::Error| format!("{:?} error at line {} column {}", e.classify(), e.line(), e.column());
    let Object(batch) = serde_json::from_slice::<Object<Batch>>(body).map_err(|e| BadBody::Json(place(e)))?;
    match batch.keys {
        Keys { held, count } if held.len() == count => Ok(held),
        Keys { count, .. } => Err(BadBody::TooMany(count)),
    }
}

pub(crate) fn encode(keys: &[DiagnosisKey]) -> Vec<u8> {
    let keys = keys.iter().map(Into::into).collect();
    serde_json::to_vec(&BatchOut { keys }).unwrap_or_default()
}

impl From<Key> for DiagnosisKey {
    fn from(key: Key) -> Self {
        Self {
            key_data: key.key_data,
            rolling_start_interval_number: key.rolling_start_interval_number,
            rolling_period: key.rolling_period,
            transmission_risk_level: key.transmission_risk_level,
            visited_countries: key.visited_countries.into_iter().collect(),
            origin: key.origin.into(),
            report_type: key.report_type,
            days_since_onset_of_symptoms: key.days_since_onset_of_symptoms,
        }
    }
}

impl<'a> From<&'a DiagnosisKey> for KeyOut<'a> {
    fn from(key: &'a DiagnosisKey) -> Self {
        Self {
            key_data: &key.key_data,
            rolling_start_interval_number: key.rolling_start_interval_number,
            rolling_period: key.rolling_period,
            transmission_risk_level: key.transmission_risk_level,
            visited_countries: key.visited_countries.iter().collect(),
            origin: &key.origin,
            report_type: key.report_type,
            days_since_onset_of_symptoms: key.days_since_onset_of_symptoms,
        }
    }
}

fn base64_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map(Into::into).map_err(|_| D::Error::custom("key data is not base64"))
}

fn report_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i32),
        Name(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(n) => Ok(n),
        Either::Name(name) => ReportType::named(&name)
            .map(|t| t as i32)
            .ok_or_else(|| D::Error::custom("unknown name of a report type")),
    }
}

fn write_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn write_report_type<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match ReportType::of(*value) {
        Some(known) => serializer.serialize_str(known.name()),
        None => serializer.serialize_i32(*value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#"{"keys":[{"keyData":"dcc0xt0aeC3nqWXaXrkxJQ==","rollingStartIntervalNumber":2642976,
        "rollingPeriod":144,"transmissionRiskLevel":2147483647,"visitedCountries":["DE","FR"],"origin":"NL",
        "reportType":"CONFIRMED_TEST","days_since_onset_of_symptoms":3998}]}"#;

    #[test]
    fn both_spellings_and_both_forms_of_the_enum_are_read() {
        let keys = decode(KEY.as_bytes()).unwrap();
        let camel = KEY
            .replace("days_since_onset_of_symptoms", "daysSinceOnsetOfSymptoms")
            .replace("\"CONFIRMED_TEST\"", "1");
        assert!(keys == decode(camel.as_bytes()).unwrap());
        assert!(keys == decode(&encode(&keys)).unwrap());
        assert_eq!((keys[0].report_type, keys[0].days_since_onset_of_symptoms), (1, 3998));
    }

    #[test]
    fn errors_name_the_place_and_never_the_content() {
        for bad in [&KEY[..KEY.len() - 2], &KEY.replace("==", "*="), &KEY.replace("144", "-1"), "\u{0}"] {
            let error = decode(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("line") && !error.contains("dcc0"), "{error}");
        }
    }
}
