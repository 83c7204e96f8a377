//! One processor and two, each on a core of its own.
//!
//! The broker has no core of its own: it runs on the same ones, and takes from both instances what it left to the one. So
//! the ratio shows two things at once. That instances do not stand in each other's way is shown by the processor time a
//! key: it does not grow.

use anyhow::Result;

use super::{
    Size,
    instance::Instance,
    processor::{Bench, COUNTRIES},
    report::Report,
};

/// Uploads of one run, and how many runs.
const UPLOADS: usize = 320;
const TIMES: usize = 2;

/// Measures. Eight origins send, and each delivers to seven countries.
///
/// # Errors
/// Kafka fails.
pub fn run(report: &mut Report, size: Size) -> Result<()> {
    let bench = Bench::start(&COUNTRIES[..8])?;
    let uploads = size.pick(UPLOADS, 8 * bench.origins.len());
    let mut first = Instance::start(&bench.hub, "p-0", Some(0))?;
    first.ready()?;
    let measure = |instances: &[&Instance]| -> Result<(Vec<f64>, Vec<f64>)> {
        let runs = (0..=TIMES).map(|_| bench.processors(instances, uploads, size.pick(5000, 100)));
        let runs = runs.take(size.pick(TIMES + 1, 2)).collect::<Result<Vec<_>>>()?;
        // The first is to warm up.
        Ok(runs.iter().skip(1).map(|r| (r.keys_per_s, r.cpu_ns)).unzip())
    };
    let (one, one_cpu) = measure(&[&first])?;
    let mut second = Instance::start(&bench.hub, "p-1", Some(1))?;
    second.ready()?;
    bench.share(&["p-0", "p-1"])?;
    let (two, two_cpu) = measure(&[&first, &second])?;
    // Once more with one, so that time alone can not make the difference.
    drop(second);
    bench.share(&["p-0"])?;
    let again = measure(&[&first])?;
    let (one, one_cpu) = ([one, again.0].concat(), [one_cpu, again.1].concat());

    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    report.add_all("scale_out_1_keys_per_s", &one, "keys/s");
    report.add_all("scale_out_2_keys_per_s", &two, "keys/s");
    report.add("scale_out_2_over_1", mean(&two) / mean(&one), "");
    report.add("scale_out_cpu_per_key_2_over_1", mean(&two_cpu) / mean(&one_cpu), "");
    Ok(())
}
