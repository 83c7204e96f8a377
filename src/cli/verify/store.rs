//! `verify store`.

use std::path::PathBuf;

use clap::Args;
use keyferry_runtime::{config, exit::Fatal};
use keyferry_schemas::country::Country;
use keyferry_sinks::{
    log::LevelName,
    shelf::Shelf,
    store::{LocalConfig, Store as Objects, StoreConfig, StoreError},
    verify::{Report as Found, verify_store},
};

use super::{
    Proof,
    report::{Chain, Line, Report, begins},
};
use crate::roles::{Checked, TOOLS};

/// Which store.
#[derive(Args)]
pub struct Store {
    /// The country whose batches it holds
    #[arg(long, value_name = "CC")]
    country: Country,
    /// A store in a directory; without it, the one in `distribute.store` of --config
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    #[command(flatten)]
    proof: Proof,
}

pub(super) fn run(args: &Store) -> Result<(), Fatal> {
    let (source, config) = config(args)?;
    let versions = args.proof.versions(false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fatal::failure(format_args!("no threads can be made: {e}")))?;
    let found = runtime.block_on(async {
        let shelf = Shelf::open(Objects::read_only(&config)?, args.country).await?;
        verify_store(&shelf, &versions).await
    });
    let found = match found {
        Ok(found) => found,
        // The very end of the log is damaged: nothing before it could be looked at.
        Err(e @ StoreError::Corrupt { .. }) => {
            return Report { source, fault: Some(e.to_string()), ..Report::default() }
                .finish(args.proof.json);
        }
        Err(e @ StoreError::Unavailable(_)) => return Err(Fatal::unreachable(e)),
        Err(e) => return Err(Fatal::config(e)),
    };
    report(source, args.country, &found).finish(args.proof.json)
}

fn config(args: &Store) -> Result<(String, StoreConfig), Fatal> {
    if let Some(path) = &args.path {
        let shown = path.display();
        if !path.is_dir() {
            return Err(Fatal::config(format_args!("--path: {shown} is no directory")));
        }
        return Ok((
            format!("{shown} {}", args.country),
            StoreConfig::Local(LocalConfig { path: path.clone() }),
        ));
    }
    let none = || {
        Fatal::config(
            "no store is given: name its directory with --path DIR, or a configuration with `distribute.store` with --config FILE",
        )
    };
    let file = args.proof.kafka.config.as_ref().ok_or_else(none)?;
    let Checked::<TOOLS>(config) = config::load(file, "keyferry")?;
    let store = config.distribute.ok_or_else(none)?.store;
    Ok((format!("the store of {} for {}", file.display(), args.country), store))
}

fn report(source: String, country: Country, found: &Found) -> Report {
    let batches = found.batches.iter().map(|b| Line {
        place: b.tag.to_string(),
        origin: b.origin.to_string(),
        sequence: b.sequence,
        keys: b.keys,
        level: match b.level {
            LevelName::Whole => "whole",
            LevelName::Subset => "subset",
        },
        keys_present: b.keys_present,
    });
    let chains = found.chains.iter().map(|(origin, link)| {
        let start = found.starts.get(origin).copied().unwrap_or_default();
        let first_sequence = start.saturating_add(1);
        let chain = Chain {
            first_sequence,
            last_sequence: link.sequence,
            last_manifest_sha256: hex::encode(link.manifest),
            begins: begins(first_sequence, true),
        };
        (origin.to_string(), chain)
    });
    Report {
        source,
        destination: Some(country.to_string()),
        batches: batches.collect(),
        chains: chains.collect(),
        fault: found.fault.as_ref().map(ToString::to_string),
        ..Report::default()
    }
}
