//! `verify store`.

use std::path::PathBuf;

use clap::Args;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    config,
    exit::Fatal,
};
use keyferry_schemas::{country::Country, network::MemberState, time::Millis};
use keyferry_sinks::{
    config::may_be_gone,
    log::LevelName,
    shelf::Shelf,
    store::{LocalConfig, Store as Objects, StoreConfig, StoreError},
    verify::{Report as Found, verify_store},
};

use super::{
    Proof,
    report::{Chain, Line, Report, begins, origin_signature, unproven},
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
    pub(super) proof: Proof,
}

pub(super) fn run(args: &Store) -> Result<(), Fatal> {
    let (source, config, erased_until) = config(args)?;
    let versions = args.proof.versions(false)?;
    // Of a country that has left, everything is erased at once.
    let now = SystemClock.now();
    let left = versions.values().next_back().is_some_and(|n| n.state(args.country, now) == MemberState::Left);
    let erased_until = if left { now } else { erased_until };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fatal::failure(format_args!("no threads can be made: {e}")))?;
    let found = runtime.block_on(async {
        let shelf = Shelf::unread(Objects::read_only(&config)?, args.country);
        verify_store(&shelf, &versions, erased_until).await
    });
    let found = match found {
        Ok(found) => found,
        Err(e @ StoreError::Unavailable(_)) => return Err(Fatal::unreachable(e)),
        Err(e) => return Err(Fatal::config(e)),
    };
    report(source, args.country, &found).finish(args.proof.json)
}

/// What it is called, where it is, and up to which uploads its keys may be erased.
fn config(args: &Store) -> Result<(String, StoreConfig, Millis), Fatal> {
    let now = SystemClock.now();
    let distribute = match &args.proof.kafka.file.config {
        None => None,
        Some(file) => {
            let Checked::<TOOLS>(config) = config::load(file, "keyferry")?;
            config.distribute.map(|distribute| (file, distribute))
        }
    };
    let erased_until = distribute.as_ref().map_or(may_be_gone(now), |(_, d)| d.periods().erased_until(now));
    if let Some(path) = &args.path {
        let shown = path.display();
        if !path.is_dir() {
            return Err(Fatal::config(format_args!("--path: {shown} is no directory")));
        }
        let local = StoreConfig::Local(LocalConfig { path: path.clone() });
        return Ok((format!("{shown} {}", args.country), local, erased_until));
    }
    let (file, distribute) = distribute.ok_or_else(|| {
        Fatal::config(
            "no store is given: name its directory with --path DIR, or a configuration with `distribute.store` with --config FILE",
        )
    })?;
    Ok((format!("the store of {} for {}", file.display(), args.country), distribute.store, erased_until))
}

fn report(source: String, country: Country, found: &Found) -> Report {
    let batches = found.batches.iter().map(|b| {
        let level = match b.level {
            LevelName::Whole => "whole",
            LevelName::Subset => "subset",
        };
        Line {
            place: b.tag.to_string(),
            origin: b.origin.to_string(),
            sequence: b.sequence,
            keys: b.keys,
            level,
            keys_present: b.keys_present,
            origin_signature: origin_signature(level, b.keys_present),
            identity: None,
        }
    });
    let chains = found.chains.iter().map(|(origin, link)| {
        let start = found.starts.get(origin).copied().unwrap_or_default();
        let first_sequence = start.saturating_add(1);
        let chain = Chain {
            first_sequence,
            last_sequence: link.sequence,
            last_manifest_sha256: hex::encode(link.manifest),
            // Checkpoints are not kept in a store.
            begins: begins(first_sequence, false, false),
            stated_at: None,
            stated_age_s: None,
        };
        (origin.to_string(), chain)
    });
    let chains = chains.collect();
    let fault = found.fault.as_ref().map(ToString::to_string).or_else(|| unproven(&chains));
    Report {
        source,
        destination: Some(country.to_string()),
        batches: batches.collect(),
        chains,
        fault,
        ..Report::default()
    }
}
