//! An X.509 certificate as the network document registers it: its identity, its key, its dates.

use std::fmt;

use der::{Decode, Encode};
use openssl::x509::X509;
use x509_cert::{
    Certificate as Parsed, Version, der::asn1::ObjectIdentifier, ext::pkix::SubjectKeyIdentifier,
};

use crate::{batch::sha256, country::Country, records::Hash, time::Millis};

/// Smallest keys that are registered, in bits.
const MIN_RSA_BITS: u32 = 2048;
const MIN_EC_BITS: u32 = 256;
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
    #[error("not one CERTIFICATE block alone: only its lines from BEGIN to END belong here")]
    NotAlone,
    /// The DER inside is malformed.
    #[error("the certificate is malformed")]
    Malformed,
    /// X.509 version 1 or 2, which TLS libraries refuse.
    #[error("an X.509 v{0} certificate: TLS here needs v3; make it anew with an extension, such as keyUsage")]
    Version(u8),
    /// The key is too short or of a kind that is not used.
    #[error("the key is {0}; RSA needs 2048 bits or more, EC 256 or more")]
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
        // OpenSSL skips what stands outside of blocks, so it would be signed and published unseen.
        match body {
            Some(body) if !body.contains("-----") => Ok(certificate),
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
        let enough = match key.id() {
            openssl::pkey::Id::RSA | openssl::pkey::Id::RSA_PSS => key.bits() >= MIN_RSA_BITS,
            openssl::pkey::Id::EC => key.bits() >= MIN_EC_BITS,
            _ => false,
        };
        if !enough {
            let kind = match key.id() {
                openssl::pkey::Id::RSA => "RSA",
                openssl::pkey::Id::EC => "EC",
                _ => "of an unused kind",
            };
            return Err(BadCertificate::Key(format!("{kind} with {} bits", key.bits())));
        }
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

    /// Whether `now` lies within the dates of the certificate itself.
    #[must_use]
    pub fn in_force(&self, now: Millis) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// When the certificate itself ends.
    #[must_use]
    pub fn not_after(&self) -> Millis {
        self.not_after
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

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", hex::encode(self.sha256))
    }
}
