//! The section `callbacks:` of the role `distribute`.

use serde::Deserialize;

use keyferry_runtime::{
    config::{Check, Faults},
    http::{IpNet, TlsConfig, networks},
    outbound::ClientIdentity,
};

/// `callbacks:` how members are called when there is a new batch. Without this section nobody can subscribe.
#[derive(Debug, Clone, Deserialize)]
pub struct CallbacksConfig {
    /// Our certificate and its key, by which those who are called know us. Read again within a minute.
    pub client: TlsConfig,
    /// Networks that may be called though they are not public: private interconnects. None unless told; whatever listens
    /// there can be reached by every member's callbacks.
    #[serde(default, deserialize_with = "networks")]
    pub allowed_networks: Vec<IpNet>,
    /// How long one call may take, from the resolution of the name to the head of the answer; 10000 unless told.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Longest pause between two attempts; 300 unless told.
    #[serde(default = "retry_max_s")]
    pub retry_max_s: u32,
    /// Most subscriptions of one member; 16 unless told.
    #[serde(default = "max_per_member")]
    pub max_per_member: usize,
}

fn timeout_ms() -> u64 {
    10_000
}

fn retry_max_s() -> u32 {
    300
}

fn max_per_member() -> usize {
    16
}

impl Check for CallbacksConfig {
    fn check(&self, faults: &mut Faults) {
        if let Err(e) = ClientIdentity::load(&self.client) {
            faults.add("client", e);
        }
        if !(1..=60_000).contains(&self.timeout_ms) {
            faults.add("timeout_ms", "is not 1 to 60000 ms");
        }
        if !(1..=3600).contains(&self.retry_max_s) {
            faults.add("retry_max_s", "is not 1 to 3600 s");
        }
        if !(1..=100).contains(&self.max_per_member) {
            faults.add("max_per_member", "is not 1 to 100");
        }
        if self.allowed_networks.iter().any(|net| net.prefix_len() == 0) {
            faults.add("allowed_networks", "allows every address there is, which is no guard at all");
        }
    }
}
