//! The same again: what a backend may send twice, and what becomes of it. Through gateway, processor and topics.
//!
//! Operations: uploads over HTTP, one after another and at the same time, by one country and by two; changes of the
//! network document between them. Failures: answers that were lost (the client sends again), two backends of one
//! country that do not know of each other, a certificate or a membership that is not in force yet.
//! Not here: brokers and processors that die under an upload (see `exactly_once.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey, Encoding},
    network::{MemberState, StateSince, Use},
    records::{Outcome, Upload},
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::front::{Answer, Door, Front};

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

fn as_json(mut upload: Upload, keys: &[DiagnosisKey]) -> Upload {
    upload.content_type = Encoding::Json.content_type().into();
    upload.payload = efgs::encode_json(keys).into();
    upload
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
fn the_same_again_is_the_same_answer_and_nothing_more() {
    let front = Front::start(world(&["DE", "FR", "NL"])).unwrap();
    let p = pool(1, "DE", 20);
    let k = |indexes: &[usize]| indexes.iter().map(|i| p[*i].clone()).collect::<Vec<_>>();
    let cases = [
        ("new", "a", k(&[0, 1, 2]), false, Created),
        ("again, signed anew", "a", k(&[0, 1, 2]), false, Created),
        ("in another order", "a", k(&[2, 0, 1]), false, Created),
        ("as JSON", "a", k(&[1, 2, 0]), true, Created),
        ("other content", "a", k(&[3]), false, Conflict),
        ("a part of it, though all was taken", "a", k(&[0, 1]), false, Conflict),
        ("more than it", "a", k(&[0, 1, 2, 3]), false, Conflict),
        ("the conflicts bound and took nothing", "b", k(&[3]), true, Created),
        ("known from two uploads", "c", k(&[4, 1, 5, 3, 6]), false, Multi(&[0, 2, 4], &[1, 3])),
        ("that again", "c", k(&[4, 1, 5, 3, 6]), false, Multi(&[0, 2, 4], &[1, 3])),
        ("that in another order", "c", k(&[3, 6, 5, 4, 1]), false, Multi(&[1, 2, 3], &[0, 4])),
        ("that as JSON in a third", "c", k(&[6, 5, 4, 3, 1]), true, Multi(&[0, 1, 2], &[3, 4])),
        ("exactly what was taken", "c", k(&[4, 5, 6]), false, Created),
        ("exactly what was taken, reversed, as JSON", "c", k(&[6, 5, 4]), true, Created),
        ("less than what was taken", "c", k(&[4, 5]), false, Conflict),
        ("exactly what was refused", "c", k(&[1, 3]), false, Conflict),
        ("what was taken, under a tag of its own", "d", k(&[4, 5, 6]), false, Multi(&[], &[0, 1, 2])),
        ("that again", "d", k(&[6, 5, 4]), false, Multi(&[], &[0, 1, 2])),
        ("one key twice", "e", k(&[7, 8, 7]), false, Multi(&[0, 1], &[2])),
        ("that again", "e", k(&[7, 8, 7]), false, Multi(&[0, 1], &[2])),
        ("the keys of it once", "e", k(&[8, 7]), false, Created),
    ];
    for (what, tag, keys, json, expected) in cases {
        let upload = front.hub.world.upload("DE", tag, &keys).unwrap();
        let upload = if json { as_json(upload, &keys) } else { upload };
        check(what, tag, &front.post(&upload).unwrap(), expected);
    }
    // Not one byte differs: the answer to the answer that was lost.
    let upload = front.hub.world.upload("DE", "f/+==", &k(&[9, 0])).unwrap();
    let first = front.post(&upload).unwrap();
    check("to the byte", "f/+==", &first, Multi(&[0], &[1]));
    assert_eq!(front.post(&upload).unwrap(), first);

    let sent: Vec<_> = p[..10].iter().collect();
    for country in ["FR", "NL"] {
        front.delivered_exactly(country, &sent).unwrap();
    }
    front.delivered_exactly("DE", &[]).unwrap();
    let ledger = front.hub.ledger("DE").unwrap();
    let count = |outcome| ledger.iter().filter(|e| e.outcome == outcome).count();
    let (partial, repeated) = (count(Outcome::Partial), count(Outcome::Repeated));
    assert_eq!((count(Outcome::Accepted), partial, repeated, count(Outcome::Rejected)), (2, 4, 12, 5));

    revisions(&front, &p[10..], &sent);
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

#[test]
fn at_the_same_time() {
    const ROUNDS: usize = 12;
    let front = Front::start(world(&["DE", "FR", "NL"])).unwrap();
    let (de, fr) = (pool(1, "DE", ROUNDS * 6), pool(2, "FR", ROUNDS));
    let upload =
        |code: &str, tag: &str, keys: &[DiagnosisKey]| front.hub.world.upload(code, tag, keys).unwrap();
    let mut taken: Vec<&DiagnosisKey> = Vec::new();
    for (round, keys) in de.chunks(6).enumerate() {
        // One content under one tag, eight times, each signed anew: one answer.
        let tag = format!("same-{round}");
        let answers = front.post_at_once(&[(); 8].map(|()| upload("DE", &tag, &keys[..2]))).unwrap();
        assert!(answers.iter().all(|a| a.status == 201 && a.tag.as_deref() == Some(&tag)), "{answers:?}");
        taken.extend(&keys[..2]);

        // Two contents under one tag: one of them is told.
        let tag = format!("other-{round}");
        let answers =
            front.post_at_once(&[upload("DE", &tag, &keys[2..3]), upload("DE", &tag, &keys[3..4])]).unwrap();
        let won = answers.iter().position(|a| a.status == 201).expect("a winner");
        check("the other one", &tag, &answers[1 - won], Conflict);
        taken.push(&keys[2 + won]);

        // One content under two tags: one takes the keys, and each answer is true.
        let tags = [format!("left-{round}"), format!("right-{round}")];
        let answers = front.post_at_once(&[0, 1].map(|i| upload("DE", &tags[i], &keys[4..5]))).unwrap();
        let won = answers.iter().position(|a| a.status == 201).expect("a winner");
        check("the other tag", &tags[1 - won], &answers[1 - won], Multi(&[], &[0]));
        taken.push(&keys[4]);

        // One tag of two countries: no business of each other's.
        let tag = format!("two-{round}");
        let answers = front
            .post_at_once(&[upload("DE", &tag, &keys[5..]), upload("FR", &tag, &fr[round..=round])])
            .unwrap();
        assert!(answers.iter().all(|a| a.status == 201), "{answers:?}");
        taken.push(&keys[5]);
    }
    front.delivered_exactly("FR", &taken).unwrap();
    front.delivered_exactly("DE", &fr.iter().collect::<Vec<_>>()).unwrap();
    taken.extend(&fr);
    front.delivered_exactly("NL", &taken).unwrap();
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

#[test]
fn over_mutual_tls() {
    let front = Front::behind(Door::Tls, world(&["DE", "FR", "NL"])).unwrap();
    let k = pool(1, "DE", 3);
    check("new", "a", &front.send("DE", "a", &k[..2]).unwrap(), Created);
    check("again", "a", &front.send("DE", "a", &k[..2]).unwrap(), Created);
    check("more", "b", &front.send("DE", "b", &k[1..]).unwrap(), Multi(&[1], &[0]));
    // Who connects as FR is FR, whatever headers and signature say.
    let foreign = Upload { origin: "FR".parse().unwrap(), ..front.hub.world.upload("DE", "c", &k).unwrap() };
    let answer = front.post(&foreign).unwrap();
    assert_eq!((answer.status, answer.code()), (400, "key-origin-foreign"));
    for country in ["FR", "NL"] {
        front.delivered_exactly(country, &k.iter().collect::<Vec<_>>()).unwrap();
    }
    front.delivered_exactly("DE", &[]).unwrap();
}
