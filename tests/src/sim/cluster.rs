//! Everything outside of the instances: time, what happens by itself, what befalls them, and who may run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use keyferry_runtime::shutdown::Shutdown;
use keyferry_schemas::{time::Millis, world::Rng};

use super::{
    baton::{Fiber, Life, MS, Micros, SECOND},
    group::Group,
    plan::Plan,
    topics::Topics,
};

/// What happens at its time, whoever runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A transaction's marker lands on a topic; on the group's offsets if there is none.
    Marker { transaction: usize, topic: Option<String> },
    /// The broker looks whether a transaction takes too long.
    TimedOut { transaction: usize },
    /// A member has not been heard of for the session time-out, if it is still silent.
    Expired { input: usize, member: u64 },
    /// A member hears what the group says.
    Heartbeat { input: usize },
    /// A member hears what it is given.
    Sync { input: usize, generation: u64, given: Vec<usize> },
    /// A member joins, or joins again.
    Join { input: usize },
    /// A backend uploads.
    Upload { origin: usize },
    /// An instance begins.
    Start { slot: usize, name: String },
    /// An instance is told to end.
    Stop { life: Life },
    /// An instance that was replaced while it slept is ended by whoever did that.
    Kill { life: Life },
}

/// A thread of an instance.
pub(super) struct Thread {
    pub life: Life,
    pub wake: Micros,
    /// The thread that polls; the others restore origins.
    main: bool,
}

/// One life of an instance: from its start to its end or crash.
pub(super) struct Instance {
    pub slot: usize,
    pub name: String,
    pub dead: bool,
    pub frozen_until: Micros,
    pub shutdown: Shutdown,
    /// Another one of its name runs, or will.
    pub replaced: bool,
}

/// The simulated world.
pub(super) struct Cluster {
    pub plan: Plan,
    pub rng: Rng,
    pub now: Micros,
    pub topics: Topics,
    pub group: Group,
    pub fibers: Vec<Thread>,
    pub runnable: Vec<Fiber>,
    pub lives: Vec<Instance>,
    /// Lives that begin now.
    pub starts: Vec<Life>,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    posted: u64,
    pub faults: u32,
    uploaded: usize,
    quiet_since: Option<Micros>,
    pub violations: Vec<String>,
    pub trace: Option<Vec<String>>,
    pub calls: u64,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Cluster {
    pub fn new(plan: Plan, rng: Rng, traced: bool) -> Self {
        let mut cluster = Self {
            rng,
            now: 0,
            topics: Topics::default(),
            group: Group::default(),
            fibers: Vec::new(),
            runnable: Vec::new(),
            lives: Vec::new(),
            starts: Vec::new(),
            events: BinaryHeap::new(),
            posted: 0,
            faults: 0,
            uploaded: 0,
            quiet_since: None,
            violations: Vec::new(),
            trace: traced.then(Vec::new),
            calls: 0,
            counts: BTreeMap::new(),
            plan,
        };
        for slot in 0..cluster.plan.instances {
            let at = cluster.rng.below(3 * SECOND);
            cluster.post(at, Event::Start { slot, name: format!("p-{slot}") });
        }
        for origin in 0..cluster.plan.origins.len() {
            for _ in 0..cluster.plan.uploads[origin] {
                let at = cluster.rng.below(cluster.plan.calm);
                cluster.post(at, Event::Upload { origin });
            }
        }
        for _ in 0..cluster.plan.stops {
            let (at, life) =
                (cluster.rng.below(cluster.plan.calm), cluster.rng.index(cluster.plan.instances));
            cluster.post(at, Event::Stop { life });
        }
        cluster
    }

    /// Something happens `wait` from now.
    pub fn post(&mut self, wait: Micros, event: Event) {
        self.posted += 1;
        self.events.push(Reverse((self.now + wait, self.posted, event)));
    }

    /// The time, as records bear it.
    pub fn clock(&self) -> Millis {
        self.plan.epoch.plus(i64::try_from(self.now / MS).unwrap_or(0))
    }

    /// Faults come no more: what was begun must come to its end.
    pub fn is_calm(&self) -> bool {
        self.now >= self.plan.calm
    }

    pub fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>10.3} ms  {}", self.now as f64 / 1000.0, line(self));
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn violated(&mut self, what: String) {
        self.note(|_| format!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    pub fn is_dead(&self, fiber: Fiber) -> bool {
        self.lives[self.fibers[fiber].life].dead
    }

    pub fn add_fiber(&mut self, life: Life) -> Fiber {
        let main = self.fibers.iter().all(|f| f.life != life);
        self.fibers.push(Thread { life, wake: self.now, main });
        self.runnable.push(self.fibers.len() - 1);
        self.fibers.len() - 1
    }

    pub fn end_fiber(&mut self, fiber: Fiber) {
        self.runnable.retain(|f| *f != fiber);
        let (life, main) = (self.fibers[fiber].life, self.fibers[fiber].main);
        if main {
            // It ended in an orderly way; its orchestrator starts it again.
            self.note(|c| format!("{} has ended", c.lives[life].name));
            self.lives[life].dead = true;
            let fibers = &self.fibers;
            self.runnable.retain(|f| fibers[*f].life != life);
            let (slot, name) = (self.lives[life].slot, self.lives[life].name.clone());
            let wait = self.rng.spread(10 * MS, 2 * SECOND);
            self.post(wait, Event::Start { slot, name });
        }
    }

    /// Time that a call takes.
    pub fn latency(&mut self) -> Micros {
        match self.rng.below(8) {
            0 => self.rng.below(3 * MS),
            1 | 2 => self.rng.below(300),
            _ => 0,
        }
    }

    /// How long something takes that is mostly quick.
    pub fn lateness(&mut self) -> Micros {
        let lateness = match self.rng.below(10) {
            0..=5 => self.rng.below(2 * MS),
            6..=8 => self.rng.below(200 * MS),
            _ => self.rng.below(6 * SECOND),
        };
        if self.is_calm() { lateness.min(100 * MS) } else { lateness }
    }

    /// Whether a call fails that mostly does not.
    pub fn fails(&mut self) -> bool {
        !self.is_calm() && self.rng.chance(self.plan.errors, 1000)
    }

    /// The thread that goes on; none at the end of the history. Time moves, and what is due happens.
    pub fn next_fiber(&mut self) -> Option<Fiber> {
        loop {
            while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.happen(event);
                }
                if !self.starts.is_empty() {
                    // They are given threads first.
                    return Some(0);
                }
            }
            let (mut soonest, mut ready) = (Micros::MAX, 0);
            let mut chosen = None;
            for i in 0..self.runnable.len() {
                let fiber = self.runnable[i];
                let at = self.fibers[fiber].wake.max(self.lives[self.fibers[fiber].life].frozen_until);
                soonest = soonest.min(at);
                if at <= self.now {
                    ready += 1;
                    if self.rng.chance(1, ready) {
                        chosen = Some(fiber);
                    }
                }
            }
            if chosen.is_some() {
                return chosen;
            }
            if self.is_over() {
                return None;
            }
            let event = self.events.peek().map_or(Micros::MAX, |Reverse((at, ..))| *at);
            let next = soonest.min(event);
            if next == Micros::MAX {
                self.violated("nothing can happen any more".into());
                return None;
            }
            self.now = next;
        }
    }

    /// Markers that have not landed, in the order in which they would.
    pub fn due_markers(&mut self) -> Vec<(usize, Option<String>)> {
        let mut due = Vec::new();
        while let Some(Reverse((_, _, event))) = self.events.pop() {
            if let Event::Marker { transaction, topic } = event {
                due.push((transaction, topic));
            }
        }
        due
    }

    fn is_over(&mut self) -> bool {
        if !self.is_calm() {
            return false;
        }
        let total: usize = self.plan.uploads.iter().sum();
        if self.uploaded == total && self.topics.decided(&self.plan) >= total && self.lives_are_well() {
            let since = *self.quiet_since.get_or_insert(self.now);
            // Whatever should not come would come now.
            return self.now > since + 3 * SECOND;
        }
        self.quiet_since = None;
        if self.now > self.plan.calm + self.plan.patience {
            let decided = self.topics.decided(&self.plan);
            self.violated(format!(
                "{decided} of {total} uploads are decided {} s after the last fault",
                self.plan.patience / SECOND
            ));
            return true;
        }
        false
    }

    fn lives_are_well(&self) -> bool {
        let alive = self.lives.iter().filter(|l| !l.dead);
        alive.clone().count() == self.plan.instances && alive.into_iter().all(|l| l.frozen_until <= self.now)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Marker { transaction, topic } => self.land_marker(transaction, topic.as_deref()),
            Event::TimedOut { transaction } => self.time_out(transaction),
            Event::Expired { input, member } => {
                let life = &self.lives[self.group.inputs[input].life];
                if life.dead || life.frozen_until > self.now {
                    self.leave(member);
                }
            }
            Event::Heartbeat { input } => self.when_awake(input, event, Self::heartbeat),
            Event::Join { input } => self.when_awake(input, event, Self::join),
            Event::Sync { input, generation, ref given } => {
                let given = given.clone();
                self.when_awake(input, event, move |c, input| c.sync(input, generation, given));
            }
            Event::Upload { origin } => {
                self.uploaded += 1;
                let (at, value) = (self.clock(), self.plan.payload(origin, &mut self.rng));
                let topic = self.plan.topic(origin);
                let offset = self.topics.append(&topic, at, value);
                self.note(|_| format!("upload {offset} on {topic}"));
            }
            Event::Start { slot, name } => {
                let others = self.lives.iter().filter(|l| !l.dead && l.slot == slot && !l.replaced).count();
                if others == 0 {
                    self.note(|_| format!("{name} starts"));
                    self.starts.push(self.lives.len());
                    self.lives.push(Instance {
                        slot,
                        name,
                        dead: false,
                        frozen_until: 0,
                        shutdown: Shutdown::new(),
                        replaced: false,
                    });
                }
            }
            Event::Stop { life } => {
                if let Some(name) = self.lives.get(life).filter(|l| !l.dead).map(|l| l.name.clone()) {
                    self.count("stopped");
                    self.note(|_| format!("{name} is told to stop"));
                    self.lives[life].shutdown.trip();
                }
            }
            Event::Kill { life } => self.crash(life),
        }
    }

    /// What a sleeping instance would hear, it hears when it wakes; a dead one never.
    fn when_awake(&mut self, input: usize, event: Event, then: impl FnOnce(&mut Self, usize)) {
        let life = &self.lives[self.group.inputs[input].life];
        if life.dead || self.group.inputs[input].closed {
            return;
        }
        if life.frozen_until > self.now {
            let wait = life.frozen_until - self.now + self.rng.below(200 * MS);
            return self.post(wait, event);
        }
        then(self, input);
    }
}
