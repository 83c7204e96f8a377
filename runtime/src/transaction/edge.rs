//! The edge: what the loop asks of its log, asked of Kafka through rdkafka.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::channel},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
    types::RDKafkaRespErr,
};

use keyferry_schemas::{country::Country, topics};

use super::{
    Output,
    assignment::Assignment,
    fault::{Fault, Remedy, remedy},
    log::{Committed, Input, Log, Offsets, Reader, Writer},
};
use crate::{
    clients::{self, is_passing},
    kafka::{Isolation, Kafka},
    skew::{BrokerClock, stamped},
    tail::{BROKER_TIMEOUT, Next, Record, Start, Tail},
};

/// How much later than it should a call may come back.
const GRACE: Duration = Duration::from_secs(2);

impl Log for Kafka {
    type Input = BaseConsumer<Assignment>;
    type Writer = Arc<BaseProducer<Deliveries>>;
    type Reader = Tail;
    type Offsets = clients::Reader;

    fn input(&self) -> Result<Self::Input, Fault> {
        Ok(self.group_consumer_config().create_with_context(Assignment::default())?)
    }

    fn writer(&self, transactional_id: &str, clock: &Arc<BrokerClock>) -> Result<Self::Writer, Fault> {
        let deliveries = Deliveries { failed: Mutex::default(), clock: Arc::clone(clock) };
        let config = self.transactional_config(transactional_id);
        Ok(Arc::new(config.create_with_context(deliveries)?))
    }

    fn reader(&self, topic: &str, isolation: Isolation, start: Start) -> Result<Tail, Fault> {
        Ok(Tail::open(self, topic, isolation, start)?)
    }

    fn offsets(&self, isolation: Isolation) -> Result<clients::Reader, Fault> {
        Ok(Self::reader(self, isolation)?)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        std::thread::spawn(work);
    }
}

impl Input for BaseConsumer<Assignment> {
    type Member = Arc<ConsumerGroupMetadata>;

    fn subscribe(&self) -> Result<(), Fault> {
        Ok(Consumer::subscribe(self, &[topics::UPLOADS_PATTERN])?)
    }

    fn poll(&self, wait: Duration) -> Result<Option<(Country, Record)>, Fault> {
        match BaseConsumer::poll(self, wait) {
            None => Ok(None),
            // The subscription names no other topics.
            Some(Ok(message)) => Ok(topics::origin_of(message.topic()).map(|o| (o, Record::copy(&message)))),
            Some(Err(e)) if is_passing(&e) => Ok(None),
            Some(Err(e @ KafkaError::MessageConsumption(_))) if remedy(&e) == Remedy::Abort => {
                tracing::error!(error = %e, "the input can not be read on");
                Ok(None)
            }
            Some(Err(e)) => Err(e.into()),
        }
    }

    fn assignment(&self) -> &Assignment {
        self.context()
    }

    fn assignment_lost(&self) -> bool {
        Consumer::assignment_lost(self)
    }

    fn member(&self) -> Option<Self::Member> {
        self.group_metadata().map(Arc::new)
    }

    fn seek(&self, topic: &str, offset: i64) -> Result<(), Fault> {
        Ok(Consumer::seek(self, topic, 0, Offset::Offset(offset), BROKER_TIMEOUT)?)
    }

    fn resume(&self, topic: &str) -> Result<(), Fault> {
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition(topic, 0);
        Ok(Consumer::resume(self, &partitions)?)
    }

    fn bounds(&self, topic: &str, timeout: Duration) -> Result<(i64, i64), Fault> {
        Ok(self.fetch_watermarks(topic, 0, timeout)?)
    }
}

impl ClientContext for Assignment {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        clients::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        clients::log_error(&error, reason);
    }
}

impl ConsumerContext for Assignment {
    /// Runs inside `poll`. No transaction is ever open then: one begins and ends between two polls.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assign = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let origins = partitions
            .elements()
            .into_iter()
            .filter_map(|p| topics::origin_of(p.topic()))
            .collect::<Vec<_>>();
        if assign {
            self.given(&origins);
        } else {
            self.taken(&origins);
        }
        let done = if assign {
            // Where to begin is for the ledger to say, at the end of the take-over. Until then nothing is fetched.
            let _ = partitions.set_all_offsets(Offset::End);
            consumer.incremental_assign(partitions).and_then(|()| consumer.pause(partitions))
        } else {
            consumer.incremental_unassign(partitions)
        };
        match done {
            Ok(()) => {
                tracing::info!(assign, ?origins, "partitions {}", if assign { "assigned" } else { "revoked" })
            }
            Err(e) => tracing::error!(assign, ?origins, error = %e, "the rebalance failed"),
        }
    }
}

/// What could not be delivered, and why the first of it was not.
pub struct Deliveries {
    failed: Mutex<Option<KafkaError>>,
    clock: Arc<BrokerClock>,
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
        match result {
            // Every transaction that moves an origin writes its head, and the broker stamps heads itself.
            Ok(record) if record.topic() == topics::HEADS => self.clock.hear(stamped(record.timestamp())),
            Ok(_) => (),
            Err((error, record)) => {
                tracing::warn!(topic = record.topic(), %error, "a record was not delivered");
                self.failed().get_or_insert_with(|| error.clone());
            }
        }
    }
}

impl Writer for Arc<BaseProducer<Deliveries>> {
    type Member = Arc<ConsumerGroupMetadata>;

    fn init(&self, timeout: Duration) -> Result<(), Fault> {
        Ok(self.init_transactions(timeout)?)
    }

    fn begin(&self) -> Result<(), Fault> {
        *self.context().failed() = None;
        Ok(self.begin_transaction()?)
    }

    fn send(&self, output: &Output) -> Result<(), Fault> {
        let headers = output.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(&output.topic)
            .partition(0)
            .timestamp(self.context().clock.acceptable(output.timestamp).0)
            .headers(headers);
        (record.key, record.payload) = (output.key.as_deref(), output.value.as_deref());
        loop {
            match BaseProducer::send(self, record) {
                Ok(()) => return Ok(()),
                // Our own queue is full: let it drain.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), same)) => {
                    record = same;
                    self.serve(Duration::from_micros(500));
                }
                Err((e, _)) => return Err(e.into()),
            }
        }
    }

    fn in_flight(&self) -> i32 {
        self.in_flight_count()
    }

    fn serve(&self, wait: Duration) {
        clients::serve(self, wait);
    }

    fn take_failed(&self) -> Option<Fault> {
        self.context().failed().take().map(Fault::from)
    }

    /// On a thread of its own, since it may never come back: librdkafka 2.12 waits for a coordinator that is gone until any
    /// broker's connection comes or goes, and forgets its time limit. Meanwhile the member would keep up its heartbeats
    /// and its origins. That thread holds a producer which is fenced by the next one of the same id.
    fn send_offsets(
        &self,
        offsets: &[(String, i64)],
        member: &Arc<ConsumerGroupMetadata>,
    ) -> Result<(), Fault> {
        let mut list = TopicPartitionList::new();
        for (topic, offset) in offsets {
            list.add_partition_offset(topic, 0, Offset::Offset(*offset))?;
        }
        let (producer, member) = (Self::clone(self), Arc::clone(member));
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let sent = producer.send_offsets_to_transaction(&list, &member, BROKER_TIMEOUT);
            // Before the result is known: whoever waits for it may be the last to hold the producer.
            drop(producer);
            let _ = sender.send(sent);
        });
        match receiver.recv_timeout(BROKER_TIMEOUT + GRACE) {
            Ok(sent) => Ok(sent?),
            Err(_) => {
                Err(Fault { what: "the offsets are not answered for".to_owned(), remedy: Remedy::Rebuild })
            }
        }
    }

    fn commit(&self) -> Result<(), Fault> {
        Ok(self.commit_transaction(BROKER_TIMEOUT)?)
    }

    fn abort(&self, timeout: Duration) -> Result<(), Fault> {
        Ok(self.abort_transaction(timeout)?)
    }
}

impl Reader for Tail {
    fn next(&mut self, timeout: Duration) -> Result<Next, Fault> {
        Ok(Self::next(self, timeout)?)
    }

    fn position(&self) -> i64 {
        Self::position(self)
    }

    fn bounds(&self) -> Result<(i64, i64), Fault> {
        Ok(Self::bounds(self)?)
    }
}

impl Offsets for clients::Reader {
    fn committed(&self, topic: &str, timeout: Duration) -> Result<Committed, Fault> {
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition(topic, 0);
        match self.committed_offsets(partitions, timeout) {
            Ok(offsets) => {
                let found = offsets.find_partition(topic, 0).filter(|p| p.error().is_ok());
                Ok(match found.map(|p| p.offset()) {
                    Some(Offset::Offset(offset)) => Committed::At(offset),
                    Some(Offset::Invalid) => Committed::Nothing,
                    _ => Committed::Unstable,
                })
            }
            Err(KafkaError::OffsetFetch(
                RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::UnstableOffsetCommit
                | RDKafkaErrorCode::RequestTimedOut,
            )) => Ok(Committed::Unstable),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;
    use crate::clock::SystemClock;

    /// Nanoseconds that this thread has been on a processor.
    fn busy() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        stat.split(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn to_wait_for_acknowledgements_takes_no_processor_time() {
        // Nobody answers there, so that the record stays in flight.
        let config = ClientConfig::new()
            .set("bootstrap.servers", "127.0.0.1:1")
            .set_log_level(RDKafkaLogLevel::Emerg)
            .clone();
        let clock = Arc::new(BrokerClock::register(Arc::new(SystemClock)).unwrap());
        let deliveries = Deliveries { failed: Mutex::default(), clock };
        let producer: BaseProducer<Deliveries> = config.create_with_context(deliveries).unwrap();
        producer.send(BaseRecord::<[u8], [u8]>::to("nowhere").payload(b"x")).map_err(|(e, _)| e).unwrap();
        let producer = Arc::new(producer);
        let before = busy();
        (0..200).for_each(|_| producer.serve(Duration::from_millis(1)));
        assert!(producer.in_flight() == 1);
        let took = Duration::from_nanos(busy() - before);
        assert!(took < Duration::from_millis(50), "{took:?} of 200 ms");
    }
}
