//! What librdkafka says of itself, in our log: without what is no news. And what its errors mean.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel as Level,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext},
};

use crate::tail::BROKER_TIMEOUT;

/// A leader that was just elected knows the end of its partition soon.
const UNSETTLED_PAUSE: Duration = Duration::from_millis(200);

/// A consumer whose log is ours.
pub type Reader = BaseConsumer<Logged>;

/// The context of clients that have no other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logged;

impl ClientContext for Logged {
    fn log(&self, level: Level, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for Logged {}

impl ProducerContext for Logged {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Remembers the first fault of a connection: what a call says that waited for one is only that it took too long.
#[derive(Default)]
pub(crate) struct FirstFault(Mutex<Option<(Code, String)>>);

impl FirstFault {
    pub fn get(&self) -> Option<(Code, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for FirstFault {
    fn log(&self, _: Level, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // That all of them are down is a consequence.
        if let Some(code) = error.rdkafka_error_code().filter(|code| *code != Code::AllBrokersDown) {
            let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| (code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for FirstFault {}

/// Passes on a line of librdkafka.
pub(crate) fn log(level: Level, facility: &str, message: &str) {
    match level {
        // An option for consumers that a producer was given as well, and the other way round: they share one section.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", facility, "{message}"),
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        Level::Warning => tracing::info!(target: "librdkafka", facility, "{message}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Passes on a fault that concerns a whole client. What it means for a call, that call says itself.
pub(crate) fn log_error(error: &KafkaError, reason: &str) {
    match error {
        KafkaError::Global(Code::PartitionEOF) | KafkaError::PartitionEOF(_) => (),
        e if is_passing(e) => tracing::warn!(target: "librdkafka", "{reason}"),
        e => tracing::error!(target: "librdkafka", error = %e, "{reason}"),
    }
}

/// Faults that librdkafka reports on the way and mends by itself.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
                | Code::Resolve
                | Code::PollExceeded
        )
    )
}

/// Waits, and then takes every acknowledgement that is there. Blocks for `wait`.
///
/// Not `poll(wait)`: rdkafka counts in whole milliseconds and turns in place through what is left of the last one, so that
/// a wait of 1 ms was one of full load, 40 % of the processor's time (`docs/performance.md`).
pub fn serve<C: ProducerContext>(producer: &BaseProducer<C>, wait: Duration) {
    std::thread::sleep(wait);
    loop {
        // One event at a time; each may tell of many records.
        let before = producer.in_flight_count();
        producer.poll(Duration::ZERO);
        if producer.in_flight_count() >= before {
            return;
        }
    }
}

/// First offset and end of partition 0 of a topic; for committed readers the end is the last stable offset. Blocks for up
/// to 10 s, also where a new leader does not know the end yet.
///
/// # Errors
/// The broker can not be reached, or there is no such topic.
pub(crate) fn bounds<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
) -> Result<(i64, i64), KafkaError> {
    let give_up = Instant::now() + BROKER_TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, 0, BROKER_TIMEOUT) {
            Err(e) if is_unsettled(&e) && Instant::now() < give_up => std::thread::sleep(UNSETTLED_PAUSE),
            bounds => return bounds,
        }
    }
}

/// Whether a partition changes its leader at the moment.
fn is_unsettled(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::OffsetNotAvailable | Code::NotLeaderForPartition | Code::LeaderNotAvailable)
    )
}

/// Whether the error says that there is no such topic.
pub fn is_absence(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
    )
}
