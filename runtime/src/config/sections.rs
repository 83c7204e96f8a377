//! The sections that the configurations of several roles share.

use std::{collections::BTreeMap, fmt, fs, net::SocketAddr, path::PathBuf};

use keyferry_schemas::certificate::Certificate;
use rdkafka::ClientConfig;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

use super::{Check, Faults};
use crate::exit::Fatal;

/// Options of librdkafka on which exactly-once, order or the names of things rest. They are set here, by no one else.
const FIXED: [&str; 29] = [
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.send.max.retries",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "retries",
    "transaction.timeout.ms",
    "transactional.id",
];

/// `kafka:` where the brokers are and how to speak to them.
#[derive(Clone, Deserialize)]
pub struct KafkaConfig {
    /// `host:port`, several with commas.
    pub bootstrap_servers: String,
    /// How the brokers name this client in logs and quotas; in Kubernetes the name of the pod.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Further options of librdkafka by their own names, above all SASL and TLS. In names `_` stands for `.`, so that
    /// an environment variable can set one: `KEYFERRY_KAFKA__OPTIONS__SASL_PASSWORD`.
    #[serde(default, deserialize_with = "dotted")]
    pub options: BTreeMap<String, String>,
}

/// No option of librdkafka that a text can set has `_` in its name.
fn dotted<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let options = BTreeMap::<String, String>::deserialize(from)?;
    Ok(options.into_iter().map(|(name, value)| (name.replace('_', "."), value)).collect())
}

impl fmt::Debug for KafkaConfig {
    /// Values of options may be secrets: names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client_id", &self.client_id)
            .field("options", &self.options.keys())
            .finish()
    }
}

impl Check for KafkaConfig {
    fn check(&self, faults: &mut Faults) {
        for server in self.bootstrap_servers.split(',').map(str::trim) {
            let (host, port) = match server.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port),
                _ => (server, "9092"),
            };
            if host.is_empty()
                || host.contains(char::is_whitespace)
                || !port.parse::<u16>().is_ok_and(|p| p > 0)
            {
                faults.add("bootstrap_servers", format_args!("`{server}` is not host:port"));
            }
        }
        if self.client_id.as_deref() == Some("") {
            faults.add("client_id", "is empty");
        }
        for (name, value) in &self.options {
            let path = format!("options.{name}");
            if FIXED.contains(&name.as_str()) {
                faults.add(&path, "is fixed by Keyferry, since correctness rests on it; take it out");
            } else if ClientConfig::new().set(name, value).create_native_config().is_err() {
                faults.add(
                    &path,
                    "is not an option of librdkafka as it is built in here, or not with this value",
                );
            }
        }
    }
}

/// `registry:` a schema registry that speaks Confluent's API. Without this section records carry the fingerprint of
/// their schema instead.
#[derive(Debug, Clone, Deserialize)]
pub struct RegistryConfig {
    /// Where it is, with the path under which the API stands.
    pub url: String,
    /// How long to wait for one answer; 5000 unless told.
    #[serde(default = "RegistryConfig::default_timeout_ms")]
    pub timeout_ms: u64,
}

impl RegistryConfig {
    fn default_timeout_ms() -> u64 {
        5000
    }
}

impl Check for RegistryConfig {
    fn check(&self, faults: &mut Faults) {
        match reqwest::Url::parse(&self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => (),
            Ok(_) => faults.add("url", "is not an http or https address"),
            Err(e) => faults.add("url", format_args!("is not an address: {e}")),
        }
        if !(1..=60_000).contains(&self.timeout_ms) {
            faults.add("timeout_ms", "is not 1 to 60000");
        }
    }
}

/// `admin:` the listener of `/metrics`, `/livez` and `/readyz`. Without this section there is none.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct AdminConfig {
    /// `address:port`; port 0 takes a free one. Everybody who can reach it can read it.
    pub listen: SocketAddr,
}

impl Check for AdminConfig {
    fn check(&self, _: &mut Faults) {}
}

/// `trust_anchors:` a list of files, each one certificate in PEM: who may sign the network document. They are pinned
/// here and never read from Kafka, so that whoever can write there still owns nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct TrustConfig {
    /// The files; a relative path starts at the working directory.
    pub trust_anchors: Vec<PathBuf>,
}

impl TrustConfig {
    /// Reads the certificates. Blocks on the files.
    ///
    /// # Errors
    /// A file can not be read or is not one usable certificate.
    pub fn load(&self) -> Result<Vec<Certificate>, Fatal> {
        let read =
            |path| Self::read(path).map_err(|what| Fatal::config(format_args!("a trust anchor {what}")));
        self.trust_anchors.iter().map(read).collect()
    }

    fn read(path: &PathBuf) -> Result<Certificate, String> {
        let pem =
            fs::read_to_string(path).map_err(|e| format!("can not be read: {}: {e}", path.display()))?;
        Certificate::from_pem(&pem).map_err(|e| format!("is not usable: {}: {e}", path.display()))
    }
}

impl Check for TrustConfig {
    fn check(&self, faults: &mut Faults) {
        if self.trust_anchors.is_empty() {
            faults.add("", "is empty: without an anchor nothing can be trusted");
        }
        for (i, path) in self.trust_anchors.iter().enumerate() {
            if let Err(what) = Self::read(path) {
                faults.add(&format!("[{i}]"), what);
            }
        }
    }
}

/// `log:` what is written to standard error, and how.
#[derive(Debug, Clone, Deserialize)]
pub struct LogConfig {
    /// Text unless told.
    #[serde(default)]
    pub format: LogFormat,
    /// Levels, as `info` or `info,keyferry_runtime=debug`; `info` unless told. `KEYFERRY_LOG` goes before it.
    #[serde(default = "LogConfig::default_filter")]
    pub filter: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogConfig {
    fn default_filter() -> String {
        "info".into()
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: Self::default_filter() }
    }
}

impl Check for LogConfig {
    fn check(&self, faults: &mut Faults) {
        if let Err(e) = EnvFilter::try_new(&self.filter) {
            faults.add("filter", e);
        }
    }
}
