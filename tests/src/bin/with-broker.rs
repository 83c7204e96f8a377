//! `with-broker COMMAND...`: runs a command beside a fresh broker that all its tests share, and ends with its exit
//! code. Without it each test binary would start a broker of its own.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use keyferry_runtime::broker::Broker;
use keyferry_tests::broker::BOOTSTRAP;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else { bail!("usage: with-broker COMMAND [ARGUMENT...]") };
    let broker = Broker::builder().start()?;
    let status = Command::new(&program)
        .args(arguments)
        .env(BOOTSTRAP, broker.bootstrap_servers())
        .status()
        .with_context(|| format!("run {}", program.display()));
    broker.stop()?;
    // No code means that a signal ended it.
    let code = status?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
