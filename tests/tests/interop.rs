//! Programs that no one here wrote, on real roles: they sign uploads, and they prove whose every download is.
//!
//! Operations: uploads over mutual TLS, signed by BouncyCastle, by Python's `cryptography` and by `openssl cms`, of which
//! the first two put the keys into canonical form themselves; downloads and audits over mutual TLS, read by Google's
//! protobuf and verified by `examples/python/audit.py` alone.
//! Failures: a changed bit of a key or of a signature on the way in; changed keys, audits and anchor on the way out.
//! Not here: forms of signatures in all combinations (`schemas/tests/cms_forms.rs`); a subscriber over Kafka
//! (`python_subscriber`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{path::Path, process::Output};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey},
    network::Use,
    records::Upload,
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::{
    foreign::{
        Program::{self, BouncyCastle, OpenSsl, Python},
        python,
    },
    front::{Door, Front},
    operator::prepare,
    role::{Role, address},
    wait::wait_until,
};
use tokio::runtime::Runtime;

/// Who signs, how, and with which key of the origin.
const FORMS: [(Program, &str, &str); 24] = [
    (BouncyCastle, "SHA256withRSA", "rsa"),
    (BouncyCastle, "SHA256withRSA,direct", "rsa"),
    (BouncyCastle, "SHA256withRSA,stream", "rsa"),
    (BouncyCastle, "SHA512withRSA,direct,stream,nocerts", "rsa"),
    (BouncyCastle, "SHA256withRSA,der,ski", "rsa"),
    (BouncyCastle, "SHA256withRSAandMGF1", "rsa"),
    (BouncyCastle, "SHA384withRSAandMGF1,direct,stream", "rsa"),
    (BouncyCastle, "SHA256withECDSA", "p256"),
    (BouncyCastle, "SHA256withECDSA,direct", "p256"),
    (BouncyCastle, "SHA256withECDSA,stream,ski", "p256"),
    (BouncyCastle, "SHA384withECDSA,direct,stream,nocerts", "p384"),
    (BouncyCastle, "SHA512withECDSA,der", "p384"),
    (Python, "sha256", "rsa"),
    (Python, "sha256,noattr,nocerts", "rsa"),
    (Python, "sha512,pss,nocapabilities", "rsa"),
    (Python, "sha256", "p256"),
    (Python, "sha384,noattr", "p384"),
    (OpenSsl, "-md sha256", "rsa"),
    (OpenSsl, "-md sha256 -noattr -nocerts", "rsa"),
    (OpenSsl, "-md sha512 -keyopt rsa_padding_mode:pss -keyid", "rsa"),
    (OpenSsl, "-md sha384 -cades", "rsa"),
    (OpenSsl, "-md sha256", "p256"),
    (OpenSsl, "-md sha256 -noattr", "p256"),
    (OpenSsl, "-md sha384 -nocerts -keyid", "p384"),
];

fn keys(rng: &mut Rng, origin: &str, n: usize) -> Vec<DiagnosisKey> {
    (0..n).map(|_| key(rng, origin, &["DE", "FR"], SystemClock.now())).collect()
}

/// Three countries, of which DE signs with RSA and on P-384 as well, and GR is EL in its keys.
fn world() -> (World, Identity, Identity) {
    let now = Timestamp::now();
    let mut world = World::new(&["DE", "FR", "GR"], now).unwrap();
    world.document.aliases.insert("EL".parse().unwrap(), "GR".parse().unwrap());
    let hours = |n| now.saturating_add(SignedDuration::from_hours(n)).unwrap();
    let [rsa, p384] = [("RSA signing", Algorithm::Rsa(3072)), ("P-384 signing", Algorithm::P384)]
        .map(|(name, algorithm)| Identity::new("DE", name, algorithm, now).unwrap());
    for signing in [&rsa, &p384] {
        let entry = world.register(signing, Use::Signing, hours(-24), hours(24)).unwrap();
        world.member_mut("DE").unwrap().certificates.push(entry);
    }
    (world, rsa, p384)
}

/// The last byte that is not 0, in another way: behind a signature only zeros may stand.
fn flipped(signature: &[u8]) -> Vec<u8> {
    let mut changed = signature.to_vec();
    let last = changed.iter().rposition(|byte| *byte != 0).unwrap();
    changed[last] ^= 1;
    changed
}

/// Sends keys signed in each form, enough of them for wrong orders to show, each first with a changed bit; returns the keys.
fn send_in_every_form(front: &Front, rsa: &Identity, p384: &Identity) -> Vec<DiagnosisKey> {
    let p256 = front.hub.world.nation("DE").unwrap().signing.clone();
    let mut rng = Rng::new(1);
    let uploads: Vec<_> = FORMS.iter().map(|_| keys(&mut rng, "DE", 25)).collect();
    for program in [BouncyCastle, Python, OpenSsl] {
        let own = || FORMS.iter().zip(&uploads).filter(|((by, ..), _)| *by == program);
        let jobs: Vec<_> = own()
            .map(|((_, form, with), keys)| {
                let signer = match *with {
                    "rsa" => rsa,
                    "p384" => p384,
                    _ => &p256,
                };
                (*form, &keys[..], signer)
            })
            .collect();
        let signatures = program.sign(&jobs).unwrap();
        for (((_, form, with), keys), signature) in own().zip(signatures) {
            let row = format!("{program:?} {form} {with}");
            let tag = row.replace(' ', "/");
            let upload = Upload {
                batch_signature: signature.clone().into(),
                ..front.hub.world.upload("DE", &tag, keys).unwrap()
            };
            let risk = i32::from(keys[0].transmission_risk_level == 0);
            let other = DiagnosisKey { transmission_risk_level: risk, ..keys[0].clone() };
            let other = [&[other], &keys[1..]].concat();
            let changed = [
                Upload { batch_signature: flipped(&signature).into(), ..upload.clone() },
                Upload { payload: efgs::encode_protobuf(&other).into(), ..upload.clone() },
            ];
            for changed in changed {
                let answer = front.post(&changed).unwrap();
                assert_eq!((answer.status, answer.code()), (400, "signature-invalid"), "{row}");
            }
            let answer = front.post(&upload).unwrap();
            assert_eq!((answer.status, answer.tag), (201, Some(tag)), "{row}: {}", answer.body);
        }
    }
    uploads.concat()
}

const TRUSTED: &str = "anchor.pem --alias EL=GR";

/// Runs a script over what FR can download, with this anchor and what else is known off line.
fn run(script: &str, folder: &Path, address: &str, anchor: &str) -> Output {
    let since = Timestamp::now().saturating_sub(SignedDuration::from_hours(24)).unwrap();
    let arguments = format!(
        "--url https://{address}/diagnosiskeys --cert {dir}/fr.pem --key {dir}/fr.key --cacert {dir}/server.pem \
         --date {} --anchor {dir}/{anchor}",
        TimeZone::UTC.to_datetime(since).date(),
        dir = folder.display(),
    );
    python(script, arguments.split_whitespace()).unwrap().output().unwrap()
}

/// Waits until all of these keys are proven; what the script says then.
fn audited(folder: &Path, address: &str, uploads: usize, keys: usize) -> String {
    let (mut said, sum) = (String::new(), format!("batches verified, {uploads} uploads, {keys} keys\n"));
    wait_until(&sum, || {
        let output = run("examples/python/audit.py", folder, address, TRUSTED);
        said = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.is_empty() || errors.contains("answers 404"), "{said}{errors}");
        said.ends_with(&sum)
    });
    said
}

#[test]
fn programs_of_others_sign_what_comes_in_and_prove_what_goes_out() {
    let (world, rsa, p384) = world();
    let front = Front::behind(Door::Tls, world).unwrap();
    let of_de = send_in_every_form(&front, &rsa, &p384);
    let mut rng = Rng::new(2);
    let of_gr = keys(&mut rng, "EL", 7);
    assert_eq!(front.send("GR", "one", &of_gr).unwrap().status, 201);
    let all: Vec<_> = of_de.iter().chain(&of_gr).collect();
    front.delivered_exactly("FR", &all).unwrap();
    front.delivered_exactly("GR", &of_de.iter().collect::<Vec<_>>()).unwrap();

    let (folder, runtime, address) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap(), address());
    let folder = folder.path();
    prepare(folder, &front.hub.world);
    let own = &front.hub.world.nation("FR").unwrap().authentication;
    std::fs::write(folder.join("fr.pem"), own.certificate_pem().unwrap()).unwrap();
    std::fs::write(folder.join("fr.key"), own.key_pem().unwrap()).unwrap();
    let mut role = Role::start("distribute", folder, &front.hub, &address);
    role.wait_until_ready(&runtime);

    // What was there when it came up is joined.
    let said = audited(folder, &address, FORMS.len() + 1, all.len());
    let batches = said.lines().filter(|line| line.ends_with("keys verified")).count();
    assert!(batches < FORMS.len(), "{said}");
    assert_eq!(said.matches("signed by its origin").count(), FORMS.len() + 1, "{said}");
    assert!(said.contains(": GR, 7 keys, "), "{said}");
    // And what comes later is behind that.
    let more = keys(&mut rng, "EL", 5);
    assert_eq!(front.send("GR", "two", &more).unwrap().status, 201);
    let said = audited(folder, &address, FORMS.len() + 2, all.len() + 5);
    assert!(said.lines().filter(|line| line.ends_with("keys verified")).count() > batches, "{said}");

    for (anchor, why) in [
        ("other.pem --alias EL=GR", "the trust anchor has not signed the certificate"),
        ("anchor.pem", "a key of another country is among them"),
    ] {
        let output = run("examples/python/audit.py", folder, &address, anchor);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.trim_end().ends_with(why), "{errors}");
        assert_eq!(output.status.code(), Some(1));
    }
    let output = run("tests/python/tampered.py", folder, &address, TRUSTED);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().filter(|line| line.contains(": 2")).count(), 18, "{said}");
}

#[test]
fn the_example_in_python_judges_signatures_as_we_do() {
    let output = python("tests/python/vectors.py", [""; 0]).unwrap().output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().count() > 30, "{said}");
}
