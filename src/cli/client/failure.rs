//! What went wrong: a line for people, an object for scripts, and the exit code.

use std::fmt;

use keyferry_runtime::exit::{Exit, Fatal};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

/// Most of a foreign text that is repeated.
const MAX_CHARS: usize = 500;
/// Most keys that are named in a line.
pub(super) const MAX_NAMED: usize = 10;

/// Why a command ends.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub refuses.
    Refused(Problem),
    /// It does not answer, or asks to come later, and was asked often enough.
    Unreachable(String),
    /// It, or what it gave, is not to be trusted.
    Untrusted(String),
    /// Something of our own.
    Own(Fatal),
}

/// A refusal, as the hub tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    detail: String,
    /// Of an upload: the keys at fault, by index in the file.
    pub(super) keys: Vec<(usize, String)>,
}

#[derive(Deserialize)]
struct Body {
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    invalid_keys: Vec<InvalidKey>,
}

#[derive(Deserialize)]
struct InvalidKey {
    index: usize,
    code: String,
}

impl Problem {
    /// Reads a problem+json; of anything else, the status is all there is.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Self {
        let status = status.as_u16();
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { code, detail, invalid_keys }) => Self {
                status,
                code: clean(&code),
                detail: clean(&detail),
                keys: invalid_keys.into_iter().map(|k| (k.index, clean(&k.code))).collect(),
            },
            Err(_) => Self {
                status,
                code: format!("http-{status}"),
                detail: "it does not say why, as a hub would; is --url right?".into(),
                keys: Vec::new(),
            },
        }
    }
}

/// One line of what others wrote, without what would steer a terminal, and not too long.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect()
}

/// What to do about a refusal, where the hub can not know that it is this program that reads.
fn advice(code: &str) -> &'static str {
    match code {
        "signing-certificate-unknown" => "; the operator has to register --signing-cert for signing",
        "signing-certificate-not-in-force" => {
            "; give another --signing-cert, or ask the operator for its dates"
        }
        "too-many-keys" => "; run it again with a lower --max-keys",
        "batch-tag-conflict" => "; leave --tag out, and the tag comes from the content",
        "invalid-keys" => "; put these right or take them out, and run it again",
        "batch-unknown" => "; is it the hub, and the country, that the tag is from?",
        _ => "",
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.detail)?;
        for (i, (index, code)) in self.keys.iter().take(MAX_NAMED).enumerate() {
            write!(f, "{} {index} ({code})", if i == 0 { ": keys" } else { "," })?;
        }
        if self.keys.len() > MAX_NAMED {
            write!(f, " and {} more", self.keys.len() - MAX_NAMED)?;
        }
        f.write_str(advice(&self.code))
    }
}

impl Failure {
    /// The same, with what was being done before it.
    pub(super) fn during(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Refused(problem) => {
                Self::Refused(Problem { detail: format!("{what}: {}", problem.detail), ..problem })
            }
            Self::Unreachable(text) => Self::Unreachable(format!("{what}: {text}")),
            Self::Untrusted(text) => Self::Untrusted(format!("{what}: {text}")),
            Self::Own(fatal) => Self::Own(Fatal { message: format!("{what}: {fatal}"), ..fatal }),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Refused(_) => Exit::Failure,
            Self::Unreachable(_) => Exit::Unreachable,
            Self::Untrusted(_) => Exit::Untrusted,
            Self::Own(fatal) => fatal.exit,
        }
    }

    /// For scripts. A refusal has the hub's code; everything else one of five.
    pub(super) fn json(&self) -> Value {
        let (code, detail) = match self {
            Self::Refused(problem) => (problem.code.as_str(), &problem.detail),
            Self::Unreachable(text) => ("unreachable", text),
            Self::Untrusted(text) => ("untrusted", text),
            Self::Own(fatal) if fatal.exit == Exit::Config => ("usage", &fatal.message),
            Self::Own(fatal) => ("failed", &fatal.message),
        };
        let mut line =
            json!({ "event": "error", "code": code, "detail": detail, "exit": self.exit().code() });
        if let Self::Refused(problem) = self {
            line["status"] = problem.status.into();
            if !problem.keys.is_empty() {
                let keys = problem.keys.iter().map(|(index, code)| json!({ "index": index, "code": code }));
                line["invalidKeys"] = keys.collect();
            }
        }
        line
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problem) => write!(f, "the hub answers {problem}"),
            Self::Unreachable(text) | Self::Untrusted(text) => f.write_str(text),
            Self::Own(fatal) => fatal.fmt(f),
        }
    }
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self::Own(fatal)
    }
}

impl From<Failure> for Fatal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(_) => Self::failure(&failure),
            Failure::Unreachable(_) => Self::unreachable(&failure),
            Failure::Untrusted(_) => Self::untrusted(&failure),
            Failure::Own(fatal) => fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_its_code_and_what_to_do() {
        let body = br#"{"code":"invalid-keys","detail":"1 of 2\u001b[31m\nkeys","invalid_keys":[{"index":1,"code":"key-too-old"}]}"#;
        let refused = Failure::Refused(Problem::read(StatusCode::BAD_REQUEST, body)).during("part 2");
        let json = refused.json();
        assert_eq!(
            (json["code"].as_str(), json["status"].as_u64(), json["exit"].as_i64()),
            (Some("invalid-keys"), Some(400), Some(1))
        );
        assert_eq!(json["invalidKeys"][0], json!({ "index": 1, "code": "key-too-old" }));
        assert_eq!(
            Fatal::from(refused).message,
            "the hub answers 400 invalid-keys: part 2: 1 of 2 [31m keys: keys 1 (key-too-old); \
             put these right or take them out, and run it again"
        );
    }

    #[test]
    fn what_is_no_problem_json_is_said_by_its_status() {
        for body in [&b"<html>"[..], b"", b"{}", b"[]"] {
            let problem = Problem::read(StatusCode::NOT_FOUND, body);
            assert_eq!(problem.code, "http-404");
            assert!(problem.to_string().contains("is --url right?"), "{problem}");
        }
    }
}
