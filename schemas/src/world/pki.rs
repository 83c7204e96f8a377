//! Key pairs with self-signed certificates, made on the spot.

use crate::{certificate::Certificate, cms};
use anyhow::Result;
use jiff::Timestamp;
use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    sign::Signer,
    x509::{
        X509Builder, X509NameBuilder,
        extension::{KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier},
    },
};

const HALF_LIFE_S: i64 = 300 * 86_400;

/// The kind of a key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// RSA with this many bits.
    Rsa(u32),
}

/// A key pair and its certificate.
#[derive(Clone)]
pub struct Identity {
    /// The private key.
    pub key: PKey<Private>,
    /// The certificate.
    pub certificate: Certificate,
}

impl Identity {
    /// A new key pair with a certificate for `C=country, CN=name`, valid for three hundred days around `now`. It names
    /// `localhost` and `127.0.0.1`, so that it serves as a server's as well.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn new(country: &str, name: &str, algorithm: Algorithm, now: Timestamp) -> Result<Self> {
        let key = match algorithm {
            Algorithm::P256 => ec(Nid::X9_62_PRIME256V1)?,
            Algorithm::P384 => ec(Nid::SECP384R1)?,
            Algorithm::Rsa(bits) => PKey::from_rsa(Rsa::generate(bits)?)?,
        };
        let now = now.as_second();
        Self::with_dates(country, name, key, now - HALF_LIFE_S, now + HALF_LIFE_S)
    }

    /// The same with given dates, in seconds since 1970.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn with_dates(
        country: &str,
        name: &str,
        key: PKey<Private>,
        from_s: i64,
        until_s: i64,
    ) -> Result<Self> {
        let mut subject = X509NameBuilder::new()?;
        subject.append_entry_by_text("C", country)?;
        subject.append_entry_by_text("O", "Keyferry demo")?;
        subject.append_entry_by_text("CN", name)?;
        let subject = subject.build();
        let mut serial = BigNum::new()?;
        serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
        let mut builder = X509Builder::new()?;
        // Version 3, which counts from 0.
        builder.set_version(2)?;
        builder.set_serial_number(Asn1Integer::from_bn(&serial)?.as_ref())?;
        builder.set_subject_name(&subject)?;
        builder.set_issuer_name(&subject)?;
        builder.set_pubkey(&key)?;
        builder.set_not_before(Asn1Time::from_unix(from_s)?.as_ref())?;
        builder.set_not_after(Asn1Time::from_unix(until_s)?.as_ref())?;
        let context = builder.x509v3_context(None, None);
        let extensions = [
            KeyUsage::new().digital_signature().build()?,
            SubjectKeyIdentifier::new().build(&context)?,
            SubjectAlternativeName::new().dns("localhost").ip("127.0.0.1").build(&context)?,
        ];
        for extension in extensions {
            builder.append_extension(extension)?;
        }
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: Certificate::new(builder.build())?, key })
    }

    /// Detached CMS over `content`.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn sign(&self, content: &[u8]) -> Result<Vec<u8>> {
        Ok(cms::sign(content, &self.key, self.certificate.x509())?)
    }

    /// A bare signature over `content`, SHA-256.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn sign_raw(&self, content: &[u8]) -> Result<Vec<u8>> {
        Ok(Signer::new(MessageDigest::sha256(), &self.key)?.sign_oneshot_to_vec(content)?)
    }

    /// The certificate as PEM.
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn certificate_pem(&self) -> Result<String> {
        Ok(String::from_utf8(self.certificate.x509().to_pem()?)?)
    }

    /// The private key as PEM (PKCS#8).
    ///
    /// # Errors
    /// OpenSSL fails.
    pub fn key_pem(&self) -> Result<String> {
        Ok(String::from_utf8(self.key.private_key_to_pem_pkcs8()?)?)
    }
}

fn ec(curve: Nid) -> Result<PKey<Private>> {
    Ok(PKey::from_ec_key(EcKey::generate(EcGroup::from_curve_name(curve)?.as_ref())?)?)
}
