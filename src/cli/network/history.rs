//! Every version on the topic that a pinned anchor has signed.

use std::sync::Arc;

use keyferry_runtime::{
    exit::Fatal,
    network::{Versions, next_version},
    topics::list,
};
use keyferry_schemas::{network::Network, records::NetworkRecord, topics};

use crate::cli::{self, Connection, bounds};

/// A version as it was published.
pub(crate) struct Published {
    pub(crate) record: NetworkRecord,
    pub(crate) network: Arc<Network>,
}

/// Reads the topic to its end by the rules of the roles: what is not trusted or not newer is passed over, and said on
/// standard error. Empty if there is no topic yet, or nothing on it.
pub(crate) fn read(connection: &Connection) -> Result<Vec<Published>, Fatal> {
    let (codec, anchors) = (connection.codec()?, connection.anchors()?);
    // A new cluster is nothing to complain about.
    if !list(&connection.kafka)?.iter().any(|t| t.name == topics::NETWORK) {
        return Ok(Vec::new());
    }
    let mut all: Vec<Published> = Vec::new();
    let (mut passed_over, mut lacks_registry) = (0, false);
    let (_, end) = bounds(&connection.kafka, topics::NETWORK)?;
    cli::read(&connection.kafka, topics::NETWORK, end, |record| {
        let offset = record.offset;
        lacks_registry |= connection.lacks_registry(record.value.as_ref());
        let last = all.last().map(|p| p.network.as_ref());
        match next_version(record.value, |value| codec.decode(value), &anchors, last) {
            Ok((record, network)) => all.push(Published { record, network: Arc::new(network) }),
            Err(why) => {
                eprintln!("{} offset {offset} is passed over: {why}", topics::NETWORK);
                passed_over += 1;
            }
        }
        Ok(())
    })?;
    if all.is_empty() && lacks_registry {
        return Err(Connection::no_registry(topics::NETWORK));
    }
    if all.is_empty() && passed_over > 0 {
        return Err(Fatal::untrusted(format_args!(
            "none of {passed_over} record(s) on {} is signed by an anchor given here; is it the right --anchor?",
            topics::NETWORK
        )));
    }
    Ok(all)
}

/// The same by number; it is a fault if there is none.
pub(crate) fn versions(connection: &Connection) -> Result<Versions, Fatal> {
    let all = read(connection)?;
    if all.is_empty() {
        return Err(none());
    }
    Ok(all.into_iter().map(|p| (p.network.version(), p.network)).collect())
}

/// There is no version to work with.
pub(crate) fn none() -> Fatal {
    Fatal::config(format_args!(
        "no network document on {} yet; `keyferry network apply` publishes one",
        topics::NETWORK
    ))
}
