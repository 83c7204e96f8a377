//! Reads partition 0 of many topics with one consumer, without a group: how a gateway follows the ledgers of all
//! members at the price of one connection.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{Message, Offset, TopicPartitionList, consumer::Consumer, error::KafkaError};

use crate::{
    clients::{Reader, bounds, is_absence, is_passing},
    kafka::{Isolation, Kafka},
    tail::{Record, Start},
};

/// A reader of several topics.
pub struct Follower {
    consumer: Reader,
    /// Offset of the next record, by topic.
    positions: BTreeMap<String, i64>,
}

impl Follower {
    /// A reader of nothing yet. No I/O.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub fn new(kafka: &Kafka, isolation: Isolation) -> Result<Self, KafkaError> {
        Ok(Self { consumer: kafka.reader(isolation)?, positions: BTreeMap::new() })
    }

    /// Reads `topic`, too. Blocks for up to 10 s to learn its bounds.
    ///
    /// # Errors
    /// The broker can not be reached, or there is no such topic; the others are read on.
    pub fn add(&mut self, topic: &str, start: Start) -> Result<(), KafkaError> {
        let (low, high) = bounds(&self.consumer, topic)?;
        let position = match start {
            Start::Earliest => low,
            Start::Offset(offset) => offset,
            Start::End => high,
        };
        self.positions.insert(topic.to_owned(), position);
        self.assign()
    }

    /// Reads `topic` no more.
    ///
    /// # Errors
    /// [`KafkaError`]; the others are read on.
    pub fn remove(&mut self, topic: &str) -> Result<(), KafkaError> {
        match self.positions.remove(topic) {
            Some(_) => self.assign(),
            None => Ok(()),
        }
    }

    /// Whether `topic` is read.
    #[must_use]
    pub fn follows(&self, topic: &str) -> bool {
        self.positions.contains_key(topic)
    }

    /// Offset of the next record of `topic`, as far as it is known; `None` if it is not read.
    #[must_use]
    pub fn position(&self, topic: &str) -> Option<i64> {
        self.positions.get(topic).copied()
    }

    /// The end of `topic`. Blocks for up to 10 s. For committed readers it is the last stable offset.
    ///
    /// # Errors
    /// The broker can not be reached, or there is no such topic.
    pub fn end(&self, topic: &str) -> Result<i64, KafkaError> {
        bounds(&self.consumer, topic).map(|(_, high)| high)
    }

    /// The next record and the topic it stands on; `None` if there is none within `timeout`, for which it blocks.
    ///
    /// # Errors
    /// [`KafkaError`] that does not mend itself; [`Follower::recover`] puts it right.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<(String, Record)>, KafkaError> {
        match self.consumer.poll(timeout) {
            None => Ok(None),
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.take_over_positions();
                Ok(None)
            }
            Some(Ok(message)) => {
                let record = Record::copy(&message);
                if let Some(position) = self.positions.get_mut(message.topic()) {
                    *position = record.offset + 1;
                }
                Ok(Some((message.topic().to_owned(), record)))
            }
            Some(Err(e)) if is_passing(&e) => Ok(None),
            Some(Err(e)) => Err(e),
        }
    }

    /// After an error: goes on with every topic that is still there, where it stood or at the nearest record that is
    /// left. Returns the topics that are gone. Blocks for up to 10 s per topic.
    ///
    /// # Errors
    /// The broker can not be reached.
    pub fn recover(&mut self) -> Result<Vec<String>, KafkaError> {
        let mut gone = Vec::new();
        for (topic, position) in &mut self.positions {
            match bounds(&self.consumer, topic) {
                Ok((low, high)) => *position = (*position).clamp(low, high.max(low)),
                Err(e) if is_absence(&e) => gone.push(topic.clone()),
                Err(e) => return Err(e),
            }
        }
        self.positions.retain(|topic, _| !gone.contains(topic));
        self.assign()?;
        Ok(gone)
    }

    /// An end may lie behind what is no record: markers, and places of records that were compacted away.
    fn take_over_positions(&mut self) {
        let Ok(reported) = self.consumer.position() else { return };
        for (topic, position) in &mut self.positions {
            if let Some(Offset::Offset(at)) = reported.find_partition(topic, 0).map(|p| p.offset()) {
                *position = at.max(*position);
            }
        }
    }

    /// All anew: positions are ours, and what was fetched ahead is fetched again.
    fn assign(&self) -> Result<(), KafkaError> {
        let mut partitions = TopicPartitionList::with_capacity(self.positions.len());
        for (topic, position) in &self.positions {
            partitions.add_partition_offset(topic, 0, Offset::Offset(*position))?;
        }
        self.consumer.assign(&partitions)
    }
}
