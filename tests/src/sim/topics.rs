//! The simulated log: topics of one partition, transactions, and their markers, which land on each topic by themselves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keyferry_runtime::{
    kafka::Isolation,
    tail::Record,
    transaction::log::{Fault, Remedy},
};
use keyferry_schemas::{time::Millis, topics};

use super::{
    baton::{Life, Micros, SECOND},
    cluster::{Cluster, Event},
    plan::Plan,
};

/// The broker looks for transactions that take too long this often.
const CLEANUP: Micros = 10 * SECOND;

/// What stands at an offset.
pub(super) enum Slot {
    Data { transaction: Option<usize>, record: Record },
    Marker,
}

/// Partition 0 of a topic.
#[derive(Default)]
pub(super) struct Partition {
    pub slots: Vec<Slot>,
    /// First offset of each transaction whose marker is not here yet.
    open: BTreeMap<usize, i64>,
    /// Records whose commit marker is here.
    committed: usize,
}

impl Partition {
    pub fn end(&self) -> i64 {
        i64::try_from(self.slots.len()).unwrap_or(i64::MAX)
    }

    /// How far a reader with this isolation reads.
    pub fn bound(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::Committed => self.open.values().min().copied().unwrap_or_else(|| self.end()),
            Isolation::Uncommitted => self.end(),
        }
    }
}

/// One transaction.
#[derive(Default)]
pub(super) struct Transaction {
    pub writer: String,
    /// Committed or not, once that is decided.
    pub outcome: Option<bool>,
    /// Topics with records of it, and how many.
    topics: BTreeMap<String, usize>,
    pub offsets: BTreeMap<String, i64>,
    /// Markers that are still to land.
    due: usize,
}

/// What the transaction coordinator knows of a transactional id.
#[derive(Default)]
pub(super) struct Coordinated {
    pub epoch: u64,
    pub ongoing: Option<usize>,
    /// Decided, and not all markers have landed: no other one begins.
    pub ending: Option<usize>,
}

/// A producer of an instance, and what it has not delivered yet.
pub(super) struct Producer {
    pub life: Life,
    pub id: String,
    pub epoch: u64,
    pub queue: Vec<(String, Record)>,
    pub failed: Option<Fault>,
    pub transaction: Option<usize>,
    pub fenced: bool,
    /// The commit was asked for, and its answer was lost.
    pub committing: bool,
}

/// All topics, transactions and offsets.
#[derive(Default)]
pub(super) struct Topics {
    pub partitions: BTreeMap<String, Partition>,
    pub transactions: Vec<Transaction>,
    pub coordinated: BTreeMap<String, Coordinated>,
    pub producers: Vec<Producer>,
    pub offsets: BTreeMap<String, i64>,
    /// Transactions whose offsets wait for the marker.
    unsettled: BTreeSet<usize>,
}

pub(super) fn fenced() -> Fault {
    Fault { what: "fenced by a newer producer".into(), remedy: Remedy::Rebuild }
}

pub(super) fn lost() -> Fault {
    Fault { what: "no answer in time".into(), remedy: Remedy::Retry }
}

pub(super) fn refused(what: &str) -> Fault {
    Fault { what: what.into(), remedy: Remedy::Abort }
}

impl Topics {
    pub fn partition(&mut self, topic: &str) -> &mut Partition {
        if !self.partitions.contains_key(topic) {
            self.partitions.insert(topic.to_owned(), Partition::default());
        }
        self.partitions.entry(topic.to_owned()).or_default()
    }

    /// A record outside of transactions.
    pub fn append(&mut self, topic: &str, timestamp: Millis, value: Bytes) -> i64 {
        let partition = self.partition(topic);
        let offset = partition.end();
        let record = Record { offset, timestamp, key: None, value: Some(value), headers: Vec::new() };
        partition.slots.push(Slot::Data { transaction: None, record });
        offset
    }

    /// The next record from `position` on, and where the search ended.
    pub fn read(&self, topic: &str, isolation: Isolation, mut position: i64) -> (Option<Record>, i64) {
        let Some(partition) = self.partitions.get(topic) else { return (None, position) };
        let bound = partition.bound(isolation);
        while position < bound {
            let slot = usize::try_from(position).ok().and_then(|i| partition.slots.get(i));
            position += 1;
            if let Some(Slot::Data { transaction, record }) = slot
                && (isolation == Isolation::Uncommitted
                    || transaction.is_none_or(|t| self.transactions[t].outcome == Some(true)))
            {
                return (Some(record.clone()), position);
            }
        }
        (None, position)
    }

    /// Uploads with a committed entry.
    pub fn decided(&self, plan: &Plan) -> usize {
        let ledgers = plan.origins.iter().map(|origin| topics::ledger(*origin));
        ledgers.filter_map(|topic| self.partitions.get(&topic)).map(|p| p.committed).sum()
    }

    /// Whether a transaction may still change this committed offset.
    pub fn is_unstable(&self, topic: &str) -> bool {
        self.unsettled.iter().any(|t| self.transactions[*t].offsets.contains_key(topic))
    }
}

impl Cluster {
    /// The open transaction of a producer, begun if there is none.
    fn enlist(&mut self, producer: usize) -> Result<usize, Fault> {
        let p = &self.topics.producers[producer];
        let id = p.id.clone();
        let coordinated = self.topics.coordinated.entry(id.clone()).or_default();
        if coordinated.epoch != p.epoch {
            return Err(fenced());
        }
        if coordinated.ending.is_some() {
            return Err(lost());
        }
        if let Some(transaction) = coordinated.ongoing {
            return Ok(transaction);
        }
        let transaction = self.topics.transactions.len();
        coordinated.ongoing = Some(transaction);
        self.topics.transactions.push(Transaction { writer: id, ..Transaction::default() });
        self.topics.producers[producer].transaction = Some(transaction);
        let wait = self.plan.transaction_timeout;
        let wait = wait + CLEANUP - (self.now + wait) % CLEANUP;
        self.post(wait, Event::TimedOut { transaction });
        Ok(transaction)
    }

    /// Delivers some of what a producer has sent: in order on each topic, the topics in any.
    pub fn deliver(&mut self, producer: usize, most: usize) {
        for _ in 0..most {
            if self.topics.producers[producer].queue.is_empty() {
                return;
            }
            let transaction = match self.enlist(producer) {
                Ok(transaction) => transaction,
                Err(fault) if fault.remedy == Remedy::Retry => return,
                Err(fault) => {
                    let p = &mut self.topics.producers[producer];
                    p.queue.clear();
                    p.fenced = true;
                    p.failed.get_or_insert(fault);
                    return;
                }
            };
            let queue = &mut self.topics.producers[producer].queue;
            let any = self.rng.index(queue.len());
            let first = queue.iter().position(|(topic, _)| *topic == queue[any].0).unwrap_or(0);
            let (topic, mut record) = queue.remove(first);
            *self.topics.transactions[transaction].topics.entry(topic.clone()).or_default() += 1;
            let partition = self.topics.partition(&topic);
            record.offset = partition.end();
            partition.open.entry(transaction).or_insert(record.offset);
            partition.slots.push(Slot::Data { transaction: Some(transaction), record });
        }
    }

    /// A delivery takes too long, and all behind it are given up.
    pub fn fail_deliveries(&mut self, producer: usize) {
        let p = &mut self.topics.producers[producer];
        if !p.queue.is_empty() {
            p.queue.clear();
            p.failed.get_or_insert(refused("message timed out"));
        }
    }

    /// What was under way when an instance died lands, or some of it.
    pub fn land_some(&mut self, life: Life) {
        for producer in 0..self.topics.producers.len() {
            if self.topics.producers[producer].life == life {
                let length = self.topics.producers[producer].queue.len();
                let most = self.rng.index(length + 1);
                self.deliver(producer, most);
                self.topics.producers[producer].queue.clear();
            }
        }
    }

    /// Makes offsets part of a producer's transaction, if its member is one.
    pub fn add_offsets(&mut self, producer: usize, offsets: &[(String, i64)]) -> Result<(), Fault> {
        let transaction = self.enlist(producer)?;
        self.topics.transactions[transaction].offsets.extend(offsets.iter().cloned());
        self.topics.unsettled.insert(transaction);
        Ok(())
    }

    /// Decides a transaction. Its markers are on their way from now on.
    pub fn decide(&mut self, transaction: usize, commit: bool) {
        let t = &mut self.topics.transactions[transaction];
        t.outcome = Some(commit);
        let mut targets: Vec<_> = t.topics.keys().cloned().map(Some).collect();
        if !t.offsets.is_empty() {
            targets.push(None);
        }
        t.due = targets.len();
        let writer = t.writer.clone();
        self.note(|_| {
            format!("transaction {transaction} of {writer}: {}", if commit { "COMMIT" } else { "abort" })
        });
        let coordinated = self.topics.coordinated.entry(writer).or_default();
        coordinated.ongoing = None;
        coordinated.ending = (!targets.is_empty()).then_some(transaction);
        for topic in targets {
            let wait = self.lateness();
            self.post(wait, Event::Marker { transaction, topic });
        }
    }

    pub fn land_marker(&mut self, transaction: usize, topic: Option<&str>) {
        self.note(|_| {
            format!("transaction {transaction}: marker on {}", topic.unwrap_or("the group's offsets"))
        });
        let t = &mut self.topics.transactions[transaction];
        t.due -= 1;
        let (done, commit, writer) = (t.due == 0, t.outcome == Some(true), t.writer.clone());
        if let Some(topic) = topic {
            let records = t.topics.get(topic).copied().unwrap_or(0);
            let partition = self.topics.partition(topic);
            partition.open.remove(&transaction);
            partition.slots.push(Slot::Marker);
            partition.committed += if commit { records } else { 0 };
        } else {
            let offsets = t.offsets.clone();
            self.topics.unsettled.remove(&transaction);
            if commit {
                self.topics.offsets.extend(offsets);
            }
        }
        if done {
            self.topics.coordinated.entry(writer).or_default().ending = None;
        }
    }

    pub fn time_out(&mut self, transaction: usize) {
        let writer = self.topics.transactions[transaction].writer.clone();
        let coordinated = self.topics.coordinated.entry(writer).or_default();
        if coordinated.ongoing == Some(transaction) {
            coordinated.epoch += 1;
            self.count("timed out");
            self.decide(transaction, false);
        }
    }

    /// One attempt of a producer to become the only one of its id. None: an earlier transaction has not ended yet.
    pub fn init(&mut self, producer: usize) -> Option<u64> {
        let id = self.topics.producers[producer].id.clone();
        let coordinated = self.topics.coordinated.entry(id).or_default();
        if let Some(transaction) = coordinated.ongoing {
            coordinated.epoch += 1;
            self.decide(transaction, false);
            return None;
        }
        if coordinated.ending.is_some() {
            return None;
        }
        coordinated.epoch += 1;
        Some(coordinated.epoch)
    }

    /// Ends everything that is open, as time does: for the final look.
    pub fn settle(&mut self) {
        let open: Vec<_> = self.topics.coordinated.values().filter_map(|c| c.ongoing).collect();
        for transaction in open {
            self.time_out(transaction);
        }
        for (transaction, topic) in self.due_markers() {
            self.land_marker(transaction, topic.as_deref());
        }
    }
}
