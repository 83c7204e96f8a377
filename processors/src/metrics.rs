//! What the pipeline shows of its decisions. Counted when decided: an aborted step is counted again when it is decided
//! again, which shows as aborted transactions beside it.

use keyferry_runtime::{exit::Fatal, metrics};
use keyferry_schemas::{
    country::Country,
    records::{LedgerEntry, Outcome},
};
use prometheus::{IntCounterVec, IntGaugeVec};

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

    /// Counts one decision.
    pub fn decided(&self, entry: &LedgerEntry) {
        let origin = entry.origin.as_str();
        let add = |counter: &IntCounterVec, labels: &[&str], n: i32| {
            counter.with_label_values(labels).inc_by(u64::try_from(n).unwrap_or(0));
        };
        let outcome = match entry.outcome {
            Outcome::Accepted => "accepted",
            Outcome::Partial => "partial",
            Outcome::Repeated => "repeated",
            Outcome::Rejected => "rejected",
        };
        add(&self.decided, &[origin, outcome], 1);
        add(&self.accepted, &[origin], entry.keys_accepted);
        add(&self.revised, &[origin], entry.keys_revised);
        if entry.outcome != Outcome::Repeated {
            for verdict in &entry.verdicts {
                match verdict.code.as_str() {
                    "duplicate" => add(&self.duplicate, &[origin], 1),
                    code => add(&self.rejected, &[origin, code], 1),
                }
            }
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
