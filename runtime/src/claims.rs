//! Which of several instances is in charge of a topic: Kafka's consumer group says so, and nothing is read for it.

use std::{collections::BTreeSet, time::Duration};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::{
    clients::{Logged, Reader, is_absence, is_passing},
    kafka::Kafka,
};

/// Most events that are taken in one turn.
const MAX_EVENTS: usize = 100;

/// A member of the role's consumer group. Whoever is assigned a topic is in charge of it; nobody else is, except for the
/// moments in which one that lost it does not know yet. So it is for work that may be done twice and must be done.
pub struct Claims {
    consumer: Reader,
    wanted: BTreeSet<String>,
    /// What was assigned when it was last asked.
    held: BTreeSet<String>,
}

impl Claims {
    /// Joins once it wants something. No I/O.
    ///
    /// # Errors
    /// What librdkafka says of the configuration.
    pub fn new(kafka: &Kafka) -> Result<Self, KafkaError> {
        let mut config: ClientConfig = kafka.group_consumer_config();
        // Nothing is ever committed: where to begin is all the same, and the end costs least.
        config.set("auto.offset.reset", "latest");
        let consumer: BaseConsumer<Logged> = config.create_with_context(Logged)?;
        Ok(Self { consumer, wanted: BTreeSet::new(), held: BTreeSet::new() })
    }

    /// Wants to be in charge of these topics and of no others. Topics that are not there yet are had once they are.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub fn want(&mut self, topics: BTreeSet<String>) -> Result<(), KafkaError> {
        if self.wanted == topics {
            return Ok(());
        }
        if topics.is_empty() {
            self.consumer.unsubscribe();
        } else {
            self.consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        self.wanted = topics;
        Ok(())
    }

    /// The topics that this member is in charge of now. Blocks for up to `timeout`; has to be called again and again, or
    /// another member is put in charge.
    ///
    /// # Errors
    /// [`KafkaError`] that does not mend itself.
    pub fn held(&mut self, timeout: Duration) -> Result<BTreeSet<String>, KafkaError> {
        let mut timeout = timeout;
        // What came before the pause below is in the way of what the group says.
        for _ in 0..MAX_EVENTS {
            match self.consumer.poll(timeout) {
                None => break,
                Some(Ok(_)) => (),
                Some(Err(e)) if is_passing(&e) || is_absence(&e) => (),
                Some(Err(e)) => return Err(e),
            }
            timeout = Duration::ZERO;
        }
        if self.consumer.assignment_lost() {
            self.held.clear();
            return Ok(BTreeSet::new());
        }
        let assigned = self.consumer.assignment()?;
        let held: BTreeSet<_> = assigned.elements().iter().map(|p| p.topic().to_owned()).collect();
        if held != self.held {
            // The records themselves are read elsewhere, by every instance.
            self.consumer.pause(&assigned)?;
            self.held.clone_from(&held);
        }
        Ok(held.intersection(&self.wanted).cloned().collect())
    }
}
