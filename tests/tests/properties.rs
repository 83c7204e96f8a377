//! For any sequence of uploads: what each country receives is what the model says, chains have no gap, replaying the
//! log gives the same bytes, and so does going on from a restored state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use ed25519_dalek::SigningKey;
use keyferry_processors::{
    fingerprint::{Secret, Secrets},
    pipeline::{Source, Step, Tools, step},
    sign::Signer,
    state::OriginState,
};
use keyferry_schemas::{
    avro::Record,
    batch::{Level, bit},
    chain::{Chains, VerifiedBatch},
    country::Country,
    efgs::DiagnosisKey,
    network::{DataClassName, InvalidKeys, Network, OriginProof, ReportTypeName, Routing},
    records::{Outcome, Upload},
    time::{Interval, Millis},
    world::{HUB_KEY, Rng, World, key},
};
use keyferry_tests::model::{Answer, Model, Receiver};
use proptest::prelude::*;

const NOW: Millis = Millis(1_790_000_000_000);
const COUNTRIES: [&str; 6] = ["DE", "ES", "FR", "IT", "NL", "PL"];

/// Made once: key pairs are slow to make.
static WORLD: LazyLock<World> = LazyLock::new(|| World::new(&COUNTRIES, NOW.timestamp()).unwrap());
static POOL: LazyLock<Vec<DiagnosisKey>> = LazyLock::new(|| {
    let mut rng = Rng::new(7);
    (0..12usize)
        .map(|i| DiagnosisKey {
            report_type: [2, 1, 3][i % 3],
            ..key(&mut rng, "DE", [&["FR"][..], &["FR", "NL"], &["NL", "XX"], &[]][i % 4], NOW)
        })
        .collect()
});

#[derive(Debug, Clone)]
struct Sent {
    tag: u8,
    /// Index in the pool, report type instead of its own, a change of another field, too old.
    keys: Vec<(usize, Option<i32>, bool, bool)>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let one = (
        0usize..12,
        proptest::option::weighted(0.3, 1i32..6),
        prop::bool::weighted(0.08),
        prop::bool::weighted(0.05),
    );
    (0u8..5, prop::collection::vec(one, 1..6)).prop_map(|(tag, keys)| Sent { tag, keys })
}

fn keys_of(sent: &Sent) -> Vec<DiagnosisKey> {
    let make = |(index, report_type, changed, old): &(usize, Option<i32>, bool, bool)| {
        let mut key = POOL[*index].clone();
        key.report_type = report_type.unwrap_or(key.report_type);
        key.transmission_risk_level ^= i32::from(*changed && key.transmission_risk_level < 8);
        if *old {
            key.rolling_start_interval_number -= 20 * 144;
        }
        key
    };
    sent.keys.iter().map(make).collect()
}

fn network(invalid: InvalidKeys) -> (Arc<Network>, BTreeMap<String, Receiver>) {
    let types = |all: &[ReportTypeName]| all.iter().map(|t| *t as i32).collect::<BTreeSet<_>>();
    let all = types(&keyferry_schemas::world::ALL_REPORT_TYPES);
    let mut document = WORLD.document.clone();
    let countries = |codes: &[&str]| codes.iter().map(|c| c.parse::<Country>().unwrap()).collect::<Vec<_>>();
    // Everyone but Poland; Spain gets confirmed tests and revocations only; Italy these and clinical diagnoses, by two
    // agreements that share the revocations.
    document.agreements[0].parties = countries(&["DE", "FR", "NL"]);
    let mut tests_only = document.agreements[0].clone();
    tests_only.id = 2;
    tests_only.parties = countries(&["DE", "ES", "IT"]);
    tests_only.report_types = vec![ReportTypeName::ConfirmedTest, ReportTypeName::Revoked];
    let covered = types(&tests_only.report_types);
    let mut clinical = tests_only.clone();
    (clinical.id, clinical.data_class) = (3, DataClassName::Pseudonymous);
    clinical.parties = countries(&["DE", "IT"]);
    clinical.report_types = vec![ReportTypeName::Revoked, ReportTypeName::ConfirmedClinicalDiagnosis];
    let more = types(&clinical.report_types);
    document.agreements.extend([clinical, tests_only]);
    let receiver = |visited_only, accepts_parts, agreements: &[&BTreeSet<i32>]| Receiver {
        visited_only,
        accepts_parts,
        agreements: agreements.iter().copied().cloned().collect(),
    };
    let receivers: BTreeMap<String, Receiver> = [
        ("FR", receiver(false, false, &[&all])),
        ("IT", receiver(false, true, &[&covered, &more])),
        ("NL", receiver(true, true, &[&all])),
        ("ES", receiver(false, true, &[&covered])),
        ("PL", receiver(false, true, &[])),
    ]
    .into_iter()
    .map(|(c, r)| (c.to_owned(), r))
    .collect();
    for member in &mut document.members {
        member.invalid_keys = invalid;
        if let Some(receiver) = receivers.get(member.country.as_str()) {
            member.routing = if receiver.visited_only { Routing::Visited } else { Routing::OneWorld };
            member.origin_proof =
                if receiver.accepts_parts { OriginProof::Hub } else { OriginProof::Required };
        }
    }
    let text = serde_saphyr::to_string(&document).unwrap();
    (Arc::new(Network::read(&text.into_bytes().into(), &WORLD.anchors()).unwrap()), receivers)
}

fn tools() -> Tools {
    Tools {
        secrets: Secrets { current: Secret::new("s1", &[7; 32]), previous: None },
        signers: vec![Signer::new(HUB_KEY.into(), SigningKey::from_bytes(&WORLD.hub_key.to_bytes()))],
        writer: "p-0".into(),
    }
}

fn run(state: &mut OriginState, offset: usize, upload: &Upload, network: &Network, commit: bool) -> Step {
    let source =
        Source { offset: offset as i64, timestamp: NOW.plus(offset as i64), upload: Ok(upload.clone()) };
    let step = step(state, source, network, &tools()).unwrap();
    if commit {
        state.commit()
    } else {
        state.abort()
    }
    step
}

fn bytes(step: &Step) -> Vec<Vec<u8>> {
    let batches = step.batches.iter().map(|(_, b)| b.to_avro());
    std::iter::once(step.entry_bytes.clone()).chain(batches).collect()
}

fn check(history: &[Sent], invalid: InvalidKeys, restart_at: usize) {
    let (network, receivers) = network(invalid);
    let mut model = Model::new(receivers, invalid == InvalidKeys::RejectUpload);
    let de: Country = "DE".parse().unwrap();
    let mut state = OriginState::new(de, 0);
    let mut steps = Vec::new();
    let uploads: Vec<Upload> =
        history.iter().map(|s| WORLD.upload("DE", &format!("tag-{}", s.tag), &keys_of(s)).unwrap()).collect();

    for (offset, (sent, upload)) in history.iter().zip(&uploads).enumerate() {
        if offset == restart_at {
            let entries: Vec<_> = steps.iter().map(|s: &Step| s.entry.clone()).collect();
            let head = state.head();
            state =
                OriginState::restore(de, entries, (offset > 0).then_some(&head), &tools().secrets).unwrap();
        }
        // An aborted attempt leaves nothing: the second one gives the same bytes.
        let aborted = bytes(&run(&mut state, offset, upload, &network, false));
        let step = run(&mut state, offset, upload, &network, true);
        assert!(bytes(&step) == aborted);
        let keys = keys_of(sent);
        let old = |key: &DiagnosisKey| !Interval(key.rolling_start_interval_number).uploadable_at(NOW);
        let answer = match step.entry.outcome {
            Outcome::Rejected => Answer::Refused,
            Outcome::Repeated => Answer::Repeated,
            _ => Answer::Taken(step.entry.verdicts.iter().map(|v| v.index as usize).collect()),
        };
        assert_eq!(answer, model.upload(&upload.batch_tag, &keys, old), "upload {offset}: {:?}", step.entry);
        steps.push(step);
    }

    let mut again = OriginState::new(de, 0);
    for (offset, upload) in uploads.iter().enumerate() {
        assert!(
            bytes(&run(&mut again, offset, upload, &network, true)) == bytes(&steps[offset]),
            "replay of {offset}"
        );
    }

    for (country, expected) in &model.delivered {
        let destination: Country = country.parse().unwrap();
        let mut chains = Chains::new(destination);
        let mut delivered = Vec::new();
        for (_, batch) in steps.iter().flat_map(|s| &s.batches).filter(|(d, _)| *d == destination) {
            let verified = VerifiedBatch::verify(batch, network.as_ref()).unwrap();
            chains.append(&verified).unwrap();
            let new = verified.keys().into_iter().enumerate().filter(|(i, _)| bit(&batch.new, *i));
            delivered.push(new.map(|(_, k)| k.key_data.to_vec()).collect::<BTreeSet<_>>());
            if country == "FR" {
                assert_eq!(verified.manifest().level, Level::Whole);
            }
        }
        assert!(
            &delivered == expected,
            "{country}: {} batches instead of {}",
            delivered.len(),
            expected.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_country_receives_what_the_model_says(
        history in prop::collection::vec(sent(), 1..10),
        alone: bool,
        restart_at in 0usize..10,
    ) {
        check(&history, if alone { InvalidKeys::RejectKey } else { InvalidKeys::RejectUpload }, restart_at);
    }
}
