//! What can be wrong with a network document, and that all of it is said at once, each with its place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use keyferry_schemas::{
    batch::DataClass,
    efgs::DiagnosisKey,
    network::{
        Agreement, DataClassName, Document, Fault, MemberState, Network, ReportTypeName, Routing, StateSince,
        UntrustedNetwork, Use,
    },
    world::{Algorithm, Identity, Rng, World, key},
};

const NOW: Timestamp = Timestamp::constant(1_603_022_400, 0);

fn world() -> World {
    World::new(&["DE", "FR", "NL"], NOW).unwrap()
}

fn text(document: &Document) -> String {
    serde_saphyr::to_string(document).unwrap()
}

fn read(world: &World, text: String) -> Result<Network, UntrustedNetwork> {
    Network::read(&Bytes::from(text), &world.anchors())
}

fn faults(world: &World) -> Vec<Fault> {
    match read(world, text(&world.document)) {
        Ok(_) => Vec::new(),
        Err(UntrustedNetwork::Faults(faults)) => faults,
        Err(other) => panic!("{other}"),
    }
}

/// How to spoil a document; where the fault is; a part of what is said about it.
type Case = (fn(&mut Document), &'static str, &'static str);

const CASES: &[Case] = &[
    (|d| d.network.clear(), "network", "is empty"),
    (|d| d.version = 0, "version", "starts at 1"),
    (|d| d.version = -1, "version", "starts at 1"),
    (
        |d| d.signing_keys.push(d.signing_keys[0].clone()),
        "signing_keys[1].id",
        "stands for an earlier key already",
    ),
    (|d| d.signing_keys[0].id.clear(), "signing_keys[0].id", "is empty"),
    (|d| d.signing_keys[0].id = " ".into(), "signing_keys[0].id", "is empty"),
    (|d| d.signing_keys[0].until = d.signing_keys[0].from, "signing_keys[0].until", "is not after `from`"),
    (
        |d| d.signing_keys[0].public_key.clear(),
        "signing_keys[0].public_key",
        "is not an Ed25519 public key in base64",
    ),
    (|d| d.signing_keys[0].public_key = "AAAA".into(), "signing_keys[0].public_key", "(32 bytes)"),
    (|d| d.signing_keys[0].public_key = "*".repeat(44), "signing_keys[0].public_key", "keyferry keys public"),
    (|d| alias(d, "DE", "FR"), "aliases.DE", "is a member itself"),
    (
        |d| {
            alias(d, "EL", "GR");
            alias(d, "GX", "EL");
        },
        "aliases.GX",
        "leads to another alias",
    ),
    (|d| d.members.push(d.members[1].clone()), "members[3] (FR)", "is a member already"),
    (
        |d| {
            let from = d.members[0].states[0].from;
            d.members[0].states.push(StateSince { state: MemberState::Left, from });
        },
        "members[0] (DE).states",
        "are not in order of time",
    ),
    (
        |d| d.members[1].routing = Routing::Visited,
        "members[1] (FR).routing",
        "only `origin_proof: hub` accepts",
    ),
    (|d| d.members[2].max_keys_per_upload = 0, "members[2] (NL).max_keys_per_upload", "is not 1 to 5000"),
    (|d| d.members[2].max_keys_per_upload = 5001, "members[2] (NL).max_keys_per_upload", "is not 1 to 5000"),
    (
        |d| d.members[2].certificates[1].until = d.members[2].certificates[1].from,
        "members[2] (NL).certificates[1].until",
        "is not after `from`",
    ),
    (
        |d| d.members[0].certificates[0].pem.clear(),
        "members[0] (DE).certificates[0].pem",
        "not one certificate in PEM",
    ),
    (
        |d| d.members[0].certificates[0].pem = d.members[0].certificates[0].pem.repeat(2),
        "members[0] (DE).certificates[0].pem",
        "not one certificate in PEM",
    ),
    (
        |d| pasted(d, |pem| format!("{pem}{PRIVATE_KEY}")),
        "members[0] (DE).certificates[0].pem",
        "a private key stands there",
    ),
    (
        |d| pasted(d, |pem| format!("{PRIVATE_KEY}{pem}")),
        "members[0] (DE).certificates[0].pem",
        "a private key stands there",
    ),
    (
        |d| pasted(d, |pem| format!("subject=C=DE\n{pem}")),
        "members[0] (DE).certificates[0].pem",
        "only its lines from BEGIN to END",
    ),
    (
        |d| pasted(d, |pem| format!("{pem}my password is swordfish\n")),
        "members[0] (DE).certificates[0].pem",
        "only its lines from BEGIN to END",
    ),
    (
        |d| pasted(d, |pem| format!("{pem}swordfish\n-----END CERTIFICATE-----\n")),
        "members[0] (DE).certificates[0].pem",
        "only its lines from BEGIN to END",
    ),
    (
        |d| pasted(d, |pem| pem.replacen("-\n", "-\nComment: swordfish\n\n", 1)),
        "members[0] (DE).certificates[0].pem",
        "not one certificate in PEM",
    ),
    (
        |d| pasted(d, |pem| pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE")),
        "members[0] (DE).certificates[0].pem",
        "not one certificate in PEM",
    ),
    (
        |d| d.members[0].certificates[1].anchor_signature.clear(),
        "members[0] (DE).certificates[1].anchor_signature",
        "is not the trust anchor's signature over `pem`; run `keyferry network sign`",
    ),
    (
        // That of another certificate.
        |d| {
            let other = d.members[0].certificates[0].anchor_signature.clone();
            d.members[0].certificates[1].anchor_signature = other;
        },
        "members[0] (DE).certificates[1].anchor_signature",
        "is not the trust anchor's signature",
    ),
    (
        // The signature covers the text, and a line more is another text.
        |d| d.members[0].certificates[1].pem.push('\n'),
        "members[0] (DE).certificates[1].anchor_signature",
        "is not the trust anchor's signature",
    ),
    (
        |d| {
            let foreign = d.members[1].certificates[0].clone();
            d.members[0].certificates.push(foreign);
        },
        "members[0] (DE).certificates[2].pem",
        "the subject's C is not DE",
    ),
    (
        |d| d.agreements.push(d.agreements[0].clone()),
        "agreements[1].id",
        "stands for an earlier agreement already",
    ),
    (|d| d.agreements[0].parties.truncate(1), "agreements[0]", "names either two or more `parties`"),
    (|d| d.agreements[0].parties.clear(), "agreements[0]", "names either two or more `parties`"),
    (
        |d| d.agreements[0].origins = d.agreements[0].parties.clone(),
        "agreements[0]",
        "or `origins` and `destinations`",
    ),
    (
        |d| one_way(&mut d.agreements[0]).destinations.clear(),
        "agreements[0]",
        "or `origins` and `destinations`",
    ),
    (
        |d| d.agreements[0].parties.push("XK".parse().unwrap()),
        "agreements[0]",
        "names XK, which is no member",
    ),
    (|d| one_way(&mut d.agreements[0]).origins[0] = "XK".parse().unwrap(), "agreements[0]", "names XK"),
    (
        |d| {
            let again = d.agreements[0].parties[1];
            d.agreements[0].parties.push(again);
        },
        "agreements[0]",
        "names FR twice",
    ),
    (
        |d| {
            let to = &mut one_way(&mut d.agreements[0]).destinations;
            to.extend(to.clone());
        },
        "agreements[0]",
        "names DE twice",
    ),
    (|d| d.agreements[0].legal_basis = "\n".into(), "agreements[0].legal_basis", "is empty"),
    (|d| d.agreements[0].until = d.agreements[0].from, "agreements[0].until", "is not after `from`"),
    (|d| d.agreements[0].kinds.clear(), "agreements[0]", "covers nothing: name `kinds` and `report_types`"),
    (|d| d.agreements[0].report_types.clear(), "agreements[0]", "covers nothing"),
];

/// Changes the text of the first certificate.
fn pasted(document: &mut Document, change: impl Fn(&str) -> String) {
    let pem = &mut document.members[0].certificates[0].pem;
    *pem = change(pem);
}

/// Only the words matter: nothing reads it.
const PRIVATE_KEY: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";

fn alias(document: &mut Document, alias: &str, country: &str) {
    document.aliases.insert(alias.parse().unwrap(), country.parse().unwrap());
}

fn one_way(agreement: &mut Agreement) -> &mut Agreement {
    agreement.origins = agreement.parties.split_off(1);
    agreement.destinations = std::mem::take(&mut agreement.parties);
    agreement
}

#[test]
fn each_fault_has_its_place_and_its_words() {
    let mut world = world();
    assert_eq!(faults(&world), []);
    let sound = world.document.clone();
    for (spoil, path, what) in CASES {
        world.document = sound.clone();
        spoil(&mut world.document);
        let found = faults(&world);
        let [fault] = found.as_slice() else { panic!("{path}, {what}: {found:?}") };
        assert_eq!(fault.path, *path, "{what}");
        assert!(fault.what.contains(what), "{path}: {}", fault.what);
    }
}

#[test]
fn a_certificate_may_name_an_alias_of_its_country() {
    let mut world = World::new(&["DE", "GR"], NOW).unwrap();
    let el = Identity::new("EL", "Batch signing", Algorithm::P256, NOW).unwrap();
    let entry = world.register(&el, Use::Signing, NOW, NOW + SignedDuration::from_hours(1)).unwrap();
    world.document.members[1].certificates.push(entry);
    let found = faults(&world);
    assert_eq!(found.len(), 1, "EL stands for nobody yet: {found:?}");
    assert_eq!(found[0].path, "members[1] (GR).certificates[2].pem");
    alias(&mut world.document, "EL", "DE");
    assert_eq!(faults(&world).len(), 1, "for another");
    alias(&mut world.document, "EL", "GR");
    let network = world.network().unwrap();
    let registered = network.registered(&el.certificate.sha256(), Use::Signing).next().unwrap();
    assert_eq!(registered.country.as_str(), "GR", "the member, whatever the certificate calls it");
}

#[test]
fn agreements_of_one_pair_hold_together() {
    let mut world = world();
    let [de, nl] = ["DE", "NL"].map(|c| c.parse().unwrap());
    let later = NOW + SignedDuration::from_hours(1);
    let agreement = |id, report_type, data_class, document: &Document| Agreement {
        id,
        data_class,
        report_types: vec![report_type],
        ..document.agreements[0].clone()
    };
    use DataClassName::{Anonymous, Pseudonymous};
    use ReportTypeName::{ConfirmedClinicalDiagnosis, ConfirmedTest, Recursive, Revoked, SelfReport};
    let sound = world.document.clone();
    let mut one_way_back = agreement(1, Recursive, Anonymous, &sound);
    (one_way_back.origins, one_way_back.destinations) = (vec![de], vec![nl]);
    one_way_back.parties.clear();
    world.document.agreements = vec![
        agreement(9, ConfirmedTest, Anonymous, &sound),
        agreement(4, ConfirmedClinicalDiagnosis, Pseudonymous, &sound),
        Agreement { until: NOW, ..agreement(2, SelfReport, Anonymous, &sound) },
        Agreement { from: later, ..agreement(3, SelfReport, Anonymous, &sound) },
        agreement(5, Revoked, Anonymous, &sound),
        one_way_back,
    ];
    let network = world.network().unwrap();
    let keys: Vec<_> = (0..6)
        .map(|report_type| DiagnosisKey { report_type, ..key(&mut Rng::new(0), "NL", &[], NOW.into()) })
        .collect();
    let coverage = network.coverage(nl, de, NOW.into()).unwrap();
    let covered: Vec<_> = (0..6).filter(|t| coverage.covers(&keys[*t])).collect();
    assert_eq!(covered, [1, 2, 5]);
    let terms = |types: &[usize]| coverage.terms(types.iter().map(|t| &keys[*t]));
    assert_eq!(terms(&[1]), Some((9, DataClass::Anonymous)));
    assert_eq!(terms(&[1, 5]), Some((5, DataClass::Anonymous)), "the lowest number, wherever it stands");
    assert_eq!(terms(&[5, 2, 1]), Some((4, DataClass::Pseudonymous)));
    assert_eq!(terms(&[1, 2]), Some((4, DataClass::Pseudonymous)));
    assert_eq!(terms(&[1, 3]), Some((9, DataClass::Anonymous)), "what nobody covers says nothing");
    assert_eq!(terms(&[3, 4]), None);
    assert_eq!(terms(&[]), None);
    // Another way, another time.
    assert!(network.coverage(de, nl, NOW.into()).unwrap().covers(&keys[4]));
    assert!(network.coverage(nl, de, later.into()).unwrap().covers(&keys[3]));
    assert!(network.coverage(nl, "XK".parse().unwrap(), NOW.into()).is_none());
}

#[test]
fn several_faults_are_said_at_once() {
    let mut world = world();
    let document = &mut world.document;
    document.network.clear();
    document.signing_keys[0].public_key.clear();
    document.members[0].max_keys_per_upload = 0;
    document.members[1].certificates[0].pem.clear();
    document.members[2].certificates[1].anchor_signature.clear();
    document.agreements[0].kinds.clear();
    let paths: Vec<_> = faults(&world).into_iter().map(|f| f.path).collect();
    assert_eq!(
        paths,
        [
            "network",
            "members[0] (DE).max_keys_per_upload",
            "agreements[0]",
            "members[1] (FR).certificates[0].pem",
            "members[2] (NL).certificates[1].anchor_signature",
            "signing_keys[0].public_key",
        ]
    );
    let message = read(&world, text(&world.document)).err().unwrap().to_string();
    assert_eq!(message, "the network document is signed and has 6 fault(s), first: network: is empty");
}

#[test]
fn what_is_no_document_is_refused_with_its_line() {
    let world = world();
    let sound = text(&world.document);
    let line = |from: &str| 1 + sound.lines().position(|l| l.contains(from)).unwrap();
    let cases = [
        ("routing: one-world", "ruoting: one-world", "ruoting"),
        ("routing: one-world", "routing: everywhere", "everywhere"),
        ("legal_basis:", "basis:", "basis"),
        ("country: FR", "country: fr", "country code"),
        ("state: active", "state: on", "on"),
        ("max_keys_per_upload: 5000", "max_keys_per_upload: -1", ""),
        ("public_key:", "public_key: [", ""),
        ("version: 1", "version: 1\nversion: 2", "version"),
    ];
    for (from, to, word) in cases {
        let Err(UntrustedNetwork::Syntax(message)) = read(&world, sound.replacen(from, to, 1)) else {
            panic!("{to}");
        };
        // Of a key given twice, the second is the one at fault.
        let line = line(from) + to.matches('\n').count();
        assert!(message.contains(word), "{to}: {message}");
        assert!(message.contains(&format!("line {line}")), "{to}, line {line}: {message}");
    }
    for broken in [String::new(), "[]".into(), "\u{0}".into(), sound.replacen("agreements:", "other:", 1)] {
        assert!(matches!(read(&world, broken), Err(UntrustedNetwork::Syntax(_))));
    }
    let not_utf8 = Network::read(&Bytes::from_static(&[0xff, 0xfe]), &world.anchors());
    assert!(matches!(not_utf8, Err(UntrustedNetwork::Syntax(_))));
}

#[test]
fn a_certificate_that_tls_would_refuse_is_a_fault() {
    let mut world = world();
    let short = Identity::new("NL", "short", Algorithm::Rsa(2048), NOW).unwrap();
    let later = NOW + SignedDuration::from_hours(1);
    let mut entry = world.register(&short, Use::Signing, NOW, later).unwrap();
    assert_eq!(faults(&world), []);
    entry.pem = V1.into();
    world.document.members[2].certificates.push(entry);
    let found = faults(&world);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, "members[2] (NL).certificates[2].pem");
    assert!(found[0].what.starts_with("an X.509 v1 certificate"), "{}", found[0].what);
}
/// Version 1, which the `openssl` program makes where no extension is asked for.
const V1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBMDCB1wIUK9WOYRTtchY92nIxQhuGxPq++TMwCgYIKoZIzj0EAwIwGjELMAkG
A1UEBhMCTkwxCzAJBgNVBAMMAnYxMCAXDTI2MTEyMzE5NDc1OFoYDzIwNTQwNDEw
MTk0NzU4WjAaMQswCQYDVQQGEwJOTDELMAkGA1UEAwwCdjEwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAR0iEk3pZnANlkB6+y7SJy2NB3seG2DtE6MI8FQJdnuh09R
TwReg9gY3NHFFxnMeN+5Q3hrnNx3zIUI8Y4JZuNBMAoGCCqGSM49BAMCA0gAMEUC
IB5fAgDJD6JpzxkfoVR2p3n287qfe//XtDH2kz6zVlGSAiEAtayw2Uu2hPfJCJ2E
dQFIwTx8RwjTy9VEkp/16ERMrMo=
-----END CERTIFICATE-----
";
