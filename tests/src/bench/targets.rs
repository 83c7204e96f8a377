//! What is to be reached on two cores, with broker, load and all roles on them.

/// A bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The more the better.
    AtLeast(f64),
    /// The less the better.
    AtMost(f64),
}

use Target::{AtLeast, AtMost};

/// Targets by the name of their figure.
const TARGETS: [(&str, Target); 13] = [
    ("processor_share_of_ceiling_5000x4", AtLeast(0.35)),
    ("processor_share_of_ceiling_5000x26", AtLeast(0.60)),
    ("end_to_end_keys_per_s_4", AtLeast(250_000.0)),
    ("latency_100_p50_ms", AtMost(40.0)),
    ("latency_100_p99_ms", AtMost(150.0)),
    ("latency_5000_p50_ms", AtMost(100.0)),
    ("latency_5000_p99_ms", AtMost(300.0)),
    ("download_keys_per_s_1", AtLeast(1e6)),
    ("download_keys_per_s_4", AtLeast(1e6)),
    ("remembered_bytes_per_key", AtMost(32.0)),
    ("restore_20m_s", AtMost(15.0)),
    ("full_over_empty", AtLeast(0.95)),
    ("stored_bytes_per_key_4", AtMost(250.0)),
];

impl Target {
    /// The target of a figure, if it has one.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        TARGETS.iter().find(|(of, _)| *of == name).map(|(_, target)| *target)
    }

    /// The bound.
    #[must_use]
    pub fn bound(self) -> f64 {
        match self {
            AtLeast(bound) | AtMost(bound) => bound,
        }
    }

    /// How much of it is reached: 1 and more is all of it.
    #[must_use]
    pub fn reached(self, value: f64) -> f64 {
        match self {
            AtLeast(bound) => value / bound,
            AtMost(bound) => bound / value,
        }
    }
}
