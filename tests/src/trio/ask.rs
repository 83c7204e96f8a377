//! Who leads what in a cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::Trio;
use crate::{hub::clients, raw};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the state of transactions is kept.
const TRANSACTIONS: &str = "__transaction_state";

impl Trio {
    /// The node that leads the other controllers.
    ///
    /// # Errors
    /// No node says.
    pub fn controller(&mut self) -> Result<u8> {
        let running: Vec<_> =
            self.nodes.iter_mut().filter_map(|one| one.broker.is_running().then_some(&one.broker)).collect();
        let mut asked = running.iter().map(|broker| raw::controller(broker.bootstrap_servers()));
        // A node that was told of none yet, or can not ask, knows nothing.
        let leader = asked.find_map(|leader| leader.ok().filter(|id| *id > 0));
        Ok(u8::try_from(leader.context("no node knows its controller")?)?)
    }

    /// The node that leads the partition of a topic.
    ///
    /// # Errors
    /// No node says, or there is no leader.
    pub fn leader_of(&self, topic: &str) -> Result<u8> {
        self.leaders(topic)?.first().copied().flatten().with_context(|| format!("{topic} has no leader"))
    }

    /// The node that coordinates the transactions of this id.
    ///
    /// # Errors
    /// No node says, or there is no leader.
    pub fn transaction_coordinator_leader(&self, id: &str) -> Result<u8> {
        let leaders = self.leaders(TRANSACTIONS)?;
        ensure!(!leaders.is_empty(), "there was no transaction yet");
        let partition = java_hash(id).cast_unsigned() & 0x7fff_ffff;
        let leader = leaders[usize::try_from(partition)? % leaders.len()];
        leader.with_context(|| format!("nobody coordinates the transactions of {id}"))
    }

    /// Whether every partition has a copy on each node, in sync.
    ///
    /// # Errors
    /// No node says.
    pub fn is_whole(&self) -> Result<bool> {
        let metadata = self.client()?.fetch_metadata(None, PATIENCE)?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let all = self.nodes.len();
        let whole = metadata.brokers().len() == all;
        Ok(whole && partitions.all(|p| (p.replicas().len(), p.isr().len()) == (all, all) && p.leader() > 0))
    }

    fn leaders(&self, topic: &str) -> Result<Vec<Option<u8>>> {
        let metadata = self.client()?.fetch_metadata(Some(topic), PATIENCE)?;
        let found = metadata.topics().first().with_context(|| format!("there is no topic {topic}"))?;
        let mut partitions: Vec<_> = found.partitions().iter().collect();
        partitions.sort_by_key(|p| p.id());
        Ok(partitions.iter().map(|p| u8::try_from(p.leader()).ok()).collect())
    }

    fn client(&self) -> Result<BaseConsumer<keyferry_runtime::clients::Logged>> {
        Ok(clients(&self.bootstrap(), &[], "test").reader(keyferry_runtime::kafka::Isolation::Committed)?)
    }
}

/// `String.hashCode()`, by which Kafka spreads ids over coordinators; for ASCII.
fn java_hash(text: &str) -> i32 {
    text.bytes().fold(0, |hash: i32, byte| hash.wrapping_mul(31).wrapping_add(byte.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hashes_as_java_does() {
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("p-0"), 109_075);
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
    }
}
