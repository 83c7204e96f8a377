//! Stage 1. Is this upload what it says, from whom it says, and may they send it? Are its keys keys?
//!
//! Everything is checked again that a gateway checked before: a country that writes to Kafka passed no gateway.

use bytes::Bytes;
use keyferry_schemas::{
    batch::sha256,
    canonical::Canonical,
    cms::Detached,
    country::Country,
    efgs::{self, BadBody, DiagnosisKey, Encoding, Onset, RISK_LEVEL_UNSET, ReportType},
    network::{InvalidKeys, Member, MemberState, Network, OnsetPolicy, Registered, Use},
    records::{Hash, Upload, Verdict},
    rejection::Rejection,
    time::{INTERVALS_PER_DAY, Interval, Millis},
    topics::{MAX_BATCH_TAG_BYTES, is_batch_tag},
};

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

/// An upload of which nothing is taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The reason.
    pub reason: Rejection,
    /// In one line, for the sender.
    pub detail: String,
    /// Number of keys, as far as they could be counted.
    pub keys: usize,
    /// The invalid keys, where these are the reason.
    pub verdicts: Vec<Verdict>,
}

/// What a sender wrote may stand in a detail, which is kept for weeks: more of it than this helps nobody.
const MAX_DETAIL_CHARS: usize = 300;

impl Rejected {
    pub(crate) fn new(reason: Rejection, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL_CHARS) {
            detail.truncate(end);
        }
        Self { reason, detail, keys: 0, verdicts: Vec::new() }
    }
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
    let member = sender(&upload, origin, network, now)?;
    if !is_batch_tag(upload.batch_tag.as_bytes()) {
        let detail = format!("a batch tag is 1 to {MAX_BATCH_TAG_BYTES} visible ASCII characters");
        return Err(Rejected::new(Rejection::BatchTag, detail));
    }
    let keys = read_keys(&upload, member)?;
    let count = |mut rejected: Rejected| {
        rejected.keys = keys.len();
        rejected
    };
    same_origin(&keys, origin, network).map_err(count)?;
    let canonical = Canonical::of(&keys);
    let signed = canonical.bytes();
    let signing_certificate =
        signature(&upload.batch_signature, &signed, origin, network, now).map_err(count)?;
    let invalid: Vec<_> = keys.iter().map(|k| judge_key(k, member.days_since_onset, now).err()).collect();
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

fn sender<'n>(
    upload: &Upload,
    origin: Country,
    network: &'n Network,
    now: Millis,
) -> Result<&'n Member, Rejected> {
    let Some(member) = network.member(origin) else {
        return Err(Rejected::new(
            Rejection::MemberUnknown,
            format!("{origin} is no member of {}", network.name()),
        ));
    };
    let state = network.state(origin, now);
    if state != MemberState::Active {
        let detail = format!("the membership of {origin} is {state:?}; only an active member uploads");
        return Err(Rejected::new(Rejection::MemberNotActive, detail));
    }
    let mut known = false;
    for registered in network.registered(&upload.client_certificate, Use::Authentication) {
        if registered.country == origin {
            known = true;
            if registered.in_force(now) {
                return Ok(member);
            }
        }
    }
    let (reason, what) = if known {
        (Rejection::ClientCertificateNotInForce, "is registered, and not in force now")
    } else {
        (Rejection::ClientCertificateUnknown, "is not registered for authentication")
    };
    let detail =
        format!("the client certificate {} of {origin} {what}", hex::encode(upload.client_certificate));
    Err(Rejected::new(reason, detail))
}

fn read_keys(upload: &Upload, member: &Member) -> Result<Vec<DiagnosisKey>, Rejected> {
    let Some(encoding) = Encoding::from_content_type(&upload.content_type) else {
        let detail = format!(
            "the content type is neither {} nor {}",
            Encoding::Protobuf.content_type(),
            Encoding::Json.content_type()
        );
        return Err(Rejected::new(Rejection::ContentType, detail));
    };
    let limit = member.max_keys_per_upload as usize;
    let too_many = |n| {
        Rejected::new(
            Rejection::TooManyKeys,
            format!("{n} keys; {} may send {limit} at once", member.country),
        )
    };
    let keys = efgs::decode(encoding, Bytes::clone(&upload.payload)).map_err(|e| match e {
        BadBody::TooMany(n) => too_many(n),
        e => Rejected::new(Rejection::Body, e.to_string()),
    })?;
    match keys.len() {
        0 => Err(Rejected::new(Rejection::NoKeys, "there is no key in the upload")),
        n if n > limit => Err(too_many(n)),
        _ => Ok(keys),
    }
}

fn same_origin(keys: &[DiagnosisKey], origin: Country, network: &Network) -> Result<(), Rejected> {
    let own =
        |key: &DiagnosisKey| key.origin.parse().is_ok_and(|c| network.resolve(c) == network.resolve(origin));
    match keys.iter().position(|k| !own(k)) {
        None => Ok(()),
        Some(index) => {
            let detail =
                format!("key {index} names another origin than {origin}; a country sends its own keys only");
            Err(Rejected::new(Rejection::KeyOrigin, detail))
        }
    }
}

/// Verifies the origin's signature; returns the SHA-256 of the certificate that did.
fn signature(
    cms: &[u8],
    signed: &[u8],
    origin: Country,
    network: &Network,
    now: Millis,
) -> Result<Hash, Rejected> {
    let cms = Detached::read(cms).map_err(|reason| Rejected::new(reason, signature_hint(reason)))?;
    let named: Vec<&Registered> = network
        .certificates()
        .iter()
        .filter(|r| r.usage == Use::Signing && cms.names(&r.certificate))
        .collect();
    let own: Vec<_> = named.iter().filter(|r| r.country == origin).collect();
    let in_force: Vec<_> = own.iter().filter(|r| r.in_force(now)).collect();
    let reason = match (named.is_empty(), own.is_empty(), in_force.is_empty()) {
        (true, ..) => Rejection::SigningCertificateUnknown,
        (_, true, _) => Rejection::SigningCertificateForeign,
        (.., true) => Rejection::SigningCertificateNotInForce,
        _ => {
            return match in_force.iter().find(|r| cms.verify(signed, &r.certificate)) {
                Some(registered) => Ok(registered.certificate.sha256()),
                None => Err(Rejected::new(
                    Rejection::SignatureInvalid,
                    signature_hint(Rejection::SignatureInvalid),
                )),
            };
        }
    };
    Err(Rejected::new(reason, signature_hint(reason)))
}

fn signature_hint(reason: Rejection) -> &'static str {
    match reason {
        Rejection::SignatureTrailingBytes => "bytes follow the CMS of the batch signature",
        Rejection::SignatureSigners => "the batch signature does not have exactly one signer",
        Rejection::SignatureEmbeddedContent => {
            "the batch signature brings its own content; it has to be detached"
        }
        Rejection::SignatureAlgorithm => {
            "the batch signature does not use RSA or ECDSA with SHA-256, SHA-384 or SHA-512"
        }
        Rejection::SigningCertificateUnknown => {
            "the certificate of the batch signature is registered for nobody"
        }
        Rejection::SigningCertificateForeign => "the certificate of the batch signature is another country's",
        Rejection::SigningCertificateNotInForce => {
            "the certificate of the batch signature is not in force now"
        }
        Rejection::SignatureInvalid => {
            "the batch signature is not one over these keys; check canonical form and order of the signed bytes"
        }
        _ => "the batch signature is no CMS SignedData",
    }
}

fn judge_key(key: &DiagnosisKey, onset: OnsetPolicy, now: Millis) -> Result<(), Rejection> {
    let start = Interval(key.rolling_start_interval_number);
    let reject = |condition: bool, reason| if condition { Err(reason) } else { Ok(()) };
    reject(key.key_data.len() != 16, Rejection::KeyDataLength)?;
    if !start.uploadable_at(now) {
        let future = start > Interval::at(now);
        return Err(if future { Rejection::KeyInFuture } else { Rejection::KeyTooOld });
    }
    reject(!(1..=INTERVALS_PER_DAY).contains(&key.rolling_period), Rejection::RollingPeriod)?;
    let risk = key.transmission_risk_level;
    reject(!(0..=8).contains(&risk) && risk != RISK_LEVEL_UNSET, Rejection::RiskLevel)?;
    reject(ReportType::try_from(key.report_type).is_err(), Rejection::ReportType)?;
    reject(key.visited_countries.iter().any(|c| c.parse::<Country>().is_err()), Rejection::CountryMalformed)?;
    let odd = Onset::of(key.days_since_onset_of_symptoms).is_none();
    reject(odd && onset == OnsetPolicy::Reject, Rejection::Onset)
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
