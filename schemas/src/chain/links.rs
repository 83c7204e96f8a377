//! The chains: each batch follows the one before it, and a checkpoint states where they end.

use std::collections::BTreeMap;

use super::{Break, Networks, VerifiedBatch};
use crate::{
    batch::{Checkpoint, Manifest},
    country::Country,
    records::Hash,
    time::Millis,
};

/// How far the chain from one origin goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Sequence of the last batch; 0 if a checkpoint states that there was none.
    pub sequence: i64,
    /// SHA-256 of its manifest; zeros if there was none.
    pub manifest: Hash,
    /// Version of the network document that was applied, to the batch or to the checkpoint that the chain begins at.
    pub network_version: i64,
    /// When that was made, by the pipeline's clock.
    pub at: Millis,
}

impl Link {
    /// What the first batch of a chain follows.
    pub const START: Self = Self { sequence: 0, manifest: [0; 32], network_version: 0, at: Millis(i64::MIN) };

    /// The end of a chain whose last batch has this manifest, of this SHA-256.
    #[must_use]
    pub fn of(manifest: &Manifest, hash: Hash) -> Self {
        Self {
            sequence: manifest.sequence,
            manifest: hash,
            network_version: manifest.network_version,
            at: manifest.created_at,
        }
    }

    /// The end of this chain after a batch with this manifest, of this SHA-256: the one rule of what may follow what.
    ///
    /// Neither network version nor time may fall. A batch is verified under the version and the time that it names
    /// itself, so without this a signing key that was withdrawn could add to any chain by naming the past.
    ///
    /// # Errors
    /// A [`Break`] if it does not follow.
    pub fn next(&self, manifest: &Manifest, hash: Hash) -> Result<Self, Break> {
        let found = Self::of(manifest, hash);
        if Some(found.sequence) != self.sequence.checked_add(1) {
            return Err(Break::Sequence { last: self.sequence, found: found.sequence });
        }
        if manifest.previous != self.manifest {
            return Err(Break::Predecessor(self.sequence));
        }
        self.not_older(found.network_version)?;
        if found.at < self.at {
            return Err(Break::TimeFell(self.sequence));
        }
        Ok(found)
    }

    fn not_older(&self, found: i64) -> Result<(), Break> {
        let last = self.network_version;
        if found < last { Err(Break::NetworkVersionFell { last, found }) } else { Ok(()) }
    }
}

/// All chains that end at one destination, each at its last verified batch.
#[derive(Debug, Clone)]
pub struct Chains {
    destination: Country,
    links: BTreeMap<Country, Link>,
}

impl Chains {
    /// Chains of which nothing was received yet.
    #[must_use]
    pub fn new(destination: Country) -> Self {
        Self { destination, links: BTreeMap::new() }
    }

    /// Chains that were verified up to `links` before.
    #[must_use]
    pub fn resume(destination: Country, links: BTreeMap<Country, Link>) -> Self {
        Self { destination, links }
    }

    /// The end of each chain.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<Country, Link> {
        &self.links
    }

    /// Appends a verified batch.
    ///
    /// # Errors
    /// A [`Break`] if it is for another country, or does not follow the batch before it; the chain stays as it was.
    pub fn append(&mut self, batch: &VerifiedBatch) -> Result<(), Break> {
        let manifest = batch.manifest();
        if manifest.destination != self.destination {
            return Err(Break::Destination(manifest.destination));
        }
        let last = self.links.get(&manifest.origin).unwrap_or(&Link::START);
        let link = last.next(manifest, batch.hash())?;
        self.links.insert(manifest.origin, link);
        Ok(())
    }

    /// Appends a verified batch where the first ones may have expired: a chain of which nothing was received begins in its
    /// middle, and of what came before nothing is known but the hash, which this batch names. Tells whether it did.
    ///
    /// # Errors
    /// As [`Chains::append`].
    pub fn append_late(&mut self, batch: &VerifiedBatch) -> Result<bool, Break> {
        let manifest = batch.manifest();
        let late = manifest.sequence > 1 && !self.links.contains_key(&manifest.origin);
        if late {
            let before = Link {
                sequence: manifest.sequence.saturating_sub(1),
                manifest: manifest.previous,
                ..Link::of(manifest, [0; 32])
            };
            self.links.insert(manifest.origin, before);
        }
        let appended = self.append(batch).map(|()| late);
        appended.inspect_err(|_| _ = late.then(|| self.links.remove(&manifest.origin)))
    }

    /// The same where nothing has expired: then a chain begins at its first batch, and a checkpoint that states more than
    /// was received shows what is missing.
    ///
    /// # Errors
    /// As [`Chains::checkpoint`].
    pub fn checkpoint_of_all(
        &mut self,
        checkpoint: &Checkpoint,
        networks: &impl Networks,
    ) -> Result<(), Break> {
        let before = self.links.get(&checkpoint.origin).copied();
        self.checkpoint(checkpoint, networks)?;
        if before.is_none() && checkpoint.sequence > 0 {
            self.links.remove(&checkpoint.origin);
            return Err(Break::Checkpoint { stated: checkpoint.sequence, received: 0 });
        }
        Ok(())
    }

    /// Holds a checkpoint against what was received; where nothing was, verification starts there.
    ///
    /// # Errors
    /// A [`Break`] if its signature does not hold under the network version that it names, if that is older than what
    /// the chain ends with, or if it states another end of the chain.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint, networks: &impl Networks) -> Result<(), Break> {
        if checkpoint.destination != self.destination {
            return Err(Break::Destination(checkpoint.destination));
        }
        let network = networks
            .version(checkpoint.network_version)
            .ok_or(Break::NetworkVersion(checkpoint.network_version))?;
        if checkpoint.network != network.name() {
            return Err(Break::Network(checkpoint.network.clone()));
        }
        let key = network
            .signing_key(&checkpoint.signing_key, checkpoint.at)
            .ok_or_else(|| Break::SigningKey(checkpoint.signing_key.clone()))?;
        if !checkpoint.holds(key) {
            return Err(Break::Signature);
        }
        let stated = Link {
            sequence: checkpoint.sequence,
            manifest: checkpoint.manifest,
            network_version: checkpoint.network_version,
            at: checkpoint.now,
        };
        let received = self.links.get(&checkpoint.origin).copied();
        // An empty chain looks the same to everybody.
        if let Some(link) = received.or((stated.sequence < 1).then_some(Link::START)) {
            link.not_older(stated.network_version)?;
            if (link.sequence, link.manifest) != (stated.sequence, stated.manifest) {
                return Err(Break::Checkpoint { stated: stated.sequence, received: link.sequence });
            }
        }
        // That nothing came yet is kept as well: from here on no batch may be missing.
        self.links.entry(checkpoint.origin).or_insert(stated);
        Ok(())
    }
}
