//! One transaction. It begins and ends between two polls of the input, so no rebalance can happen inside it; a
//! membership that was lost meanwhile is found before the offsets are sent.

use std::time::Duration;

use keyferry_schemas::{country::Country, topics};

use super::{
    Output,
    assignment::Generation,
    fault::{Fault, Remedy},
    guard,
    log::{Input, Log, Writer},
};
use crate::{skew::BrokerClock, tail::BROKER_TIMEOUT};

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepFault {
    #[error("kafka: {0}")]
    Kafka(#[from] Fault),
    #[error("a record was not delivered: {0}")]
    Undelivered(Fault),
    #[error("{0} records are not acknowledged")]
    Unacknowledged(i32),
    #[error("the membership in the consumer group was lost")]
    Lost,
    #[error("{0} was revoked")]
    Revoked(Country),
    #[error("uploads of {0} are there and do not arrive")]
    Stalled(Country),
}

impl StepFault {
    /// What helps.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Kafka(e) => e.remedy,
            Self::Undelivered(e) if e.remedy == Remedy::Exit => Remedy::Exit,
            Self::Undelivered(_) | Self::Unacknowledged(_) | Self::Revoked(_) => Remedy::Abort,
            // The group goes on without us: whatever is remembered here may be old.
            Self::Lost | Self::Stalled(_) => Remedy::Rebuild,
        }
    }
}

/// What one transaction has consumed of one origin.
pub(super) struct Consumed {
    pub origin: Country,
    pub generation: Generation,
    pub next_offset: i64,
}

/// What the broker takes for a member of the group.
type Member<L> = <<L as Log>::Input as Input>::Member;

/// The producer of one instance, with an open transaction or none.
pub(super) struct Transaction<'a, L: Log> {
    pub producer: &'a L::Writer,
    pub consumer: &'a L::Input,
    pub kafka: &'a L,
    pub instance: &'a str,
    /// The broker's clock.
    pub clock: &'a BrokerClock,
}

impl<L: Log> Transaction<'_, L> {
    pub fn begin(&self) -> Result<(), StepFault> {
        Ok(self.producer.begin()?)
    }

    pub fn send(&self, output: &Output) -> Result<(), StepFault> {
        Ok(self.producer.send(output)?)
    }

    /// Ends the transaction: everything delivered, ownership checked, offsets sent, committed.
    pub fn commit(&self, consumed: &[Consumed]) -> Result<(), StepFault> {
        guard::pass("before-drain", self.instance);
        self.drain()?;
        guard::pass("before-metadata", self.instance);
        let metadata = self.metadata()?;
        self.check_ownership(consumed)?;
        guard::pass("before-offsets", self.instance);
        let offsets: Vec<_> = consumed.iter().map(|c| (topics::uploads(c.origin), c.next_offset)).collect();
        self.insist(|| self.producer.send_offsets(&offsets, &metadata))?;
        guard::pass("before-commit", self.instance);
        self.insist(|| self.producer.commit())?;
        guard::pass("after-commit", self.instance);
        Ok(())
    }

    pub fn abort(&self) -> Result<(), StepFault> {
        // In short turns: it waits for the deliveries of what is thrown away, and these come to whoever polls.
        Ok(self.insist(|| self.producer.abort(Duration::from_millis(50)))?)
    }

    /// Waits until every record is acknowledged. Polling in short turns: `flush` waits in slices of 100 ms.
    fn drain(&self) -> Result<(), StepFault> {
        let deadline = self.kafka.now() + 2 * BROKER_TIMEOUT;
        while self.producer.in_flight() > 0 {
            self.producer.serve(Duration::from_micros(500));
            if self.kafka.now() > deadline {
                return Err(StepFault::Unacknowledged(self.producer.in_flight()));
            }
        }
        self.producer.take_failed().map_or(Ok(()), |e| Err(StepFault::Undelivered(e)))
    }

    /// Metadata first, ownership after: what is lost in between is found; what is lost later, the broker refuses.
    fn metadata(&self) -> Result<Member<L>, StepFault> {
        // guard: metadata of the very consumer that read the records. That of a handle without membership is accepted
        // by the broker from anybody.
        if guard::stands("guard-own-metadata") {
            return self.consumer.member().ok_or(StepFault::Lost);
        }
        self.kafka.input()?.member().ok_or(StepFault::Lost)
    }

    fn check_ownership(&self, consumed: &[Consumed]) -> Result<(), StepFault> {
        // The broker would refuse the metadata of a member that is none any more, again and again; this says at once that
        // everything has to be made anew.
        if self.consumer.assignment_lost() {
            return Err(StepFault::Lost);
        }
        // guard: each partition must be in the assignment in which its records were read. A consumer that was thrown out
        // and has joined again has valid metadata, and owns nothing.
        let assignment = self.consumer.assignment();
        let revoked = consumed.iter().find(|c| !assignment.still_owns(c.origin, c.generation));
        match revoked {
            Some(c) if guard::stands("guard-revoked") => Err(StepFault::Revoked(c.origin)),
            _ => Ok(()),
        }
    }

    /// Calls again for as long as the fault is one that passes, up to a minute.
    fn insist(&self, mut call: impl FnMut() -> Result<(), Fault>) -> Result<(), Fault> {
        let begun = self.kafka.now();
        let elapsed = || self.kafka.now() - begun;
        let mut said = false;
        loop {
            match call() {
                Err(e) if e.remedy == Remedy::Retry && elapsed() < 6 * BROKER_TIMEOUT => {
                    if !said && elapsed() > Duration::from_secs(1) {
                        tracing::warn!(error = %e, "trying again");
                        said = true;
                    }
                    self.producer.serve(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }
}
