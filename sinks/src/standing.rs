//! How the following of one country stands, for people and machines: the log, the metrics, the probes.
//!
//! Readiness is of the process, and every instance of a service meets the same record on a topic. So a country that can
//! not be followed never makes an instance unready: all of them would be, and no country could fetch anything any more.
//! The alarm is `keyferry_distribution_up`.

use keyferry_runtime::{health::Beat, network::NetworkFeed};
use keyferry_schemas::country::Country;

use crate::{
    intake::{ChainBreak, Diverged},
    metrics::Metrics,
    store::StoreError,
};

/// Attempts that fail one after the other until the log calls it an error: a broker that restarts is none.
const PATIENCE: u32 = 3;

/// Why an attempt to follow a country ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Kafka(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Diverged(#[from] Diverged),
    #[error(transparent)]
    Broken(#[from] ChainBreak),
}

/// The standing of one country.
pub(crate) struct Standing {
    destination: Country,
    topic: String,
    beat: Beat,
    metrics: Metrics,
    feed: NetworkFeed,
    /// Attempts that failed since the country was last followed.
    failed: u32,
    broken_at: Option<i64>,
    up: bool,
}

impl Standing {
    pub(crate) fn new(
        destination: Country,
        topic: &str,
        beat: Beat,
        metrics: Metrics,
        feed: NetworkFeed,
    ) -> Self {
        metrics.up(destination, false);
        Self { destination, topic: topic.into(), beat, metrics, feed, failed: 0, broken_at: None, up: false }
    }

    /// Everything on the topic was read.
    pub(crate) fn followed(&mut self) {
        self.failed = 0;
        self.set(true);
    }

    /// Nothing comes, and the broker does not say that there is nothing.
    pub(crate) fn doubted(&mut self, why: &str) {
        if self.up {
            tracing::warn!(destination = %self.destination, topic = self.topic, why, "nothing comes any more");
        }
        self.set(false);
    }

    /// An attempt ended with this fault.
    pub(crate) fn failed(&mut self, fault: &Fault) {
        self.failed = self.failed.saturating_add(1);
        self.set(false);
        let (destination, topic) = (self.destination, &self.topic);
        match fault {
            Fault::Broken(ChainBreak { offset, origin, sequence, reason }) => {
                tracing::error!(
                    %destination, topic, offset, origin = origin.map(|o| o.to_string()), sequence, %reason,
                    "chain broken: nothing after this record is served"
                );
                // It is looked at again and again, and is one break all the same.
                if self.broken_at.replace(*offset) != Some(*offset) {
                    self.metrics.broke(*origin, &self.feed);
                }
            }
            Fault::Store(StoreError::Corrupt { .. }) => {
                tracing::error!(%destination, reason = %fault, "the store is damaged");
            }
            _ if self.failed >= PATIENCE => {
                let attempts = self.failed;
                tracing::error!(%destination, topic, reason = %fault, attempts, "nothing new is served; trying again");
            }
            _ => tracing::warn!(%destination, topic, reason = %fault, "trying again"),
        }
    }

    /// Either way the first attempt has come to an end, and what is in the store can be served.
    fn set(&mut self, up: bool) {
        self.up = up;
        self.metrics.up(self.destination, up);
        self.beat.ready(true);
    }
}
