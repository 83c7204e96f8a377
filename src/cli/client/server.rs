//! Who is believed to be the hub: whoever an authority of `--cacert` vouches for, or a certificate that stands there itself.
//!
//! The second needs a hand: `openssl req -x509` makes certificates that are authorities and servers at once, which the
//! TLS library refuses as servers and other clients take.

use std::sync::Arc;

use keyferry_schemas::{certificate::Certificate, time::Millis};
use openssl::x509::X509;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

/// Believes the authorities, and the very certificates that were pinned.
#[derive(Debug)]
pub(super) struct Believed {
    authorities: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl Believed {
    /// `None` if no certificate can be used.
    pub(super) fn new(pinned: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        // Bundles of operating systems hold some that are of no use.
        roots.add_parsable_certificates(pinned.iter().cloned());
        let authorities = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
        Some(Self { authorities: authorities.build().ok()?, pinned })
    }

    /// What the library checks of a server's certificate besides who vouches for it: its name and its dates.
    fn is_pinned(
        &self,
        end: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<bool, Error> {
        if !self.pinned.iter().any(|pinned| pinned == end) {
            return Ok(false);
        }
        verify_server_name(&ParsedCertificate::try_from(end)?, name)?;
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let certificate = Certificate::new(X509::from_der(end).map_err(|_| bad(()))?).map_err(|_| bad(()))?;
        let now = Millis(i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000));
        if certificate.in_force(now) { Ok(true) } else { Err(CertificateError::Expired.into()) }
    }
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.authorities.verify_server_cert(end, between, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        if self.is_pinned(end, name, now)? { Ok(ServerCertVerified::assertion()) } else { Err(refused) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openssl::{
        asn1::Asn1Time,
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        nid::Nid,
        pkey::PKey,
        x509::{
            X509Builder, X509NameBuilder,
            extension::{BasicConstraints, SubjectAlternativeName},
        },
    };
    use rustls::crypto::aws_lc_rs;

    use super::*;

    const NOW_S: i64 = 1_800_000_000;

    /// As `openssl req -x509` makes it: an authority, of itself.
    fn authority() -> CertificateDer<'static> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "hub").unwrap();
        let name = name.build();
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(NOW_S - 100).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(NOW_S + 100).unwrap()).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        let context = builder.x509v3_context(None, None);
        let host = SubjectAlternativeName::new().dns("hub.example").build(&context).unwrap();
        builder.append_extension(host).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build().to_der().unwrap().into()
    }

    #[test]
    fn a_pinned_certificate_is_the_hub_by_its_name_and_in_its_time() {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (ours, other) = (authority(), authority());
        let believed = Believed::new(vec![ours.clone()], &provider).unwrap();
        let is = |certificate: &CertificateDer<'_>, name: &str, at_s: i64| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(at_s.try_into().unwrap()));
            let name = ServerName::try_from(name.to_owned()).unwrap();
            believed.verify_server_cert(certificate, &[], &name, &[], now).is_ok()
        };
        assert!(is(&ours, "hub.example", NOW_S));
        assert!(!is(&ours, "other.example", NOW_S));
        assert!(!is(&ours, "hub.example", NOW_S + 101) && !is(&ours, "hub.example", NOW_S - 101));
        assert!(!is(&other, "hub.example", NOW_S));
        assert!(Believed::new(Vec::new(), &provider).is_none());
    }
}
