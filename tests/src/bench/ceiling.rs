//! The ceiling: a bare loop that consumes, produces and commits in transactions and does nothing else.
//!
//! It reads the uploads that the processor read, with the clients of the processor, and writes for each what the processor
//! wrote: as many records, with the very bytes, so that they are as large and compress as well. It ends its transactions
//! where the processor does. What it does not do is to understand anything.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use keyferry_runtime::{
    kafka::Isolation,
    tail::{Next, Start, Tail},
    transaction::Settings,
};
use keyferry_schemas::{
    country::Country,
    topics::{self, Topic},
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::load::send;
use crate::{hub::Hub, wait::delivered};

/// So many different records go to each topic in turn: one alone would compress with itself.
const DIFFERENT: usize = 16;
/// How far before its end a topic is read for them: commit markers take offsets as well.
const BACK: i64 = 4 * DIFFERENT as i64;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the processor wrote.
pub struct Written {
    ledger: Vec<Vec<u8>>,
    keys: BTreeMap<Country, Vec<Vec<u8>>>,
    head: Vec<u8>,
}

impl Written {
    /// The last that was written about these origins, which are all members.
    ///
    /// # Errors
    /// Nothing was.
    pub fn read(hub: &Hub, origins: &[Country]) -> Result<Self> {
        let ledger = last(hub, &topics::ledger(*origins.first().context("an origin")?), DIFFERENT)?;
        let keys = origins.iter().map(|to| Ok((*to, last(hub, &topics::keys(*to), DIFFERENT)?)));
        let head = last(hub, topics::HEADS, 1)?.pop().context("a head")?;
        Ok(Self { ledger, keys: keys.collect::<Result<_>>()?, head })
    }
}

/// The last records of a topic, in order, up to `n` and at least one.
///
/// # Errors
/// There is none.
pub fn last(hub: &Hub, topic: &str, n: usize) -> Result<Vec<Vec<u8>>> {
    let kafka = hub.kafka("test");
    let end = Tail::open(&kafka, topic, Isolation::Committed, Start::End)?.position();
    let start = Start::Offset((end - BACK.max(4 * n as i64)).max(0));
    let mut tail = Tail::open(&kafka, topic, Isolation::Committed, start)?;
    let mut found = Vec::new();
    while tail.position() < end {
        match tail.next(TIMEOUT)? {
            Next::Record(record) => found.push(record.value.unwrap_or_default().to_vec()),
            Next::End => break,
            Next::Timeout => anyhow::bail!("{topic} does not come"),
        }
    }
    ensure!(!found.is_empty(), "{topic} is empty");
    Ok(found.split_off(found.len().saturating_sub(n)))
}

fn own(name: &str) -> String {
    name.replacen("keyferry.", "ceiling.", 1)
}

/// Creates the topics that the loop writes to: the same ones, under other names.
///
/// # Errors
/// The broker refuses.
pub fn create_topics(hub: &Hub, members: &[Country]) -> Result<()> {
    let of_members = members.iter().flat_map(|m| topics::of_member(*m));
    let written = of_members
        .chain(topics::shared())
        .filter(|t| t.name == topics::HEADS || t.name.contains(".ledger.") || t.name.contains(".keys."));
    hub.create(written.map(|t| Topic { name: own(&t.name), ..t }))
}

/// Runs the loop over the upload topics of these origins until it is told to stop. Blocks its thread.
///
/// # Errors
/// Kafka fails.
pub fn run(hub: &Hub, origins: &[Country], written: &Written, stop: &AtomicBool) -> Result<()> {
    let (kafka, settings) = (hub.kafka("ceiling"), Settings::new("ceiling"));
    let producer: BaseProducer = kafka.transactional_config("ceiling").create()?;
    producer.init_transactions(TIMEOUT)?;
    let consumer: BaseConsumer = kafka.group_consumer_config().create()?;
    let uploads: Vec<_> = origins.iter().map(|origin| topics::uploads(*origin)).collect();
    consumer.subscribe(&uploads.iter().map(String::as_str).collect::<Vec<_>>())?;
    // Names are made beforehand; even that is work.
    let ledgers: BTreeMap<_, _> = origins.iter().map(|o| (*o, own(&topics::ledger(*o)))).collect();
    let keys: Vec<_> =
        written.keys.iter().map(|(to, batches)| (*to, own(&topics::keys(*to)), batches)).collect();
    let heads = own(topics::HEADS);
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(first) = consumer.poll(Duration::from_millis(20)) else { continue };
        let (started, mut sent, mut next) = (Instant::now(), 0, Some(first));
        let mut consumed = BTreeMap::new();
        producer.begin_transaction()?;
        while let Some(message) = next {
            let message = message?;
            let origin = topics::origin_of(message.topic()).context("an upload topic")?;
            turn += 1;
            let mut put = |topic: &str, value: &Vec<u8>| {
                sent += value.len();
                send(&producer, BaseRecord::to(topic).key(origin.as_str()).payload(value).partition(0))
            };
            put(&ledgers[&origin], &written.ledger[turn % written.ledger.len()])?;
            for (_, topic, batches) in keys.iter().filter(|(to, _, _)| *to != origin) {
                put(topic, &batches[turn % batches.len()])?;
            }
            consumed.insert(origin, message.offset() + 1);
            let full = sent >= settings.max_output_bytes || started.elapsed() >= settings.max_duration;
            next = if full { None } else { consumer.poll(Duration::ZERO) };
        }
        let mut offsets = TopicPartitionList::new();
        for (origin, next) in &consumed {
            send(&producer, BaseRecord::to(&heads).key(origin.as_str()).payload(&written.head).partition(0))?;
            offsets.add_partition_offset(&topics::uploads(*origin), 0, Offset::Offset(*next))?;
        }
        delivered(&producer, TIMEOUT)?;
        let metadata = consumer.group_metadata().context("a member of the group")?;
        producer.send_offsets_to_transaction(&offsets, &metadata, TIMEOUT)?;
        producer.commit_transaction(TIMEOUT)?;
    }
    Ok(())
}
