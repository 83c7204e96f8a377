//! The section `gateway:`.

use std::time::Duration;

use keyferry_runtime::config::{Check, Faults};
use keyferry_schemas::topics::MAX_UPLOAD_BYTES;
use serde::Deserialize;

/// What a record on `uploads` holds beside the body: the signature, the tag, framing.
const OVERHEAD_BYTES: usize = 32 << 10;
/// Together with reading the body this stays within the time that a stopping listener gives its requests.
const LONGEST_WAIT_MS: u64 = 15_000;

/// `gateway:` how much the gateway takes, and how long it waits. Every field may be left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct GatewayConfig {
    /// How long an upload waits for its decision, in milliseconds; 10000 unless told.
    pub decision_wait_ms: u64,
    /// Largest body, in bytes; 2 MiB less 32 KiB unless told, which is also the most: the record must fit its topic.
    pub max_body_bytes: usize,
    /// Most uploads at a time, of all members; 64 unless told. Each takes about three times its body in memory.
    pub max_concurrent_uploads: usize,
    /// Most uploads at a time of one member; 8 unless told.
    pub max_concurrent_uploads_per_member: usize,
    /// Most uploads per minute of one member; 600 unless told.
    pub uploads_per_minute_per_member: u32,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            decision_wait_ms: 10_000,
            max_body_bytes: MAX_UPLOAD_BYTES - OVERHEAD_BYTES,
            max_concurrent_uploads: 64,
            max_concurrent_uploads_per_member: 8,
            uploads_per_minute_per_member: 600,
        }
    }
}

impl GatewayConfig {
    pub(crate) fn decision_wait(&self) -> Duration {
        Duration::from_millis(self.decision_wait_ms)
    }
}

impl Check for GatewayConfig {
    fn check(&self, faults: &mut Faults) {
        if !(100..=LONGEST_WAIT_MS).contains(&self.decision_wait_ms) {
            faults.add("decision_wait_ms", format_args!("is not 100 to {LONGEST_WAIT_MS}"));
        }
        let most = MAX_UPLOAD_BYTES - OVERHEAD_BYTES;
        if !(1024..=most).contains(&self.max_body_bytes) {
            faults.add("max_body_bytes", format_args!("is not 1024 to {most}"));
        }
        if self.max_concurrent_uploads == 0 {
            faults.add("max_concurrent_uploads", "is 0");
        }
        if !(1..=self.max_concurrent_uploads).contains(&self.max_concurrent_uploads_per_member) {
            faults.add("max_concurrent_uploads_per_member", "is not 1 to `max_concurrent_uploads`");
        }
        if !(1..=60_000).contains(&self.uploads_per_minute_per_member) {
            faults.add("uploads_per_minute_per_member", "is not 1 to 60000");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_the_rest_is_named() {
        let mut faults = Faults::default();
        GatewayConfig::default().check(&mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let none = GatewayConfig {
            decision_wait_ms: 0,
            max_body_bytes: MAX_UPLOAD_BYTES,
            max_concurrent_uploads: 0,
            max_concurrent_uploads_per_member: 1,
            uploads_per_minute_per_member: 0,
        };
        none.check(&mut faults);
        let text = format!("{faults:?}");
        for field in
            ["decision_wait_ms", "max_body_bytes", "max_concurrent_uploads", "per_member", "per_minute"]
        {
            assert!(text.contains(field), "{field}");
        }
    }
}
