//! What must hold when a history is over, said of what committed readers see: each upload is told once and in order, in
//! one chain; each destination has the batches that the ledgers name, and no others; offsets, heads and a state that is
//! restored from them agree.

use keyferry_processors::state::OriginState;
use keyferry_runtime::{codec::Codec, kafka::Isolation, tail::Record};
use keyferry_schemas::{
    avro::Record as _,
    batch::sha256,
    country::Country,
    records::{Hash, Head, LedgerEntry},
    topics,
};

use super::{cluster::Cluster, exact::secrets};

/// What a record on a topic of keys says of the chain from its origin.
pub(super) enum Told {
    Batch { sequence: i64, previous: Hash, manifest: Hash },
    Checkpoint { sequence: i64, manifest: Hash },
}

/// Reads a record of keys.
pub(super) type Tell<'a> = &'a dyn Fn(&[u8]) -> Option<Told>;

/// Whether the record says that it is of this origin.
fn is_of(origin: Country) -> impl Fn(&Record) -> bool {
    move |record| record.key.as_deref() == Some(origin.as_str().as_bytes())
}

/// Everything that does not hold.
pub(super) fn judge(cluster: &Cluster, codec: &Codec, countries: &[Country], tell: Tell<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    let read = |topic: &str| {
        let (mut records, mut position) = (Vec::new(), 0);
        while let (Some(record), next) = cluster.topics.read(topic, Isolation::Committed, position) {
            position = next;
            records.push(record);
        }
        records
    };
    for (index, origin) in cluster.plan.origins.iter().copied().enumerate() {
        let mut ledger = Vec::new();
        for record in read(&topics::ledger(origin)) {
            match codec.decode::<LedgerEntry>(record.value.unwrap_or_default()) {
                Ok(entry) => ledger.push(entry),
                Err(e) => faults.push(format!("{origin}: an entry can not be read: {e}")),
            }
        }
        let uploads = i64::try_from(cluster.plan.uploads[index]).unwrap_or(0);
        let offsets: Vec<_> = ledger.iter().map(|e| e.source_offset).collect();
        if !offsets.iter().copied().eq(0..uploads) {
            faults.push(format!("{origin}: of {uploads} uploads the ledger tells {offsets:?}"));
        }
        let mut before = [0; 32];
        for (entry, sequence) in ledger.iter().zip(1..) {
            if (entry.sequence, entry.previous) != (sequence, before) {
                faults
                    .push(format!("{origin}: entry {} of {} does not follow", entry.sequence, entry.writer));
            }
            before = sha256(&entry.to_avro());
        }
        let committed = cluster.topics.offsets.get(&topics::uploads(origin)).copied().unwrap_or(0);
        if committed != uploads {
            faults.push(format!("{origin}: offset {committed} is committed, {uploads} are decided"));
        }
        faults.extend(heads(origin, codec, &ledger, &read(topics::HEADS)));
        for destination in countries.iter().copied().filter(|c| *c != origin) {
            let named = ledger.iter().flat_map(|e| &e.deliveries).filter(|d| d.destination == destination);
            let named = named.map(|d| (d.sequence, d.manifest)).collect();
            let keys: Vec<_> = read(&topics::keys(destination)).into_iter().filter(is_of(origin)).collect();
            if let Err(fault) = chain(&keys, named, tell) {
                faults.push(format!("{origin} to {destination}: {fault}"));
            }
        }
    }
    faults
}

fn heads(origin: Country, codec: &Codec, ledger: &[LedgerEntry], records: &[Record]) -> Option<String> {
    let last = records.iter().rev().find(|r| is_of(origin)(r));
    let head = match last.map(|r| codec.decode::<Head>(r.value.clone().unwrap_or_default())).transpose() {
        Ok(head) => head,
        Err(e) => return Some(format!("{origin}: a head can not be read: {e}")),
    };
    match OriginState::restore(origin, ledger.iter().cloned(), head.as_ref(), &secrets()) {
        Err(e) => Some(format!("{origin}: its state can not be restored: {e}")),
        Ok(_) if ledger.is_empty() => None,
        Ok(restored) => {
            // Replayed without the head, it must come to the same.
            let mut replayed = OriginState::new(origin, 0);
            let broken = ledger.iter().enumerate().any(|(i, e)| replayed.replay(e, i == 0).is_err());
            let (mut ours, theirs) = (replayed.head(), restored.head());
            (ours.checkpoint_at, ours.network_version) = (theirs.checkpoint_at, theirs.network_version);
            (broken || format!("{ours:?}") != format!("{theirs:?}"))
                .then(|| format!("{origin}: the head says {theirs:?}, the ledger {ours:?}"))
        }
    }
}

/// A destination's records from one origin, against the batches that the ledger names.
fn chain(keys: &[Record], named: Vec<(i64, Hash)>, tell: Tell<'_>) -> Result<(), String> {
    let mut named = named.into_iter();
    let mut last = (0, [0; 32]);
    for record in keys {
        match tell(record.value.as_deref().unwrap_or_default()).ok_or("a record that is none")? {
            Told::Batch { sequence, previous, manifest } => {
                if (sequence, previous) != (last.0 + 1, last.1) {
                    return Err(format!("batch {sequence} follows {}", last.0));
                }
                last = (sequence, manifest);
                if named.next() != Some(last) {
                    return Err(format!("batch {sequence} is not the one that the ledger names"));
                }
            }
            Told::Checkpoint { sequence, manifest } if (sequence, manifest) != last => {
                return Err(format!("a checkpoint says {sequence} after batch {}", last.0));
            }
            Told::Checkpoint { .. } => (),
        }
    }
    named.next().map_or(Ok(()), |(sequence, _)| Err(format!("batch {sequence} is missing")))
}
