//! `verify compare`: whether the hub told all the same. Each destination sees its own chain only, and an origin its own
//! ledger; whoever would give two of them different things is found by holding their reports together. No key is in them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
};

use clap::Args;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    exit::Fatal,
};
use keyferry_sinks::config::may_be_gone;
use serde::Deserialize;

use super::ledger::{Caused, Found};
use crate::cli::{files, out};

/// The largest report that is read: a fortnight of a large country is a few MB.
const MOST_BYTES: usize = 256 << 20;

/// Which reports.
#[derive(Args)]
pub struct Compare {
    /// What `verify topic --json` and `verify ledger --json` answered; the ledgers' made first
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    reports: Vec<PathBuf>,
}

/// What a destination has received.
#[derive(Deserialize)]
struct Received {
    verified: bool,
    destination: String,
    batches: Vec<Batch>,
    chains: BTreeMap<String, Chain>,
}

#[derive(Deserialize, Clone)]
struct Batch {
    origin: String,
    sequence: i64,
    level: String,
    upload_id: String,
    manifest_sha256: String,
    canonical_sha256: String,
}

#[derive(Deserialize)]
struct Chain {
    first_sequence: i64,
    last_sequence: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Report {
    Ledger(Found),
    Topic(Received),
}

pub(super) fn run(args: &Compare) -> Result<(), Fatal> {
    let (mut ledgers, mut topics) = (Vec::new(), Vec::new());
    for file in &args.reports {
        let unverified = || Fatal::untrusted(format_args!("{}: it did not verify", file.display()));
        match load(file)? {
            Report::Ledger(found) if found.verified => ledgers.push(found),
            Report::Topic(received) if received.verified => topics.push(received),
            _ => return Err(unverified()),
        }
    }
    let gone = may_be_gone(SystemClock.now()).0;
    let agree = same_uploads(&topics).and_then(|uploads| {
        let mut batches = 0;
        for ledger in &ledgers {
            for topic in &topics {
                batches += same_batches(ledger, topic, gone)?;
            }
        }
        Ok((uploads, batches))
    });
    let (uploads, batches) = agree.map_err(Fatal::untrusted)?;
    out(format_args!(
        "{} reports agree: {uploads} upload(s) that several received, {batches} batch(es) that a ledger names",
        args.reports.len()
    ))
}

fn load(file: &Path) -> Result<Report, Fatal> {
    let shown = file.display();
    let bytes = files::read("the report", file)?;
    if bytes.len() > MOST_BYTES {
        return Err(Fatal::config(format_args!("{shown}: it has more than {MOST_BYTES} bytes")));
    }
    let report = serde_json::from_slice(&bytes);
    report.map_err(|_| {
        Fatal::config(format_args!(
            "{shown}: it is no answer of `verify topic --json` or `verify ledger --json`"
        ))
    })
}

/// That all who received an upload as a whole received the same keys. Tells how many uploads several received.
fn same_uploads(topics: &[Received]) -> Result<usize, String> {
    let mut seen: BTreeMap<(&str, &str), (&Received, &Batch)> = BTreeMap::new();
    let mut shared = 0;
    for topic in topics {
        for batch in topic.batches.iter().filter(|b| b.level == "whole") {
            match seen.entry((&batch.origin, &batch.upload_id)) {
                Entry::Vacant(first) => drop(first.insert((topic, batch))),
                Entry::Occupied(first) => {
                    let (other, before) = first.get();
                    if before.canonical_sha256 != batch.canonical_sha256 {
                        return Err(format!(
                            "{} and {} received different keys of one upload of {}: sequence {} and sequence {}",
                            other.destination,
                            topic.destination,
                            batch.origin,
                            before.sequence,
                            batch.sequence
                        ));
                    }
                    shared += 1;
                }
            }
        }
    }
    Ok(shared)
}

/// That a destination received what the ledger of an origin says, all of it that it can still have, and nothing else.
/// What came after the ledger was read is left out.
fn same_batches(ledger: &Found, topic: &Received, gone: i64) -> Result<usize, String> {
    let (origin, destination) = (&ledger.origin, &topic.destination);
    let caused: BTreeMap<i64, &Caused> =
        ledger.deliveries.iter().filter(|d| d.destination == *destination).map(|d| (d.sequence, d)).collect();
    let received: BTreeMap<i64, &Batch> =
        topic.batches.iter().filter(|b| b.origin == *origin).map(|b| (b.sequence, b)).collect();
    let Some((first, last)) = caused.keys().next().zip(caused.keys().next_back()) else { return Ok(0) };
    if let Some(stray) = received.range(first..=last).find(|(sequence, _)| !caused.contains_key(sequence)) {
        return Err(format!(
            "{destination} received sequence {} of {origin}, and no entry of the ledger caused it",
            stray.0
        ));
    }
    let (begins, ends) = topic.chains.get(origin).map_or((1, 0), |c| (c.first_sequence, c.last_sequence));
    let mut same = 0;
    for (sequence, caused) in caused {
        let place = format!("sequence {sequence} of {origin} for {destination}");
        match received.get(&sequence) {
            Some(batch) if batch.manifest_sha256 == caused.manifest_sha256 => same += 1,
            Some(_) => return Err(format!("{place} is another batch than the ledger says")),
            None if sequence > ends => {
                return Err(format!(
                    "{place} is missing at the end: cut off, or was the report of {destination} made before that of the ledger?"
                ));
            }
            // What the law has taken away.
            None if sequence < begins && caused.at_ms <= gone => (),
            None => return Err(format!("{place} is missing at the beginning, before its time")),
        }
    }
    Ok(same)
}
