//! One transaction. It begins and ends between two polls of the input, so no rebalance can happen inside it; a
//! membership that was lost meanwhile is found before the offsets are sent.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use keyferry_schemas::{country::Country, topics};

use super::{
    Output,
    assignment::{Assignment, Generation},
    fault::{Remedy, remedy},
    guard,
};
use crate::{clients, kafka::Kafka, tail::BROKER_TIMEOUT};

/// What could not be delivered, and why the first of it was not.
#[derive(Default)]
pub(super) struct Deliveries {
    failed: Mutex<Option<KafkaError>>,
}

impl Deliveries {
    fn failed(&self) -> MutexGuard<'_, Option<KafkaError>> {
        // Every change under this lock is one assignment.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        clients::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        clients::log_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = result {
            tracing::warn!(topic = record.topic(), %error, "a record was not delivered");
            self.failed().get_or_insert_with(|| error.clone());
        }
    }
}

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepFault {
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("a record was not delivered: {0}")]
    Undelivered(KafkaError),
    #[error("{0} records are not acknowledged")]
    Unacknowledged(i32),
    #[error("the membership in the consumer group was lost")]
    Lost,
    #[error("{0} was revoked")]
    Revoked(Country),
    #[error("uploads of {0} are there and do not arrive")]
    Stalled(Country),
}

impl StepFault {
    /// What helps.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Kafka(e) => remedy(e),
            Self::Undelivered(e) if remedy(e) == Remedy::Exit => Remedy::Exit,
            Self::Undelivered(_) | Self::Unacknowledged(_) | Self::Revoked(_) => Remedy::Abort,
            // The group goes on without us: whatever is remembered here may be old.
            Self::Lost | Self::Stalled(_) => Remedy::Rebuild,
        }
    }
}

/// What one transaction has consumed of one origin.
pub(super) struct Consumed {
    pub origin: Country,
    pub generation: Generation,
    pub next_offset: i64,
}

/// The producer of one instance, with an open transaction or none.
pub(super) struct Transaction<'a> {
    pub producer: &'a BaseProducer<Deliveries>,
    pub consumer: &'a BaseConsumer<Assignment>,
    pub kafka: &'a Kafka,
    pub instance: &'a str,
}

impl Transaction<'_> {
    pub fn begin(&self) -> Result<(), StepFault> {
        *self.producer.context().failed() = None;
        Ok(self.producer.begin_transaction()?)
    }

    pub fn send(&self, output: &Output) -> Result<(), StepFault> {
        let headers = output.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(&output.topic)
            .partition(0)
            .timestamp(output.timestamp.0)
            .headers(headers);
        (record.key, record.payload) = (output.key.as_deref(), output.value.as_deref());
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                // Our own queue is full: let it drain.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), same)) => {
                    record = same;
                    self.producer.poll(Duration::from_millis(1));
                }
                Err((e, _)) => return Err(e.into()),
            }
        }
    }

    /// Ends the transaction: everything delivered, ownership checked, offsets sent, committed.
    pub fn commit(&self, consumed: &[Consumed]) -> Result<(), StepFault> {
        guard::pass("before-drain", self.instance);
        self.drain()?;
        guard::pass("before-metadata", self.instance);
        let metadata = self.metadata()?;
        self.check_ownership(consumed)?;
        guard::pass("before-offsets", self.instance);
        let mut offsets = TopicPartitionList::new();
        for c in consumed {
            offsets.add_partition_offset(&topics::uploads(c.origin), 0, Offset::Offset(c.next_offset))?;
        }
        self.insist(|| self.producer.send_offsets_to_transaction(&offsets, &metadata, BROKER_TIMEOUT))?;
        guard::pass("before-commit", self.instance);
        self.insist(|| self.producer.commit_transaction(BROKER_TIMEOUT))?;
        guard::pass("after-commit", self.instance);
        Ok(())
    }

    pub fn abort(&self) -> Result<(), StepFault> {
        // In short turns: it waits for the deliveries of what is thrown away, and these come to whoever polls.
        Ok(self.insist(|| self.producer.abort_transaction(Duration::from_millis(50)))?)
    }

    /// Waits until every record is acknowledged. Polling in short turns: `flush` waits in slices of 100 ms.
    fn drain(&self) -> Result<(), StepFault> {
        let deadline = Instant::now() + 2 * BROKER_TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
            if Instant::now() > deadline {
                return Err(StepFault::Unacknowledged(self.producer.in_flight_count()));
            }
        }
        self.producer.context().failed().take().map_or(Ok(()), |e| Err(StepFault::Undelivered(e)))
    }

    /// Metadata first, ownership after: what is lost in between is found; what is lost later, the broker refuses.
    fn metadata(&self) -> Result<ConsumerGroupMetadata, StepFault> {
        // guard: metadata of the very consumer that read the records. That of a handle without membership is accepted
        // by the broker from anybody.
        if guard::stands("guard-own-metadata") {
            return self.consumer.group_metadata().ok_or(StepFault::Lost);
        }
        let fresh: BaseConsumer = self.kafka.group_consumer_config().create()?;
        fresh.group_metadata().ok_or(StepFault::Lost)
    }

    fn check_ownership(&self, consumed: &[Consumed]) -> Result<(), StepFault> {
        // The broker would refuse the metadata of a member that is none any more, again and again; this says at once that
        // everything has to be made anew.
        if self.consumer.assignment_lost() {
            return Err(StepFault::Lost);
        }
        // guard: each partition must be in the assignment in which its records were read. A consumer that was thrown out
        // and has joined again has valid metadata, and owns nothing.
        let assignment = self.consumer.context();
        let revoked = consumed.iter().find(|c| !assignment.still_owns(c.origin, c.generation));
        match revoked {
            Some(c) if guard::stands("guard-revoked") => Err(StepFault::Revoked(c.origin)),
            _ => Ok(()),
        }
    }

    /// Calls again for as long as the fault is one that passes, up to a minute.
    fn insist(&self, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        let begun = Instant::now();
        let mut said = false;
        loop {
            match call() {
                Err(e) if remedy(&e) == Remedy::Retry && begun.elapsed() < 6 * BROKER_TIMEOUT => {
                    if !said && begun.elapsed() > Duration::from_secs(1) {
                        tracing::warn!(error = %e, "trying again");
                        said = true;
                    }
                    self.producer.poll(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }
}
