//! A cluster of three nodes, each broker and controller: every record is on three disks and counts once it is on two.
//! Only this proves that what was acknowledged outlives a broker.
//!
//! | file | what it holds |
//! |---|---|
//! | `place` | networks and disks of the nodes' own |
//! | `ask` | who leads what |
//! | [`faults`] | what can befall the nodes, each with a way back |

mod ask;
pub mod faults;
mod place;

use std::{io::Write as _, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use keyferry_runtime::{
    broker::{Broker, Node, cluster_id},
    topics::TopicsConfig,
};
use place::{Place, Switch};

use crate::wait::wait_for;

/// The numbers of the nodes.
pub const NODES: [u8; 3] = [1, 2, 3];
/// The node whose disk is a small one, in memory. The others' is that of this machine.
pub const SMALL: u8 = 3;
/// The size of the small disk. It takes memory as far as it is written to.
const DISK_BYTES: u64 = 2 << 30;
/// How long nodes may take for what they do by themselves: several of them start at the same time.
const PATIENCE: Duration = Duration::from_secs(180);
/// Three of these and what Java takes besides are about a gigabyte.
const HEAP_MIB: u32 = 224;

/// Three copies of everything, two of which must be there.
pub const TOPICS: TopicsConfig = TopicsConfig { replication_factor: 3, min_insync_replicas: Some(2) };

/// A running cluster. It ends, and all that was made for it, when this is dropped, or this process ends.
pub struct Trio {
    nodes: Vec<One>,
    switch: Switch,
    folder: tempfile::TempDir,
}

struct One {
    number: u8,
    broker: Broker,
    place: Place,
}

impl Trio {
    /// Starts three nodes. Takes some ten seconds. `None` where this machine allows no namespaces or mounts: that is said
    /// in one line, and whoever asked has nothing to test.
    ///
    /// # Errors
    /// A node does not start.
    pub fn start() -> Result<Option<Self>> {
        if let Some(why) = place::why_not() {
            println!(
                "SKIPPED: three brokers need namespaces and mounts, which are not to be had here: {why}"
            );
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("keyferry-trio-").tempdir()?;
        let log = folder.path().join("places.log");
        let switch = Switch::make(&log, folder.path())?;
        let addresses = NODES.map(|n| (i32::from(n), switch.address(n)));
        let cluster = cluster_id();
        let mut prepared = Vec::new();
        for number in NODES {
            let place = Place::make(&log, None)?;
            switch.plug_in(number, &place)?;
            let data = folder.path().join(number.to_string());
            std::fs::create_dir_all(data.join("data"))?;
            if number == SMALL {
                place.mount(&data.join("data"), DISK_BYTES)?;
            }
            let node = Node {
                id: number.into(),
                addresses: addresses.into(),
                cluster: cluster.clone(),
                within: place.within().into_iter().map(Into::into).collect(),
                heap_mib: HEAP_MIB,
            };
            let broker = Broker::builder()
                .node(node)
                .data(Some(data))
                // Otherwise more than half of the heap.
                .property("log.cleaner.dedupe.buffer.size", "4194304")
                // A node that came back leads again soon, so that the next fault meets all of them in their roles.
                .property("leader.imbalance.check.interval.seconds", "5")
                .property("leader.imbalance.per.broker.percentage", "0");
            prepared.push((number, broker, place));
        }
        // None of them is ready before there are two.
        let started: Vec<_> = thread::scope(|scope| {
            let starting: Vec<_> = prepared
                .into_iter()
                .map(|(number, broker, place)| {
                    scope.spawn(move || Ok(One { number, broker: broker.start()?, place }))
                })
                .collect();
            starting.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a panic"))).collect()
        });
        let nodes = started.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Some(Self { nodes, switch, folder }))
    }

    /// All nodes, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(|one| one.broker.bootstrap_servers()).collect::<Vec<_>>().join(",")
    }

    fn one(&mut self, node: u8) -> Result<&mut One> {
        self.nodes
            .iter_mut()
            .find(|one| one.number == node)
            .with_context(|| format!("there is no node {node}"))
    }

    /// Whether a node runs.
    ///
    /// # Errors
    /// There is no such node.
    pub fn is_running(&mut self, node: u8) -> Result<bool> {
        Ok(self.one(node)?.broker.is_running())
    }

    /// Ends a node as a crash would: SIGKILL.
    ///
    /// # Errors
    /// It can not be signalled.
    pub fn kill(&mut self, node: u8) -> Result<()> {
        Ok(self.one(node)?.broker.kill()?)
    }

    /// Starts a node that was killed or has ended, and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self, node: u8) -> Result<()> {
        let one = self.one(node)?;
        if !one.broker.is_running() {
            one.broker.kill()?;
            one.broker.start_again()?;
        }
        Ok(())
    }

    /// Kills all nodes at once.
    ///
    /// # Errors
    /// One can not be signalled.
    pub fn stop_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|one| Ok(one.broker.kill()?))
    }

    /// Starts all that do not run, at the same time, and waits until they answer.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_all(&mut self) -> Result<()> {
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let start = |one: &mut One| {
                if !one.broker.is_running() {
                    one.broker.kill()?;
                    one.broker.start_again()?;
                }
                Ok(())
            };
            let starting: Vec<_> = self.nodes.iter_mut().map(|one| scope.spawn(move || start(one))).collect();
            starting.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a panic"))).collect()
        });
        results.into_iter().collect()
    }

    /// Waits until every partition has all of its copies again: only then another fault is one fault.
    ///
    /// # Panics
    /// It does not within some minutes.
    pub fn await_whole(&self) {
        wait_for("a cluster that is whole", PATIENCE, || self.is_whole().is_ok_and(|whole| whole));
    }

    /// Stops a node where it stands, as a machine that hangs: it answers nothing and closes nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn hang(&mut self, node: u8) -> Result<()> {
        self.signal(node, rustix::process::Signal::STOP)
    }

    /// Lets a node that hangs go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn wake(&mut self, node: u8) -> Result<()> {
        self.signal(node, rustix::process::Signal::CONT)
    }

    fn signal(&mut self, node: u8, signal: rustix::process::Signal) -> Result<()> {
        let pid = self.one(node)?.broker.pid().with_context(|| format!("node {node} does not run"))?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Pulls the cable of a node: neither the others nor clients reach it, nor does it reach them.
    ///
    /// # Errors
    /// The cable can not be pulled.
    pub fn partition(&self, node: u8) -> Result<()> {
        self.switch.cable(node, false)
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// It can not be plugged in.
    pub fn heal(&self, node: u8) -> Result<()> {
        self.switch.cable(node, true)
    }

    fn disk(&mut self, node: u8) -> Result<(PathBuf, &mut One)> {
        ensure!(
            node == SMALL,
            "the disk of node {node} is that of this machine, only {SMALL} has a small one"
        );
        Ok((self.folder.path().join(node.to_string()).join("data"), self.one(node)?))
    }

    /// Takes all room on the disk of [`SMALL`]: from now on it can write nothing.
    ///
    /// # Errors
    /// It is another node, or the disk can not be made smaller.
    pub fn fill_disk(&mut self, node: u8) -> Result<()> {
        let (folder, one) = self.disk(node)?;
        // What is written meanwhile makes the new size too small for what is there.
        for _ in 0..50 {
            let used = one.place.used(&folder)?;
            if one.place.resize(&folder, used).is_ok() {
                return Ok(());
            }
        }
        one.place.used(&folder).and_then(|used| one.place.resize(&folder, used))
    }

    /// Waits until a node has ended by itself, as Kafka does when it can not write.
    ///
    /// # Panics
    /// It does not within some minutes.
    pub fn await_end(&mut self, node: u8) {
        wait_for("the end of a node", PATIENCE, || self.is_running(node).is_ok_and(|runs| !runs));
    }

    /// Makes room on the disk of [`SMALL`] again.
    ///
    /// # Errors
    /// It is another node, or the disk can not be made larger.
    pub fn free_disk(&mut self, node: u8) -> Result<()> {
        let (folder, one) = self.disk(node)?;
        one.place.resize(&folder, DISK_BYTES)
    }
}

/// Says a line where also that of a test which passes is seen: `println` is kept back then.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
