//! The log of one country: one JSON object per download batch, each naming the one before it by hash.
//!
//! It holds everything but keys: what was read from Kafka, what a restart needs, what an audit shows, and what verifies
//! the batch again years after its keys were erased. It is made from its predecessor and the batches alone, so whoever
//! makes it makes the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};

use keyferry_schemas::{
    batch::{Level, Manifest, SignedBatch, sha256},
    chain::Link,
    country::Country,
    records::Hash,
    time::Millis,
};

use crate::{
    intake::Accepted,
    tag::{BatchTag, Days, date_of},
    text::{Base64, Hex},
};

/// The form of log objects that this build writes and reads.
pub const FORMAT: u32 = 1;

/// One log object. Field order is the order in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// [`FORMAT`].
    pub format: u32,
    /// Whose download this is.
    pub destination: Country,
    /// Its place in the log, from 1.
    pub number: u64,
    /// SHA-256 of the log object before, byte for byte; zeros in the first.
    pub previous: Hex,
    /// The name under which it is downloaded.
    pub tag: BatchTag,
    /// The latest time at which a batch up to this one was made, by the pipeline's clock.
    pub created_at: Timestamp,
    /// Offset of the first batch in it.
    pub first_offset: i64,
    /// Offset of the last batch in it.
    pub last_offset: i64,
    /// Offset at which reading goes on.
    pub next_offset: i64,
    /// Whether the topic was read from its very first record: then every chain has to begin at sequence 1. Otherwise one
    /// may begin at a checkpoint, or at the first batch that was still there.
    pub complete: bool,
    /// Where the keys are.
    pub data: Data,
    /// What it is made of, in the order of the keys.
    pub uploads: Vec<Upload>,
    /// The end of each chain, by origin.
    pub chains: BTreeMap<Country, ChainEnd>,
    /// The first batch of each recent day, this one included.
    pub days: Days,
}

/// The object that holds the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Its name below the country's data.
    pub name: String,
    /// Its SHA-256.
    pub sha256: Hex,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many keys it holds.
    pub keys: u64,
}

/// One signed batch, without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Offset of its record.
    pub offset: i64,
    /// Whose keys they are.
    pub origin: Country,
    /// Sequence on the chain from there.
    pub sequence: i64,
    /// When it was made, by the pipeline's clock.
    pub created_at: Timestamp,
    /// `whole` or `subset`.
    pub level: LevelName,
    /// How many keys it has.
    pub keys: u64,
    /// The length of its part of the data object, in bytes.
    pub bytes: u64,
    /// SHA-256 of the manifest.
    pub manifest_sha256: Hex,
    /// The manifest as signed.
    pub manifest: Base64,
    /// Keyferry's signature of it.
    pub signature: Base64,
    /// The bitmap of keys that were new to the country.
    pub new: Base64,
    /// The origin's CMS, where the batch is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_signature: Option<Base64>,
}

/// What proves the origin of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelName {
    /// The origin's own signature.
    Whole,
    /// Keyferry alone.
    Subset,
}

/// The end of the chain from one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEnd {
    /// Sequence of the last batch.
    pub sequence: i64,
    /// SHA-256 of its manifest.
    pub manifest_sha256: Hex,
    /// Version of the network document under which it was made.
    pub network_version: i64,
    /// When it was made.
    pub at: Timestamp,
}

/// Why bytes are not the log object that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// A later Keyferry wrote it, or nobody.
    #[error("it is of format {0}, this build reads format {FORMAT}")]
    Format(u32),
    /// It is not such JSON.
    #[error("it can not be read (line {0}, column {1})")]
    Syntax(usize, usize),
    /// It belongs to another country or another place.
    #[error("it says {0} number {1}")]
    Place(Country, u64),
    /// It follows another one.
    #[error("it does not follow the log object before it")]
    Previous,
}

/// A log object together with the hash of its bytes: what the next one follows.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What it says.
    pub entry: Entry,
    /// SHA-256 of its bytes.
    pub hash: Hash,
}

impl Sealed {
    /// Reads the log object that has `number`.
    ///
    /// # Errors
    /// [`BadEntry`].
    pub fn read(bytes: &[u8], destination: Country, number: u64) -> Result<Self, BadEntry> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let syntax = |e: serde_json::Error| BadEntry::Syntax(e.line(), e.column());
        let entry: Entry = serde_json::from_slice(bytes).map_err(|e| {
            // What another format looks like is not known here.
            match serde_json::from_slice(bytes).map_err(syntax) {
                Ok(Form { format }) if format != FORMAT => BadEntry::Format(format),
                Ok(_) => syntax(e),
                Err(e) => e,
            }
        })?;
        if entry.format != FORMAT {
            return Err(BadEntry::Format(entry.format));
        }
        if (entry.destination, entry.number) != (destination, number) {
            return Err(BadEntry::Place(entry.destination, entry.number));
        }
        Ok(Self { entry, hash: sha256(bytes) })
    }

    /// Whether this one comes directly after `before`.
    #[must_use]
    pub fn follows(&self, before: Option<&Self>) -> bool {
        let (number, hash, offset) =
            before.map_or((0, [0; 32], 0), |b| (b.entry.number, b.hash, b.entry.next_offset));
        self.entry.number == number + 1 && self.entry.previous.0 == hash && self.entry.first_offset >= offset
    }
}

/// A download batch that is not in the store yet.
pub struct Draft {
    /// Its log object, as bytes.
    pub log: Bytes,
    /// The same, read.
    pub sealed: Sealed,
    /// Its data object: a protobuf batch, because such batches concatenate.
    pub data: Bytes,
}

/// The day on which a batch made at `created_at` is filed: dates never decrease along the log.
#[must_use]
pub fn filed_on(before: Option<&Sealed>, created_at: Millis) -> Date {
    let date = date_of(created_at);
    before.and_then(|b| b.entry.days.last()).map_or(date, |last| date.max(last))
}

/// Makes the download batch that follows `before` from at least one batch; `None` if there is none. Pure.
#[must_use]
pub fn draft(destination: Country, before: Option<&Sealed>, batches: &[&Accepted]) -> Option<Draft> {
    let last = batches.last()?;
    let (data, hash) = match batches {
        // As it came, with the hash that its manifest was held against.
        [only] => (only.batch.keys.clone(), only.manifest().content),
        _ => {
            let parts: Vec<_> = batches.iter().map(|b| b.batch.keys.as_ref()).collect();
            let data = Bytes::from(parts.concat());
            (data.clone(), sha256(&data))
        }
    };
    let uploads =
        batches.iter().map(|b| Upload::of(b.offset, b.manifest(), &b.batch, b.batch.keys.len())).collect();
    let entry = Entry::after(before, destination, uploads, hash, &last.links, last.complete)?;
    // Maps have text keys and nothing here refuses to be written, so this is never empty.
    let mut log = serde_json::to_vec_pretty(&entry).ok()?;
    log.push(b'\n');
    let sealed = Sealed { entry, hash: sha256(&log) };
    Some(Draft { log: log.into(), sealed, data })
}

/// The name of a data object: its number, the time of its oldest upload, and the start of its hash.
///
/// The time is in the name so that erasure needs no log object, and finds what a killed instance left behind. The hash
/// is there so that two instances with the same content write the same object, and others never touch it.
fn data_name(number: u64, oldest: Millis, hash: &Hash) -> String {
    format!("{number:010}-{}-{}", oldest.0, hex::encode(&hash[..8]))
}

/// The time of the oldest upload in a data object, from its name.
#[must_use]
pub fn oldest_in(data_name: &str) -> Option<Millis> {
    data_name.split('-').nth(1)?.parse().ok().map(Millis)
}

impl Entry {
    /// The log object that follows `before`: everything in it follows from these uploads. `None` if there are none.
    #[must_use]
    pub fn after(
        before: Option<&Sealed>,
        destination: Country,
        uploads: Vec<Upload>,
        data: Hash,
        links: &BTreeMap<Country, Link>,
        complete: bool,
    ) -> Option<Self> {
        let (first, last) = (uploads.first()?, uploads.last()?);
        let number = before.map_or(1, |b| b.entry.number + 1);
        let date = filed_on(before, first.created_at.into());
        let days = before.map(|b| b.entry.days.clone()).unwrap_or_default().with(date, number);
        let oldest = uploads.iter().map(|u| Millis::from(u.created_at)).min()?;
        Some(Self {
            format: FORMAT,
            destination,
            number,
            previous: Hex(before.map_or([0; 32], |b| b.hash)),
            tag: days.tag_of(number)?,
            created_at: uploads
                .iter()
                .map(|u| u.created_at)
                .chain(before.map(|b| b.entry.created_at))
                .max()?,
            first_offset: first.offset,
            last_offset: last.offset,
            next_offset: last.offset.saturating_add(1),
            // Once records were missed, the topic was not read from its first one on.
            complete: complete && before.is_none_or(|b| b.entry.complete),
            data: Data {
                name: data_name(number, oldest, &data),
                sha256: Hex(data),
                bytes: uploads.iter().map(|u| u.bytes).sum(),
                keys: uploads.iter().map(|u| u.keys).sum(),
            },
            chains: links.iter().map(|(origin, link)| (*origin, (*link).into())).collect(),
            days,
            uploads,
        })
    }

    /// The time of the oldest upload in it: from this its erasure is counted.
    #[must_use]
    pub fn oldest(&self) -> Millis {
        self.uploads.iter().map(|u| Millis::from(u.created_at)).min().unwrap_or_default()
    }

    /// The ends of the chains, in the form in which verification resumes.
    #[must_use]
    pub fn links(&self) -> BTreeMap<Country, Link> {
        self.chains.iter().map(|(origin, end)| (*origin, (*end).into())).collect()
    }
}

impl Upload {
    /// What the log says of a batch whose keys take `bytes`.
    #[must_use]
    pub fn of(offset: i64, manifest: &Manifest, batch: &SignedBatch, bytes: usize) -> Self {
        Self {
            offset,
            origin: manifest.origin,
            sequence: manifest.sequence,
            created_at: manifest.created_at.timestamp(),
            level: match manifest.level {
                Level::Whole => LevelName::Whole,
                Level::Subset => LevelName::Subset,
            },
            keys: u64::try_from(manifest.keys).unwrap_or(0),
            bytes: bytes as u64,
            manifest_sha256: Hex(sha256(&batch.manifest)),
            manifest: Base64(batch.manifest.clone()),
            signature: Base64(Bytes::copy_from_slice(&batch.signature)),
            new: Base64(batch.new.clone()),
            origin_signature: batch.origin_signature.clone().map(Base64),
        }
    }

    /// The signed batch again, with its part of the data object; `None` if the signature is none.
    #[must_use]
    pub fn with_keys(&self, keys: Bytes) -> Option<SignedBatch> {
        Some(SignedBatch {
            manifest: self.manifest.0.clone(),
            signature: self.signature.0.as_ref().try_into().ok()?,
            keys,
            new: self.new.0.clone(),
            origin_signature: self.origin_signature.as_ref().map(|s| s.0.clone()),
        })
    }
}

impl From<Link> for ChainEnd {
    fn from(link: Link) -> Self {
        Self {
            sequence: link.sequence,
            manifest_sha256: Hex(link.manifest),
            network_version: link.network_version,
            at: link.at.timestamp(),
        }
    }
}

impl From<ChainEnd> for Link {
    fn from(end: ChainEnd) -> Self {
        Self {
            sequence: end.sequence,
            manifest: end.manifest_sha256.0,
            network_version: end.network_version,
            at: end.at.into(),
        }
    }
}
