//! One process that ends, or hangs for a while.

use std::time::Duration;

use anyhow::Result;
use keyferry_schemas::world::Rng;
use rustix::process::Signal;

use super::{Fault, pick};
use crate::soak::{
    points,
    stage::{Role, Stage},
};

/// How long a process may take to come by a point. Not every one does: a processor may own no origin.
const COMES_BY: Duration = Duration::from_secs(4);

/// A process ends and another one comes.
pub struct Ended {
    /// Whose.
    pub role: Role,
    /// By SIGTERM, else by SIGKILL.
    pub term: bool,
    /// At this point, else at any moment.
    pub point: Option<&'static str>,
}

/// A process stands still, and goes on.
pub struct Frozen {
    /// Whose.
    pub role: Role,
    /// At this point, else at any moment.
    pub point: Option<&'static str>,
}

impl Ended {
    /// Any.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        let (role, term) = (pick(rng, &Role::ALL), rng.below(4) == 0);
        let point = (rng.below(2) == 0).then(|| point_of(role, rng));
        Self { role, term, point }
    }

    /// A processor, killed at a named point.
    #[must_use]
    pub fn at_a_point(rng: &mut Rng) -> Self {
        Self { role: Role::Processor, term: false, point: Some(point_of(Role::Processor, rng)) }
    }
}

impl Frozen {
    /// Any.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        // Mostly those that may come back as zombies.
        let role = if rng.below(2) == 0 { Role::Processor } else { pick(rng, &Role::ALL) };
        let point = (rng.below(2) == 0).then(|| point_of(role, rng));
        Self { role, point }
    }
}

fn point_of(role: Role, rng: &mut Rng) -> &'static str {
    match role {
        Role::Gateway => pick(rng, &points::GATEWAY),
        Role::Distribution => pick(rng, &points::DISTRIBUTION),
        Role::Processor if rng.below(3) == 0 => pick(rng, &points::TAKEOVER),
        Role::Processor => pick(rng, &points::TRANSACTION),
    }
}

/// Chooses a process, and lets it come to the point, if it comes by. Take-overs happen to those that come anew.
fn reach(stage: &mut Stage, role: Role, point: Option<&str>, rng: &mut Rng) -> Result<Option<usize>> {
    let running = stage.running(role);
    if running.is_empty() {
        return Ok(None);
    }
    let slot = pick(rng, &running);
    if let Some(point) = point {
        if points::TAKEOVER.contains(&point) {
            stage.slots[slot].terminate()?;
            stage.begin(slot)?;
        }
        stage.slots[slot].arm(point)?;
        let reached = stage.slots[slot].await_stopped(COMES_BY);
        stage.count(if reached { "points reached" } else { "points not reached" });
    }
    Ok(Some(slot))
}

fn at(point: Option<&str>) -> String {
    point.map(|p| format!(" at {p}")).unwrap_or_default()
}

impl Fault for Ended {
    fn name(&self) -> String {
        format!("{} {}{}", if self.term { "SIGTERM" } else { "SIGKILL" }, self.role.command(), at(self.point))
    }

    fn inject(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()> {
        let Some(slot) = reach(stage, self.role, self.point, rng)? else { return Ok(()) };
        if self.term {
            stage.slots[slot].terminate()?;
        } else {
            stage.slots[slot].kill()?;
            stage.count("kills");
        }
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()> {
        for slot in stage.empty(self.role) {
            // Under its old transactional id, or as somebody new.
            if self.role == Role::Processor && rng.below(2) == 0 {
                stage.replace(slot);
            }
            stage.begin(slot)?;
        }
        Ok(())
    }
}

impl Fault for Frozen {
    fn name(&self) -> String {
        format!("SIGSTOP {}{}", self.role.command(), at(self.point))
    }

    fn inject(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()> {
        let Some(slot) = reach(stage, self.role, self.point, rng)? else { return Ok(()) };
        // It may stand already.
        stage.slots[slot].signal(Signal::STOP)?;
        stage.count("freezes");
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        for slot in stage.frozen(self.role) {
            stage.slots[slot].signal(Signal::CONT)?;
        }
        Ok(())
    }

    /// Longer than a session; sometimes longer than a transaction.
    fn lasts_ms(&self, rng: &mut Rng) -> u64 {
        4000 + if rng.below(4) == 0 { 8000 } else { rng.below(2000) }
    }
}
