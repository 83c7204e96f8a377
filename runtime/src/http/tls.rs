//! Mutual TLS in process. The handshake lets a client in with any certificate whose key it proves to hold, or with
//! none: whether the certificate is registered is said in HTTP, where the client can read why not.

use std::{fs, io, path::Path, sync::Arc};

use keyferry_schemas::time::Millis;
use openssl::{asn1::Asn1Time, x509::X509};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::TlsConfig;

/// A certificate of ours can not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTls {
    /// A file can not be read.
    #[error("{0} can not be read: {1}")]
    Unreadable(String, io::Error),
    /// A file is not what it should be.
    #[error("{0} is not {1} in PEM")]
    Pem(String, &'static str),
    /// The two do not go together.
    #[error("certificate and key can not be used: {0}")]
    Unusable(#[from] Error),
}

/// Reads the files of `config`. Blocks on them.
pub(super) fn load(config: &TlsConfig) -> Result<Arc<ServerConfig>, BadTls> {
    let (chain, key) = load_pair(config)?;
    server(chain, key).map(Arc::new)
}

/// Reads a certificate, those that it leads to, and its key; whether they go together is not looked at. Blocks on the
/// files.
pub(crate) fn load_pair(
    config: &TlsConfig,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BadTls> {
    let pem = read(&config.certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| BadTls::Pem(name(&config.certificate), "a chain of certificates"))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&config.key)?)
        .map_err(|_| BadTls::Pem(name(&config.key), "an unencrypted private key"))?;
    Ok((chain, key))
}

/// What is wrong with the dates of the server's certificate at `now`, in one line. It is used all the same: whoever can
/// not renew it at once loses the clients that look at the dates, and not those that do not.
pub(super) fn outdated(config: &TlsConfig, now: Millis) -> Option<String> {
    let certificate = X509::from_pem(&fs::read(&config.certificate).ok()?).ok()?;
    let now = Asn1Time::from_unix(now.timestamp().as_second()).ok()?;
    let name = name(&config.certificate);
    if certificate.not_after() < now {
        let end = certificate.not_after();
        return Some(format!("the certificate {name} has expired on {end}: clients refuse it; renew it"));
    }
    let begin = certificate.not_before();
    (begin > now)
        .then(|| format!("the certificate {name} is not valid before {begin}: clients refuse it until then"))
}

/// When the server's certificate ends, in seconds since 1970, if it can be read.
pub(super) fn ends_s(config: &TlsConfig) -> Option<f64> {
    let certificate = X509::from_pem(&fs::read(&config.certificate).ok()?).ok()?;
    let since_1970 = Asn1Time::from_unix(0).ok()?.diff(certificate.not_after()).ok()?;
    Some(f64::from(since_1970.days) * 86_400.0 + f64::from(since_1970.secs))
}

fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, BadTls> {
    // Given explicitly: several libraries in one process may each bring a default.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyClient::new(&provider));
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

fn read(path: &Path) -> Result<Vec<u8>, BadTls> {
    fs::read(path).map_err(|e| BadTls::Unreadable(name(path), e))
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// Accepts every certificate whose key the client holds. No authority is asked: the register is the network document.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyClient {
    fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: the client is to send what it has.
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
