//! Stage 4. One Ed25519 signature for each destination, over a manifest that fixes content, order and predecessor.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use keyferry_schemas::{
    avro::Record,
    batch::{Checkpoint, Level, MANIFEST_VERSION, Manifest, SignedBatch, bitmap, sha256, sign_manifest},
    country::Country,
    efgs,
    network::Network,
    records::Hash,
    time::Millis,
};

use crate::{
    state::Position,
    tag::{Choice, Route, Tagged},
    validate::int,
};

/// A signing key with the name under which the network document publishes it.
pub struct Signer {
    name: String,
    key: SigningKey,
}

impl Signer {
    /// Takes a key over. It is wiped when this is dropped.
    #[must_use]
    pub fn new(name: String, key: SigningKey) -> Self {
        Self { name, key }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same checkpoint, signed.
    #[must_use]
    pub fn checkpoint(&self, checkpoint: Checkpoint) -> Checkpoint {
        checkpoint.signed(&self.key)
    }

    /// Whether the network publishes this very key under this name, in force at `now`.
    #[must_use]
    pub fn in_force(&self, network: &Network, now: Millis) -> bool {
        network.signing_key(&self.name, now) == Some(&self.key.verifying_key())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, redacted)", self.name)
    }
}

/// A batch that is ready to go, and what the ledger says of it.
pub struct Signed {
    pub(crate) destination: Country,
    pub(crate) sequence: i64,
    pub(crate) manifest: Hash,
    pub(crate) new_keys: usize,
    pub(crate) batch: SignedBatch,
}

/// Signs what goes to each destination.
#[must_use]
pub fn sign(tagged: &Tagged<'_>, position: &Position, network: &Network, signer: &Signer) -> Vec<Signed> {
    // The same keys are the same bytes for every destination: encoded, hashed once.
    let mut made: Vec<(&Arc<Choice>, Parts)> = Vec::new();
    let mut sealed = Vec::with_capacity(tagged.routes.len());
    for route in &tagged.routes {
        let choice = &route.choice;
        let same = |other: &Arc<Choice>| {
            Arc::ptr_eq(other, choice) || (other.level, choice.level) == (Level::Whole, Level::Whole)
        };
        let parts = match made.iter().find(|(other, _)| same(other)) {
            Some((_, parts)) => parts.clone(),
            None => {
                let parts = Parts::of(tagged, choice);
                made.push((choice, parts.clone()));
                parts
            }
        };
        sealed.push(seal(tagged, route, parts, position, network, signer));
    }
    sealed
}

/// The parts of a batch that do not depend on its destination, with their hashes.
#[derive(Clone)]
struct Parts {
    keys: Bytes,
    new: Bytes,
    origin_signature: Option<Bytes>,
    canonical: Hash,
    hashes: [Hash; 3],
}

impl Parts {
    fn of(tagged: &Tagged<'_>, choice: &Choice) -> Self {
        let upload = &tagged.deduplicated;
        let new = bitmap(choice.keys.iter().map(|i| upload.fates[*i].is_taken()));
        let whole = choice.level == Level::Whole;
        let (keys, content) = if whole {
            upload.verified.whole.clone()
        } else {
            let keys = efgs::encode_protobuf(choice.keys.iter().map(|i| &upload.verified.keys[*i]));
            let content = sha256(&keys);
            (keys.into(), content)
        };
        let origin_signature = whole.then(|| upload.verified.upload.batch_signature.clone());
        let canonical = if whole {
            upload.verified.content
        } else {
            // `choice.keys` is in canonical order, so membership is a walk along it.
            let mut next = choice.keys.iter().peekable();
            sha256(&upload.verified.canonical.bytes_of(|index| next.next_if_eq(&&index).is_some()))
        };
        let hashes = [content, sha256(&new), sha256(origin_signature.as_deref().unwrap_or_default())];
        Self { keys, new: new.into(), origin_signature, canonical, hashes }
    }
}

fn seal(
    tagged: &Tagged<'_>,
    route: &Route,
    parts: Parts,
    position: &Position,
    network: &Network,
    signer: &Signer,
) -> Signed {
    let verified = &tagged.deduplicated.verified;
    let upload = &verified.upload;
    let (last, previous) = position.chains.get(&route.destination).copied().unwrap_or((0, [0; 32]));
    let sequence = last + 1;
    let [content, bitmap, origin_signature] = parts.hashes;
    let manifest = Manifest {
        schema_version: MANIFEST_VERSION,
        network: network.name().to_owned(),
        network_version: network.version(),
        batch_id: format!("{}-{}-{sequence}", upload.origin, route.destination),
        origin: upload.origin,
        destination: route.destination,
        sequence,
        previous,
        upload_id: upload.upload_id,
        batch_tag: upload.batch_tag.clone(),
        kind: upload.kind,
        keys: int(route.choice.keys.len()),
        level: route.choice.level,
        canonical: parts.canonical,
        content,
        bitmap,
        origin_signature,
        client_certificate: upload.client_certificate,
        signing_certificate: verified.signing_certificate,
        agreement: route.agreement,
        data_class: route.data_class,
        created_at: position.now,
        signing_key: signer.name.clone(),
    };
    let bytes = manifest.to_avro();
    Signed {
        destination: route.destination,
        sequence,
        manifest: sha256(&bytes),
        new_keys: route.choice.new_keys,
        batch: SignedBatch {
            signature: sign_manifest(&signer.key, &bytes),
            manifest: bytes.into(),
            keys: parts.keys,
            new: parts.new,
            origin_signature: parts.origin_signature,
        },
    }
}
