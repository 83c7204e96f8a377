//! `verify ledger`.

use clap::Args;
use keyferry_runtime::{exit::Fatal, tail::Record};
use keyferry_schemas::{
    avro::Record as _,
    batch::sha256,
    country::Country,
    records::{Hash, LedgerEntry},
    topics,
};
use serde::{Deserialize, Serialize};

use crate::cli::{Connection, KafkaArgs, bounds, out, read};

/// Which ledger.
#[derive(Args)]
pub struct Ledger {
    /// The country whose uploads it is about
    #[arg(long, value_name = "CC")]
    country: Country,
    #[command(flatten)]
    pub(super) kafka: KafkaArgs,
    /// Answers in JSON, for `verify compare`
    #[arg(long)]
    json: bool,
}

/// What a ledger says, up to the first fault.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct Found {
    pub(super) verified: bool,
    pub(super) source: String,
    pub(super) origin: String,
    pub(super) entries: u64,
    pub(super) first_sequence: i64,
    pub(super) last_sequence: i64,
    /// Every batch that it caused, in order.
    pub(super) deliveries: Vec<Caused>,
    pub(super) fault: Option<String>,
}

/// A batch that an entry caused.
#[derive(Serialize, Deserialize, Clone)]
pub(super) struct Caused {
    pub(super) destination: String,
    pub(super) sequence: i64,
    pub(super) manifest_sha256: String,
    /// The pipeline's "now", in milliseconds since 1970.
    pub(super) at_ms: i64,
}

pub(super) fn run(args: &Ledger) -> Result<(), Fatal> {
    let connection = args.kafka.connect()?;
    let codec = connection.codec()?;
    let topic = topics::ledger(args.country);
    let (_, end) = bounds(&connection.kafka, &topic)?;
    let mut found = Found { source: topic.clone(), origin: args.country.to_string(), ..Found::default() };
    let mut last: Option<(i64, Hash)> = None;
    read(&connection.kafka, &topic, end, |record: Record| {
        if connection.lacks_registry(record.value.as_ref()) {
            return Err(Connection::no_registry(&topic));
        }
        if found.fault.is_none() {
            let place = format!("offset {}", record.offset);
            let entry = record.value.map(|value| codec.decode::<LedgerEntry>(value));
            let taken = match entry {
                Some(Ok(entry)) => take(&mut found, &mut last, args.country, &entry),
                Some(Err(_)) | None => Err("it is no ledger entry".into()),
            };
            found.fault = taken.err().map(|why| format!("{place}: {why}"));
        }
        Ok(())
    })?;
    if found.entries == 0 && found.fault.is_none() {
        found.fault = Some("there is nothing in it".into());
    }
    found.verified = found.fault.is_none();
    if args.json {
        let text = serde_json::to_string_pretty(&found);
        out(text.map_err(|e| Fatal::failure(format_args!("the report can not be written: {e}")))?)?;
    } else {
        let Found { entries, first_sequence, last_sequence, deliveries, .. } = &found;
        let batches = deliveries.len();
        out(format_args!(
            "{topic}: {entries} entries, {first_sequence} to {last_sequence}, {batches} batch(es)"
        ))?;
    }
    found.fault.map_or(Ok(()), |fault| Err(Fatal::untrusted(format_args!("{topic}: {fault}"))))
}

/// The next entry, which names the one before it. The first that is still there begins the chain.
fn take(
    found: &mut Found,
    last: &mut Option<(i64, Hash)>,
    origin: Country,
    entry: &LedgerEntry,
) -> Result<(), String> {
    let sequence = entry.sequence;
    if entry.origin != origin {
        return Err(format!("entry {sequence} is about {}", entry.origin));
    }
    if let Some((before, hash)) = last {
        if before.checked_add(1) != Some(sequence) {
            return Err(format!("entry {sequence} follows {before}"));
        }
        if entry.previous != *hash {
            return Err(format!("entry {sequence} names another predecessor"));
        }
    } else {
        found.first_sequence = sequence;
    }
    *last = Some((sequence, sha256(&entry.to_avro())));
    (found.last_sequence, found.entries) = (sequence, found.entries + 1);
    found.deliveries.extend(entry.deliveries.iter().map(|d| Caused {
        destination: d.destination.to_string(),
        sequence: d.sequence,
        manifest_sha256: hex::encode(d.manifest),
        at_ms: entry.now.0,
    }));
    Ok(())
}
