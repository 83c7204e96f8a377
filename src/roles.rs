//! The roles: one configuration file for any set of them, and one way to start and to end.
//!
//! | file | what it holds |
//! |---|---|
//! | here | the configuration, and which of its sections a command takes |
//! | `start` | start and end of the roles in one process |

mod start;

use std::path::PathBuf;

use clap::Args;
use keyferry_processors::role::ProcessConfig;
use keyferry_producers::GatewayConfig;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    config::{self, AdminConfig, Check, Faults, KafkaConfig, LogConfig, RegistryConfig, TrustConfig},
    exit::Fatal,
    http::HttpConfig,
    telemetry,
    topics::TopicsConfig,
};
use keyferry_sinks::DistributeConfig;
use serde::{Deserialize, Deserializer};

/// A configuration file: what all roles share, and a section for each role that it can start.
#[derive(Debug, Deserialize)]
pub struct Config {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The schema registry, if there is one.
    #[serde(default)]
    pub registry: Option<RegistryConfig>,
    /// Who may sign the network document. Every role needs them.
    #[serde(default)]
    pub trust_anchors: Option<TrustConfig>,
    /// The log.
    #[serde(default)]
    pub log: LogConfig,
    /// The listener of metrics and probes.
    #[serde(default)]
    pub admin: Option<AdminConfig>,
    /// The listener that countries reach; `gateway` and `distribute` share it.
    #[serde(default)]
    pub http: Option<HttpConfig>,
    /// How safely topics are kept; for `keyferry network apply` and `keyferry topics apply`.
    #[serde(default)]
    pub topics: TopicsConfig,
    /// The role `gateway`.
    #[serde(default, deserialize_with = "section")]
    pub gateway: Option<GatewayConfig>,
    /// The role `process`.
    #[serde(default, deserialize_with = "section")]
    pub process: Option<ProcessConfig>,
    /// The role `distribute`.
    #[serde(default, deserialize_with = "section")]
    pub distribute: Option<DistributeConfig>,
}

/// A section that is there counts, even if every field in it is commented out.
fn section<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

// What a command takes. An enum would say it better, and can not be the parameter of a type; the numbers mean nothing.

/// Takes no role: for commands that need the way to Kafka only.
pub const TOOLS: u8 = 0;
/// Takes `gateway`.
pub const GATEWAY: u8 = 1;
/// Takes `process`.
pub const PROCESS: u8 = 2;
/// Takes `distribute`.
pub const DISTRIBUTE: u8 = 3;
/// Takes the roles that have a section.
pub const PRESENT: u8 = 4;

/// A configuration of which the sections of `ROLES` are checked and no others: whoever runs the gateway has no
/// processor's secrets at hand.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Checked<const ROLES: u8>(pub Config);

impl<const ROLES: u8> Checked<ROLES> {
    fn takes(&self, role: u8, present: bool) -> bool {
        ROLES == role || (ROLES == PRESENT && present)
    }

    /// The configuration without the sections that are not taken.
    fn narrowed(mut self) -> Config {
        let [gateway, process, distribute] = self.taken();
        self.0.gateway = self.0.gateway.filter(|_| gateway);
        self.0.process = self.0.process.filter(|_| process);
        self.0.distribute = self.0.distribute.filter(|_| distribute);
        self.0
    }

    fn taken(&self) -> [bool; 3] {
        let Config { gateway, process, distribute, .. } = &self.0;
        [
            self.takes(GATEWAY, gateway.is_some()),
            self.takes(PROCESS, process.is_some()),
            self.takes(DISTRIBUTE, distribute.is_some()),
        ]
    }
}

impl<const ROLES: u8> Check for Checked<ROLES> {
    fn check(&self, faults: &mut Faults) {
        let Config {
            kafka, registry, trust_anchors, log, http, topics, gateway, process, distribute, ..
        } = &self.0;
        faults.section("kafka", kafka);
        faults.section("registry", registry);
        faults.section("log", log);
        faults.section("topics", topics);
        let [takes_gateway, takes_process, takes_distribute] = self.taken();
        taken(faults, "gateway", takes_gateway, gateway.as_ref());
        taken(faults, "process", takes_process, process.as_ref());
        taken(faults, "distribute", takes_distribute, distribute.as_ref());
        if ROLES == PRESENT && !(takes_gateway || takes_process || takes_distribute) {
            faults.add(
                "",
                "has no section of a role: `keyferry run` needs `gateway`, `process` or `distribute`",
            );
        }
        if ROLES == TOOLS {
            faults.section("trust_anchors", trust_anchors);
        } else {
            let why = "is missing: name the certificates that may sign the network document";
            needed(faults, "trust_anchors", trust_anchors.as_ref(), why);
        }
        if takes_gateway || takes_distribute {
            needed(faults, "http", http.as_ref(), "is missing: `gateway` and `distribute` listen there");
        }
    }
}

fn taken<T: Check>(faults: &mut Faults, name: &str, taken: bool, section: Option<&T>) {
    if taken {
        needed(faults, name, section, "is missing: this role needs its section, as `docs/samples` show");
    }
}

fn needed<T: Check>(faults: &mut Faults, name: &str, section: Option<&T>, missing: &str) {
    match section {
        Some(section) => faults.section(name, section),
        None => faults.add(name, missing),
    }
}

/// What every role takes.
#[derive(Args, Debug)]
pub struct RoleArgs {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Says everything that is wrong with the configuration, and ends
    #[arg(long)]
    check_config: bool,
}

/// Runs roles until SIGTERM or SIGINT, or until one of them fails.
///
/// # Errors
/// [`Fatal`] where only an operator can help.
pub fn run<const ROLES: u8>(args: &RoleArgs) -> Result<(), Fatal> {
    let checked: Checked<ROLES> = config::load(&args.config, name(ROLES))?;
    let config = checked.narrowed();
    if args.check_config {
        // No fault: nothing in the file has to change.
        if let Some(warning) = config.http.as_ref().and_then(|http| http.warning(SystemClock.now())) {
            eprintln!("warning: {warning}");
        }
        return crate::cli::out(format_args!("{} is good", args.config.display()));
    }
    telemetry::init(&config.log)?;
    start::block_on(config)
}

/// The end of the help of a role.
#[must_use]
pub fn example(command: &str, file: &str) -> String {
    format!(
        "Example: keyferry {command} --config {file} --check-config\n\nEnvironment variables go before the file: \
         KEYFERRY_KAFKA__BOOTSTRAP_SERVERS replaces kafka.bootstrap_servers."
    )
}

fn name(roles: u8) -> &'static str {
    match roles {
        GATEWAY => "gateway",
        PROCESS => "process",
        DISTRIBUTE => "distribute",
        _ => "keyferry",
    }
}

#[cfg(test)]
mod tests;
