//! What the pipeline remembers of a key: enough to know it again, useless without the secret.
//!
//! Ledgers hold fingerprints, and countries read ledgers. A plain hash of a key would tie published keys to uploads,
//! and so to people; an HMAC under a secret of the processors does not.

use std::{fmt, hash::Hasher};

use hmac::{Hmac, KeyInit, Mac};
use keyferry_schemas::{
    efgs::DiagnosisKey,
    time::{Day, Interval},
};
use sha2::Sha256;

/// Bytes of one fingerprint in the ledger.
pub const LENGTH: usize = 23;

/// The key itself, as far as it is remembered.
pub type Id = [u8; 16];

/// Hashes an [`Id`], which is uniform and secret already: some of it is its hash.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, id: &[u8]) {
        if let Some(part) = id.last_chunk() {
            self.0 = u64::from_le_bytes(*part);
        }
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What else is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its report type, 0 to 5.
    pub report_type: u8,
    /// The last day on which it can be uploaded; after that it is forgotten.
    pub last_day: Day,
    /// HMAC of its other fields, to tell a revision from a conflict.
    pub rest: [u8; 4],
}

/// One fingerprint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the key data.
    pub id: Id,
    /// Of everything else.
    pub facts: Facts,
}

impl Fingerprint {
    /// The form that stands in the ledger.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        out[..16].copy_from_slice(&self.id);
        out[16] = self.facts.report_type;
        out[17..19].copy_from_slice(&self.facts.last_day.0.to_be_bytes());
        out[19..].copy_from_slice(&self.facts.rest);
        out
    }

    /// Reads that form.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; LENGTH]) -> Self {
        let [id @ .., report_type, d0, d1, r0, r1, r2, r3] = bytes;
        let facts = Facts {
            report_type: *report_type,
            last_day: Day(u16::from_be_bytes([*d0, *d1])),
            rest: [*r0, *r1, *r2, *r3],
        };
        Self { id: *id, facts }
    }
}

/// Fingerprints as they stand in the ledger: sorted, so that their order tells nothing about the upload.
pub(crate) fn sorted(prints: &[Fingerprint]) -> Vec<[u8; LENGTH]> {
    let mut all: Vec<_> = prints.iter().map(Fingerprint::to_bytes).collect();
    all.sort_unstable();
    all
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(redacted)")
    }
}

/// A secret with its name. The keyed state is kept, so that a fingerprint costs two short hashes.
#[derive(Clone)]
pub struct Secret {
    name: String,
    keyed: Hmac<Sha256>,
}

impl Secret {
    /// A secret of 32 bytes.
    #[must_use]
    pub fn new(name: &str, secret: &[u8; 32]) -> Self {
        // HMAC takes keys of any length.
        #[expect(clippy::expect_used, reason = "an HMAC key of 32 bytes is always accepted")]
        let keyed = Hmac::new_from_slice(secret).expect("any length");
        Self { name: name.to_owned(), keyed }
    }

    /// Its name, which stands in ledgers.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self, key: &DiagnosisKey) -> Id {
        let mut hmac = self.keyed.clone();
        hmac.update(b"key");
        hmac.update(&key.key_data);
        cut(hmac)
    }

    fn rest(&self, key: &DiagnosisKey) -> [u8; 4] {
        let mut hmac = self.keyed.clone();
        hmac.update(b"rest");
        for number in [
            key.rolling_start_interval_number,
            key.rolling_period,
            key.transmission_risk_level as u32,
            key.days_since_onset_of_symptoms as u32,
        ] {
            hmac.update(&number.to_be_bytes());
        }
        // A valid code is two letters, so the concatenation says where each begins.
        for country in key.visited_countries.countries().flatten() {
            hmac.update(&country.bytes());
        }
        cut(hmac)
    }

    /// The fingerprint of a valid key.
    #[must_use]
    pub fn fingerprint(&self, key: &DiagnosisKey) -> Fingerprint {
        let facts = Facts {
            report_type: u8::try_from(key.report_type).unwrap_or(u8::MAX),
            last_day: Interval(key.rolling_start_interval_number).last_upload_day(),
            rest: self.rest(key),
        };
        Fingerprint { id: self.id(key), facts }
    }
}

fn cut<const N: usize>(hmac: Hmac<Sha256>) -> [u8; N] {
    let full = hmac.finalize().into_bytes();
    std::array::from_fn(|i| full[i])
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, redacted)", self.name)
    }
}

/// The secret in use, and while it rotates the one before, under which keys are still remembered.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// New keys are remembered under this one.
    pub current: Secret,
    /// Looked up as well.
    pub previous: Option<Secret>,
}

impl Secrets {
    /// Whether one of them has this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.current.name == name || self.previous.as_ref().is_some_and(|p| p.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_show_nothing() {
        let secret = Secret::new("s1", &[7; 32]);
        let key = DiagnosisKey {
            key_data: vec![1; 16].into(),
            rolling_start_interval_number: 2_642_976,
            report_type: 2,
            visited_countries: ["FR"].into(),
            ..Default::default()
        };
        let print = secret.fingerprint(&key);
        assert!(Fingerprint::from_bytes(&print.to_bytes()) == print);
        assert_eq!(format!("{print:?} {secret:?}"), "Fingerprint(redacted) Secret(s1, redacted)");

        let revised = secret.fingerprint(&DiagnosisKey { report_type: 1, ..key.clone() });
        assert!(revised.id == print.id && revised.facts.rest == print.facts.rest);
        let moved = secret.fingerprint(&DiagnosisKey { visited_countries: ["DE"].into(), ..key.clone() });
        assert!(moved.id == print.id && moved.facts.rest != print.facts.rest);
        assert!(Secret::new("s2", &[8; 32]).fingerprint(&key).id != print.id);
    }
}
