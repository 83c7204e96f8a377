//! `network apply`: publishes the next version.

use std::{cmp::Ordering, path::PathBuf};

use clap::Args;
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    exit::Fatal,
    kafka::Kafka,
    producer::Producer,
    topics::purge,
};
use keyferry_schemas::{
    network::{MemberState, Network},
    records::NetworkRecord,
    topics::{self, shared},
};

use super::history::{self, Published};
use crate::cli::{
    Connection, KafkaArgs, files, out,
    topics::{Safety, change, of_members},
};

/// What to publish, and where.
#[derive(Args)]
pub struct Apply {
    /// The document (YAML)
    file: PathBuf,
    /// Its signature; FILE.cms unless given
    cms: Option<PathBuf>,
    #[command(flatten)]
    pub(super) kafka: KafkaArgs,
    #[command(flatten)]
    safety: Safety,
    /// Checks everything and says what would be changed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Apply) -> Result<(), Fatal> {
    let connection = args.kafka.connect()?;
    let anchors = connection.anchors()?;
    let record = files::signed(&args.file, args.cms.as_deref())?;
    let network = Network::open(&record, &anchors).map_err(|e| files::untrusted(&args.file, &e))?;
    // Roles would pass over a certificate that the anchor has not signed. Nothing that they pass over is published.
    Network::read(&record.document, &anchors).map_err(|e| files::untrusted(&args.file, &e))?;

    let published = history::read(&connection)?;
    let is_new = is_new(args, &record, published.last())?;
    // Topics first: a role that hears of a member finds its topics.
    let wanted: Vec<_> = shared().into_iter().chain(of_members(&network, SystemClock.now())).collect();
    change(&connection, &wanted, args.safety, args.dry_run)?;

    let about = format!("network {}, version {}", record.network, record.version);
    match (is_new, args.dry_run) {
        (false, _) => out(format_args!("{about} is published already: nothing to publish"))?,
        (true, true) => out(format_args!("would publish {about}"))?,
        (true, false) => {
            publish(&connection, &record)?;
            out(format_args!("published {about}"))?;
        }
    }
    // Deleted records do not come back, so only what is in force may delete any.
    purge_left(&connection, &network, args.dry_run)
}

/// Deletes what is left of members that have left by now. Running it again deletes what came since.
fn purge_left(connection: &Connection, network: &Network, dry_run: bool) -> Result<(), Fatal> {
    let now = SystemClock.now();
    for country in network.countries().filter(|c| network.state(*c, now) == MemberState::Left) {
        for purged in purge(&connection.kafka, country, dry_run)? {
            out(format_args!("{}{purged}", if dry_run { "would " } else { "" }))?;
        }
    }
    Ok(())
}

/// Whether it is the next version; `false` if it is the newest one itself.
fn is_new(args: &Apply, record: &NetworkRecord, newest: Option<&Published>) -> Result<bool, Fatal> {
    let Some(Published { record: newest, .. }) = newest else { return Ok(true) };
    let file = args.file.display();
    if newest.network != record.network {
        let (network, ours) = (&newest.network, &record.network);
        return Err(Fatal::config(format_args!(
            "{file}: network: {ours} is not {network}, the network of this cluster"
        )));
    }
    let (ours, theirs) = (record.version, newest.version);
    match ours.cmp(&theirs) {
        Ordering::Greater => Ok(true),
        Ordering::Equal if newest.document == record.document => Ok(false),
        Ordering::Equal => Err(Fatal::config(format_args!(
            "{file}: version: {ours} is published with other content; set it to {} or more and sign again",
            theirs.saturating_add(1)
        ))),
        Ordering::Less => Err(Fatal::config(format_args!(
            "{file}: version: {ours} is lower than {theirs}, which is published; set it to {} or more and sign again",
            theirs.saturating_add(1)
        ))),
    }
}

fn publish(connection: &Connection, record: &NetworkRecord) -> Result<(), Fatal> {
    let framed = connection.codec()?.encode(record);
    send(&connection.kafka, record.network.as_bytes(), &framed)?;
    // Somebody else may have published at the same moment; roles follow the first.
    let newest = history::read(connection)?.pop();
    if newest.is_some_and(|p| p.record.document == record.document) {
        return Ok(());
    }
    Err(Fatal::failure(format_args!(
        "version {} was written to {} and is not in force: another one came first; see `keyferry network diff`",
        record.version,
        topics::NETWORK
    )))
}

fn send(kafka: &Kafka, key: &[u8], framed: &[u8]) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fatal::failure(format_args!("no threads can be made: {e}")))?;
    runtime.block_on(async {
        let producer = Producer::new(kafka).map_err(|e| kafka.fatal(topics::NETWORK, &e))?;
        let sent = producer.send(topics::NETWORK, key, framed, &[]).await;
        sent.map(|_| ()).map_err(|e| {
            Fatal::unreachable(format_args!("{}: {e}; running this again is safe", topics::NETWORK))
        })
    })
}
