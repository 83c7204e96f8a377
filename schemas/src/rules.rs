//! What an upload has to be, rule by rule, as far as that is told by the upload, the network document and the time.
//!
//! The pipeline asks all of them in its stage `validate`, and what it says counts. Others may ask before.

use bytes::Bytes;

use crate::{
    cms::Detached,
    country::Country,
    efgs::{self, BadBody, DiagnosisKey, Encoding, Onset, RISK_LEVEL_UNSET, ReportType},
    network::{CertificateState, Member, MemberState, Network, OnsetPolicy, Registered, Use},
    records::{Hash, Verdict},
    rejection::Rejection,
    time::{INTERVALS_PER_DAY, Interval, Millis},
};

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
    /// Nothing is taken for this reason; no key is at fault, as far as is known.
    #[must_use]
    pub fn new(reason: Rejection, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL_CHARS) {
            detail.truncate(end);
        }
        Self { reason, detail, keys: 0, verdicts: Vec::new() }
    }
}

/// The member that this country is.
///
/// # Errors
/// [`Rejected`].
pub fn member(origin: Country, network: &Network) -> Result<&Member, Rejected> {
    let unknown = || format!("{origin} is no member of {}", network.name());
    network.member(origin).ok_or_else(|| Rejected::new(Rejection::MemberUnknown, unknown()))
}

/// The member that sends, if it may: an active one, whose client certificate is registered and in force.
///
/// # Errors
/// [`Rejected`].
pub fn sender<'n>(
    client_certificate: &Hash,
    origin: Country,
    network: &'n Network,
    now: Millis,
) -> Result<&'n Member, Rejected> {
    let member = member(origin, network)?;
    let state = network.state(origin, now);
    if state != MemberState::Active {
        let detail = format!("the membership of {origin} is {state:?}; only an active member uploads");
        return Err(Rejected::new(Rejection::MemberNotActive, detail));
    }
    let mut known = false;
    for registered in network.registered(client_certificate, Use::Authentication) {
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
    let detail = format!("the client certificate {} of {origin} {what}", hex::encode(client_certificate));
    Err(Rejected::new(reason, detail))
}

/// The keys in a body: at least one, and no more than the member may send at once.
///
/// # Errors
/// [`Rejected`].
pub fn keys(encoding: Encoding, body: &Bytes, member: &Member) -> Result<Vec<DiagnosisKey>, Rejected> {
    let limit = member.max_keys_per_upload as usize;
    let too_many = |n| {
        Rejected::new(
            Rejection::TooManyKeys,
            format!("{n} keys; {} may send {limit} at once", member.country),
        )
    };
    let keys = efgs::decode(encoding, Bytes::clone(body)).map_err(|e| match e {
        BadBody::TooMany(n) => too_many(n),
        e => Rejected::new(Rejection::Body, e.to_string()),
    })?;
    match keys.len() {
        0 => Err(Rejected::new(Rejection::NoKeys, "there is no key in the upload")),
        n if n > limit => Err(too_many(n)),
        _ => Ok(keys),
    }
}

/// That every key names `origin`, aliases resolved.
///
/// # Errors
/// [`Rejected`].
pub fn same_origin(keys: &[DiagnosisKey], origin: Country, network: &Network) -> Result<(), Rejected> {
    let own = |key: &DiagnosisKey| {
        key.origin.country().is_some_and(|c| c == origin || network.resolve(c) == network.resolve(origin))
    };
    match keys.iter().position(|k| !own(k)) {
        None => Ok(()),
        Some(index) => {
            let detail =
                format!("key {index} names another origin than {origin}; a country sends its own keys only");
            Err(Rejected::new(Rejection::KeyOrigin, detail))
        }
    }
}

/// Which of a member's certificates may have made a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signers {
    /// Those in force.
    InForce,
    /// Those whose time is still to come besides: for a trial, of which nothing is kept.
    InForceOrPending,
}

/// Verifies the origin's signature over `signed`, the canonical bytes; returns the registration of the certificate that
/// did. Costs one public-key operation for each registration of the certificate that the CMS names.
///
/// # Errors
/// [`Rejected`].
pub fn signer<'n>(
    cms: &[u8],
    signed: &[u8],
    origin: Country,
    network: &'n Network,
    now: Millis,
    signers: Signers,
) -> Result<&'n Registered, Rejected> {
    SignedBy::find(cms, signed, origin, network)?.at(network, now, signers)
}

/// Whose signature a CMS is, before anybody asks when: the expensive part of [`signer`], which no time can change.
#[derive(Debug, Clone)]
pub struct SignedBy {
    /// The registrations of the origin that the CMS names, by index in the network's certificates, and whether the
    /// signature holds under each.
    own: Vec<(usize, bool)>,
    /// Whether it names one of anybody.
    known: bool,
}

impl SignedBy {
    /// Verifies under every certificate of `origin` that the CMS names.
    ///
    /// # Errors
    /// [`Rejected`] if it is no CMS that may be looked at.
    pub fn find(cms: &[u8], signed: &[u8], origin: Country, network: &Network) -> Result<Self, Rejected> {
        let cms = Detached::read_beside(cms, |hash| network.knows(hash)).map_err(unsigned)?;
        let named = |r: &Registered| r.usage == Use::Signing && cms.names(&r.certificate);
        let named: Vec<_> = network.certificates().iter().enumerate().filter(|(_, r)| named(r)).collect();
        let own = named.iter().filter(|(_, r)| r.country == origin);
        let own = own.map(|(index, r)| (*index, cms.verify(signed, &r.certificate))).collect();
        Ok(Self { own, known: !named.is_empty() })
    }

    /// The registration that counts at `now`, of the `network` in which it was looked for.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn at<'n>(
        &self,
        network: &'n Network,
        now: Millis,
        signers: Signers,
    ) -> Result<&'n Registered, Rejected> {
        let own: Vec<_> = self
            .own
            .iter()
            .filter_map(|(index, holds)| Some((network.certificates().get(*index)?, *holds)))
            .collect();
        let pending = |r: &Registered| network.certificate_state(r, now) == CertificateState::Pending;
        // Of one that is registered twice, what is in force goes first.
        let mut counting: Vec<_> = own.iter().filter(|(r, _)| r.in_force(now)).collect();
        if signers == Signers::InForceOrPending {
            counting.extend(own.iter().filter(|(r, _)| pending(r)));
        }
        let reason = match (self.known, own.is_empty(), counting.is_empty()) {
            (false, ..) => Rejection::SigningCertificateUnknown,
            (_, true, _) => Rejection::SigningCertificateForeign,
            (.., true) => Rejection::SigningCertificateNotInForce,
            _ => {
                let verified = counting.into_iter().find(|(_, holds)| *holds);
                return verified.map(|(r, _)| *r).ok_or_else(|| unsigned(Rejection::SignatureInvalid));
            }
        };
        Err(unsigned(reason))
    }
}

fn unsigned(reason: Rejection) -> Rejected {
    Rejected::new(reason, signature_hint(reason))
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

/// Whether a key is one that may be uploaded at `now`.
///
/// # Errors
/// The first rule that it breaks.
pub fn key(key: &DiagnosisKey, onset: OnsetPolicy, now: Millis) -> Result<(), Rejection> {
    timely(key, form(key, onset), now)
}

/// What is asked of a key whatever the time.
///
/// # Errors
/// The first of these rules that it breaks.
pub fn form(key: &DiagnosisKey, onset: OnsetPolicy) -> Result<(), Rejection> {
    let reject = |condition: bool, reason| if condition { Err(reason) } else { Ok(()) };
    reject(key.key_data.len() != 16, Rejection::KeyDataLength)?;
    reject(!(1..=INTERVALS_PER_DAY).contains(&key.rolling_period), Rejection::RollingPeriod)?;
    let risk = key.transmission_risk_level;
    reject(!(0..=8).contains(&risk) && risk != RISK_LEVEL_UNSET, Rejection::RiskLevel)?;
    reject(ReportType::of(key.report_type).is_none(), Rejection::ReportType)?;
    reject(!key.visited_countries.are_countries(), Rejection::CountryMalformed)?;
    let odd = Onset::of(key.days_since_onset_of_symptoms).is_none();
    reject(odd && onset == OnsetPolicy::Reject, Rejection::Onset)
}

/// What [`form`] said of a key, and its age at `now`, in the order in which the rules are asked.
///
/// # Errors
/// The first rule that the key breaks.
pub fn timely(key: &DiagnosisKey, form: Result<(), Rejection>, now: Millis) -> Result<(), Rejection> {
    let start = Interval(key.rolling_start_interval_number);
    if start.uploadable_at(now) || form == Err(Rejection::KeyDataLength) {
        return form;
    }
    Err(if start > Interval::at(now) { Rejection::KeyInFuture } else { Rejection::KeyTooOld })
}
