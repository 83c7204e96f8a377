//! Waiting for what has to come about, and asking the consumer group how far it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use keyferry_runtime::kafka::Isolation;
use keyferry_schemas::topics;
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};

use crate::hub::Hub;

/// Waits until `condition` holds.
///
/// # Panics
/// It does not within a minute.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < give_up, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The offset that the processors' group has committed for an origin.
///
/// # Errors
/// The broker does not say.
pub fn committed_offset(hub: &Hub, origin: &str) -> Result<Option<i64>> {
    let consumer = hub.kafka("process").reader(Isolation::Committed)?;
    let topic = topics::uploads(origin.parse()?);
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition(&topic, 0);
    let offsets = consumer.committed_offsets(partitions, Duration::from_secs(20))?;
    match offsets.find_partition(&topic, 0).context("no such partition")?.offset() {
        Offset::Offset(offset) => Ok(Some(offset)),
        _ => Ok(None),
    }
}
