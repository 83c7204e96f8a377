//! `/openapi.json`: the contract as it stands in `schemas/openapi`, written out. What the program knows better stands
//! there only once: each problem has the status of its code, and what `GET` answers `HEAD` does, without the body.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{http::header::CONTENT_TYPE, response::IntoResponse};
use bytes::Bytes;
use keyferry_schemas::{openapi, rejection::Rejection};
use serde_json::{Map, Value, json};

use super::Code;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// Serves it. To anybody: it says nothing about this installation.
pub(super) async fn serve() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}

fn document() -> Value {
    let mut document = read(openapi::CONTRACT);
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["components"]["schemas"]["Code"] = json!({
        "description": "A closed list; docs/errors.md explains each. While processors are newer than a gateway, it \
            may pass on one of theirs that is not listed here yet.",
        "enum": all_codes().map(|(code, _)| code).collect::<Vec<_>>(),
    });
    let paths = openapi::PATHS.iter().filter_map(|part| match read(part) {
        Value::Object(paths) => Some(paths),
        _ => None,
    });
    document["paths"] = paths.flatten().map(|(path, item)| (path, path_item(item))).collect();
    document
}

/// They are read by a test: none is anything else than JSON.
fn read(part: &str) -> Value {
    serde_json::from_str(part).unwrap_or_default()
}

fn path_item(item: Value) -> Value {
    let Value::Object(operations) = item else { return item };
    let mut written: Map<_, _> = operations.into_iter().map(|(method, o)| (method, operation(o))).collect();
    if let Some(get) = written.get("get") {
        let head = bodiless(get.clone());
        written.insert("head".into(), head);
    }
    written.into()
}

/// Writes out the problems of an operation.
fn operation(mut operation: Value) -> Value {
    let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for (code, status) in problems(&operation) {
        by_status.entry(status).or_default().insert(code);
    }
    for (status, codes) in by_status {
        let response = &mut operation["responses"][status.to_string()];
        response["description"] =
            codes.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ").into();
        let of_all = match status {
            429 | 503 => Some(("Retry-After", "RetryAfter")),
            406 | 415 => Some(("Accept", "Accept")),
            _ => None,
        };
        if let Some((name, component)) = of_all {
            response["headers"][name] = json!({ "$ref": format!("#/components/headers/{component}") });
        }
        let narrowed = json!({ "properties": { "status": { "const": status }, "code": { "enum": codes } } });
        let schema = json!({ "allOf": [{ "$ref": "#/components/schemas/Problem" }, narrowed] });
        response["content"] = json!({ "application/problem+json": { "schema": schema } });
    }
    if let Value::Object(members) = &mut operation {
        members.remove("problems");
    }
    operation
}

/// Codes and statuses of the problems that an operation names, and of those that it shares with others.
fn problems(operation: &Value) -> impl Iterator<Item = (&'static str, u16)> {
    let own = operation["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let own: BTreeSet<String> = own.map(str::to_owned).collect();
    // Whoever says nothing about security asks for a certificate.
    let known = operation["security"].is_null();
    all_codes().filter(move |(code, _)| {
        let decided = own.contains("decided") && Rejection::from_code(code).is_some_and(is_of_uploads);
        own.contains(*code) || decided || (known && OF_CLIENTS.contains(code))
    })
}

/// What every operation answers that has to know who asks, and that a listener may lack.
const OF_CLIENTS: [&str; 8] = [
    "not-found",
    "client-certificate-missing",
    "client-certificate-unknown",
    "client-certificate-not-in-force",
    "client-country-missing",
    "client-country-mismatch",
    "member-not-active",
    "network-unknown",
];

fn all_codes() -> impl Iterator<Item = (&'static str, u16)> {
    let own = Code::ALL.iter().map(|c| (c.as_str(), c.status().as_u16()));
    own.chain(Rejection::ALL.iter().map(|r| (r.code(), r.status())))
}

/// Whether a whole upload is refused for it; for the others single keys or deliveries are.
fn is_of_uploads(reason: Rejection) -> bool {
    use Rejection as R;
    let of_keys = matches!(
        reason,
        R::KeyDataLength
            | R::KeyTooOld
            | R::KeyInFuture
            | R::RollingPeriod
            | R::RiskLevel
            | R::ReportType
            | R::CountryMalformed
            | R::Onset
            | R::Duplicate
            | R::Conflict
    );
    !of_keys && !matches!(reason, R::NoAgreement | R::NotProvable)
}

fn bodiless(mut operation: Value) -> Value {
    operation["operationId"] =
        format!("{}Head", operation["operationId"].as_str().unwrap_or_default()).into();
    operation["summary"] = "The same without the body".into();
    for response in operation["responses"].as_object_mut().into_iter().flat_map(|r| r.values_mut()) {
        response.as_object_mut().map(|r| r.remove("content"));
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read_and_every_problem_is_known() {
        assert!(read(openapi::CONTRACT).is_object());
        let mut named: BTreeSet<String> = OF_CLIENTS.map(str::to_owned).into();
        for part in openapi::PATHS {
            for operation in
                read(part).as_object().unwrap().values().flat_map(|i| i.as_object().unwrap().values())
            {
                let own = operation["problems"].as_array().into_iter().flatten();
                named.extend(own.map(|code| code.as_str().unwrap().to_owned()));
            }
        }
        assert!(named.remove("decided"));
        let sent: BTreeSet<String> = Code::ALL.iter().map(ToString::to_string).collect();
        let rejections: BTreeSet<_> = Rejection::ALL.iter().map(|r| r.code().to_owned()).collect();
        // That one belongs to paths and not to operations.
        let of_paths = Code::MethodNotAllowed.as_str();
        let missing: Vec<_> = sent.difference(&named).filter(|c| *c != of_paths).collect();
        let unknown: Vec<_> =
            named.iter().filter(|c| !sent.contains(*c) && !rejections.contains(*c)).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "in no operation: {missing:?}, unknown: {unknown:?}"
        );
    }

    #[test]
    fn references_lead_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(path)) = members.get("$ref") {
                        let found = document.pointer(path.trim_start_matches('#'));
                        assert!(found.is_some(), "{path}");
                    }
                    members.values().for_each(|v| check(v, document));
                }
                Value::Array(items) => items.iter().for_each(|v| check(v, document)),
                _ => (),
            }
        }
        let document = document();
        check(&document, &document);
        assert_eq!(document["paths"].as_object().unwrap().len(), 9);
    }

    #[test]
    fn problems_are_written_out() {
        let document = document();
        let upload = &document["paths"]["/diagnosiskeys/upload"]["post"]["responses"];
        let codes = |status: &str| {
            let schema = &upload[status]["content"]["application/problem+json"]["schema"];
            schema["allOf"][1]["properties"]["code"]["enum"].clone()
        };
        assert_eq!(codes("409"), json!(["batch-tag-conflict"]));
        assert_eq!(codes("413"), json!(["body-too-large", "too-many-keys"]));
        assert!(upload["429"]["headers"]["Retry-After"].is_object());
        let head = &document["paths"]["/diagnosiskeys/download/{date}"]["head"]["responses"]["200"];
        assert!(head["headers"]["ETag"].is_object() && head["content"].is_null());
    }
}
