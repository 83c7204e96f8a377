//! What operators, brokers and accidents do to topics and offsets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keyferry_runtime::{
    kafka::Isolation,
    tail::{Start, Tail},
    topics::{TopicsConfig, apply, list},
};
use keyferry_schemas::{topics, world::World};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{CommitMode, Consumer},
};

use crate::{
    broker::Brokers,
    hub::{Hub, block_on},
    wait::wait_until,
};

impl Hub {
    /// A hub over brokers that others start and stop, its topics made by the program itself.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub fn over(bootstrap: &str, world: World, topics: TopicsConfig) -> Result<Self> {
        let hub = Self::bare(Brokers::of_others(bootstrap), world)?;
        apply(&hub.kafka("test"), &hub.topics(), topics, false)?;
        hub.publish()?;
        Ok(hub)
    }

    /// Waits until no transaction hides records of a topic. One that a killed writer left open does so until the
    /// broker ends it: its time-out of 10 s, and up to 10 s until the broker looks.
    ///
    /// # Errors
    /// It is still open after 30 s.
    pub fn settled(&self, topic: &str) -> Result<()> {
        let end =
            |isolation| anyhow::Ok(Tail::open(&self.kafka("test"), topic, isolation, Start::End)?.position());
        let give_up = Instant::now() + Duration::from_secs(30);
        while end(Isolation::Committed)? < end(Isolation::Uncommitted)? {
            ensure!(Instant::now() < give_up, "{topic} has a transaction that does not end");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The offset that the processors' group has committed for an origin.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn committed(&self, origin: &str) -> Result<Option<i64>> {
        let consumer = self.kafka("process").reader(Isolation::Committed)?;
        let topic = topics::uploads(origin.parse()?);
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition(&topic, 0);
        let offsets = consumer.committed_offsets(partitions, Duration::from_secs(20))?;
        match offsets.find_partition(&topic, 0).context("no such partition")?.offset() {
            Offset::Offset(offset) => Ok(Some(offset)),
            _ => Ok(None),
        }
    }

    /// Commits an offset for an origin in the processors' group, which has no members now.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn commit(&self, origin: &str, offset: i64) -> Result<()> {
        let consumer = self.kafka("process").reader(Isolation::Committed)?;
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&topics::uploads(origin.parse()?), 0, Offset::Offset(offset))?;
        Ok(consumer.commit(&offsets, CommitMode::Sync)?)
    }

    /// Deletes the processors' group with all its offsets, as time does. It has no members now.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn forget_offsets(&self) -> Result<()> {
        let kafka = self.kafka("process");
        let deleted = block_on(kafka.admin()?.delete_groups(&[&kafka.group()], &AdminOptions::new()))?;
        deleted
            .into_iter()
            .try_for_each(|group| group.map(drop))
            .map_err(|(group, e)| anyhow::anyhow!("{group}: {e}"))
    }

    /// Deletes the records of a topic before `offset`, as time does.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn expire(&self, topic: &str, offset: i64) -> Result<()> {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, 0, Offset::Offset(offset))?;
        let deleted = block_on(self.kafka("test").admin()?.delete_records(&before, &AdminOptions::new()))?;
        Ok(deleted.find_partition(topic, 0).context("no such partition")?.error()?)
    }

    /// Deletes a topic, and waits until it is gone.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn remove(&self, topic: &str) -> Result<()> {
        let kafka = self.kafka("test");
        let deleted = block_on(kafka.admin()?.delete_topics(&[topic], &AdminOptions::new()))?;
        deleted
            .into_iter()
            .try_for_each(|topic| topic.map(drop))
            .map_err(|(topic, e)| anyhow::anyhow!("{topic}: {e}"))?;
        let is_there = || list(&kafka).is_ok_and(|all| all.iter().any(|found| found.name == topic));
        wait_until("a topic that is gone", || !is_there());
        Ok(())
    }
}
