//! The log: events of `tracing`, on standard error. Standard output belongs to what a command answers.

use std::{env, io::stderr};

use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    config::{LogConfig, LogFormat},
    exit::Fatal,
};

/// Replaces the filter of the configuration.
const VARIABLE: &str = "KEYFERRY_LOG";

/// Starts the log of this process: filtered by `KEYFERRY_LOG`, or else by the configuration. If there is one already
/// nothing changes: several roles in one process write one log.
///
/// # Errors
/// The filter can not be read.
pub fn init(config: &LogConfig) -> Result<(), Fatal> {
    let (origin, filter) = match env::var(VARIABLE) {
        Ok(filter) if !filter.is_empty() => (VARIABLE, filter),
        _ => ("log.filter", config.filter.clone()),
    };
    let filter = EnvFilter::try_new(filter).map_err(|e| Fatal::config(format_args!("{origin}: {e}")))?;
    let log = fmt().with_env_filter(filter).with_writer(stderr);
    // It fails only if there is a log already.
    let _ = match config.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}
