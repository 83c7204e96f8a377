//! What became of the uploads: by the answers, by the ledgers, by the downloads, by `keyferry verify`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;
use keyferry_runtime::{
    kafka::Isolation,
    tail::{Next, Start, Tail},
};
use keyferry_schemas::{
    records::{LedgerEntry, Outcome},
    rejection::Rejection,
    topics,
};

use super::{
    COUNTRIES,
    backend::{Answer, Backend},
    plan::Plan,
    say,
    stage::Stage,
};
use crate::cli::table;

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

/// Compares everything with the plan and prints the summary; tells whether all is as it must be.
pub(super) async fn summary(
    plan: &Plan,
    answers: &Answers,
    backends: &[Backend],
    stage: &Stage,
) -> Result<bool> {
    let mut wrong = wrong_answers(plan, answers);
    let mut rows = Vec::new();
    for country in COUNTRIES {
        let (is, must) = (decided(stage, country)?, planned(plan, country));
        let reasons: Vec<_> = is.refused.iter().map(|(code, n)| format!("{code} {n}")).collect();
        rows.push([
            country.into(),
            is.accepted.to_string(),
            is.duplicate.to_string(),
            is.revised.to_string(),
            reasons.join(", "),
        ]);
        if is != must {
            wrong.push(format!(
                "{country} must have {} accepted, {} duplicate, {} revised",
                must.accepted, must.duplicate, must.revised
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
            let distinct: BTreeSet<_> = arrivals.iter().map(|a| a.key_data.clone()).collect();
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
        if distinct != *plan.must_arrive(country)?
            || keys != plan.downloads(country, &uploaded)
            || proof.is_err()
        {
            wrong.push(format!("{country} must have {} keys", plan.must_arrive(country)?.len()));
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

fn wrong_answers(plan: &Plan, answers: &Answers) -> Vec<String> {
    let wrong = |answer: &&Answer| {
        let upload = &plan.of(&answer.origin).all()[answer.index];
        let code = upload.code.map(Rejection::code).unwrap_or_default();
        answer.status != upload.status || !answer.body.contains(code)
    };
    let line = |answer: &Answer| {
        let upload = &plan.of(&answer.origin).all()[answer.index];
        format!("{} was answered {} and not {}: {}", upload.tag, answer.status, upload.status, answer.body)
    };
    answers.all.iter().filter(wrong).map(line).collect()
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
    let mut tail =
        Tail::open(&stage.kafka(), &topics::ledger(country.parse()?), Isolation::Committed, Start::Earliest)?;
    let mut sum = Origin::default();
    let count = |n: i32| usize::try_from(n).unwrap_or(0);
    while let Next::Record(record) = tail.next(Duration::from_secs(5))? {
        let entry: LedgerEntry = codec.decode(record.value.unwrap_or_default())?;
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
    }
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
