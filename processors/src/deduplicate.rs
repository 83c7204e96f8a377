//! Stage 2. Which of these keys did this origin send before?
//!
//! A key is known by its key data, not by a hash of all its fields: the same key with another risk level is no second
//! key. It may change in one way only: its report type, from a diagnosis to a test, or from either to revoked.

use std::{collections::HashMap, hash::BuildHasherDefault};

use bytes::Bytes;
use keyferry_schemas::{
    batch::sha256,
    efgs::ReportType,
    records::{Hash, Verdict},
    rejection::Rejection,
};

use crate::{
    examine::Prints,
    fingerprint::{Facts, Fingerprint, Id, IdHasher, sorted},
    state::{Binding, OriginState},
    validate::{Rejected, Verified, int, verdicts},
};

/// What became of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Never seen before.
    New,
    /// Seen with an earlier report type.
    Revised,
    /// Not taken.
    Refused(Rejection),
}

impl Fate {
    /// Whether the key goes out.
    #[must_use]
    pub fn is_taken(self) -> bool {
        matches!(self, Self::New | Self::Revised)
    }
}

/// An upload of which is known what is new.
pub struct Deduplicated<'e> {
    pub(crate) verified: Verified<'e>,
    /// By index in the upload.
    pub(crate) fates: Vec<Fate>,
    /// Of the keys taken.
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) accepted_content: Option<Hash>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// An upload that was decided before: nothing goes out again, the answer is the first one.
pub struct Repeat<'e> {
    pub(crate) verified: Verified<'e>,
    pub(crate) first_offset: i64,
    /// Of the first decision, by the indexes of this upload.
    pub(crate) verdicts: Vec<Verdict>,
}

/// What an upload is.
pub enum Found<'e> {
    /// Something to decide.
    Fresh(Verified<'e>),
    /// Something decided before.
    Repeat(Repeat<'e>),
}

/// Compares an upload with those that the origin sent before under the same batch tag.
///
/// # Errors
/// [`Rejected`] if the tag stands for other content.
pub fn find_repeat<'e>(verified: Verified<'e>, state: &OriginState) -> Result<Found<'e>, Rejected> {
    match state.tag(&verified.upload.batch_tag) {
        Some(binding) => repeat(verified, binding).map(Found::Repeat),
        None => Ok(Found::Fresh(verified)),
    }
}

/// Compares the keys of an upload with those that the origin sent before.
#[must_use]
pub fn deduplicate<'e>(verified: Verified<'e>, state: &OriginState) -> Deduplicated<'e> {
    let prints = verified.prints;
    // Where each key stands once, which is what is meant by an upload, there is nothing to compare within it.
    let twice = prints.sorted.is_none();
    let mut within = HashMap::<Id, Facts, BuildHasherDefault<IdHasher>>::default();
    let mut fingerprints = Vec::with_capacity(verified.keys.len());
    let mut fates = Vec::with_capacity(verified.keys.len());
    state.fetch(prints.current.iter().flatten().map(|print| &print.id));
    for (index, (print, invalid)) in prints.current.iter().zip(&verified.invalid).enumerate() {
        let print = match (invalid, print) {
            (None, Some(print)) => print,
            (reason, _) => {
                // A key without a fingerprint is malformed, and the reason says how.
                fates.push(Fate::Refused(reason.unwrap_or(Rejection::KeyDataLength)));
                continue;
            }
        };
        let fate = match within.get(&print.id).filter(|_| twice) {
            // A key that stands in one upload twice is taken once, the first in the sender's order: two versions of
            // it in one batch would leave its readers to guess which is meant.
            Some(known) if *known == print.facts => Fate::Refused(Rejection::Duplicate),
            Some(_) => Fate::Refused(Rejection::Conflict),
            None => known_before(index, print, prints, state),
        };
        if twice {
            within.entry(print.id).or_insert(print.facts);
        }
        if fate.is_taken() {
            fingerprints.push(*print);
        }
        fates.push(fate);
    }
    judged(verified, fates, fingerprints)
}

fn known_before(index: usize, print: &Fingerprint, prints: &Prints, state: &OriginState) -> Fate {
    if let Some(known) = state.seen(&print.id) {
        return compare(&known, &print.facts);
    }
    let before = prints.previous.as_ref().and_then(|previous| previous.get(index).copied().flatten());
    let Some(old) = before else { return Fate::New };
    state.seen(&old.id).map_or(Fate::New, |known| compare(&known, &old.facts))
}

fn compare(known: &Facts, new: &Facts) -> Fate {
    let as_before = known.rest == new.rest && known.last_day == new.last_day;
    let (from, to) = (i32::from(known.report_type), i32::from(new.report_type));
    if !as_before {
        Fate::Refused(Rejection::Conflict)
    } else if from == to {
        Fate::Refused(Rejection::Duplicate)
    } else if is_revision(from, to) {
        Fate::Revised
    } else {
        Fate::Refused(Rejection::Conflict)
    }
}

fn is_revision(from: i32, to: i32) -> bool {
    let test = ReportType::ConfirmedTest as i32;
    let diagnosis = ReportType::ConfirmedClinicalDiagnosis as i32;
    let revoked = ReportType::Revoked as i32;
    (from == diagnosis && to == test) || ((from == diagnosis || from == test) && to == revoked)
}

fn judged(verified: Verified<'_>, fates: Vec<Fate>, fingerprints: Vec<Fingerprint>) -> Deduplicated<'_> {
    let refused: Vec<_> =
        fates.iter().map(|f| if let Fate::Refused(r) = f { Some(*r) } else { None }).collect();
    let verdicts = verdicts(verified.canonical, &refused);
    let accepted_content = (!verdicts.is_empty() && !fingerprints.is_empty())
        .then(|| sha256(&verified.canonical.bytes_of(|index| fates[index].is_taken())));
    Deduplicated { verified, fates, fingerprints, accepted_content, verdicts }
}

fn repeat<'e>(verified: Verified<'e>, binding: &Binding) -> Result<Repeat<'e>, Rejected> {
    let first_offset = binding.first_offset;
    if binding.accepted_content == Some(verified.content) {
        // The sender repeats what a former answer told it was taken: that is all there is to say.
        return Ok(Repeat { verified, first_offset, verdicts: Vec::new() });
    }
    if binding.content != verified.content {
        let detail = format!("the batch tag stands for other content, uploaded at offset {first_offset}");
        return Err(Rejected {
            keys: verified.keys.len(),
            ..Rejected::new(Rejection::BatchTagConflict, detail)
        });
    }
    // Same content, perhaps in another order: the decision is kept by canonical position.
    let order: Vec<_> = verified.canonical.iter().map(|(index, _)| index).collect();
    let mut verdicts: Vec<_> = binding
        .refused
        .iter()
        .filter_map(|(position, reason)| {
            let index = int(*order.get(usize::from(*position))?);
            Some(Verdict { index, position: (*position).into(), code: reason.code().to_owned() })
        })
        .collect();
    verdicts.sort_unstable_by_key(|v| v.index);
    Ok(Repeat { verified, first_offset, verdicts })
}

/// Fingerprints of the keys taken as they stand in the ledger.
pub(crate) fn ledger_bytes(upload: &Deduplicated<'_>) -> Bytes {
    let taken = &upload.fingerprints;
    match &upload.verified.prints.sorted {
        Some(whole) if taken.len() == upload.verified.keys.len() => whole.clone(),
        _ => sorted(taken).concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use keyferry_schemas::time::Day;

    use super::*;

    #[test]
    fn only_the_revisions_of_the_protocol_are_revisions() {
        let facts = |report_type, rest| Facts { report_type, last_day: Day(1), rest: [rest; 4] };
        let allowed = [(2, 1), (2, 5), (1, 5)];
        for (from, to) in (0..6).flat_map(|a| (0..6).map(move |b| (a, b))) {
            let expected = match (from, to) {
                _ if from == to => Fate::Refused(Rejection::Duplicate),
                pair if allowed.contains(&pair) => Fate::Revised,
                _ => Fate::Refused(Rejection::Conflict),
            };
            assert_eq!(compare(&facts(from, 0), &facts(to, 0)), expected, "{from} -> {to}");
            assert_eq!(
                compare(&facts(from, 0), &facts(to, 1)),
                Fate::Refused(Rejection::Conflict),
                "{from} -> {to}"
            );
        }
    }
}
