//! A national backend in front of the real program: over mutual TLS, as the contract says.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey, Encoding},
    records::Upload,
    world::{Identity, World},
};
use reqwest::{Client, StatusCode};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// A backend. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    client: Client,
    url: String,
}

impl Backend {
    /// The backend of `country`, which trusts the certificate in this file and speaks to `address`.
    ///
    /// # Errors
    /// There is no such country or file.
    pub fn new(world: &World, country: &str, server: &Path, address: &str) -> Result<Self> {
        let own: &Identity = &world.nation(country)?.authentication;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(server)?)?;
        let certificate = CertificateDer::from_pem_slice(own.certificate_pem()?.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(own.key_pem()?.as_bytes())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        let client = Client::builder().no_proxy().tls_backend_preconfigured(config);
        Ok(Self {
            client: client.timeout(Duration::from_secs(60)).build()?,
            url: format!("https://{address}/diagnosiskeys"),
        })
    }

    /// Sends an upload; the status of the answer.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn upload(&self, upload: &Upload) -> Result<StatusCode> {
        let request = self
            .client
            .post(format!("{}/upload", self.url))
            .header("Content-Type", &upload.content_type)
            .header("batchTag", &upload.batch_tag)
            .header("batchSignature", STANDARD.encode(&upload.batch_signature))
            .body(upload.payload.clone());
        let answer = request.send().await?;
        let status = answer.status();
        answer.bytes().await?;
        Ok(status)
    }

    /// The keys of the first batch there is; none if there is no batch yet.
    ///
    /// # Errors
    /// Nobody answers, or with something else.
    pub async fn first_batch(&self) -> Result<Vec<DiagnosisKey>> {
        // Since yesterday, as it may become midnight.
        let since = Timestamp::now().saturating_sub(SignedDuration::from_hours(24))?;
        let since = TimeZone::UTC.to_datetime(since).date();
        let request = self.client.get(format!("{}/download/{since}", self.url));
        let answer = request.header("Accept", Encoding::Protobuf.content_type()).send().await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            _ => Ok(efgs::decode(Encoding::Protobuf, answer.error_for_status()?.bytes().await?)?),
        }
    }

    /// The description of the contract, as it is served.
    ///
    /// # Errors
    /// Nobody answers, or with something else.
    pub async fn description(&self) -> Result<serde_json::Value> {
        let url = self.url.replace("/diagnosiskeys", "/openapi.json");
        let answer = self.client.get(url).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }
}
