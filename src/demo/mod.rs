//! `keyferry demo`: the whole exchange on this machine, as its users would run it. A broker, five countries with
//! certificates made on the spot, a signed network document, all roles in a process of their own, uploads signed by the
//! `openssl` command and sent over mutual TLS, downloads over HTTPS. It ends well only if every number is what it must be.
//!
//! | file | what it holds |
//! |---|---|
//! | `stage` | the folder, the broker, the roles: everything that has to be there |
//! | `plan` | what is uploaded, and what must become of it |
//! | `backend` | a national backend: signs, uploads, follows the downloads |
//! | `check` | what became of it, from the ledgers and the downloads, and the summary |

mod backend;
mod check;
mod plan;
mod stage;

use std::{
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    config::LogConfig,
    exit::Fatal,
    shutdown::Shutdown,
    telemetry,
};
use keyferry_schemas::{network::Document, world::World};
use tokio::task::JoinSet;

use self::{backend::Backend, plan::Plan, stage::Stage};
use crate::cli::out;

/// The countries of the demo.
pub(crate) const COUNTRIES: [&str; 5] = ["DE", "FR", "IT", "NL", "PL"];

/// What is said if a signal came too early for a verdict.
const INTERRUPTED: &str = "interrupted before anything was checked";

/// What the demo may be told.
#[derive(Args, Debug)]
#[command(after_help = "Example: keyferry demo --keys 50000 --keep")]
pub struct DemoArgs {
    /// Keys in all, shared out among the five countries
    #[arg(long, default_value_t = 200_000)]
    keys: usize,
    /// Leaves everything running until Ctrl-C, and prints the addresses
    #[arg(long)]
    keep: bool,
    /// Folder of Kafka's jars, as `make setup` fetches them
    #[arg(long, value_name = "DIR", env = "KEYFERRY_KAFKA_JARS")]
    jars: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// Something that it needs is missing, or a number is not what it must be.
pub fn run(args: &DemoArgs) -> Result<(), Fatal> {
    telemetry::init(&LogConfig { filter: "warn,librdkafka=error".into(), ..LogConfig::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Fatal::failure)?;
    runtime.block_on(play(args)).map_err(|e| Fatal::failure(format!("{e:#}")))
}

async fn play(args: &DemoArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let begun = Instant::now();
    say("making five countries with certificates, and a network document")?;
    let mut world = World::new(&COUNTRIES, SystemClock.now().timestamp())?;
    policies(&mut world.document);
    say("starting Apache Kafka, signing and applying the network document, starting all roles")?;
    let (jars, told) = (args.jars.clone(), shutdown.clone());
    let set = move || Stage::set(&world, jars, &told).map(|stage| (stage, world));
    // Waited for in any case: what it has begun it also takes away.
    let (mut stage, world) = tokio::task::spawn_blocking(set).await??;
    let plan = Plan::new(&world, args.keys)?;
    let backends = COUNTRIES.iter().map(|c| Backend::new(c, &stage, &world)).collect::<Result<Vec<_>>>()?;
    let played = async {
        stage.wait_until_ready(&backends[0]).await?;
        say(&format!(
            "ready after {:.1} s; {} uploads with {} keys, signed by `openssl cms`, over mutual TLS",
            begun.elapsed().as_secs_f64(),
            plan.uploads(),
            plan.keys()
        ))?;
        exchange(&plan, &backends).await
    };
    let answers = tokio::select! {
        biased;
        () = shutdown.wait() => bail!(INTERRUPTED),
        played = played => played?,
    };
    let passed = check::summary(&plan, &answers, &backends, &stage)?;
    if args.keep {
        out(stage.invitation())?;
        shutdown.wait().await;
    }
    ensure!(passed, "the exchange did not do what it must; see the lines marked WRONG");
    Ok(())
}

/// Policies that show what the exchange can do: Italy refuses invalid keys alone; the Netherlands want only keys that
/// name them, and accept the hub's word for parts of uploads.
fn policies(document: &mut Document) {
    use keyferry_schemas::network::{InvalidKeys, OriginProof, Routing};
    for member in &mut document.members {
        match member.country.as_str() {
            "IT" => member.invalid_keys = InvalidKeys::RejectKey,
            "NL" => (member.routing, member.origin_proof) = (Routing::Visited, OriginProof::Hub),
            _ => (),
        }
    }
}

/// All backends upload at once and follow their downloads; then each sends single uploads, whose way is timed.
async fn exchange(plan: &Plan, backends: &[Backend]) -> Result<check::Answers> {
    // They end with the set, also if this is given up.
    let mut beside = JoinSet::new();
    for backend in backends {
        beside.spawn(backend.clone().follow());
    }
    beside.spawn(progress(backends.to_vec(), plan.expected_downloads()));
    let begun = Instant::now();
    let mut answers = check::Answers::default();
    let bulk =
        futures::future::try_join_all(backends.iter().map(|b| b.upload_all(plan.of(b.country()).bulk())));
    answers.add(bulk.await?.into_iter().flatten());
    answers.bulk_took = begun.elapsed();
    wait_for_downloads(plan, backends, Duration::from_secs(120)).await;
    let singles =
        futures::future::try_join_all(backends.iter().map(|b| b.upload_all(plan.of(b.country()).singles())));
    answers.add(singles.await?.into_iter().flatten());
    wait_for_downloads(plan, backends, Duration::from_secs(30)).await;
    // Whatever should not come, would come about now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    beside.shutdown().await;
    Ok(answers)
}

/// Waits until every backend has what the uploads so far must bring, or says in the summary what is missing.
async fn wait_for_downloads(plan: &Plan, backends: &[Backend], limit: Duration) {
    let give_up = Instant::now() + limit;
    let sent = |backend: &Backend| backend.sent.load(Ordering::Relaxed);
    loop {
        let uploaded: Vec<_> = backends.iter().map(|b| (b.country().to_owned(), sent(b))).collect();
        let complete = backends.iter().all(|b| b.received() >= plan.downloads(b.country(), &uploaded));
        if complete || Instant::now() > give_up {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn progress(backends: Vec<Backend>, expected: usize) {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let sent: usize = backends.iter().map(|b| b.sent.load(Ordering::Relaxed)).sum();
        let received: usize = backends.iter().map(Backend::received).sum();
        let line = format!(
            "{:4.0} s  {sent:4} uploads answered, {received:8} of {expected} keys downloaded",
            begun.elapsed().as_secs_f64()
        );
        // Whoever does not read it may still want the verdict, which says if output fails.
        let _ = say(&line);
    }
}

fn say(line: &str) -> Result<()> {
    out(line).context("standard output")
}

#[cfg(test)]
mod tests;
