//! What the loop shows of itself.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use keyferry_schemas::country::Country;

use crate::{exit::Fatal, metrics};

pub(super) struct TransactionMetrics {
    transactions: IntCounterVec,
    seconds: HistogramVec,
    commit: HistogramVec,
    rebalances: IntCounterVec,
    chain_breaks: IntCounterVec,
    restore: HistogramVec,
}

impl TransactionMetrics {
    pub fn register() -> Result<Self, Fatal> {
        let all = Self {
            transactions: metrics::counter(
                "keyferry_transactions_total",
                "Transactions by result.",
                &["result"],
            )?,
            seconds: metrics::seconds(
                "keyferry_transaction_seconds",
                "Time from begin to end of a transaction.",
                &[],
            )?,
            commit: metrics::seconds(
                "keyferry_transaction_commit_seconds",
                "The part of it after the last record: acknowledgements, offsets, commit.",
                &[],
            )?,
            rebalances: metrics::counter(
                "keyferry_rebalances_total",
                "Rebalances seen by this instance.",
                &[],
            )?,
            chain_breaks: metrics::counter(
                "keyferry_chain_breaks_total",
                "Chains and ledgers that did not continue as they must.",
                &["origin"],
            )?,
            restore: metrics::seconds(
                "keyferry_restore_seconds",
                "Time to take over an origin.",
                &["origin"],
            )?,
        };
        for result in ["committed", "aborted", "fenced"] {
            all.transactions.with_label_values(&[result]).inc_by(0);
        }
        Ok(all)
    }

    pub fn committed(&self, took: Duration, commit: Duration) {
        self.ended("committed", took);
        self.commit.with_label_values::<&str>(&[]).observe(commit.as_secs_f64());
    }

    pub fn aborted(&self, took: Duration) {
        self.ended("aborted", took);
    }

    pub fn fenced(&self) {
        self.transactions.with_label_values(&["fenced"]).inc();
    }

    fn ended(&self, result: &str, took: Duration) {
        self.transactions.with_label_values(&[result]).inc();
        self.seconds.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    pub fn rebalanced(&self, times: u64) {
        self.rebalances.with_label_values::<&str>(&[]).inc_by(times);
    }

    /// The series of an origin begins at 0 when the origin comes.
    pub fn origin(&self, origin: Country) {
        self.chain_breaks.with_label_values(&[origin.as_str()]).inc_by(0);
    }

    pub fn chain_break(&self, origin: Country) {
        self.chain_breaks.with_label_values(&[origin.as_str()]).inc();
    }

    pub fn restored(&self, origin: Country, took: Duration) {
        self.restore.with_label_values(&[origin.as_str()]).observe(took.as_secs_f64());
    }
}
