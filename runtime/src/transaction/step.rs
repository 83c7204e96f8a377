//! One transaction. It begins and ends between two polls of the input, so no rebalance can happen inside it; a
//! membership that was lost meanwhile is found before the offsets are sent.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
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

/// Counts what could not be delivered.
#[derive(Default)]
pub(super) struct Deliveries {
    failed: AtomicUsize,
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
        if let Err((e, _)) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(error = %e, "a record was not delivered");
        }
    }
}

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepFault {
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("{0} record(s) were not delivered")]
    Undelivered(usize),
    #[error("the membership in the consumer group was lost")]
    Lost,
    #[error("{0} was revoked")]
    Revoked(Country),
}

impl StepFault {
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Kafka(e) => remedy(e),
            Self::Undelivered(_) | Self::Revoked(_) => Remedy::Abort,
            // The group goes on without us: whatever is remembered here may be old.
            Self::Lost => Remedy::Rebuild,
        }
    }
}

/// What one transaction has consumed of one origin.
pub(super) struct Consumed {
    pub origin: Country,
    pub generation: Generation,
    pub last_offset: i64,
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
        self.producer.context().failed.store(0, Ordering::Relaxed);
        Ok(self.producer.begin_transaction()?)
    }

    pub fn send(&self, output: &Output) -> Result<(), StepFault> {
        let headers = output.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let mut record = BaseRecord::to(&output.topic)
            .partition(0)
            .key(&output.key)
            .payload(&output.value)
            .timestamp(output.timestamp.0)
            .headers(headers);
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
            offsets.add_partition_offset(&topics::uploads(c.origin), 0, Offset::Offset(c.last_offset + 1))?;
        }
        insist(|| self.producer.send_offsets_to_transaction(&offsets, &metadata, BROKER_TIMEOUT))?;
        guard::pass("before-commit", self.instance);
        insist(|| self.producer.commit_transaction(BROKER_TIMEOUT))?;
        guard::pass("after-commit", self.instance);
        Ok(())
    }

    pub fn abort(&self) -> Result<(), StepFault> {
        Ok(insist(|| self.producer.abort_transaction(BROKER_TIMEOUT))?)
    }

    /// Waits until every record is acknowledged. Polling in short turns: `flush` waits in slices of 100 ms.
    fn drain(&self) -> Result<(), StepFault> {
        let deadline = Instant::now() + 2 * BROKER_TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
            if Instant::now() > deadline {
                return Err(StepFault::Undelivered(
                    usize::try_from(self.producer.in_flight_count()).unwrap_or(1),
                ));
            }
        }
        match self.producer.context().failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            n => Err(StepFault::Undelivered(n)),
        }
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
        // guard: a consumer that was thrown out and has joined again has valid metadata, and owns nothing.
        if guard::stands("guard-assignment-lost") && self.consumer.assignment_lost() {
            return Err(StepFault::Lost);
        }
        // guard: each partition must be in the assignment in which its records were read.
        let assignment = self.consumer.context();
        let revoked = consumed.iter().find(|c| !assignment.still_owns(c.origin, c.generation));
        match revoked {
            Some(c) if guard::stands("guard-still-owned") => Err(StepFault::Revoked(c.origin)),
            _ => Ok(()),
        }
    }
}

/// Calls again for as long as the fault is one that passes, up to a minute.
fn insist(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let deadline = Instant::now() + 6 * BROKER_TIMEOUT;
    loop {
        match call() {
            Err(e) if remedy(&e) == Remedy::Retry && Instant::now() < deadline => {
                tracing::warn!(error = %e, "trying again");
                std::thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
}
