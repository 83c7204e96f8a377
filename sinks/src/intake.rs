//! What a country's worker has read and verified but not logged yet. Pure: records and network versions in, accepted
//! batches or a break out.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use keyferry_runtime::{codec::KeysRecord, network::Versions};
use keyferry_schemas::{
    avro::{AvroError, Record as _},
    batch::{Checkpoint, Manifest, SignedBatch},
    chain::{Break, Chains, Link, Proofs, VerifiedBatch},
    country::Country,
};

use crate::log::Sealed;

/// A batch that was verified by itself and as the next of its chain. Only [`Intake`] makes one.
pub struct Accepted {
    /// Offset of its record.
    pub(crate) offset: i64,
    pub(crate) batch: SignedBatch,
    /// The ends of all chains after it.
    pub(crate) links: BTreeMap<Country, Link>,
    pub(crate) complete: bool,
    manifest: Manifest,
    keys: usize,
}

impl Accepted {
    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many keys it has.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }
}

/// Where and why verification stopped. Its `Display` is one line without key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainBreak {
    /// Offset of the record.
    pub offset: i64,
    /// The origin it names, if it could be read that far; not verified.
    pub origin: Option<Country>,
    /// The sequence it names.
    pub sequence: Option<i64>,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a record of `keyferry.keys.<cc>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It has no value: somebody deleted what stood there.
    #[error("the record is a tombstone")]
    Tombstone,
    /// It is neither a batch nor a checkpoint.
    #[error("the record can not be decoded{}", Detail(.0))]
    Undecodable(AvroError),
    /// It does not verify.
    #[error(transparent)]
    Break(#[from] Break),
    /// It would bring a country its own keys back.
    #[error("it carries the country's own keys")]
    OwnKeys,
}

struct Detail<'a>(&'a AvroError);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // What the Avro library says may quote a value, which may be a key.
            AvroError::Resolve(_) => Ok(()),
            other => write!(f, ": {other}"),
        }
    }
}

impl fmt::Display for ChainBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}", self.offset)?;
        if let (Some(origin), Some(sequence)) = (self.origin, self.sequence) {
            write!(f, ", {origin} sequence {sequence}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ChainBreak {}

/// The log in the store and what was read here can not both be right; the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "another instance logged something else than what was read here; reading again from where its log ends"
)]
pub struct Diverged;

/// Verified and not yet logged.
pub struct Intake {
    destination: Country,
    chains: Chains,
    complete: bool,
    /// Number of the log object after which it goes on.
    stands_on: u64,
    /// Records before this offset were taken, here or by the instance that logged them.
    position: i64,
    pending: VecDeque<Accepted>,
}

impl Intake {
    /// Goes on where `head` ends. `gap`: the records before the first one on the topic are gone. After a head that may be
    /// transaction markers only, and if it was batches, the chains break.
    #[must_use]
    pub fn resume(destination: Country, head: Option<&Sealed>, gap: bool) -> Self {
        Self {
            destination,
            chains: Chains::resume(destination, head.map(|h| h.entry.links()).unwrap_or_default()),
            complete: head.map_or(!gap, |h| h.entry.complete),
            stands_on: head.map_or(0, |h| h.entry.number),
            position: head.map_or(0, |h| h.entry.next_offset),
            pending: VecDeque::new(),
        }
    }

    /// Verifies one record and keeps it if it is a batch. After an error nothing was kept. `proofs` is what was proven for
    /// other countries.
    ///
    /// # Errors
    /// [`ChainBreak`].
    pub fn take(
        &mut self,
        offset: i64,
        record: &Read,
        networks: &Versions,
        proofs: &Proofs,
    ) -> Result<(), ChainBreak> {
        if offset < self.position {
            return Ok(());
        }
        let taken = match record {
            Read::Nothing => Err(Reason::Tombstone),
            Read::Garbage(e) => Err(Reason::Undecodable(e.clone())),
            Read::Batch(batch) => self.batch(offset, batch, networks, proofs),
            Read::Checkpoint(checkpoint) => self.checkpoint(checkpoint, networks),
        };
        taken.map_err(|reason| {
            let (origin, sequence) = record.names();
            ChainBreak { offset, origin, sequence, reason }
        })?;
        self.position = offset + 1;
        Ok(())
    }

    fn batch(
        &mut self,
        offset: i64,
        batch: &SignedBatch,
        networks: &Versions,
        proofs: &Proofs,
    ) -> Result<(), Reason> {
        let verified = VerifiedBatch::verify_once(batch, networks, proofs)?;
        let manifest = verified.manifest();
        if manifest.origin == self.destination {
            return Err(Reason::OwnKeys);
        }
        if self.complete {
            self.chains.append(&verified)?;
        } else if self.chains.append_late(&verified)? {
            tracing::warn!(
                destination = %self.destination, origin = %manifest.origin, offset, sequence = manifest.sequence,
                "the start of this chain is no longer on the topic: it begins here, until a checkpoint says otherwise"
            );
        }
        self.pending.push_back(Accepted {
            offset,
            batch: batch.clone(),
            // That a chain was empty is known to whoever read the checkpoint that said so, and needs no log.
            links: self
                .chains
                .links()
                .iter()
                .filter(|(_, l)| l.sequence > 0)
                .map(|(o, l)| (*o, *l))
                .collect(),
            complete: self.complete,
            manifest: manifest.clone(),
            keys: verified.count(),
        });
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint, networks: &Versions) -> Result<(), Reason> {
        let held = if self.complete { Chains::checkpoint_of_all } else { Chains::checkpoint };
        Ok(held(&mut self.chains, checkpoint, networks)?)
    }

    /// Number of the log object after which it goes on; 0 before the first.
    #[must_use]
    pub fn stands_on(&self) -> u64 {
        self.stands_on
    }

    /// Offset of the next record to be taken.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Batches that wait to be logged, in order.
    #[must_use]
    pub fn pending(&self) -> &VecDeque<Accepted> {
        &self.pending
    }

    /// How many keys wait to be logged.
    #[must_use]
    pub fn pending_keys(&self) -> usize {
        self.pending.iter().map(Accepted::keys).sum()
    }

    /// Goes on after `head`, which holds batches that waited here, or batches that another instance has read.
    ///
    /// # Errors
    /// [`Diverged`] if it holds others than those that were read here.
    pub fn rebase(&mut self, head: &Sealed) -> Result<(), Diverged> {
        let next = head.entry.next_offset;
        if next > self.position {
            *self = Self::resume(self.destination, Some(head), false);
            return Ok(());
        }
        let logged = self.pending.iter().take_while(|b| b.offset < next).count();
        let last = self.pending.drain(..logged).last().ok_or(Diverged)?;
        // Their chains must end where ours ended after the same batch; version and time of a batch stand in its hash.
        let ends = |links: &BTreeMap<Country, Link>| -> Vec<_> {
            links.iter().map(|(origin, l)| (*origin, l.sequence, l.manifest)).collect()
        };
        if last.offset + 1 != next || ends(&last.links) != ends(&head.entry.links()) {
            return Err(Diverged);
        }
        self.stands_on = head.entry.number;
        Ok(())
    }
}

/// A record as it was decoded.
pub enum Read {
    /// No value.
    Nothing,
    /// No record known here.
    Garbage(AvroError),
    /// A batch.
    Batch(SignedBatch),
    /// A checkpoint.
    Checkpoint(Checkpoint),
}

impl Read {
    /// Takes over what the codec says.
    #[must_use]
    pub fn of(decoded: Option<Result<KeysRecord, AvroError>>) -> Self {
        match decoded {
            None => Self::Nothing,
            Some(Err(e)) => Self::Garbage(e),
            Some(Ok(KeysRecord::Batch(batch))) => Self::Batch(batch),
            Some(Ok(KeysRecord::Checkpoint(checkpoint))) => Self::Checkpoint(checkpoint),
        }
    }

    /// Whether the network version that it needs is known: it may be published a moment earlier than it is read here.
    #[must_use]
    pub fn is_decidable(&self, networks: &Versions) -> bool {
        match self {
            Self::Nothing | Self::Garbage(_) => true,
            Self::Batch(batch) => manifest(batch).is_none_or(|m| networks.contains_key(&m.network_version)),
            Self::Checkpoint(checkpoint) => networks.contains_key(&checkpoint.network_version),
        }
    }

    /// Origin and sequence, as far as it names them; not verified.
    fn names(&self) -> (Option<Country>, Option<i64>) {
        match self {
            Self::Nothing | Self::Garbage(_) => (None, None),
            Self::Batch(batch) => manifest(batch).map(|m| (m.origin, m.sequence)).unzip(),
            Self::Checkpoint(checkpoint) => (Some(checkpoint.origin), Some(checkpoint.sequence)),
        }
    }
}

fn manifest(batch: &SignedBatch) -> Option<Manifest> {
    Manifest::from_avro(batch.manifest.clone()).ok()
}
