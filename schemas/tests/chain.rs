//! What may follow what on a chain, and what a checkpoint may say of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{NOW, Sender, country, flips, verified, world};
use ed25519_dalek::SigningKey;
use keyferry_schemas::{
    avro::Record,
    batch::{Checkpoint, Level},
    chain::{Break, Chains, VerifiedBatch},
    network::{Network, SigningKeyEntry},
    time::Millis,
    world::World,
};

#[test]
fn records_dropped_doubled_or_swapped_are_found() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    let batches = [Level::Whole, Level::Subset, Level::Whole].map(|l| verified(&sender.send(l), &network));
    let follow = |order: &[usize]| {
        let mut chains = Chains::new(country("DE"));
        order.iter().try_for_each(|i| {
            let before = chains.links().clone();
            chains.append(&batches[*i]).inspect_err(|_| assert_eq!(*chains.links(), before))
        })
    };
    let sequence = |last, found| Err(Break::Sequence { last, found });
    assert_eq!(follow(&[0, 1, 2]), Ok(()));
    assert_eq!(follow(&[1]), sequence(0, 2));
    assert_eq!(follow(&[0, 2]), sequence(1, 3));
    assert_eq!(follow(&[0, 0]), sequence(1, 1));
    assert_eq!(follow(&[0, 1, 0]), sequence(2, 1));
    assert_eq!(follow(&[1, 0, 2]), sequence(0, 2));
    assert_eq!(follow(&[0, 2, 1]), sequence(1, 3));
}

#[test]
fn records_from_elsewhere_are_found() {
    let (world, mut other) = (world(), world());
    let network = world.network().unwrap();
    let mut chains = Chains::new(country("DE"));
    let mut own = Sender::new(&world, "NL", "DE");
    chains.append(&verified(&own.send(Level::Whole), &network)).unwrap();

    let foreign = verified(&Sender::new(&world, "NL", "FR").send(Level::Whole), &network);
    assert_eq!(chains.append(&foreign), Err(Break::Destination(country("FR"))));
    // Another chain's number two is nobody's number two.
    let mut fr = Sender::new(&world, "FR", "DE");
    fr.send(Level::Whole);
    let second = verified(&fr.send(Level::Whole), &network);
    assert_eq!(chains.append(&second), Err(Break::Sequence { last: 0, found: 2 }));
    // The right number behind another history.
    let mut fork = Sender::new(&world, "NL", "DE");
    fork.send(Level::Subset);
    assert_eq!(chains.append(&verified(&fork.send(Level::Whole), &network)), Err(Break::Predecessor(1)));

    // Another network of the same name has other keys; one of another name is told apart by it.
    let refused = |other: &World| {
        VerifiedBatch::verify(&Sender::new(other, "NL", "DE").send(Level::Whole), &*network).err()
    };
    assert_eq!(refused(&other), Some(Break::Signature));
    other.document.network = "other".into();
    assert_eq!(refused(&other), Some(Break::Network("other".into())));
    other.document.version = 2;
    assert_eq!(refused(&other), Some(Break::NetworkVersion(2)));
}

#[test]
fn checkpoints_show_what_is_missing_and_can_not_change() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    let mut chains = Chains::new(country("DE"));
    assert_eq!(chains.checkpoint(&sender.checkpoint(), &*network), Ok(()), "before the first batch");
    chains.append(&verified(&sender.send(Level::Whole), &network)).unwrap();
    let first = sender.checkpoint();
    assert_eq!(chains.checkpoint(&first, &*network), Ok(()));
    let second = sender.send(Level::Subset);
    let truncated = Break::Checkpoint { stated: 2, received: 1 };
    assert_eq!(chains.checkpoint(&sender.checkpoint(), &*network), Err(truncated));
    chains.append(&verified(&second, &network)).unwrap();
    assert_eq!(chains.checkpoint(&sender.checkpoint(), &*network), Ok(()));
    assert_eq!(
        chains.checkpoint(&first, &*network),
        Err(Break::Checkpoint { stated: 1, received: 2 }),
        "replayed"
    );
    // The same length with another history.
    let forked = Checkpoint { manifest: [1; 32], ..sender.checkpoint() }.signed(&world.hub_key);
    assert_eq!(chains.checkpoint(&forked, &*network), Err(Break::Checkpoint { stated: 2, received: 2 }));
    let elsewhere = Sender::new(&world, "NL", "FR").checkpoint();
    assert_eq!(chains.checkpoint(&elsewhere, &*network), Err(Break::Destination(country("FR"))));

    for (at, changed) in flips(&sender.checkpoint().to_avro()) {
        let Ok(changed) = Checkpoint::from_avro(changed.into()) else { continue };
        assert!(chains.checkpoint(&changed, &*network).is_err(), "byte {at}");
        // Where nothing was received yet, the signature is all there is.
        assert!(Chains::new(country("DE")).checkpoint(&changed, &*network).is_err(), "byte {at}");
    }
}

#[test]
fn a_checkpoint_before_the_first_batch_counts() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    let mut chains = Chains::new(country("DE"));
    chains.checkpoint(&sender.checkpoint(), &*network).unwrap();
    let begun = chains.links()[&country("NL")];
    assert_eq!((begun.sequence, begun.manifest), (0, [0; 32]));
    let first = verified(&sender.send(Level::Whole), &network);
    let second = verified(&sender.send(Level::Whole), &network);
    let later = sender.checkpoint();
    // Stated that nothing came, then that two came, and nothing did.
    let missing = Err(Break::Checkpoint { stated: 2, received: 0 });
    assert_eq!(chains.clone().checkpoint(&later, &*network), missing);
    let resumed = Chains::resume(country("DE"), chains.links().clone());
    assert_eq!(resumed.clone().checkpoint(&later, &*network), missing);
    assert_eq!(chains.clone().append(&second), Err(Break::Sequence { last: 0, found: 2 }));
    for mut chains in [chains, resumed] {
        chains.append(&first).unwrap();
        chains.append(&second).unwrap();
        assert_eq!(chains.checkpoint(&later, &*network), Ok(()));
    }
    // Nothing has no hash, and less than nothing is no sequence.
    for (sequence, manifest) in [(0, [1; 32]), (-1, [0; 32])] {
        let odd = Checkpoint { sequence, manifest, ..later.clone() }.signed(&world.hub_key);
        let refused = Err(Break::Checkpoint { stated: sequence, received: 0 });
        assert_eq!(Chains::new(country("DE")).checkpoint(&odd, &*network), refused);
    }
}

#[test]
fn a_chain_begins_late_only_where_nothing_of_it_was_received() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    let batches = [Level::Whole, Level::Subset, Level::Whole].map(|l| verified(&sender.send(l), &network));
    let follow = |order: &[usize]| {
        let mut chains = Chains::new(country("DE"));
        order.iter().map(|i| chains.append_late(&batches[*i])).collect::<Vec<_>>()
    };
    assert_eq!(follow(&[0, 1]), [Ok(false), Ok(false)]);
    assert_eq!(follow(&[1, 2]), [Ok(true), Ok(false)]);
    assert_eq!(follow(&[0, 2]), [Ok(false), Err(Break::Sequence { last: 1, found: 3 })]);
    // What is refused begins nothing.
    let mut elsewhere = Chains::new(country("FR"));
    assert_eq!(elsewhere.append_late(&batches[1]), Err(Break::Destination(country("DE"))));
    assert!(elsewhere.links().is_empty());
}

#[test]
fn verification_can_start_at_a_checkpoint() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    sender.send(Level::Whole);
    let mut chains = Chains::new(country("DE"));
    chains.checkpoint(&sender.checkpoint(), &*network).unwrap();
    let resumed = Chains::resume(country("DE"), chains.links().clone());
    let next = verified(&sender.send(Level::Whole), &network);
    for mut chains in [chains, resumed] {
        chains.append(&next).unwrap();
        assert_eq!(chains.links()[&country("NL")].at, Millis::from(NOW));
    }
}

/// Version 1 with one signing key; version 2, in which it ends and another takes over an hour later.
fn rotated(world: &mut World) -> (BTreeMap<i64, Arc<Network>>, SigningKey, Millis) {
    let first = world.network().unwrap();
    let next = SigningKey::from_bytes(&[2; 32]);
    let (old, handover) = (&world.document.signing_keys[0], NOW + jiff::SignedDuration::from_hours(1));
    let new = SigningKeyEntry {
        id: "hub-2".into(),
        public_key: STANDARD.encode(next.verifying_key().as_bytes()),
        from: handover,
        until: old.until,
    };
    world.document.version = 2;
    world.document.signing_keys[0].until = handover;
    world.document.signing_keys.push(new);
    ([(1, first), (2, world.network().unwrap())].into(), next, handover.into())
}

#[test]
fn a_signing_key_that_was_withdrawn_adds_to_no_chain() {
    let mut world = world();
    let (networks, next, handover) = rotated(&mut world);
    let mut hub = Sender::new(&world, "NL", "DE");
    hub.network_version = 1;
    let mut chains = Chains::new(country("DE"));
    let append = |chains: &mut Chains, hub: &mut Sender| {
        chains.append(&VerifiedBatch::verify(&hub.send(Level::Whole), &networks).unwrap())
    };
    append(&mut chains, &mut hub).unwrap();
    let stolen = hub.clone();
    (hub.network_version, hub.at, hub.key, hub.key_id) = (2, handover, next, "hub-2");
    append(&mut chains, &mut hub).unwrap();
    // The thief has read everything since, and the old key still holds for the time in which it was in force.
    let thief = |network_version, at| Sender {
        network_version,
        at,
        key: stolen.key.clone(),
        key_id: stolen.key_id,
        ..hub.clone()
    };
    let version_fell = || Break::NetworkVersionFell { last: 2, found: 1 };
    let before = Millis(handover.0 - 1);
    assert_eq!(append(&mut chains.clone(), &mut thief(1, before)), Err(version_fell()));
    assert_eq!(append(&mut chains.clone(), &mut thief(1, handover)), Err(version_fell()));
    assert_eq!(append(&mut chains.clone(), &mut thief(2, before)), Err(Break::TimeFell(2)));
    assert_eq!(chains.checkpoint(&thief(1, before).checkpoint(), &networks), Err(version_fell()));
    // A chain that begins at a checkpoint is guarded by that, and one that goes on later by what was kept of it.
    let mut begun = Chains::new(country("DE"));
    begun.checkpoint(&hub.checkpoint(), &networks).unwrap();
    for chains in [begun, Chains::resume(country("DE"), chains.links().clone())] {
        assert_eq!(append(&mut chains.clone(), &mut thief(1, before)), Err(version_fell()));
        assert_eq!(append(&mut chains.clone(), &mut thief(2, before)), Err(Break::TimeFell(2)));
        append(&mut chains.clone(), &mut hub.clone()).unwrap();
    }
}

#[test]
fn a_checkpoint_is_verified_under_the_version_it_names() {
    let mut world = world();
    let (networks, _, handover) = rotated(&mut world);
    let mut hub = Sender::new(&world, "NL", "DE");
    hub.at = handover;
    let check = |hub: &Sender| Chains::new(country("DE")).checkpoint(&hub.checkpoint(), &networks);
    assert_eq!(check(&hub), Err(Break::SigningKey("hub-1".into())));
    hub.network_version = 1;
    assert_eq!(check(&hub), Ok(()));
    hub.network_version = 3;
    assert_eq!(check(&hub), Err(Break::NetworkVersion(3)));
}
