//! The configuration of the role `distribute`.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use keyferry_runtime::config::{Check, Faults};
use keyferry_schemas::{
    country::Country,
    time::{MILLIS_PER_DAY, Millis},
};

use crate::{api::Periods, callbacks::CallbacksConfig, joining::Joining, store::StoreConfig};

/// What the law allows: keys are kept for at most this many days after their upload.
const MAX_DAYS: u16 = 14;
/// Keys are erased by this much earlier, at the most.
const MAX_SWEEP_INTERVAL_S: u32 = 3600;
/// Clients ask every minute or less often: more can not be joined for their sake.
const MAX_JOIN_WAIT_MS: u32 = 60_000;

/// Keys of uploads up to this time may be gone at `now`, in a store of which nobody says how long it is kept: for as long
/// as the law allows, less the longest time between two sweeps.
#[must_use]
pub fn may_be_gone(now: Millis) -> Millis {
    now.plus(i64::from(MAX_SWEEP_INTERVAL_S) * 1000 - i64::from(MAX_DAYS) * MILLIS_PER_DAY)
}

/// `distribute:` which countries are served, from which store, for how long.
#[derive(Debug, Clone, Deserialize)]
pub struct DistributeConfig {
    /// `all`, or `only: [DE, FR]`.
    #[serde(default)]
    pub countries: Countries,
    /// Where batches are kept.
    pub store: StoreConfig,
    /// Days before today that clients may ask for.
    #[serde(default = "max_days")]
    pub download_window_days: u16,
    /// Days after its upload at which a key is erased.
    #[serde(default = "max_days")]
    pub retention_days: u16,
    /// Seconds between two looks for what has to be erased; it is erased that much earlier rather than later.
    #[serde(default = "sweep_interval_s")]
    pub sweep_interval_s: u32,
    /// Uploads that wait are joined into one download batch up to this many keys. One upload is never divided.
    #[serde(default = "max_keys_per_download_batch")]
    pub max_keys_per_download_batch: usize,
    /// Milliseconds that an upload waits for others, to be joined with them; it waits for none if this is 0. The wait ends
    /// with the day.
    #[serde(default)]
    pub join_wait_ms: u32,
    /// How members are called when there is a new batch. Without it nobody can subscribe.
    #[serde(default)]
    pub callbacks: Option<CallbacksConfig>,
}

/// Which countries an instance serves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Countries {
    /// Every active or paused member, also those that join later.
    #[default]
    All,
    /// These.
    Only(Vec<Country>),
}

fn max_days() -> u16 {
    MAX_DAYS
}

fn sweep_interval_s() -> u32 {
    600
}

fn max_keys_per_download_batch() -> usize {
    20_000
}

impl DistributeConfig {
    /// The periods in the form in which they are applied.
    #[must_use]
    pub fn periods(&self) -> Periods {
        let retention_ms =
            i64::from(self.retention_days) * MILLIS_PER_DAY - i64::from(self.sweep_interval_s) * 1000;
        Periods { window_days: self.download_window_days, retention_ms }
    }

    /// What bounds a download batch.
    #[must_use]
    pub fn joining(&self) -> Joining {
        Joining {
            max_keys: self.max_keys_per_download_batch,
            wait: Duration::from_millis(self.join_wait_ms.into()),
        }
    }
}

impl Check for DistributeConfig {
    fn check(&self, faults: &mut Faults) {
        if let Countries::Only(list) = &self.countries {
            if list.is_empty() {
                faults.add("countries.only", "names no country; `countries: all` serves every member");
            }
            if list.iter().collect::<BTreeSet<_>>().len() < list.len() {
                faults.add("countries.only", "names a country twice");
            }
        }
        faults.section("store", &self.store);
        faults.section("callbacks", &self.callbacks);
        if !(1..=MAX_DAYS).contains(&self.retention_days) {
            faults.add("retention_days", "is not 1 to 14 days");
        }
        if self.download_window_days < 1 || self.download_window_days > self.retention_days {
            faults.add(
                "download_window_days",
                "is not 1 to `retention_days`: what is erased can not be downloaded",
            );
        }
        if !(1..=MAX_SWEEP_INTERVAL_S).contains(&self.sweep_interval_s) {
            faults.add("sweep_interval_s", "is not 1 to 3600 s");
        }
        if !(1..=100_000).contains(&self.max_keys_per_download_batch) {
            faults.add("max_keys_per_download_batch", "is not 1 to 100000 keys");
        }
        if self.join_wait_ms > MAX_JOIN_WAIT_MS {
            faults.add("join_wait_ms", "is not 0 to 60000 ms");
        }
    }
}

#[cfg(test)]
mod tests {
    use keyferry_runtime::config::load_with;

    use super::*;

    fn faults(yaml: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), yaml).unwrap();
        let result = load_with::<DistributeConfig>(file.path(), "distribute", Vec::new());
        result.map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn every_fault_is_named() {
        assert_eq!(faults("store: {local: {path: /tmp/x}}"), "");
        assert_eq!(faults("countries: {only: [DE]}\nstore: {s3: {bucket: b, endpoint: 'https://s3'}}"), "");
        let all = "countries: {only: [DE, DE]}\nstore: {s3: {bucket: '', endpoint: 'http://s3'}}\n\
            retention_days: 15\ndownload_window_days: 16\nsweep_interval_s: 0\n\
            max_keys_per_download_batch: 0\njoin_wait_ms: 60001\nmore: 1\n\
            callbacks: {client: {certificate: /nowhere, key: /nowhere}, timeout_ms: 0, retry_max_s: 0, \
            max_per_member: 0, allowed_networks: ['0.0.0.0/0']}";
        let found = faults(all);
        for field in [
            "countries.only",
            "bucket",
            "endpoint",
            "retention_days",
            "download_window_days",
            "sweep_interval_s",
            "max_keys_per_download_batch",
            "join_wait_ms",
            "more",
            "callbacks.client",
            "callbacks.timeout_ms",
            "callbacks.retry_max_s",
            "callbacks.max_per_member",
            "callbacks.allowed_networks",
        ] {
            assert!(found.contains(field), "{field}: {found}");
        }
    }

    #[test]
    fn keys_are_erased_before_their_time_and_not_after() {
        let config = DistributeConfig {
            countries: Countries::All,
            store: StoreConfig::Local(crate::store::LocalConfig { path: "/nowhere".into() }),
            download_window_days: 14,
            retention_days: 14,
            sweep_interval_s: 600,
            max_keys_per_download_batch: 1,
            join_wait_ms: 0,
            callbacks: None,
        };
        let periods = config.periods();
        let upload = keyferry_schemas::time::Millis(1_603_454_400_000);
        let due = upload.plus(14 * MILLIS_PER_DAY);
        assert!(periods.erased_until(due.plus(-600_000)) >= upload, "at the last sweep before it is due");
        assert!(periods.erased_until(due.plus(-600_001)) < upload);
    }
}
