//! What became of the uploads: by the answers, by the ledgers, by the downloads, by `keyferry verify`.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::{
    records::{LedgerEntry, Outcome},
    rejection::Rejection,
    topics,
};
use serde_json::{Value, json};

use super::{
    COUNTRIES,
    backend::{Answer, Backend},
    plan::{Keys, Plan, Upload},
    say,
    stage::Stage,
};
use crate::cli::{bounds, read, table};

/// All answers of the gateway.
#[derive(Default)]
pub(super) struct Answers {
    all: Vec<Answer>,
    pub bulk_took: Duration,
}

impl Answers {
    pub fn add(&mut self, answers: impl Iterator<Item = Answer>) {
        self.all.extend(answers);
    }
}

/// Numbers of one origin.
#[derive(Default, PartialEq, Eq)]
struct Origin {
    accepted: usize,
    revised: usize,
    duplicate: usize,
    /// Uploads and keys refused, by reason.
    refused: BTreeMap<String, usize>,
}

impl Origin {
    fn refused(&self) -> String {
        let reasons: Vec<_> = self.refused.iter().map(|(code, n)| format!("{code} {n}")).collect();
        reasons.join(", ")
    }
}

/// Compares everything with the plan and prints the summary; tells whether all is as it must be.
pub(super) fn summary(plan: &Plan, answers: &Answers, backends: &[Backend], stage: &Stage) -> Result<bool> {
    let mut wrong = wrong_answers(plan, answers);
    let mut rows = Vec::new();
    for country in COUNTRIES {
        let (is, must) = (decided(stage, country)?, planned(plan, country));
        rows.push([
            country.into(),
            is.accepted.to_string(),
            is.duplicate.to_string(),
            is.revised.to_string(),
            is.refused(),
        ]);
        if is != must {
            wrong.push(format!(
                "{country} must have {} accepted, {} duplicate, {} revised, and refused: {}",
                must.accepted,
                must.duplicate,
                must.revised,
                must.refused()
            ));
        }
    }
    say(&format!("\n{}", table(["origin", "accepted", "duplicate", "revised", "refused"], &rows)))?;

    let ways = ways(plan, answers);
    let uploaded: Vec<_> = COUNTRIES.iter().map(|c| ((*c).to_owned(), plan.of(c).all().len())).collect();
    let mut rows = Vec::new();
    for backend in backends {
        let country = backend.country();
        let (keys, distinct, mut times) = backend.arrivals(|arrivals| {
            // Of a key that was revised, as it came last.
            let distinct: Keys = arrivals.iter().map(|a| (a.key_data.clone(), a.report_type)).collect();
            let times: Vec<_> =
                arrivals.iter().filter_map(|a| Some(a.at.duration_since(*ways.get(&a.key_data)?))).collect();
            (arrivals.len(), distinct, times)
        })?;
        times.sort();
        let proof = verified(stage, country);
        let shown = proof.as_ref().map_or_else(|e| format!("WRONG: {e:#}"), Clone::clone);
        rows.push([
            country.into(),
            distinct.len().to_string(),
            keys.to_string(),
            at(&times, 50),
            at(&times, 99),
            shown,
        ]);
        let (must, downloads) = (plan.must_arrive(country)?, plan.downloads(country, &uploaded));
        if distinct != *must || keys != downloads || proof.is_err() {
            let types = distinct.iter().filter(|(key, is)| must.get(*key).is_some_and(|must| must != *is));
            wrong.push(format!(
                "{country} must have {} keys by {downloads} downloaded, and verify; {} have another report type",
                must.len(),
                types.count()
            ));
        }
        if times.is_empty() {
            wrong.push(format!("{country} got no upload of one key, so that nothing was timed"));
        }
    }
    let head = ["destination", "keys", "downloaded", "p50 ms", "p99 ms", "verified"];
    say(&format!("\n{}", table(head, &rows)))?;
    say(
        "p50, p99: from the first byte of an upload of one key to the last byte of its download in another country",
    )?;
    say(&format!("{} uploads answered in {:.1} s", answers.all.len(), answers.bulk_took.as_secs_f64()))?;
    for line in &wrong {
        say(&format!("WRONG: {line}"))?;
    }
    if wrong.is_empty() {
        say("every number is what it must be")?;
    }
    Ok(wrong.is_empty())
}

/// One line for each answer that is not as planned.
pub(super) fn wrong_answers(plan: &Plan, answers: &Answers) -> Vec<String> {
    let wrong = |answer: &&Answer| !is_right(&plan.of(&answer.origin).all()[answer.index], answer);
    let line = |answer: &Answer| {
        let upload = &plan.of(&answer.origin).all()[answer.index];
        format!("{} was answered {} and not {}: {}", upload.tag, answer.status, upload.status, answer.body)
    };
    answers.all.iter().filter(wrong).map(line).collect()
}

/// By its status, and by what stands in it: the code of a refusal, the indexes of keys that were taken and not taken.
fn is_right(upload: &Upload, answer: &Answer) -> bool {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let content = match (upload.code, upload.status) {
        (Some(code), _) => body["code"] == code.code(),
        (None, 207) => {
            let taken: Vec<_> = (0..upload.keys.len()).filter(|i| !upload.not_taken.contains(i)).collect();
            body == json!({ "201": taken, "409": upload.not_taken, "500": [] })
        }
        (None, _) => answer.body.is_empty(),
    };
    answer.status == upload.status && content
}

fn planned(plan: &Plan, country: &str) -> Origin {
    let mut sum = Origin::default();
    for upload in plan.of(country).all() {
        sum.accepted += upload.accepted;
        sum.revised += upload.revised;
        sum.duplicate += upload.duplicate;
        if let Some(code) = upload.code {
            *sum.refused.entry(code.code().into()).or_default() += upload.keys.len();
        }
        if upload.invalid > 0 {
            *sum.refused.entry(Rejection::KeyTooOld.code().into()).or_default() += upload.invalid;
        }
    }
    sum
}

/// What the ledger says.
fn decided(stage: &Stage, country: &str) -> Result<Origin> {
    let codec = stage.codec()?;
    let (kafka, topic) = (stage.kafka(), topics::ledger(country.parse()?));
    let (_, end) = bounds(&kafka, &topic)?;
    let mut sum = Origin::default();
    let count = |n: i32| usize::try_from(n).unwrap_or(0);
    read(&kafka, &topic, end, |record| {
        let entry = codec.decode(record.value.unwrap_or_default());
        let entry: LedgerEntry = entry.map_err(|e| Fatal::untrusted(format_args!("{topic}: {e}")))?;
        sum.accepted += count(entry.keys_accepted);
        sum.revised += count(entry.keys_revised);
        match (entry.outcome, entry.code) {
            (Outcome::Rejected, code) => {
                *sum.refused.entry(code.unwrap_or_default()).or_default() += count(entry.keys)
            }
            _ => {
                for verdict in entry.verdicts {
                    if verdict.code == Rejection::Duplicate.code() {
                        sum.duplicate += 1;
                    } else {
                        *sum.refused.entry(verdict.code).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(sum)
}

/// When each upload of one key began, by its key.
fn ways(plan: &Plan, answers: &Answers) -> HashMap<Vec<u8>, Instant> {
    let upload = |answer: &Answer| &plan.of(&answer.origin).all()[answer.index];
    let single = answers.all.iter().filter(|a| upload(a).keys.len() == 1);
    single.map(|a| (upload(a).keys[0].key_data.to_vec(), a.sent_at)).collect()
}

fn at(times: &[Duration], percent: usize) -> String {
    let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(index).map_or_else(|| "-".into(), |t| format!("{:.0}", t.as_secs_f64() * 1000.0))
}

/// Topic and store of a country, by the command that any operator has.
fn verified(stage: &Stage, country: &str) -> Result<String> {
    for arguments in [["verify", "topic", "--country", country], ["verify", "store", "--country", country]] {
        let proof = ["--config", "keyferry.yaml", "--network-topic"];
        stage.command(&[&arguments[..], &proof[..]].concat())?;
    }
    Ok("topic and store".into())
}
