//! `keyferry client`: what a national backend does, one command each. Only HTTP and PEM files: no Kafka, no network
//! document.
//!
//! | file | what it holds |
//! |---|---|
//! | `upload`, `parts`, `batch_file` | signs and sends a file; how it is divided and named; how it is read |
//! | `download`, `walk`, `folder` | the command; from batch to batch; the files and how far they go |
//! | `audit`, `proof` | what proves the origin of a batch, and whether it does |
//! | `callback` | who is told of new batches |
//! | `hub`, `server`, `identity` | the way to the hub; who it is; who we are |
//! | `request`, `retry` | one request, sent again where that helps; when |
//! | `failure` | what went wrong, for people and for scripts |

mod audit;
mod batch_file;
mod callback;
mod download;
mod failure;
mod folder;
mod hub;
mod identity;
mod parts;
mod proof;
mod request;
mod retry;
mod server;
mod upload;
mod walk;

#[cfg(test)]
#[cfg(feature = "embedded-broker")]
mod tests;

use clap::Subcommand;
use keyferry_runtime::exit::Fatal;
use serde_json::Value;

use super::out;
use failure::Failure;

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Signs the keys of a file and sends them; with the same file again it is safe, and gets the same answers
    #[command(
        after_help = "Example: keyferry client upload keys.json --url https://HUB:8443 --cacert hub.pem --cert auth.pem --key auth.key \
        --signing-cert signing.pem --signing-key signing.key\n\n\
        The file is a DiagnosisKeyBatch, in protobuf or JSON. Its keys are sent in the order of the file, so many at a time as \
        --max-keys says, each part signed by itself. Indexes in what is printed are those of the file, from 0.\n\n\
        Exit codes: keyferry client --help"
    )]
    Upload(upload::Upload),
    /// Fetches every batch since the last run, proves where its keys come from, and writes it to a file
    #[command(
        after_help = "Example: keyferry client download --out inbox --url https://HUB:8443 --cacert hub.pem --cert auth.pem --key auth.key \
        --anchor anchor.pem\n\n\
        A file has its final name only when it is whole and proven. How far this got stands in keyferry-state.json beside the files: \
        ended or killed anywhere, the next run goes on there, and no batch is lost or doubled. Erase the files when you are done \
        with them, and leave that one. Proven is that each upload in a batch is what its origin signed, with a certificate that the \
        trust anchor signed; that no batch is missing is proven over Kafka only, by `keyferry verify topic`.\n\n\
        Exit codes: keyferry client --help"
    )]
    Download(download::Download),
    /// Shows the signatures and certificates behind a batch, and holds the keys of a file against them
    #[command(
        after_help = "Example: keyferry client audit 2026-11-24 20261124-7 --batch inbox/20261124-7.pb --anchor anchor.pem \
        --url https://HUB:8443 --cacert hub.pem --cert auth.pem --key auth.key"
    )]
    Audit(audit::Audit),
    /// Who is told of new batches: list, set, delete
    #[command(subcommand)]
    Callback(callback::Command),
}

/// What a script may rely on.
pub const EXIT_CODES: &str = "Exit codes:
  0  done; also when there is nothing new, and when the hub knew or refused single keys
  1  the hub refuses, or a file can not be written; standard error says why in one line, with a stable code
  2  usage, or a file that can not be used
  3  the hub can not be reached, or asks to come later: run it again
  4  not to be trusted: the hub's own certificate; or a batch, which is not stored then

With --json, standard output is one JSON object a line, and the last one tells of an error:
  {\"event\":\"error\",\"code\":\"signature-invalid\",\"status\":400,\"detail\":\"..\",\"exit\":1}
Where the hub did not answer, the code is one of: unreachable, untrusted, usage, failed.";

/// Runs a command.
///
/// # Errors
/// [`Fatal`] with one of [`EXIT_CODES`].
pub fn run(command: Command) -> Result<(), Fatal> {
    let json = match &command {
        Command::Upload(args) => args.hub.json,
        Command::Download(args) => args.hub.json,
        Command::Audit(args) => args.hub.json,
        Command::Callback(command) => command.json(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|e| Fatal::failure(format_args!("no runtime can be made on this machine: {e}")))?;
    let done = runtime.block_on(async {
        match command {
            Command::Upload(args) => upload::run(&args).await,
            Command::Download(args) => download::run(&args).await,
            Command::Audit(args) => audit::run(&args).await,
            Command::Callback(command) => callback::run(&command).await,
        }
    });
    done.map_err(|failure| finish(failure, json))
}

fn finish(failure: Failure, json: bool) -> Fatal {
    let line = failure.json();
    let fatal = Fatal::from(failure);
    // What can not be written here is said on standard error all the same.
    if json && let Err(unwritten) = out(line) {
        return Fatal { message: format!("{fatal}; {unwritten}"), ..fatal };
    }
    fatal
}

/// What is reported: a sentence for people, or an object for scripts.
fn report(json: bool, text: impl std::fmt::Display, object: &Value) -> Result<(), Failure> {
    if json {
        out(object)?
    } else {
        out(text)?
    }
    Ok(())
}

/// What somebody at a terminal should know and no script has to read.
fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}
