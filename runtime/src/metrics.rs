//! Metrics of Prometheus, all in the one registry of the process.
//!
//! Each role defines its own with the functions here. Asking for a metric again gives the same one, so that several
//! roles and tests share a process. A label combination exists from its first `with_label_values` on: call it at start
//! for each that can occur, so that a rate over it sees the first event.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, core::Collector};

use crate::exit::Fatal;

/// Upper bounds for durations from 1 ms to 60 s, in seconds.
pub const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What every name here begins with.
const NAMESPACE: &str = "keyferry_";

struct Known {
    labels: Vec<String>,
    metric: Box<dyn Any + Send>,
}

// The registry itself can tell that a name is taken but not by which metric.
static KNOWN: LazyLock<Mutex<BTreeMap<String, Known>>> = LazyLock::new(Mutex::default);

/// A counter; its name ends in `_total`.
///
/// # Errors
/// The name breaks the rules, or stands for another kind of metric or other labels already: a mistake in the program.
pub fn counter(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Fatal> {
    if !name.ends_with("_total") {
        return Err(refused(name, "a counter ends in _total"));
    }
    once(name, labels, || IntCounterVec::new(Opts::new(name, help), labels))
}

/// A gauge of whole numbers.
///
/// # Errors
/// As [`counter`].
pub fn gauge(name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Fatal> {
    once(name, labels, || IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A gauge of fractions, such as a time in seconds.
///
/// # Errors
/// As [`counter`].
pub fn float_gauge(name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Fatal> {
    once(name, labels, || GaugeVec::new(Opts::new(name, help), labels))
}

/// A histogram of durations in seconds, with the buckets [`SECONDS`]; its name ends in `_seconds`.
///
/// # Errors
/// As [`counter`].
pub fn seconds(name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, Fatal> {
    if !name.ends_with("_seconds") {
        return Err(refused(name, "a duration ends in _seconds"));
    }
    histogram(name, help, labels, &SECONDS)
}

/// A histogram with buckets of its own (upper bounds, rising).
///
/// # Errors
/// As [`counter`].
pub fn histogram(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, Fatal> {
    once(name, labels, || HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}

/// `keyferry_build_info`: always 1; what runs stands in its labels.
///
/// # Errors
/// As [`counter`].
pub fn build_info() -> Result<(), Fatal> {
    // Set by the build of the image; a build on a desk has no revision that anybody could look up.
    let revision = option_env!("KEYFERRY_REVISION").unwrap_or("unknown");
    let info = gauge("keyferry_build_info", "What runs here; always 1.", &["version", "revision"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
    Ok(())
}

fn once<M: Collector + Clone + 'static>(
    name: &str,
    labels: &[&str],
    make: impl FnOnce() -> prometheus::Result<M>,
) -> Result<M, Fatal> {
    if !name.starts_with(NAMESPACE) {
        return Err(refused(name, "it does not begin with keyferry_"));
    }
    // Nothing in here leaves the map half changed.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Known { labels: before, metric }) = known.get(name) {
        return match metric.downcast_ref::<M>() {
            Some(metric) if before == labels => Ok(metric.clone()),
            _ => Err(refused(name, "it stands for another metric already")),
        };
    }
    let metric = make().map_err(|e| refused(name, &e.to_string()))?;
    prometheus::default_registry()
        .register(Box::new(metric.clone()))
        .map_err(|e| refused(name, &e.to_string()))?;
    let labels = labels.iter().map(ToString::to_string).collect();
    known.insert(name.into(), Known { labels, metric: Box::new(metric.clone()) });
    Ok(metric)
}

fn refused(name: &str, why: &str) -> Fatal {
    Fatal::failure(format_args!("the metric {name} can not be had: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_again_gives_the_same_metric() {
        let first = counter("keyferry_test_again_total", "Test.", &["origin"]).unwrap();
        let again = counter("keyferry_test_again_total", "Test.", &["origin"]).unwrap();
        first.with_label_values(&["DE"]).inc();
        again.with_label_values(&["DE"]).inc();
        assert_eq!(first.with_label_values(&["DE"]).get(), 2);
    }

    #[test]
    fn a_name_stands_for_one_metric() {
        counter("keyferry_test_one_total", "Test.", &["origin"]).unwrap();
        counter("keyferry_test_one_total", "Test.", &["destination"]).unwrap_err();
        gauge("keyferry_test_one_total", "Test.", &["origin"]).unwrap_err();
        counter("other_total", "Test.", &[]).unwrap_err();
        counter("keyferry_test_one", "Test.", &[]).unwrap_err();
        seconds("keyferry_test_time", "Test.", &[]).unwrap_err();
        gauge("keyferry_a-b", "Test.", &[]).unwrap_err();
    }

    #[test]
    fn metrics_without_labels_and_of_time() {
        seconds("keyferry_test_seconds", "Test.", &[]).unwrap().with_label_values::<&str>(&[]).observe(0.02);
        build_info().unwrap();
        build_info().unwrap();
    }
}
