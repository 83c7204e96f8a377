//! `keyferry network`: the document that says who takes part.
//!
//! | file | what it holds |
//! |---|---|
//! | `check`, `sign` | off line, before it is published |
//! | `apply` | publishes it, after the topics of its members |
//! | `show`, `diff` | reads what is in force |
//! | `certificates` | where each certificate stands, and what ends without a successor |
//! | `history` | every trusted version on the topic |

mod apply;
mod certificates;
mod check;
mod diff;
pub(crate) mod history;
mod show;
mod sign;

use std::path::PathBuf;

use clap::Subcommand;
use keyferry_runtime::exit::Fatal;

use super::{ConfigArgs, KafkaArgs};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Says everything that is wrong with a document, before or after it is signed
    #[command(after_help = "Example: keyferry network check network.yaml --anchor anchor.pem")]
    Check {
        /// The document (YAML)
        file: PathBuf,
        /// Whom to trust.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Signs certificates that the anchor has not signed yet, then the document as a whole; off line
    #[command(
        after_help = "Example: keyferry network sign network.yaml --anchor-key anchor.key --anchor-cert anchor.pem\n\n\
        With the key in an HSM: sign each certificate's text by `openssl dgst -sha256 -sign`, put it as base64 into\n\
        anchor_signature, then sign the file:\n\
        openssl cms -sign -binary -md sha256 -in network.yaml -signer anchor.pem -inkey KEY -outform DER -out network.yaml.cms"
    )]
    Sign(sign::Sign),
    /// Verifies a signed document, creates the topics of its members, and publishes it as the next version
    #[command(after_help = "Example: keyferry network apply network.yaml --config keyferry.yaml --dry-run")]
    Apply(apply::Apply),
    /// Shows the version in force, or another: members, certificates, agreements, signing keys; or writes it to a file
    #[command(
        after_help = "Example: keyferry network show --bootstrap localhost:9092 --anchor anchor.pem\n\n\
        For `keyferry verify` without Kafka: keyferry network show --config keyferry.yaml --version 3 --out network-3.yaml"
    )]
    Show(show::Show),
    /// Lists certificates, what ends first at the top; exit code 5 if a country will be without one within --within days
    #[command(after_help = "Example: keyferry network certificates --config keyferry.yaml --within 30\n\n\
        Off line: keyferry network certificates network.yaml --anchor anchor.pem --json")]
    Certificates(certificates::Certificates),
    /// Shows what a document would change
    #[command(after_help = "Example: keyferry network diff network.yaml --config keyferry.yaml")]
    Diff {
        /// The document (YAML), signed or not
        file: PathBuf,
        /// Where Kafka is.
        #[command(flatten)]
        kafka: KafkaArgs,
    },
}

/// Runs a command.
///
/// # Errors
/// [`Fatal`]: a document is wrong, not trusted or not newer, or the brokers can not be reached.
pub fn run(command: Command) -> Result<(), Fatal> {
    let config = match &command {
        Command::Check { config, .. } => Some(config),
        Command::Sign(_) => None,
        Command::Apply(args) => Some(&args.kafka.file),
        Command::Show(args) => Some(&args.kafka.file),
        Command::Certificates(args) => Some(&args.kafka.file),
        Command::Diff { kafka, .. } => Some(&kafka.file),
    };
    if config.map_or(Ok(false), ConfigArgs::only_checked)? {
        return Ok(());
    }
    match command {
        Command::Check { file, config } => check::run(&file, &config),
        Command::Sign(args) => sign::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Certificates(args) => certificates::run(&args),
        Command::Diff { file, kafka } => diff::run(&file, &kafka.connect()?),
    }
}
