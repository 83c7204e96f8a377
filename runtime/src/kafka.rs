//! Kafka clients. Each option that a guarantee rests on is set here and can not be overridden by configuration.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use keyferry_schemas::topics::MAX_REJECT_BYTES;

use crate::{
    clients::{FirstFault, Logged, Reader, bounds, is_absence},
    config::KafkaConfig,
    exit::Fatal,
};

/// A transaction that takes longer is aborted by the broker, so that a dead instance hides nothing for long.
const TRANSACTION_TIMEOUT_MS: &str = "10000";

/// How long brokers that did not answer are asked why not.
const WHY_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes the clients of one role.
#[derive(Clone)]
pub struct Kafka {
    base: ClientConfig,
    role: String,
}

impl Kafka {
    /// Clients of `role` (`gateway`, `process`, ...), which names their consumer group `keyferry-<role>`. No I/O.
    #[must_use]
    pub fn new(config: &KafkaConfig, role: &str) -> Self {
        let mut base = ClientConfig::new();
        for (key, value) in &config.options {
            base.set(key, value);
        }
        base.set("bootstrap.servers", &config.bootstrap_servers)
            .set("client.id", config.client_id.as_deref().unwrap_or(role))
            // A record at the limit plus error headers must still fit; librdkafka's own limit is 1 MB.
            .set("message.max.bytes", (MAX_REJECT_BYTES + (64 << 10)).to_string())
            .set("fetch.message.max.bytes", (MAX_REJECT_BYTES + (64 << 10)).to_string())
            // Otherwise a new origin's topic is noticed after five minutes.
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set("log.connection.close", "false");
        // Ten seconds otherwise, and again for each client that waits for another: a broker that is back is to be found.
        if base.get("reconnect.backoff.max.ms").is_none() {
            base.set("reconnect.backoff.max.ms", "1000");
        }
        Self { base, role: role.to_owned() }
    }

    /// The same way to the brokers, in another role.
    #[must_use]
    pub fn in_role(&self, role: &str) -> Self {
        Self { base: self.base.clone(), role: role.to_owned() }
    }

    /// The consumer group of the role.
    #[must_use]
    pub fn group(&self) -> String {
        format!("keyferry-{}", self.role)
    }

    /// The brokers that are asked first, for messages to people.
    #[must_use]
    pub fn servers(&self) -> &str {
        self.base.get("bootstrap.servers").unwrap_or_default()
    }

    /// What ends a command that could not speak with the brokers about `topic`. Blocks for up to 3 s to find out more
    /// if they did not answer.
    #[must_use]
    pub fn fatal(&self, topic: &str, error: &KafkaError) -> Fatal {
        let servers = self.servers();
        let refused = [
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::GroupAuthorizationFailed,
        ];
        match error {
            e if is_absence(e) => Fatal::config(format_args!(
                "there is no topic {topic} at {servers}; `keyferry network apply` and `keyferry topics apply` create topics"
            )),
            KafkaError::ClientCreation(e) => {
                Fatal::config(format_args!("kafka.options: librdkafka says: {e}"))
            }
            e if e.rdkafka_error_code().is_some_and(|code| refused.contains(&code)) => Fatal::failure(
                format_args!("the brokers at {servers} do not allow this on {topic}: {e}; see their ACLs"),
            ),
            e => {
                if let Some(why) = self.turned_away() {
                    return Fatal::config(format_args!(
                        "the brokers at {servers} and this client do not trust each other: {why}; see TLS and SASL in `kafka.options`"
                    ));
                }
                let why = e.rdkafka_error_code().map_or_else(|| e.to_string(), |code| code.to_string());
                Fatal::unreachable(format_args!(
                    "the brokers at {servers} do not answer: {why}; check `bootstrap_servers`, and TLS and SASL in `options`"
                ))
            }
        }
    }

    /// Why there is no connection, if the reason is a password or a certificate. Whoever waits for an answer over a
    /// connection that does not come about is told of a time-out, so a client of its own is asked.
    fn turned_away(&self) -> Option<String> {
        let config = self.reader_config(Isolation::Committed);
        let client: BaseConsumer<FirstFault> = config.create_with_context(FirstFault::default()).ok()?;
        let begun = Instant::now();
        while begun.elapsed() < WHY_TIMEOUT {
            // Nothing is assigned: what comes is faults.
            let _ = client.poll(Duration::from_millis(50));
            if let Some((code, why)) = client.context().get() {
                let refused =
                    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL);
                return refused.then_some(why);
            }
        }
        None
    }

    /// That each of these topics is there. Blocks for a request per topic, for 10 s if there is no answer.
    ///
    /// # Errors
    /// [`Fatal`], naming the first that is not, or can not be read.
    pub fn insist_on(&self, topics: impl IntoIterator<Item = String>) -> Result<(), Fatal> {
        let reader = self.reader(Isolation::Committed).map_err(|e| self.fatal("", &e))?;
        let ask = |topic: &str| bounds(&reader, topic).map(drop);
        topics.into_iter().try_for_each(|topic| ask(&topic).map_err(|e| self.fatal(&topic, &e)))
    }

    /// A consumer that is assigned by hand and never commits.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub fn reader(&self, isolation: Isolation) -> Result<Reader, KafkaError> {
        self.reader_config(isolation).create_with_context(Logged)
    }

    pub(crate) fn reader_config(&self, isolation: Isolation) -> ClientConfig {
        let mut config = self.base.clone();
        config
            .set("group.id", self.group())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation.name())
            .set("fetch.wait.max.ms", "100")
            // A partition whose queue was full is asked again at once, not a second later.
            .set("fetch.queue.backoff.ms", "10");
        // Fetched ahead for each topic; librdkafka's own 64 MB, times all countries, would be most of the memory.
        self.unless_given(&mut config, "queued.max.messages.kbytes", "8192");
        config
    }

    /// The consumer of the transaction loop.
    #[must_use]
    pub fn group_consumer_config(&self) -> ClientConfig {
        let mut config = self.reader_config(Isolation::Committed);
        config
            .set("enable.partition.eof", "false")
            // `range` gives every single-partition topic to the same member.
            .set("partition.assignment.strategy", "cooperative-sticky");
        for (key, value) in [("session.timeout.ms", "10000"), ("heartbeat.interval.ms", "1000")] {
            self.unless_given(&mut config, key, value);
        }
        config
    }

    /// A producer that waits for all in-sync replicas and sends nothing twice.
    #[must_use]
    pub fn producer_config(&self) -> ClientConfig {
        // The topics of uploads hold them as they are: the broker would only have to unpack them again.
        self.compressing_config("none")
    }

    /// A producer that compresses like this, unless the configuration says how, under one of both names that librdkafka
    /// has for it.
    fn compressing_config(&self, how: &str) -> ClientConfig {
        let mut config = self.base.clone();
        config.set("acks", "all").set("enable.idempotence", "true");
        if ["compression.type", "compression.codec"].iter().all(|name| config.get(name).is_none()) {
            config.set("compression.type", how);
        }
        // One upload is one record: there is little to wait for.
        self.unless_given(&mut config, "linger.ms", "0");
        config
    }

    /// The producer of the transaction loop.
    #[must_use]
    pub fn transactional_config(&self, id: &str) -> ClientConfig {
        // Half the bytes for a quarter of the work that zstd makes of it, which is the most there is: it is done for each
        // destination anew.
        let mut config = self.compressing_config("lz4");
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
            // A delivery that takes longer than its transaction may live is a delivery that failed.
            .set("message.timeout.ms", TRANSACTION_TIMEOUT_MS);
        config
    }

    /// A client for topics and settings.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub fn admin(&self) -> Result<rdkafka::admin::AdminClient<DefaultClientContext>, KafkaError> {
        self.base.create()
    }

    fn unless_given(&self, config: &mut ClientConfig, key: &str, value: &str) {
        config.set(key, self.base.get(key).unwrap_or(value));
    }
}

/// Which records a consumer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions only, up to the last stable offset.
    Committed,
    /// All of them.
    Uncommitted,
}

impl Isolation {
    fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}
