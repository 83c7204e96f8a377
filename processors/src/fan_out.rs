//! Stage 5. The decision as it is written down: one ledger entry, one signed batch for each destination.

use keyferry_schemas::{
    country::Country,
    records::{Delivery, LedgerEntry, Outcome, Upload},
    topics::is_batch_tag,
};

use crate::{
    deduplicate::{Fate, Repeat, ledger_bytes},
    fingerprint::Fingerprint,
    sign::Signed,
    tag::Tagged,
    validate::{Rejected, int},
};

/// An entry about nothing yet: what every decision has in common.
pub(crate) type Blank = LedgerEntry;

/// Names the upload in its entry. A tag that is none may be as long as a record, and is not kept.
pub(crate) fn name(mut blank: Blank, upload: &Upload) -> Blank {
    blank.upload_id = Some(upload.upload_id);
    blank.batch_tag = Some(upload.batch_tag.clone()).filter(|tag| is_batch_tag(tag.as_bytes()));
    blank
}

/// The entry of an upload of which something or nothing is new, its batches, and the keys taken.
pub(crate) fn taken(
    blank: Blank,
    tagged: Tagged<'_>,
    signed: Vec<Signed>,
) -> (LedgerEntry, Vec<(Country, Signed)>, Vec<Fingerprint>) {
    let upload = tagged.deduplicated;
    let deliveries = signed.iter().map(|s| Delivery {
        destination: s.destination,
        sequence: s.sequence,
        manifest: s.manifest,
        new_keys: int(s.new_keys),
    });
    let entry = LedgerEntry {
        outcome: if upload.verdicts.is_empty() { Outcome::Accepted } else { Outcome::Partial },
        content: Some(upload.verified.content),
        accepted_content: upload.accepted_content,
        keys: int(upload.verified.keys.len()),
        keys_accepted: int(upload.fingerprints.len()),
        keys_revised: int(upload.fates.iter().filter(|f| **f == Fate::Revised).count()),
        odd_onsets: upload.verified.odd_onsets,
        unknown_countries: upload.verified.unknown_countries,
        deliveries: deliveries.collect(),
        withheld: tagged.withheld,
        fingerprints: ledger_bytes(&upload),
        verdicts: upload.verdicts,
        ..blank
    };
    let batches = signed.into_iter().map(|s| (s.destination, s)).collect();
    (entry, batches, upload.fingerprints)
}

/// The entry of an upload that was decided before.
pub(crate) fn repeated(blank: Blank, repeat: Repeat<'_>) -> LedgerEntry {
    LedgerEntry {
        outcome: Outcome::Repeated,
        first_offset: Some(repeat.first_offset),
        content: Some(repeat.verified.content),
        keys: int(repeat.verified.keys.len()),
        verdicts: repeat.verdicts,
        ..blank
    }
}

/// The entry of an upload of which nothing is taken.
pub(crate) fn rejected(blank: Blank, rejected: &Rejected) -> LedgerEntry {
    LedgerEntry {
        outcome: Outcome::Rejected,
        code: Some(rejected.reason.code().to_owned()),
        detail: Some(rejected.detail.clone()),
        keys: int(rejected.keys),
        verdicts: rejected.verdicts.clone(),
        ..blank
    }
}
