//! `keyferry verify`: proof of what a country received, with the trust anchor, the network document it signed, and
//! nothing else.
//!
//! | file | what it holds |
//! |---|---|
//! | `batch`, `topic`, `store` | where the batches come from |
//! | `ledger`, `compare` | what an origin's ledger says, and whether all were told the same |
//! | `walk` | each batch by itself, and the chains they form |
//! | `report` | what is answered |

mod batch;
mod compare;
mod ledger;
mod report;
mod store;
mod topic;
mod walk;

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use keyferry_runtime::{exit::Fatal, network::Versions};
use keyferry_schemas::network::Network;

use super::{
    KafkaArgs, files,
    network::history::{none, versions},
};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Verifies batches in files, each the value of a record of keyferry.keys.de; several as one chain
    #[command(
        after_help = "Example: keyferry verify batch batch.avro --network network.yaml --anchor anchor.pem"
    )]
    Batch(batch::Batch),
    /// Verifies a country's topic from its first record to its end
    #[command(
        after_help = "Example: keyferry verify topic --country DE --bootstrap localhost:9092 --anchor anchor.pem"
    )]
    Topic(topic::Topic),
    /// Verifies the store of a distribution service from its first log object to its end
    #[command(
        after_help = "Example: keyferry verify store --country DE --path /var/lib/keyferry --network network.yaml --anchor anchor.pem"
    )]
    Store(store::Store),
    /// Verifies an origin's ledger, and says which batches it caused
    #[command(
        after_help = "Example: keyferry verify ledger --country DE --bootstrap localhost:9092 --json > ledger-de.json"
    )]
    Ledger(ledger::Ledger),
    /// Holds reports of ledgers and of topics together: whether several countries were told different things
    #[command(
        after_help = "Example: keyferry verify compare ledger-de.json topic-fr.json topic-nl.json\nMake the reports of ledgers first, then those of topics: `verify ledger --json` and `verify topic --json`."
    )]
    Compare(compare::Compare),
}

/// With what to verify.
#[derive(Args, Clone)]
pub struct Proof {
    /// A signed network document (its signature in FILE.cms); one for each version that the batches name
    #[arg(long = "network", value_name = "FILE")]
    networks: Vec<PathBuf>,
    /// Takes the versions from the topic keyferry.network, besides those given as files
    #[arg(long)]
    network_topic: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
}

impl Proof {
    /// Every version there is, each signed by a pinned anchor. `default_to_topic`: if no files are given.
    fn versions(&self, default_to_topic: bool) -> Result<Versions, Fatal> {
        let mut all = Versions::new();
        if self.network_topic || (default_to_topic && self.networks.is_empty()) {
            all = versions(&self.kafka.connect()?)?;
        }
        if !self.networks.is_empty() {
            let anchors = self.kafka.file.anchors()?;
            for file in &self.networks {
                let network = Network::open(&files::signed(file, None)?, &anchors);
                let network = network.map_err(|e| files::untrusted(file, &e))?;
                all.insert(network.version(), Arc::new(network));
            }
        }
        if all.is_empty() {
            return Err(if self.network_topic {
                none()
            } else {
                Fatal::config(
                    "no network document is given: name signed ones with --network FILE, or take those on Kafka with --network-topic",
                )
            });
        }
        Ok(all)
    }
}

/// Runs a command.
///
/// # Errors
/// [`Fatal`], with the code for data that are not to be trusted if anything does not verify.
pub fn run(command: Command) -> Result<(), Fatal> {
    let kafka = match &command {
        Command::Batch(args) => &args.proof.kafka,
        Command::Topic(args) => &args.proof.kafka,
        Command::Store(args) => &args.proof.kafka,
        Command::Ledger(args) => &args.kafka,
        Command::Compare(args) => return compare::run(args),
    };
    if kafka.file.only_checked()? {
        return Ok(());
    }
    match command {
        Command::Batch(args) => batch::run(&args),
        Command::Topic(args) => topic::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Ledger(args) => ledger::run(&args),
        Command::Compare(args) => compare::run(&args),
    }
}

#[cfg(test)]
#[cfg(feature = "embedded-broker")]
mod tests;
