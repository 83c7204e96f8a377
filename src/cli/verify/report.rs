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
}

/// What is complete.
#[derive(Serialize)]
pub(super) struct Chain {
    pub(super) first_sequence: i64,
    pub(super) last_sequence: i64,
    pub(super) last_manifest_sha256: String,
    pub(super) begins: &'static str,
}

/// What proves the origin of a batch.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Whole => "whole",
        Level::Subset => "subset",
    }
}

/// What stands before the first batch of a chain.
pub(super) fn begins(sequence: i64, checkpoint: bool) -> &'static str {
    match sequence {
        1 => "at the first batch",
        _ if checkpoint => "at a checkpoint",
        _ => "in its middle: what came before is not here",
    }
}

impl Report {
    /// Answers, and ends with a fault if there is one.
    pub(super) fn finish(mut self, json: bool) -> Result<(), Fatal> {
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
        Err(Fatal::untrusted(if fault.starts_with(&self.source) {
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
                let proof = if b.level == "whole" {
                    "whole: signed by the origin"
                } else {
                    "subset: attested by the hub"
                };
                [b.place.clone(), b.origin.clone(), b.sequence.to_string(), keys, proof.into()]
            })
            .collect();
        let chains: Vec<_> = self
            .chains
            .iter()
            .map(|(origin, c)| {
                let range = format!("{} to {}", c.first_sequence, c.last_sequence);
                [origin.clone(), range, c.begins.to_owned(), c.last_manifest_sha256[..16].to_owned()]
            })
            .collect();
        if self.batches.is_empty() && self.chains.is_empty() && self.fault.is_none() {
            return format!("{}: there is nothing to verify", self.source);
        }
        let result = if self.fault.is_none() { "verified" } else { "NOT verified beyond this point" };
        let mut parts = vec![table(["place", "origin", "sequence", "keys", "level"], &rows)];
        if !chains.is_empty() {
            parts.push(table(["chain from", "complete", "begins", "last manifest"], &chains));
        }
        parts.push(format!("{}: {} batch(es) {result}", self.source, self.batches.len()));
        parts.join("\n\n")
    }
}
