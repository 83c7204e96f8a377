//! Brokers fail: where the hub stands on three of them.

use std::sync::PoisonError;

use anyhow::{Context as _, Result};
use keyferry_schemas::world::Rng;

use super::{Fault, pick};
use crate::{
    soak::{scene::Scene, stage::Stage},
    trio::{
        Trio,
        faults::{Aim, Blow, Fault as Struck},
    },
};

/// Longer than a session and than a transaction may live.
const LONG_MS: u64 = 20_000;
/// The whole cluster.
const GONE_MS: u64 = 120_000;

/// A broker, or all of them.
pub struct Broken(Struck);

impl Broken {
    /// One of them by chance; all of them for two minutes seldom.
    #[must_use]
    pub fn any(rng: &mut Rng) -> Self {
        let topic = format!("keyferry.uploads.{}", pick(rng, &["de", "fr", "it", "nl"]));
        let mut all = Struck::all(&topic, "p-0");
        if rng.below(4) > 0 {
            all.retain(|fault| fault.blow != Blow::KillAll);
        }
        let chosen = rng.below(all.len() as u64) as usize;
        Self(all.swap_remove(chosen))
    }
}

impl Fault for Broken {
    fn name(&self) -> String {
        match &self.0.aim {
            Aim::LeaderOf(topic) => format!("{} ({topic})", self.0.name),
            _ => self.0.name.to_owned(),
        }
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        with(&stage.scene, |trio| self.0.inject(trio))?;
        *stage.counts.entry("brokers").or_default() += 1;
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        with(&stage.scene, |trio| {
            self.0.heal(trio)?;
            // The next blow may hit another of the two copies that a record needs.
            trio.await_whole();
            Ok(())
        })
    }

    fn lasts_ms(&self, rng: &mut Rng) -> u64 {
        if self.0.blow == Blow::KillAll { GONE_MS } else { rng.below(LONG_MS) }
    }
}

fn with<T>(scene: &Scene, of: impl FnOnce(&mut Trio) -> Result<T>) -> Result<T> {
    let trio = scene.trio.as_ref().context("this hub stands on one broker")?;
    of(&mut trio.lock().unwrap_or_else(PoisonError::into_inner))
}
