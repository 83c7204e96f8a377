//! The subscriber in Python, which shares no code with Keyferry: `examples/python`.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Result, ensure};

use crate::hub::Hub;

/// Runs it over all that `country` has received, with this trust anchor and these further arguments.
///
/// # Errors
/// Its Python is not there.
pub fn subscribe(hub: &Hub, country: &str, anchor: &str, more: &[&str]) -> Result<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let python = root.join("target/venv/bin/python3");
    ensure!(python.exists(), "{} is not there: run make setup", python.display());
    let folder = tempfile::tempdir()?;
    let pem = folder.path().join("anchor.pem");
    std::fs::write(&pem, anchor)?;
    Ok(Command::new(python)
        .arg(root.join("examples/python/subscriber.py"))
        .args(["--bootstrap", hub.broker.bootstrap_servers(), "--country", country, "--anchor"])
        .arg(pem)
        .args(more)
        // All it asks is on this machine.
        .env("no_proxy", "127.0.0.1")
        .output()?)
}
