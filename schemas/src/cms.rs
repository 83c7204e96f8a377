//! Detached CMS signatures (RFC 5652) of origins and of the trust anchor.
//!
//! OpenSSL verifies. Because it was seen to accept SHA-1, MD5, embedded content and trailing bytes, the structure is
//! inspected as well: exactly one signer, SHA-2, no content, nothing behind it. Only registered certificates count;
//! those that a CMS brings along are ignored.

use std::cmp::Ordering;

use cms::{
    cert::x509::spki::AlgorithmIdentifierOwned,
    content_info::{CmsVersion, ContentInfo},
    signed_data::{
        DigestAlgorithmIdentifiers, EncapsulatedContentInfo, SignerIdentifier, SignerInfo, SignerInfos,
    },
};
use der::{Any, Decode, Encode, asn1::ObjectIdentifier};
use openssl::{
    cms::{CMSOptions, CmsContentInfo},
    pkey::{PKey, Private},
    stack::Stack,
    x509::{X509, X509Name},
};

use crate::{batch::sha256, certificate::Certificate, records::Hash, rejection::Rejection};

/// Content that is plain bytes.
const DATA: &str = "1.2.840.113549.1.7.1";
const SHA2: [&str; 3] = ["2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2", "2.16.840.1.101.3.4.2.3"];
/// RSA, RSA with SHA-2, and ECDSA with SHA-2; RSA-PSS apart, because its digest stands in its parameters.
const SIGNATURES: [&str; 8] = [
    "1.2.840.113549.1.1.1",
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
    "1.2.840.10045.2.1",
    "1.2.840.10045.4.3.2",
    "1.2.840.10045.4.3.3",
    "1.2.840.10045.4.3.4",
];
const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const MGF1: &str = "1.2.840.113549.1.1.8";
/// CMS nests a handful of levels; a hostile one may not nest the stack away.
const MAX_DEPTH: u32 = 32;
/// Longest CMS that is read, in bytes. One signer with RSA of 8192 bits and a chain of certificates takes less than ten
/// thousand; everything beyond is there to keep OpenSSL busy.
pub const MAX_BYTES: usize = 64 * 1024;

/// A CMS whose structure is sound. Whether it signs anything is a question for [`Detached::verify`].
pub struct Detached {
    /// Without certificates, which would be read again for each verification and count for nothing.
    der: Vec<u8>,
    signer: SignerIdentifier,
}

impl Detached {
    /// Reads DER or BER and inspects its structure.
    ///
    /// # Errors
    /// The [`Rejection`] that names what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        Self::read_beside(bytes, |_| false)
    }

    /// The same, for less: certificates that it brings along are not read again if they are `known`, by the SHA-256 of
    /// their DER, to be certificates. OpenSSL takes longer to read one than to verify a signature.
    ///
    /// # Errors
    /// The [`Rejection`] that names what is wrong with it.
    pub fn read_beside(bytes: &[u8], known: impl Fn(&Hash) -> bool) -> Result<Self, Rejection> {
        if bytes.len() > MAX_BYTES {
            return Err(Rejection::SignatureMalformed);
        }
        let end = element_end(bytes, 0).ok_or(Rejection::SignatureMalformed)?;
        if end != bytes.len() {
            return Err(Rejection::SignatureTrailingBytes);
        }
        // OpenSSL reads BER and writes DER, which the inspection needs.
        let malformed = |_| Rejection::SignatureMalformed;
        let short = without_known(bytes, known);
        let cms = CmsContentInfo::from_der(short.as_deref().unwrap_or(bytes)).map_err(malformed)?;
        let der = cms.to_der().map_err(malformed)?;
        let (content_type, data) = open(&der).map_err(|_| Rejection::SignatureMalformed)?;
        if data.encap_content_info.econtent.is_some() {
            return Err(Rejection::SignatureEmbeddedContent);
        }
        // OpenSSL does not hold this against the type that the signed attributes name. Without them it is not signed.
        if data.encap_content_info.econtent_type != ObjectIdentifier::new_unwrap(DATA) {
            return Err(Rejection::SignatureMalformed);
        }
        let [signer] = data.signer_infos.0.as_slice() else {
            return Err(Rejection::SignatureSigners);
        };
        if !is_sha2(signer.digest_alg.oid) || !signature_allowed(&signer.signature_algorithm) {
            return Err(Rejection::SignatureAlgorithm);
        }
        // OpenSSL runs one digest for each entry, one inside the other: thousands of them overflow its stack.
        let [digest] = data.digest_algorithms.as_slice() else {
            return Err(Rejection::SignatureAlgorithm);
        };
        if digest.oid != signer.digest_alg.oid {
            return Err(Rejection::SignatureAlgorithm);
        }
        if !attributes_are_der(signer, bytes) {
            return Err(Rejection::SignatureMalformed);
        }
        let signer = signer.sid.clone();
        Ok(Self { der: bare(content_type, data).map_err(|_| Rejection::SignatureMalformed)?, signer })
    }

    /// Whether the CMS names `certificate` as its signer's.
    #[must_use]
    pub fn names(&self, certificate: &Certificate) -> bool {
        match &self.signer {
            SignerIdentifier::IssuerAndSerialNumber(id) => {
                id.serial_number.as_bytes() == certificate.serial()
                    && id.issuer.to_der().is_ok_and(|issuer| is_issuer(&issuer, certificate))
            }
            SignerIdentifier::SubjectKeyIdentifier(id) => {
                certificate.key_id().is_some_and(|own| own == id.0.as_bytes())
            }
        }
    }

    /// Whether this is a signature of `content` by the holder of `certificate`. Costs one public-key operation.
    #[must_use]
    pub fn verify(&self, content: &[u8], certificate: &Certificate) -> bool {
        // Read anew each time: OpenSSL remembers the first certificate that fits and ignores any other from then on.
        let Ok(mut cms) = CmsContentInfo::from_der(&self.der) else { return false };
        let Ok(mut only) = Stack::new() else { return false };
        if only.push(certificate.x509().clone()).is_err() {
            return false;
        }
        // Dates and registration are judged by the network document, not by a chain: only the key counts here.
        let flags = CMSOptions::NO_SIGNER_CERT_VERIFY
            | CMSOptions::NOINTERN
            | CMSOptions::BINARY
            | CMSOptions::DETACHED;
        let holds = cms.verify(Some(&only), None, Some(content), None, flags).is_ok();
        if !holds {
            // OpenSSL queues its reasons per thread; nobody else should find them there.
            let _ = openssl::error::ErrorStack::get();
        }
        holds
    }
}

/// Signs `content`, detached, with SHA-256: what an origin or the holder of the trust anchor does.
///
/// # Errors
/// What OpenSSL says if key and certificate do not belong together.
pub fn sign(
    content: &[u8],
    key: &PKey<Private>,
    certificate: &X509,
) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let flags = CMSOptions::BINARY | CMSOptions::DETACHED;
    CmsContentInfo::sign(Some(certificate), Some(key), None, Some(content), flags)?.to_der()
}

/// `SignedData`, but for what comes along with it: that is ignored, so its faults are, too.
#[derive(der::Sequence)]
struct SignedData {
    version: CmsVersion,
    digest_algorithms: DigestAlgorithmIdentifiers,
    encap_content_info: EncapsulatedContentInfo,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", constructed = "true", optional = "true")]
    certificates: Option<Vec<Any>>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", constructed = "true", optional = "true")]
    revocation_lists: Option<Vec<Any>>,
    signer_infos: SignerInfos,
}

/// What a CMS says that it is, and what it has to be.
fn open(der: &[u8]) -> der::Result<(ObjectIdentifier, SignedData)> {
    let ContentInfo { content_type, content } = ContentInfo::from_der(der)?;
    Ok((content_type, content.decode_as()?))
}

/// The same CMS without what comes along with it.
fn bare(content_type: ObjectIdentifier, data: SignedData) -> der::Result<Vec<u8>> {
    let data = SignedData { certificates: None, revocation_lists: None, ..data };
    ContentInfo { content_type, content: Any::encode_from(&data)? }.to_der()
}

/// The same if it is DER and nothing comes along but certificates that are known.
fn without_known(bytes: &[u8], known: impl Fn(&Hash) -> bool) -> Option<Vec<u8>> {
    let (content_type, data) = open(bytes).ok()?;
    let is_known = |certificate: &Any| certificate.to_der().is_ok_and(|der| known(&sha256(&der)));
    let all_known = data.certificates.iter().flatten().all(is_known);
    if all_known && data.revocation_lists.is_none() { bare(content_type, data).ok() } else { None }
}

/// Whether the signed attributes came in DER, as they have to in BER as well (RFC 5652, 5.3). Some programs verify them as
/// they came and some put them into order first: a signature that only some take must not travel on.
fn attributes_are_der(signer: &SignerInfo, bytes: &[u8]) -> bool {
    let Some(attributes) = &signer.signed_attrs else { return true };
    attributes.to_der().is_ok_and(|mut der| {
        // Not a SET in its place, but the first part that may be left out.
        der[0] = 0xa0;
        bytes.windows(der.len()).any(|part| part == der)
    })
}

/// Whether `issuer` is the certificate's. Programs that do not copy the name but write it anew may use other types of
/// strings, so unequal bytes are compared as names are.
fn is_issuer(issuer: &[u8], certificate: &Certificate) -> bool {
    issuer == certificate.issuer()
        || X509Name::from_der(issuer)
            .and_then(|name| name.try_cmp(certificate.x509().issuer_name()))
            .is_ok_and(Ordering::is_eq)
}

fn is_sha2(oid: ObjectIdentifier) -> bool {
    SHA2.iter().any(|known| ObjectIdentifier::new_unwrap(known) == oid)
}

#[derive(der::Sequence)]
struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_length: Option<Any>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<Any>,
}

fn signature_allowed(algorithm: &AlgorithmIdentifierOwned) -> bool {
    if algorithm.oid == ObjectIdentifier::new_unwrap(RSA_PSS) {
        let parameters = algorithm.parameters.as_ref().and_then(|p| p.decode_as::<PssParameters>().ok());
        // Absent means SHA-1, by the standard; the mask has a digest of its own.
        return parameters.is_some_and(|p| {
            p.hash.is_some_and(|hash| is_sha2(hash.oid)) && p.mask.is_some_and(|mask| mask_allowed(&mask))
        });
    }
    SIGNATURES.iter().any(|known| ObjectIdentifier::new_unwrap(known) == algorithm.oid)
}

fn mask_allowed(mask: &AlgorithmIdentifierOwned) -> bool {
    let digest = mask.parameters.as_ref().and_then(|p| p.decode_as::<AlgorithmIdentifierOwned>().ok());
    mask.oid == ObjectIdentifier::new_unwrap(MGF1) && digest.is_some_and(|digest| is_sha2(digest.oid))
}

/// Where the BER element at the start of `bytes` ends; `None` if it does not.
fn element_end(bytes: &[u8], depth: u32) -> Option<usize> {
    if depth > MAX_DEPTH || bytes.len() < 2 {
        return None;
    }
    let mut at = 1;
    if bytes[0] & 0x1f == 0x1f {
        // A tag in several bytes ends with the first that has its high bit clear.
        at += bytes[1..].iter().position(|b| b & 0x80 == 0)? + 1;
    }
    let first = *bytes.get(at)?;
    at += 1;
    if first == 0x80 {
        // Indefinite length: elements until two zero bytes.
        while bytes.get(at..at + 2)? != [0, 0] {
            at += element_end(&bytes[at..], depth + 1)?;
        }
        return Some(at + 2);
    }
    let mut length = usize::from(first & 0x7f);
    if first & 0x80 != 0 {
        let digits = bytes.get(at..at + length)?;
        at += length;
        length = digits.iter().try_fold(0usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?;
    }
    let end = at.checked_add(length)?;
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_of_elements() {
        assert_eq!(element_end(&[0x04, 1, 7, 9], 0), Some(3));
        assert_eq!(element_end(&[0x30, 0x80, 4, 1, 7, 0, 0, 9], 0), Some(7));
        assert_eq!(element_end(&[0x30, 0x80, 4, 1, 7, 0], 0), None);
        assert_eq!(element_end(&[0x04, 0x88, 255, 255, 255, 255, 255, 255, 255, 255], 0), None);
        assert_eq!(element_end(&[0x30, 0x80].repeat(1000), 0), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            prop_assert!(Detached::read(&bytes).is_err());
        }
    }
}
