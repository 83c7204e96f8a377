//! Membership, agreements and policies: what a new version of the network document changes in the middle of the stream.
//!
//! Operations: uploads by gateway and by direct writers, and a new version of the document before each group of them.
//! Failures: records on the topic of the document that no trusted anchor signed, that are older, changed or no document.
//! Not here: dates that come while a version is in force (tests of the stages).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, time::Duration};

use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    batch::Level,
    efgs::DiagnosisKey,
    network::{InvalidKeys, MemberState, OnsetPolicy, OriginProof, ReportTypeName, Routing, StateSince},
    records::{LedgerEntry, NetworkRecord, Outcome},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::front::Front;

const COUNTRIES: [&str; 6] = ["DE", "ES", "FR", "GR", "IT", "NL"];

/// A front, what each country has to have by now, and keys that nobody has sent.
struct Scene {
    front: Front,
    expected: BTreeMap<&'static str, Vec<DiagnosisKey>>,
    rng: Rng,
    tags: usize,
}

impl Scene {
    fn start() -> Self {
        let front = Front::start(World::new(&COUNTRIES, SystemClock.now().timestamp()).unwrap()).unwrap();
        Self { front, expected: BTreeMap::new(), rng: Rng::new(1), tags: 0 }
    }

    fn keys(&mut self, visited: &[&[&str]]) -> Vec<DiagnosisKey> {
        visited.iter().map(|v| key(&mut self.rng, "DE", v, SystemClock.now())).collect()
    }

    /// Sends keys of `origin`; they have to be answered so, and to reach exactly these countries. Returns the entry.
    fn send(
        &mut self,
        origin: &str,
        keys: &[DiagnosisKey],
        status: u16,
        reach: &[(&'static str, &[usize])],
    ) -> LedgerEntry {
        self.tags += 1;
        let answer = self.front.send(origin, &format!("tag-{}", self.tags), keys).unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        for (country, indexes) in reach {
            self.expected.entry(country).or_default().extend(indexes.iter().map(|i| keys[*i].clone()));
        }
        let entry = self.front.hub.ledger(origin).unwrap().pop().unwrap();
        assert_eq!(entry.network_version, self.front.hub.world.document.version);
        let mut reached: Vec<_> = entry.deliveries.iter().map(|d| d.destination.to_string()).collect();
        reached.sort();
        let mut wanted: Vec<_> = reach.iter().map(|(country, _)| (*country).to_owned()).collect();
        wanted.sort();
        assert_eq!(reached, wanted, "{entry:?}");
        entry
    }

    /// That an upload is refused for this reason at the door, and by the pipeline when it goes past the door.
    fn refused(&mut self, origin: &str, code: &str) {
        let keys: Vec<_> =
            self.keys(&[&[]]).into_iter().map(|k| DiagnosisKey { origin: origin.into(), ..k }).collect();
        let upload = self.front.hub.world.upload(origin, "refused", &keys).unwrap();
        let answer = self.front.post(&upload).unwrap();
        assert_eq!((answer.status, answer.code()), (403, code));
        let before = self.front.hub.ledger(origin).unwrap().len();
        self.front.hub.send(&upload).unwrap();
        let entry = self.front.hub.decided(origin, before + 1).unwrap().pop().unwrap();
        assert_eq!((entry.outcome, entry.code.as_deref()), (Outcome::Rejected, Some(code)));
    }

    fn publish(&mut self, change: impl FnOnce(&mut World)) {
        self.front.publish(change).unwrap();
    }

    fn state(&mut self, country: &str, state: MemberState) {
        let from = SystemClock.now().timestamp();
        self.publish(|world| world.member_mut(country).unwrap().states.push(StateSince { state, from }));
    }

    /// That every country has exactly what was to reach it.
    fn check(&self) {
        for country in COUNTRIES {
            let expected: Vec<_> = self.expected.get(country).into_iter().flatten().collect();
            self.front.delivered_exactly(country, &expected).unwrap();
        }
    }
}

fn withheld(entry: &LedgerEntry) -> Vec<(String, &str, i32)> {
    entry.withheld.iter().map(|w| (w.destination.to_string(), w.reason.as_str(), w.keys)).collect()
}

fn is(destination: &str, reason: &'static str, keys: i32) -> Vec<(String, &'static str, i32)> {
    vec![(destination.to_owned(), reason, keys)]
}

#[test]
fn members_pause_leave_and_come_back() {
    let mut scene = Scene::start();
    let keys = scene.keys(&[&[], &["FR"]]);
    let all = [("ES", &[0, 1][..]), ("FR", &[0, 1]), ("GR", &[0, 1]), ("IT", &[0, 1]), ("NL", &[0, 1])];
    assert!(scene.send("DE", &keys, 201, &all).withheld.is_empty());

    // A member that is paused sends nothing and misses nothing.
    scene.state("FR", MemberState::Paused);
    scene.refused("FR", "member-not-active");
    let keys = scene.keys(&[&[], &["FR"]]);
    scene.send("DE", &keys, 201, &all);

    // One that has left neither sends nor receives, and that is nobody's withholding.
    scene.state("FR", MemberState::Left);
    scene.refused("FR", "member-not-active");
    let keys = scene.keys(&[&["FR"]]);
    let others = [("ES", &[0][..]), ("GR", &[0]), ("IT", &[0]), ("NL", &[0])];
    assert!(scene.send("DE", &keys, 201, &others).withheld.is_empty());

    // Back again: it receives from now on, and its chain goes on where it ended.
    scene.state("FR", MemberState::Active);
    let keys = scene.keys(&[&["FR"]]);
    scene.send("DE", &keys, 201, &[("ES", &[0]), ("FR", &[0]), ("GR", &[0]), ("IT", &[0]), ("NL", &[0])]);
    let own: Vec<_> =
        scene.keys(&[&[]]).into_iter().map(|k| DiagnosisKey { origin: "FR".into(), ..k }).collect();
    scene.send("FR", &own, 201, &[("DE", &[0]), ("ES", &[0]), ("GR", &[0]), ("IT", &[0]), ("NL", &[0])]);
    scene.check();
}

#[test]
fn agreements_and_policies_decide_who_gets_what() {
    let mut scene = Scene::start();
    // The agreement with Italy has ended; a narrower one with Spain, which wants proof of origin, is left.
    scene.publish(|world| {
        let now = SystemClock.now().timestamp();
        let day = jiff::SignedDuration::from_hours(24);
        let general = &mut world.document.agreements[0];
        let mut ended = general.clone();
        let mut narrow = general.clone();
        general.parties.retain(|c| !["ES", "IT"].contains(&c.as_str()));
        (ended.id, ended.until) = (2, now - day);
        narrow.id = 3;
        narrow.parties = vec!["DE".parse().unwrap(), "ES".parse().unwrap()];
        narrow.report_types = vec![ReportTypeName::ConfirmedTest];
        world.document.agreements.extend([ended, narrow]);
    });
    let keys = scene.keys(&[&[], &[]]);
    let entry =
        scene.send("DE", &keys, 201, &[("ES", &[0, 1]), ("FR", &[0, 1]), ("GR", &[0, 1]), ("NL", &[0, 1])]);
    assert_eq!(withheld(&entry), is("IT", "no-agreement", 2));
    let mut keys = scene.keys(&[&[], &[], &[]]);
    keys[0].report_type = 3;
    let entry = scene.send("DE", &keys, 201, &[("FR", &[0, 1, 2]), ("GR", &[0, 1, 2]), ("NL", &[0, 1, 2])]);
    let narrowed =
        [is("ES", "no-agreement", 1), is("ES", "not-provable", 2), is("IT", "no-agreement", 3)].concat();
    assert_eq!(withheld(&entry), narrowed);

    // The Netherlands want only keys of people who were there, and take the hub's word for the origin; so does Spain.
    scene.publish(|world| {
        let nl = world.member_mut("NL").unwrap();
        (nl.routing, nl.origin_proof) = (Routing::Visited, OriginProof::Hub);
        world.member_mut("ES").unwrap().origin_proof = OriginProof::Hub;
    });
    let mut keys = scene.keys(&[&["NL"], &["FR"], &["FR", "NL"]]);
    keys[0].report_type = 3;
    let entry = scene.send(
        "DE",
        &keys,
        201,
        &[("ES", &[1, 2]), ("FR", &[0, 1, 2]), ("GR", &[0, 1, 2]), ("NL", &[0, 2])],
    );
    assert_eq!(withheld(&entry), [is("ES", "no-agreement", 1), is("IT", "no-agreement", 3)].concat());
    let level = |scene: &Scene, country: &str| {
        scene.front.hub.batches(country).unwrap().pop().unwrap().1.manifest().level
    };
    assert_eq!(["ES", "FR", "NL"].map(|c| level(&scene, c)), [Level::Subset, Level::Whole, Level::Subset]);
    let keys = scene.keys(&[&["FR"]]);
    scene.send("DE", &keys, 201, &[("ES", &[0]), ("FR", &[0]), ("GR", &[0])]);
    scene.check();

    aliases(&mut scene);
    invalid_keys(&mut scene);
    scene.check();
}

/// Greece is GR to the post and EL to the Union.
fn aliases(scene: &mut Scene) {
    let by_gr = |origin: &str, keys: Vec<DiagnosisKey>| -> Vec<DiagnosisKey> {
        keys.into_iter().map(|k| DiagnosisKey { origin: origin.into(), ..k }).collect()
    };
    let keys = scene.keys(&[&[]]);
    let answer = scene.front.send("GR", "alias", &by_gr("EL", keys.clone())).unwrap();
    assert_eq!((answer.status, answer.code()), (400, "key-origin-foreign"), "EL stands for nobody yet");
    scene.publish(|world| {
        world.document.aliases.insert("EL".parse().unwrap(), "GR".parse().unwrap());
        let gr = world.member_mut("GR").unwrap();
        (gr.routing, gr.origin_proof) = (Routing::Visited, OriginProof::Hub);
    });
    scene.send("GR", &by_gr("EL", keys), 201, &[("DE", &[0]), ("FR", &[0])]);
    let mixed = [by_gr("EL", scene.keys(&[&["NL"]])), by_gr("GR", scene.keys(&[&["IT"]]))].concat();
    scene.send("GR", &mixed, 201, &[("DE", &[0, 1]), ("FR", &[0, 1]), ("NL", &[0])]);
    let keys = scene.keys(&[&["EL"], &["GR"], &["FR"]]);
    let entry = scene.send("DE", &keys, 201, &[("ES", &[0, 1, 2]), ("FR", &[0, 1, 2]), ("GR", &[0, 1])]);
    assert_eq!(entry.unknown_countries, 0);
}

/// What one bad key does, as its sender's member has chosen.
fn invalid_keys(scene: &mut Scene) {
    let spoiled = |mut keys: Vec<DiagnosisKey>| {
        keys[1].rolling_start_interval_number -= 20 * 144;
        keys[3].days_since_onset_of_symptoms = 50;
        keys
    };
    let visited: [&[&str]; 4] = [&[], &["NL"], &["NL"], &["NL"]];
    let codes =
        |entry: &LedgerEntry| entry.verdicts.iter().map(|v| (v.index, v.code.clone())).collect::<Vec<_>>();
    let (old, onset) = ((1, "key-too-old".to_owned()), (3, "onset-out-of-range".to_owned()));

    // The whole upload; an odd onset is none of the reasons.
    let keys = spoiled(scene.keys(&visited));
    assert_eq!(codes(&scene.send("DE", &keys, 400, &[])), std::slice::from_ref(&old));
    scene.publish(|world| world.member_mut("DE").unwrap().days_since_onset = OnsetPolicy::Reject);
    let answer = scene.front.send("DE", "invalid", &keys).unwrap();
    let named =
        serde_json::json!([{"index": 1, "code": "key-too-old"}, {"index": 3, "code": "onset-out-of-range"}]);
    assert_eq!((answer.status, &answer.body["invalid_keys"]), (400, &named), "{answer:?}");

    // That key alone. Who asks for proof of origin gets none of the others: it can not be given without the bad ones.
    scene.publish(|world| world.member_mut("DE").unwrap().invalid_keys = InvalidKeys::RejectKey);
    let entry = scene.send("DE", &keys, 207, &[("ES", &[0, 2]), ("NL", &[2])]);
    assert_eq!(codes(&entry), [old.clone(), onset]);
    assert_eq!((entry.keys, entry.keys_accepted, entry.odd_onsets), (4, 2, 0));
    assert_eq!(withheld(&entry), [is("FR", "not-provable", 2), is("IT", "no-agreement", 2)].concat());

    // Counted only, and passed on.
    scene.publish(|world| world.member_mut("DE").unwrap().days_since_onset = OnsetPolicy::Count);
    let keys = spoiled(scene.keys(&visited));
    let entry = scene.send("DE", &keys, 207, &[("ES", &[0, 2, 3]), ("NL", &[2, 3])]);
    assert_eq!((codes(&entry), entry.odd_onsets), (vec![old], 1));
}

#[test]
fn a_document_that_is_not_to_be_trusted_changes_nothing() {
    let mut scene = Scene::start();
    scene.publish(|_| ());
    scene.publish(|_| ());
    let put = |scene: &Scene, record: &NetworkRecord| {
        scene.front.hub.put(topics::NETWORK, scene.front.hub.codec.encode(record)).unwrap();
    };
    let forbid = |world: &mut World| world.document.agreements.clear();
    // Of another anchor, and of one that only has the same name.
    let mut other = World::new(&COUNTRIES, SystemClock.now().timestamp()).unwrap();
    (other.document.version, other.document.network) = (90, scene.front.hub.world.document.network.clone());
    put(&scene, &other.publish().unwrap());
    // Rightly signed, and older or as old as the one in force; then of another network.
    let good = scene.front.hub.world.document.clone();
    for (version, name) in [(1, "demo"), (2, "demo"), (3, "demo"), (91, "another")] {
        let world = &mut scene.front.hub.world;
        (world.document.version, world.document.network) = (version, name.into());
        forbid(world);
        let record = world.publish().unwrap();
        put(&scene, &record);
        scene.front.hub.world.document = good.clone();
    }
    // Signed, and changed since; or the record around it says another version.
    forbid(&mut scene.front.hub.world);
    scene.front.hub.world.document.version = 92;
    let signed = scene.front.hub.world.publish().unwrap();
    scene.front.hub.world.document = good;
    let mut changed = signed.document.to_vec();
    changed.push(b'\n');
    put(&scene, &NetworkRecord { document: changed.into(), ..signed.clone() });
    put(&scene, &NetworkRecord { version: 93, ..signed });
    scene.front.hub.put(topics::NETWORK, b"no document".to_vec()).unwrap();
    std::thread::sleep(Duration::from_secs(1));

    let all = [("ES", &[0][..]), ("FR", &[0]), ("GR", &[0]), ("IT", &[0]), ("NL", &[0])];
    let keys = scene.keys(&[&[]]);
    // Under version 3 still: `send` checks that.
    scene.send("DE", &keys, 201, &all);
    assert_eq!(scene.front.network.versions().keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    // The next good one does come into force, so everything before it has been read.
    scene.publish(|_| ());
    let keys = scene.keys(&[&[]]);
    scene.send("DE", &keys, 201, &all);
    assert_eq!(scene.front.network.versions().keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    scene.check();
}
