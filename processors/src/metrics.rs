//! What the pipeline shows of its decisions: those that were committed.

use keyferry_runtime::{exit::Fatal, metrics};
use keyferry_schemas::{
    country::Country,
    records::{LedgerEntry, Outcome},
    rejection::Rejection,
};
use prometheus::{IntCounterVec, IntGaugeVec};

use crate::validate::int;

/// The counters of the pipeline.
pub struct PipelineMetrics {
    decided: IntCounterVec,
    accepted: IntCounterVec,
    revised: IntCounterVec,
    duplicate: IntCounterVec,
    rejected: IntCounterVec,
    delivered: IntCounterVec,
    withheld: IntCounterVec,
    seen: IntGaugeVec,
}

impl PipelineMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// One is defined twice, which is a fault of the build.
    pub fn register() -> Result<Self, Fatal> {
        let counter = metrics::counter;
        let of_origin = &["origin"];
        Ok(Self {
            decided: counter(
                "keyferry_uploads_decided_total",
                "Uploads decided, by outcome.",
                &["origin", "outcome"],
            )?,
            accepted: counter("keyferry_keys_accepted_total", "Keys taken, revisions included.", of_origin)?,
            revised: counter(
                "keyferry_keys_revised_total",
                "Keys taken that revise an earlier one.",
                of_origin,
            )?,
            duplicate: counter(
                "keyferry_keys_duplicate_total",
                "Keys that had been taken before.",
                of_origin,
            )?,
            rejected: counter(
                "keyferry_keys_rejected_total",
                "Keys refused, by reason.",
                &["origin", "reason"],
            )?,
            delivered: counter(
                "keyferry_keys_delivered_total",
                "New keys delivered.",
                &["origin", "destination"],
            )?,
            withheld: counter(
                "keyferry_keys_withheld_total",
                "Keys kept from a country.",
                &["destination", "reason"],
            )?,
            seen: metrics::gauge("keyferry_seen_keys", "Keys remembered.", of_origin)?,
        })
    }

    /// Makes the series of an origin visible before anything happens.
    pub fn expect(&self, origin: Country) {
        let origin = origin.as_str();
        for outcome in [Outcome::Accepted, Outcome::Partial, Outcome::Repeated, Outcome::Rejected] {
            self.decided.with_label_values(&[origin, name(outcome)]).inc_by(0);
        }
        for counter in [&self.accepted, &self.revised, &self.duplicate] {
            counter.with_label_values(&[origin]).inc_by(0);
        }
        for reason in Rejection::ALL.iter().filter(|r| **r != Rejection::Duplicate) {
            self.rejected.with_label_values(&[origin, reason.code()]).inc_by(0);
        }
    }

    /// Counts one decision.
    pub fn decided(&self, entry: &LedgerEntry) {
        let origin = entry.origin.as_str();
        let add = |counter: &IntCounterVec, labels: &[&str], n: i32| {
            counter.with_label_values(labels).inc_by(u64::try_from(n).unwrap_or(0));
        };
        add(&self.decided, &[origin, name(entry.outcome)], 1);
        add(&self.accepted, &[origin], entry.keys_accepted);
        add(&self.revised, &[origin], entry.keys_revised);
        if entry.outcome != Outcome::Repeated {
            for verdict in &entry.verdicts {
                if verdict.code == Rejection::Duplicate.code() {
                    add(&self.duplicate, &[origin], 1);
                } else {
                    add(&self.rejected, &[origin, &verdict.code], 1);
                }
            }
        }
        // The keys of a refused upload that are not at fault themselves.
        if let Some(code) = &entry.code {
            add(&self.rejected, &[origin, code], entry.keys - int(entry.verdicts.len()));
        }
        for d in &entry.deliveries {
            add(&self.delivered, &[origin, d.destination.as_str()], d.new_keys);
        }
        for w in &entry.withheld {
            add(&self.withheld, &[w.destination.as_str(), &w.reason], w.keys);
        }
    }

    /// Shows how many keys are remembered.
    pub fn seen(&self, origin: Country, keys: usize) {
        self.seen.with_label_values(&[origin.as_str()]).set(i64::try_from(keys).unwrap_or(i64::MAX));
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Partial => "partial",
        Outcome::Repeated => "repeated",
        Outcome::Rejected => "rejected",
    }
}
