//! Verification of a whole store, for `keyferry verify`.
//!
//! Nothing is believed that the store says about itself: every log object is made anew from its predecessor and the
//! signed batches in it, and has to come out the same. Where keys are erased, as the law asks, Keyferry's signature, the
//! chain, and every hash but those of the keys still have to hold. The origin's signature was over the keys: it can not be
//! verified any more.
//!
//! What can not be seen here: that the newest log object was taken away, since an instance that is killed while it writes
//! leaves a store in the same state. The topic shows it, as long as it has the records.

use std::collections::BTreeMap;

use bytes::Bytes;

use keyferry_schemas::{
    batch::sha256,
    chain::{Break, Link, Networks, VerifiedBatch, verify_sealed},
    country::Country,
    time::Millis,
};

use crate::{
    log::{Entry, LevelName, Sealed, Upload},
    shelf::Shelf,
    store::StoreError,
    tag::BatchTag,
};

/// What a store was found to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Every signed batch, in order.
    pub batches: Vec<Verified>,
    /// Ends of the chains.
    pub chains: BTreeMap<Country, Link>,
    /// By origin, the sequence after which verification starts. If it is not 0, the store does not prove what came before:
    /// it began at a checkpoint, which is not in the store.
    pub starts: BTreeMap<Country, i64>,
    /// The first fault; nothing after it was verified.
    pub fault: Option<Fault>,
}

/// One signed batch that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The download batch it stands in.
    pub tag: BatchTag,
    /// Whose keys they are.
    pub origin: Country,
    /// Sequence on the chain from there.
    pub sequence: i64,
    /// How many keys it has.
    pub keys: u64,
    /// What proves their origin.
    pub level: LevelName,
    /// Whether the keys themselves were there to be verified.
    pub keys_present: bool,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log object {number}: {what}")]
pub struct Fault {
    /// In which log object.
    pub number: u64,
    /// What.
    pub what: Wrong,
}

/// What is wrong with a log object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is not there, and later ones are.
    #[error("it is gone")]
    Missing,
    /// Its keys are not there, and should be.
    #[error("its keys are gone before their time")]
    Gone,
    /// It or its data object is not what it should be.
    #[error("{name}: {reason}")]
    Object {
        /// Which object.
        name: String,
        /// Why.
        reason: String,
    },
    /// It does not follow the one before it, or its uploads are out of order.
    #[error("it does not follow the log object before it")]
    Order,
    /// Its data object does not divide into its uploads.
    #[error("its data object is not the keys of its uploads")]
    Data,
    /// A batch does not verify.
    #[error("{origin} sequence {sequence}: {reason}")]
    Batch {
        /// As the log says.
        origin: Country,
        /// As the log says.
        sequence: i64,
        /// Why.
        reason: Break,
    },
    /// Its tag, times, offsets, sums or chains do not follow from its uploads.
    #[error("it says of its uploads what does not follow from them")]
    Entry,
}

/// Verifies the log of one country from its first object to its end, and all keys that are still there. Those of uploads
/// up to `erased_until` may be gone, see [`crate::config::may_be_gone`].
///
/// # Errors
/// [`StoreError::Unavailable`]. What is wrong with the content stands in the report.
pub async fn verify_store(
    shelf: &Shelf,
    networks: &impl Networks,
    erased_until: Millis,
) -> Result<Report, StoreError> {
    // Asked first: what is written meanwhile lies behind it, and only makes the walk longer.
    let listed = shelf.listed().await?;
    let mut walk =
        Walk { destination: shelf.country(), erased_until, before: None, report: Report::default() };
    loop {
        let number = walk.before.as_ref().map_or(1, |b| b.entry.number + 1);
        let what = match step(shelf, &mut walk, number, networks).await {
            Ok(true) => continue,
            // Numbers have no gaps: if there is one beyond, this one was taken away.
            Ok(false) if number <= listed => Wrong::Missing,
            Ok(false) => break,
            Err(Stop::Fault(what)) => what,
            Err(Stop::Store(e)) => return Err(e),
        };
        walk.report.fault = Some(Fault { number, what });
        break;
    }
    Ok(walk.report)
}

enum Stop {
    Fault(Wrong),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { name, reason } => Self::Fault(Wrong::Object { name, reason }),
            other => Self::Store(other),
        }
    }
}

/// Verifies one log object; `false` behind the last one.
async fn step(shelf: &Shelf, walk: &mut Walk, number: u64, networks: &impl Networks) -> Result<bool, Stop> {
    let Some(sealed) = shelf.read(number).await? else { return Ok(false) };
    let data = shelf.data(&sealed.entry).await?;
    walk.append(sealed, data, networks).map_err(Stop::Fault)?;
    Ok(true)
}

/// What was verified so far. Pure.
struct Walk {
    destination: Country,
    erased_until: Millis,
    before: Option<Sealed>,
    report: Report,
}

impl Walk {
    fn append(&mut self, sealed: Sealed, data: Option<Bytes>, networks: &impl Networks) -> Result<(), Wrong> {
        let entry = &sealed.entry;
        let before = self.before.as_ref();
        if !sealed.follows(before) || entry.uploads.windows(2).any(|w| w[0].offset >= w[1].offset) {
            return Err(Wrong::Order);
        }
        if data.is_none() && entry.oldest() > self.erased_until {
            return Err(Wrong::Gone);
        }
        let mut rest = data.clone();
        for upload in &entry.uploads {
            let wrong = |reason| Wrong::Batch { origin: upload.origin, sequence: upload.sequence, reason };
            let keys = match &mut rest {
                None => None,
                Some(rest) => {
                    let length = usize::try_from(upload.bytes).ok().filter(|n| *n <= rest.len());
                    Some(rest.split_to(length.ok_or(Wrong::Data)?))
                }
            };
            let links = &mut self.report.chains;
            let verified =
                verify(upload, keys, (self.destination, entry.complete), links, networks).map_err(wrong)?;
            if !links.contains_key(&upload.origin) {
                self.report.starts.insert(upload.origin, upload.sequence - 1);
            }
            links.insert(upload.origin, verified);
            self.report.batches.push(Verified {
                tag: entry.tag,
                origin: upload.origin,
                sequence: upload.sequence,
                keys: upload.keys,
                level: upload.level,
                keys_present: data.is_some(),
            });
        }
        if rest.is_some_and(|rest| !rest.is_empty()) {
            return Err(Wrong::Data);
        }
        // A chain that began at a checkpoint, and brought no batch yet.
        for (origin, link) in entry.links() {
            if !entry.complete && !self.report.chains.contains_key(&origin) {
                self.report.starts.insert(origin, link.sequence);
                self.report.chains.insert(origin, link);
            }
        }
        let uploads = entry.uploads.clone();
        let anew = Entry::after(
            before,
            self.destination,
            uploads,
            entry.data.sha256.0,
            &self.report.chains,
            entry.complete,
        );
        if anew.as_ref() != Some(entry) {
            return Err(Wrong::Entry);
        }
        self.before = Some(sealed);
        Ok(())
    }
}

/// Verifies one batch, and returns the end of its chain after it. Where the topic was read from its first record on, each
/// chain is there from its first batch on.
fn verify(
    upload: &Upload,
    keys: Option<Bytes>,
    (destination, complete): (Country, bool),
    links: &BTreeMap<Country, Link>,
    networks: &impl Networks,
) -> Result<Link, Break> {
    let erased = keys.is_none();
    let batch = upload.with_keys(keys.unwrap_or_default()).ok_or(Break::Signature)?;
    let (manifest, hash) = if erased {
        (verify_sealed(&batch, networks)?.0, sha256(&batch.manifest))
    } else {
        let verified = VerifiedBatch::verify(&batch, networks)?;
        (verified.manifest().clone(), verified.hash())
    };
    let bytes = usize::try_from(upload.bytes).unwrap_or(usize::MAX);
    if Upload::of(upload.offset, &manifest, &batch, bytes) != *upload {
        return Err(Break::Part("log"));
    }
    if manifest.destination != destination {
        return Err(Break::Destination(manifest.destination));
    }
    match links.get(&manifest.origin) {
        Some(last) => last.next(&manifest, hash),
        None if complete || manifest.sequence == 1 => Link::START.next(&manifest, hash),
        // What came before may be gone by law: the report says where verification starts.
        None => Ok(Link::of(&manifest, hash)),
    }
}
