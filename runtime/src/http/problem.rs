//! Errors as RFC 9457 tells them: `application/problem+json` with a stable `code` for programs and a sentence for
//! people.

use std::{borrow::Cow, fmt};

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use keyferry_schemas::rejection::Rejection;
use serde_json::{Value, json};

use super::code::{Code, decided};

/// After how many seconds a client may try again, unless it is known better.
const RETRY_AFTER_S: u32 = 5;

/// A refusal, as its sender gets to read it. Never holds key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    retry_after_s: Option<u32>,
    members: Vec<(&'static str, Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with its status, and one sentence on what is wrong and how to put it right. One that passes by itself
    /// (429, 503) asks the client to come again after 5 s.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::of(code.status(), code.into(), detail.into())
    }

    /// A reason of the closed list, with the status that goes with it.
    #[must_use]
    pub fn rejection(reason: Rejection, detail: impl Into<String>) -> Self {
        Self::decided(reason.code().into(), detail)
    }

    /// What the ledger says: a reason of the closed list, or one that only a newer processor knows.
    #[must_use]
    pub fn decided(code: Cow<'static, str>, detail: impl Into<String>) -> Self {
        Self::of(decided(&code), code, detail.into())
    }

    fn of(status: StatusCode, code: Cow<'static, str>, detail: String) -> Self {
        let (members, headers) = (Vec::new(), Vec::new());
        // The same request may succeed soon, and every client is told when to try.
        let passes = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        let retry_after_s = passes.then_some(RETRY_AFTER_S);
        Self { status, code, detail, retry_after_s, members, headers }
    }

    /// Adds a member of its own to the body.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.members.push((name, value));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Asks the client to come again after so many seconds, and not after those that go with the status.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    fn body(&self) -> Value {
        let mut body = json!({
            "type": format!("urn:keyferry:problem:{}", self.code),
            "title": title(&self.code),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        for (name, value) in &self.members {
            body[*name] = value.clone();
        }
        body
    }
}

/// The code in words: `batch-tag-conflict` is "Batch tag conflict".
fn title(code: &str) -> String {
    let mut title = code.replace('-', " ");
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    title
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.code, self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        headers.extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_says_when() {
        let retry = |problem: Problem| problem.into_response().headers().get(RETRY_AFTER).cloned();
        for code in Code::ALL {
            let passes = matches!(code.status().as_u16(), 429 | 503);
            assert_eq!(retry(Problem::new(*code, "x")).is_some(), passes, "{code}");
        }
        assert_eq!(retry(Problem::new(Code::GatewayBusy, "x").retry_after(2)).unwrap(), "2");
    }

    #[tokio::test]
    async fn a_problem_on_the_wire() {
        let problem = Problem::rejection(Rejection::InvalidKeys, "1 of 2 keys is invalid")
            .with("invalid_keys", json!([{ "index": 1, "code": "key-too-old" }]))
            .retry_after(5);
        assert_eq!(problem.to_string(), "400 invalid-keys: 1 of 2 keys is invalid");
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let expected = json!({
            "type": "urn:keyferry:problem:invalid-keys",
            "title": "Invalid keys",
            "status": 400,
            "detail": "1 of 2 keys is invalid",
            "code": "invalid-keys",
            "invalid_keys": [{ "index": 1, "code": "key-too-old" }],
        });
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }
}
