//! An X.509 certificate as the network document registers it: its identity, its key, its dates.

mod describe;

use std::{fmt, ops::RangeInclusive};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use der::{Decode, Encode};
use openssl::{
    nid::Nid,
    pkey::{Id, PKey, Public},
    x509::X509,
};
use x509_cert::{
    Certificate as Parsed, Version, der::asn1::ObjectIdentifier, ext::pkix::SubjectKeyIdentifier,
};

use crate::{batch::sha256, country::Country, records::Hash, time::Millis};

/// RSA keys that are registered, in bits. Verification takes longer with the square of it, so there is an upper end too.
const RSA_BITS: RangeInclusive<u32> = 2048..=8192;
/// P-256, P-384 and P-521: what every TLS and CMS library knows,.
const CURVES: [Nid; 3] = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
const COUNTRY_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");

/// A certificate that can be used here.
#[derive(Clone)]
pub struct Certificate {
    x509: X509,
    sha256: Hash,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    key_id: Option<Vec<u8>>,
    country: Option<Country>,
    not_before: Millis,
    not_after: Millis,
}

/// Why a certificate can not be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Not one PEM certificate.
    #[error("not one certificate in PEM")]
    Pem,
    /// A private key stands in the text.
    #[error(
        "a private key stands there: only the certificate belongs here; that key is no longer secret, make a new one"
    )]
    PrivateKey,
    /// Something else stands beside the certificate.
    #[error(
        "not one CERTIFICATE block alone: only its lines from BEGIN to END belong here, and only the certificate in them"
    )]
    NotAlone,
    /// The DER inside is malformed.
    #[error("the certificate is malformed")]
    Malformed,
    /// X.509 version 1 or 2, which TLS libraries refuse.
    #[error("an X.509 v{0} certificate: TLS here needs v3; make it anew with an extension, such as keyUsage")]
    Version(u8),
    /// The key is too short, too long or of a kind that is not used.
    #[error("the key is {0}; it has to be RSA with 2048 to 8192 bits, or EC on P-256, P-384 or P-521")]
    Key(String),
}

impl Certificate {
    /// Reads a PEM text with exactly one certificate.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn from_pem(pem: &str) -> Result<Self, BadCertificate> {
        let mut stack = X509::stack_from_pem(pem.as_bytes()).map_err(|_| BadCertificate::Pem)?;
        match (stack.pop(), stack.is_empty()) {
            (Some(x509), true) => Self::new(x509),
            _ => Err(BadCertificate::Pem),
        }
    }

    /// Reads a text that is one CERTIFICATE block and nothing else, line ends at its end aside: what may be published.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn from_pem_alone(text: &str) -> Result<Self, BadCertificate> {
        if text.contains("PRIVATE KEY") {
            return Err(BadCertificate::PrivateKey);
        }
        let certificate = Self::from_pem(text)?;
        let block = text.trim_end_matches(['\r', '\n']);
        let body = block.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let der =
            body.and_then(|body| STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok());
        // OpenSSL skips what stands outside of blocks, headers within one, and bytes behind the certificate: all of that
        // would be signed and published unseen.
        match der {
            Some(der) if sha256(&der) == certificate.sha256 => Ok(certificate),
            _ => Err(BadCertificate::NotAlone),
        }
    }

    /// Takes over a certificate that OpenSSL has read.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn new(x509: X509) -> Result<Self, BadCertificate> {
        let der = x509.to_der().map_err(|_| BadCertificate::Malformed)?;
        let parsed = Parsed::from_der(&der).map_err(|_| BadCertificate::Malformed)?;
        let tbs = &parsed.tbs_certificate;
        match tbs.version {
            Version::V3 => (),
            Version::V2 => return Err(BadCertificate::Version(2)),
            Version::V1 => return Err(BadCertificate::Version(1)),
        }
        let key = x509.public_key().map_err(|_| BadCertificate::Malformed)?;
        // Not by parameters written out, which OpenSSL would recognise and others refuse.
        let parameters = tbs.subject_public_key_info.algorithm.parameters.as_ref();
        check_key(&key, parameters.is_some_and(|p| p.decode_as::<ObjectIdentifier>().is_ok()))?;
        let key_id = tbs.get::<SubjectKeyIdentifier>().ok().flatten().map(|(_, id)| id.0.as_bytes().to_vec());
        let country = tbs.subject.0.iter().flat_map(|rdn| rdn.0.iter()).find(|a| a.oid == COUNTRY_NAME);
        let millis = |t: x509_cert::time::Time| {
            Millis(i64::try_from(t.to_unix_duration().as_millis()).unwrap_or(i64::MAX))
        };
        Ok(Self {
            sha256: sha256(&der),
            issuer: tbs.issuer.to_der().map_err(|_| BadCertificate::Malformed)?,
            serial: tbs.serial_number.as_bytes().to_vec(),
            key_id,
            country: country.and_then(|a| std::str::from_utf8(a.value.value()).ok()?.parse().ok()),
            not_before: millis(tbs.validity.not_before),
            not_after: millis(tbs.validity.not_after),
            x509,
        })
    }

    /// SHA-256 of the DER: by this a certificate is known everywhere here.
    #[must_use]
    pub fn sha256(&self) -> Hash {
        self.sha256
    }

    /// The country that the subject names in `C`.
    #[must_use]
    pub fn country(&self) -> Option<Country> {
        self.country
    }

    /// The first moment of the certificate's own validity.
    #[must_use]
    pub fn not_before(&self) -> Millis {
        self.not_before
    }

    /// The last moment of the certificate's own validity.
    #[must_use]
    pub fn not_after(&self) -> Millis {
        self.not_after
    }

    /// Whether `now` lies within the dates of the certificate itself.
    #[must_use]
    pub fn in_force(&self, now: Millis) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The certificate as OpenSSL holds it.
    #[must_use]
    pub fn x509(&self) -> &X509 {
        &self.x509
    }

    pub(crate) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    pub(crate) fn serial(&self) -> &[u8] {
        &self.serial
    }

    pub(crate) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }
}

fn check_key(key: &PKey<Public>, curve_is_named: bool) -> Result<(), BadCertificate> {
    let unused = match key.id() {
        Id::RSA | Id::RSA_PSS if RSA_BITS.contains(&key.bits()) => return Ok(()),
        Id::RSA | Id::RSA_PSS => format!("RSA with {} bits", key.bits()),
        Id::EC => {
            let curve = key.ec_key().ok().and_then(|k| k.group().curve_name()).filter(|_| curve_is_named);
            if curve.is_some_and(|c| CURVES.contains(&c)) {
                return Ok(());
            }
            format!("EC on {}", curve.and_then(|c| c.short_name().ok()).unwrap_or("a curve of its own"))
        }
        _ => "of an unused kind".to_owned(),
    };
    Err(BadCertificate::Key(unused))
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", hex::encode(self.sha256))
    }
}
