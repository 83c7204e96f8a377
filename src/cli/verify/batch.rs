//! `verify batch`.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use keyferry_runtime::{
    codec::{Codec, KeysRecord},
    exit::Fatal,
};
use keyferry_schemas::{avro::Record as _, batch::SignedBatch};

use super::{
    Proof,
    walk::{Begin, Walk},
};
use crate::cli::files;

/// Which files.
#[derive(Args)]
pub struct Batch {
    /// Batches in the order of their sequence: record values as they stand in Kafka, or bare Avro
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) proof: Proof,
}

pub(super) fn run(args: &Batch) -> Result<(), Fatal> {
    let versions = args.proof.versions(false)?;
    // Off line: what a registry would be asked for is known here, as every batch has the schema of this build.
    let codec = Codec::single_object().map_err(Fatal::failure)?;
    let named = |n: usize| if n == 1 { args.files[0].display().to_string() } else { format!("{n} files") };
    // Whoever has some batches of a chain proves these; that they are all is proven by a topic or a store.
    let mut walk = Walk::new(named(args.files.len()), &versions, None, Begin::Anywhere);
    for file in &args.files {
        let bytes = files::read("the batch", file)?;
        let place = file.display().to_string();
        let taken = match decode(&codec, bytes.into()) {
            Some(record) => walk.take(place, &record),
            None => Err(format!("{place}: is neither a batch as it stands in Kafka nor bare Avro")),
        };
        if let Err(fault) = taken {
            return walk.end(Some(fault)).finish(args.proof.json);
        }
    }
    walk.end(None).finish(args.proof.json)
}

fn decode(codec: &Codec, bytes: Bytes) -> Option<KeysRecord> {
    let bare = |bytes: Bytes| SignedBatch::from_avro(bytes).ok().map(KeysRecord::Batch);
    let framed = codec.decode_keys(bytes.clone()).ok();
    framed.or_else(|| bare(bytes.clone())).or_else(|| {
        // A registry's frame: a zero and its id of the schema, then Avro.
        if bytes.len() > 5 && bytes[0] == 0 { bare(bytes.slice(5..)) } else { None }
    })
}
