//! Each batch by itself, and the chains they form.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    codec::KeysRecord,
    network::Versions,
};
use keyferry_schemas::{
    avro::Record as _,
    batch::{Checkpoint, Manifest, SignedBatch},
    chain::{Break, Chains, VerifiedBatch},
    country::Country,
    network::MemberState,
    time::Millis,
};

use super::report::{Chain, Identity, Line, Report, begins, level, origin_signature, unproven};

/// Where a chain may begin, besides at its first batch and at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// Nowhere: everything is here.
    First,
    /// In its middle, if a later checkpoint confirms it: what stood before is gone by law.
    Confirmed,
    /// In its middle: only these batches are to be proven.
    Anywhere,
}

/// A walk along the batches for one country.
pub(super) struct Walk<'a> {
    versions: &'a Versions,
    /// Known from the first batch on, unless given.
    destination: Option<Country>,
    chains: Option<Chains>,
    begin: Begin,
    first: BTreeMap<Country, i64>,
    /// Chains that began at a checkpoint.
    from_checkpoint: BTreeSet<Country>,
    /// The last checkpoint that confirmed each.
    stated: BTreeMap<Country, Millis>,
    pub(super) report: Report,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        source: String,
        versions: &'a Versions,
        destination: Option<Country>,
        begin: Begin,
    ) -> Self {
        Self {
            versions,
            destination,
            chains: destination.map(Chains::new),
            begin,
            first: BTreeMap::new(),
            from_checkpoint: BTreeSet::new(),
            stated: BTreeMap::new(),
            report: Report { source, ..Report::default() },
        }
    }

    /// Takes the next record; after a fault nothing more. The fault says where.
    pub(super) fn take(&mut self, place: String, record: &KeysRecord) -> Result<(), String> {
        let taken = match record {
            KeysRecord::Batch(batch) => self.batch(&place, batch),
            KeysRecord::Checkpoint(checkpoint) => {
                let origin = checkpoint.origin;
                self.checkpoint(checkpoint).map_err(|e| format!("checkpoint from {origin}: {e}"))
            }
        };
        taken.map_err(|e| format!("{place}: {e}"))
    }

    fn batch(&mut self, place: &str, batch: &SignedBatch) -> Result<(), String> {
        let verified = VerifiedBatch::verify(batch, self.versions).map_err(|e| {
            // Not verified, but it says where to look.
            let named = Manifest::from_avro(batch.manifest.clone()).ok();
            let named = named.map(|m| format!("{} sequence {}: ", m.origin, m.sequence));
            format!("{}{}", named.unwrap_or_default(), self.advise(&e))
        })?;
        let manifest = verified.manifest();
        let (origin, sequence) = (manifest.origin, manifest.sequence);
        let destination = *self.destination.get_or_insert(manifest.destination);
        if origin == destination {
            return Err(format!("{origin} sequence {sequence}: it carries the country's own keys"));
        }
        let chains = self.chains.get_or_insert_with(|| Chains::new(destination));
        let appended = match self.begin {
            Begin::First => chains.append(&verified),
            Begin::Confirmed | Begin::Anywhere => chains.append_late(&verified).map(drop),
        };
        appended.map_err(|e| format!("{origin} sequence {sequence}: {e}"))?;
        self.first.entry(origin).or_insert(sequence);
        self.report.batches.push(Line {
            place: place.to_owned(),
            origin: origin.to_string(),
            sequence,
            keys: u64::try_from(verified.count()).unwrap_or(u64::MAX),
            level: level(manifest.level),
            keys_present: true,
            origin_signature: origin_signature(level(manifest.level), true),
            identity: Some(Identity {
                upload_id: hex::encode(manifest.upload_id),
                manifest_sha256: hex::encode(verified.hash()),
                canonical_sha256: hex::encode(manifest.canonical),
            }),
        });
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        let destination = *self.destination.get_or_insert(checkpoint.destination);
        let chains = self.chains.get_or_insert_with(|| Chains::new(destination));
        let held = if self.begin == Begin::First { Chains::checkpoint_of_all } else { Chains::checkpoint };
        held(chains, checkpoint, self.versions).map_err(|e| self.advise(&e))?;
        self.report.checkpoints += 1;
        self.stated.insert(checkpoint.origin, checkpoint.at);
        if let Entry::Vacant(first) = self.first.entry(checkpoint.origin) {
            first.insert(checkpoint.sequence.saturating_add(1));
            self.from_checkpoint.insert(checkpoint.origin);
        }
        Ok(())
    }

    fn advise(&self, reason: &Break) -> String {
        match reason {
            Break::NetworkVersion(_) => {
                let known: Vec<_> = self.versions.keys().map(ToString::to_string).collect();
                format!(
                    "{reason}; known are {}: add it with --network FILE or --network-topic",
                    known.join(", ")
                )
            }
            other => other.to_string(),
        }
    }

    /// The first member that did not state its chain in the last `within_s` seconds before `now`.
    pub(super) fn silent(&self, within_s: u32, now: Millis) -> Option<String> {
        let (network, destination) = (self.versions.values().next_back()?, self.destination?);
        let states = |c: Country| {
            c != destination && matches!(network.state(c, now), MemberState::Active | MemberState::Paused)
        };
        network.countries().filter(|c| states(*c)).find_map(|origin| {
            let last = self.stated.get(&origin);
            let recent = last.is_some_and(|at| now.since(*at) / 1000 <= i64::from(within_s));
            let last = last.map_or("never".to_owned(), |at| format!("last at {at}"));
            (!recent).then(|| {
                format!("the chain from {origin} was stated {last}, and not within {within_s} s: its processor stands still, or the end of the topic is cut off")
            })
        })
    }

    /// What was found, with the fault if there was one.
    pub(super) fn end(mut self, fault: Option<String>) -> Report {
        self.report.destination = self.destination.map(|c| c.to_string());
        let now = SystemClock.now();
        for (origin, link) in self.chains.iter().flat_map(|c| c.links()) {
            let first = self.first.get(origin).copied().unwrap_or(link.sequence);
            let stated = self.stated.get(origin);
            let chain = Chain {
                first_sequence: first,
                last_sequence: link.sequence,
                last_manifest_sha256: hex::encode(link.manifest),
                begins: begins(first, self.from_checkpoint.contains(origin), stated.is_some()),
                stated_at: stated.map(ToString::to_string),
                stated_age_s: stated.map(|at| now.since(*at) / 1000),
            };
            self.report.chains.insert(origin.to_string(), chain);
        }
        let unproven = || unproven(&self.report.chains).filter(|_| self.begin == Begin::Confirmed);
        self.report.fault = fault.or_else(unproven);
        self.report
    }
}
