//! What the distribution service counts.

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec};

use keyferry_runtime::{exit::Fatal, metrics, network::NetworkFeed};
use keyferry_schemas::{country::Country, time::Millis};

use crate::stated::Stated;

/// The label of an origin that is no member: what names it was not verified and may be anything.
const STRANGER: &str = "unknown";

/// The metrics of this role. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    latency: HistogramVec,
    breaks: IntCounterVec,
    oldest: GaugeVec,
    up: IntGaugeVec,
    /// When each origin last stated its chains.
    pub(crate) stated: Stated,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// Another metric has the name: a mistake in the program.
    pub fn new() -> Result<Self, Fatal> {
        let latency = "From the upload's broker timestamp until its keys can be downloaded.";
        let breaks =
            "Records at which the verification of a country's keys stopped, by the origin they name.";
        let oldest = "Time of the oldest upload whose keys are still in the store.";
        let up = "1 while a country's topic is followed, 0 while nothing new of it is served.";
        Ok(Self {
            latency: metrics::seconds("keyferry_end_to_end_latency_seconds", latency, &["destination"])?,
            breaks: metrics::counter("keyferry_chain_breaks_total", breaks, &["origin"])?,
            oldest: metrics::float_gauge("keyferry_oldest_data_timestamp_seconds", oldest, &["destination"])?,
            up: metrics::gauge("keyferry_distribution_up", up, &["destination"])?,
            stated: Stated::new()?,
        })
    }

    /// Lets what is counted of a country stand at 0.
    pub fn expect(&self, destination: Country) {
        self.latency.with_label_values(&[destination.as_str()]);
        self.up(destination, false);
    }

    /// Lets breaks stand at 0 for every member, those included that joined just now.
    pub fn origins(&self, feed: &NetworkFeed) {
        self.breaks.with_label_values(&[STRANGER]);
        for origin in feed.current().iter().flat_map(|n| n.countries().collect::<Vec<_>>()) {
            self.breaks.with_label_values(&[origin.as_str()]);
        }
    }

    /// A country that is served no more is not missed.
    pub(crate) fn forget(&self, destination: Country) {
        // Whether they were there is all the same.
        let _ = self.latency.remove_label_values(&[destination.as_str()]);
        let _ = self.up.remove_label_values(&[destination.as_str()]);
    }

    /// Keys of an upload made at `created_at` can be downloaded at `now`.
    pub(crate) fn downloadable(&self, destination: Country, created_at: Millis, now: Millis) {
        self.latency
            .with_label_values(&[destination.as_str()])
            .observe(now.since(created_at) as f64 / 1000.0);
    }

    /// A chain broke at a record that names `origin`.
    pub(crate) fn broke(&self, origin: Option<Country>, feed: &NetworkFeed) {
        let network = feed.current();
        let member = origin.filter(|o| network.as_ref().is_some_and(|n| n.member(*o).is_some()));
        self.breaks.with_label_values(&[member.as_ref().map_or(STRANGER, Country::as_str)]).inc();
    }

    /// Whether a country is followed.
    pub(crate) fn up(&self, destination: Country, up: bool) {
        self.up.with_label_values(&[destination.as_str()]).set(up.into());
    }

    /// What a sweep left; with an empty store there is no oldest.
    pub(crate) fn oldest(&self, destination: Country, oldest: Option<Millis>) {
        match oldest {
            Some(time) => self.oldest.with_label_values(&[destination.as_str()]).set(time.0 as f64 / 1000.0),
            // Absent, not 0: an alert on age would take that for 1970.
            None => drop(self.oldest.remove_label_values(&[destination.as_str()])),
        }
    }
}
