//! A certificate and its private key, from two files. Key bytes are wiped when they are no longer needed.

use std::{path::Path, sync::Arc};

use keyferry_runtime::exit::Fatal;
use keyferry_schemas::{certificate::Certificate, country::Country};
use openssl::{
    pkey::{PKey, Private},
    x509::X509,
};
use rustls::{
    client::ResolvesClientCert,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroizing;

use crate::cli::files;

/// Who we are.
pub(super) struct Identity {
    pub(super) certificate: Certificate,
    pub(super) key: PKey<Private>,
    chain: Vec<X509>,
}

impl Identity {
    /// Reads both and holds them against each other. OpenSSL asks for the password of an encrypted key.
    pub(super) fn read(what: &str, certificate: &Path, whose: &str, key: &Path) -> Result<Self, Fatal> {
        let shown = certificate.display();
        let chain = X509::stack_from_pem(&files::read(what, certificate)?).unwrap_or_default();
        let Some(own) = chain.first() else {
            return Err(Fatal::config(format_args!("{shown} holds no certificate in PEM")));
        };
        let own = Certificate::new(own.clone()).map_err(|e| Fatal::config(format_args!("{shown}: {e}")))?;
        let pem = Zeroizing::new(files::read(whose, key)?);
        let key_shown = key.display();
        let key = PKey::private_key_from_pem(&pem).map_err(|_| {
            Fatal::config(format_args!("{key_shown} is no private key in PEM, or the password is wrong"))
        })?;
        if !own.x509().public_key().is_ok_and(|public| key.public_eq(&public)) {
            return Err(Fatal::config(format_args!("{key_shown} is not the key of the certificate {shown}")));
        }
        Ok(Self { certificate: own, key, chain })
    }

    /// The country that the certificate names.
    pub(super) fn country(&self) -> Option<Country> {
        self.certificate.country()
    }

    /// In the form of the TLS library.
    pub(super) fn for_tls(&self) -> Result<Arc<dyn ResolvesClientCert>, rustls::Error> {
        let failed = |e: openssl::error::ErrorStack| rustls::Error::General(e.to_string());
        let der = Zeroizing::new(self.key.private_key_to_pkcs8().map_err(failed)?);
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice())))?;
        let chain: Result<Vec<_>, _> = self.chain.iter().map(|c| c.to_der()).collect();
        let chain = chain.map_err(failed)?.into_iter().map(CertificateDer::from).collect();
        Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
    }
}
