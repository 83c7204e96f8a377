//! Before stage 1. What can be told of an upload before its turn: everything that neither the time nor the state of its
//! origin can change.
//!
//! This is most of the work, and it is pure: so it is done ahead and on all cores, while a transaction waits for the
//! broker. What is left for the turn itself are questions of time and of what was sent before.

use bytes::Bytes;
use keyferry_schemas::{
    batch::sha256,
    canonical::Canonical,
    country::Country,
    efgs::{self, DiagnosisKey, Encoding, Onset},
    network::{Network, OnsetPolicy},
    records::{Hash, Upload},
    rejection::Rejection,
    rules::{self, Rejected, SignedBy},
    topics::{MAX_BATCH_TAG_BYTES, is_batch_tag},
};

use crate::{
    fingerprint::{Fingerprint, Secret, Secrets, sorted},
    validate::int,
};

/// An upload that was looked at under one version of the network document.
pub struct Examined {
    pub(crate) upload: Upload,
    /// The version.
    pub(crate) version: i64,
    /// Its keys and what was found of them, or the first fault that no time can mend.
    pub(crate) found: Result<Found, Rejected>,
}

/// What was found of an upload that can be read and names its own country only.
pub struct Found {
    pub(crate) keys: Vec<DiagnosisKey>,
    pub(crate) canonical: Canonical,
    pub(crate) content: Hash,
    pub(crate) signed_by: Result<SignedBy, Rejected>,
    /// By index in the upload: the first rule that a key breaks, but for its age.
    pub(crate) forms: Vec<Result<(), Rejection>>,
    pub(crate) odd_onsets: i32,
    pub(crate) unknown_countries: i32,
    pub(crate) prints: Prints,
    /// All keys in canonical order, as a whole batch carries them, and their hash.
    pub(crate) whole: (Bytes, Hash),
}

/// The fingerprints of the keys of an upload, by index; none of a key that is malformed.
pub(crate) struct Prints {
    pub current: Vec<Option<Fingerprint>>,
    /// Under the secret before, while it rotates.
    pub previous: Option<Vec<Option<Fingerprint>>>,
    /// As the ledger has them, if all keys are taken. `None` if one is malformed, or stands in the upload twice.
    pub sorted: Option<Bytes>,
}

impl Examined {
    /// Looks at an upload from the topic of `origin`.
    #[must_use]
    pub fn of(upload: Upload, origin: Country, network: &Network, secrets: &Secrets) -> Self {
        let found = find(&upload, origin, network, secrets);
        Self { upload, version: network.version(), found }
    }
}

fn find(upload: &Upload, origin: Country, network: &Network, secrets: &Secrets) -> Result<Found, Rejected> {
    let member = rules::member(origin, network)?;
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
    rules::same_origin(&keys, origin, network)
        .map_err(|rejected| Rejected { keys: keys.len(), ..rejected })?;
    let canonical = Canonical::of(&keys);
    let signed = canonical.bytes();
    let odd_onsets = keys.iter().filter(|k| Onset::of(k.days_since_onset_of_symptoms).is_none()).count();
    let counted = member.days_since_onset == OnsetPolicy::Count;
    let forms: Vec<_> = keys.iter().map(|k| rules::form(k, member.days_since_onset)).collect();
    let whole = Bytes::from(efgs::encode_protobuf(canonical.iter().map(|(index, _)| &keys[index])));
    Ok(Found {
        signed_by: SignedBy::find(&upload.batch_signature, signed, origin, network),
        content: sha256(signed),
        odd_onsets: if counted { int(odd_onsets) } else { 0 },
        unknown_countries: unknown_countries(&keys, network),
        prints: Prints::of(&keys, &forms, secrets),
        whole: (whole.clone(), sha256(&whole)),
        keys,
        canonical,
        forms,
    })
}

impl Prints {
    fn of(keys: &[DiagnosisKey], forms: &[Result<(), Rejection>], secrets: &Secrets) -> Self {
        let under = |secret: &Secret| {
            let one = |(key, form): (_, &Result<_, _>)| form.is_ok().then(|| secret.fingerprint(key));
            keys.iter().zip(forms).map(one).collect::<Vec<_>>()
        };
        let current = under(&secrets.current);
        let whole: Option<Vec<Fingerprint>> = current.iter().copied().collect();
        let sorted = whole.and_then(|prints| distinct(&prints));
        Self { current, previous: secrets.previous.as_ref().map(under), sorted }
    }
}

/// Fingerprints as they stand in the ledger, if none is of the same key as another.
fn distinct(prints: &[Fingerprint]) -> Option<Bytes> {
    let all = sorted(prints);
    // Each begins with what it is known by.
    let twice = all.windows(2).any(|pair| pair[0][..16] == pair[1][..16]);
    (!twice).then(|| all.concat().into())
}

fn unknown_countries(keys: &[DiagnosisKey], network: &Network) -> i32 {
    // Keys name the same countries again and again: each is looked up once.
    let mut asked = [None; Country::COUNT];
    let mut is_known = |country: Country| {
        *asked[country.number()].get_or_insert_with(|| network.member(network.resolve(country)).is_some())
    };
    let named = keys.iter().flat_map(|k| k.visited_countries.countries());
    int(named.filter(|code| !code.is_some_and(&mut is_known)).count())
}
