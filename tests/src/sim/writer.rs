//! The producer of the simulated log. A request may be lost on its way there, or be carried out and its answer lost.

use std::time::Duration;

use keyferry_runtime::{
    tail::Record,
    transaction::{
        Output,
        log::{Fault, Writer},
    },
};

use super::{
    baton::MS,
    clients::{Member, SimLog, micros},
    topics::{fenced, lost, refused},
};

/// A transactional producer, as the loop holds it.
pub(super) struct SimWriter {
    pub log: SimLog,
    pub index: usize,
}

impl SimWriter {
    /// Whether a call is lost on its way there, or only its answer is.
    fn fate(&self) -> Fate {
        let mut c = self.log.sim.turn(0);
        match (c.fails(), c.rng.chance(1, 2)) {
            (false, _) => Fate::Answered,
            (true, true) => Fate::NotHeard,
            (true, false) => Fate::NotAnswered,
        }
    }

    fn answer(&self, fate: &Fate) -> Result<(), Fault> {
        drop(self.log.sim.turn(if matches!(fate, Fate::Answered) { 0 } else { 10_000 * MS }));
        if matches!(fate, Fate::Answered) { Ok(()) } else { Err(lost()) }
    }
}

/// What becomes of a request.
enum Fate {
    Answered,
    NotHeard,
    NotAnswered,
}

impl Writer for SimWriter {
    type Member = Member;

    fn init(&self, timeout: Duration) -> Result<(), Fault> {
        let deadline = self.log.sim.now() + timeout;
        loop {
            let mut c = self.log.sim.turn(0);
            if c.fails() {
                return Err(lost());
            }
            if let Some(epoch) = c.init(self.index) {
                c.topics.producers[self.index].epoch = epoch;
                return Ok(());
            }
            drop(c);
            if self.log.sim.now() > deadline {
                return Err(lost());
            }
            drop(self.log.sim.turn(50 * MS));
        }
    }

    fn begin(&self) -> Result<(), Fault> {
        let mut c = self.log.sim.turn(0);
        let p = &mut c.topics.producers[self.index];
        (p.failed, p.transaction, p.committing) = (None, None, false);
        if p.fenced { Err(fenced()) } else { Ok(()) }
    }

    fn send(&self, output: &Output) -> Result<(), Fault> {
        let mut c = self.log.sim.peek();
        let record = Record {
            offset: 0,
            timestamp: output.timestamp,
            key: output.key.clone(),
            value: output.value.clone(),
            headers: output.headers.clone(),
        };
        c.topics.producers[self.index].queue.push((output.topic.clone(), record));
        // Some of it is there at once.
        if c.rng.chance(1, 4) {
            drop(c);
            self.log.sim.turn(0).deliver(self.index, 2);
        }
        Ok(())
    }

    fn in_flight(&self) -> i32 {
        i32::try_from(self.log.sim.peek().topics.producers[self.index].queue.len()).unwrap_or(i32::MAX)
    }

    fn serve(&self, wait: Duration) {
        let mut c = self.log.sim.turn(0);
        if c.fails() {
            drop(c);
            let mut c = self.log.sim.turn(10_000 * MS);
            return c.fail_deliveries(self.index);
        }
        let most = match c.rng.below(3) {
            0 => 1,
            1 => 4,
            _ => 100,
        };
        c.deliver(self.index, most);
        if !c.topics.producers[self.index].queue.is_empty() {
            drop(c);
            drop(self.log.sim.turn(micros(wait)));
        }
    }

    fn take_failed(&self) -> Option<Fault> {
        self.log.sim.peek().topics.producers[self.index].failed.take()
    }

    fn send_offsets(&self, offsets: &[(String, i64)], member: &Member) -> Result<(), Fault> {
        let fate = self.fate();
        if !matches!(fate, Fate::NotHeard) {
            let mut c = self.log.sim.turn(0);
            if c.topics.producers[self.index].fenced {
                return Err(fenced());
            }
            if member.is_some_and(|(member, generation)| !c.group.is_member(member, generation)) {
                c.note(|c| {
                    format!("{}: offsets of no member are refused", c.topics.producers[self.index].id)
                });
                return Err(refused("unknown member or generation"));
            }
            c.add_offsets(self.index, offsets)?;
        }
        self.answer(&fate)
    }

    fn commit(&self) -> Result<(), Fault> {
        let fate = self.fate();
        if !matches!(fate, Fate::NotHeard) {
            let mut c = self.log.sim.turn(0);
            let p = &mut c.topics.producers[self.index];
            p.committing = true;
            let (fenced_off, transaction, id, epoch) = (p.fenced, p.transaction, p.id.clone(), p.epoch);
            if fenced_off {
                return Err(fenced());
            }
            if let Some(transaction) = transaction {
                let coordinated = c.topics.coordinated.entry(id).or_default();
                let (same, ongoing) = (coordinated.epoch == epoch, coordinated.ongoing);
                match c.topics.transactions[transaction].outcome {
                    Some(true) => (),
                    None if same && ongoing == Some(transaction) => c.decide(transaction, true),
                    _ => {
                        c.topics.producers[self.index].fenced = true;
                        return Err(fenced());
                    }
                }
            }
        }
        self.answer(&fate)
    }

    fn abort(&self, _: Duration) -> Result<(), Fault> {
        let fate = self.fate();
        if !matches!(fate, Fate::NotHeard) {
            let mut c = self.log.sim.turn(0);
            let p = &mut c.topics.producers[self.index];
            p.queue.clear();
            let (bad, committing, transaction, id, epoch) =
                (p.fenced, p.committing, p.transaction, p.id.clone(), p.epoch);
            if bad {
                return Err(fenced());
            }
            if committing {
                return Err(refused("a commit is under way"));
            }
            if let Some(transaction) = transaction {
                let coordinated = c.topics.coordinated.entry(id).or_default();
                let (same, ongoing) = (coordinated.epoch == epoch, coordinated.ongoing);
                match c.topics.transactions[transaction].outcome {
                    Some(false) if same => (),
                    None if same && ongoing == Some(transaction) => c.decide(transaction, false),
                    _ => {
                        c.topics.producers[self.index].fenced = true;
                        return Err(fenced());
                    }
                }
            }
        }
        self.answer(&fate)
    }
}
