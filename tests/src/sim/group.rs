//! The simulated consumer group: members, generations, time-outs, and rebalances in two rounds, as cooperative ones are:
//! what is to move is first taken from its owner, and given to another when that is known.
//!
//! It fences as Kafka does: by membership and generation, and not by who owns what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    baton::{Life, MS, SECOND},
    cluster::{Cluster, Event},
};

/// A rebalance that waits to be heard of in the next poll.
pub(super) enum Callback {
    Given(Vec<usize>),
    Taken { origins: Vec<usize>, lost: bool },
}

/// Where an origin is read on, once it was resumed.
#[derive(Clone, Copy, Default)]
pub(super) struct Position {
    pub next: i64,
    pub resumed: bool,
}

/// A consumer, as its own client library sees it.
pub(super) struct InputState {
    pub life: Life,
    pub member: Option<u64>,
    pub generation: u64,
    /// The library knows that the membership is gone; the loop has not polled since.
    pub lost: bool,
    pub closed: bool,
    pub callbacks: VecDeque<Callback>,
    pub owned: BTreeSet<usize>,
    pub positions: BTreeMap<usize, Position>,
    /// It keeps up its heartbeats and gets nothing.
    pub stalled: bool,
    pub idle: u32,
}

struct Member {
    input: usize,
    joined: bool,
    owned: BTreeSet<usize>,
}

/// The group, as its coordinator sees it.
#[derive(Default)]
pub(super) struct Group {
    pub inputs: Vec<InputState>,
    generation: u64,
    members: BTreeMap<u64, Member>,
    named: u64,
    preparing: bool,
}

impl Group {
    pub fn add_input(&mut self, life: Life) -> usize {
        self.inputs.push(InputState {
            life,
            member: None,
            generation: 0,
            lost: false,
            closed: false,
            callbacks: VecDeque::new(),
            owned: BTreeSet::new(),
            positions: BTreeMap::new(),
            stalled: false,
            idle: 0,
        });
        self.inputs.len() - 1
    }

    /// The consumer that a life has now.
    pub fn input_of(&self, life: Life) -> Option<usize> {
        self.inputs.iter().rposition(|i| i.life == life && !i.closed)
    }

    pub fn stall(&mut self, life: Life) {
        if let Some(input) = self.input_of(life) {
            self.inputs[input].stalled = true;
        }
    }

    /// Whether the broker takes offsets from this member.
    pub fn is_member(&self, member: u64, generation: u64) -> bool {
        self.members.contains_key(&member) && generation == self.generation
    }

    /// Who is given what. An owner keeps what it has, unless another has much less.
    fn assign(&self, origins: usize) -> BTreeMap<u64, Vec<usize>> {
        let mut given: BTreeMap<u64, Vec<usize>> = self.members.keys().map(|m| (*m, Vec::new())).collect();
        let mut free = Vec::new();
        for origin in 0..origins {
            match self.members.iter().find(|(_, m)| m.owned.contains(&origin)) {
                Some((owner, _)) => given.entry(*owner).or_default().push(origin),
                None => free.push(origin),
            }
        }
        let least =
            |given: &BTreeMap<u64, Vec<usize>>| given.iter().min_by_key(|(_, o)| o.len()).map(|(m, _)| *m);
        for origin in free {
            if let Some(member) = least(&given) {
                given.entry(member).or_default().push(origin);
            }
        }
        let mut sizes: Vec<(usize, u64)> = given.iter().map(|(m, o)| (o.len(), *m)).collect();
        loop {
            sizes.sort_unstable();
            let (Some(min), Some(max)) = (sizes.first().copied(), sizes.last().copied()) else { break };
            if max.0 <= min.0 + 1 {
                break;
            }
            // Given to nobody in this round; to the other in the next.
            given.entry(max.1).or_default().pop();
            let last = sizes.len() - 1;
            (sizes[0].0, sizes[last].0) = (min.0 + 1, max.0 - 1);
        }
        given
    }
}

impl Cluster {
    /// Everybody is to join again.
    fn rebalance(&mut self) {
        if !self.group.preparing {
            self.group.preparing = true;
            let members: Vec<_> =
                self.group.members.values_mut().map(|m| (m.joined = false, m.input).1).collect();
            for input in members {
                let wait = self.rng.below(SECOND);
                self.post(wait, Event::Heartbeat { input });
            }
        }
    }

    pub fn join(&mut self, input: usize) {
        let state = &self.group.inputs[input];
        if !state.callbacks.is_empty() {
            // First the loop has to hear what it lost; its next poll sees to it.
            return;
        }
        let (owned, member) = (state.owned.clone(), state.member);
        let member = if let Some(member) = member {
            if !self.group.members.contains_key(&member) {
                return self.heartbeat(input);
            }
            member
        } else {
            self.group.named += 1;
            let named = self.group.named;
            let state = &mut self.group.inputs[input];
            (state.member, state.generation) = (Some(named), 0);
            named
        };
        self.rebalance();
        self.group.members.insert(member, Member { input, joined: true, owned });
        self.complete();
    }

    /// The group is told that a member is gone, or finds it out. The member hears of it with a heartbeat, some time later.
    pub fn leave(&mut self, member: u64) {
        if let Some(gone) = self.group.members.remove(&member) {
            self.note(|_| format!("member {member} is out of the group"));
            let wait = if self.rng.chance(1, 4) && !self.is_calm() { 20 * SECOND } else { SECOND };
            let wait = self.rng.below(wait);
            self.post(wait, Event::Heartbeat { input: gone.input });
            self.rebalance();
            self.complete();
        }
    }

    /// A member is put out by somebody else.
    pub fn expel(&mut self, input: usize) {
        if let Some(member) = self.group.inputs[input].member {
            self.leave(member);
        }
    }

    pub fn heartbeat(&mut self, input: usize) {
        let Some(member) = self.group.inputs[input].member else { return };
        match self.group.members.get(&member).map(|m| m.joined) {
            None => {
                let state = &mut self.group.inputs[input];
                (state.member, state.generation, state.lost) = (None, 0, true);
                let origins = state.owned.iter().copied().collect();
                state.callbacks.clear();
                state.callbacks.push_back(Callback::Taken { origins, lost: true });
                self.note(|c| {
                    format!("{} learns that it is no member", c.lives[c.group.inputs[input].life].name)
                });
            }
            Some(false) if self.group.preparing => self.join(input),
            Some(_) => (),
        }
    }

    fn complete(&mut self) {
        if !self.group.preparing
            || self.group.members.is_empty()
            || self.group.members.values().any(|m| !m.joined)
        {
            return;
        }
        self.group.preparing = false;
        self.group.generation += 1;
        let generation = self.group.generation;
        for (member, given) in self.group.assign(self.plan.origins.len()) {
            let input = self.group.members[&member].input;
            self.note(|_| format!("generation {generation}: member {member} is given {given:?}"));
            let wait = self.rng.below(100 * MS);
            self.post(wait, Event::Sync { input, generation, given });
        }
    }

    pub fn sync(&mut self, input: usize, generation: u64, given: Vec<usize>) {
        let current = self.group.generation;
        let state = &mut self.group.inputs[input];
        let member = state.member.and_then(|m| self.group.members.get(&m));
        // Whoever has asked to join the next round takes no answer of the last one.
        if generation != current || member.is_none_or(|m| self.group.preparing && m.joined) {
            return;
        }
        state.generation = generation;
        let given: BTreeSet<_> = given.into_iter().collect();
        let taken: Vec<_> = state.owned.difference(&given).copied().collect();
        let new: Vec<_> = given.difference(&state.owned).copied().collect();
        if !taken.is_empty() {
            state.callbacks.push_back(Callback::Taken { origins: taken, lost: false });
        }
        // Being given nothing is heard of as well.
        state.callbacks.push_back(Callback::Given(new));
    }

    /// The next rebalance that this consumer has not heard of. Whoever lost something joins again.
    pub fn next_callback(&mut self, input: usize) -> Option<Callback> {
        let state = &mut self.group.inputs[input];
        let callback = state.callbacks.pop_front()?;
        match &callback {
            Callback::Given(origins) => {
                state.owned.extend(origins);
                state
                    .positions
                    .extend(origins.iter().map(|o| (*o, Position { next: i64::MAX, resumed: false })));
            }
            Callback::Taken { origins, lost } => {
                state.owned.retain(|o| !origins.contains(o));
                state.positions.retain(|o, _| !origins.contains(o));
                state.lost &= !lost;
                let wait = self.rng.below(50 * MS);
                self.post(wait, Event::Join { input });
            }
        }
        if self.group.preparing {
            self.post(0, Event::Heartbeat { input });
        }
        Some(callback)
    }
}
