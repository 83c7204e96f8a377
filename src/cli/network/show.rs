//! `network show`.

use std::path::PathBuf;

use clap::Args;
use keyferry_runtime::{
    clock::{Clock as _, SystemClock},
    exit::Fatal,
};
use keyferry_schemas::{
    network::{Agreement, Network, Registered},
    time::{MILLIS_PER_DAY, Millis},
};

use super::history;
use crate::cli::{KafkaArgs, files, out, table};

/// What to show, and where to write it.
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    pub(super) kafka: KafkaArgs,
    /// Another version than the one in force
    #[arg(long, value_name = "N")]
    version: Option<i64>,
    /// Writes the document as it was published, and its signature into FILE.cms
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Says what would be written, and writes nothing
    #[arg(long, requires = "out")]
    dry_run: bool,
}

pub(super) fn run(args: &Show) -> Result<(), Fatal> {
    let published = history::read(&args.kafka.connect()?)?;
    let newest = published.last().ok_or_else(history::none)?;
    let shown = match args.version {
        None => newest,
        Some(version) => published.iter().find(|p| p.network.version() == version).ok_or_else(|| {
            let known: Vec<_> = published.iter().map(|p| p.network.version().to_string()).collect();
            Fatal::config(format_args!(
                "--version: there is no version {version}; there are {}",
                known.join(", ")
            ))
        })?,
    };
    let Some(file) = &args.out else { return out(render(&shown.network, SystemClock.now())) };
    let cms = files::beside(file, ".cms");
    let about = format!("version {} to {} and {}", shown.network.version(), file.display(), cms.display());
    if args.dry_run {
        return out(format_args!("would write {about}"));
    }
    files::replace(file, &shown.record.document)?;
    files::replace(&cms, &shown.record.signature)?;
    out(format_args!("wrote {about}"))
}

/// A line for each certificate that has come to its end by `now`: by its own date, or by that of its registration.
pub(super) fn ended(network: &Network, now: Millis) -> Vec<String> {
    let line = |r: &Registered| {
        let (country, usage, name) = (r.country, r.usage.name(), short(r));
        let until = end(r);
        let whose = if until == r.until { "registration of the" } else { "" };
        let whose = format!("{whose} {usage} certificate");
        format!("{country}: the {} {name} expired on {}", whose.trim_start(), day(until))
    };
    network.certificates().iter().filter(|r| end(r) <= now).map(line).collect()
}

/// Both the registration and the certificate itself can end first.
fn end(r: &Registered) -> Millis {
    r.until.min(r.certificate.not_after())
}

/// Whole days until it does not count any more.
pub(super) fn days(r: &Registered, now: Millis) -> i64 {
    r.term().end().since(now) / MILLIS_PER_DAY
}

pub(super) fn short(r: &Registered) -> String {
    hex::encode(&r.certificate.sha256()[..8])
}

fn render(network: &Network, now: Millis) -> String {
    let document = network.document();
    let members: Vec<_> = document
        .members
        .iter()
        .map(|m| {
            let state = name(&network.state(m.country, now));
            let since = m.states.iter().rev().find(|s| Millis::from(s.from) <= now);
            let since = since.map_or_else(|| "-".into(), |s| day(s.from.into()));
            let [routing, keys, proof] = [name(&m.routing), name(&m.invalid_keys), name(&m.origin_proof)];
            [m.country.to_string(), state, since, routing, keys, proof]
        })
        .collect();
    let certificates: Vec<_> = network
        .certificates()
        .iter()
        .map(|r| {
            let until = end(r);
            let state = network.certificate_state(r, now);
            let left =
                if state.in_force() { format!(", {} day(s) left", days(r, now)) } else { String::new() };
            let state = format!("{}{left}", state.name());
            [r.country.to_string(), r.usage.name().into(), short(r), day(until), state]
        })
        .collect();
    let agreements: Vec<_> = document
        .agreements
        .iter()
        .map(|a| {
            let state =
                if in_force(a.from.into(), a.until.into(), now) { "in force" } else { "not in force" };
            [
                a.id.to_string(),
                between(a),
                name(&a.data_class),
                day(a.until.into()),
                state.into(),
                a.legal_basis.clone(),
            ]
        })
        .collect();
    let keys: Vec<_> = document
        .signing_keys
        .iter()
        .map(|k| {
            let state =
                if in_force(k.from.into(), k.until.into(), now) { "in force" } else { "not in force" };
            [k.id.clone(), k.public_key.clone(), day(k.from.into()), day(k.until.into()), state.into()]
        })
        .collect();
    let parts = [
        format!("network {}, version {}", network.name(), network.version()),
        table(["member", "state", "since", "routing", "invalid keys", "origin proof"], &members),
        table(["certificate of", "use", "sha256", "until", "state"], &certificates),
        table(["agreement", "between", "data class", "until", "state", "legal basis"], &agreements),
        table(["signing key", "public key", "from", "until", "state"], &keys),
    ];
    parts.join("\n\n")
}

/// As the document writes it.
fn name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(super) fn day(at: Millis) -> String {
    at.day().date().to_string()
}

fn in_force(from: Millis, until: Millis, now: Millis) -> bool {
    from <= now && now < until
}

fn between(agreement: &Agreement) -> String {
    let list = |all: &[keyferry_schemas::country::Country]| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    if agreement.parties.is_empty() {
        format!("{} -> {}", list(&agreement.origins), list(&agreement.destinations))
    } else {
        list(&agreement.parties)
    }
}
