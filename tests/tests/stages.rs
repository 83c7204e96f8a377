//! The rules of the stages, one by one, without Kafka: what is refused and by which code, and what is remembered.
//!
//! Operations: uploads of one origin, decided at chosen times under chosen versions of the network document.
//! Not here: sequences of uploads (`properties.rs`), routing and agreements (`policies.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, process::Command, sync::Arc};

use ed25519_dalek::SigningKey;
use keyferry_processors::{
    fingerprint::{Secret, Secrets},
    pipeline::{Source, Step, Tools, step},
    sign::Signer,
    state::{LedgerBreak, OriginState},
};
use keyferry_schemas::{
    canonical::Canonical,
    country::Country,
    efgs::{DiagnosisKey, RISK_LEVEL_UNSET},
    network::{InvalidKeys, MemberState, Network, OnsetPolicy, OriginProof, Routing},
    records::{LedgerEntry, Outcome, Upload},
    rejection::Rejection,
    time::{INTERVALS_PER_DAY, Interval, MILLIS_PER_DAY, Millis},
    world::{Algorithm, HUB_KEY, Identity, Rng, World, key},
};

/// Ten seconds before midnight UTC.
const LATE: Millis = Millis(20_000 * MILLIS_PER_DAY - 10_000);

fn de() -> Country {
    "DE".parse().unwrap()
}

fn world() -> World {
    World::new(&["DE", "FR", "NL"], LATE.timestamp()).unwrap()
}

fn secrets(current: &str, previous: Option<&str>) -> Secrets {
    let secret = |name: &str| Secret::new(name, &[name.len() as u8; 32]);
    Secrets { current: secret(current), previous: previous.map(secret) }
}

/// One origin's stream, and what decides about it.
struct Bench {
    world: World,
    network: Arc<Network>,
    tools: Tools,
    state: OriginState,
    offset: i64,
    now: Millis,
    entries: Vec<LedgerEntry>,
}

impl Bench {
    fn new(world: World) -> Self {
        let tools = Tools {
            secrets: secrets("s", None),
            signers: vec![Signer::new(HUB_KEY.into(), SigningKey::from_bytes(&world.hub_key.to_bytes()))],
            writer: "p-0".into(),
        };
        let network = world.network().unwrap();
        Self {
            network,
            tools,
            world,
            state: OriginState::new(de(), 0),
            offset: 0,
            now: LATE,
            entries: Vec::new(),
        }
    }

    fn decide(&mut self, upload: Result<Upload, String>) -> Step {
        let source = Source { offset: self.offset, timestamp: self.now, upload };
        let step = step(&mut self.state, source, &self.network, &self.tools).unwrap();
        self.state.commit();
        self.offset += 1;
        self.entries.push(step.entry.clone());
        step
    }

    fn send(&mut self, tag: &str, keys: &[DiagnosisKey]) -> LedgerEntry {
        let upload = self.world.upload("DE", tag, keys).unwrap();
        self.decide(Ok(upload)).entry
    }

    fn key(&self, seed: u64) -> DiagnosisKey {
        key(&mut Rng::new(seed), "DE", &["FR"], self.now)
    }
}

fn codes(entry: &LedgerEntry) -> BTreeSet<&str> {
    let verdicts = entry.verdicts.iter().map(|v| v.code.as_str());
    entry
        .code
        .as_deref()
        .into_iter()
        .chain(verdicts)
        .chain(entry.withheld.iter().map(|w| w.reason.as_str()))
        .collect()
}

#[test]
fn each_field_of_a_key_is_taken_up_to_its_bounds_and_refused_beyond() {
    let bench = Bench::new(world());
    let good = bench.key(1);
    let (first, last) = (Interval::at(LATE.midnight()).0 - 15 * INTERVALS_PER_DAY, Interval::at(LATE).0 + 1);
    let start = |n: u32| DiagnosisKey { rolling_start_interval_number: n, ..good.clone() };
    let period = |n: u32| DiagnosisKey { rolling_period: n, ..good.clone() };
    let risk = |n: i32| DiagnosisKey { transmission_risk_level: n, ..good.clone() };
    let report = |n: i32| DiagnosisKey { report_type: n, ..good.clone() };
    let data = |n: usize| DiagnosisKey { key_data: vec![7; n].into(), ..good.clone() };
    let visited =
        |codes: &[&str]| DiagnosisKey { visited_countries: codes.iter().copied().collect(), ..good.clone() };
    let taken = [
        start(first),
        start(last),
        period(1),
        period(144),
        risk(0),
        risk(8),
        risk(RISK_LEVEL_UNSET),
        report(0),
        report(5),
        visited(&[]),
        visited(&["XX"]),
        data(16),
    ];
    let refused = [
        (start(first - 1), Rejection::KeyTooOld),
        (start(0), Rejection::KeyTooOld),
        (start(last + 1), Rejection::KeyInFuture),
        (start(u32::MAX), Rejection::KeyInFuture),
        (period(0), Rejection::RollingPeriod),
        (period(145), Rejection::RollingPeriod),
        (period(u32::MAX), Rejection::RollingPeriod),
        (risk(-1), Rejection::RiskLevel),
        (risk(9), Rejection::RiskLevel),
        (risk(RISK_LEVEL_UNSET - 1), Rejection::RiskLevel),
        (risk(i32::MIN), Rejection::RiskLevel),
        (report(-1), Rejection::ReportType),
        (report(6), Rejection::ReportType),
        (data(15), Rejection::KeyDataLength),
        (data(17), Rejection::KeyDataLength),
        (data(0), Rejection::KeyDataLength),
        (visited(&["de"]), Rejection::CountryMalformed),
        (visited(&["DE,FR"]), Rejection::CountryMalformed),
        (visited(&["FR", ""]), Rejection::CountryMalformed),
        (visited(&["D\u{c9}"]), Rejection::CountryMalformed),
    ];
    for policy in [InvalidKeys::RejectUpload, InvalidKeys::RejectKey] {
        for key in &taken {
            let mut bench = Bench::new(world_with(policy));
            let entry = bench.send("tag", &[bench.key(2), key.clone()]);
            assert_eq!((entry.outcome, entry.keys_accepted), (Outcome::Accepted, 2), "{key:?}: {entry:?}");
        }
        for (key, reason) in &refused {
            let mut bench = Bench::new(world_with(policy));
            let entry = bench.send("tag", &[bench.key(2), key.clone()]);
            let (outcome, taken) = match policy {
                InvalidKeys::RejectUpload => (Outcome::Rejected, 0),
                InvalidKeys::RejectKey => (Outcome::Partial, 1),
            };
            assert_eq!((entry.outcome, entry.keys_accepted), (outcome, taken), "{reason}: {entry:?}");
            let verdicts: Vec<_> = entry.verdicts.iter().map(|v| (v.index, v.code.as_str())).collect();
            assert_eq!(verdicts, [(1, reason.code())]);
        }
    }
}

fn world_with(policy: InvalidKeys) -> World {
    let mut world = world();
    world.member_mut("DE").unwrap().invalid_keys = policy;
    world
}

#[test]
fn a_repeat_is_answered_as_the_first_time_though_its_keys_have_grown_too_old() {
    let mut bench = Bench::new(world());
    let oldest = Interval::at(LATE.midnight()).0 - 15 * INTERVALS_PER_DAY;
    let keys = [DiagnosisKey { rolling_start_interval_number: oldest, ..bench.key(1) }, bench.key(2)];
    assert_eq!(bench.send("tag", &keys).outcome, Outcome::Accepted);
    bench.now = LATE.plus(20_000);
    let again = bench.send("tag", &keys);
    assert_eq!((again.outcome, again.first_offset), (Outcome::Repeated, Some(0)), "{again:?}");
    assert!(again.verdicts.is_empty() && again.deliveries.is_empty());
    // Under another tag it is another upload, and judged by today's rules.
    assert_eq!(codes(&bench.send("other", &keys)), BTreeSet::from(["invalid-keys", "key-too-old"]));
}

#[test]
fn while_the_secret_rotates_keys_are_known_under_both() {
    let mut bench = Bench::new(world());
    let keys = [bench.key(1), bench.key(2)];
    bench.send("first", &keys[..1]);
    bench.tools.secrets = secrets("newer", Some("s"));
    let second = bench.send("second", &keys);
    assert_eq!((second.keys_accepted, second.verdicts[0].code.as_str()), (1, "duplicate"));
    assert_eq!(second.fingerprint_key, "newer");

    let head = bench.state.head();
    let restore = |secrets: &Secrets| OriginState::restore(de(), bench.entries.clone(), Some(&head), secrets);
    assert!(restore(&bench.tools.secrets).is_ok());
    // Keys that can not be known again would be taken, and delivered, once more.
    let broken = restore(&secrets("newer", None)).err();
    assert_eq!(broken, Some(LedgerBreak::Secret("s".into())));
    let broken = restore(&secrets("s", None)).err();
    assert_eq!(broken, Some(LedgerBreak::Secret("newer".into())));
}

#[test]
fn a_secret_of_which_no_key_counts_any_more_may_be_forgotten() {
    let mut bench = Bench::new(world());
    let old = bench.key(1);
    bench.send("first", &[old]);
    bench.tools.secrets = secrets("newer", Some("s"));
    bench.now = LATE.plus(17 * MILLIS_PER_DAY);
    let new = bench.key(2);
    bench.send("second", &[new]);
    let head = bench.state.head();
    assert!(OriginState::restore(de(), bench.entries, Some(&head), &secrets("newer", None)).is_ok());
}

#[test]
fn an_upload_that_is_refused_leaves_only_a_little_of_what_its_sender_wrote() {
    let mut bench = Bench::new(world());
    let upload = bench.world.upload("DE", &"x".repeat(1 << 20), &[bench.key(1)]).unwrap();
    let entry = bench.decide(Ok(upload)).entry;
    assert_eq!((entry.code.as_deref(), &entry.batch_tag), (Some("batch-tag-malformed"), &None));
    let entry = bench.decide(Err("y".repeat(1 << 20))).entry;
    assert!(entry.detail.unwrap().len() < 1000);
}

/// The `openssl` command over the canonical bytes of `keys`.
fn cms(keys: &[DiagnosisKey], arguments: &[&str], signers: &[&Identity]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| folder.path().join(name);
    std::fs::write(at("canonical".into()), Canonical::of(keys).bytes()).unwrap();
    let mut command = Command::new("openssl");
    command.args(["cms", "-sign", "-binary", "-outform", "DER", "-in"]).arg(at("canonical".into()));
    command.args(arguments);
    for (i, signer) in signers.iter().enumerate() {
        std::fs::write(at(format!("{i}.pem")), signer.certificate_pem().unwrap()).unwrap();
        std::fs::write(at(format!("{i}.key")), signer.key_pem().unwrap()).unwrap();
        command.arg("-signer").arg(at(format!("{i}.pem"))).arg("-inkey").arg(at(format!("{i}.key")));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The closed list of reasons is a promise to whoever reads a code: none of them stands there for nothing.
#[test]
fn every_reason_there_is_is_given() {
    let mut world = world();
    let stranger = Identity::new("DE", "Stranger", Algorithm::P256, LATE.timestamp()).unwrap();
    let retired = Identity::new("DE", "Retired", Algorithm::P256, LATE.timestamp()).unwrap();
    let (long_ago, lately) = (LATE.plus(-90 * MILLIS_PER_DAY), LATE.plus(-MILLIS_PER_DAY));
    for usage in [keyferry_schemas::network::Use::Signing, keyferry_schemas::network::Use::Authentication] {
        let entry = world.register(&retired, usage, long_ago.timestamp(), lately.timestamp()).unwrap();
        world.member_mut("DE").unwrap().certificates.push(entry);
    }
    world.member_mut("DE").unwrap().days_since_onset = OnsetPolicy::Reject;
    world.member_mut("DE").unwrap().max_keys_per_upload = 3;
    // France accepts what is proven only, the Netherlands what names them; and one report type flows nowhere.
    world.member_mut("NL").unwrap().routing = Routing::Visited;
    world.member_mut("NL").unwrap().origin_proof = OriginProof::Hub;
    world.document.agreements[0].report_types.retain(|t| *t as i32 != 3);
    let mut bench = Bench::new(world);
    let keys = vec![bench.key(1), bench.key(2)];
    let mut given = BTreeSet::new();
    let mut note = |entry: &LedgerEntry| given.extend(codes(entry).into_iter().map(str::to_owned));

    note(&bench.decide(Err("no upload".into())).entry);
    let good = bench.world.upload("DE", "tag", &keys).unwrap();
    let trailing = [good.batch_signature.as_ref(), &[0]].concat();
    let signing = &bench.world.nation("DE").unwrap().signing;
    let signed = |arguments: &[&str], signers: &[&Identity]| cms(&keys, arguments, signers);
    let signatures = [
        trailing,
        b"nothing".to_vec(),
        signed(&["-md", "sha256"], &[signing, &retired]),
        signed(&["-md", "sha256", "-nodetach"], &[signing]),
        signed(&["-md", "sha1"], &[signing]),
        signed(&["-md", "sha256"], &[&stranger]),
        signed(&["-md", "sha256"], &[&bench.world.nation("FR").unwrap().signing]),
        signed(&["-md", "sha256"], &[&retired]),
        bench.world.upload("DE", "other", &keys[..1]).unwrap().batch_signature.to_vec(),
    ];
    let mut uploads: Vec<_> =
        signatures.into_iter().map(|s| Upload { batch_signature: s.into(), ..good.clone() }).collect();
    uploads.extend([
        Upload { origin: "FR".parse().unwrap(), ..good.clone() },
        Upload { batch_tag: String::new(), ..good.clone() },
        Upload { content_type: "text/plain".into(), ..good.clone() },
        Upload { payload: vec![0xff; 9].into(), ..good.clone() },
        Upload { payload: Vec::new().into(), ..good.clone() },
        Upload { client_certificate: [9; 32], ..good.clone() },
        Upload { client_certificate: retired.certificate.sha256(), ..good.clone() },
        bench.world.upload("DE", "many", &[keys.clone(), keys.clone()].concat()).unwrap(),
        bench.world.upload("DE", "own", &[DiagnosisKey { origin: "FR".into(), ..keys[0].clone() }]).unwrap(),
    ]);
    for upload in uploads {
        note(&bench.decide(Ok(upload)).entry);
    }
    note(&bench.send("tag", &keys[..1]));
    note(&bench.send("tag", &keys[1..]));
    note(&bench.send("again", &keys));
    note(&bench.send("conflict", &[DiagnosisKey { rolling_period: 7, ..keys[0].clone() }]));
    // The member leaves bad keys out, so what is left can not be proven.
    bench.world.member_mut("DE").unwrap().invalid_keys = InvalidKeys::RejectKey;
    bench.network = bench.world.network().unwrap();
    note(&bench.send("nowhere", &[DiagnosisKey { report_type: 3, ..bench.key(3) }]));
    let bad = |change: &dyn Fn(&mut DiagnosisKey), bench: &Bench| {
        let mut key = bench.key(4);
        change(&mut key);
        [bench.key(5), key]
    };
    let changes: [&dyn Fn(&mut DiagnosisKey); 8] = [
        &|k| k.key_data = vec![1; 3].into(),
        &|k| k.rolling_start_interval_number = 0,
        &|k| k.rolling_start_interval_number = u32::MAX,
        &|k| k.rolling_period = 0,
        &|k| k.transmission_risk_level = 9,
        &|k| k.report_type = 6,
        &|k| k.visited_countries = ["x"].into(),
        &|k| k.days_since_onset_of_symptoms = 100_000,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let keys = bad(change, &bench);
        note(&bench.send(&format!("bad-{i}"), &keys));
    }
    bench.world.member_mut("DE").unwrap().invalid_keys = InvalidKeys::RejectUpload;
    bench.network = bench.world.network().unwrap();
    let invalid = bad(changes[0], &bench);
    note(&bench.send("invalid", &invalid));
    bench.world.member_mut("DE").unwrap().states[0].state = MemberState::Paused;
    bench.network = bench.world.network().unwrap();
    note(&bench.send("paused", &keys));
    bench.world.document.members.retain(|m| m.country != de());
    bench.world.document.agreements[0].parties.retain(|c| *c != de());
    bench.network = bench.world.network().unwrap();
    note(&bench.send("stranger", &keys));

    let all: BTreeSet<_> = Rejection::ALL.iter().map(|r| r.code().to_owned()).collect();
    assert_eq!(given, all);
}
