//! What the gateway counts.

use std::time::Duration;

use keyferry_runtime::{exit::Fatal, metrics};
use keyferry_schemas::country::Country;
use prometheus::{Histogram, IntCounterVec, IntGaugeVec};

/// The metrics of the gateway.
#[derive(Clone)]
pub(crate) struct Metrics {
    received: IntCounterVec,
    followed: IntGaugeVec,
    decision: Histogram,
}

impl Metrics {
    /// # Errors
    /// A metric of the same name is something else already: a mistake in the program.
    pub(crate) fn new() -> Result<Self, Fatal> {
        let help = "Uploads that the gateway put on the topic of their origin.";
        let received = metrics::counter("keyferry_uploads_received_total", help, &["origin"])?;
        let help = "1 while the ledger of a country is followed; at 0 it can not upload here.";
        let followed = metrics::gauge("keyferry_ledger_followed", help, &["origin"])?;
        let help = "From the last byte of an upload to the decision about it.";
        let decision = metrics::seconds("keyferry_upload_to_decision_seconds", help, &[])?;
        Ok(Self { received, followed, decision: decision.with_label_values::<&str>(&[]) })
    }

    /// Makes the series of these members visible before anything happened.
    pub(crate) fn members(&self, countries: impl Iterator<Item = Country>) {
        countries.for_each(|c| drop(self.received.with_label_values(&[c.as_str()])));
    }

    /// An upload is on its topic. To be called once for each.
    pub(crate) fn received(&self, origin: Country) {
        self.received.with_label_values(&[origin.as_str()]).inc();
    }

    /// Whether the ledger of a country is read.
    pub(crate) fn followed(&self, origin: Country, followed: bool) {
        self.followed.with_label_values(&[origin.as_str()]).set(followed.into());
    }

    pub(crate) fn decided(&self, after: Duration) {
        self.decision.observe(after.as_secs_f64());
    }
}
