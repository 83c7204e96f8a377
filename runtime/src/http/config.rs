//! The section `http:` of a role.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

use keyferry_schemas::time::Millis;

use super::tls;
use crate::config::{Check, Faults};

/// `http:` where countries reach us, and how we know that they are who they say.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpConfig {
    /// `address:port`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The server's certificate. Without it the listener speaks plain HTTP, and only a trusted proxy can say who the
    /// client is.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Addresses or networks of proxies that end TLS, verify the client's key and pass its certificate on in the
    /// headers `X-SSL-Client-SHA256` and `X-SSL-Client-DN`. From all others these headers are ignored.
    #[serde(default, deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Most connections at a time; 1000 unless told. Those above it are closed at once.
    #[serde(default = "HttpConfig::default_max_connections")]
    pub max_connections: usize,
    /// Most connections at a time from one address (one /64 of IPv6), so that no stranger takes all of them; 100 unless
    /// told. Trusted proxies are exempt.
    #[serde(default = "HttpConfig::default_max_connections_per_address")]
    pub max_connections_per_address: usize,
    /// How long the listener goes on after the signal to stop, while `/readyz` says already that nothing more should come,
    /// in seconds; 0 unless told. Behind a load balancer: longer than that takes to notice, so that no client meets a
    /// listener that is gone.
    #[serde(default)]
    pub drain_s: u16,
}

impl HttpConfig {
    /// [`HttpConfig::drain_s`].
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s.into())
    }

    fn default_max_connections() -> usize {
        1000
    }

    fn default_max_connections_per_address() -> usize {
        100
    }

    /// What will trouble clients at `now` and is no fault of the configuration: a certificate of the server that has
    /// expired, in one line. Reads its file.
    #[must_use]
    pub fn warning(&self, now: Millis) -> Option<String> {
        let outdated = self.tls.as_ref().and_then(|tls| tls::outdated(tls, now))?;
        Some(format!("http.tls: {outdated}"))
    }
}

/// `tls:` the server's certificate. Files that change are read again within a minute. One that has expired is used all
/// the same, with a warning in the log and from `--check-config`.
#[derive(Debug, Clone, Deserialize)]
pub struct TlsConfig {
    /// PEM: the certificate, then those that it leads to.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

impl Check for HttpConfig {
    fn check(&self, faults: &mut Faults) {
        if self.tls.is_none() && self.trusted_proxies.is_empty() {
            faults
                .add("", "needs `tls`, or `trusted_proxies` that end TLS: otherwise no client can be known");
        }
        if self.max_connections == 0 {
            faults.add("max_connections", "is 0");
        }
        if self.max_connections_per_address == 0 {
            faults.add("max_connections_per_address", "is 0");
        }
        if self.drain_s > 300 {
            faults.add("drain_s", "is more than 300");
        }
        if let Some(config) = &self.tls
            && let Err(e) = tls::load(config)
        {
            faults.add("tls", e);
        }
    }
}

/// Reads a list of networks; a bare address is a network of one.
///
/// # Errors
/// One is neither.
pub fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse()
            .or_else(|_| alone())
            .map_err(|_| D::Error::custom(format!("`{text}` is neither an address nor a network")))
    };
    Vec::<String>::deserialize(from)?.iter().map(network).collect()
}
