//! `client upload`.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::{
    canonical::Canonical,
    cms,
    efgs::{self, Encoding, MAX_KEYS},
};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::json;

use super::{
    batch_file::{self, Format},
    failure::{Failure, MAX_NAMED, Problem},
    hub::{Hub, HubArgs},
    identity::Identity,
    note,
    parts::{self, Part},
    report,
    request::{Answer, SMALL},
};

/// What to send, signed by whom.
#[derive(Args)]
pub struct Upload {
    /// The keys, as a DiagnosisKeyBatch
    file: PathBuf,
    /// Form of the file; by its extension unless given: `.json`, or protobuf under any other
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Our certificate for signing
    #[arg(long, value_name = "PEM")]
    signing_cert: PathBuf,
    /// Its private key; an encrypted one asks for its password
    #[arg(long, value_name = "PEM")]
    signing_key: PathBuf,
    /// Batch tag; numbered TAG-1, TAG-2, .. if the file takes several uploads. Comes from the content unless given, which
    /// is what makes a file safe to send again
    #[arg(long, value_parser = parts::tag)]
    tag: Option<String>,
    /// Most keys in one upload
    #[arg(long, value_name = "N", default_value_t = MAX_KEYS, value_parser = most)]
    max_keys: usize,
    /// Only ask what would become of it: nothing is sent on, and a signing certificate that is registered counts before its
    /// time, too
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    pub(super) hub: HubArgs,
}

fn most(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=MAX_KEYS).contains(n)).ok_or_else(|| format!("is not 1 to {MAX_KEYS}"))
}

/// EFGS's form of an answer about single keys: positions in the upload by what became of them.
#[derive(Deserialize)]
struct MultiStatus {
    #[serde(rename = "201", default)]
    taken: Vec<usize>,
    #[serde(rename = "409", default)]
    refused: Vec<usize>,
    #[serde(rename = "500", default)]
    again: Vec<usize>,
}

/// What would become of an upload.
#[derive(Deserialize)]
struct Trial {
    #[serde(default)]
    invalid_keys: Vec<InvalidKey>,
    signature: SignedBy,
}

#[derive(Deserialize)]
struct InvalidKey {
    index: usize,
}

/// The certificate that a signature holds for.
#[derive(Deserialize)]
struct SignedBy {
    certificate: String,
    state: String,
    from: String,
    until: String,
}

pub(super) async fn run(args: &Upload) -> Result<(), Failure> {
    let signer = Identity::read("the signing certificate", &args.signing_cert, "its key", &args.signing_key)?;
    let hub = args.hub.hub()?;
    let keys = batch_file::read(&args.file, args.format)?;
    let parts = parts::divide(keys, args.max_keys, args.tag.as_deref());
    let sender = Sender { hub: &hub, signer: &signer, tag: args.tag.as_deref(), json: args.hub.json };
    if args.check { sender.check_all(&parts).await } else { sender.send_all(&parts).await }
}

/// Sends the parts of a file.
pub(super) struct Sender<'a> {
    pub(super) hub: &'a Hub,
    pub(super) signer: &'a Identity,
    pub(super) tag: Option<&'a str>,
    pub(super) json: bool,
}

impl Sender<'_> {
    /// One after the other; what comes behind a refused one is not sent, because mostly it would be refused as well.
    pub(super) async fn send_all(&self, parts: &[Part]) -> Result<(), Failure> {
        for (i, part) in parts.iter().enumerate() {
            let place = format!("upload {} of {}, tag {}", i + 1, parts.len(), part.tag);
            self.send(part).await.map_err(|failure| failure.during(place))?;
        }
        Ok(())
    }

    /// Asks of each what would become of it.
    async fn check_all(&self, parts: &[Part]) -> Result<(), Failure> {
        for part in parts {
            let answer = self.post("check", part).await?;
            if answer.status != StatusCode::OK {
                return Err(refusal(&answer, part));
            }
            let trial: Trial = serde_json::from_slice(&answer.body)
                .map_err(|_| Fatal::failure("the hub answers a trial and does not say how it ended"))?;
            self.report_trial(part, &trial)?;
        }
        Ok(())
    }

    /// Until every key is taken or refused for good.
    async fn send(&self, part: &Part) -> Result<(), Failure> {
        let mut again = self.send_once(part).await?;
        let mut rounds = 0;
        while let Some(rest) = again {
            rounds += 1;
            let keys = rest.keys.len();
            let Some(wait) = self.hub.policy.wait(rounds, None) else {
                let why =
                    format!("the hub wants {keys} key(s) sent again, {rounds} times; run it again later");
                return Err(Failure::Unreachable(why));
            };
            note(format_args!("the hub wants {keys} key(s) sent again: in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
            again = self.send_once(&rest).await?;
        }
        Ok(())
    }

    /// Reports what became of one upload; returns what is to be sent again.
    async fn send_once(&self, part: &Part) -> Result<Option<Part>, Failure> {
        let answer = self.post("upload", part).await?;
        let MultiStatus { mut taken, mut refused, again } = match answer.status {
            StatusCode::CREATED => {
                MultiStatus { taken: (0..part.keys.len()).collect(), refused: Vec::new(), again: Vec::new() }
            }
            StatusCode::MULTI_STATUS => read(&answer, part.keys.len())?,
            _ => return Err(refusal(&answer, part)),
        };
        for positions in [&mut taken, &mut refused] {
            positions.iter_mut().for_each(|p| *p = part.indexes[*p]);
            positions.sort_unstable();
        }
        self.report(part, answer.status, &taken, &refused, again.len())?;
        Ok((!again.is_empty()).then(|| part.again(&again, self.tag)))
    }

    /// Signs one upload and sends it to where it is decided, or tried.
    async fn post(&self, to: &str, part: &Part) -> Result<Answer, Failure> {
        let signature =
            cms::sign(Canonical::of(&part.keys).bytes(), &self.signer.key, self.signer.certificate.x509());
        let signature =
            signature.map_err(|e| Fatal::failure(format_args!("the keys can not be signed: {e}")))?;
        let (signature, body) =
            (STANDARD.encode(signature), bytes::Bytes::from(efgs::encode_protobuf(&part.keys)));
        let url = self.hub.at(&[to]);
        let request = || {
            let request = self.hub.client.post(url.clone()).body(body.clone());
            let request = request.header(CONTENT_TYPE, Encoding::Protobuf.content_type());
            request.header("batchTag", &part.tag).header("batchSignature", &signature)
        };
        self.hub.send(request, SMALL).await
    }

    fn report_trial(&self, part: &Part, trial: &Trial) -> Result<(), Failure> {
        let SignedBy { certificate, state, from, until } = &trial.signature;
        let places = trial.invalid_keys.iter().filter_map(|key| part.indexes.get(key.index));
        let invalid: Vec<_> = places.copied().collect();
        let (keys, tag, bad) = (part.keys.len(), &part.tag, invalid.len());
        let text = format!(
            "{tag}: the signature holds; its certificate {certificate} is {state}, from {from} until {until}; {bad} of \
             {keys} keys would be refused"
        );
        let object = json!({
            "event": "check", "batchTag": tag, "keys": keys, "invalid": invalid, "certificate": certificate,
            "state": state, "from": from, "until": until,
        });
        report(self.json, text, &object)
    }

    fn report(
        &self,
        part: &Part,
        status: StatusCode,
        taken: &[usize],
        refused: &[usize],
        again: usize,
    ) -> Result<(), Failure> {
        let (keys, tag) = (part.keys.len(), &part.tag);
        let named: Vec<_> = refused.iter().take(MAX_NAMED).map(ToString::to_string).collect();
        let text = match refused.len() {
            0 => format!("{tag}: {} of {keys} keys taken", taken.len()),
            n => format!(
                "{tag}: {} of {keys} keys taken; {n} known already or refused: {}{}",
                taken.len(),
                named.join(", "),
                if n > MAX_NAMED { ", .." } else { "" }
            ),
        };
        let (first, last) = (part.indexes.first(), part.indexes.last());
        let object = json!({
            "event": "upload", "batchTag": tag, "status": status.as_u16(), "keys": keys, "firstIndex": first,
            "lastIndex": last, "taken": taken.len(), "notTaken": refused, "again": again,
        });
        report(self.json, text, &object)
    }
}

fn read(answer: &Answer, keys: usize) -> Result<MultiStatus, Failure> {
    let read = serde_json::from_slice(&answer.body).ok().filter(|m: &MultiStatus| {
        let mut all: Vec<_> = [&m.taken[..], &m.refused, &m.again].concat();
        all.sort_unstable();
        // Each key once: of one that is missing here nobody would know what became of it.
        all.into_iter().eq(0..keys)
    });
    read.ok_or_else(|| Fatal::failure("the hub answers 207 and does not say what became of each key").into())
}

/// The refusal, its keys by their places in the file.
fn refusal(answer: &Answer, part: &Part) -> Failure {
    let mut problem = Problem::read(answer.status, &answer.body);
    let at = |(position, code): (usize, String)| Some((*part.indexes.get(position)?, code));
    problem.keys = problem.keys.into_iter().filter_map(at).collect();
    Failure::Refused(problem)
}
