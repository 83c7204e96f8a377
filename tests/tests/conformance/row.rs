//! One row of the table: a request, its answer, and what others receive for it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use keyferry_schemas::{
    canonical::Canonical,
    efgs::{self, DiagnosisKey, Encoding},
    world::Identity,
};
use keyferry_tests::{
    exchange::{Call, Exchange, Reply},
    front::Door,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::scene::Scene;

/// One row.
pub struct Row {
    pub name: String,
    who: Option<Identity>,
    call: Call,
    /// The keys that are sent, as far as they are.
    pub keys: Vec<DiagnosisKey>,
    expected: Expected,
    /// Indexes of the keys that others receive for it.
    pub delivered: Vec<usize>,
    /// Whether only those receive them who ask for no proof of origin.
    pub subset: bool,
}

#[derive(Default)]
struct Expected {
    status: u16,
    /// Of a refusal.
    code: &'static str,
    /// Whole bodies.
    body: Option<Value>,
    /// What `invalid_keys` lists.
    invalid: Vec<(usize, &'static str)>,
    headers: Vec<(&'static str, String)>,
}

impl Scene<'_> {
    /// An upload of DE, in protobuf, under a tag of its own.
    pub fn de(&self, name: &str, keys: impl Into<Vec<DiagnosisKey>>) -> Row {
        self.upload("DE", name, keys)
    }

    /// The same of any country.
    pub fn upload(&self, code: &'static str, name: &str, keys: impl Into<Vec<DiagnosisKey>>) -> Row {
        let keys = keys.into();
        let call = Call::new(Method::POST, "/diagnosiskeys/upload");
        let row = Row {
            who: Some(self.people[code].clone()),
            name: format!("{:?}: {name}", self.door),
            call,
            keys,
            expected: Expected::default(),
            delivered: Vec::new(),
            subset: false,
        };
        let row = row.protobuf().signed_by(&self.world.nation(code).unwrap().signing);
        // As opaque as those of real backends.
        row.tag(&STANDARD.encode(format!("{:?}/{name}?>", self.door)))
    }

    /// Any other request of FR, which receives the most.
    pub fn get(&self, name: &str, path: &str) -> Row {
        Row {
            who: Some(self.people["FR"].clone()),
            name: format!("{:?}: {name}", self.door),
            call: Call::new(Method::GET, format!("/{path}")),
            keys: Vec::new(),
            expected: Expected::default(),
            delivered: Vec::new(),
            subset: false,
        }
    }
}

/// The request.
impl Row {
    pub fn protobuf(self) -> Self {
        let body = efgs::encode_protobuf(&self.keys);
        self.body(body).header("content-type", Encoding::Protobuf.content_type())
    }

    pub fn json(self) -> Self {
        let body = efgs::encode_json(&self.keys);
        self.body(body).header("content-type", Encoding::Json.content_type())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.call.body = body.into();
        self
    }

    /// The body as text with a change in it.
    pub fn rewritten(self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.call.body.to_vec()).unwrap();
        assert!(text.contains(from), "{}: {from} does not stand there", self.name);
        self.body(text.replace(from, to))
    }

    pub fn tag(self, tag: &str) -> Self {
        self.header("batchTag", tag)
    }

    pub fn signed_by(self, signer: &Identity) -> Self {
        let signature = signer.sign(Canonical::of(&self.keys).bytes()).unwrap();
        self.signature(&signature)
    }

    pub fn signature(self, cms: &[u8]) -> Self {
        self.header("batchSignature", STANDARD.encode(cms))
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.call = self.call.header(name, value);
        self
    }

    pub fn twice(mut self, name: &'static str, value: &str) -> Self {
        self.call.headers.append(name, value.parse().unwrap());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.call.headers.remove(name);
        self
    }

    pub fn by(mut self, who: Option<&Identity>) -> Self {
        self.who = who.cloned();
        self
    }

    pub fn method(mut self, method: Method) -> Self {
        self.call.method = method;
        self
    }
}

/// The answer.
impl Row {
    /// 201, and all of it goes out.
    pub fn created(mut self) -> Self {
        self.delivered = (0..self.keys.len()).collect();
        self.repeated()
    }

    /// 201, and nothing goes out.
    pub fn repeated(mut self) -> Self {
        let tag = self.call.headers["batchTag"].to_str().unwrap().to_owned();
        self.expected.status = 201;
        self.with("batchTag", &tag)
    }

    /// 207 with these indexes under 201, which go out, and these under 409.
    pub fn partial(mut self, taken: &[usize], refused: &[usize]) -> Self {
        self.delivered = taken.to_vec();
        self.partial_again(taken, refused)
    }

    /// The same as the proof of origin can not be given for.
    pub fn subset(mut self, taken: &[usize], refused: &[usize]) -> Self {
        self.subset = true;
        self.partial(taken, refused)
    }

    /// 207 of which nothing goes out.
    pub fn partial_again(mut self, taken: &[usize], refused: &[usize]) -> Self {
        self.expected.status = 207;
        self.expected.body = Some(json!({ "201": taken, "409": refused, "500": [] }));
        self.with("content-type", "application/json")
    }

    /// A refusal with this code.
    pub fn refused(mut self, status: u16, code: &'static str) -> Self {
        (self.expected.status, self.expected.code) = (status, code);
        let row = self.with("content-type", "application/problem+json");
        if status == 503 { row.with("retry-after", "5") } else { row }
    }

    /// 400 that names these keys.
    pub fn invalid(mut self, keys: &[(usize, &'static str)]) -> Self {
        self.expected.invalid = keys.to_vec();
        self.refused(400, "invalid-keys")
    }

    /// Any other status.
    pub fn status(mut self, status: u16) -> Self {
        self.expected.status = status;
        self
    }

    /// A header of the answer.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.expected.headers.push((name, value.to_owned()));
        self
    }
}

impl Row {
    /// Sends the request; what is wrong with the answer, in one line.
    pub fn run(&self, door: Door, exchange: &Exchange) -> Result<Reply, String> {
        let reply = self.send(door, exchange)?;
        let got = self.differs(&reply);
        got.map_or(Ok(reply), |what| Err(format!("{}: {what}", self.name)))
    }

    /// The same, whatever comes.
    pub fn send(&self, door: Door, exchange: &Exchange) -> Result<Reply, String> {
        let reply = exchange.call(door, self.who.as_ref(), &self.call);
        reply.map_err(|e| format!("{}: no answer: {e:#}", self.name))
    }

    fn differs(&self, reply: &Reply) -> Option<String> {
        let Expected { status, code, body, invalid, headers } = &self.expected;
        let text = String::from_utf8_lossy(&reply.body);
        if (reply.status, reply.code().as_str()) != (*status, *code) {
            return Some(format!("{} {text} instead of {status} {code}", reply.status));
        }
        if body.as_ref().is_some_and(|body| *body != reply.json()) {
            return Some(format!("{text} instead of {}", body.as_ref()?));
        }
        if *status == 201 && !text.is_empty() {
            return Some(format!("201 with {text}: clients take an empty one for final"));
        }
        if !code.is_empty() && reply.json()["status"] != json!(status) {
            return Some(format!("{text} in an answer with {status}"));
        }
        let listed: Vec<_> = invalid.iter().map(|(i, code)| json!({ "index": i, "code": code })).collect();
        let found = &reply.json()["invalid_keys"];
        if found.as_array().map_or(&[][..], Vec::as_slice) != listed {
            return Some(format!("{found} instead of {listed:?}"));
        }
        let wrong = headers.iter().find(|(name, value)| reply.header(name) != value);
        wrong.map(|(name, value)| format!("{name} is {:?} instead of {value:?}", reply.header(name)))
    }
}
