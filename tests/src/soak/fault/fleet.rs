//! What happens to all processes of a role.

use anyhow::Result;
use keyferry_schemas::world::Rng;

use super::{Fault, pick};
use crate::soak::stage::{Role, Stage};

/// Nobody of a role is there.
pub struct Gone {
    /// Whose.
    pub role: Role,
}

/// One more processor comes, and then any of them goes, in good order or not.
#[derive(Default)]
pub struct Scaled {
    came: bool,
}

/// Everybody is restarted in good order, one after the other, and nobody notices.
pub struct Rolling;

impl Fault for Gone {
    fn name(&self) -> String {
        format!("every {} gone", self.role.command())
    }

    fn inject(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()> {
        for slot in stage.running(self.role) {
            if rng.below(3) == 0 {
                stage.slots[slot].terminate()?;
            } else {
                stage.slots[slot].kill()?;
                stage.count("kills");
            }
        }
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.empty(self.role).into_iter().try_for_each(|slot| stage.begin(slot))
    }

    fn lasts_ms(&self, rng: &mut Rng) -> u64 {
        2000 + rng.below(8000)
    }
}

impl Fault for Scaled {
    fn name(&self) -> String {
        "a processor more and one less".into()
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        let slot = match stage.spare() {
            Some(slot) => slot,
            None => stage.add(Role::Processor)?,
        };
        stage.replace(slot);
        stage.begin(slot)?;
        self.came = true;
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage, rng: &mut Rng) -> Result<()> {
        let running = stage.running(Role::Processor);
        if !std::mem::take(&mut self.came) || running.len() < 2 {
            return Ok(());
        }
        let slot = pick(rng, &running);
        if rng.below(2) == 0 { stage.slots[slot].terminate() } else { stage.slots[slot].kill() }
    }

    fn lasts_ms(&self, rng: &mut Rng) -> u64 {
        1000 + rng.below(5000)
    }
}

impl Fault for Rolling {
    fn name(&self) -> String {
        "a rolling restart of everybody".into()
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        for role in Role::ALL {
            // Whoever came back lately may not be there yet, and the last one of a role must not go.
            stage.running(role).into_iter().try_for_each(|slot| stage.await_ready(slot))?;
            for slot in stage.running(role) {
                stage.slots[slot].terminate()?;
                stage.begin(slot)?;
                stage.await_ready(slot)?;
                stage.count("restarts");
            }
        }
        Ok(())
    }

    fn heal(&mut self, _: &mut Stage, _: &mut Rng) -> Result<()> {
        Ok(())
    }

    fn lasts_ms(&self, _: &mut Rng) -> u64 {
        0
    }

    fn is_gentle(&self) -> bool {
        true
    }
}
