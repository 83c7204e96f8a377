//! Whatever an enemy on the way changes, drops, repeats or puts elsewhere is found: byte by byte, record by record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use jiff::Timestamp;
use keyferry_schemas::{
    avro::Record,
    batch::{
        Checkpoint, DataClass, Level, MANIFEST_VERSION, Manifest, SignedBatch, bitmap, sha256, sign_manifest,
    },
    canonical::Canonical,
    chain::{Break, Chains, VerifiedBatch},
    country::Country,
    efgs,
    network::{Network, UntrustedNetwork},
    records::{Hash, Kind, NetworkRecord},
    rejection::Rejection,
    time::Millis,
    world::{HUB_KEY, Rng, World, key},
};

const NOW: Timestamp = Timestamp::constant(1_603_022_400, 0);

fn world() -> World {
    World::new(&["DE", "FR", "NL"], NOW).unwrap()
}

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

/// A chain as a hub makes it.
struct Sender<'w> {
    world: &'w World,
    origin: &'static str,
    destination: &'static str,
    sequence: i64,
    previous: Hash,
}

impl<'w> Sender<'w> {
    fn new(world: &'w World, origin: &'static str, destination: &'static str) -> Self {
        Self { world, origin, destination, sequence: 0, previous: [0; 32] }
    }

    fn send(&mut self, level: Level) -> SignedBatch {
        let mut rng = Rng::new(self.sequence as u64);
        let uploaded: Vec<_> =
            (0..4).map(|_| key(&mut rng, self.origin, &["DE", "FR"], NOW.into())).collect();
        let upload = self.world.upload(self.origin, "tag", &uploaded).unwrap();
        let whole = level == Level::Whole;
        let sent = if whole { &uploaded[..] } else { &uploaded[..3] };
        let canonical = Canonical::of(sent);
        let keys = efgs::encode_protobuf(canonical.iter().map(|(index, _)| &sent[index]));
        let new = bitmap((0..sent.len()).map(|i| i != 1));
        let origin_signature = whole.then(|| upload.batch_signature.clone());
        let nation = self.world.nation(self.origin).unwrap();
        self.sequence += 1;
        let manifest = Manifest {
            schema_version: MANIFEST_VERSION,
            network: self.world.document.network.clone(),
            network_version: self.world.document.version,
            batch_id: format!("{}-{}-{}", self.origin, self.destination, self.sequence),
            origin: nation.country,
            destination: country(self.destination),
            sequence: self.sequence,
            previous: self.previous,
            upload_id: upload.upload_id,
            batch_tag: upload.batch_tag,
            kind: Kind::ExposedKeys,
            keys: sent.len() as i32,
            level,
            canonical: sha256(&canonical.bytes()),
            content: sha256(&keys),
            bitmap: sha256(&new),
            origin_signature: sha256(&origin_signature.clone().unwrap_or_default()),
            client_certificate: upload.client_certificate,
            signing_certificate: nation.signing.certificate.sha256(),
            agreement: 1,
            data_class: DataClass::Anonymous,
            created_at: NOW.into(),
            signing_key: HUB_KEY.into(),
        }
        .to_avro();
        self.previous = sha256(&manifest);
        let signature = sign_manifest(&self.world.hub_key, &manifest);
        SignedBatch {
            manifest: manifest.into(),
            signature,
            keys: keys.into(),
            new: new.into(),
            origin_signature,
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            network: self.world.document.network.clone(),
            origin: country(self.origin),
            destination: country(self.destination),
            sequence: self.sequence,
            manifest: self.previous,
            at: NOW.into(),
            signing_key: HUB_KEY.into(),
            signature: [0; 64],
        }
        .signed(&self.world.hub_key)
    }
}

fn verified(batch: &SignedBatch, network: &Network) -> VerifiedBatch {
    VerifiedBatch::verify(batch, network).unwrap()
}

/// Every byte of `bytes`, changed in two ways.
fn flips(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).flat_map(|at| [0x01, 0x80].map(|bit| (at, bit))).map(|(at, bit)| {
        let mut changed = bytes.to_vec();
        changed[at] ^= bit;
        (at, changed)
    })
}

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
fn records_dropped_doubled_or_swapped_are_found() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    let batches = [Level::Whole, Level::Subset, Level::Whole].map(|l| verified(&sender.send(l), &network));
    let follow = |order: &[usize]| {
        let mut chains = Chains::new(country("DE"));
        order.iter().try_for_each(|i| {
            let before = chains.links().clone();
            chains.append(&batches[*i]).inspect_err(|_| assert_eq!(*chains.links(), before))
        })
    };
    let sequence = |last, found| Err(Break::Sequence { last, found });
    assert_eq!(follow(&[0, 1, 2]), Ok(()));
    assert_eq!(follow(&[1]), sequence(0, 2));
    assert_eq!(follow(&[0, 2]), sequence(1, 3));
    assert_eq!(follow(&[0, 0]), sequence(1, 1));
    assert_eq!(follow(&[0, 1, 0]), sequence(2, 1));
    assert_eq!(follow(&[1, 0, 2]), sequence(0, 2));
    assert_eq!(follow(&[0, 2, 1]), sequence(1, 3));
}

#[test]
fn records_from_elsewhere_are_found() {
    let (world, mut other) = (world(), world());
    let network = world.network().unwrap();
    let mut chains = Chains::new(country("DE"));
    let mut own = Sender::new(&world, "NL", "DE");
    chains.append(&verified(&own.send(Level::Whole), &network)).unwrap();

    let foreign = verified(&Sender::new(&world, "NL", "FR").send(Level::Whole), &network);
    assert_eq!(chains.append(&foreign), Err(Break::Destination(country("FR"))));
    // Another chain's number two is nobody's number two.
    let mut fr = Sender::new(&world, "FR", "DE");
    fr.send(Level::Whole);
    let second = verified(&fr.send(Level::Whole), &network);
    assert_eq!(chains.append(&second), Err(Break::Sequence { last: 0, found: 2 }));
    // The right number behind another history.
    let mut fork = Sender::new(&world, "NL", "DE");
    fork.send(Level::Subset);
    assert_eq!(chains.append(&verified(&fork.send(Level::Whole), &network)), Err(Break::Predecessor(1)));

    // Another network of the same name has other keys; one of another name is told apart by it.
    let refused = |other: &World| {
        VerifiedBatch::verify(&Sender::new(other, "NL", "DE").send(Level::Whole), &*network).err()
    };
    assert_eq!(refused(&other), Some(Break::Signature));
    other.document.network = "other".into();
    assert_eq!(refused(&other), Some(Break::Network("other".into())));
    other.document.version = 2;
    assert_eq!(refused(&other), Some(Break::NetworkVersion(2)));
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
fn checkpoints_show_what_is_missing_and_can_not_change() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    let mut chains = Chains::new(country("DE"));
    assert_eq!(chains.checkpoint(&sender.checkpoint(), &network), Ok(()), "before the first batch");
    chains.append(&verified(&sender.send(Level::Whole), &network)).unwrap();
    let first = sender.checkpoint();
    assert_eq!(chains.checkpoint(&first, &network), Ok(()));
    let second = sender.send(Level::Subset);
    let truncated = Break::Checkpoint { stated: 2, received: 1 };
    assert_eq!(chains.checkpoint(&sender.checkpoint(), &network), Err(truncated));
    chains.append(&verified(&second, &network)).unwrap();
    assert_eq!(chains.checkpoint(&sender.checkpoint(), &network), Ok(()));
    assert_eq!(
        chains.checkpoint(&first, &network),
        Err(Break::Checkpoint { stated: 1, received: 2 }),
        "replayed"
    );
    // The same length with another history.
    let forked = Checkpoint { manifest: [1; 32], ..sender.checkpoint() }.signed(&world.hub_key);
    assert_eq!(chains.checkpoint(&forked, &network), Err(Break::Checkpoint { stated: 2, received: 2 }));
    let elsewhere = Sender::new(&world, "NL", "FR").checkpoint();
    assert_eq!(chains.checkpoint(&elsewhere, &network), Err(Break::Destination(country("FR"))));

    for (at, changed) in flips(&sender.checkpoint().to_avro()) {
        let Ok(changed) = Checkpoint::from_avro(changed.into()) else { continue };
        assert!(chains.checkpoint(&changed, &network).is_err(), "byte {at}");
        // Where nothing was received yet, the signature is all there is.
        assert!(Chains::new(country("DE")).checkpoint(&changed, &network).is_err(), "byte {at}");
    }
}

#[test]
fn verification_can_start_at_a_checkpoint() {
    let world = world();
    let network = world.network().unwrap();
    let mut sender = Sender::new(&world, "NL", "DE");
    sender.send(Level::Whole);
    let mut chains = Chains::new(country("DE"));
    chains.checkpoint(&sender.checkpoint(), &network).unwrap();
    let resumed = Chains::resume(country("DE"), chains.links().clone());
    let next = verified(&sender.send(Level::Whole), &network);
    for mut chains in [chains, resumed] {
        chains.append(&next).unwrap();
        assert_eq!(chains.links()[&country("NL")].at, Millis::from(NOW));
    }
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
