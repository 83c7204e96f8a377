//! One request to an address that somebody else named.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, Url, header, redirect::Policy};
use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};

use keyferry_schemas::records::Hash;

use super::{ClientIdentity, Guard, Refused, pin::Pinned};

/// Why a call did not get through.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Nobody may connect there.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No connection, no handshake with the certificate that was expected, or no answer in time.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// An answer, which is none of the 200s.
    #[error("answered with {0}")]
    Status(StatusCode),
}

/// Calls others. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    guard: Guard,
    identity: ClientIdentity,
    timeout: Duration,
}

impl Caller {
    /// Connects where `guard` lets it, shows `identity`, and gives up after `timeout`, in which all has to happen from the
    /// resolution of the name to the head of the answer.
    #[must_use]
    pub fn new(guard: Guard, identity: ClientIdentity, timeout: Duration) -> Self {
        Self { guard, identity, timeout }
    }

    /// Where it connects to.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// One GET over a connection of its own, to a peer that holds one of the certificates with these SHA-256. Redirects
    /// are not followed, no proxy of the environment is used, and the body of the answer is not read. May be dropped at
    /// any point.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn get(&self, url: Url, pins: Vec<Hash>) -> Result<(), Failed> {
        self.guard.check_literal(&url)?;
        // A connection is kept by nobody: the next one may be judged by another list, and its address anew.
        let client = self.client(pins).map_err(|e| Failed::Unanswered(e.to_string()))?;
        let answer = client.get(url).header(header::CONNECTION, "close").send().await;
        let status = answer.map_err(|e| unanswered(&e))?.status();
        if status.is_success() { Ok(()) } else { Err(Failed::Status(status)) }
    }

    fn client(&self, pins: Vec<Hash>) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Pinned::new(pins, &provider));
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.identity.current());
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(self.guard.clone()))
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .timeout(self.timeout)
            .build()?;
        Ok(client)
    }
}

/// The innermost cause says what happened; those around it that something did, and where to, which may be a secret.
fn unanswered(error: &reqwest::Error) -> Failed {
    if error.is_timeout() {
        return Failed::Unanswered("not in time".into());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return Failed::Refused(refused.clone());
        }
    }
    Failed::Unanswered(cause.to_string())
}
