//! What an origin's stream remembers between uploads, and the changes of a transaction that is not committed yet.
//!
//! The state is rebuilt from the head and the ledger at take-over, so everything in it must follow from these alone.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasherDefault,
};

use keyferry_schemas::{
    avro::Record,
    batch::sha256,
    country::Country,
    records::{ChainHead, Hash, Head, LedgerEntry, Outcome},
    rejection::Rejection,
    time::{Day, MILLIS_PER_DAY, Millis},
};

use crate::{
    fingerprint::{Facts, Fingerprint, Id, IdHasher, LENGTH, Secrets},
    seen::Seen,
};

/// A batch tag stays bound this long: shorter than the ledger is kept, so that a restored state binds the same tags.
const TAG_LIFE_MS: i64 = 16 * MILLIS_PER_DAY;

/// What a batch tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// SHA-256 of the canonical bytes of the upload.
    pub content: Hash,
    /// The same of the keys taken, where these were not all.
    pub accepted_content: Option<Hash>,
    /// Source offset of the upload.
    pub first_offset: i64,
    /// Which keys were refused, by canonical position, and why. Small: whoever sends its keys again and again, each time
    /// under another tag, is remembered for each.
    pub refused: Box<[(u16, Rejection)]>,
    bound_at: Millis,
}

/// Where the stream and its chains stand: small, and copied for a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Sequence of the last ledger entry.
    pub sequence: i64,
    /// Its hash.
    pub entry: Hash,
    /// Source offset of the last record decided; -1 before the first.
    pub source_offset: i64,
    /// The latest broker timestamp so far.
    pub now: Millis,
    /// When the chains were last stated in checkpoints; 0 if never.
    pub checkpoint_at: Millis,
    /// Network version of the last entry, or of the checkpoints after it.
    pub network_version: i64,
    /// End of each chain: sequence and manifest hash.
    pub chains: BTreeMap<Country, (i64, Hash)>,
}

/// The state of one origin's stream.
pub struct OriginState {
    origin: Country,
    position: Position,
    seen: Seen,
    tags: HashMap<Hash, Binding>,
    pending: Option<Pending>,
    /// While the ledger is replayed: the secrets that it names, each with the last day on which one of its fingerprints
    /// counts.
    named: HashMap<String, Day>,
}

/// Changes of the open transaction, on top of the state.
struct Pending {
    before: Position,
    seen: HashMap<Id, Facts, BuildHasherDefault<IdHasher>>,
    tags: HashMap<Hash, Binding>,
}

/// The ledger does not continue as it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerBreak {
    /// An entry is missing, doubled or out of order.
    #[error("ledger entry {found} follows {last}")]
    Sequence {
        /// Sequence of the entry before.
        last: i64,
        /// Sequence of this one.
        found: i64,
    },
    /// An entry is not the successor of the one before it.
    #[error("ledger entry {0} names another predecessor")]
    Predecessor(i64),
    /// The fingerprints are not a whole number of fingerprints.
    #[error("the fingerprints of ledger entry {0} are cut")]
    Fingerprints(i64),
    /// A reason that this build does not know: a newer one wrote it.
    #[error("ledger entry {0} refuses a key for {1:?}, which is not known here: is this an older build?")]
    Reason(i64, String),
    /// Keys are remembered under a secret that is not here, so they would count as new.
    #[error("keys are remembered under fingerprint secret {0:?}; name it as previous_fingerprint_secret")]
    Secret(String),
    /// Head and ledger were written together and say different things.
    #[error("the head stands at entry {head}, the ledger ends at {ledger}")]
    Head {
        /// Sequence in the head.
        head: i64,
        /// Sequence of the last entry.
        ledger: i64,
    },
}

impl OriginState {
    /// The state of an origin that never sent anything, whose first upload will stand at `first_offset`.
    #[must_use]
    pub fn new(origin: Country, first_offset: i64) -> Self {
        let position = Position {
            sequence: 0,
            entry: [0; 32],
            source_offset: first_offset - 1,
            now: Millis(0),
            checkpoint_at: Millis(0),
            network_version: 0,
            chains: BTreeMap::new(),
        };
        Self {
            origin,
            position,
            seen: Seen::default(),
            tags: HashMap::new(),
            pending: None,
            named: HashMap::new(),
        }
    }

    /// Restores the state from the ledger entries that are still there, in order, and the head written with the last.
    ///
    /// # Errors
    /// [`LedgerBreak`]
    pub fn restore(
        origin: Country,
        entries: impl IntoIterator<Item = LedgerEntry>,
        head: Option<&Head>,
        secrets: &Secrets,
    ) -> Result<Self, LedgerBreak> {
        let mut state = Self::new(origin, 0);
        let mut first = true;
        for entry in entries {
            state.replay(&entry, first)?;
            first = false;
        }
        state.finish(head, first, secrets)?;
        Ok(state)
    }

    /// Takes over one ledger entry. The first that is still there starts the chain: those before it have expired.
    ///
    /// # Errors
    /// [`LedgerBreak`]
    pub fn replay(&mut self, entry: &LedgerEntry, first: bool) -> Result<(), LedgerBreak> {
        let position = &mut self.position;
        if !first {
            if entry.sequence != position.sequence + 1 {
                return Err(LedgerBreak::Sequence { last: position.sequence, found: entry.sequence });
            }
            if entry.previous != position.entry {
                return Err(LedgerBreak::Predecessor(entry.sequence));
            }
        }
        if !entry.fingerprints.len().is_multiple_of(LENGTH) {
            return Err(LedgerBreak::Fingerprints(entry.sequence));
        }
        position.sequence = entry.sequence;
        position.entry = sha256(&entry.to_avro());
        position.source_offset = entry.source_offset;
        position.now = entry.now;
        position.network_version = entry.network_version;
        for delivery in &entry.deliveries {
            position.chains.insert(delivery.destination, (delivery.sequence, delivery.manifest));
        }
        for bytes in entry.fingerprints.chunks_exact(LENGTH) {
            let print = Fingerprint::from_bytes(&std::array::from_fn(|i| bytes[i]));
            match self.named.get_mut(&entry.fingerprint_key) {
                Some(last) => *last = print.facts.last_day.max(*last),
                None => drop(self.named.insert(entry.fingerprint_key.clone(), print.facts.last_day)),
            }
            self.seen.insert(&print);
        }
        if let Some((tag, binding)) = binding_of(entry)? {
            self.tags.insert(tag, binding);
        }
        Ok(())
    }

    /// Ends a restoration: the head carries what the ledger may have lost to its retention.
    ///
    /// # Errors
    /// [`LedgerBreak`] if head and ledger disagree, or keys are remembered that can not be known again.
    pub fn finish(
        &mut self,
        head: Option<&Head>,
        ledger_is_empty: bool,
        secrets: &Secrets,
    ) -> Result<(), LedgerBreak> {
        let position = &mut self.position;
        let stated = head.map_or((0, [0; 32]), |h| (h.sequence, h.entry));
        if !ledger_is_empty && stated != (position.sequence, position.entry) {
            return Err(LedgerBreak::Head { head: stated.0, ledger: position.sequence });
        }
        if let Some(head) = head {
            position.sequence = head.sequence;
            position.entry = head.entry;
            position.source_offset = head.source_offset;
            position.now = head.now;
            position.checkpoint_at = head.checkpoint_at;
            position.network_version = head.network_version;
            position.chains = head.chains.iter().map(|c| (c.destination, (c.sequence, c.manifest))).collect();
        }
        let today = self.position.now.day();
        let unknown = |(name, last): &(String, Day)| *last >= today && !secrets.knows(name);
        if let Some((name, _)) = std::mem::take(&mut self.named).into_iter().find(unknown) {
            return Err(LedgerBreak::Secret(name));
        }
        self.forget();
        Ok(())
    }

    /// The origin.
    #[must_use]
    pub fn origin(&self) -> Country {
        self.origin
    }

    /// Where the stream stands, uncommitted steps included.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Number of keys remembered and committed.
    #[must_use]
    pub fn seen_keys(&self) -> usize {
        self.seen.len()
    }

    /// Memory of the keys remembered, in bytes.
    #[must_use]
    pub fn seen_bytes(&self) -> usize {
        self.seen.bytes()
    }

    /// Has what is remembered of these keys fetched before it is asked for: see [`Seen::fetch`].
    pub fn fetch<'i>(&self, ids: impl Iterator<Item = &'i Id>) {
        self.seen.fetch(ids);
    }

    /// What is remembered of a key; nothing once it can not be uploaded any more.
    #[must_use]
    pub fn seen(&self, id: &Id) -> Option<Facts> {
        let pending = self.pending.as_ref().and_then(|p| p.seen.get(id).copied());
        pending.or_else(|| self.seen.get(id)).filter(|facts| facts.last_day >= self.position.now.day())
    }

    /// What a batch tag stands for.
    #[must_use]
    pub fn tag(&self, tag: &str) -> Option<&Binding> {
        let key = sha256(tag.as_bytes());
        let pending = self.pending.as_ref().and_then(|p| p.tags.get(&key));
        pending.or_else(|| self.tags.get(&key)).filter(|b| self.position.now.since(b.bound_at) < TAG_LIFE_MS)
    }

    /// Moves "now" forward to the timestamp of the next record; never back.
    pub fn advance(&mut self, timestamp: Millis) {
        self.begin();
        self.position.now = self.position.now.max(timestamp);
    }

    /// Takes over an entry that was just decided, with the hash of its Avro binary and the keys it took.
    pub fn apply(&mut self, entry: &LedgerEntry, hash: Hash, taken: &[Fingerprint]) {
        let position = &mut self.position;
        position.sequence = entry.sequence;
        position.entry = hash;
        position.source_offset = entry.source_offset;
        position.network_version = entry.network_version;
        for delivery in &entry.deliveries {
            position.chains.insert(delivery.destination, (delivery.sequence, delivery.manifest));
        }
        let pending = self.begin();
        pending.seen.reserve(taken.len());
        pending.seen.extend(taken.iter().map(|p| (p.id, p.facts)));
        // Its reasons are our own.
        if let Ok(Some((tag, binding))) = binding_of(entry) {
            pending.tags.insert(tag, binding);
        }
    }

    /// Notes that the chains are stated in checkpoints, under this version of the network document: no batch after them
    /// may be decided under an earlier one.
    pub fn stated(&mut self, at: Millis, network_version: i64) {
        self.begin();
        (self.position.checkpoint_at, self.position.network_version) = (at, network_version);
    }

    fn begin(&mut self) -> &mut Pending {
        let before = &self.position;
        self.pending.get_or_insert_with(|| Pending {
            before: before.clone(),
            seen: HashMap::default(),
            tags: HashMap::new(),
        })
    }

    /// The transaction was committed: its changes are the state now.
    pub fn commit(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        for (id, facts) in pending.seen {
            self.seen.insert(&Fingerprint { id, facts });
        }
        self.tags.extend(pending.tags);
        if pending.before.now.day() != self.position.now.day() {
            self.forget();
        }
    }

    /// The transaction was aborted: its changes never happened.
    pub fn abort(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.position = pending.before;
        }
    }

    /// The head that goes with the last entry.
    #[must_use]
    pub fn head(&self) -> Head {
        let p = &self.position;
        let chains = p.chains.iter().map(|(destination, (sequence, manifest))| ChainHead {
            destination: *destination,
            sequence: *sequence,
            manifest: *manifest,
        });
        Head {
            origin: self.origin,
            sequence: p.sequence,
            entry: p.entry,
            source_offset: p.source_offset,
            now: p.now,
            checkpoint_at: p.checkpoint_at,
            network_version: p.network_version,
            chains: chains.collect(),
        }
    }

    fn forget(&mut self) {
        let now = self.position.now;
        self.seen.forget_before(now.day());
        self.tags.retain(|_, b| now.since(b.bound_at) < TAG_LIFE_MS);
    }
}

/// The binding that an entry makes: only an upload that was taken binds its tag.
fn binding_of(entry: &LedgerEntry) -> Result<Option<(Hash, Binding)>, LedgerBreak> {
    let taken = matches!(entry.outcome, Outcome::Accepted | Outcome::Partial);
    let (Some(tag), Some(content), true) = (&entry.batch_tag, entry.content, taken) else { return Ok(None) };
    let refused = entry.verdicts.iter().map(|v| {
        let unknown = || LedgerBreak::Reason(entry.sequence, v.code.clone());
        let reason = Rejection::from_code(&v.code).ok_or_else(unknown)?;
        // No upload has more keys than this counts.
        Ok((u16::try_from(v.position).unwrap_or(u16::MAX), reason))
    });
    let refused: Box<[_]> = refused.collect::<Result<_, LedgerBreak>>()?;
    // Where nothing was taken, and for other reasons than that it was there, there is nothing to repeat: it is judged
    // afresh when it comes again.
    if entry.keys_accepted == 0 && refused.iter().any(|(_, reason)| *reason != Rejection::Duplicate) {
        return Ok(None);
    }
    let binding = Binding {
        content,
        accepted_content: entry.accepted_content,
        first_offset: entry.source_offset,
        refused,
        bound_at: entry.now,
    };
    Ok(Some((sha256(tag.as_bytes()), binding)))
}
