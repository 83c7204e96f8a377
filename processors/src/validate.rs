//! Stage 1. Is this upload what it says, from whom it says, and may they send it? Are its keys keys?
//!
//! Everything is checked again that a gateway checked before: a country that writes to Kafka passed no gateway. The
//! rules themselves are in [`keyferry_schemas::rules`]; this is their order, and the proof that all of them were asked.

use keyferry_schemas::{
    batch::sha256,
    canonical::Canonical,
    country::Country,
    efgs::{DiagnosisKey, Encoding, Onset},
    network::{InvalidKeys, Network, OnsetPolicy},
    records::{Hash, Upload, Verdict},
    rejection::Rejection,
    rules::{self, Signers},
    time::Millis,
    topics::{MAX_BATCH_TAG_BYTES, is_batch_tag},
};

pub use keyferry_schemas::rules::Rejected;

/// An upload whose sender, signature and form are proven, and whose invalid keys are known.
pub struct Verified {
    pub(crate) upload: Upload,
    pub(crate) keys: Vec<DiagnosisKey>,
    pub(crate) canonical: Canonical,
    pub(crate) content: Hash,
    pub(crate) signing_certificate: Hash,
    /// By index in the upload.
    pub(crate) invalid: Vec<Option<Rejection>>,
    policy: InvalidKeys,
    pub(crate) odd_onsets: i32,
    pub(crate) unknown_countries: i32,
}

/// Judges one upload from the topic of `origin`, under one version of the network document, at `now`.
///
/// # Errors
/// [`Rejected`], which is an answer and no fault.
pub fn validate(
    upload: Upload,
    origin: Country,
    network: &Network,
    now: Millis,
) -> Result<Verified, Rejected> {
    if upload.origin != origin {
        let detail =
            format!("the record names {} as its origin and stands on the topic of {origin}", upload.origin);
        return Err(Rejected::new(Rejection::OriginNotTopic, detail));
    }
    let member = rules::sender(&upload.client_certificate, origin, network, now)?;
    if !is_batch_tag(upload.batch_tag.as_bytes()) {
        let detail = format!("a batch tag is 1 to {MAX_BATCH_TAG_BYTES} visible ASCII characters");
        return Err(Rejected::new(Rejection::BatchTag, detail));
    }
    let Some(encoding) = Encoding::from_content_type(&upload.content_type) else {
        let [protobuf, json] = [Encoding::Protobuf, Encoding::Json].map(Encoding::content_type);
        let detail = format!("the content type is neither {protobuf} nor {json}");
        return Err(Rejected::new(Rejection::ContentType, detail));
    };
    let keys = rules::keys(encoding, &upload.payload, member)?;
    let count = |mut rejected: Rejected| {
        rejected.keys = keys.len();
        rejected
    };
    rules::same_origin(&keys, origin, network).map_err(count)?;
    let canonical = Canonical::of(&keys);
    let signed = canonical.bytes();
    let signer = rules::signer(&upload.batch_signature, &signed, origin, network, now, Signers::InForce);
    let signing_certificate = signer.map_err(count)?.certificate.sha256();
    let invalid: Vec<_> = keys.iter().map(|k| rules::key(k, member.days_since_onset, now).err()).collect();
    let odd_onsets = keys.iter().filter(|k| Onset::of(k.days_since_onset_of_symptoms).is_none()).count();
    let counted = member.days_since_onset == OnsetPolicy::Count;
    Ok(Verified {
        unknown_countries: unknown_countries(&keys, network),
        odd_onsets: if counted { int(odd_onsets) } else { 0 },
        content: sha256(&signed),
        upload,
        keys,
        canonical,
        signing_certificate,
        invalid,
        policy: member.invalid_keys,
    })
}

impl Verified {
    /// Applies the member's policy for uploads with invalid keys. Apart from the rest, because it comes after the
    /// question whether the upload is a repeat: keys grow too old, and the answer to a repeat must not change by that.
    ///
    /// # Errors
    /// [`Rejected`], naming the invalid keys.
    pub(crate) fn admit(self) -> Result<Self, Rejected> {
        if self.policy == InvalidKeys::RejectUpload && self.invalid.iter().any(Option::is_some) {
            return Err(invalid_upload(&self.canonical, &self.invalid));
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

fn unknown_countries(keys: &[DiagnosisKey], network: &Network) -> i32 {
    let known = |code: &String| code.parse().is_ok_and(|c| network.member(network.resolve(c)).is_some());
    int(keys.iter().flat_map(|k| &k.visited_countries).filter(|c| !known(c)).count())
}

/// A count as Avro's `int`. No upload has two thousand million keys.
pub(crate) fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
