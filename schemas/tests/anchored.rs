//! A certificate exists if a pinned anchor has signed its text: whatever else the document says, each time it is loaded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use keyferry_schemas::{
    network::{CertificateState, Network, Term, UntrustedNetwork, Use, anchor_signed},
    time::{MILLIS_PER_DAY, Millis},
    world::{Algorithm, Identity, World},
};
use openssl::{hash::MessageDigest, sign::Signer};

const NOW: Timestamp = Timestamp::constant(1_603_022_400, 0);

fn sign(digest: MessageDigest, anchor: &Identity, text: &str) -> String {
    let signature = Signer::new(digest, &anchor.key).unwrap().sign_oneshot_to_vec(text.as_bytes()).unwrap();
    STANDARD.encode(signature)
}

#[test]
fn anchors_sign_with_rsa_or_ecdsa_over_any_digest_of_sha2() {
    let world = World::new(&["DE"], NOW).unwrap();
    let pem = &world.document.members[0].certificates[0].pem;
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Rsa(2048)] {
        let anchor = Identity::new("EU", "Anchor", algorithm, NOW).unwrap();
        let anchors = [world.anchor.certificate.clone(), anchor.certificate.clone()];
        for (digest, holds) in [
            (MessageDigest::sha256(), true),
            (MessageDigest::sha384(), true),
            (MessageDigest::sha512(), true),
            (MessageDigest::sha1(), false),
            (MessageDigest::sha224(), false),
            (MessageDigest::sha3_256(), false),
        ] {
            let signature = sign(digest, &anchor, pem);
            let what = format!("{algorithm:?}, {}", digest.type_().short_name().unwrap());
            assert_eq!(anchor_signed(pem, &signature, &anchors), holds, "{what}");
            assert!(!anchor_signed(pem, &signature, &anchors[..1]), "another anchor, {what}");
            assert!(!anchor_signed(pem, &signature, &[]), "no anchor, {what}");
            assert!(!anchor_signed(&format!("{pem}\n"), &signature, &anchors), "another text, {what}");
        }
    }
}

#[test]
fn one_that_the_anchor_has_not_signed_does_not_exist_and_the_rest_does() {
    let mut world = World::new(&["DE", "FR"], NOW).unwrap();
    let of_fr = world.nation("FR").unwrap().signing.certificate.sha256();
    // Whatever stands there beside the signature of another text.
    let other = world.document.members[0].certificates[0].anchor_signature.clone();
    world.document.members[1].certificates[1].anchor_signature = other;
    let garbage = &mut world.document.members[0].certificates.clone()[0];
    garbage.pem = "nothing of a certificate".into();
    world.document.members[0].certificates.push(garbage.clone());

    let network = world.network().unwrap();
    let left_out: Vec<_> = network.left_out().iter().map(|l| (l.country.as_str(), l.usage)).collect();
    assert_eq!(left_out, [("DE", Use::Authentication), ("FR", Use::Signing)]);
    let first = network.left_out()[1].fault.to_string();
    assert!(
        first.starts_with("members[1] (FR).certificates[1].anchor_signature: is not the trust"),
        "{first}"
    );
    assert_eq!(network.certificates().len(), 3);
    assert!(network.registered(&of_fr, Use::Signing).next().is_none());
    assert_eq!(network.certified_until("FR".parse().unwrap(), Use::Signing, NOW.into()), None);

    // Who is about to sign or to publish it hears of it.
    let text = world.publish().unwrap().document;
    let Err(UntrustedNetwork::Faults(faults)) = Network::read(&text, &world.anchors()) else { panic!() };
    let paths: Vec<_> = faults.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(
        paths,
        ["members[0] (DE).certificates[2].pem", "members[1] (FR).certificates[1].anchor_signature"]
    );
}

#[test]
fn a_term_is_the_narrower_of_registration_and_certificate() {
    let mut world = World::new(&["DE", "FR"], NOW).unwrap();
    let country = "DE".parse().unwrap();
    let day = |n: i64| Millis::from(NOW).plus(n * MILLIS_PER_DAY);
    let at = |n: i64| day(n).timestamp();
    let key = || Identity::new("DE", "Key", Algorithm::P256, NOW).unwrap().key;
    let dated = |from: i64, until: i64| {
        Identity::with_dates("DE", "Next", key(), at(from).as_second(), at(until).as_second()).unwrap()
    };
    let registrations = [(dated(-10, 50), at(-20), at(60)), (dated(40, 200), at(45), at(100))];
    let entries =
        registrations.map(|(i, from, until)| world.register(&i, Use::Signing, from, until).unwrap());
    let member = world.member_mut("DE").unwrap();
    member.certificates.retain(|c| c.usage != Use::Signing);
    member.certificates.extend(entries);
    let network = world.network().unwrap();
    let of = |usage| network.certificates().iter().filter(move |r| r.country == country && r.usage == usage);
    let terms: Vec<_> = of(Use::Signing).map(|r| r.term()).collect();
    // The last moment of a certificate is one of its own.
    let first = Term { from: day(-10), until: day(50).plus(1), revoked: None };
    assert_eq!(terms, [first, Term { from: day(45), until: day(100), revoked: None }]);
    let states = |n| of(Use::Signing).map(|r| network.certificate_state(r, day(n))).collect::<Vec<_>>();
    assert_eq!(states(0), [CertificateState::Active, CertificateState::Pending]);
    assert_eq!(states(45), [CertificateState::Retiring, CertificateState::Active]);
    assert_eq!(network.certified_until(country, Use::Signing, day(0)), Some(day(100)));
    assert_eq!(network.certified_until(country, Use::Callback, day(0)), None);
    let authentication = network.certified_until(country, Use::Authentication, day(0));
    assert_eq!(authentication, Some(day(300)), "its registration ends first");
    assert_eq!(network.signs_until(day(0)), Some(day(300)));
}
