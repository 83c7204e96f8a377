//! `client audit`, and the entries of an audit.

use std::path::PathBuf;

use clap::Args;
use jiff::civil::Date;
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::country::Country;
use keyferry_sinks::tag::BatchTag;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    batch_file::{self, Format},
    failure::{Failure, clean},
    hub::HubArgs,
    proof::{Level, ProofArgs},
    report,
};
use crate::cli::{out, table};

/// Which batch.
#[derive(Args)]
pub struct Audit {
    /// The day of the batch, or an earlier one
    #[arg(value_name = "yyyy-MM-dd")]
    date: Date,
    /// The tag of the batch
    tag: BatchTag,
    /// The batch as it was downloaded: its keys are held against the signatures
    #[arg(long, value_name = "FILE", requires = "anchor")]
    batch: Option<PathBuf>,
    /// Form of that file; by its extension unless given: `.json`, or protobuf under any other
    #[arg(long, value_enum, requires = "batch")]
    format: Option<Format>,
    #[command(flatten)]
    proof: ProofArgs,
    #[command(flatten)]
    pub(super) hub: HubArgs,
}

/// One upload of a batch, as EFGS tells it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) country: Country,
    pub(super) uploaded_time: String,
    pub(super) uploader_thumbprint: String,
    pub(super) uploader_signing_thumbprint: String,
    pub(super) amount: u64,
    pub(super) batch_signature: Option<String>,
    pub(super) uploader_certificate: Option<String>,
    pub(super) uploader_operator_signature: Option<String>,
    pub(super) signing_certificate: Option<String>,
    pub(super) signing_certificate_operator_signature: Option<String>,
    /// Said only where it is not so: these keys are a part of what their origin signed.
    #[serde(default = "yes")]
    pub(super) origin_proof: bool,
}

fn yes() -> bool {
    true
}

/// Reads what the hub answers.
pub(super) fn read(body: &[u8]) -> Result<Vec<Entry>, Failure> {
    // The place is enough to look for it; what stands there is not ours to repeat.
    serde_json::from_slice(body).map_err(|e| {
        Fatal::failure(format_args!("the audit can not be read, at line {} column {}", e.line(), e.column()))
            .into()
    })
}

pub(super) async fn run(args: &Audit) -> Result<(), Failure> {
    let hub = args.hub.hub()?;
    let mut prover = if args.proof.is_given() { Some(args.proof.prover(hub.country)?) } else { None };
    let keys = match &args.batch {
        None => None,
        Some(path) => Some(batch_file::read(path, args.format)?),
    };
    let entries = read(&hub.audit(args.date, args.tag).await?)?;
    let mut rows = Vec::new();
    for entry in &entries {
        let proof = match prover.as_mut().map(|prover| prover.entry(entry)) {
            None => "not verified".to_owned(),
            Some(Ok((Level::Whole, _))) => "certificates".to_owned(),
            Some(Ok((Level::Subset, _))) => "certificates; subset".to_owned(),
            Some(Err(doubt)) => format!("NONE: {doubt}"),
        };
        if args.hub.json {
            let mut line = serde_json::to_value(entry).unwrap_or_default();
            line["event"] = "entry".into();
            line["provenBy"] = proof.as_str().into();
            out(line)?;
        }
        rows.push([
            entry.country.to_string(),
            clean(&entry.uploaded_time),
            entry.amount.to_string(),
            short(&entry.uploader_thumbprint),
            short(&entry.uploader_signing_thumbprint),
            proof,
        ]);
    }
    if !args.hub.json {
        out(table(["origin", "uploaded", "keys", "authentication", "signing", "proven by"], &rows))?;
    }
    let Some(prover) = &mut prover else { return Ok(()) };
    let Some(keys) = keys else {
        // Only the certificates could be looked at.
        return match entries
            .iter()
            .find_map(|entry| prover.entry(entry).err().map(|doubt| (entry.country, doubt)))
        {
            Some((country, doubt)) => {
                Err(Failure::Untrusted(format!("{}: from {country}: {doubt}", args.tag)))
            }
            None => Ok(()),
        };
    };
    let proven = prover
        .prove(&keys, &entries)
        .map_err(|doubt| Failure::Untrusted(format!("{}: {doubt}", args.tag)))?;
    let object = json!({
        "event": "proven", "batchTag": args.tag, "keys": keys.len(), "level": proven.level(),
        "uploads": proven.uploads(), "origins": proven.origins,
    });
    report(args.hub.json, format_args!("{}: {} keys{proven}", args.tag, keys.len()), &object)
}

/// As much of a thumbprint as finds it in the network document.
fn short(thumbprint: &str) -> String {
    clean(thumbprint).chars().take(16).collect()
}
