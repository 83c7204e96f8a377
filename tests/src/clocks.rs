//! Clocks that are wrong, and roles that go by them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use keyferry_processors::pipeline::Tools;
use keyferry_runtime::{
    clock::{Clock, SharedClock, SystemClock},
    health::Health,
    network::NetworkFeed,
    transaction::{Runner, Settings},
};
use keyferry_schemas::time::Millis;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::{
    hub::Hub,
    processor::{Processor, runner},
};

/// A clock that is off by so many milliseconds, which may change while it is in use.
#[derive(Debug, Default, Clone)]
pub struct Shifted(Arc<AtomicI64>);

impl Shifted {
    /// One that is ahead by this much; behind, if it is negative.
    #[must_use]
    pub fn by(millis: i64) -> Self {
        Self(Arc::new(millis.into()))
    }

    /// Sets it.
    pub fn shift(&self, millis: i64) {
        self.0.store(millis, Ordering::SeqCst);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Millis {
        SystemClock.now().plus(self.0.load(Ordering::SeqCst))
    }
}

impl Hub {
    /// Starts a processor that goes by this clock.
    ///
    /// # Errors
    /// The network document can not be read.
    pub fn processor_at(&self, settings: Settings, clock: &Shifted) -> Result<Processor> {
        let tools = self.tools(&settings.transactional_id);
        self.processor_of(self.network()?, tools, settings, Arc::new(clock.clone()))
    }

    /// Starts a processor that holds this, follows this document and goes by this clock.
    ///
    /// # Errors
    /// A metric is defined twice.
    pub fn processor_of(
        &self,
        network: NetworkFeed,
        tools: Tools,
        settings: Settings,
        clock: SharedClock,
    ) -> Result<Processor> {
        let health = Health::new("process");
        let runner = runner(self.kafka("process"), self.codec.clone(), network, tools, settings, &health)?;
        Ok(Processor::start(Runner { clock, ..runner }, health))
    }

    /// Writes one record with a timestamp of its own, where the topic takes it.
    ///
    /// # Errors
    /// The broker does not take it.
    pub fn put_at(&self, topic: &str, value: Vec<u8>, timestamp: Millis) -> Result<()> {
        let producer: BaseProducer = self.kafka("test").producer_config().create()?;
        let record = BaseRecord::<(), _>::to(topic).payload(&value).partition(0).timestamp(timestamp.0);
        producer.send(record).map_err(|(e, _)| e)?;
        Ok(producer.flush(Duration::from_secs(10))?)
    }
}
