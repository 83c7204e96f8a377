//! Whatever an enemy on the way changes, drops, repeats or puts elsewhere is found: byte by byte, record by record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{NOW, Sender, country, flips, uncovered, verified, world};
use keyferry_schemas::{
    avro::Record,
    batch::{DataClass, Level, Manifest, SignedBatch, sha256},
    chain::{Break, VerifiedBatch, verify_sealed},
    efgs,
    network::{Agreement, DataClassName, Network, ReportTypeName, UntrustedNetwork},
    records::NetworkRecord,
    rejection::Rejection,
    world::{HUB_KEY, World},
};

#[test]
fn no_byte_of_a_batch_can_change() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    for level in [Level::Whole, Level::Subset] {
        let batch = sender.send(level);
        assert_eq!(verified(&batch, &network).keys().len(), if level == Level::Whole { 4 } else { 3 });
        for (at, changed) in flips(&batch.to_avro()) {
            let Ok(changed) = SignedBatch::from_avro(changed.into()) else { continue };
            assert!(VerifiedBatch::verify(&changed, &*network).is_err(), "{level:?}, byte {at}");
        }
    }
}

#[test]
fn a_hub_that_lies_about_the_origin_is_found() {
    // A batch that the hub signed, of keys that the origin did not.
    let world = world();
    let network = world.network().unwrap();
    let hub = Sender::new(&world, "NL", "DE");
    let signed_anew = |batch: &SignedBatch, change: &dyn Fn(&mut Manifest)| hub.signed_anew(batch, change);
    let honest = Sender::new(&world, "NL", "DE").send(Level::Whole);
    let refused = |batch: &SignedBatch| VerifiedBatch::verify(batch, &*network).err();
    assert_eq!(refused(&signed_anew(&honest, &|_| ())), None);
    let fr = world.nation("FR").unwrap().signing.certificate.sha256();
    assert_eq!(refused(&signed_anew(&honest, &|m| m.signing_certificate = fr)), Some(Break::Origin));
    // In a subset nothing but the keys themselves contradicts it.
    for batch in [&honest, &Sender::new(&world, "NL", "DE").send(Level::Subset)] {
        let foreign = signed_anew(batch, &|m| (m.origin, m.batch_id) = (country("FR"), "FR-DE-1".into()));
        assert_eq!(refused(&foreign), Some(Break::Part("origin of a key")));
    }
    // All else consistent, keys of another upload under this one's signature.
    let mut sender = Sender::new(&world, "NL", "DE");
    sender.send(Level::Whole);
    let other = sender.send(Level::Whole);
    let mixed = SignedBatch { keys: other.keys.clone(), ..honest.clone() };
    let theirs = Manifest::from_avro(other.manifest).unwrap();
    let mixed = signed_anew(&mixed, &|m| (m.content, m.canonical) = (theirs.content, theirs.canonical));
    assert_eq!(refused(&mixed), Some(Break::Origin));
    // Out of canonical order, which could tell whose keys belong together.
    let keys = efgs::decode(efgs::Encoding::Protobuf, honest.keys.clone()).unwrap();
    let reversed = efgs::encode_protobuf(keys.iter().rev());
    let content = sha256(&reversed);
    let unsorted = SignedBatch { keys: reversed.into(), ..honest };
    assert_eq!(
        refused(&signed_anew(&unsorted, &|m| m.content = content)),
        Some(Break::Part("canonical form"))
    );
}

#[test]
fn a_key_or_certificate_counts_within_its_dates_only() {
    let mut world = world();
    let batch = Sender::new(&world, "NL", "DE").send(Level::Whole);
    let refused = |world: &World| VerifiedBatch::verify(&batch, &*world.network().unwrap()).err();
    assert_eq!(refused(&world), None);
    let (from, until) = (world.document.signing_keys[0].from, world.document.signing_keys[0].until);
    world.document.signing_keys[0].until = NOW;
    assert_eq!(refused(&world), Some(Break::SigningKey(HUB_KEY.into())));
    (world.document.signing_keys[0].until, world.document.signing_keys[0].from) =
        (until, NOW + jiff::SignedDuration::from_millis(1));
    assert_eq!(refused(&world), Some(Break::SigningKey(HUB_KEY.into())));
    world.document.signing_keys[0].from = from;
    world.member_mut("NL").unwrap().certificates[1].revoked = Some(NOW);
    assert_eq!(refused(&world), Some(Break::Origin));
}

#[test]
fn a_network_document_is_its_anchor_s_or_nothing() {
    let (world, other) = (world(), world());
    let record = world.publish().unwrap();
    let open = |record: &_| Network::open(record, &world.anchors()).err();
    assert_eq!(open(&record), None);
    assert_eq!(Network::open(&record, &other.anchors()).err(), Some(UntrustedNetwork::Anchor(1)));
    assert_eq!(Network::open(&record, &[]).err(), Some(UntrustedNetwork::Anchor(1)));
    assert!(
        Network::open(&record, &[other.anchors(), world.anchors()].concat()).is_ok(),
        "one of two anchors"
    );

    let mut forged = record.clone();
    for signature in [vec![], b"none".to_vec()] {
        forged.signature = signature.into();
        assert_eq!(open(&forged), Some(UntrustedNetwork::Signature(Rejection::SignatureMalformed)));
    }
    // A member signs, and names itself; a member signs in the anchor's name.
    let nl = &world.nation("NL").unwrap().signing;
    forged.signature = nl.sign(&record.document).unwrap().into();
    assert_eq!(open(&forged), Some(UntrustedNetwork::Anchor(1)));
    forged.signature = other.anchor.sign(&record.document).unwrap().into();
    assert_eq!(open(&forged), Some(UntrustedNetwork::Anchor(1)));

    for at in (0..record.document.len()).step_by(5) {
        let mut document = record.document.to_vec();
        document[at] ^= 0x01;
        forged = NetworkRecord { document: document.into(), ..record.clone() };
        assert_eq!(open(&forged), Some(UntrustedNetwork::Anchor(1)), "byte {at}");
    }
    forged = record.clone();
    forged.version = 2;
    assert_eq!(open(&forged), Some(UntrustedNetwork::Mismatch { network: "demo".into(), version: 2 }));
    forged = record.clone();
    forged.network = "other".into();
    assert_eq!(open(&forged), Some(UntrustedNetwork::Mismatch { network: "other".into(), version: 1 }));
}

#[test]
fn a_changed_signature_opens_nothing() {
    let world = world();
    let record = world.publish().unwrap();
    let signature = &record.signature;
    let anchor = world.anchor.certificate.x509();
    let (der, issuer) = (anchor.to_der().unwrap(), anchor.issuer_name().to_der().unwrap());
    let uncovered = uncovered(signature, &der);
    assert!(uncovered.iter().filter(|free| **free).count() <= der.len() + issuer.len() + 3);
    for (at, changed) in flips(signature).filter(|(at, _)| !uncovered[*at]) {
        let forged = NetworkRecord { signature: changed.into(), ..record.clone() };
        assert!(Network::open(&forged, &world.anchors()).is_err(), "byte {at}");
    }
}

#[test]
fn a_batch_goes_by_the_agreements_of_its_time() {
    let mut world = world();
    let until = NOW + jiff::SignedDuration::from_hours(1);
    let one = world.document.agreements[0].clone();
    let of = |id, types: &[ReportTypeName], data_class| Agreement {
        id,
        report_types: types.to_vec(),
        data_class,
        parties: vec![country("NL"), country("DE")],
        ..one.clone()
    };
    use ReportTypeName::{ConfirmedTest, Revoked, SelfReport};
    world.document.agreements = vec![
        Agreement { parties: vec![country("FR"), country("DE")], ..one.clone() },
        Agreement { until, ..of(2, &[ConfirmedTest], DataClassName::Anonymous) },
        of(3, &[ConfirmedTest, Revoked], DataClassName::Pseudonymous),
        of(4, &[SelfReport], DataClassName::Pseudonymous),
    ];
    let network = world.network().unwrap();
    // Keys confirmed by test: 2 is the lowest that covers them, 3 makes them pseudonymous.
    let mut sender = Sender::new(&world, "NL", "DE");
    (sender.agreement, sender.data_class) = (2, DataClass::Pseudonymous);
    let whole = sender.clone().send(Level::Whole);
    let hub = sender.clone();
    let refused = |batch: &SignedBatch, change: &dyn Fn(&mut Manifest)| {
        let batch = hub.signed_anew(batch, change);
        let erased = SignedBatch { keys: Default::default(), ..batch.clone() };
        (VerifiedBatch::verify(&batch, &*network).err(), verify_sealed(&erased, &*network).err())
    };
    let both = |reason: Break| (Some(reason.clone()), Some(reason));
    for batch in [&whole, &sender.clone().send(Level::Subset)] {
        assert_eq!(refused(batch, &|_| ()), (None, None));
        for id in ["", "NL-DE-2", "NL-DE-01", "DE-NL-1", "NL-DE-1 "] {
            assert_eq!(refused(batch, &|m| m.batch_id = id.into()), both(Break::BatchId), "{id}");
        }
        for other in [0, 1, 5, -2] {
            assert_eq!(refused(batch, &|m| m.agreement = other), both(Break::Agreement(other)));
        }
        // In force, and covering keys, but not the lowest: without the keys that can not be told.
        for other in [3, 4] {
            let found = refused(batch, &|m| m.agreement = other);
            assert_eq!(found, (Some(Break::Agreement(other)), None), "{other}");
        }
        let anonymous = |m: &mut Manifest| m.data_class = DataClass::Anonymous;
        assert_eq!(refused(batch, &anonymous), (Some(Break::DataClass), None));
        let of_three = |m: &mut Manifest| (m.agreement, m.data_class) = (3, DataClass::Anonymous);
        assert_eq!(refused(batch, &of_three).1, Some(Break::DataClass));
        let over = |m: &mut Manifest| m.created_at = until.into();
        assert_eq!(refused(batch, &over), both(Break::Agreement(2)));
    }
    // A key that no agreement covers does not go along with those that one covers.
    sender.report_type = 5;
    assert_eq!(refused(&sender.clone().send(Level::Whole), &|_| ()).0, None);
    sender.report_type = 4;
    assert_eq!(refused(&sender.clone().send(Level::Whole), &|_| ()).0, Some(Break::Agreement(2)));
}
