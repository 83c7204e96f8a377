//! New versions of the network document in the middle of a stream: each upload is decided by the version that its ledger
//! entry names, whoever decides it and whenever that instance heard of it.
//!
//! Operations: bursts of uploads of five countries by direct writers, a new version between two halves of each burst;
//! processors that come and go. A member is paused, leaves and returns; an agreement ends and begins; a signing
//! certificate is replaced and the old one revoked; the hub's signing key is replaced.
//! Failures: an instance that hears of no new version; one that lacks the new signing key.
//! Not here: what each of these means for a single upload (`policies`, `stages`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::SigningKey;
use keyferry_processors::{pipeline::Tools, sign::Signer};
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    network::NetworkFeed,
    transaction::Settings,
};
use keyferry_schemas::{
    country::Country,
    network::{MemberState, SigningKeyEntry, StateSince, Use},
    records::{LedgerEntry, Outcome},
    world::{Algorithm, HUB_KEY, Identity, Rng, World, key},
};
use keyferry_tests::{hub::Hub, processor::Processor, wait::wait_until};

const ORIGINS: [&str; 5] = ["DE", "ES", "FR", "IT", "NL"];
const NEW_KEY: &str = "hub-2";
const HALF: usize = 6;

struct Scene {
    hub: Hub,
    rng: Rng,
    sent: usize,
}

impl Scene {
    /// Half a burst: uploads of one key of each country, as it signs now.
    fn send(&mut self) {
        let how = if self.hub.world.document.version < 6 { "old" } else { "new" };
        for _ in 0..HALF {
            for origin in ORIGINS {
                let keys = [key(&mut self.rng, origin, &[], SystemClock.now())];
                let tag = format!("{how}-{}", self.sent);
                self.hub.send(&self.hub.world.upload(origin, &tag, &keys).unwrap()).unwrap();
            }
            self.sent += 1;
        }
    }

    /// A version comes in the middle of a burst. What it changes was so for an hour, so that the version alone decides.
    fn change(&mut self, change: impl FnOnce(&mut World, jiff::Timestamp)) {
        self.send();
        let from = SystemClock.now().plus(-3_600_000).timestamp();
        change(&mut self.hub.world, from);
        self.hub.world.document.version += 1;
        self.hub.publish().unwrap();
        self.send();
        let version = self.hub.world.document.version;
        let heard = |e: &LedgerEntry| e.network_version == version;
        wait_until(&format!("version {version}"), || {
            self.send();
            ORIGINS.iter().any(|origin| self.hub.ledger(origin).unwrap().iter().any(heard))
        });
    }

    fn state(&mut self, country: &str, state: MemberState) {
        self.change(|world, from| {
            world.member_mut(country).unwrap().states.push(StateSince { state, from });
        });
    }

    fn start(&self, instance: &str, network: NetworkFeed, has_new_key: bool) -> Processor {
        let mut tools: Tools = self.hub.tools(instance);
        if has_new_key {
            tools.signers.push(Signer::new(NEW_KEY.into(), new_key()));
        }
        self.hub.processor_of(network, tools, Settings::new(instance), Arc::new(SystemClock)).unwrap()
    }

    fn live(&self, instance: &str) -> Processor {
        self.start(instance, self.hub.network().unwrap(), true)
    }

    fn is_decided(&self, origin: &str) -> bool {
        self.hub.ledger(origin).unwrap().len() == self.sent
    }
}

fn new_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// What the versions say, in another way than the document: whether a country may send, and whom its keys reach.
fn may_send(origin: &str, version: i64) -> bool {
    origin != "FR" || !(2..=3).contains(&version)
}

fn reaches(origin: &str, version: i64) -> BTreeSet<&'static str> {
    let receives = |country: &str| country != "FR" || version != 3;
    let agreed = |country: &str| version != 5 || (country != "IT" && origin != "IT");
    ORIGINS.into_iter().filter(|c| *c != origin && receives(c) && agreed(c)).collect()
}

/// Whether the certificate counts with which this upload of IT was signed.
fn counts(tag: &str, version: i64) -> bool {
    tag.starts_with(if version < 6 { "old" } else { "new" })
}

fn check(origin: &str, entry: &LedgerEntry) {
    let (version, tag) = (entry.network_version, entry.batch_tag.as_deref().unwrap());
    let taken = may_send(origin, version) && (origin != "IT" || counts(tag, version));
    let outcome = if taken { Outcome::Accepted } else { Outcome::Rejected };
    assert_eq!(entry.outcome, outcome, "{origin} {tag}: {entry:?}");
    let reached: BTreeSet<_> = entry.deliveries.iter().map(|d| d.destination.to_string()).collect();
    let wanted = if taken { reaches(origin, version) } else { BTreeSet::new() };
    assert_eq!(reached, wanted.iter().map(ToString::to_string).collect(), "{origin} {tag}: {entry:?}");
    assert_eq!(entry.signing_key, if version < 7 { HUB_KEY } else { NEW_KEY });
}

#[test]
fn each_upload_is_decided_by_the_version_that_its_entry_names() {
    let hub = Hub::start(World::new(&ORIGINS, jiff::Timestamp::now()).unwrap()).unwrap();
    let mut scene = Scene { hub, rng: Rng::new(5), sent: 0 };
    let hears_nothing = NetworkFeed::fixed(scene.hub.network().unwrap().versions().as_ref().clone());
    let first = scene.live("p-0");
    let deaf = scene.start("p-1", hears_nothing, true);
    wait_until("both", || first.health.ready().ok && deaf.health.ready().ok);

    scene.state("FR", MemberState::Paused);
    scene.state("FR", MemberState::Left);
    // The one that hears nothing is to go on where the other one has decided by a later version: it waits.
    first.stop().unwrap();
    scene.send();
    wait_until("it has the origins of the first", || !deaf.health.ready().ok);
    // On a slow machine this is too short to show what it would decide, and never wrong.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!deaf.health.ready().ok, "it goes on by a version that is too old");
    let next = scene.live("p-2");
    deaf.stop().unwrap();
    scene.state("FR", MemberState::Active);
    scene.change(|world, _| world.document.agreements[0].parties.retain(|c| c.as_str() != "IT"));
    scene.change(|world, from| {
        world.document.agreements[0].parties.push("IT".parse().unwrap());
        let identity = Identity::new("IT", "Batch signing", Algorithm::P256, jiff::Timestamp::now()).unwrap();
        let far = from + jiff::SignedDuration::from_hours(24 * 200);
        let entry = world.register(&identity, Use::Signing, from, far).unwrap();
        let certificates = &mut world.member_mut("IT").unwrap().certificates;
        certificates.iter_mut().filter(|c| c.usage == Use::Signing).for_each(|c| c.revoked = Some(from));
        certificates.push(entry);
        world.nations.get_mut(&"IT".parse::<Country>().unwrap()).unwrap().signing = identity;
    });
    wait_until("all so far", || ORIGINS.iter().all(|origin| scene.is_decided(origin)));

    // One holds the new key as well, the other one does not: it signs with none that was withdrawn.
    let heard = scene.hub.network().unwrap();
    let lacking = scene.start("p-3", heard.clone(), false);
    wait_until("both", || next.health.ready().ok && lacking.health.ready().ok);
    scene.change(|world, from| {
        let old = &mut world.document.signing_keys[0];
        let until = old.until;
        old.until = from;
        let public_key = STANDARD.encode(new_key().verifying_key().as_bytes());
        world.document.signing_keys.push(SigningKeyEntry { id: NEW_KEY.into(), public_key, from, until });
    });
    assert!(heard.wait_for(scene.hub.world.document.version, Duration::from_secs(60)));
    scene.send();
    wait_until("those that can be decided", || ORIGINS.iter().any(|origin| scene.is_decided(origin)));
    assert!(!ORIGINS.iter().all(|origin| scene.is_decided(origin)), "who has decided the rest?");
    lacking.stop().unwrap();
    wait_until("the rest", || ORIGINS.iter().all(|origin| scene.is_decided(origin)));
    next.stop().unwrap();

    let mut caused = BTreeSet::new();
    for origin in ORIGINS {
        let ledger = scene.hub.ledger(origin).unwrap();
        let versions: Vec<_> = ledger.iter().map(|e| e.network_version).collect();
        assert!(versions.is_sorted(), "{origin}: {versions:?}");
        for entry in &ledger {
            check(origin, entry);
            caused.extend(
                entry.deliveries.iter().map(|d| (origin.to_owned(), d.destination, d.sequence, d.manifest)),
            );
        }
    }
    let mut received = BTreeSet::new();
    for destination in ORIGINS {
        for (_, batch) in scene.hub.batches(destination).unwrap() {
            let manifest = batch.manifest();
            received.insert((
                manifest.origin.to_string(),
                manifest.destination,
                manifest.sequence,
                batch.hash(),
            ));
        }
    }
    assert!(caused == received, "{} were caused, {} were received", caused.len(), received.len());
}
