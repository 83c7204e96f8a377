//! Uploads made before they are needed: to sign and encode them takes the time that is to be measured.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use keyferry_runtime::{
    clients::serve,
    clock::{Clock as _, SystemClock},
};
use keyferry_schemas::{
    country::Country,
    topics,
    world::{Rng, key},
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode::QueueFull},
    producer::{BaseProducer, BaseRecord},
};

use crate::{hub::Hub, wait::delivered};

/// Records for the upload topics.
pub struct Load {
    records: Vec<(Country, Vec<u8>)>,
    keys_each: usize,
}

impl Load {
    /// So many uploads of so many keys each, none of which was sent before, origins in turn. Each key has one visited
    /// country, as most had in practice. Uses all cores.
    ///
    /// # Errors
    /// An origin is no nation of the hub's world.
    pub fn make(hub: &Hub, origins: &[Country], uploads: usize, keys: usize) -> Result<Self> {
        let workers = thread::available_parallelism()?.get();
        let one = |i: usize, rng: &mut Rng| {
            let origin = origins[i % origins.len()];
            let visited = origins[(i + 1) % origins.len()];
            let now = SystemClock.now();
            let keys: Vec<_> =
                (0..keys).map(|_| key(rng, origin.as_str(), &[visited.as_str()], now)).collect();
            let upload = hub.world.upload(origin.as_str(), &format!("{:x}", rng.number()), &keys)?;
            anyhow::Ok((origin, hub.codec.encode(&upload)))
        };
        // Each worker makes those whose number has its remainder, so that they lie in turns again when joined.
        let shares = thread::scope(|scope| {
            let share = |worker| {
                let mut rng = Rng::from_entropy()?;
                (worker..uploads).step_by(workers).map(|i| one(i, &mut rng)).collect::<Result<Vec<_>>>()
            };
            let threads: Vec<_> = (0..workers).map(|w| scope.spawn(move || share(w))).collect();
            let joined = threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a worker panicked"))?);
            joined.collect::<Result<Vec<_>>>()
        })?;
        let mut shares: Vec<_> = shares.into_iter().map(Vec::into_iter).collect();
        let records = (0..uploads).filter_map(|i| shares[i % workers].next()).collect();
        Ok(Self { records, keys_each: keys })
    }

    /// Number of keys in all of them.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.records.len() * self.keys_each
    }

    /// Puts all of it on Kafka and waits until it is there, in the way a gateway does. Takes a second or two.
    ///
    /// # Errors
    /// The broker does not take it within a minute.
    pub fn put(&self, hub: &Hub) -> Result<()> {
        let producer: BaseProducer = hub.kafka("gateway").producer_config().create()?;
        for (origin, value) in &self.records {
            let topic = topics::uploads(*origin);
            send(&producer, BaseRecord::to(&topic).payload(value).partition(0))?;
        }
        delivered(&producer, Duration::from_secs(60)).context("put the uploads on Kafka")
    }
}

/// Sends, and waits as long as the producer's own queue is full.
///
/// # Errors
/// What librdkafka says.
pub fn send(producer: &BaseProducer, mut record: BaseRecord<'_, str, Vec<u8>>) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(QueueFull), same)) => {
                record = same;
                serve(producer, Duration::from_micros(500));
            }
            Err((e, _)) => return Err(e.into()),
        }
    }
}
