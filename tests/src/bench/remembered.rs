//! What it takes to remember keys: memory, the time to restore them, and what they cost the uploads that come.
//!
//! An origin's ledger is written directly, as processors would have written it over two weeks; nobody has to sign for
//! that. Then a processor starts on it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use keyferry_processors::fingerprint::{Facts, Fingerprint, LENGTH};
use keyferry_runtime::clock::{Clock as _, SystemClock};
use keyferry_schemas::{
    avro::Record as _,
    batch::sha256,
    country::Country,
    records::{ChainHead, Delivery, Head, LedgerEntry, Outcome},
    time::{Day, Millis},
    topics,
    world::{HUB_KEY, Rng},
};
use rdkafka::producer::{BaseProducer, BaseRecord};

use super::{
    Size,
    instance::Instance,
    load::send,
    processor::{Bench, COUNTRIES},
    report::Report,
};
use crate::{hub::Hub, wait::delivered};

/// Keys in an entry: an upload as large as it may be.
const KEYS: usize = 5000;
/// Uploads of one run, of an origin whose keys are remembered or of one without any.
const UPLOADS: usize = 200;
const TIMES: usize = 4;

/// Measures.
///
/// # Errors
/// Kafka fails.
pub fn run(report: &mut Report, size: Size) -> Result<()> {
    let bench = Bench::start(&COUNTRIES[..5])?;
    let empty = {
        let mut instance = Instance::start(&bench.hub, "p-0", None)?;
        instance.ready()?;
        instance.usage()?.resident_bytes
    };
    bench.left()?;
    let (full, fresh) = (bench.origins[0], bench.origins[1]);
    let entries = size.pick(4000, 8);
    write_ledger(&bench.hub, &bench.origins, full, entries)?;

    let mut instance = Instance::start(&bench.hub, "p-0", None)?;
    let took = instance.ready()?.as_secs_f64();
    let remembered = (entries * KEYS) as f64;
    let grown = instance.usage()?.resident_bytes - empty;
    report.add("remembered_bytes_per_key", grown.max(0.0) / remembered, "bytes");
    report.add("restore_20m_s", took * 20e6 / remembered, "s");
    report.add("restore_keys_per_s", remembered / took, "keys/s");

    let uploads = size.pick(UPLOADS, 2);
    let (mut ratios, mut speeds) = (Vec::new(), Vec::new());
    for time in 0..=size.pick(TIMES, 0) {
        // Who comes first may find another broker than who comes second.
        let turns = if time % 2 == 0 { [full, fresh] } else { [fresh, full] };
        let of = |origin: Country| bench.processors_of(&[origin], &[&instance], uploads, KEYS);
        let (one, other) = (of(turns[0])?, of(turns[1])?);
        let (with, without) = if time % 2 == 0 { (one, other) } else { (other, one) };
        if time > 0 || size == Size::Quick {
            ratios.push(with.keys_per_s / without.keys_per_s);
            speeds.push(with.keys_per_s);
        }
    }
    report.add_all("full_over_empty", &ratios, "");
    report.add_all("processor_keys_per_s_full", &speeds, "keys/s");
    Ok(())
}

/// Writes a ledger of so many entries, the head that goes with it, and uploads that nobody will read, for the offsets that
/// the entries name.
fn write_ledger(hub: &Hub, members: &[Country], origin: Country, entries: usize) -> Result<()> {
    let producer: BaseProducer = hub.kafka("test").producer_config().create()?;
    let mut rng = Rng::from_entropy()?;
    let (ledger, uploads) = (topics::ledger(origin), topics::uploads(origin));
    let others = || members.iter().copied().filter(|to| *to != origin);
    let now = SystemClock.now();
    let (mut previous, mut sequence) = ([0; 32], 0);
    for offset in 0..i64::try_from(entries)? {
        sequence = offset + 1;
        let manifest = rng.bytes();
        let delivery = |destination| Delivery { destination, sequence, manifest, new_keys: KEYS as i32 };
        let deliveries = others().map(delivery).collect();
        let entry = entry(&mut rng, origin, offset, now, previous, deliveries);
        let bytes = entry.to_avro();
        previous = sha256(&bytes);
        let value = hub.codec.frame::<LedgerEntry>(&bytes);
        send(&producer, BaseRecord::to(&ledger).key(origin.as_str()).payload(&value).partition(0))?;
        send(&producer, BaseRecord::to(&uploads).key(origin.as_str()).payload(&vec![0]).partition(0))?;
    }
    let chain = |destination| ChainHead { destination, sequence, manifest: [0; 32] };
    let head = Head {
        origin,
        sequence,
        entry: previous,
        source_offset: sequence - 1,
        now,
        checkpoint_at: Millis(0),
        network_version: 1,
        chains: others().map(chain).collect(),
    };
    let value = hub.codec.encode(&head);
    send(&producer, BaseRecord::to(topics::HEADS).key(origin.as_str()).payload(&value).partition(0))?;
    delivered(&producer, Duration::from_secs(120)).context("write a ledger")?;
    hub.commit(origin.as_str(), sequence)
}

/// An entry about an upload that was taken whole.
fn entry(
    rng: &mut Rng,
    origin: Country,
    source_offset: i64,
    now: Millis,
    previous: [u8; 32],
    deliveries: Vec<Delivery>,
) -> LedgerEntry {
    let mut fingerprints = Vec::with_capacity(KEYS * LENGTH);
    let mut prints: Vec<_> = (0..KEYS)
        .map(|_| {
            let facts = Facts {
                report_type: 1,
                last_day: Day(now.day().0 + 1 + rng.below(14) as u16),
                rest: rng.bytes(),
            };
            Fingerprint { id: id(rng), facts }.to_bytes()
        })
        .collect();
    prints.sort_unstable();
    prints.iter().for_each(|print| fingerprints.extend_from_slice(print));
    LedgerEntry {
        sequence: source_offset + 1,
        previous,
        origin,
        source_offset,
        now,
        writer: "p-0".into(),
        network_version: 1,
        signing_key: HUB_KEY.into(),
        upload_id: Some(rng.bytes()),
        batch_tag: Some(format!("{:x}", rng.number())),
        outcome: Outcome::Accepted,
        code: None,
        detail: None,
        first_offset: None,
        content: Some(rng.bytes()),
        accepted_content: None,
        keys: KEYS as i32,
        keys_accepted: KEYS as i32,
        keys_revised: 0,
        verdicts: Vec::new(),
        odd_onsets: 0,
        unknown_countries: 0,
        deliveries,
        withheld: Vec::new(),
        fingerprint_key: "s1".into(),
        fingerprints: fingerprints.into(),
    }
}

/// Sixteen random bytes, in two numbers instead of sixteen: there are twenty million.
fn id(rng: &mut Rng) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng.number().to_be_bytes());
    id[8..].copy_from_slice(&rng.number().to_be_bytes());
    id
}

impl Bench {
    /// Waits until the group of the processors has no member, so that its offsets can be set.
    fn left(&self) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(60);
        while self.members()? > 0 {
            ensure!(Instant::now() < give_up, "a processor that is gone is still in the group");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}
