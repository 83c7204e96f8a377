//! Reads one partition from a given offset, without a group: how ledgers, keys and the network document are followed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::Consumer,
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};

use keyferry_schemas::time::Millis;

use crate::{
    clients::{Reader, bounds, is_passing},
    kafka::{Isolation, Kafka},
};

/// Most headers that are read of one record. Ours have a handful; a million empty ones would fit into one of a stranger.
const MAX_HEADERS: usize = 64;

/// How long a question to the broker may take.
pub(crate) const BROKER_TIMEOUT: Duration = Duration::from_secs(10);

/// A record as it was read; owned, one copy.
#[derive(Clone)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers; none if they are too many, or one of them has a name that is no text.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Record {
    pub(crate) fn copy(message: &BorrowedMessage<'_>) -> Self {
        Self {
            offset: message.offset(),
            timestamp: Millis(message.timestamp().to_millis().unwrap_or(0)),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: message.headers().map(copy_headers).unwrap_or_default(),
        }
    }

    /// What it takes of the memory for waiting records, in bytes, about.
    pub(crate) fn size(&self) -> usize {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(value) + 64).sum::<usize>();
        length(&self.key) + length(&self.value) + headers + 256
    }
}

/// Kafka takes any bytes for the name of a header, and rdkafka panics over a name that is not UTF-8: whoever may write a
/// topic must not be able to end its readers. Nothing that is decided rests on headers.
fn copy_headers<H: Headers>(headers: &H) -> Vec<(String, Option<Bytes>)> {
    if headers.count() > MAX_HEADERS {
        return Vec::new();
    }
    let copy = || headers.iter().map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice))).collect();
    catch_unwind(AssertUnwindSafe(copy)).unwrap_or_default()
}

/// What came next.
pub enum Next {
    /// A record.
    Record(Record),
    /// Nothing yet: the reader stands at the end (for committed readers: at the last stable offset).
    End,
    /// Nothing within the time given.
    Timeout,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    Earliest,
    /// At this offset.
    Offset(i64),
    /// At the end (for committed readers: at the last stable offset): only what comes from now on.
    End,
}

/// A reader of partition 0 of one topic.
pub struct Tail {
    consumer: Reader,
    topic: String,
    position: i64,
}

impl Tail {
    /// Opens the topic. Blocks for up to 10 s to learn its bounds.
    ///
    /// # Errors
    /// The broker can not be reached, or there is no such topic.
    pub fn open(kafka: &Kafka, topic: &str, isolation: Isolation, start: Start) -> Result<Self, KafkaError> {
        let consumer = kafka.reader(isolation)?;
        let (low, high) = bounds(&consumer, topic)?;
        let position = match start {
            Start::Earliest => low,
            Start::Offset(offset) => offset,
            Start::End => high,
        };
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Offset(position))?;
        consumer.assign(&partitions)?;
        Ok(Self { consumer, topic: topic.to_owned(), position })
    }

    /// The next record, or what there is instead of one. Blocks for up to `timeout`.
    ///
    /// # Errors
    /// [`KafkaError`], among them an offset that is no longer there. Passing faults of the network are retried inside.
    pub fn next(&mut self, timeout: Duration) -> Result<Next, KafkaError> {
        match self.consumer.poll(timeout) {
            None => Ok(Next::Timeout),
            Some(Ok(message)) => {
                let record = Record::copy(&message);
                self.position = record.offset + 1;
                Ok(Next::Record(record))
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                // The end may lie behind transaction markers, which are no records.
                if let Some(Offset::Offset(at)) = self.reported_position() {
                    self.position = self.position.max(at);
                }
                Ok(Next::End)
            }
            Some(Err(e)) if is_passing(&e) => Ok(Next::Timeout),
            Some(Err(e)) => Err(e),
        }
    }

    /// Offset of the next record to be read, as far as it is known.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// First offset and end of the topic. Blocks for up to 10 s. For committed readers the end is the last stable offset.
    ///
    /// # Errors
    /// The broker can not be reached.
    pub fn bounds(&self) -> Result<(i64, i64), KafkaError> {
        bounds(&self.consumer, &self.topic)
    }

    fn reported_position(&self) -> Option<Offset> {
        let positions = self.consumer.position().ok()?;
        positions.find_partition(&self.topic, 0).map(|p| p.offset())
    }
}
