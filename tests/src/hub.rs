//! A hub of a test's own: a broker, the topics of a made-up world, its network document, and what stands on its topics.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use keyferry_runtime::{
    broker::Broker,
    clock::{Clock as _, SystemClock},
    codec::{Codec, KeysRecord},
    config::{KafkaConfig, LogConfig},
    kafka::{Isolation, Kafka},
    network::NetworkFeed,
    tail::{Next, Record, Start, Tail},
    telemetry,
};
use keyferry_schemas::{
    batch::{SignedBatch, bit},
    chain::{Chains, VerifiedBatch},
    country::Country,
    records::{LedgerEntry, Upload},
    topics::{self, Topic},
    world::{Rng, World, key},
};
use rdkafka::{
    admin::{AdminOptions, NewTopic, TopicReplication},
    producer::{BaseProducer, BaseRecord},
};

use crate::{broker::Brokers, wait::delivered};

/// A hub.
pub struct Hub {
    /// Its broker, or brokers.
    pub broker: Brokers,
    /// The world it serves.
    pub world: World,
    /// Reads and writes its records.
    pub codec: Codec,
    producer: BaseProducer,
}

impl Hub {
    /// Starts a broker of its own with the topics of `world`, and publishes its document. Takes some seconds.
    ///
    /// # Errors
    /// The broker does not start.
    pub fn start(world: World) -> Result<Self> {
        Self::start_with(world, |topic| topic)
    }

    /// The same, with topics as `adapt` makes them.
    ///
    /// # Errors
    /// The broker does not start.
    pub fn start_with(world: World, adapt: impl Fn(Topic) -> Topic) -> Result<Self> {
        let broker = Broker::builder()
            // So that tests of retention and of sessions take seconds.
            .property("log.retention.check.interval.ms", "500")
            .property("log.initial.task.delay.ms", "500")
            .property("group.min.session.timeout.ms", "1000")
            .start()?;
        Self::on(broker, world, adapt)
    }

    /// The same on a broker that runs already and is empty.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn on(broker: Broker, world: World, adapt: impl Fn(Topic) -> Topic) -> Result<Self> {
        let hub = Self::bare(broker.into(), world)?;
        hub.create(hub.topics().into_iter().map(adapt))?;
        hub.publish()?;
        Ok(hub)
    }

    pub(crate) fn bare(broker: Brokers, world: World) -> Result<Self> {
        if std::env::var_os("KEYFERRY_LOG").is_some() {
            telemetry::init(&LogConfig::default()).map_err(|e| anyhow::anyhow!("{e}"))?;
        }
        let producer = clients(broker.bootstrap_servers(), &[], "test").producer_config().create()?;
        Ok(Self { broker, world, codec: Codec::single_object()?, producer })
    }

    pub(crate) fn topics(&self) -> Vec<Topic> {
        let members = self.world.nations.keys().flat_map(|c| topics::of_member(*c));
        topics::shared().into_iter().chain(members).collect()
    }

    /// Creates topics.
    ///
    /// # Errors
    /// One is there already.
    pub fn create(&self, wanted: impl Iterator<Item = Topic>) -> Result<()> {
        let wanted: Vec<Topic> = wanted.collect();
        let new: Vec<_> = wanted
            .iter()
            .map(|t| {
                let new = NewTopic::new(&t.name, 1, TopicReplication::Fixed(1));
                t.settings.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        let admin = self.kafka("test").admin()?;
        let created = block_on(admin.create_topics(&new, &AdminOptions::new()))?;
        for result in created {
            result.map_err(|(topic, e)| anyhow::anyhow!("{topic}: {e}"))?;
        }
        Ok(())
    }

    /// Publishes the document of the world as it is now.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn publish(&self) -> Result<()> {
        self.put(topics::NETWORK, self.codec.encode(&self.world.publish()?))
    }

    /// Writes one record.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn put(&self, topic: &str, value: Vec<u8>) -> Result<()> {
        self.producer
            .send(BaseRecord::<(), _>::to(topic).payload(&value).partition(0))
            .map_err(|(e, _)| e)?;
        self.delivered_all(topic)
    }

    /// The same with a key, which compacted topics ask for.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn put_keyed(&self, topic: &str, key: &str, value: Vec<u8>) -> Result<()> {
        let record = BaseRecord::to(topic).key(key).payload(&value).partition(0);
        self.producer.send(record).map_err(|(e, _)| e)?;
        self.delivered_all(topic)
    }

    fn delivered_all(&self, topic: &str) -> Result<()> {
        delivered(&self.producer, Duration::from_secs(60)).with_context(|| format!("{topic} takes no record"))
    }

    /// Puts an upload on its origin's topic.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn send(&self, upload: &Upload) -> Result<()> {
        self.put(&topics::uploads(upload.origin), self.codec.encode(upload))
    }

    /// Sends uploads of one made-up key each.
    ///
    /// # Errors
    /// The broker does not take one.
    pub fn send_new(&self, origin: &str, n: usize) -> Result<()> {
        let mut rng = Rng::from_entropy()?;
        (0..n).try_for_each(|_| {
            let tag = format!("{:x}", rng.number());
            let keys = [key(&mut rng, origin, &[], SystemClock.now())];
            self.send(&self.world.upload(origin, &tag, &keys)?)
        })
    }

    /// Kafka clients for this hub.
    #[must_use]
    pub fn kafka(&self, role: &str) -> Kafka {
        clients(self.broker.bootstrap_servers(), &[], role)
    }

    /// The network document, followed.
    ///
    /// # Errors
    /// There is none.
    pub fn network(&self) -> Result<NetworkFeed> {
        Ok(NetworkFeed::start(&self.kafka("test"), self.codec.clone(), self.world.anchors())?)
    }

    /// Every record of a topic, up to its end as this isolation sees it.
    ///
    /// # Errors
    /// The topic can not be read.
    pub fn records(&self, topic: &str, isolation: Isolation) -> Result<Vec<Record>> {
        let mut tail = Tail::open(&self.kafka("test"), topic, isolation, Start::Earliest)?;
        let mut records = Vec::new();
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            match tail.next(Duration::from_millis(500))? {
                Next::Record(record) => records.push(record),
                Next::End => return Ok(records),
                Next::Timeout => ensure!(Instant::now() < give_up, "{topic} has no end"),
            }
        }
    }

    /// The committed ledger of an origin.
    ///
    /// # Errors
    /// It can not be read.
    pub fn ledger(&self, origin: &str) -> Result<Vec<LedgerEntry>> {
        let records = self.records(&topics::ledger(origin.parse()?), Isolation::Committed)?;
        records.into_iter().map(|r| Ok(self.codec.decode(r.value.unwrap_or_default())?)).collect()
    }

    /// Waits until the ledger of `origin` has `n` entries, and returns them.
    ///
    /// # Errors
    /// It does not within a minute, or has more.
    pub fn decided(&self, origin: &str, n: usize) -> Result<Vec<LedgerEntry>> {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let ledger = self.ledger(origin)?;
            ensure!(ledger.len() <= n, "{origin} has {} entries instead of {n}", ledger.len());
            if ledger.len() == n {
                return Ok(ledger);
            }
            if Instant::now() > give_up {
                bail!("{origin} has {} entries instead of {n}", ledger.len());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The batches of a destination, each verified, their chains without a gap, and as the checkpoints state them.
    ///
    /// # Errors
    /// Something is wrong with one.
    pub fn batches(&self, destination: &str) -> Result<Vec<(SignedBatch, VerifiedBatch)>> {
        let destination: Country = destination.parse()?;
        let versions = self.network()?.versions();
        let mut chains = Chains::new(destination);
        let mut batches = Vec::new();
        for record in self.records(&topics::keys(destination), Isolation::Committed)? {
            let at = || format!("offset {}", record.offset);
            match self.codec.decode_keys(record.value.clone().unwrap_or_default())? {
                KeysRecord::Batch(batch) => {
                    let verified = VerifiedBatch::verify(&batch, versions.as_ref()).with_context(at)?;
                    chains.append(&verified).with_context(at)?;
                    batches.push((batch, verified));
                }
                KeysRecord::Checkpoint(checkpoint) => {
                    chains.checkpoint(&checkpoint, versions.as_ref()).with_context(at)?;
                }
            }
        }
        Ok(batches)
    }

    /// The key data that are new to a destination, in order.
    ///
    /// # Errors
    /// Something is wrong with a batch.
    pub fn delivered(&self, destination: &str) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        for (batch, verified) in self.batches(destination)? {
            let all = verified.keys().into_iter().enumerate();
            keys.extend(all.filter(|(i, _)| bit(&batch.new, *i)).map(|(_, k)| k.key_data.to_vec()));
        }
        Ok(keys)
    }
}

/// Kafka clients of a role, with these options.
#[must_use]
pub fn clients(bootstrap: &str, options: &[(&str, &str)], role: &str) -> Kafka {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Kafka::new(&KafkaConfig { bootstrap_servers: bootstrap.to_owned(), client_id: None, options }, role)
}

/// Runs a future to its end on this thread.
///
/// # Panics
/// No runtime can be made.
pub fn block_on<F: Future>(future: F) -> F::Output {
    #[expect(clippy::expect_used, reason = "a test without a runtime is no test")]
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
