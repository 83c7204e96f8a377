//! The fault harness: the real roles as processes on real Kafka, under a seeded load, while things break; at the end
//! everything is compared with a model, key by key and byte by byte.
//!
//! | file | what it holds |
//! |---|---|
//! | here | a round: stage, load, faults, comparison |
//! | [`scene`] | four countries with different policies, and a network document that changes |
//! | [`stage`], [`slot`] | gateways, processors and distribution services in processes |
//! | [`points`] | the named places at which they can be stopped |
//! | [`stream`] | what the countries upload |
//! | [`client`], [`fetch`] | a backend that sends again until it is answered, and one that downloads |
//! | [`load`] | all of these at once |
//! | [`fault`] | what is broken |
//! | [`model`], `keys` | the rules, said once more |
//! | [`mod@compare`], `answers` | topics, downloads and answers held against it |
//!
//! Failures: processes that end, hang and wake at named points and at random; more and fewer of them, none of them; the
//! network document changes; of three brokers any fail.
//! Nondeterminism: the moments at which signals arrive. The seed fixes uploads and faults, and their order.

mod answers;
pub mod client;
pub mod compare;
pub mod fault;
pub mod fetch;
mod keys;
pub mod load;
pub mod model;
pub mod points;
pub mod scene;
pub mod slot;
pub mod stage;
pub mod stream;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use keyferry_schemas::world::Rng;

use self::{
    compare::{Compared, compare},
    fault::Fault,
    load::Load,
    scene::{COUNTRIES, Scene},
    stage::{Role, Stage},
};
use crate::trio::Trio;

/// Where the processes are that a round starts, and where it leaves their logs.
pub struct Places {
    /// The program `lone-role`.
    pub program: PathBuf,
    /// A folder; it stays.
    pub folder: PathBuf,
    /// Whether the hub stands on three brokers, where this machine allows that.
    pub three_brokers: bool,
}

/// What a round was like.
#[derive(Debug, Default)]
pub struct Report {
    /// What was broken, in order.
    pub history: Vec<String>,
    /// From a heal until an upload of every origin was answered and downloaded by every other.
    pub recoveries: Vec<Duration>,
    /// What was done, counted.
    pub counts: BTreeMap<&'static str, usize>,
    /// What was the same.
    pub compared: Compared,
}

/// Faults one after the other.
pub type Faults<'a> = dyn FnMut(&mut Rng, &Stage) -> Option<Vec<Box<dyn Fault>>> + 'a;

/// One round on a hub of its own: breaks what `faults` says until that has no more, and compares. `say` hears of each step.
///
/// # Errors
/// The first difference; `history` tells what was broken before.
pub fn round(
    seed: u64,
    places: &Places,
    faults: &mut Faults<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Report> {
    let mut report = Report::default();
    let ended = play(seed, places, faults, say, &mut report);
    let logs = || places.folder.display();
    ended.with_context(|| format!("seed {seed}, after {:#?}\nlogs are in {}", report.history, logs()))?;
    Ok(report)
}

fn play(
    seed: u64,
    places: &Places,
    faults: &mut Faults<'_>,
    say: &mut dyn FnMut(&str),
    report: &mut Report,
) -> Result<()> {
    let mut rng = Rng::new(seed);
    let trio = if places.three_brokers { Trio::start()? } else { None };
    let scene = Arc::new(Scene::start(trio)?);
    let mut stage = Stage::start(Arc::clone(&scene), &places.folder, &places.program)?;
    let mut load = Load::start(&stage, seed)?;
    load.recovered().context("before anything was broken")?;
    let begun = Instant::now();
    while let Some(mut together) = faults(&mut rng, &stage) {
        let names: Vec<_> = together.iter().map(|f| f.name()).collect();
        let names = names.join(" + ");
        report.history.push(names.clone());
        let took = one(&mut stage, &load, &mut together, &mut rng)
            .map_err(|e| topics_too(&scene, e))
            .with_context(|| names.clone())?;
        report.recoveries.push(took);
        say(&format!(
            "{:4} s  {names}: recovered after {:.1} s, {} uploads answered",
            begun.elapsed().as_secs(),
            took.as_secs_f64(),
            load.answered()
        ));
    }
    load.stop()?;
    // Somebody has to serve what is compared.
    for role in Role::ALL {
        stage.running(role).into_iter().try_for_each(|slot| stage.await_ready(slot))?;
    }
    report.compared = compare(&scene, &load)?;
    report.counts = std::mem::take(&mut stage.counts);
    let trouble = load.trouble();
    for (what, n) in [
        ("answers to come again", &trouble.put_off),
        ("decisions too late for an answer", &trouble.late),
        ("requests without answer", &trouble.lost),
        ("gateways not there", &trouble.closed),
    ] {
        report.counts.insert(what, n.load(SeqCst));
    }
    Ok(())
}

/// Where all is not well again, a broken chain is often why: that says more.
fn topics_too(scene: &Scene, error: anyhow::Error) -> anyhow::Error {
    COUNTRIES.into_iter().fold(error, |error, country| match scene.hub.batches(country) {
        Ok(_) => error,
        Err(broken) => error.context(format!("keys of {country}: {broken:#}")),
    })
}

/// Breaks these together, heals them, and waits until all is well.
fn one(stage: &mut Stage, load: &Load, together: &mut [Box<dyn Fault>], rng: &mut Rng) -> Result<Duration> {
    let trouble = load.trouble();
    let failed = || trouble.put_off.load(SeqCst) + trouble.lost.load(SeqCst);
    let gentle = together.iter().all(|f| f.is_gentle());
    let patience = trouble.patience_ms.load(SeqCst);
    if gentle {
        trouble.patience_ms.store(60_000, SeqCst);
        // Until those that were sent with less patience have ended.
        std::thread::sleep(Duration::from_millis(patience));
    }
    let before = failed();
    for fault in together.iter_mut() {
        fault.inject(stage, rng)?;
    }
    let lasts = together.iter().map(|f| f.lasts_ms(rng)).max().unwrap_or(0);
    std::thread::sleep(Duration::from_millis(lasts));
    for fault in together.iter_mut() {
        fault.heal(stage, rng)?;
    }
    let took = load.recovered()?;
    stage.all_alive()?;
    ensure!(!gentle || failed() == before, "{} uploads failed, and none should", failed() - before);
    trouble.patience_ms.store(patience, SeqCst);
    Ok(took)
}

/// A folder for the logs of a round, beside those of other runs.
#[must_use]
pub fn folder(under: &Path, seed: u64, round: usize) -> PathBuf {
    under.join(format!("{seed}-{round}"))
}
