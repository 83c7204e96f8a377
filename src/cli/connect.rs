//! The way to Kafka, from a configuration file or from flags.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use keyferry_runtime::{
    codec::Codec,
    config::{self, Faults, KafkaConfig, LogConfig, LogFormat, RegistryConfig},
    exit::Fatal,
    kafka::{Isolation, Kafka},
    registry,
    tail::{Next, Record, Start, Tail},
    telemetry,
    topics::TopicsConfig,
};
use keyferry_schemas::certificate::Certificate;

use super::{files, out};
use crate::roles::{Checked, Config, TOOLS};

/// How long a topic may stay silent before its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The configuration, and whom to trust.
#[derive(Args, Debug, Clone)]
pub struct ConfigArgs {
    /// Configuration file of any role: its `kafka`, `registry`, `topics` and `trust_anchors` are taken
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Says everything that is wrong with these sections of --config, and ends
    #[arg(long, requires = "config")]
    check_config: bool,
    /// Certificate of a trust anchor; may be given several times, and goes before those of --config
    #[arg(long = "anchor", value_name = "PEM")]
    anchors: Vec<PathBuf>,
}

/// Where Kafka is, and whom to trust.
#[derive(Args, Debug, Clone)]
pub struct KafkaArgs {
    #[command(flatten)]
    pub(crate) file: ConfigArgs,
    /// Kafka brokers; TLS and SASL need --config
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) bootstrap: Option<String>,
    /// Address of the schema registry, if there is one
    #[arg(long, value_name = "URL")]
    pub(crate) registry: Option<String>,
}

/// What a command works with.
pub(crate) struct Connection {
    pub(crate) kafka: Kafka,
    pub(crate) topics: TopicsConfig,
    pub(crate) registry: Option<RegistryConfig>,
    anchors: Vec<PathBuf>,
}

/// What the file and the flags say together; flags go before the file.
struct Sections {
    kafka: Option<KafkaConfig>,
    registry: Option<RegistryConfig>,
    anchors: Vec<PathBuf>,
    topics: TopicsConfig,
}

impl ConfigArgs {
    /// Whether the configuration was only to be checked, and is good.
    pub(crate) fn only_checked(&self) -> Result<bool, Fatal> {
        let (true, Some(path)) = (self.check_config, &self.config) else { return Ok(false) };
        load(path)?;
        out(format_args!("{} is good", path.display()))?;
        Ok(true)
    }

    /// The pinned anchors; needs no brokers.
    pub(crate) fn anchors(&self) -> Result<Vec<Certificate>, Fatal> {
        files::anchors(&self.sections()?.anchors)
    }

    fn sections(&self) -> Result<Sections, Fatal> {
        let mut all = match &self.config {
            None => {
                Sections { kafka: None, registry: None, anchors: Vec::new(), topics: TopicsConfig::default() }
            }
            Some(path) => {
                let config = load(path)?;
                let anchors = config.trust_anchors.map(|t| t.trust_anchors).unwrap_or_default();
                Sections {
                    kafka: Some(config.kafka),
                    registry: config.registry,
                    anchors,
                    topics: config.topics,
                }
            }
        };
        if !self.anchors.is_empty() {
            all.anchors.clone_from(&self.anchors);
        }
        Ok(all)
    }
}

fn load(path: &Path) -> Result<Config, Fatal> {
    let Checked::<TOOLS>(config) = config::load(path, "keyferry")?;
    Ok(config)
}

impl KafkaArgs {
    /// Reads the configuration. No I/O on the network.
    pub(crate) fn connect(&self) -> Result<Connection, Fatal> {
        let Sections { kafka, registry, anchors, topics } = self.sections()?;
        let kafka = kafka.ok_or_else(|| {
            Fatal::config("no brokers are given: name them with --bootstrap HOST:PORT, or a configuration with --config FILE")
        })?;
        Ok(Connection { kafka: Kafka::new(&kafka, "cli"), topics, registry, anchors })
    }

    /// The registry alone.
    pub(crate) fn registry(&self) -> Result<RegistryConfig, Fatal> {
        self.sections()?.registry.ok_or_else(|| {
            Fatal::config("no registry is given: name it with --registry URL, or `registry` in --config; without one, schemas need no registration")
        })
    }

    fn sections(&self) -> Result<Sections, Fatal> {
        // An operator at a terminal reads the one line that ends the command, not the client's own log.
        telemetry::init(&LogConfig {
            format: LogFormat::Text,
            filter: "warn,rdkafka=off,librdkafka=off".into(),
        })?;
        let mut all = self.file.sections()?;
        if let Some(servers) = &self.bootstrap {
            let options = all.kafka.map(|k| k.options).unwrap_or_default();
            let given = KafkaConfig { bootstrap_servers: servers.clone(), client_id: None, options };
            well_formed(&given, format_args!("--bootstrap: `{servers}` is not host:port"))?;
            all.kafka = Some(given);
        }
        if let Some(url) = &self.registry {
            let timeout_ms = all.registry.map_or(5000, |r| r.timeout_ms);
            let given = RegistryConfig { url: url.clone(), timeout_ms };
            well_formed(&given, format_args!("--registry: is not an http or https address"))?;
            all.registry = Some(given);
        }
        Ok(all)
    }
}

fn well_formed(section: &impl config::Check, what: std::fmt::Arguments<'_>) -> Result<(), Fatal> {
    let mut faults = Faults::default();
    section.check(&mut faults);
    if faults.is_empty() { Ok(()) } else { Err(Fatal::config(what)) }
}

impl Connection {
    /// Asks the registry, if there is one.
    pub(crate) fn codec(&self) -> Result<Codec, Fatal> {
        registry::codec(self.registry.as_ref())
    }

    /// The pinned anchors.
    pub(crate) fn anchors(&self) -> Result<Vec<Certificate>, Fatal> {
        files::anchors(&self.anchors)
    }

    /// Whether any were given.
    pub(crate) fn has_anchors(&self) -> bool {
        !self.anchors.is_empty()
    }

    /// Whether a record needs a schema registry to be read, and none was named: the fault is in the command then.
    pub(crate) fn lacks_registry(&self, value: Option<&Bytes>) -> bool {
        self.registry.is_none() && value.is_some_and(|value| value.first() == Some(&0))
    }

    /// The fault that goes with it.
    pub(crate) fn no_registry(topic: &str) -> Fatal {
        Fatal::config(format_args!(
            "{topic} was written with a schema registry: name it with --registry URL, or `registry` in --config"
        ))
    }
}

/// First offset and present end of a topic.
pub(crate) fn bounds(kafka: &Kafka, topic: &str) -> Result<(i64, i64), Fatal> {
    let fatal = |e| kafka.fatal(topic, &e);
    Tail::open(kafka, topic, Isolation::Committed, Start::End).map_err(fatal)?.bounds().map_err(fatal)
}

/// Hands over every committed record of a topic before `end`. That the brokers are silent for a while is no end.
pub(crate) fn read(
    kafka: &Kafka,
    topic: &str,
    end: i64,
    mut each: impl FnMut(Record) -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    let fatal = |e| kafka.fatal(topic, &e);
    let mut tail = Tail::open(kafka, topic, Isolation::Committed, Start::Earliest).map_err(fatal)?;
    let mut heard = Instant::now();
    while tail.position() < end {
        match tail.next(Duration::from_millis(200)).map_err(fatal)? {
            Next::Record(record) if record.offset < end => {
                heard = Instant::now();
                each(record)?;
            }
            Next::Record(_) | Next::End => break,
            Next::Timeout if heard.elapsed() > PATIENCE => {
                return Err(Fatal::unreachable(format_args!(
                    "{topic} can not be read past offset {}: the brokers at {} do not answer",
                    tail.position(),
                    kafka.servers()
                )));
            }
            Next::Timeout => (),
        }
    }
    Ok(())
}
