//! Whatever an enemy on the way changes, drops, repeats or puts elsewhere is found: byte by byte, record by record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{NOW, Sender, country, flips, verified, world};
use keyferry_schemas::{
    avro::Record,
    batch::{Level, Manifest, SignedBatch, sha256, sign_manifest},
    chain::{Break, VerifiedBatch},
    efgs,
    network::{Network, UntrustedNetwork},
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
    let signed_anew = |batch: &SignedBatch, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = Manifest::from_avro(batch.manifest.clone()).unwrap();
        change(&mut manifest);
        let manifest = manifest.to_avro();
        let signature = sign_manifest(&world.hub_key, &manifest);
        SignedBatch { manifest: manifest.into(), signature, ..batch.clone() }
    };
    let honest = Sender::new(&world, "NL", "DE").send(Level::Whole);
    let refused = |batch: &SignedBatch| VerifiedBatch::verify(batch, &*network).err();
    assert_eq!(refused(&signed_anew(&honest, &|_| ())), None);
    let fr = world.nation("FR").unwrap().signing.certificate.sha256();
    assert_eq!(refused(&signed_anew(&honest, &|m| m.signing_certificate = fr)), Some(Break::Origin));
    // In a subset nothing but the keys themselves contradicts it.
    for batch in [&honest, &Sender::new(&world, "NL", "DE").send(Level::Subset)] {
        let foreign = signed_anew(batch, &|m| m.origin = country("FR"));
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
    // Bytes that no signature covers, in no CMS: the certificate it brings along, which is ignored; version numbers;
    // the digest within the name of the signature algorithm, which stands elsewhere too.
    let der = world.anchor.certificate.x509().to_der().unwrap();
    let certificate = signature.windows(der.len()).position(|w| w == der).unwrap();
    let ecdsa_with_sha2 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let uncovered = |at: usize| {
        let before = &signature[..at];
        (certificate..certificate + der.len()).contains(&at)
            || (before.ends_with(&[0x02, 0x01]) && signature[at] == 1)
            || before.ends_with(&ecdsa_with_sha2)
    };
    assert!((0..signature.len()).filter(|at| uncovered(*at)).count() <= der.len() + 3);
    for (at, changed) in flips(signature).filter(|(at, _)| !uncovered(*at)) {
        let forged = NetworkRecord { signature: changed.into(), ..record.clone() };
        assert!(Network::open(&forged, &world.anchors()).is_err(), "byte {at}");
    }
}
