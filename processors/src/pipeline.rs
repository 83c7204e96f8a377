//! The stages in order. Read this first.
//!
//! `step` is pure: state, record and network version in; entry, batches and the state's pending changes out. Replaying
//! a log gives the same bytes again.
//!
//! Most of its work needs no state, so it comes in two halves: `prepare`, which may run ahead and anywhere, and `decide`,
//! which runs when it is the record's turn.

use bytes::Bytes;
use keyferry_schemas::{
    avro::Record,
    batch::{SignedBatch, sha256},
    country::Country,
    network::Network,
    records::{LedgerEntry, Outcome, Upload},
    rejection::Rejection,
    time::Millis,
};

use crate::{
    deduplicate::{Found, deduplicate, find_repeat},
    examine::Examined,
    fan_out,
    fingerprint::{Fingerprint, Secrets},
    sign::{Signer, sign},
    state::OriginState,
    tag::tag,
    validate::{Rejected, validate},
};

/// What the pipeline holds besides its state: secrets and names.
pub struct Tools {
    /// Under which keys are remembered.
    pub secrets: Secrets,
    /// With which batches are signed; the first in force is used.
    pub signers: Vec<Signer>,
    /// `transactional.id` of this instance.
    pub writer: String,
}

/// A record of an upload topic, as far as it could be decoded.
pub struct Source {
    /// Its offset.
    pub offset: i64,
    /// The broker's timestamp.
    pub timestamp: Millis,
    /// The upload, or why it is none.
    pub upload: Result<Upload, String>,
}

/// A stage, for the rejects topic and for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the record.
    Decode,
    /// [`crate::validate`]
    Validate,
    /// [`crate::deduplicate`]
    Deduplicate,
}

impl Stage {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Validate => "validate",
            Self::Deduplicate => "deduplicate",
        }
    }
}

/// What one step decided.
pub struct Step {
    /// The ledger entry.
    pub entry: LedgerEntry,
    /// Its Avro binary.
    pub entry_bytes: Vec<u8>,
    /// The batches, each with its destination.
    pub batches: Vec<(Country, SignedBatch)>,
    /// Where a rejected upload was stopped.
    pub rejected_at: Option<Stage>,
}

/// No key of this instance may sign under this network version: a fault of the operator, and nothing is decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no signing key of this instance is in force in network version {0}; see `signing_keys` of the network document"
)]
pub struct NoSigningKey(pub i64);

/// A record of which everything is known that needs neither state nor time.
pub struct Prepared {
    offset: i64,
    timestamp: Millis,
    examined: Result<Examined, String>,
}

/// Prepares and decides in one.
///
/// # Errors
/// As [`decide`].
pub fn step(
    state: &mut OriginState,
    source: Source,
    network: &Network,
    tools: &Tools,
) -> Result<Step, NoSigningKey> {
    decide(state, &prepare(source, state.origin(), network, tools), network, tools)
}

/// Does the part of the work that needs no state.
#[must_use]
pub fn prepare(source: Source, origin: Country, network: &Network, tools: &Tools) -> Prepared {
    let Source { offset, timestamp, upload } = source;
    let examined = upload.map(|upload| Examined::of(upload, origin, network, &tools.secrets));
    Prepared { offset, timestamp, examined }
}

/// Decides about one record. The changes stay pending in `state` until its transaction is committed or aborted.
///
/// # Errors
/// [`NoSigningKey`]; the record is not consumed then.
pub fn decide(
    state: &mut OriginState,
    prepared: &Prepared,
    network: &Network,
    tools: &Tools,
) -> Result<Step, NoSigningKey> {
    let now = state.position().now.max(prepared.timestamp);
    let signer =
        tools.signers.iter().find(|s| s.in_force(network, now)).ok_or(NoSigningKey(network.version()))?;
    state.advance(prepared.timestamp);
    let mut blank = blank(state, prepared.offset, network, signer, tools);
    let origin = state.origin();

    let examined = match &prepared.examined {
        Ok(examined) => examined,
        Err(why) => {
            let rejected = Rejected::new(Rejection::Undecodable, format!("the record is no Upload: {why}"));
            return Ok(reject(state, blank, &rejected, Stage::Decode));
        }
    };
    blank = fan_out::name(blank, &examined.upload);

    // Rare: another version came, or a retry is bound to an earlier one.
    let again = (examined.version != network.version())
        .then(|| Examined::of(examined.upload.clone(), origin, network, &tools.secrets));
    let verified = match validate(again.as_ref().unwrap_or(examined), origin, network, now) {
        Ok(verified) => verified,
        Err(rejected) => return Ok(reject(state, blank, &rejected, Stage::Validate)),
    };
    let fresh = match find_repeat(verified, state) {
        Ok(Found::Fresh(verified)) => verified,
        Ok(Found::Repeat(repeat)) => {
            let entry = fan_out::repeated(blank, repeat);
            return Ok(finish(state, entry, Vec::new(), &[], None));
        }
        Err(rejected) => return Ok(reject(state, blank, &rejected, Stage::Deduplicate)),
    };
    let admitted = match fresh.admit() {
        Ok(admitted) => admitted,
        Err(rejected) => return Ok(reject(state, blank, &rejected, Stage::Validate)),
    };
    let deduplicated = deduplicate(admitted, state);
    let tagged = tag(deduplicated, network, now);
    let signed = sign(&tagged, state.position(), network, signer);
    let (entry, signed, taken) = fan_out::taken(blank, tagged, signed);
    let batches = signed.into_iter().map(|(destination, s)| (destination, s.batch)).collect();
    Ok(finish(state, entry, batches, &taken, None))
}

fn reject(state: &mut OriginState, blank: LedgerEntry, rejected: &Rejected, stage: Stage) -> Step {
    finish(state, fan_out::rejected(blank, rejected), Vec::new(), &[], Some(stage))
}

fn finish(
    state: &mut OriginState,
    entry: LedgerEntry,
    batches: Vec<(Country, SignedBatch)>,
    taken: &[Fingerprint],
    rejected_at: Option<Stage>,
) -> Step {
    let entry_bytes = entry.to_avro();
    state.apply(&entry, sha256(&entry_bytes), taken);
    Step { entry, entry_bytes, batches, rejected_at }
}

fn blank(
    state: &OriginState,
    source_offset: i64,
    network: &Network,
    signer: &Signer,
    tools: &Tools,
) -> LedgerEntry {
    let position = state.position();
    LedgerEntry {
        sequence: position.sequence + 1,
        previous: position.entry,
        origin: state.origin(),
        source_offset,
        now: position.now,
        writer: tools.writer.clone(),
        network_version: network.version(),
        signing_key: signer.name().to_owned(),
        upload_id: None,
        batch_tag: None,
        outcome: Outcome::Rejected,
        code: None,
        detail: None,
        first_offset: None,
        content: None,
        accepted_content: None,
        keys: 0,
        keys_accepted: 0,
        keys_revised: 0,
        verdicts: Vec::new(),
        odd_onsets: 0,
        unknown_countries: 0,
        deliveries: Vec::new(),
        withheld: Vec::new(),
        fingerprint_key: tools.secrets.current.name().to_owned(),
        fingerprints: Bytes::new(),
    }
}
