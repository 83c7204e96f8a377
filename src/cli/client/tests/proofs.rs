//! What proves a batch, and what does not.

use keyferry_schemas::{certificate::Certificate, world::Identity};

use super::*;
use crate::cli::client::{
    audit::Entry,
    proof::{Doubt, Doubtful, Proven, Prover},
};

fn prover(world: &World) -> Prover {
    Prover::new(world.anchors(), "FR".parse().ok())
}

fn prove(prover: &mut Prover, keys: &[DiagnosisKey], entries: &[Value]) -> Result<Proven, Doubtful> {
    let entries: Vec<Entry> = entries.iter().map(|e| serde_json::from_value(e.clone()).unwrap()).collect();
    prover.prove(keys, &entries)
}

/// Two uploads in one batch, with their audit.
fn batch(world: &World) -> (Vec<DiagnosisKey>, Vec<Value>) {
    let (de, nl) = (keys("DE", 1, 5), keys("NL", 2, 3));
    let entries = vec![entry(world, "DE", &de), entry(world, "NL", &nl)];
    ([de, nl].concat(), entries)
}

#[test]
fn whole_uploads_are_proven_in_any_order_of_their_keys() {
    let world = world();
    let (mut keys, entries) = batch(&world);
    keys.swap(0, 4);
    let proven = prove(&mut prover(&world), &keys, &entries).unwrap();
    assert_eq!(proven.to_string(), " in 2 upload(s) from DE, NL: whole, proven by the origin's signature");
    assert_eq!((proven.level(), proven.uploads()), ("whole", 2));
}

#[test]
fn whatever_is_changed_is_noticed() {
    let world = world();
    let (good, entries) = batch(&world);
    let mut prover = prover(&world);
    let doubt = |prover: &mut Prover, keys: &[DiagnosisKey], entries: &[Value]| {
        prove(prover, keys, entries).unwrap_err().why
    };

    let mut keys = good.clone();
    keys[6].rolling_period -= 1;
    assert_eq!(
        prove(&mut prover, &keys, &entries).unwrap_err().to_string(),
        "upload 2 in it, from NL: its origin's signature does not hold over its keys"
    );
    let mut keys = good.clone();
    keys[1] = keys[0].clone();
    assert_eq!(doubt(&mut prover, &keys, &entries), Doubt::Signature);
    assert_eq!(doubt(&mut prover, &good[1..], &entries), Doubt::Amounts { keys: 7, amounts: 8 });
    let mut keys = good.clone();
    keys[7].origin = "DE".into();
    assert_eq!(doubt(&mut prover, &keys, &entries), Doubt::KeyOrigin);
    // The bounds between uploads.
    let mut moved = entries.clone();
    (moved[0]["amount"], moved[1]["amount"]) = (4.into(), 4.into());
    assert_eq!(doubt(&mut prover, &good, &moved), Doubt::Signature);
    let mut huge = entries.clone();
    huge[0]["amount"] = u64::MAX.into();
    assert!(matches!(doubt(&mut prover, &good, &huge), Doubt::Amounts { .. }));
    // One upload under another one's name.
    let mut swapped = entries.clone();
    swapped[0]["country"] = "NL".into();
    assert_eq!(doubt(&mut prover, &good, &swapped), Doubt::Country("certificate for authentication"));

    let signing = "certificate for signing";
    for (field, value, expected) in [
        ("batchSignature", Value::Null, Doubt::Missing("signature")),
        ("batchSignature", "$".into(), Doubt::Unreadable("signature")),
        ("batchSignature", "MAA=".into(), Doubt::Unreadable("signature")),
        ("batchSignature", entries[1]["batchSignature"].clone(), Doubt::Signature),
        ("signingCertificate", Value::Null, Doubt::Missing(signing)),
        ("signingCertificate", entries[1]["signingCertificate"].clone(), Doubt::Anchor(signing)),
        ("signingCertificateOperatorSignature", "MAA=".into(), Doubt::Anchor(signing)),
        ("uploaderSigningThumbprint", entries[0]["uploaderThumbprint"].clone(), Doubt::Thumbprint(signing)),
        ("uploaderCertificate", Value::Null, Doubt::Missing("certificate for authentication")),
        ("uploadedTime", "2047-01-15T08:00:00Z".into(), Doubt::Dates("certificate for authentication")),
        ("uploadedTime", "soon".into(), Doubt::Dates("certificate for authentication")),
    ] {
        let mut changed = entries.clone();
        changed[0][field] = value;
        assert_eq!(doubt(&mut prover, &good, &changed), expected, "{field}");
    }
    assert!(prove(&mut prover, &good, &entries).is_ok());
}

#[test]
fn a_certificate_counts_if_the_pinned_anchor_signed_it() {
    let world = world();
    let (keys, entries) = batch(&world);
    let other =
        Identity::new("EU", "Another", keyferry_schemas::world::Algorithm::P256, NOW.timestamp()).unwrap();
    let anchors: Vec<Certificate> = vec![other.certificate];
    let mut wrong = Prover::new(anchors.clone(), None);
    let doubtful = prove(&mut wrong, &keys, &entries).unwrap_err();
    assert_eq!(doubtful.why, Doubt::Anchor("certificate for authentication"));
    let mut both = Prover::new([anchors, world.anchors()].concat(), None);
    assert!(prove(&mut both, &keys, &entries).is_ok(), "while anchors change there are two");
}

#[test]
fn nobody_gets_its_own_keys() {
    let world = world();
    let own = keys("FR", 1, 2);
    let doubtful = prove(&mut prover(&world), &own, &[entry(&world, "FR", &own)]).unwrap_err();
    assert_eq!(doubtful.why, Doubt::OwnKeys);
}

#[test]
fn a_subset_is_the_hubs_word_and_enough_only_for_those_who_said_so() {
    let world = world();
    let (keys, mut entries) = batch(&world);
    entries[1]["originProof"] = false.into();
    entries[1].as_object_mut().unwrap().remove("batchSignature");
    let mut prover = prover(&world);
    assert_eq!(prove(&mut prover, &keys, &entries).unwrap_err().why, Doubt::NoProof);
    prover.hub_is_enough = true;
    let proven = prove(&mut prover, &keys, &entries).unwrap();
    assert_eq!((proven.level(), proven.uploads()), ("mixed", 2));
    // The other one is held to its signature all the same.
    entries[0].as_object_mut().unwrap().remove("batchSignature");
    assert_eq!(prove(&mut prover, &keys, &entries).unwrap_err().why, Doubt::Missing("signature"));
}

#[test]
fn greece_is_greece_under_either_code() {
    let world = World::new(&["EL", "FR"], NOW.timestamp()).unwrap();
    let keys = keys("EL", 1, 2);
    let mut entries = [entry(&world, "EL", &keys)];
    entries[0]["country"] = "GR".into();
    let mut prover = prover(&world);
    assert_eq!(
        prove(&mut prover, &keys, &entries).unwrap_err().why,
        Doubt::Country("certificate for authentication")
    );
    prover.aliases = [("EL".parse().unwrap(), "GR".parse().unwrap())].into();
    assert!(prove(&mut prover, &keys, &entries).is_ok());
}
