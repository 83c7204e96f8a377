//! What was proven of the content of batches lately.
//!
//! One upload goes to many countries with the same keys, and a service that serves several of them would decode the same
//! bytes, write the same canonical form and verify the same signature of the origin again and again. What was proven once
//! under the same inputs, all of them, holds; each destination pays for the hash of the bytes it got and for Keyferry's
//! signature.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Break, content};
use crate::{
    batch::{Level, Manifest, SignedBatch},
    country::Country,
    network::Network,
    records::Hash,
    time::Millis,
};

/// How much is remembered: some megabyte.
const KEPT: usize = 4096;
/// Keys of one batch have few report types, there being few; of others nothing is remembered.
const MAX_TYPES: usize = 16;

/// What a manifest claims of the content that comes with it, and everything that the proof rests on: by hash, where it is
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// The exact text of the network document, and its anchors: members, aliases, certificates.
    network: Hash,
    /// The key bytes.
    content: Hash,
    /// How many keys they are.
    keys: i32,
    /// Their canonical form.
    canonical: Hash,
    /// Whose they are.
    origin: Country,
    /// Whether the origin signed them as they are, and that signature.
    level: Level,
    origin_signature: Hash,
    /// By whom, and when that certificate had to be in force.
    signing_certificate: Hash,
    created_at: Millis,
}

impl Claim {
    /// What this manifest claims. That the hashes are those of the parts that came is not asked here.
    pub fn of(manifest: &Manifest, network: &Network) -> Self {
        Self {
            network: network.inputs(),
            content: manifest.content,
            keys: manifest.keys,
            canonical: manifest.canonical,
            origin: manifest.origin,
            level: manifest.level,
            origin_signature: manifest.origin_signature,
            signing_certificate: manifest.signing_certificate,
            created_at: manifest.created_at,
        }
    }
}

/// The report types of keys, which say under which agreements they may go out.
pub(super) type Types = Arc<BTreeSet<i32>>;

/// A memory of proofs, to be shared by those who verify batches for several destinations. Bounded; only what held is
/// remembered.
#[derive(Default)]
pub struct Proofs {
    memory: Mutex<Memory>,
    settled: Condvar,
}

#[derive(Default)]
struct Memory {
    known: HashMap<Claim, Proof>,
    /// Those that hold, the oldest first.
    order: VecDeque<Claim>,
}

enum Proof {
    /// Somebody is at it.
    Underway,
    Holds(Types),
}

impl Proofs {
    /// How many proofs are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memory().order.len()
    }

    /// The report types of the keys, if the claim holds. While another thread looks into the same claim, this one waits for
    /// it; no lock is held meanwhile.
    pub(super) fn types(
        &self,
        claim: Claim,
        batch: &SignedBatch,
        (manifest, network): (&Manifest, &Network),
    ) -> Result<Types, Break> {
        let mut memory = self.memory();
        loop {
            match memory.known.get(&claim) {
                Some(Proof::Holds(types)) => return Ok(Arc::clone(types)),
                Some(Proof::Underway) => {
                    memory = self.settled.wait(memory).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        memory.known.insert(claim.clone(), Proof::Underway);
        drop(memory);
        let mut attempt = Attempt { proofs: self, claim, types: None };
        let types = content(batch, manifest, network)?;
        attempt.types = (types.len() <= MAX_TYPES).then(|| Arc::clone(&types));
        Ok(types)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // No change under this lock is left half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look into a claim. However it ends, whoever waits for it goes on.
struct Attempt<'p> {
    proofs: &'p Proofs,
    claim: Claim,
    types: Option<Types>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut memory = self.proofs.memory();
        match self.types.take() {
            None => {
                memory.known.remove(&self.claim);
            }
            Some(types) => {
                memory.known.insert(self.claim.clone(), Proof::Holds(types));
                memory.order.push_back(self.claim.clone());
                if memory.order.len() > KEPT
                    && let Some(oldest) = memory.order.pop_front()
                {
                    memory.known.remove(&oldest);
                }
            }
        }
        drop(memory);
        self.proofs.settled.notify_all();
    }
}
