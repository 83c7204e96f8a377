//! The clients of the simulated log, as the loop holds them. Every call gives the others a turn, and may be the last.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_runtime::{
    clock::Clock,
    kafka::Isolation,
    skew::BrokerClock,
    tail::{Next, Record, Start},
    transaction::log::{Assignment, Committed, Fault, Input, Log, Offsets, Reader},
};
use keyferry_schemas::{country::Country, time::Millis};

use super::{
    baton::{Life, MS, Micros, Sim},
    cluster::Event,
    group::{Callback, Position},
    topics::{Producer, refused},
    writer::SimWriter,
};

pub(super) fn micros(time: Duration) -> Micros {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The log, as one life of an instance reaches it.
#[derive(Clone)]
pub(super) struct SimLog {
    pub sim: Arc<Sim>,
    pub life: Life,
}

impl Clock for SimLog {
    fn now(&self) -> Millis {
        self.sim.peek().clock()
    }
}

impl Log for SimLog {
    type Input = SimInput;
    type Writer = SimWriter;
    type Reader = SimReader;
    type Offsets = SimOffsets;

    fn input(&self) -> Result<SimInput, Fault> {
        let index = self.sim.peek().group.add_input(self.life);
        Ok(SimInput { log: self.clone(), index, assignment: Assignment::default() })
    }

    fn writer(&self, transactional_id: &str, clock: &Arc<BrokerClock>) -> Result<SimWriter, Fault> {
        // The simulated log keeps the sender's time, and there is one clock only.
        clock.hear(None);
        let mut c = self.sim.peek();
        c.topics.producers.push(Producer {
            life: self.life,
            id: transactional_id.to_owned(),
            epoch: 0,
            queue: Vec::new(),
            failed: None,
            transaction: None,
            fenced: false,
            committing: false,
        });
        Ok(SimWriter { log: self.clone(), index: c.topics.producers.len() - 1 })
    }

    fn reader(&self, topic: &str, isolation: Isolation, start: Start) -> Result<SimReader, Fault> {
        let mut c = self.sim.turn(0);
        if c.fails() {
            return Err(refused("the broker did not answer"));
        }
        let position = match start {
            Start::Earliest => 0,
            Start::Offset(offset) => offset,
            Start::End => c.topics.partition(topic).bound(isolation),
        };
        drop(c);
        Ok(SimReader { sim: Arc::clone(&self.sim), topic: topic.to_owned(), isolation, position, told: None })
    }

    fn offsets(&self, isolation: Isolation) -> Result<SimOffsets, Fault> {
        Ok(SimOffsets { sim: Arc::clone(&self.sim), isolation })
    }

    fn now(&self) -> Instant {
        self.sim.now()
    }

    fn sleep(&self, time: Duration) {
        drop(self.sim.turn(micros(time)));
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.sim.spawn(self.life, Box::new(work));
    }
}

pub(super) struct SimInput {
    log: SimLog,
    index: usize,
    assignment: Assignment,
}

/// A member and its generation; none is somebody whom the broker does not ask for either.
pub(super) type Member = Option<(u64, u64)>;

impl SimInput {
    /// One look at what is there.
    fn look(&self, wait: Micros) -> Option<(Country, Record)> {
        let mut c = self.log.sim.turn(wait);
        let name = |c: &super::cluster::Cluster, origins: &[usize]| -> Vec<Country> {
            origins.iter().map(|o| c.plan.origins[*o]).collect()
        };
        while let Some(callback) = c.next_callback(self.index) {
            match callback {
                Callback::Given(origins) => self.assignment.given(&name(&c, &origins)),
                Callback::Taken { origins, .. } => self.assignment.taken(&name(&c, &origins)),
            }
        }
        let state = &c.group.inputs[self.index];
        if state.stalled {
            return None;
        }
        let read: Vec<_> =
            state.positions.iter().filter(|(_, at)| at.resumed).map(|(o, at)| (*o, at.next)).collect();
        // What is there may take its time.
        if read.is_empty() || c.rng.chance(1, 6) {
            return None;
        }
        let first = c.rng.index(read.len());
        for i in 0..read.len() {
            let (origin, position) = read[(first + i) % read.len()];
            let topic = c.plan.topic(origin);
            if let (Some(record), next) = c.topics.read(&topic, Isolation::Committed, position) {
                let state = &mut c.group.inputs[self.index];
                state.positions.insert(origin, Position { next, resumed: true });
                state.idle = 0;
                return Some((c.plan.origins[origin], record));
            }
        }
        None
    }
}

impl Input for SimInput {
    type Member = Member;

    fn subscribe(&self) -> Result<(), Fault> {
        let mut c = self.log.sim.turn(0);
        let wait = c.rng.below(100 * MS);
        c.post(wait, Event::Join { input: self.index });
        Ok(())
    }

    fn poll(&self, wait: Duration) -> Result<Option<(Country, Record)>, Fault> {
        let found = self.look(0);
        if found.is_some() || wait.is_zero() {
            return Ok(found);
        }
        // Where nothing happens for long, not every one of its polls has to be played.
        let mut c = self.log.sim.peek();
        let idle = &mut c.group.inputs[self.index].idle;
        *idle = (*idle + 1).min(6);
        let wait = micros(wait) << *idle;
        drop(c);
        Ok(self.look(wait))
    }

    fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    fn assignment_lost(&self) -> bool {
        self.log.sim.turn(0).group.inputs[self.index].lost
    }

    fn member(&self) -> Option<Member> {
        let c = self.log.sim.turn(0);
        let state = &c.group.inputs[self.index];
        Some(state.member.map(|member| (member, state.generation)))
    }

    fn seek(&self, topic: &str, offset: i64) -> Result<(), Fault> {
        let mut c = self.log.sim.turn(0);
        if c.fails() {
            return Err(refused("the broker did not answer"));
        }
        let origin = c.plan.origin_of(topic);
        match c.group.inputs[self.index].positions.get_mut(&origin) {
            Some(position) => {
                position.next = offset;
                Ok(())
            }
            None => Err(refused("not assigned")),
        }
    }

    fn resume(&self, topic: &str) -> Result<(), Fault> {
        let mut c = self.log.sim.turn(0);
        let origin = c.plan.origin_of(topic);
        match c.group.inputs[self.index].positions.get_mut(&origin) {
            Some(position) => {
                position.resumed = true;
                Ok(())
            }
            None => Err(refused("not assigned")),
        }
    }

    fn bounds(&self, topic: &str, _: Duration) -> Result<(i64, i64), Fault> {
        let mut c = self.log.sim.turn(0);
        if c.fails() {
            return Err(refused("the broker did not answer"));
        }
        Ok((0, c.topics.partition(topic).bound(Isolation::Committed)))
    }
}

impl Drop for SimInput {
    /// As a client does that has the time: it leaves. A crash has none.
    fn drop(&mut self) {
        let mut c = self.log.sim.peek();
        if !c.lives[self.log.life].dead && !std::thread::panicking() {
            c.group.inputs[self.index].closed = true;
            if let Some(member) = c.group.inputs[self.index].member {
                c.leave(member);
            }
        }
    }
}

pub(super) struct SimReader {
    sim: Arc<Sim>,
    topic: String,
    isolation: Isolation,
    position: i64,
    /// The end that was told last: it is told once.
    told: Option<i64>,
}

impl Reader for SimReader {
    fn next(&mut self, timeout: Duration) -> Result<Next, Fault> {
        let mut c = self.sim.turn(0);
        if c.fails() {
            return Err(refused("the broker did not answer"));
        }
        let mut slow = c.rng.chance(1, 16);
        for attempt in 0..2 {
            if !slow {
                let (record, next) = c.topics.read(&self.topic, self.isolation, self.position);
                if let Some(record) = record {
                    self.position = next;
                    return Ok(Next::Record(record));
                }
                if self.told != Some(next) {
                    (self.told, self.position) = (Some(next), next);
                    return Ok(Next::End);
                }
            }
            if attempt == 0 {
                let times = c.rng.below(6) + 1;
                drop(c);
                c = self.sim.turn(micros(timeout) * times);
                slow &= c.rng.chance(1, 2);
            }
        }
        Ok(Next::Timeout)
    }

    fn position(&self) -> i64 {
        self.position
    }

    fn bounds(&self) -> Result<(i64, i64), Fault> {
        let mut c = self.sim.turn(0);
        Ok((0, c.topics.partition(&self.topic).bound(self.isolation)))
    }
}

pub(super) struct SimOffsets {
    sim: Arc<Sim>,
    isolation: Isolation,
}

impl Offsets for SimOffsets {
    fn committed(&self, topic: &str, timeout: Duration) -> Result<Committed, Fault> {
        let mut c = self.sim.turn(0);
        if c.fails() {
            return Err(refused("the broker did not answer"));
        }
        // guard: only a reader of what is committed waits for offsets to become stable.
        let stable = self.isolation == Isolation::Committed;
        for _ in 0..4 {
            if !(stable && c.topics.is_unstable(topic)) {
                return Ok(c.topics.offsets.get(topic).map_or(Committed::Nothing, |o| Committed::At(*o)));
            }
            drop(c);
            c = self.sim.turn(micros(timeout) / 4);
        }
        Ok(Committed::Unstable)
    }
}
