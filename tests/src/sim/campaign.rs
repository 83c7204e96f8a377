//! Many histories, one seed after another, on all cores, until the first that does not hold.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{History, Stage};

/// Lines of a trace that are shown, of its beginning and of its end.
const LINES: usize = 600;

/// How long histories are played.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// This long; always the one that was begun.
    Time(Duration),
    /// This many.
    Histories(u64),
}

/// What came of it.
pub struct Report {
    /// The first seed.
    pub first: u64,
    /// Histories that were played.
    pub histories: u64,
    /// Calls into the log.
    pub calls: u64,
    /// Time that they took here.
    pub took: Duration,
    /// Time in the histories.
    pub simulated: Duration,
    /// How often what befell the instances.
    pub counts: BTreeMap<&'static str, u64>,
    /// A history that does not hold.
    pub violation: Option<History>,
}

/// Plays the histories of the seeds from `first` on.
#[must_use]
pub fn campaign(stage: &Stage, first: u64, until: Until) -> Report {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let report = Mutex::new(Report {
        first,
        histories: 0,
        calls: 0,
        took: Duration::ZERO,
        simulated: Duration::ZERO,
        counts: BTreeMap::new(),
        violation: None,
    });
    let lane = || {
        let stage = stage.lane();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let done = match until {
                Until::Time(time) => begun.elapsed() > time,
                Until::Histories(most) => number >= most,
            };
            if done || stop.load(Ordering::Relaxed) {
                return;
            }
            let history = stage.play(first.wrapping_add(number), false);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.histories += 1;
            report.calls += history.calls;
            report.simulated += history.lasted;
            for (what, count) in &history.counts {
                *report.counts.entry(what).or_default() += count;
            }
            if !history.violations.is_empty() {
                stop.store(true, Ordering::Relaxed);
                // The lowest of the seeds that were under way: the same on every machine.
                if report.violation.as_ref().is_none_or(|v| history.seed < v.seed) {
                    report.violation = Some(history);
                }
            }
        }
    };
    let lanes = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..lanes).for_each(|_| drop(scope.spawn(lane))));
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.took = begun.elapsed();
    report
}

impl Report {
    /// Histories a minute.
    #[must_use]
    pub fn pace(&self) -> u64 {
        u64::try_from(u128::from(self.histories) * 60_000 / self.took.as_millis().max(1)).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per = |n: u64| n / self.histories.max(1);
        write!(
            f,
            "{} histories from seed {} on in {:.1} s, {} a minute, each of {} calls and {} s:",
            self.histories,
            self.first,
            self.took.as_secs_f64(),
            self.pace(),
            per(self.calls),
            per(self.simulated.as_secs()),
        )?;
        self.counts.iter().try_for_each(|(what, count)| write!(f, " {what} {count},"))
    }
}

/// A history that does not hold, with what happened, for people.
#[must_use]
pub fn tell(stage: &Stage, seed: u64) -> String {
    let history = stage.play(seed, true);
    // What does not end repeats itself.
    let (first, rest) = history.trace.split_at(history.trace.len().min(LINES));
    let last = &rest[rest.len().saturating_sub(LINES)..];
    let mut text = first.join("\n");
    if rest.len() > last.len() {
        let _ = write!(text, "\n... {} lines", rest.len() - last.len());
    }
    last.iter().for_each(|line| text.extend(["\n", line]));
    let _ = write!(text, "\n\nseed {seed}; KEYFERRY_SEED={seed} plays it again");
    history.violations.iter().for_each(|violation| text.extend(["\n  ", violation]));
    text
}
