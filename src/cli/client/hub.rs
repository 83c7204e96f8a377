//! The way to the hub: where it is, who we are, whom we believe to be the hub.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use keyferry_runtime::{
    clock::{SharedClock, SystemClock},
    exit::Fatal,
};
use keyferry_schemas::country::Country;
use reqwest::{Client, Url, redirect};
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::CertificateDer, pki_types::pem::PemObject};

use super::{failure::Failure, identity::Identity, retry::Policy, server::Believed};
use crate::cli::files;

/// Where the hub is, and who asks.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "The hub")]
pub(super) struct HubArgs {
    /// Address of the hub
    #[arg(long, value_name = "https://HOST:PORT", value_parser = address)]
    url: Url,
    /// Our certificate for authentication, with its chain if it has one
    #[arg(long, value_name = "PEM")]
    cert: PathBuf,
    /// Its private key; an encrypted one asks for its password
    #[arg(long, value_name = "PEM")]
    key: PathBuf,
    /// The authority of the hub's server certificate, or that certificate itself; a bundle may hold several
    #[arg(long, value_name = "PEM")]
    cacert: PathBuf,
    /// Seconds until a connection has to stand
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    connect_timeout_s: u64,
    /// Seconds that one request may take, answer included
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout_s: u64,
    /// How often a request is sent again when the hub can not be reached or asks for it
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1000))]
    retries: u32,
    /// Prints one JSON object a line, for scripts
    #[arg(long, help_heading = "Options")]
    pub(super) json: bool,
}

/// A hub that can be asked.
pub(super) struct Hub {
    pub(super) client: Client,
    pub(super) policy: Policy,
    pub(super) clock: SharedClock,
    url: Url,
    /// The country that our certificate names.
    pub(super) country: Option<Country>,
}

fn address(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|e| format!("is no address: {e}"))?;
    let plain = url.username().is_empty() && url.password().is_none();
    if url.scheme() != "https" || !plain || url.query().is_some() || url.fragment().is_some() {
        return Err("has to be https://HOST:PORT, without user, query or fragment".into());
    }
    Ok(url)
}

impl HubArgs {
    /// Reads the files. No I/O on the network.
    pub(super) fn hub(&self) -> Result<Hub, Failure> {
        let identity = Identity::read("the certificate", &self.cert, "its key", &self.key)?;
        let tls = self.tls(&identity)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // The contract has none, and one that leads elsewhere would take our keys along.
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(self.connect_timeout_s))
            .timeout(Duration::from_secs(self.timeout_s))
            .build()
            .map_err(|e| Fatal::failure(format_args!("no HTTP client can be made: {e}")))?;
        let policy = Policy { retries: self.retries, ..Policy::default() };
        let (clock, url) = (Arc::new(SystemClock), self.url.clone());
        Ok(Hub { client, policy, clock, url, country: identity.country() })
    }

    fn tls(&self, identity: &Identity) -> Result<ClientConfig, Failure> {
        let pem = files::read("the hub's certificate", &self.cacert)?;
        let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let Some(believed) = Believed::new(found, &provider) else {
            let file = self.cacert.display();
            return Err(Fatal::config(format_args!("--cacert {file}: there is no certificate in PEM")).into());
        };
        let unusable = |e: rustls::Error| Fatal::config(format_args!("--cert, --key: can not be used: {e}"));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let resolver = identity.for_tls().map_err(unusable)?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(believed));
        Ok(config.with_client_cert_resolver(resolver))
    }
}

impl Hub {
    /// The address of a resource below `/diagnosiskeys`. Segments are encoded where they need it.
    pub(super) fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        // It fails for addresses without a host, and ours has one.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("diagnosiskeys").extend(segments);
        }
        url
    }

    /// How the hub is named in files and messages.
    pub(super) fn name(&self) -> &str {
        self.url.as_str()
    }

    /// A hub without TLS, for tests of what is above it.
    #[cfg(test)]
    #[cfg(feature = "embedded-broker")]
    pub(super) fn plain(url: Url, policy: Policy, clock: SharedClock) -> Self {
        // Unless told, it looks for the authorities of this machine each time.
        let tls = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
        let tls = tls.with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        Self { client, policy, clock, url, country: "FR".parse().ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_without_secrets_is_an_address() {
        assert_eq!(
            address("https://hub:8443/efgs").map(|u| u.to_string()),
            Ok("https://hub:8443/efgs".into())
        );
        for bad in ["", "hub:8443", "http://hub", "https://me:pw@hub", "https://hub/?a=b", "https://hub/#x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
