//! What the ledger says about an upload, as an answer in the words of EFGS. Pure.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use keyferry_runtime::http::{Code, Problem};
use keyferry_schemas::{
    records::{LedgerEntry, Outcome},
    rejection::Rejection,
};

use crate::{decisions::BASE_WEIGHT, head::BATCH_TAG};

/// What was decided: as much of a ledger entry as an answer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Every key was taken, now or by an earlier upload of the same content.
    Created {
        /// The sender's name for the batch.
        batch_tag: String,
    },
    /// All but these keys were taken.
    Partial {
        /// Number of keys in the upload.
        keys: u32,
        /// Indexes of those not taken, in upload order, sorted.
        refused: Vec<u32>,
    },
    /// Nothing was taken.
    Rejected {
        /// Code of the reason.
        code: Reason,
        /// The reason in one sentence.
        detail: String,
        /// The keys at fault, if it was keys.
        keys: Vec<(u32, Reason)>,
    },
}

/// A code as it stands in the ledger; a processor newer than this gateway may know more of them.
pub(crate) type Reason = Cow<'static, str>;

fn reason(text: &str) -> Reason {
    Rejection::from_code(text)
        .map_or_else(|| Cow::Owned(text.to_owned()), |known| Cow::Borrowed(known.code()))
}

/// Negative numbers do not occur; one would name no key.
fn index(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Decision {
    pub(crate) fn of(entry: &LedgerEntry) -> Self {
        if entry.outcome == Outcome::Rejected {
            return Self::Rejected {
                code: entry.code.as_deref().map_or(Code::Rejected.into(), reason),
                detail: entry
                    .detail
                    .clone()
                    .unwrap_or_else(|| "the upload was refused; nothing was taken".into()),
                keys: entry.verdicts.iter().map(|v| (index(v.index), reason(&v.code))).collect(),
            };
        }
        if entry.verdicts.is_empty() {
            return Self::Created { batch_tag: entry.batch_tag.clone().unwrap_or_default() };
        }
        let mut refused: Vec<_> = entry.verdicts.iter().map(|v| index(v.index)).collect();
        refused.sort_unstable();
        refused.dedup();
        Self::Partial { keys: index(entry.keys), refused }
    }

    /// How much memory it takes, in units of one key.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Created { .. } => BASE_WEIGHT,
            Self::Partial { refused, .. } => BASE_WEIGHT + refused.len(),
            Self::Rejected { keys, .. } => BASE_WEIGHT + keys.len(),
        }
    }

    /// The stable code, for logs.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Created { .. } => "accepted",
            Self::Partial { .. } => "partial",
            Self::Rejected { code, .. } => code,
        }
    }

    pub(crate) fn response(&self) -> Response {
        match self {
            Self::Created { batch_tag } => created(batch_tag),
            Self::Partial { keys, refused } => multi_status(*keys, refused),
            Self::Rejected { code, detail, keys } => rejected(code, detail, keys).into_response(),
        }
    }
}

fn created(batch_tag: &str) -> Response {
    let mut response = StatusCode::CREATED.into_response();
    // One that no header can carry did not come in a header: a direct writer asks for the receipt of its own.
    if let Ok(tag) = HeaderValue::from_str(batch_tag) {
        response.headers_mut().insert(BATCH_TAG, tag);
    }
    response
}

/// EFGS's form: indexes in upload order by what became of them. 500 means "send again", and nothing here needs that.
fn multi_status(keys: u32, refused: &[u32]) -> Response {
    let taken: Vec<_> = (0..keys).filter(|i| refused.binary_search(i).is_err()).collect();
    let refused: Vec<_> = refused.iter().filter(|i| **i < keys).collect();
    let body = json!({ "201": taken, "409": refused, "500": [] }).to_string();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::MULTI_STATUS;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The problem that answers an upload of which nothing is taken.
pub(crate) fn rejected(code: &Reason, detail: &str, keys: &[(u32, Reason)]) -> Problem {
    let problem = Problem::decided(code.clone(), detail);
    if keys.is_empty() { problem } else { problem.with("invalid_keys", listed(keys)) }
}

/// Keys at fault, as answers list them.
pub(crate) fn listed(keys: &[(u32, Reason)]) -> Value {
    keys.iter().map(|(index, code)| json!({ "index": index, "code": code })).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keyferry_schemas::{records::Verdict, time::Millis};

    use super::*;

    fn entry(outcome: Outcome, keys: i32, verdicts: &[(i32, Rejection)]) -> LedgerEntry {
        let verdict = |(index, code): &(i32, Rejection)| Verdict {
            index: *index,
            position: 0,
            code: code.code().into(),
        };
        LedgerEntry {
            sequence: 1,
            previous: [0; 32],
            origin: "DE".parse().unwrap(),
            source_offset: 7,
            now: Millis(0),
            writer: "w".into(),
            network_version: 1,
            signing_key: "k".into(),
            upload_id: Some([1; 16]),
            batch_tag: Some("a/b==".into()),
            outcome,
            code: None,
            detail: None,
            first_offset: None,
            content: None,
            accepted_content: None,
            keys,
            keys_accepted: 0,
            keys_revised: 0,
            verdicts: verdicts.iter().map(verdict).collect(),
            odd_onsets: 0,
            unknown_countries: 0,
            deliveries: Vec::new(),
            withheld: Vec::new(),
            fingerprint_key: "f".into(),
            fingerprints: Bytes::new(),
        }
    }

    async fn text(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.into()).unwrap()
    }

    #[tokio::test]
    async fn accepted_and_repeated_are_201_with_the_tag() {
        for outcome in [Outcome::Accepted, Outcome::Repeated] {
            let response = Decision::of(&entry(outcome, 3, &[])).response();
            assert_eq!(response.status(), 201);
            assert_eq!(response.headers()["batchTag"], "a/b==");
            assert_eq!(text(response).await, "");
        }
    }

    #[tokio::test]
    async fn some_keys_not_taken_is_207_in_upload_order() {
        for outcome in [Outcome::Partial, Outcome::Repeated] {
            let verdicts = [(3, Rejection::Duplicate), (0, Rejection::KeyTooOld)];
            let response = Decision::of(&entry(outcome, 5, &verdicts)).response();
            assert_eq!(response.status(), 207);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            assert_eq!(text(response).await, r#"{"201":[1,2,4],"409":[0,3],"500":[]}"#);
        }
    }

    #[tokio::test]
    async fn every_rejection_has_its_own_status_and_code() {
        for reason in Rejection::ALL {
            let mut entry = entry(Outcome::Rejected, 2, &[]);
            entry.code = Some(reason.code().into());
            entry.detail = Some("because".into());
            let response = Decision::of(&entry).response();
            assert_eq!(response.status().as_u16(), reason.status(), "{reason}");
            let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
            assert_eq!((&body["code"], &body["detail"]), (&json!(reason.code()), &json!("because")));
            assert!(body.get("invalid_keys").is_none());
        }
    }

    #[tokio::test]
    async fn invalid_keys_are_listed_by_index_and_reason() {
        let verdicts = [(1, Rejection::KeyTooOld), (4, Rejection::RiskLevel)];
        let mut entry = entry(Outcome::Rejected, 5, &verdicts);
        entry.code = Some(Rejection::InvalidKeys.code().into());
        let body: serde_json::Value =
            serde_json::from_str(&text(Decision::of(&entry).response()).await).unwrap();
        let expected = json!([{ "index": 1, "code": "key-too-old" }, { "index": 4, "code": "risk-level" }]);
        assert_eq!(body["invalid_keys"], expected);
    }

    #[test]
    fn a_code_of_a_newer_processor_is_passed_on() {
        let mut entry = entry(Outcome::Rejected, 1, &[]);
        entry.code = Some("not-known-yet".into());
        let decision = Decision::of(&entry);
        assert_eq!((decision.code(), decision.response().status().as_u16()), ("not-known-yet", 400));
    }
}
