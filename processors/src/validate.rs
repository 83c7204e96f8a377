//! Stage 1. Is this upload what it says, from whom it says, and may they send it? Are its keys keys?
//!
//! Everything is checked again that a gateway checked before: a country that writes to Kafka passed no gateway. The
//! rules themselves are in [`keyferry_schemas::rules`]. What needs no time was found by [`crate::examine`]; this is their
//! order, and the proof that all of them were asked.

use bytes::Bytes;
use keyferry_schemas::{
    canonical::Canonical,
    country::Country,
    efgs::DiagnosisKey,
    network::{InvalidKeys, Network},
    records::{Hash, Upload, Verdict},
    rejection::Rejection,
    rules::{self, Signers},
    time::Millis,
};

pub use keyferry_schemas::rules::Rejected;

use crate::examine::{Examined, Prints};

/// An upload whose sender, signature and form are proven, and whose invalid keys are known.
pub struct Verified<'e> {
    pub(crate) upload: &'e Upload,
    pub(crate) keys: &'e [DiagnosisKey],
    pub(crate) canonical: &'e Canonical,
    pub(crate) content: Hash,
    pub(crate) signing_certificate: Hash,
    /// By index in the upload.
    pub(crate) invalid: Vec<Option<Rejection>>,
    policy: InvalidKeys,
    pub(crate) odd_onsets: i32,
    pub(crate) unknown_countries: i32,
    pub(crate) prints: &'e Prints,
    /// All keys as they go out, and their hash.
    pub(crate) whole: &'e (Bytes, Hash),
}

/// Judges one upload from the topic of `origin` at `now`, under the version of the network document under which it was
/// examined.
///
/// # Errors
/// [`Rejected`], which is an answer and no fault.
pub fn validate<'e>(
    examined: &'e Examined,
    origin: Country,
    network: &Network,
    now: Millis,
) -> Result<Verified<'e>, Rejected> {
    let upload = &examined.upload;
    if upload.origin != origin {
        let detail =
            format!("the record names {} as its origin and stands on the topic of {origin}", upload.origin);
        return Err(Rejected::new(Rejection::OriginNotTopic, detail));
    }
    let member = rules::sender(&upload.client_certificate, origin, network, now)?;
    let found = examined.found.as_ref().map_err(Clone::clone)?;
    let signed_by = found.signed_by.as_ref().map_err(Clone::clone);
    let signer = signed_by.and_then(|signed_by| signed_by.at(network, now, Signers::InForce));
    let signer = signer.map_err(|rejected| Rejected { keys: found.keys.len(), ..rejected })?;
    let judged = found.keys.iter().zip(&found.forms).map(|(key, form)| rules::timely(key, *form, now).err());
    Ok(Verified {
        upload,
        keys: &found.keys,
        canonical: &found.canonical,
        content: found.content,
        signing_certificate: signer.certificate.sha256(),
        invalid: judged.collect(),
        policy: member.invalid_keys,
        odd_onsets: found.odd_onsets,
        unknown_countries: found.unknown_countries,
        prints: &found.prints,
        whole: &found.whole,
    })
}

impl Verified<'_> {
    /// Applies the member's policy for uploads with invalid keys. Apart from the rest, because it comes after the
    /// question whether the upload is a repeat: keys grow too old, and the answer to a repeat must not change by that.
    ///
    /// # Errors
    /// [`Rejected`], naming the invalid keys.
    pub(crate) fn admit(self) -> Result<Self, Rejected> {
        if self.policy == InvalidKeys::RejectUpload && self.invalid.iter().any(Option::is_some) {
            return Err(invalid_upload(self.canonical, &self.invalid));
        }
        Ok(self)
    }
}

fn invalid_upload(canonical: &Canonical, invalid: &[Option<Rejection>]) -> Rejected {
    let verdicts = verdicts(canonical, invalid);
    let first = verdicts.first().map(|v| format!("key {}: {}", v.index, v.code)).unwrap_or_default();
    let detail = format!("{} of {} keys are invalid, first {first}", verdicts.len(), invalid.len());
    Rejected { reason: Rejection::InvalidKeys, detail, keys: invalid.len(), verdicts }
}

/// The refused keys as the ledger names them, in the order of the upload.
pub(crate) fn verdicts(canonical: &Canonical, refused: &[Option<Rejection>]) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = canonical
        .iter()
        .enumerate()
        .filter_map(|(position, (index, _))| {
            let code = refused.get(index).copied().flatten()?.code().to_owned();
            Some(Verdict { index: int(index), position: int(position), code })
        })
        .collect();
    verdicts.sort_unstable_by_key(|v| v.index);
    verdicts
}

/// A count as Avro's `int`. No upload has two thousand million keys.
pub(crate) fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
