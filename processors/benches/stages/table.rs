//! Measuring, and what was measured.

use std::{cell::Cell, collections::BTreeMap, path::Path, time::Duration};

use criterion::{BenchmarkId, Criterion};
use serde_json::Value;

use crate::cpu::{ThreadCpu, now_ns};

struct Row {
    stage: String,
    case: String,
    ns_per_key: f64,
    allocations_per_key: f64,
}

pub struct Table {
    criterion: Criterion<ThreadCpu>,
    rows: Vec<Row>,
}

fn target() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"))
}

impl Default for Table {
    fn default() -> Self {
        let criterion = Criterion::default()
            .with_measurement(ThreadCpu)
            .without_plots()
            .output_directory(&target().join("criterion"))
            .sample_size(10)
            .warm_up_time(Duration::from_millis(50))
            .measurement_time(Duration::from_millis(200))
            .configure_from_args();
        Self { criterion, rows: Vec::new() }
    }
}

impl Table {
    /// Measures `run` on what `setup` makes each time; dropping what `run` was given and makes is part of its cost.
    pub fn measure<I>(
        &mut self,
        stage: &str,
        case: &str,
        keys: usize,
        setup: impl Fn() -> I,
        run: impl Fn(I),
    ) {
        let input = setup();
        let allocations = allocation_counter::measure(|| run(input)).count_total;
        let least = Cell::new(u64::MAX);
        let mut group = self.criterion.benchmark_group(stage);
        group.bench_function(BenchmarkId::from_parameter(case), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut all = 0;
                for _ in 0..iterations {
                    let input = setup();
                    let start = now_ns();
                    run(input);
                    let taken = now_ns() - start;
                    least.set(least.get().min(taken));
                    all += taken;
                }
                all
            });
        });
        group.finish();
        let per_key = |n: u64| n as f64 / keys as f64;
        // Criterion runs only what its filter lets through.
        if least.get() < u64::MAX {
            self.rows.push(Row {
                stage: stage.into(),
                case: case.into(),
                ns_per_key: per_key(least.get()),
                allocations_per_key: per_key(allocations),
            });
        }
    }

    /// Prints the table and writes it as `target/bench/stages.json`.
    pub fn finish(self) {
        println!("{:<18} {:<20} {:>10} {:>16}", "stage", "keys", "ns/key", "allocations/key");
        let mut flat = BTreeMap::new();
        for row in &self.rows {
            let Row { stage, case, ns_per_key, allocations_per_key } = row;
            println!("{stage:<18} {case:<20} {ns_per_key:>10.1} {allocations_per_key:>16.3}");
            let mut put = |what: &str, value: f64, digits: f64| {
                let value = (value * digits).round() / digits;
                flat.insert(format!("stage_{stage}_{what}_{case}"), Value::from(value));
            };
            put("ns_per_key", *ns_per_key, 10.0);
            put("allocations_per_key", *allocations_per_key, 1000.0);
        }
        let bench = target().join("bench");
        std::fs::create_dir_all(&bench).unwrap();
        std::fs::write(bench.join("stages.json"), serde_json::to_vec_pretty(&flat).unwrap()).unwrap();
    }
}
