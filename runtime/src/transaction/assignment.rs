//! Which partitions this instance owns, as the consumer group tells it from inside `poll`.

use std::{collections::HashMap, sync::Mutex};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};

use keyferry_schemas::{country::Country, topics};

use crate::clients;

/// Counts assignments: a record belongs to the assignment in which it was read, and to no later one.
pub(super) type Generation = u64;

/// The context of the input consumer.
#[derive(Default)]
pub(super) struct Assignment {
    owned: Mutex<Owned>,
}

#[derive(Default)]
struct Owned {
    joined: bool,
    last: Generation,
    origins: HashMap<Country, Generation>,
    rebalances: u64,
}

impl Assignment {
    /// Every origin owned now, with the generation of its assignment.
    pub fn owned(&self) -> HashMap<Country, Generation> {
        self.owned.lock().map(|owned| owned.origins.clone()).unwrap_or_default()
    }

    /// Whether `origin` is still owned by the assignment with this generation.
    pub fn still_owns(&self, origin: Country, generation: Generation) -> bool {
        self.owned.lock().is_ok_and(|owned| owned.origins.get(&origin) == Some(&generation))
    }

    /// Whether the group has told at least once what is ours, be it nothing.
    pub fn has_joined(&self) -> bool {
        self.owned.lock().is_ok_and(|owned| owned.joined)
    }

    /// Number of rebalances since the last call.
    pub fn take_rebalances(&self) -> u64 {
        self.owned.lock().map(|mut owned| std::mem::take(&mut owned.rebalances)).unwrap_or_default()
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
        if let Ok(mut owned) = self.owned.lock() {
            owned.rebalances += 1;
            owned.joined |= assign;
            for origin in &origins {
                if assign {
                    owned.last += 1;
                    let generation = owned.last;
                    owned.origins.insert(*origin, generation);
                } else {
                    owned.origins.remove(origin);
                }
            }
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
