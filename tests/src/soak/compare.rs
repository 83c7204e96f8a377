//! The end of a round: what stands on every topic and in every answer, held against the model.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use keyferry_runtime::{kafka::Isolation, tail::Record};
use keyferry_schemas::{
    avro::Record as _,
    batch::{Level, SignedBatch, bit, sha256},
    chain::VerifiedBatch,
    efgs,
    records::{Hash, LedgerEntry, Upload},
    topics,
};

use super::{
    answers::answers,
    load::{Load, Sent},
    model::{Decision, Parcel, Stream},
    scene::{COUNTRIES, Scene},
};

/// How long what is under way may take to its end.
const SETTLES: Duration = Duration::from_secs(120);

/// What of a round was the same.
#[derive(Debug, Default)]
pub struct Compared {
    /// Uploads on Kafka.
    pub uploads: usize,
    /// Answers that clients got.
    pub answers: usize,
    /// Keys taken.
    pub keys: usize,
    /// Keys delivered to countries.
    pub delivered: usize,
    /// Outcomes and codes, counted.
    pub outcomes: BTreeMap<String, usize>,
}

/// One record of an upload topic, with what the model says of it.
pub(super) struct Judged {
    /// Tag, body and signature: by these a sender knows its upload.
    pub name: Name,
    pub decision: Decision,
    entry: LedgerEntry,
    signature: Bytes,
    /// SHA-256 of the whole record.
    record: Hash,
}

/// What one country has to receive, by origin: each parcel with the place of its upload.
type Expected = BTreeMap<&'static str, Vec<(Parcel, usize)>>;

/// What makes an upload that upload.
pub(super) type Name = (String, Hash, Hash);

pub(super) fn name(tag: &str, body: &[u8], signature: &[u8]) -> Name {
    (tag.to_owned(), sha256(body), sha256(signature))
}

/// Compares everything.
///
/// # Errors
/// The first difference.
pub fn compare(scene: &Scene, load: &Load) -> Result<Compared> {
    let mut compared = Compared::default();
    let mut expected = BTreeMap::<&str, Expected>::new();
    let mut judged = BTreeMap::new();
    for origin in COUNTRIES {
        let journal = load.journal(origin);
        let all = judge(scene, origin, &journal).with_context(|| format!("uploads of {origin}"))?;
        compared.answers += journal.len();
        compared.uploads += all.len();
        for (n, one) in all.iter().enumerate() {
            ledger(&one.entry, &one.decision)
                .with_context(|| format!("ledger of {origin}, entry {}", n + 1))?;
            compared.keys += one.decision.taken;
            let what = one.decision.code.unwrap_or(one.decision.outcome);
            *compared.outcomes.entry(what.to_owned()).or_default() += 1;
            for parcel in &one.decision.parcels {
                let to = COUNTRIES.into_iter().find(|c| *c == parcel.destination).context("a country")?;
                expected.entry(to).or_default().entry(origin).or_default().push((parcel.clone(), n));
            }
        }
        answers(scene, &journal, &all).with_context(|| format!("answers to {origin}"))?;
        judged.insert(origin, all);
    }
    rejects(scene, judged.values().flatten()).context("rejects")?;
    for destination in COUNTRIES {
        let of = expected.remove(destination).unwrap_or_default();
        let batches =
            delivered(scene, destination, &of, &judged).with_context(|| format!("keys of {destination}"))?;
        compared.delivered +=
            of.values().flatten().map(|(p, _)| p.new.iter().filter(|n| **n).count()).sum::<usize>();
        let bytes: Vec<_> = batches.iter().map(|b| b.keys.as_ref()).collect();
        load.downloads(scene, destination, &bytes.concat())
            .with_context(|| format!("downloads of {destination}"))?;
    }
    Ok(compared)
}

/// Holds the upload topic of an origin against what was sent, and lets the model decide it.
fn judge(scene: &Scene, origin: &str, journal: &[Sent]) -> Result<Vec<Judged>> {
    let hub = &scene.hub;
    let topic = topics::uploads(origin.parse()?);
    let begun = Instant::now();
    let (records, ledger) = loop {
        // In this order: a gateway that hung may add something meanwhile.
        let ledger = hub.ledger(origin)?;
        let records = hub.records(&topic, Isolation::Committed)?;
        ensure!(ledger.len() <= records.len(), "{} decisions about {} uploads", ledger.len(), records.len());
        if ledger.len() == records.len() {
            break (records, ledger);
        }
        ensure!(begun.elapsed() < SETTLES, "{} of {} uploads are decided", ledger.len(), records.len());
        std::thread::sleep(Duration::from_millis(200));
    };
    let known: HashMap<Name, &Sent> =
        journal.iter().map(|s| (name(&s.ready.upload.tag, &s.ready.body, &s.ready.signature), s)).collect();
    let versions = scene.versions();
    let (mut stream, mut judged) = (Stream::default(), Vec::<Judged>::new());
    let mut now = None;
    for (record, entry) in records.into_iter().zip(ledger) {
        let (upload, name) = read(scene, &record)?;
        let sent = known.get(&name).with_context(|| format!("nobody sent {}", upload.batch_tag))?;
        follows(judged.last().map(|j| &j.entry), &entry, record.offset)?;
        now = now.max(Some(record.timestamp));
        ensure!(Some(entry.now) == now, "entry {} was made at another time", entry.sequence);
        ensure!(entry.upload_id == Some(upload.upload_id), "entry {} is of another upload", entry.sequence);
        ensure!(
            entry.batch_tag.as_ref() == Some(&upload.batch_tag),
            "entry {} has another tag",
            entry.sequence
        );
        let document = versions.get(&entry.network_version).context("a version that was never published")?;
        let decision = stream.decide(&sent.ready.upload, record.offset, entry.now.timestamp(), document);
        let hash = sha256(record.value.as_deref().unwrap_or_default());
        judged.push(Judged { name, decision, entry, signature: upload.batch_signature, record: hash });
    }
    Ok(judged)
}

fn read(scene: &Scene, record: &Record) -> Result<(Upload, Name)> {
    let upload: Upload = scene.hub.codec.decode(record.value.clone().unwrap_or_default())?;
    let name = name(&upload.batch_tag, &upload.payload, &upload.batch_signature);
    Ok((upload, name))
}

/// The ledger tells of every record once and in order, is one chain of hashes, and its network version never falls.
fn follows(last: Option<&LedgerEntry>, entry: &LedgerEntry, offset: i64) -> Result<()> {
    let (sequence, hash, version) =
        last.map_or((0, [0; 32], 0), |e| (e.sequence, sha256(&e.to_avro()), e.network_version));
    ensure!(entry.sequence == sequence + 1, "entry {} follows entry {sequence}", entry.sequence);
    ensure!(entry.previous == hash, "entry {} names another predecessor", entry.sequence);
    ensure!(entry.source_offset == offset, "entry {} is of another record than {offset}", entry.sequence);
    ensure!(entry.network_version >= version, "entry {} falls back to an older version", entry.sequence);
    Ok(())
}

fn ledger(entry: &LedgerEntry, model: &Decision) -> Result<()> {
    same("outcome", &format!("{:?}", entry.outcome).to_uppercase(), &model.outcome.to_owned())?;
    same("code", &entry.code.as_deref(), &model.code)?;
    let verdicts: Vec<_> = entry.verdicts.iter().map(|v| (v.index as usize, v.code.as_str())).collect();
    same("keys not taken", &verdicts, &model.refused)?;
    let counts = (entry.keys_accepted as usize, entry.keys_revised as usize, entry.first_offset);
    same("counts", &counts, &(model.taken, model.revised, model.first))?;
    let deliveries: Vec<_> =
        entry.deliveries.iter().map(|d| (d.destination.as_str(), d.sequence, d.new_keys as usize)).collect();
    let new = |p: &Parcel| p.new.iter().filter(|n| **n).count();
    let parcels: Vec<_> =
        model.parcels.iter().map(|p| (p.destination.as_str(), p.sequence, new(p))).collect();
    same("deliveries", &deliveries, &parcels)?;
    let withheld: Vec<_> =
        entry.withheld.iter().map(|w| (w.destination.as_str(), w.reason.as_str(), w.keys as usize)).collect();
    let kept: Vec<_> = model.withheld.iter().map(|(to, why, n)| (to.as_str(), *why, *n)).collect();
    same("keys withheld", &withheld, &kept)
}

/// Every record that was rejected stands on the topic for that once, untouched, and no other.
fn rejects<'j>(scene: &Scene, judged: impl Iterator<Item = &'j Judged>) -> Result<()> {
    scene.hub.settled(topics::REJECTS)?;
    let mut left = BTreeMap::<Hash, i64>::new();
    for one in judged.filter(|j| j.decision.outcome == "REJECTED") {
        *left.entry(one.record).or_default() += 1;
    }
    for record in scene.hub.records(topics::REJECTS, Isolation::Committed)? {
        *left.entry(sha256(record.value.as_deref().unwrap_or_default())).or_default() -= 1;
    }
    let (missing, surplus) =
        (left.values().filter(|n| **n > 0).count(), left.values().filter(|n| **n < 0).count());
    same("missing and surplus", &(missing, surplus), &(0, 0))
}

/// Also for what may not be shown: keys are counted, and never printed.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, model: &T) -> Result<()> {
    ensure!(found == model, "{what}: {found:?} instead of {model:?}");
    Ok(())
}

/// Holds the topic of a destination against what the model delivers; its chains are verified on the way.
fn delivered(
    scene: &Scene,
    destination: &str,
    expected: &Expected,
    judged: &BTreeMap<&str, Vec<Judged>>,
) -> Result<Vec<SignedBatch>> {
    // What a killed processor left open hides batches for a while.
    scene.hub.settled(&topics::keys(destination.parse()?))?;
    let mut found = BTreeMap::<String, usize>::new();
    let mut batches = Vec::new();
    for (batch, verified) in scene.hub.batches(destination)? {
        let origin = verified.manifest().origin.to_string();
        let n = found.entry(origin.clone()).or_default();
        let at = || format!("batch {} from {origin}", *n + 1);
        let (parcel, upload) = expected
            .get(origin.as_str())
            .and_then(|list| list.get(*n))
            .with_context(|| format!("{} is one too many", at()))?;
        let judged = &judged[origin.as_str()][*upload];
        compare_batch(&batch, &verified, parcel, judged).with_context(at)?;
        *n += 1;
        batches.push(batch);
    }
    for (origin, list) in expected {
        let n = found.get(*origin).copied().unwrap_or(0);
        ensure!(n == list.len(), "{n} batches from {origin} instead of {}", list.len());
    }
    Ok(batches)
}

fn compare_batch(batch: &SignedBatch, verified: &VerifiedBatch, parcel: &Parcel, of: &Judged) -> Result<()> {
    let (manifest, entry) = (verified.manifest(), &of.entry);
    ensure!(Some(manifest.upload_id) == entry.upload_id, "it is made of another upload");
    ensure!(Some(&manifest.batch_tag) == entry.batch_tag.as_ref(), "it has another tag");
    same("created at", &manifest.created_at, &entry.now)?;
    same("network version", &manifest.network_version, &entry.network_version)?;
    same("sequence", &manifest.sequence, &parcel.sequence)?;
    same("agreement", &manifest.agreement, &parcel.agreement)?;
    same("level", &(manifest.level == Level::Whole), &parcel.whole)?;
    let delivery = entry.deliveries.iter().find(|d| d.destination == manifest.destination);
    ensure!(delivery.is_some_and(|d| d.manifest == verified.hash()), "the ledger names another manifest");
    if verified.keys() != parcel.keys {
        let wrong = verified.keys().iter().zip(&parcel.keys).position(|(a, b)| a != b);
        bail!(
            "{} keys instead of {}; the first that differs: {wrong:?}",
            verified.keys().len(),
            parcel.keys.len()
        );
    }
    ensure!(batch.keys == efgs::encode_protobuf(&parcel.keys), "the bytes of its keys are others");
    let new: Vec<_> = (0..parcel.keys.len()).map(|i| bit(&batch.new, i)).collect();
    same("new", &new, &parcel.new)?;
    ensure!(
        batch.origin_signature == parcel.whole.then(|| of.signature.clone()),
        "another signature goes along"
    );
    Ok(())
}
