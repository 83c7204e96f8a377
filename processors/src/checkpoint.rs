//! Signed statements of how far the chains of an origin go, for whoever receives them: what is missing at the end of a
//! topic shows by them alone, and a chain whose beginning has expired begins at one.
//!
//! They are made by the clock and not by uploads, so that silence is not mistaken for health.

use keyferry_schemas::{
    batch::Checkpoint,
    country::Country,
    network::{MemberState, Network},
    time::Millis,
};

use crate::{
    sign::Signer,
    state::{OriginState, Position},
};

/// States the end of the chain to every country that receives, at `at`; to none if the origin takes no part now.
#[must_use]
pub fn checkpoints(state: &OriginState, network: &Network, signer: &Signer, at: Millis) -> Vec<Checkpoint> {
    let receives = |country| matches!(network.state(country, at), MemberState::Active | MemberState::Paused);
    let origin = state.origin();
    if !receives(origin) {
        return Vec::new();
    }
    let destinations = network.countries().filter(|c| *c != origin && receives(*c));
    destinations.map(|d| checkpoint(origin, d, state.position(), network, signer, at)).collect()
}

fn checkpoint(
    origin: Country,
    destination: Country,
    position: &Position,
    network: &Network,
    signer: &Signer,
    at: Millis,
) -> Checkpoint {
    let (sequence, manifest) = position.chains.get(&destination).copied().unwrap_or((0, [0; 32]));
    signer.checkpoint(Checkpoint {
        network: network.name().to_owned(),
        network_version: network.version(),
        origin,
        destination,
        sequence,
        manifest,
        now: position.now,
        at,
        signing_key: signer.name().to_owned(),
        signature: [0; 64],
    })
}
