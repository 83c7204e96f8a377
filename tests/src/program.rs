//! The program itself, as an operator runs it.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use keyferry_runtime::dependent::without_settings;

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it said of faults.
    pub err: String,
}

/// Where `keyferry` is: beside the tests, for it belongs to another package than they do.
///
/// # Errors
/// It is not there.
pub fn path() -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let path = tests.ancestors().nth(2).context("tests have a folder")?.join("keyferry");
    ensure!(path.exists(), "{} is missing: `cargo build --bin keyferry` makes it", path.display());
    Ok(path)
}

/// Runs it to its end.
///
/// # Errors
/// It can not be started, or does not end within `patience`.
pub fn run(arguments: &[&str], patience: Duration) -> Result<Run> {
    run_in(&[], arguments, patience)
}

/// The same, with these environment variables.
///
/// # Errors
/// It can not be started, or does not end within `patience`.
pub fn run_in(variables: &[(&str, &str)], arguments: &[&str], patience: Duration) -> Result<Run> {
    let mut command = Command::new(path()?);
    without_settings(&mut command).envs(variables.iter().copied());
    // What it says must be for people even where backtraces are wanted.
    command.env("RUST_BACKTRACE", "1").args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("it has an output")?;
    let mut err = child.stderr.take().context("it has an output")?;
    let out = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let err = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text)
    });
    let give_up = Instant::now() + patience;
    let mut late = false;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if !late && Instant::now() > give_up => {
                late = true;
                child.kill()?;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let text = |thread: std::thread::JoinHandle<std::io::Result<String>>| {
        thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?.context("it prints text")
    };
    let run = Run { code: status.code(), out: text(out)?, err: text(err)? };
    ensure!(!late, "`keyferry {}` does not end: {run:?}", arguments.join(" "));
    Ok(run)
}
