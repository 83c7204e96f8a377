//! The certificates of a document: which of them exist, for whom, and where they stand.
//!
//! A certificate exists if the anchor has signed its text, besides the document around it. So a slip with one of them
//! costs the country that one, and can not keep everybody's revocations and members from coming into force.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{PKey, Public},
    sign::Verifier,
};

use super::{CertificateEntry, CertificateState, Fault, Network, Term, Use, term};
use crate::{certificate::Certificate, country::Country, time::Millis};

/// A registered certificate, in a form that can be used.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The member it belongs to.
    pub country: Country,
    /// What for.
    pub usage: Use,
    /// The certificate.
    pub certificate: Certificate,
    /// From when it counts.
    pub from: Millis,
    /// Until when.
    pub until: Millis,
    /// When it was revoked.
    pub revoked: Option<Millis>,
    /// The entry it was made from, which audits show.
    pub entry: CertificateEntry,
}

impl Registered {
    /// Its dates, the narrower of those of the registration and of the certificate.
    #[must_use]
    pub fn term(&self) -> Term {
        Term {
            from: self.from.max(self.certificate.not_before()),
            // The certificate counts in its last moment still.
            until: self.until.min(self.certificate.not_after().plus(1)),
            revoked: self.revoked,
        }
    }

    /// Whether it counts at `now`.
    #[must_use]
    pub fn in_force(&self, now: Millis) -> bool {
        self.term().in_force(now)
    }
}

/// A certificate that stands in the document and does not exist, because no pinned anchor has signed its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The member it was meant for.
    pub country: Country,
    /// What for.
    pub usage: Use,
    /// Where it stands, and what is wrong.
    pub fault: Fault,
}

impl Use {
    /// Every use there is.
    pub const ALL: [Self; 3] = [Self::Authentication, Self::Signing, Self::Callback];

    /// As the document writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Signing => "signing",
            Self::Callback => "callback",
        }
    }
}

impl Network {
    /// Every registered certificate, in the order of the document.
    #[must_use]
    pub fn certificates(&self) -> &[Registered] {
        &self.certificates
    }

    /// Those that stand in the document and were left out: their anchor's signature does not verify.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Where a certificate of this network stands at `now`.
    #[must_use]
    pub fn certificate_state(&self, registered: &Registered, now: Millis) -> CertificateState {
        registered.term().state(&self.terms(registered.country, registered.usage), now)
    }

    /// The first moment from `now` on at which `country` has no certificate in force for this use; a past one if it has
    /// none now. `None` if it has had none yet.
    #[must_use]
    pub fn certified_until(&self, country: Country, usage: Use, now: Millis) -> Option<Millis> {
        term::covered_until(&self.terms(country, usage), now)
    }

    fn terms(&self, country: Country, usage: Use) -> Vec<Term> {
        let own = self.certificates.iter().filter(|r| r.country == country && r.usage == usage);
        own.map(Registered::term).collect()
    }

    /// Takes the certificates over. One without the anchor's signature is left out, or a fault if `strict`.
    pub(super) fn load_certificates(
        &mut self,
        anchors: &[Certificate],
        strict: bool,
        faults: &mut Vec<Fault>,
    ) {
        for (m, member) in self.document.members.iter().enumerate() {
            for (c, entry) in member.certificates.iter().enumerate() {
                let path = format!("members[{m}] ({}).certificates[{c}]", member.country);
                let signed = anchor_signed(&entry.pem, &entry.anchor_signature, anchors);
                let unsigned = || {
                    let what = "is not the trust anchor's signature over `pem`; run `keyferry network sign`";
                    Fault::new(format!("{path}.anchor_signature"), what.into())
                };
                if !signed && !strict {
                    let (country, usage) = (member.country, entry.usage);
                    self.left_out.push(LeftOut { country, usage, fault: unsigned() });
                    continue;
                }
                let certificate = match Certificate::from_pem_alone(&entry.pem) {
                    Ok(certificate) => certificate,
                    Err(e) => {
                        faults.push(Fault::new(format!("{path}.pem"), e.to_string()));
                        continue;
                    }
                };
                if !signed {
                    faults.push(unsigned());
                }
                // Greece is GR here and EL in many of its certificates.
                if certificate.country().map(|c| self.resolve(c)) != Some(self.resolve(member.country)) {
                    let what = format!("the subject's C is not {}", member.country);
                    faults.push(Fault::new(format!("{path}.pem"), what));
                }
                self.by_hash.entry(certificate.sha256()).or_default().push(self.certificates.len());
                self.certificates.push(Registered {
                    country: member.country,
                    usage: entry.usage,
                    certificate,
                    from: entry.from.into(),
                    until: entry.until.into(),
                    revoked: entry.revoked.map(Into::into),
                    entry: entry.clone(),
                });
            }
        }
    }
}

/// Whether one of these anchors has signed this text of a certificate: a bare signature with RSA or ECDSA over SHA-256,
/// SHA-384 or SHA-512, in base64. It does not say which digest it is over, so each is tried.
#[must_use]
pub fn anchor_signed(pem: &str, signature: &str, anchors: &[Certificate]) -> bool {
    let Ok(signature) = STANDARD.decode(signature) else { return false };
    let digests = [MessageDigest::sha256(), MessageDigest::sha384(), MessageDigest::sha512()];
    let signed = anchors.iter().filter_map(|a| a.x509().public_key().ok()).any(|key| {
        let holds = |digest| verify(digest, &key, &signature, pem.as_bytes()).unwrap_or(false);
        digests.into_iter().any(holds)
    });
    if !signed {
        // OpenSSL queues its reasons per thread; nobody else should find them there.
        let _ = ErrorStack::get();
    }
    signed
}

fn verify(
    digest: MessageDigest,
    key: &PKey<Public>,
    signature: &[u8],
    text: &[u8],
) -> Result<bool, ErrorStack> {
    Verifier::new(digest, key)?.verify_oneshot(signature, text)
}
