//! The subscriber in Python, which shares no code with Keyferry: `examples/python`.

use std::process::Output;

use anyhow::Result;

use crate::{foreign::python, hub::Hub};

/// Runs it over all that `country` has received, with this trust anchor and these further arguments.
///
/// # Errors
/// Its Python is not there.
pub fn subscribe(hub: &Hub, country: &str, anchor: &str, more: &[&str]) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    let pem = folder.path().join("anchor.pem");
    std::fs::write(&pem, anchor)?;
    let mut command = python("examples/python/subscriber.py", more)?;
    command.args(["--bootstrap", hub.broker.bootstrap_servers(), "--country", country, "--anchor"]).arg(pem);
    Ok(command.output()?)
}
