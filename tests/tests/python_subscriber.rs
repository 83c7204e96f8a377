//! A subscriber that shares no code with Keyferry, `examples/python`, verifies what a country receives: whole uploads,
//! parts of uploads, checkpoints. And it refuses what another trust anchor has signed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Output;

use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    batch::Checkpoint,
    efgs::DiagnosisKey,
    network::{OriginProof, Routing},
    records::Outcome,
    topics,
    world::{HUB_KEY, Rng, World, key},
};
use keyferry_tests::{hub::Hub, subscriber::subscribe};

/// Runs it with the hub's own anchor and returns what it prints; its last line is the sum.
fn verified(hub: &Hub, country: &str) -> Vec<String> {
    let output = subscribe(hub, country, &hub.world.anchor.certificate_pem().unwrap(), &[]).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{country}: {errors}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn refused(output: &Output, because: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(because), "{errors}");
}

fn keys(rng: &mut Rng, origin: &str, visited: &[&str], n: usize) -> Vec<DiagnosisKey> {
    (0..n).map(|_| key(rng, origin, visited, SystemClock.now())).collect()
}

#[test]
fn a_subscriber_in_python_verifies_every_batch() {
    let mut world = World::new(&["DE", "FR", "NL", "NO"], jiff::Timestamp::now()).unwrap();
    let member = world.member_mut("NL").unwrap();
    member.routing = Routing::Visited;
    member.origin_proof = OriginProof::Hub;
    let hub = Hub::start(world).unwrap();
    let processor = hub.processor("p-0").unwrap();
    let mut rng = Rng::new(1);

    let first = keys(&mut rng, "DE", &["NL", "FR"], 60);
    let second =
        [keys(&mut rng, "DE", &["NL"], 7), keys(&mut rng, "DE", &[], 13), first[..5].to_vec()].concat();
    let of_norway = keys(&mut rng, "NO", &["FR"], 9);
    hub.send(&hub.world.upload("DE", "tag-1", &first).unwrap()).unwrap();
    hub.send(&hub.world.upload("DE", "tag-2", &second).unwrap()).unwrap();
    hub.send(&hub.world.upload("NO", "tag/1==", &of_norway).unwrap()).unwrap();
    let outcomes: Vec<_> = hub.decided("DE", 2).unwrap().iter().map(|e| e.outcome).collect();
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::Partial]);
    hub.decided("NO", 1).unwrap();
    processor.stop().unwrap();

    // 60 and 25 of DE, of which 5 for the second time, and 9 of NO.
    let lines = verified(&hub, "FR");
    assert_eq!(lines.last().unwrap(), "keyferry.keys.fr: 3 batches verified, 94 keys, 89 new");
    assert_eq!(lines.iter().filter(|l| l.ends_with("whole, signed by the origin")).count(), 3, "{lines:?}");
    // Every key of the first upload names NL; seven new ones of the second do.
    let lines = verified(&hub, "NL");
    assert_eq!(lines.last().unwrap(), "keyferry.keys.nl: 2 batches verified, 67 keys, 67 new");
    assert!(lines[0].contains("sequence 1, 60 keys, 60 new, whole"), "{lines:?}");
    assert!(lines[1].contains("sequence 2, 7 keys, 7 new, subset"), "{lines:?}");
    // Its own keys never come back.
    assert_eq!(verified(&hub, "DE").last().unwrap(), "keyferry.keys.de: 1 batches verified, 9 keys, 9 new");

    let stranger = World::new(&["DE"], jiff::Timestamp::now()).unwrap();
    let anchor = stranger.anchor.certificate_pem().unwrap();
    refused(&subscribe(&hub, "FR", &anchor, &[]).unwrap(), "no network document");

    // A checkpoint at the true end is believed, and one that states more shows that something is missing.
    let (_, last) = hub.batches("NL").unwrap().pop().unwrap();
    let end = Checkpoint {
        network: hub.world.document.network.clone(),
        network_version: hub.world.document.version,
        origin: "DE".parse().unwrap(),
        destination: "NL".parse().unwrap(),
        sequence: 2,
        manifest: last.hash(),
        now: SystemClock.now(),
        at: SystemClock.now(),
        signing_key: HUB_KEY.into(),
        signature: [0; 64],
    };
    let topic = topics::keys("NL".parse().unwrap());
    hub.put(&topic, hub.codec.encode(&end.clone().signed(&hub.world.hub_key))).unwrap();
    assert!(verified(&hub, "NL")[2].ends_with("DE checkpoint at sequence 2"));
    hub.put(&topic, hub.codec.encode(&Checkpoint { sequence: 3, ..end }.signed(&hub.world.hub_key))).unwrap();
    let anchor = hub.world.anchor.certificate_pem().unwrap();
    refused(&subscribe(&hub, "NL", &anchor, &[]).unwrap(), "it states sequence 3");

    // A batch that comes twice, and one of which a bit was changed.
    let (first, _) = hub.batches("FR").unwrap().swap_remove(0);
    hub.put(&topics::keys("FR".parse().unwrap()), hub.codec.encode(&first)).unwrap();
    refused(&subscribe(&hub, "FR", &anchor, &[]).unwrap(), "sequence 1 follows");
    let (mut other, _) = hub.batches("DE").unwrap().swap_remove(0);
    other.new = [&[other.new[0] ^ 1], &other.new[1..]].concat().into();
    hub.put(&topics::keys("DE".parse().unwrap()), hub.codec.encode(&other)).unwrap();
    refused(&subscribe(&hub, "DE", &anchor, &[]).unwrap(), "the bitmap is not what the manifest says");
}
