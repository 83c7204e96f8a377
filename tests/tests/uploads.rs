//! The same again: what a backend may send twice, and what becomes of it. Through gateway, processor and topics.
//!
//! Operations: uploads over HTTP, one after another and at the same time, by one country and by two; changes of the
//! network document between them. Failures: answers that were lost (the client sends again), two backends of one
//! country that do not know of each other, a certificate or a membership that is not in force yet.
//! Not here: one after another (the table in `conformance`); brokers and processors that die under an upload (see
//! `exactly_once.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_producers::GatewayConfig;
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    efgs::DiagnosisKey,
    network::{MemberState, StateSince, Use},
    records::Upload,
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::{
    front::{Answer, Door, Front},
    hub::Hub,
};

fn world(countries: &[&str]) -> World {
    World::new(countries, SystemClock.now().timestamp()).unwrap()
}

fn pool(seed: u64, origin: &str, n: usize) -> Vec<DiagnosisKey> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| key(&mut rng, origin, &["FR"], SystemClock.now())).collect()
}

fn typed(key: &DiagnosisKey, report_type: i32) -> DiagnosisKey {
    DiagnosisKey { report_type, ..key.clone() }
}

/// What an upload is to be answered.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Created,
    /// 207, with these indexes under 201 and under 409.
    Multi(&'static [u64], &'static [u64]),
    Conflict,
}
use Expected::{Conflict, Created, Multi};

fn check(what: &str, tag: &str, answer: &Answer, expected: Expected) {
    match expected {
        Created => assert_eq!((answer.status, answer.tag.as_deref()), (201, Some(tag)), "{what}: {answer:?}"),
        Multi(taken, refused) => {
            assert_eq!(answer.status, 207, "{what}: {answer:?}");
            assert_eq!(
                (answer.listed("201"), answer.listed("409")),
                (taken.to_vec(), refused.to_vec()),
                "{what}"
            );
            assert!(answer.listed("500").is_empty(), "{what}");
        }
        Conflict => assert_eq!((answer.status, answer.code()), (409, "batch-tag-conflict"), "{what}"),
    }
}

#[test]
fn what_changes_is_a_revision_or_nothing() {
    let front = Front::start(world(&["DE", "FR", "NL"])).unwrap();
    let p = pool(1, "DE", 10);
    // Not one byte differs: the answer to the answer that was lost.
    assert_eq!(front.send("DE", "known", &p[..1]).unwrap().status, 201);
    let upload = front.hub.world.upload("DE", "f/+==", &[p[1].clone(), p[0].clone()]).unwrap();
    let first = front.post(&upload).unwrap();
    check("to the byte", "f/+==", &first, Multi(&[0], &[1]));
    assert_eq!(front.post(&upload).unwrap(), first);
    revisions(&front, &p[2..], &[&p[0], &p[1]]);
    another_origin(&front);
}

/// A key may change its report type in three ways; in no other, and nothing else of it.
fn revisions(front: &Front, p: &[DiagnosisKey], before: &[&DiagnosisKey]) {
    let risky = |key: &DiagnosisKey| DiagnosisKey {
        transmission_risk_level: 8 - key.transmission_risk_level.min(8),
        ..key.clone()
    };
    let k: Vec<_> = [2, 2, 1, 1, 3, 2, 5].iter().zip(p).map(|(t, k)| typed(k, *t)).collect();
    assert_eq!(front.send("DE", "r0", &k).unwrap().status, 201);
    let revised = [
        ("r1", typed(&k[0], 1), Created),
        ("r2", typed(&k[1], 5), Created),
        ("r3", typed(&k[2], 5), Created),
        ("r4", typed(&k[3], 2), Multi(&[], &[0])),
        ("r5", typed(&k[4], 5), Multi(&[], &[0])),
        ("r6", risky(&k[5]), Multi(&[], &[0])),
        ("r7", typed(&risky(&k[5]), 1), Multi(&[], &[0])),
        ("r8", typed(&k[6], 1), Multi(&[], &[0])),
        ("back", typed(&k[0], 2), Multi(&[], &[0])),
        ("on", typed(&k[0], 5), Created),
        ("the same revision again", typed(&k[1], 5), Multi(&[], &[0])),
    ];
    for (what, key, expected) in revised {
        let tag = what.replace(' ', "-");
        check(what, &tag, &front.send("DE", &tag, std::slice::from_ref(&key)).unwrap(), expected);
    }
    // Two versions of one new key in one upload: the first counts, and the second is no revision of it.
    let both = [typed(&p[7], 2), typed(&p[7], 1)];
    check("both", "both", &front.send("DE", "both", &both).unwrap(), Multi(&[0], &[1]));
    let expected: Vec<_> =
        before.iter().copied().chain(&k).chain([&k[0], &k[1], &k[2], &k[0], &p[7]]).collect();
    for country in ["FR", "NL"] {
        front.delivered_exactly(country, &expected).unwrap();
    }
}

/// Two countries may hold the same key; neither sees what the other sent.
fn another_origin(front: &Front) {
    let before: Vec<_> = front.hub.batches("NL").unwrap();
    let of_de = pool(77, "DE", 2);
    let of_fr: Vec<_> = of_de.iter().map(|k| DiagnosisKey { origin: "FR".into(), ..k.clone() }).collect();
    check("DE", "same", &front.send("DE", "same", &of_de).unwrap(), Created);
    check("FR", "same", &front.send("FR", "same", &of_fr).unwrap(), Created);
    let after = front.hub.batches("NL").unwrap();
    let origins: Vec<_> = after[before.len()..].iter().map(|(_, b)| b.keys()[0].origin.clone()).collect();
    assert_eq!(origins, ["DE", "FR"]);
    front.delivered_exactly("DE", &of_fr.iter().collect::<Vec<_>>()).unwrap();
}

/// Two uploads that meet under one tag, and what they are to be answered.
#[derive(Debug, Clone, Copy)]
enum Pair {
    /// One content: one answer.
    Same,
    /// Two contents: one of them is told.
    Other,
    /// Of two countries with the same keys: no business of each other's.
    SameOfTwo,
    /// Of two countries with other keys.
    OtherOfTwo,
}

const PAIRS: [Pair; 4] = [Pair::Same, Pair::Other, Pair::SameOfTwo, Pair::OtherOfTwo];
/// Of each kind, at the same time.
const AT_ONCE: usize = 12;
const WAVES: usize = 21;

#[test]
fn two_at_the_same_time_under_one_tag_a_thousand_times() {
    // In flight are as many as may be: one that is stuck would keep another out for ever.
    let (of_de, of_fr) = (AT_ONCE * 6, AT_ONCE * 2);
    let config = GatewayConfig {
        decision_wait_ms: 15_000,
        max_concurrent_uploads: of_de + of_fr,
        max_concurrent_uploads_per_member: of_de,
        uploads_per_minute_per_member: 60_000,
        ..GatewayConfig::default()
    };
    let hub = Hub::start(world(&["DE", "FR", "NL"])).unwrap();
    let front = Front::with(hub, Door::Proxy, config).unwrap();
    let mut rng = Rng::new(1);
    let mut key = |origin: &str| key(&mut rng, origin, &[], SystemClock.now());
    let (mut de, mut fr) = (Vec::new(), Vec::new());
    for wave in 0..WAVES {
        let pairs: Vec<_> = (0..AT_ONCE)
            .flat_map(|n| PAIRS.map(|pair| (pair, format!("{wave}/{n}/{pair:?}"))))
            .map(|(pair, tag)| {
                let first = key("DE");
                let second = match pair {
                    Pair::Same => first.clone(),
                    Pair::Other => key("DE"),
                    Pair::SameOfTwo => DiagnosisKey { origin: "FR".into(), ..first.clone() },
                    Pair::OtherOfTwo => key("FR"),
                };
                (pair, tag, [first, second])
            })
            .collect();
        let uploads: Vec<_> = pairs
            .iter()
            .flat_map(|(_, tag, keys)| keys.iter().map(move |key| (tag, key)))
            .map(|(tag, key)| front.hub.world.upload(&key.origin, tag, std::slice::from_ref(key)).unwrap())
            .collect();
        let answers = front.post_at_once(&uploads).unwrap();
        for ((pair, tag, keys), answers) in pairs.into_iter().zip(answers.chunks(2)) {
            let taken = answers.iter().position(|a| a.status == 201).expect("one that is taken");
            check(&tag, &tag, &answers[taken], Created);
            let other = if matches!(pair, Pair::Other) { Conflict } else { Created };
            check(&tag, &tag, &answers[1 - taken], other);
            let [first, second] = keys;
            match pair {
                Pair::Same => de.push(first),
                Pair::Other => de.push(if taken == 0 { first } else { second }),
                Pair::SameOfTwo | Pair::OtherOfTwo => {
                    de.push(first);
                    fr.push(second);
                }
            }
        }
    }
    // Everything is decided, once, and the next ones are too.
    for (origin, n) in [("DE", of_de * WAVES), ("FR", of_fr * WAVES)] {
        assert_eq!(front.hub.ledger(origin).unwrap().len(), n, "{origin}");
        assert_eq!(front.hub.committed(origin).unwrap(), Some(n as i64), "{origin}");
    }
    de.push(key("DE"));
    fr.push(key("FR"));
    assert_eq!(front.send("DE", "last", &de[de.len() - 1..]).unwrap().status, 201);
    assert_eq!(front.send("FR", "last", &fr[fr.len() - 1..]).unwrap().status, 201);
    under_other_tags(&front, &mut de);
    front.delivered_exactly("FR", &de.iter().collect::<Vec<_>>()).unwrap();
    front.delivered_exactly("DE", &fr.iter().collect::<Vec<_>>()).unwrap();
    front.delivered_exactly("NL", &de.iter().chain(&fr).collect::<Vec<_>>()).unwrap();
}

/// More than two at a time, and one content under two tags.
fn under_other_tags(front: &Front, taken: &mut Vec<DiagnosisKey>) {
    let keys = pool(3, "DE", 3);
    let upload = |tag: &str, keys: &[DiagnosisKey]| front.hub.world.upload("DE", tag, keys).unwrap();
    // Eight times, each signed anew: one answer.
    let answers = front.post_at_once(&[(); 8].map(|()| upload("eight", &keys[..2]))).unwrap();
    answers.iter().for_each(|answer| check("one of eight", "eight", answer, Created));
    // One tag takes the key, and each answer is true.
    let tags = ["left", "right"];
    let answers = front.post_at_once(&tags.map(|tag| upload(tag, &keys[2..]))).unwrap();
    let won = answers.iter().position(|a| a.status == 201).expect("a winner");
    check("the other tag", tags[1 - won], &answers[1 - won], Multi(&[], &[0]));
    taken.extend(keys);
}

#[test]
fn what_was_refused_may_come_again_under_its_tag() {
    let mut front = Front::start(world(&["DE", "FR", "NL"])).unwrap();
    let k = pool(1, "DE", 6);
    let now = SystemClock.now().timestamp();
    let hours = |n| now.saturating_add(jiff::SignedDuration::from_hours(n)).unwrap();
    let mut refused = Vec::new();
    let mut expect = |front: &Front, tag: &str, keys: &[DiagnosisKey], status: u16, code: &str| {
        let answer = front.send("DE", tag, keys).unwrap();
        assert_eq!((answer.status, answer.code()), (status, code), "{tag}");
        if status != 201 {
            refused.push(tag.to_owned());
        }
    };

    // A certificate that nobody knows, then one of which the date has not come, then one in force.
    let signing = Identity::new("DE", "Next year's signing", Algorithm::P256, now).unwrap();
    let old = std::mem::replace(
        &mut front.hub.world.nations.get_mut(&"DE".parse().unwrap()).unwrap().signing,
        signing.clone(),
    );
    expect(&front, "certificate", &k[..1], 400, "signing-certificate-unknown");
    let register = |world: &mut World, from, until| {
        let entry = world.register(&signing, Use::Signing, from, until).unwrap();
        let certificates = &mut world.member_mut("DE").unwrap().certificates;
        certificates.retain(|c| c.pem != entry.pem);
        certificates.push(entry);
    };
    front.publish(|world| register(world, hours(24), hours(48))).unwrap();
    expect(&front, "certificate", &k[..1], 400, "signing-certificate-not-in-force");
    front.publish(|world| register(world, hours(-1), hours(48))).unwrap();
    expect(&front, "certificate", &k[..1], 201, "");
    expect(&front, "certificate", &k[..1], 201, "");
    front.hub.world.nations.get_mut(&"DE".parse().unwrap()).unwrap().signing = old;
    expect(&front, "the-former-certificate-still-signs", &k[1..2], 201, "");

    // A body that its signature does not belong to, then one that it does.
    let broken = Upload {
        batch_signature: front.hub.world.upload("DE", "x", &k[..1]).unwrap().batch_signature,
        ..front.hub.world.upload("DE", "signature", &k[2..3]).unwrap()
    };
    assert_eq!(front.post(&broken).unwrap().code(), "signature-invalid");
    expect(&front, "signature", &k[2..3], 201, "");

    // Keys of which one is too old, then without that one.
    let old_key = DiagnosisKey {
        rolling_start_interval_number: k[3].rolling_start_interval_number - 20 * 144,
        ..k[3].clone()
    };
    expect(
        &front,
        "one-too-old",
        &[k[3].clone(), DiagnosisKey { key_data: k[5].key_data.clone(), ..old_key }],
        400,
        "invalid-keys",
    );
    expect(&front, "one-too-old", &k[3..4], 201, "");

    // A member that is paused: refused by the gateway, and by the pipeline if it writes past it.
    let state = |state| {
        move |world: &mut World| {
            world
                .member_mut("DE")
                .unwrap()
                .states
                .push(StateSince { state, from: SystemClock.now().timestamp() })
        }
    };
    front.publish(state(MemberState::Paused)).unwrap();
    expect(&front, "paused", &k[4..5], 403, "member-not-active");
    let before = front.hub.ledger("DE").unwrap().len();
    front.hub.send(&front.hub.world.upload("DE", "paused", &k[4..5]).unwrap()).unwrap();
    let ledger = front.hub.decided("DE", before + 1).unwrap();
    assert_eq!(ledger.last().unwrap().code.as_deref(), Some("member-not-active"));
    front.publish(state(MemberState::Active)).unwrap();
    expect(&front, "paused", &k[4..5], 201, "");

    assert_eq!(refused.len(), 4);
    for country in ["FR", "NL"] {
        front.delivered_exactly(country, &k[..5].iter().collect::<Vec<_>>()).unwrap();
    }
}
