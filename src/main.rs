//! `keyferry`: all roles and commands.

use std::process::{self, ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
use keyferry::{
    cli::{client, keys, network, schemas, topics, verify},
    roles::{self, RoleArgs},
};
use keyferry_runtime::exit::{EXIT_CONFIG, Exit, Fatal};

/// Carries the keys of contact-tracing apps across borders, on Apache Kafka.
#[derive(Parser)]
#[command(name = "keyferry", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all is well, 1 failed while running, 2 usage or configuration, \
    3 a broker, registry, store or hub can not be reached, 4 data are not to be trusted, \
    5 something has to be renewed.";

/// Roles run until SIGTERM or SIGINT; commands end by themselves.
#[derive(Subcommand)]
enum Command {
    /// Role: every role that the configuration has a section for, in one process on one listener
    #[command(after_help = roles::example("run", "keyferry.yaml"))]
    Run(RoleArgs),
    /// Role: takes uploads over HTTPS
    #[command(after_help = roles::example("gateway", "gateway.yaml"))]
    Gateway(RoleArgs),
    /// Role: validates, deduplicates, signs and fans out
    #[command(after_help = roles::example("process", "process.yaml"))]
    Process(RoleArgs),
    /// Role: verifies, stores and serves what countries receive
    #[command(after_help = roles::example("distribute", "distribute.yaml"))]
    Distribute(RoleArgs),
    /// The network document: check, sign, apply, show, certificates, diff
    #[command(subcommand)]
    Network(network::Command),
    /// Topics: apply, list
    #[command(subcommand)]
    Topics(topics::Command),
    /// Schemas in the registry: register, check
    #[command(subcommand)]
    Schemas(schemas::Command),
    /// Signing keys and fingerprint secrets: generate, public
    #[command(subcommand)]
    Keys(keys::Command),
    /// Proves completeness, order, integrity and origin: of a batch, a topic, a store
    #[command(subcommand)]
    Verify(verify::Command),
    /// What a national backend does: upload, download and prove, audit, be called back
    #[command(subcommand, after_help = client::EXIT_CODES)]
    Client(client::Command),
    /// The whole exchange on this machine: broker, five countries, uploads, downloads, proof
    #[cfg(feature = "embedded-broker")]
    Demo(keyferry::demo::DemoArgs),
}

fn run(command: Command) -> Result<(), Fatal> {
    match command {
        Command::Run(args) => roles::run::<{ roles::PRESENT }>(&args),
        Command::Gateway(args) => roles::run::<{ roles::GATEWAY }>(&args),
        Command::Process(args) => roles::run::<{ roles::PROCESS }>(&args),
        Command::Distribute(args) => roles::run::<{ roles::DISTRIBUTE }>(&args),
        Command::Network(command) => network::run(command),
        Command::Topics(command) => topics::run(&command),
        Command::Schemas(command) => schemas::run(&command),
        Command::Keys(command) => keys::run(&command),
        Command::Verify(command) => verify::run(command),
        Command::Client(command) => client::run(command),
        #[cfg(feature = "embedded-broker")]
        Command::Demo(args) => keyferry::demo::run(&args),
    }
}

/// A value that is none gets one line, as every fault of a configuration does; usage and help stay as clap has them.
fn arguments() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
            error.exit();
        }
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        eprintln!("{}", line.strip_prefix("error: ").unwrap_or(line));
        process::exit(EXIT_CONFIG);
    })
}

fn main() -> ExitCode {
    match run(arguments().command) {
        Ok(()) => Exit::Ok.into(),
        Err(fatal) => {
            eprintln!("{fatal}");
            fatal.exit.into()
        }
    }
}
