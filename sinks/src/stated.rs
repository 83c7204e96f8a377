//! When each origin last stated how far its chains go. That no upload comes is nothing; that no checkpoint comes means that
//! a processor stands still, or that the end of a topic is cut off.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::GaugeVec;

use keyferry_runtime::{exit::Fatal, metrics};
use keyferry_schemas::{country::Country, time::Millis};

/// By origin and destination.
type Times = BTreeMap<(Country, Country), Millis>;

/// The times of the last checkpoints. Clones are the same.
#[derive(Clone)]
pub(crate) struct Stated {
    gauge: GaugeVec,
    times: Arc<Mutex<Times>>,
}

impl Stated {
    /// Registers the metric.
    pub fn new() -> Result<Self, Fatal> {
        let help = "Time of the last checkpoint of an origin, that of the destination served here which has waited longest; until one came, since when it is waited for.";
        let gauge = metrics::float_gauge("keyferry_checkpoint_timestamp_seconds", help, &["origin"])?;
        Ok(Self { gauge, times: Arc::default() })
    }

    /// Exactly these pairs of origin and destination are waited for, those that are new since `now`.
    pub fn expect(&self, pairs: impl IntoIterator<Item = (Country, Country)>, now: Millis) {
        let mut times = self.lock();
        let before = std::mem::take(&mut *times);
        *times = pairs.into_iter().map(|pair| (pair, before.get(&pair).copied().unwrap_or(now))).collect();
        for (origin, _) in before.keys().filter(|(o, _)| oldest(&times, *o).is_none()) {
            // Whether it was there is all the same.
            let _ = self.gauge.remove_label_values(&[origin.as_str()]);
        }
        times.keys().for_each(|(origin, _)| self.show(&times, *origin));
    }

    /// A checkpoint that holds was made at `at`.
    pub fn heard(&self, origin: Country, destination: Country, at: Millis) {
        let mut times = self.lock();
        // Whoever is not waited for has left, or was never a member.
        if let Some(time) = times.get_mut(&(origin, destination)) {
            *time = at;
            self.show(&times, origin);
        }
    }

    fn show(&self, times: &Times, origin: Country) {
        if let Some(time) = oldest(times, origin) {
            self.gauge.with_label_values(&[origin.as_str()]).set(time.0 as f64 / 1000.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        // Nothing under this lock leaves it half changed.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn oldest(times: &Times, origin: Country) -> Option<Millis> {
    times.iter().filter(|((o, _), _)| *o == origin).map(|(_, time)| *time).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_that_has_waited_longest_counts() {
        let stated = Stated::new().unwrap();
        let [de, fr, nl] = ["DE", "FR", "NL"].map(|c| c.parse::<Country>().unwrap());
        let shown = || stated.gauge.with_label_values(&["DE"]).get();
        stated.expect([(de, fr), (de, nl)], Millis(10_000));
        assert_eq!(shown(), 10.0, "nothing came yet");
        stated.heard(de, fr, Millis(30_000));
        assert_eq!(shown(), 10.0);
        stated.heard(de, nl, Millis(20_000));
        assert_eq!(shown(), 20.0);
        // NL is served no more, and a stranger states something.
        stated.expect([(de, fr)], Millis(90_000));
        stated.heard(nl, fr, Millis(1000));
        assert_eq!(shown(), 30.0);
        stated.expect([], Millis(90_000));
        assert!(stated.lock().is_empty());
    }
}
