//! What was proven for one destination is not proven again for the next, and no verdict is another for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{NOW, Sender, country, flips, world};
use jiff::SignedDuration;
use keyferry_schemas::{
    avro::Record,
    batch::{DataClass, Level, Manifest, SignedBatch, sha256},
    chain::{Break, Proofs, VerifiedBatch},
    efgs,
    network::{Network, ReportTypeName},
};

/// The verdict about `batch` by the memory, which must be that of whoever remembers nothing.
fn verdict(batch: &SignedBatch, network: &Network, proofs: &Proofs) -> Option<Break> {
    let [afresh, once] =
        [VerifiedBatch::verify(batch, network), VerifiedBatch::verify_once(batch, network, proofs)]
            .map(|verified| verified.map(|v| (v.hash(), v.count(), v.keys())));
    assert!(afresh == once, "{:?} afresh, {:?} by memory", afresh.err(), once.err());
    once.err()
}

/// The same upload for another country.
fn readdressed(hub: &Sender<'_>, batch: &SignedBatch, to: &str) -> SignedBatch {
    hub.signed_anew(batch, &|m| (m.destination, m.batch_id) = (country(to), format!("{}-{to}-1", m.origin)))
}

#[test]
fn one_proof_serves_every_destination_and_only_the_same_content() {
    let world = world();
    let network = world.network().unwrap();
    let proofs = Proofs::default();
    for (level, remembered) in [(Level::Whole, 1), (Level::Subset, 2)] {
        let mut hub = Sender::new(&world, "NL", "DE");
        let first = hub.send(level);
        for batch in [&first, &readdressed(&hub, &first, "FR"), &first] {
            assert_eq!(verdict(batch, &network, &proofs), None);
            assert_eq!(proofs.remembered(), remembered);
        }
        assert_eq!(verdict(&hub.send(level), &network, &Proofs::default()), None);
    }
}

#[test]
fn what_does_not_hold_is_refused_however_much_is_remembered() {
    let world = world();
    let network = world.network().unwrap();
    let proofs = Proofs::default();
    let hub = Sender::new(&world, "NL", "DE");
    let (mut sender, mut seen) = (Sender::new(&world, "NL", "DE"), 0);
    let [honest, other] = [sender.send(Level::Whole), sender.send(Level::Whole)];
    let subset = Sender::new(&world, "NL", "DE").send(Level::Subset);
    for batch in [&honest, &other, &subset] {
        assert_eq!(verdict(batch, &network, &proofs), None);
        seen += 1;
    }
    let theirs = Manifest::from_avro(other.manifest.clone()).unwrap();
    let fr = world.nation("FR").unwrap().signing.certificate.sha256();
    let past = NOW - SignedDuration::from_hours(24 * 600);
    type Lie<'l> = Box<dyn Fn(&mut Manifest) + 'l>;
    let lies: [(&str, Lie<'_>); 10] = [
        ("keys", Box::new(|m| m.keys = 3)),
        ("keys of none", Box::new(|m| m.keys = -1)),
        ("canonical", Box::new(|m| m.canonical = theirs.canonical)),
        ("content", Box::new(|m| m.content = theirs.content)),
        ("origin", Box::new(|m| (m.origin, m.batch_id) = (country("FR"), "FR-DE-1".into()))),
        ("level", Box::new(|m| m.level = Level::Subset)),
        ("origin signature", Box::new(|m| m.origin_signature = theirs.origin_signature)),
        ("certificate", Box::new(|m| m.signing_certificate = fr)),
        ("long ago", Box::new(move |m| m.created_at = past.into())),
        ("agreement", Box::new(|m| m.agreement = 2)),
    ];
    for (name, lie) in &lies {
        assert!(verdict(&hub.signed_anew(&honest, &**lie), &network, &proofs).is_some(), "{name}");
    }
    // Parts of two good uploads, one beside the other, with all hashes in order.
    let mixed = SignedBatch { keys: other.keys.clone(), ..honest.clone() };
    let mix = |m: &mut Manifest| (m.content, m.canonical) = (theirs.content, theirs.canonical);
    assert_eq!(verdict(&hub.signed_anew(&mixed, &mix), &network, &proofs), Some(Break::Origin));
    let signed = SignedBatch { origin_signature: other.origin_signature.clone(), ..honest.clone() };
    let sign = |m: &mut Manifest| m.origin_signature = theirs.origin_signature;
    assert_eq!(verdict(&hub.signed_anew(&signed, &sign), &network, &proofs), Some(Break::Origin));
    let none = SignedBatch { origin_signature: None, ..honest.clone() };
    let unsigned = |m: &mut Manifest| m.origin_signature = sha256(&[]);
    assert_eq!(verdict(&hub.signed_anew(&none, &unsigned), &network, &proofs), Some(Break::Part("level")));
    for (at, changed) in flips(&honest.to_avro()).step_by(7) {
        let Ok(changed) = SignedBatch::from_avro(changed.into()) else { continue };
        assert!(verdict(&changed, &network, &proofs).is_some(), "byte {at}");
    }
    assert_eq!(proofs.remembered(), seen, "nothing is remembered of what did not hold");
}

#[test]
fn another_document_is_another_proof() {
    let mut world = world();
    let proofs = Proofs::default();
    let batch = Sender::new(&world, "NL", "DE").send(Level::Whole);
    assert_eq!(verdict(&batch, &world.network().unwrap(), &proofs), None);
    // The same version with another text: the certificate was revoked before these keys were signed.
    world.member_mut("NL").unwrap().certificates[1].revoked = Some(NOW);
    assert_eq!(verdict(&batch, &world.network().unwrap(), &proofs), Some(Break::Origin));
}

#[test]
fn terms_are_each_destination_s_own() {
    let mut world = world();
    world.document.agreements[0].report_types = vec![ReportTypeName::ConfirmedTest];
    let network = world.network().unwrap();
    let proofs = Proofs::default();
    let mut hub = Sender { report_type: 1, ..Sender::new(&world, "NL", "DE") };
    let covered = hub.send(Level::Whole);
    assert_eq!(verdict(&covered, &network, &proofs), None);
    for lie in [|m: &mut Manifest| m.agreement = 2, |m: &mut Manifest| m.data_class = DataClass::Pseudonymous]
    {
        assert!(verdict(&hub.signed_anew(&covered, &lie), &network, &proofs).is_some());
    }
    // Proven to be what its origin signed, and not to be sent: twice, so that the second comes from memory.
    let mut hub = Sender { report_type: 5, ..Sender::new(&world, "NL", "DE") };
    let revoked = hub.send(Level::Whole);
    for batch in [&revoked, &readdressed(&hub, &revoked, "FR")] {
        assert_eq!(verdict(batch, &network, &proofs), Some(Break::Agreement(1)));
    }
    assert_eq!(proofs.remembered(), 2);
}

#[test]
fn many_at_once_prove_it_once_and_none_waits_for_ever() {
    let world = world();
    let network = world.network().unwrap();
    let mut hub = Sender::new(&world, "NL", "DE");
    let good = hub.send(Level::Whole);
    let keys = efgs::decode(efgs::Encoding::Protobuf, good.keys.clone()).unwrap();
    let reversed = efgs::encode_protobuf(keys.iter().rev());
    let content = sha256(&reversed);
    let unsorted = SignedBatch { keys: reversed.into(), ..good.clone() };
    let bad = hub.signed_anew(&unsorted, &|m| m.content = content);
    for _ in 0..50 {
        let proofs = Proofs::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(VerifiedBatch::verify_once(&good, &*network, &proofs).is_ok()));
                scope.spawn(|| {
                    let refused = VerifiedBatch::verify_once(&bad, &*network, &proofs).err();
                    assert_eq!(refused, Some(Break::Part("canonical form")));
                });
            }
        });
        assert_eq!(proofs.remembered(), 1);
    }
}
