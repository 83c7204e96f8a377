//! Writes single records outside of transactions, and says what is known about each that failed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};

use crate::{
    clients,
    clock::SharedClock,
    exit::Fatal,
    kafka::Kafka,
    skew::{BrokerClock, stamped},
};

/// How long a delivery may take unless the configuration says otherwise.
const DELIVERY_TIMEOUT_MS: &str = "5000";
/// How long the broker may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What became of a record that was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// It is certainly on no topic: it never left, or the broker refused it.
    #[error("not written: {0}")]
    NotAccepted(String),
    /// It may be on the topic, or not: it left, and no answer came.
    #[error("not known whether written: {0}")]
    Unknown(String),
}

/// A producer that waits for all in-sync replicas. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    client: ArcSwap<FutureProducer<Contact>>,
    contact: Contact,
    /// Set where somebody wants to know how far this machine's clock is off.
    clock: OnceLock<BrokerClock>,
}

/// Whether there is a reason to doubt that the broker can be reached.
#[derive(Clone, Default)]
struct Contact(Arc<AtomicBool>);

impl Contact {
    fn doubt(&self, doubt: bool) {
        self.0.store(doubt, Ordering::Relaxed);
    }

    fn is_doubtful(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ClientContext for Contact {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        clients::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the producer lost contact");
        self.doubt(true);
    }
}

impl Producer {
    /// Makes the client; connects in the background.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub fn new(kafka: &Kafka) -> Result<Self, KafkaError> {
        let mut config = kafka.producer_config();
        if ["message.timeout.ms", "delivery.timeout.ms"].iter().all(|name| config.get(name).is_none()) {
            config.set("message.timeout.ms", DELIVERY_TIMEOUT_MS);
        }
        let contact = Contact::default();
        let client = ArcSwap::from_pointee(config.create_with_context(contact.clone())?);
        Ok(Self { inner: Arc::new(Inner { config, client, contact, clock: OnceLock::new() }) })
    }

    /// From now on the metric `keyferry_clock_skew_seconds` tells how far `clock` is ahead of the broker's, as of the last
    /// record on a topic that the broker stamps.
    ///
    /// # Errors
    /// The metric is defined twice, which is a fault of the build.
    pub fn measure(&self, clock: SharedClock) -> Result<(), Fatal> {
        let clock = BrokerClock::register(clock)?;
        // Whoever asked first is told.
        let _ = self.inner.clock.set(clock);
        Ok(())
    }

    /// Writes one record to partition 0 of `topic` and returns its offset, once all in-sync replicas have it. Takes up
    /// to the delivery timeout (5 s), or 2 s if contact was lost before.
    ///
    /// # Errors
    /// [`ProduceError`], which says whether the record can still appear.
    pub async fn send(
        &self,
        topic: &str,
        key: &[u8],
        payload: &[u8],
        headers: &[(&str, &[u8])],
    ) -> Result<i64, ProduceError> {
        self.put(topic, key, Some(payload), headers).await
    }

    /// Writes a record without a value: on a compacted topic what stands under `key` is to go. As [`Producer::send`].
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn bury(&self, topic: &str, key: &[u8]) -> Result<i64, ProduceError> {
        self.put(topic, key, None, &[]).await
    }

    async fn put(
        &self,
        topic: &str,
        key: &[u8],
        payload: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<i64, ProduceError> {
        // While contact is in doubt nothing is put into the queue: what was never there is certainly not accepted.
        if self.inner.contact.is_doubtful() {
            let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
            let probe = tokio::task::spawn_blocking(move || inner.probe(&topic));
            let answer = probe.await.unwrap_or(Err(KafkaError::Canceled));
            answer.map_err(|e| ProduceError::NotAccepted(e.to_string()))?;
        }
        let client = self.inner.client.load_full();
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let mut record = FutureRecord::to(topic).partition(0).key(key).headers(headers);
        record.payload = payload;
        let delivery = match client.send_result(record) {
            Ok(delivery) => delivery.await,
            Err((error, _)) => {
                self.after(&client, &error);
                return Err(ProduceError::NotAccepted(error.to_string()));
            }
        };
        match delivery {
            Ok(Ok(delivery)) => {
                self.inner.contact.doubt(false);
                if let Some(clock) = self.inner.clock.get() {
                    clock.hear(stamped(delivery.timestamp));
                }
                Ok(delivery.offset)
            }
            Ok(Err((error, _))) => {
                self.after(&client, &error);
                let why = error.to_string();
                Err(if is_refusal(&error) {
                    ProduceError::NotAccepted(why)
                } else {
                    ProduceError::Unknown(why)
                })
            }
            Err(canceled) => Err(ProduceError::Unknown(canceled.to_string())),
        }
    }

    /// Whether `topic` can be written to, as far as is known: asks the broker only if contact was lost. Blocks for up
    /// to 2 s then.
    #[must_use]
    pub fn reachable(&self, topic: &str) -> bool {
        !self.inner.contact.is_doubtful() || self.inner.probe(topic).is_ok()
    }

    fn after(&self, failed: &Arc<FutureProducer<Contact>>, error: &KafkaError) {
        self.inner.contact.doubt(true);
        // An idempotent producer that lost its place in the sequence refuses everything from then on.
        if failed.client().fatal_error().is_none() {
            return;
        }
        match self.inner.config.create_with_context(self.inner.contact.clone()) {
            Ok(client) => {
                tracing::warn!(%error, "the producer can not go on and is made anew");
                self.inner.client.compare_and_swap(failed, Arc::new(client));
            }
            Err(e) => tracing::error!(error = %e, "the producer can not be made anew"),
        }
    }
}

impl Inner {
    /// Asks for the leader of the topic. Blocks for up to 2 s.
    fn probe(&self, topic: &str) -> Result<(), KafkaError> {
        let client = self.client.load_full();
        let metadata = client.client().fetch_metadata(Some(topic), PROBE_TIMEOUT)?;
        let partition = metadata.topics().first().and_then(|t| t.partitions().first());
        if partition.is_none_or(|p| p.leader() < 0) {
            return Err(KafkaError::MetadataFetch(Code::LeaderNotAvailable));
        }
        self.contact.doubt(false);
        Ok(())
    }
}

/// Answers with which a broker refuses a record for good, at the first attempt.
fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::InvalidTopic
                | Code::InvalidRecord
                | Code::MessageSizeTooLarge
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::PolicyViolation
        )
    )
}
