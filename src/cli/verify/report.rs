//! What `verify` answers.

use std::collections::BTreeMap;

use keyferry_runtime::exit::Fatal;
use keyferry_schemas::batch::Level;
use serde::Serialize;

use crate::cli::{out, table};

/// Everything that was found, up to the first fault.
#[derive(Serialize, Default)]
pub(super) struct Report {
    pub(super) verified: bool,
    pub(super) source: String,
    pub(super) destination: Option<String>,
    pub(super) batches: Vec<Line>,
    /// Checkpoints that hold.
    pub(super) checkpoints: usize,
    /// By origin.
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) fault: Option<String>,
}

/// One batch that verified.
#[derive(Serialize)]
pub(super) struct Line {
    /// A file, an offset, or a download batch.
    pub(super) place: String,
    pub(super) origin: String,
    pub(super) sequence: i64,
    pub(super) keys: u64,
    pub(super) level: &'static str,
    /// Whether the keys were there; in a store they are erased in time.
    pub(super) keys_present: bool,
    /// Of the origin, which only a whole batch has.
    pub(super) origin_signature: &'static str,
    /// By which others find the same batch, and the same upload; a store is not compared.
    #[serde(flatten)]
    pub(super) identity: Option<Identity>,
}

/// What a batch is, without its keys.
#[derive(Serialize)]
pub(super) struct Identity {
    pub(super) upload_id: String,
    pub(super) manifest_sha256: String,
    pub(super) canonical_sha256: String,
}

/// What is complete.
#[derive(Serialize)]
pub(super) struct Chain {
    pub(super) first_sequence: i64,
    pub(super) last_sequence: i64,
    pub(super) last_manifest_sha256: String,
    pub(super) begins: &'static str,
    /// The time of the last checkpoint that states the chain as it is here.
    pub(super) stated_at: Option<String>,
    /// How long ago that was.
    pub(super) stated_age_s: Option<i64>,
}

/// What proves the origin of a batch.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Whole => "whole",
        Level::Subset => "subset",
    }
}

/// What became of the origin's signature, which was over the keys.
pub(super) fn origin_signature(level: &str, keys_present: bool) -> &'static str {
    match (level, keys_present) {
        ("whole", true) => "holds",
        ("whole", false) => "not checked, the keys are erased",
        _ => "none",
    }
}

/// A chain that nothing proves from its beginning on.
const IN_THE_MIDDLE: &str = "in its middle: what came before is not here";

/// What stands before the first batch of a chain.
pub(super) fn begins(sequence: i64, at_checkpoint: bool, confirmed: bool) -> &'static str {
    match sequence {
        1 => "at the first batch",
        _ if at_checkpoint => "at a checkpoint",
        _ if confirmed => "in its middle, and a checkpoint confirms it",
        _ => IN_THE_MIDDLE,
    }
}

/// The first chain that nothing proves from its beginning on.
pub(super) fn unproven(chains: &BTreeMap<String, Chain>) -> Option<String> {
    let (origin, chain) = chains.iter().find(|(_, c)| c.begins == IN_THE_MIDDLE)?;
    let first = chain.first_sequence;
    Some(format!(
        "the chain from {origin} begins in its middle, at sequence {first}, and no checkpoint confirms it"
    ))
}

impl Report {
    /// Answers, and ends with a fault if there is one.
    pub(super) fn finish(mut self, json: bool) -> Result<(), Fatal> {
        if self.batches.is_empty() && self.checkpoints == 0 && self.chains.is_empty() && self.fault.is_none()
        {
            let nothing = format!("there is nothing to verify in {}", self.source);
            if !json {
                return Err(Fatal::untrusted(nothing));
            }
            self.fault = Some(nothing);
        }
        self.verified = self.fault.is_none();
        let text = if json {
            serde_json::to_string_pretty(&self)
                .map_err(|e| Fatal::failure(format_args!("the report can not be written: {e}")))?
        } else {
            self.text()
        };
        out(text)?;
        let Some(fault) = self.fault else { return Ok(()) };
        // The place of a fault in a file is that file.
        Err(Fatal::untrusted(if fault.contains(&self.source) {
            fault
        } else {
            format!("{}: {fault}", self.source)
        }))
    }

    fn text(&self) -> String {
        let rows: Vec<_> = self
            .batches
            .iter()
            .map(|b| {
                let keys = if b.keys_present { b.keys.to_string() } else { format!("{} (erased)", b.keys) };
                let proof = match (b.level, b.keys_present) {
                    ("whole", true) => "whole: signed by the origin",
                    ("whole", false) => {
                        "whole: the origin's signature is not checked, as the keys are erased"
                    }
                    _ => "subset: attested by the hub",
                };
                [b.place.clone(), b.origin.clone(), b.sequence.to_string(), keys, proof.into()]
            })
            .collect();
        let chains: Vec<_> = self
            .chains
            .iter()
            .map(|(origin, c)| {
                let range = format!("{} to {}", c.first_sequence, c.last_sequence);
                let stated = c.stated_at.as_ref().zip(c.stated_age_s);
                let stated = stated.map_or("-".into(), |(at, age)| format!("{at}, {age} s ago"));
                [origin.clone(), range, c.begins.to_owned(), stated, c.last_manifest_sha256[..16].to_owned()]
            })
            .collect();
        let result = if self.fault.is_none() { "verified" } else { "NOT verified beyond this point" };
        let mut parts = vec![table(["place", "origin", "sequence", "keys", "level"], &rows)];
        if !chains.is_empty() {
            parts.push(table(["chain from", "sequences", "begins", "confirmed", "last manifest"], &chains));
        }
        parts.push(format!("{}: {} batch(es) {result}", self.source, self.batches.len()));
        parts.join("\n\n")
    }
}
