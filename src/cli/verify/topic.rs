//! `verify topic`.

use clap::Args;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    codec::Codec,
    exit::Fatal,
    tail::Record,
};
use keyferry_schemas::{country::Country, topics};

use super::{
    Proof,
    walk::{Begin, Walk},
};
use crate::cli::{Connection, bounds, read};

/// Which topic.
#[derive(Args)]
pub struct Topic {
    /// The country whose topic it is
    #[arg(long, value_name = "CC")]
    country: Country,
    /// Not verified if a member has stated its chain not even once in the last so many seconds; 7200 with hourly checkpoints
    #[arg(long, value_name = "SECONDS")]
    stated_within_s: Option<u32>,
    #[command(flatten)]
    pub(super) proof: Proof,
}

pub(super) fn run(args: &Topic) -> Result<(), Fatal> {
    let connection = args.proof.kafka.connect()?;
    let codec = connection.codec()?;
    let topic = topics::keys(args.country);
    // The end first, then the versions, so that every version is known that a batch before that end names.
    let (low, end) = bounds(&connection.kafka, &topic)?;
    let versions = args.proof.versions(true)?;
    let begin = if low > 0 { Begin::Confirmed } else { Begin::First };
    let mut walk = Walk::new(topic.clone(), &versions, Some(args.country), begin);
    let mut fault = None;
    read(&connection.kafka, &topic, end, |record| {
        if connection.lacks_registry(record.value.as_ref()) {
            return Err(Connection::no_registry(&topic));
        }
        if fault.is_none() {
            fault = take(&mut walk, &codec, record).err();
        }
        Ok(())
    })?;
    let fault = fault.or_else(|| walk.silent(args.stated_within_s?, SystemClock.now()));
    walk.end(fault).finish(args.proof.json)
}

fn take(walk: &mut Walk<'_>, codec: &Codec, record: Record) -> Result<(), String> {
    let place = format!("offset {}", record.offset);
    match record.value.map(|value| codec.decode_keys(value)) {
        None => Err(format!("{place}: it is a tombstone")),
        // What the Avro library says may quote a value, which may be a key.
        Some(Err(_)) => Err(format!("{place}: it can not be decoded")),
        Some(Ok(record)) => walk.take(place, &record),
    }
}
