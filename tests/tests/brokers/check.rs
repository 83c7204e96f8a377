//! What must hold whatever befell the brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use keyferry_runtime::{
    codec::KeysRecord,
    kafka::Isolation,
    network::NetworkFeed,
    tail::{Next, Start, Tail},
};
use keyferry_schemas::{
    avro::Record as _,
    batch::{bit, sha256},
    chain::{Chains, VerifiedBatch},
    records::{LedgerEntry, Outcome},
    topics,
};
use keyferry_tests::hub::Hub;

use super::load::{Load, RECOVERY, Sent, Told};

/// A topic that is read on from where the last check ended.
struct Read {
    tail: Tail,
}

impl Read {
    fn open(hub: &Hub, topic: &str) -> Self {
        let tail = Tail::open(&hub.kafka("test"), topic, Isolation::Committed, Start::Earliest).unwrap();
        Self { tail }
    }

    fn on(&mut self, mut take: impl FnMut(bytes::Bytes)) {
        while let Next::Record(record) = self.tail.next(Duration::from_secs(1)).unwrap() {
            take(record.value.unwrap());
        }
    }
}

/// What a destination has, each key with how often it came.
struct Received {
    read: Read,
    chains: Chains,
    counts: BTreeMap<Vec<u8>, usize>,
}

/// What was read so far.
pub struct Books {
    ledgers: BTreeMap<&'static str, (Read, Vec<LedgerEntry>)>,
    keys: BTreeMap<&'static str, Received>,
    network: NetworkFeed,
    twice: BTreeMap<&'static str, usize>,
}

impl Books {
    pub fn open(hub: &Hub, countries: &[&'static str]) -> Self {
        let ledger =
            |c: &&'static str| (*c, (Read::open(hub, &topics::ledger(c.parse().unwrap())), Vec::new()));
        let keys = |c: &&'static str| {
            let country = c.parse().unwrap();
            let (read, chains) = (Read::open(hub, &topics::keys(country)), Chains::new(country));
            (*c, Received { read, chains, counts: BTreeMap::new() })
        };
        Self {
            ledgers: countries.iter().map(ledger).collect(),
            keys: countries.iter().map(keys).collect(),
            network: hub.network().unwrap(),
            twice: BTreeMap::new(),
        }
    }

    /// Waits until all that was acknowledged is decided, and compares everything. Nobody may send meanwhile.
    pub fn check(&mut self, hub: &Hub, load: &Load) {
        let _silence = load.silence();
        assert_eq!(load.wrong(), Vec::<String>::new(), "answers");
        load.sent(|sent| {
            for (origin, sent) in sent {
                let (read, ledger) = self.ledgers.get_mut(origin).unwrap();
                let begun = Instant::now();
                let missing = loop {
                    read.on(|value| ledger.push(hub.codec.decode(value).unwrap()));
                    match missing(sent, ledger) {
                        None => break None,
                        missing if begun.elapsed() > RECOVERY => break missing,
                        _ => thread::sleep(Duration::from_millis(50)),
                    }
                };
                assert_eq!(missing, None, "{origin}: acknowledged and not decided");
                in_order(origin, ledger);
                self.twice.insert(origin, as_told(origin, sent, ledger));
            }
        });
        self.delivered(hub);
    }

    /// Every destination has each accepted key of all others once, its chains without a gap.
    fn delivered(&mut self, hub: &Hub) {
        for (destination, Received { read, chains, counts }) in &mut self.keys {
            let expected: usize =
                self.ledgers.iter().filter(|(o, _)| *o != destination).map(|(_, (_, l))| taken(l)).sum();
            let versions = self.network.versions();
            let begun = Instant::now();
            // A marker may come later here than on the ledger.
            while counts.len() < expected && begun.elapsed() < RECOVERY {
                read.on(|value| match hub.codec.decode_keys(value).unwrap() {
                    KeysRecord::Batch(batch) => {
                        let verified = VerifiedBatch::verify(&batch, versions.as_ref()).unwrap();
                        chains.append(&verified).unwrap();
                        let keys = verified.keys();
                        let new = keys.iter().enumerate().filter(|(i, _)| bit(&batch.new, *i));
                        new.for_each(|(_, k)| *counts.entry(k.key_data.to_vec()).or_default() += 1);
                    }
                    KeysRecord::Checkpoint(c) => chains.checkpoint(&c, versions.as_ref()).unwrap(),
                });
            }
            assert_eq!(counts.len(), expected, "{destination}: keys");
            let often = counts.values().filter(|n| **n != 1).count();
            assert_eq!(often, 0, "{destination}: keys that came more than once");
        }
    }

    /// The keys that a destination has.
    pub fn has(&self, destination: &str) -> impl Iterator<Item = &Vec<u8>> {
        self.keys[destination].counts.keys()
    }

    /// Number of records decided, of keys accepted, and of records that were there before.
    pub fn counts(&self) -> (usize, usize, usize) {
        let ledgers = || self.ledgers.values().map(|(_, ledger)| ledger);
        (ledgers().map(Vec::len).sum(), ledgers().map(|l| taken(l)).sum(), self.twice.values().sum())
    }
}

fn taken(ledger: &[LedgerEntry]) -> usize {
    ledger.iter().map(|e| usize::try_from(e.keys_accepted).unwrap()).sum()
}

fn entries(ledger: &[LedgerEntry]) -> BTreeMap<&str, Vec<&LedgerEntry>> {
    let mut by_tag = BTreeMap::<_, Vec<_>>::new();
    ledger.iter().for_each(|e| by_tag.entry(e.batch_tag.as_deref().unwrap_or("")).or_default().push(e));
    by_tag
}

/// What was promised to be decided and is not.
fn missing(sent: &[Sent], ledger: &[LedgerEntry]) -> Option<String> {
    let decided = entries(ledger);
    let promised = |s: &&Sent| s.attempts.iter().filter(|(_, _, told)| *told <= Told::Stored).count();
    let uploads =
        |found: &Vec<&LedgerEntry>| found.iter().map(|e| e.upload_id).collect::<BTreeSet<_>>().len();
    let late = |s: &&Sent| decided.get(s.tag.as_str()).map_or(0, uploads) < promised(s);
    sent.iter().find(late).map(|s| s.tag.clone())
}

/// The ledger tells of every record once and in order, and is one chain of hashes.
fn in_order(origin: &str, ledger: &[LedgerEntry]) {
    for (n, entry) in (0_i64..).zip(ledger) {
        assert_eq!((entry.sequence, entry.source_offset), (n + 1, n), "{origin}: {entry:?}");
    }
    for two in ledger.windows(2) {
        assert_eq!(two[1].previous, sha256(&two[0].to_avro()), "{origin}: entry {}", two[1].sequence);
    }
}

/// Acknowledged uploads are there once, and in the order in which they were sent; others once or not at all. Returns how
/// many records stand there twice. That can be: when one record of a producer times out, librdkafka numbers all others
/// anew, also those of which it is not known whether they were written, and sends them again. Nothing is delivered again.
fn as_told(origin: &str, sent: &[Sent], ledger: &[LedgerEntry]) -> usize {
    let decided = entries(ledger);
    let (mut last, mut twice, mut known) = (0, 0, 0);
    for Sent { tag, keys, attempts } in sent {
        let found = decided.get(tag.as_str()).map_or(&[][..], Vec::as_slice);
        let uploads: BTreeSet<_> = found.iter().map(|e| e.upload_id).collect();
        let count = |which: &[Told]| attempts.iter().filter(|(_, _, told)| which.contains(told)).count();
        let promised = count(&[Told::Decided, Told::Stored]);
        let most = promised + count(&[Told::Unknown]);
        let at = || format!("{origin} {tag}: {:?}", attempts.iter().map(|a| a.2).collect::<Vec<_>>());
        assert!((promised..=most).contains(&uploads.len()), "{}: {} are decided", at(), uploads.len());
        for (n, entry) in found.iter().enumerate() {
            let expected =
                if n == 0 { (Outcome::Accepted, keys.len() as i32) } else { (Outcome::Repeated, 0) };
            assert_eq!((entry.outcome, entry.keys_accepted), expected, "{}", at());
        }
        // Of one that may have come late it is not known when.
        if let (Some(first), true) = (found.first(), promised == most) {
            assert!(first.sequence > last, "{}: out of order", at());
            last = first.sequence;
        }
        twice += found.len() - uploads.len();
        known += found.len();
    }
    assert_eq!(known, ledger.len(), "{origin}: entries that nobody has sent");
    twice
}
