//! What befalls an instance, at any call into the log.

use super::{
    baton::{Fiber, Life, MS, Micros, SECOND},
    cluster::{Cluster, Event},
};

impl Cluster {
    /// Perhaps the instance that calls is struck by something. Says how long its thread is held then.
    pub fn strike(&mut self, fiber: Fiber) -> Option<Micros> {
        self.calls += 1;
        if self.faults >= self.plan.faults || self.is_calm() || !self.rng.chance(1, self.plan.rarity) {
            return None;
        }
        self.faults += 1;
        let life = self.fibers[fiber].life;
        let left = self.plan.calm - self.now;
        match self.rng.below(8) {
            0..=2 => self.crash(life),
            3 | 4 => {
                let sleep = self.rng.spread(100 * MS, 40 * SECOND).min(left);
                self.freeze(life, sleep);
            }
            5 => {
                // The thread alone: the heartbeats go on.
                let late = self.rng.spread(MS, 8 * SECOND).min(left);
                self.count("thread held");
                self.note(|c| format!("{}: a thread is held for {late} us", c.lives[life].name));
                return Some(late);
            }
            6 => {
                self.count("expelled");
                self.note(|c| format!("{} is expelled from the group", c.lives[life].name));
                if let Some(input) = self.group.input_of(life) {
                    self.expel(input);
                }
            }
            _ => {
                self.count("input stalled");
                self.note(|c| format!("{}: an input gets nothing any more", c.lives[life].name));
                self.group.stall(life);
            }
        }
        Some(0)
    }

    pub fn crash(&mut self, life: Life) {
        if self.lives[life].dead {
            return;
        }
        self.count("crash");
        self.note(|c| format!("{} CRASHES", c.lives[life].name));
        self.lives[life].dead = true;
        let fibers = &self.fibers;
        self.runnable.retain(|f| fibers[*f].life != life);
        self.land_some(life);
        self.silence(life);
        if !self.lives[life].replaced {
            let slot = self.lives[life].slot;
            let name = if self.rng.chance(2, 3) {
                self.lives[life].name.clone()
            } else {
                format!("p-{slot}{}", (b'a' + u8::try_from(life % 26).unwrap_or(0)) as char)
            };
            let wait = self.rng.spread(10 * MS, 20 * SECOND);
            self.post(wait, Event::Start { slot, name });
        }
    }

    fn freeze(&mut self, life: Life, sleep: Micros) {
        self.count("freeze");
        self.note(|c| format!("{} SLEEPS for {} ms", c.lives[life].name, sleep / MS));
        self.lives[life].frozen_until = self.now + sleep;
        self.silence(life);
        // On another machine its orchestrator may have begun another one of the same name.
        if sleep > 5 * SECOND && !self.lives[life].replaced && self.rng.chance(1, 3) {
            self.count("replaced");
            self.lives[life].replaced = true;
            let (slot, name) = (self.lives[life].slot, self.lives[life].name.clone());
            let (start, end) = (self.rng.below(sleep), sleep + self.rng.spread(MS, 4 * SECOND));
            self.post(start, Event::Start { slot, name });
            self.post(end, Event::Kill { life });
        }
    }

    /// The group hears nothing of an instance from now on.
    fn silence(&mut self, life: Life) {
        if let Some(input) = self.group.input_of(life)
            && let Some(member) = self.group.inputs[input].member
        {
            self.post(self.plan.session_timeout, Event::Expired { input, member });
        }
    }
}
