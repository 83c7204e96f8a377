//! What was found out about a record ahead of its turn never changes what is decided about it.
//!
//! Operations: uploads that are prepared under one version of the network document and decided under another, or twice.
//! Not here: threads and their order (`transaction/prepare.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_processors::{
    pipeline::{Source, Step, Tools, decide, prepare, step},
    state::OriginState,
};
use keyferry_schemas::{
    avro::Record,
    country::Country,
    efgs::DiagnosisKey,
    network::{InvalidKeys, Network, OnsetPolicy},
    records::Upload,
    time::{MILLIS_PER_DAY, Millis},
    world::{Rng, World, key},
};
use keyferry_tests::processor::tools;

const NOW: Millis = Millis(20_000 * MILLIS_PER_DAY - 10_000);

type Change<'a> = &'a dyn Fn(&mut World);

fn de() -> Country {
    "DE".parse().unwrap()
}

fn source(upload: &Upload, timestamp: Millis) -> Source {
    Source { offset: 0, timestamp, upload: Ok(upload.clone()) }
}

fn bytes(step: &Step) -> Vec<Vec<u8>> {
    let batches = step.batches.iter().map(|(_, b)| b.to_avro());
    std::iter::once(step.entry_bytes.clone()).chain(batches).collect()
}

/// What is decided under `network` at `now` by all three ways, which must not differ.
fn decided(upload: &Upload, before: &Network, network: &Network, tools: &Tools, now: Millis) -> Step {
    let blank = || OriginState::new(de(), 0);
    let at_once = step(&mut blank(), source(upload, now), network, tools).unwrap();
    let prepared = prepare(source(upload, now), de(), before, tools);
    let mut state = blank();
    let ahead = decide(&mut state, &prepared, network, tools).unwrap();
    state.abort();
    let again = decide(&mut state, &prepared, network, tools).unwrap();
    assert!(bytes(&ahead) == bytes(&at_once) && bytes(&again) == bytes(&at_once));
    at_once
}

#[test]
fn a_record_that_was_prepared_under_another_version_is_decided_under_the_one_in_force() {
    let mut world = World::new(&["DE", "FR"], NOW.timestamp()).unwrap();
    let tools = tools("p-0", &world.hub_key.to_bytes());
    let odd =
        DiagnosisKey { days_since_onset_of_symptoms: 100_000, ..key(&mut Rng::new(1), "DE", &["ZZ"], NOW) };
    let keys = [key(&mut Rng::new(2), "DE", &["FR"], NOW), odd];
    let upload = world.upload("DE", "tag", &keys).unwrap();
    let first = world.network().unwrap();
    let code = |step: &Step| step.entry.code.clone().unwrap_or_default();
    assert_eq!(code(&decided(&upload, &first, &first, &tools, NOW)), "");

    let changes: [(Change<'_>, &str); 4] = [
        (&|w| w.member_mut("DE").unwrap().days_since_onset = OnsetPolicy::Reject, "invalid-keys"),
        (&|w| w.member_mut("DE").unwrap().max_keys_per_upload = 1, "too-many-keys"),
        (&|w| w.member_mut("DE").unwrap().certificates.clear(), "client-certificate-unknown"),
        (&|w| assert!(w.document.aliases.insert("ZZ".parse().unwrap(), "FR".parse().unwrap()).is_none()), ""),
    ];
    for (change, expected) in changes {
        world.document = (*first).document().clone();
        world.document.version = first.version() + 1;
        change(&mut world);
        let second = world.network().unwrap();
        assert_eq!(code(&decided(&upload, &first, &second, &tools, NOW)), expected);
        assert_eq!(code(&decided(&upload, &second, &first, &tools, NOW)), "");
    }
}

#[test]
fn a_key_that_stands_twice_and_is_bad_once_is_judged_by_the_time_of_its_turn() {
    let mut world = World::new(&["DE", "FR"], NOW.timestamp()).unwrap();
    world.member_mut("DE").unwrap().invalid_keys = InvalidKeys::RejectKey;
    let tools = tools("p-0", &world.hub_key.to_bytes());
    let network = world.network().unwrap();
    let young = key(&mut Rng::new(1), "DE", &["FR"], NOW);
    let start = young.rolling_start_interval_number / 144 * 144;
    // The first of the two can be uploaded today for the last time.
    let old = DiagnosisKey { rolling_start_interval_number: start, ..young.clone() };
    let last = Millis(i64::from(start) * 600_000 + 16 * MILLIS_PER_DAY - 1);
    let young = DiagnosisKey { rolling_start_interval_number: start + 144, ..young };
    let upload = world.upload("DE", "tag", &[old, young]).unwrap();
    let verdicts = |now| {
        let step = decided(&upload, &network, &network, &tools, now);
        step.entry.verdicts.iter().map(|v| (v.index, v.code.clone())).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(last), [(1, "key-conflict".to_owned())]);
    assert_eq!(verdicts(last.plus(1)), [(0, "key-too-old".to_owned())]);
}
