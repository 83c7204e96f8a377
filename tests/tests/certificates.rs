//! A country replaces the certificate that it signs with, and nobody misses a key by it.
//!
//! Operations: uploads and trials signed by the old and the new certificate, a version of the network document for each
//! step of the replacement, and what `/metrics` says meanwhile, of a gateway with its processor and of a distribution
//! service in a process of its own.
//! Failures: a certificate before its time, one that was revoked, one that the anchor has not signed.
//! Not here: dates that come while a version is in force (`expiry`, `network/term.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use jiff::{SignedDuration, Timestamp};
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    kafka::Isolation,
};
use keyferry_schemas::{
    canonical::Canonical,
    efgs::DiagnosisKey,
    network::{CertificateEntry, Use},
    records::Upload,
    topics,
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::{
    front::Front,
    operator::{keyferry, prepare},
    role::{Role, address},
    wait::wait_until,
};
use tokio::runtime::Runtime;

fn in_days(days: i64) -> Timestamp {
    // Whole seconds, as certificates have them and `/metrics` shows them.
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    now + SignedDuration::from_hours(24 * days)
}

/// Keys of DE under a signature of this certificate.
fn signed(world: &World, signer: &Identity, tag: &str, keys: &[DiagnosisKey]) -> Upload {
    let batch_signature = signer.sign(Canonical::of(keys).bytes()).unwrap().into();
    Upload { batch_signature, ..world.upload("DE", tag, keys).unwrap() }
}

/// The registration of this certificate.
fn entry<'w>(world: &'w mut World, identity: &Identity) -> &'w mut CertificateEntry {
    let pem = identity.certificate_pem().unwrap();
    world.member_mut("DE").unwrap().certificates.iter_mut().find(|c| c.pem == pem).unwrap()
}

/// The value of a series on the page of metrics.
fn metric(role: &Role, runtime: &Runtime, series: &str) -> Option<f64> {
    let (_, page) = role.page(runtime, "metrics")?;
    let line = page.lines().find_map(|l| l.strip_prefix(series))?;
    line.trim().parse().ok()
}

const SIGNING: &str = r#"keyferry_certificate_expiry_timestamp_seconds{country="DE",use="signing"}"#;

#[test]
fn old_and_new_count_at_once_and_each_only_in_its_time() {
    let mut front = Front::start(World::new(&["DE", "FR"], Timestamp::now()).unwrap()).unwrap();
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    prepare(folder.path(), &front.hub.world);
    let mut role = Role::start("distribute", folder.path(), &front.hub, &address());
    role.wait_until_ready(&runtime);

    let old = front.hub.world.nation("DE").unwrap().signing.clone();
    let new = Identity::new("DE", "Batch signing 2", Algorithm::P384, Timestamp::now()).unwrap();
    let mut rng = Rng::new(1);
    let mut expected = Vec::new();
    let mut keys = || vec![key(&mut rng, "DE", &[], SystemClock.now())];
    let shows = |until: Timestamp| {
        wait_until(&format!("an expiry on {until}"), || {
            metric(&role, &runtime, SIGNING) == Some(until.as_second() as f64)
        });
    };

    // The old one has ten days left and nothing follows it.
    let (begin, end) = (in_days(5), in_days(200));
    front.publish(|world| entry(world, &old).until = in_days(10)).unwrap();
    shows(entry(&mut front.hub.world, &old).until);

    // The new one is registered before its time.
    front
        .publish(|world| {
            let entry = world.register(&new, Use::Signing, begin, end).unwrap();
            world.member_mut("DE").unwrap().certificates.push(entry);
        })
        .unwrap();
    shows(end);
    let early = keys();
    let upload = signed(&front.hub.world, &new, "early", &early);
    let tried = front.check(&upload).unwrap();
    assert_eq!(tried.status, 200, "{tried:?}");
    let signature = &tried.body["signature"];
    assert_eq!((&signature["state"], &tried.body["keys"]), (&"pending".into(), &1.into()), "{tried:?}");
    assert_eq!(signature["certificate"], hex::encode(new.certificate.sha256()));
    assert_eq!(
        (&signature["from"], &signature["until"]),
        (&begin.to_string().into(), &end.to_string().into())
    );
    let refused = front.post(&upload).unwrap();
    assert_eq!((refused.status, refused.code()), (400, "signing-certificate-not-in-force"), "{refused:?}");
    let with_old = front.check(&signed(&front.hub.world, &old, "early", &early)).unwrap();
    assert_eq!(with_old.body["signature"]["state"], "retiring", "ten days are few");

    // Both count.
    front.publish(|world| entry(world, &new).from = in_days(-1)).unwrap();
    shows(end);
    for (signer, state) in [(&old, "retiring"), (&new, "active")] {
        let keys = keys();
        let upload = signed(&front.hub.world, signer, state, &keys);
        assert_eq!(front.check(&upload).unwrap().body["signature"]["state"], state);
        assert_eq!(front.post(&upload).unwrap().status, 201, "{state}");
        expected.extend(keys);
    }
    assert_eq!(front.post(&upload).unwrap().status, 201, "what was refused before its time is judged afresh");
    expected.extend(early);

    // The old one is revoked.
    front.publish(|world| entry(world, &old).revoked = Some(in_days(-1))).unwrap();
    let late = keys();
    let upload = signed(&front.hub.world, &old, "late", &late);
    for answer in [front.post(&upload).unwrap(), front.check(&upload).unwrap()] {
        assert_eq!((answer.status, answer.code()), (400, "signing-certificate-not-in-force"), "{answer:?}");
    }
    assert_eq!(front.post(&signed(&front.hub.world, &new, "late", &late)).unwrap().status, 201);
    expected.extend(late);
    shows(end);
    let config = format!(
        "--bootstrap {} --anchor {}/anchor.pem",
        front.hub.broker.bootstrap_servers(),
        folder.path().display()
    );
    let list = |more: &str| keyferry(&format!("network certificates {config} {more}"));
    assert_eq!(list("--within 30").code, Some(0));

    // Then the new one, and there is none.
    let revoked = in_days(-1);
    front.publish(|world| entry(world, &new).revoked = Some(revoked)).unwrap();
    shows(revoked);
    let due = list("--within 30");
    assert_eq!((due.code, due.err.lines().count()), (Some(5), 1), "{due:?}");
    assert!(due.err.starts_with("DE has had no signing certificate in force since "), "{due:?}");
    assert_eq!(list("").code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&list("--json").out).unwrap();
    let states: Vec<_> =
        json.as_array().unwrap().iter().filter(|c| c["country"] == "DE").map(|c| &c["state"]).collect();
    assert_eq!(states, ["active", "revoked", "revoked"]);

    let expected: Vec<_> = expected.iter().collect();
    front.delivered_exactly("FR", &expected).unwrap();
    // A trial has left nothing: two refusals and four uploads.
    let uploads = topics::uploads("DE".parse().unwrap());
    assert_eq!(front.hub.records(&uploads, Isolation::Committed).unwrap().len(), 6);

    // One that the anchor has not signed does not exist, and the rest of its version does.
    let fr = "FR".parse().unwrap();
    front
        .publish(|world| {
            entry(world, &new).revoked = None;
            let of_fr = &mut world.member_mut("FR").unwrap().certificates;
            of_fr.iter_mut().find(|c| c.usage == Use::Signing).unwrap().anchor_signature = "AAAA".into();
        })
        .unwrap();
    shows(end);
    let of_fr = r#"{country="FR",use="signing"}"#;
    let left_out = format!("keyferry_certificates_left_out{of_fr}");
    wait_until("it is counted", || metric(&role, &runtime, &left_out) == Some(1.0));
    assert_eq!(metric(&role, &runtime, &SIGNING.replace(r#"{country="DE",use="signing"}"#, of_fr)), None);
    let said = role.says("a certificate does not count: members[1] (FR).certificates[1].anchor_signature: ");
    assert!(said.len() == 1 && said[0].contains("ERROR"), "{said:?}");
    let from_fr = key(&mut Rng::new(2), "FR", &[], SystemClock.now());
    let answer = front.send("FR", "tag", std::slice::from_ref(&from_fr)).unwrap();
    assert_eq!((answer.status, answer.code()), (400, "signing-certificate-unknown"), "{answer:?}");
    assert_eq!(front.post(&signed(&front.hub.world, &new, "again", &keys())).unwrap().status, 201);
    let listed = list("");
    assert!(
        listed.code == Some(0) && listed.err.starts_with("FR: a signing certificate does not count: "),
        "{listed:?}"
    );
    assert!(
        front
            .network
            .current()
            .unwrap()
            .certified_until(fr, Use::Authentication, SystemClock.now())
            .is_some()
    );

    // Whoever would publish it is told instead.
    prepare(folder.path(), &front.hub.world);
    for command in [
        format!("network check {0}/network.yaml --anchor {0}/anchor.pem", folder.path().display()),
        format!("network apply {}/network.yaml {config}", folder.path().display()),
    ] {
        let run = keyferry(&command);
        assert_eq!((run.code, run.err.lines().count()), (Some(2), 1), "{run:?}");
        assert!(
            run.err.contains("members[1] (FR).certificates[1].anchor_signature: is not the trust anchor's"),
            "{run:?}"
        );
    }
}
