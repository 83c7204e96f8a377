//! A consumer may keep up its heartbeats and get nothing any more. So where nothing has come for a while, the broker is
//! asked whether there is nothing.

use std::time::Duration;

use keyferry_schemas::topics;

use super::{Application, Input, Log, Origin, Phase, Reader, Session, StepFault};
use crate::{
    kafka::Isolation,
    tail::{Next, Start},
};

/// After this much silence of an origin the broker is asked; after twice as much nothing is believed any more.
const DOUBT: Duration = Duration::from_secs(15);
/// How long its answer may take: meanwhile nothing is decided.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

impl<A: Application, L: Log> Session<'_, A, L> {
    /// Asks about the origin that has been silent for long, one at a time.
    pub(super) fn doubt(&mut self) -> Result<(), StepFault> {
        let now = self.runner.kafka.now();
        let silent =
            |o: &Origin<A>| matches!(o.phase, Phase::Live(_)) && o.queue.is_empty() && now - o.heard > DOUBT;
        let Some((name, origin)) = self.origins.iter_mut().find(|(_, o)| silent(o)) else { return Ok(()) };
        origin.heard = now;
        let (topic, next) = (topics::uploads(*name), origin.next_offset);
        match self.consumer.bounds(&topic, PROBE_TIMEOUT) {
            Ok((_, end)) => {
                self.reachable = true;
                // The end may lie behind markers, which are no records: another reader looks whether there is one. It may
                // have come this very moment; if it has still not arrived the next time, it does not arrive.
                let waits = end > next && is_there(&self.runner.kafka, &topic, next);
                if waits && origin.missed == Some(next) {
                    return Err(StepFault::Stalled(*name));
                }
                origin.missed = waits.then_some(next);
            }
            Err(e) => {
                tracing::warn!(error = %e, "the broker does not answer");
                self.reachable = false;
                let now = self.runner.kafka.now();
                self.origins.values_mut().for_each(|o| o.heard = now);
            }
        }
        Ok(())
    }
}

/// Whether a record can be read from `offset` on.
fn is_there(kafka: &impl Log, topic: &str, offset: i64) -> bool {
    let tail = kafka.reader(topic, Isolation::Committed, Start::Offset(offset));
    tail.and_then(|mut tail| tail.next(PROBE_TIMEOUT)).is_ok_and(|next| matches!(next, Next::Record(_)))
}
