//! What can befall the nodes of a cluster: a blow, and whom it hits. Each has a name, a way in and a way back, so that
//! they can be dealt out in any order, one at a time.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{NODES, SMALL, Trio};

/// Whom a fault hits, found when it strikes.
#[derive(Debug, Clone)]
pub enum Aim {
    /// This node.
    Node(u8),
    /// The node that leads the controllers.
    Controller,
    /// The node that leads a topic.
    LeaderOf(String),
    /// The node that coordinates the transactions of an id.
    CoordinatorOf(String),
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL; the way back is a start.
    Kill,
    /// Its cable is pulled; the way back is to plug it in.
    Partition,
    /// It stands still, and goes on later.
    Hang,
    /// Its disk is full, so that it ends; the way back is room and a start. Hits [`SMALL`], whatever the aim.
    FullDisk,
    /// It and another one are killed: one copy is not enough. The way back is a start of both.
    KillTwo,
    /// All are killed; the way back is a start of all.
    KillAll,
}

/// A fault.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// Whom it hits.
    pub aim: Aim,
    /// What happens.
    pub blow: Blow,
    struck: Option<u8>,
}

impl Fault {
    /// A fault that has not struck yet.
    #[must_use]
    pub fn new(name: &'static str, aim: Aim, blow: Blow) -> Self {
        Self { name, aim, blow, struck: None }
    }

    /// One of each kind, for an uploads topic and a processor.
    #[must_use]
    pub fn all(uploads: &str, transactional_id: &str) -> Vec<Self> {
        let (topic, id) =
            (Aim::LeaderOf(uploads.to_owned()), Aim::CoordinatorOf(transactional_id.to_owned()));
        vec![
            Self::new("broker killed", Aim::Node(1), Blow::Kill),
            Self::new("controller killed", Aim::Controller, Blow::Kill),
            Self::new("leader of the transaction coordinator killed", id.clone(), Blow::Kill),
            Self::new("leader of an uploads topic killed", topic.clone(), Blow::Kill),
            Self::new("leader of an uploads topic cut off", topic.clone(), Blow::Partition),
            Self::new("transaction coordinator hangs", id, Blow::Hang),
            Self::new("disk full", Aim::Node(SMALL), Blow::FullDisk),
            Self::new("two of three killed", topic, Blow::KillTwo),
            Self::new("cluster gone", Aim::Controller, Blow::KillAll),
        ]
    }

    /// Whether uploads are taken and decided while it lasts: two of three nodes are enough.
    #[must_use]
    pub fn is_survived(&self) -> bool {
        !matches!(self.blow, Blow::KillTwo | Blow::KillAll)
    }

    /// Strikes, and returns the node that was hit. Blocks for moments; for a full disk until the node has ended.
    ///
    /// # Errors
    /// Nobody says whom to hit, or it can not be hit.
    pub fn inject(&mut self, trio: &mut Trio) -> Result<u8> {
        let node = self.find(trio)?;
        // Before it strikes: what went wrong half-way can then be healed.
        self.struck = Some(node);
        match self.blow {
            Blow::Kill => trio.kill(node)?,
            Blow::Partition => trio.partition(node)?,
            Blow::Hang => trio.hang(node)?,
            Blow::FullDisk => {
                trio.fill_disk(node)?;
                trio.await_end(node);
            }
            Blow::KillTwo => {
                trio.kill(node)?;
                trio.kill(other(node))?;
            }
            Blow::KillAll => trio.stop_all()?,
        }
        Ok(node)
    }

    /// Undoes it. Blocks until every node that was down answers again. Does nothing if it has not struck.
    ///
    /// # Errors
    /// A node does not come back.
    pub fn heal(&mut self, trio: &mut Trio) -> Result<()> {
        let Some(node) = self.struck.take() else { return Ok(()) };
        match self.blow {
            Blow::Kill => trio.start_again(node),
            Blow::Partition => trio.heal(node),
            Blow::Hang => trio.wake(node),
            Blow::FullDisk => {
                trio.free_disk(node)?;
                trio.start_again(node)
            }
            Blow::KillTwo | Blow::KillAll => trio.start_all(),
        }
    }

    fn find(&self, trio: &mut Trio) -> Result<u8> {
        if self.blow == Blow::FullDisk {
            return Ok(SMALL);
        }
        // Between two leaders there is none for a moment.
        let mut last = None;
        for _ in 0..100 {
            let found = match &self.aim {
                Aim::Node(node) => Ok(*node),
                Aim::Controller => trio.controller(),
                Aim::LeaderOf(topic) => trio.leader_of(topic),
                Aim::CoordinatorOf(id) => trio.transaction_coordinator_leader(id),
            };
            match found {
                Ok(node) => return Ok(node),
                Err(e) => last = Some(e),
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(last.context("no answer")?.context(self.name))
    }
}

fn other(node: u8) -> u8 {
    NODES.into_iter().find(|n| *n != node).unwrap_or(node)
}
