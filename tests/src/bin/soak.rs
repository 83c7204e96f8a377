//! `soak MINUTES [SEED]`: breaks things for as long as it is told, and ends with 1 at the first difference. `make soak`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keyferry_schemas::world::Rng;
use keyferry_tests::soak::{Places, Report, fault, folder, round, stage::Stage};

/// Each round has a hub of its own, for what is compared grows with it.
const ROUND: Duration = Duration::from_secs(240);
const SHORTEST: Duration = Duration::from_secs(30);

#[expect(clippy::print_stdout, reason = "its report is what it is for")]
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(difference) => {
            println!("{difference:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "its report is what it is for")]
fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.is_empty());
    let minutes: u64 = arguments.next().unwrap_or("10".into()).parse().context("soak MINUTES [SEED]")?;
    let seed = match arguments.next() {
        Some(seed) => seed.parse().context("SEED is a number")?,
        None => Rng::from_entropy()?.number(),
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let program = std::env::current_exe()?.with_file_name("lone-role");
    let under = PathBuf::from("target/soak");
    println!("SEED={seed}; logs are in {}", under.display());
    let mut seeds = Rng::new(seed);
    let mut total = Total::default();
    let begun = Instant::now();
    while Instant::now() < end {
        total.rounds += 1;
        let places = Places {
            program: program.clone(),
            folder: folder(&under, seed, total.rounds),
            three_brokers: true,
        };
        // From the first fault on, and never so short that nothing is broken.
        let mut until = None;
        let mut faults = |rng: &mut Rng, stage: &Stage| {
            let now = Instant::now();
            let until = *until.get_or_insert_with(|| end.clamp(now + SHORTEST, now + ROUND));
            (now < until).then(|| together(rng, stage.scene.trio.is_some()))
        };
        println!("round {}", total.rounds);
        let report = round(seeds.number(), &places, &mut faults, &mut |line| println!("{line}"))
            .with_context(|| format!("round {} of SEED={seed}", total.rounds))?;
        // What went well leaves nothing behind.
        std::fs::remove_dir_all(&places.folder)?;
        total.add(report);
    }
    total.print(begun.elapsed());
    Ok(())
}

/// One fault, or two or three at once.
fn together(rng: &mut Rng, brokers: bool) -> Vec<Box<dyn fault::Fault>> {
    let first = fault::any(rng, brokers);
    let mut all = vec![first];
    if !all[0].is_gentle() && rng.below(3) == 0 {
        for _ in 0..1 + rng.below(2) {
            all.push(fault::any(rng, brokers));
        }
        all.retain(|f| !f.is_gentle());
    }
    all
}

#[derive(Default)]
struct Total {
    rounds: usize,
    faults: usize,
    uploads: usize,
    answers: usize,
    keys: usize,
    delivered: usize,
    recoveries: Vec<Duration>,
    counts: BTreeMap<String, usize>,
    outcomes: BTreeMap<String, usize>,
}

impl Total {
    fn add(&mut self, report: Report) {
        self.faults += report.history.len();
        self.uploads += report.compared.uploads;
        self.answers += report.compared.answers;
        self.keys += report.compared.keys;
        self.delivered += report.compared.delivered;
        self.recoveries.extend(report.recoveries);
        for (what, n) in report.counts {
            *self.counts.entry(what.to_owned()).or_default() += n;
        }
        for (what, n) in report.compared.outcomes {
            *self.outcomes.entry(what).or_default() += n;
        }
    }

    #[expect(clippy::print_stdout, reason = "its report is what it is for")]
    fn print(mut self, took: Duration) {
        self.recoveries.sort();
        let at = |n: usize| self.recoveries.get(n).map_or(0.0, Duration::as_secs_f64);
        let last = self.recoveries.len().saturating_sub(1);
        println!("no difference in {} rounds, {} min", self.rounds, took.as_secs() / 60);
        println!("faults: {}; {:?}", self.faults, self.counts);
        println!("uploads: {} answered, {} decided; {:?}", self.answers, self.uploads, self.outcomes);
        println!("keys: {} taken, {} delivered", self.keys, self.delivered);
        println!("time to recover: p50 {:.1} s, max {:.1} s", at(last / 2), at(last));
    }
}
