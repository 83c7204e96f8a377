//! The network document changes while uploads flow. Which of them are decided under which version, the ledger tells.

use anyhow::Result;
use keyferry_schemas::{network::MemberState, world::Rng};

use super::Fault;
use crate::soak::stage::Stage;

/// A member may not send for a while, and its topic keeps filling.
pub struct Paused {
    /// Who.
    pub country: &'static str,
}

/// An agreement ends, and is made again.
pub struct Agreement {
    /// Which.
    pub id: i32,
}

/// The hub signs with its other key.
pub struct HubKey;

/// A country has another certificate to sign with, and the one before is revoked.
pub struct Certificate {
    /// Whose.
    pub country: &'static str,
}

impl Fault for Paused {
    fn name(&self) -> String {
        format!("{} paused and back", self.country)
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.scene.set_state(self.country, MemberState::Paused).map(drop)
    }

    fn heal(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.scene.set_state(self.country, MemberState::Active).map(drop)
    }
}

impl Fault for Agreement {
    fn name(&self) -> String {
        format!("agreement {} ended and made again", self.id)
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.scene.set_agreement(self.id, false).map(drop)
    }

    fn heal(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.scene.set_agreement(self.id, true).map(drop)
    }
}

impl Fault for HubKey {
    fn name(&self) -> String {
        "the hub's signing key rotated".into()
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.scene.rotate_hub_key().map(drop)
    }

    fn heal(&mut self, _: &mut Stage, _: &mut Rng) -> Result<()> {
        Ok(())
    }
}

impl Fault for Certificate {
    fn name(&self) -> String {
        format!("{}'s signing certificate replaced and revoked", self.country)
    }

    fn inject(&mut self, stage: &mut Stage, _: &mut Rng) -> Result<()> {
        stage.scene.replace_signing(self.country).map(drop)
    }

    fn heal(&mut self, _: &mut Stage, _: &mut Rng) -> Result<()> {
        Ok(())
    }
}
