//! The processor on real Kafka, and in turns with it the ceiling: keys a second from the first decision to the last.
//!
//! The uploads lie there before either begins. Processors are processes that live through all of a world's runs, held
//! while their input is written. The first run of each kind warms up topics, caches and the compiler of the JVM.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use keyferry_runtime::kafka::Isolation;
use keyferry_schemas::{country::Country, records::LedgerEntry, topics};
use rdkafka::consumer::Consumer as _;

use super::{
    Size,
    ceiling::{self, Written},
    hub,
    instance::Instance,
    load::Load,
    progress::{Course, Offsets, Progress},
    report::Report,
    usage::{Usage, stored},
};
use crate::hub::Hub;

/// The countries of the largest world: 27, as many as the EU has.
pub const COUNTRIES: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT",
    "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
];
/// How often each is measured, after the first time, which does not count.
const TIMES: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Measures.
///
/// # Errors
/// Kafka fails.
pub fn run(report: &mut Report, size: Size) -> Result<()> {
    // Uploads by the number of their keys: some seconds of work each.
    in_world(report, size, 4, &[(5000, 400), (100, 6000)])?;
    in_world(report, size, 26, &[(5000, 135), (100, 2700)])
}

fn in_world(report: &mut Report, size: Size, destinations: usize, loads: &[(usize, usize)]) -> Result<()> {
    let bench = Bench::start(&COUNTRIES[..=destinations])?;
    ceiling::create_topics(&bench.hub, &bench.origins)?;
    let mut first = Instance::start(&bench.hub, "p-0", None)?;
    first.ready()?;
    for (keys, uploads) in loads {
        let shape = format!("{keys}x{destinations}");
        let uploads = size.pick(*uploads, 2 * bench.origins.len());
        let mut runs = Vec::new();
        for time in 0..=size.pick(TIMES, 0) {
            let run = bench.both(&first, uploads, *keys)?;
            // A quick run has none to spare.
            if time > 0 || size == Size::Quick {
                runs.push(run);
            }
        }
        let all = |of: fn(&Both) -> f64| runs.iter().map(of).collect::<Vec<_>>();
        report.add_all(format!("processor_keys_per_s_{shape}"), &all(|r| r.processor.keys_per_s), "keys/s");
        report.add_all(format!("ceiling_keys_per_s_{shape}"), &all(|r| r.ceiling.keys_per_s), "keys/s");
        let share = |r: &Both| r.processor.keys_per_s / r.ceiling.keys_per_s;
        report.add_all(format!("processor_share_of_ceiling_{shape}"), &all(share), "");
        report.add_all(format!("processor_cpu_ns_per_key_{shape}"), &all(|r| r.processor.cpu_ns), "ns");
        report.add_all(format!("ceiling_cpu_ns_per_key_{shape}"), &all(|r| r.ceiling.cpu_ns), "ns");
        report.add_all(format!("broker_cpu_ns_per_key_{shape}"), &all(|r| r.processor.broker_cpu_ns), "ns");
        if *keys == 5000 {
            report.add_all(
                format!("stored_bytes_per_key_{destinations}"),
                &all(|r| r.stored.iter().sum()),
                "bytes",
            );
            for (i, kind) in STORED.iter().enumerate() {
                let of: Vec<_> = runs.iter().map(|r| r.stored[i]).collect();
                report.add_all(format!("stored_{kind}_bytes_per_key_{destinations}"), &of, "bytes");
            }
        }
    }
    let mut second = Instance::start(&bench.hub, "p-1", None)?;
    second.ready()?;
    bench.share(&["p-0", "p-1"])?;
    for (keys, uploads) in loads {
        let uploads = size.pick(*uploads, 8 * bench.origins.len());
        let mut rates = Vec::new();
        for _ in 0..size.pick(TIMES - 1, 1) {
            rates.push(bench.processors(&[&first, &second], uploads, *keys)?.keys_per_s);
        }
        report.add_all(format!("processor_2_keys_per_s_{keys}x{destinations}"), &rates, "keys/s");
    }
    Ok(())
}

/// The topics that hold something of each key.
const STORED: [&str; 4] = ["uploads", "ledger", "keys", "heads"];

/// One run of the processor and one of the ceiling, over the same uploads.
struct Both {
    processor: Speed,
    ceiling: Speed,
    /// Bytes a key by topic.
    stored: [f64; 4],
}

/// How fast a run was, and what it took.
pub struct Speed {
    /// Keys of uploads a second.
    pub keys_per_s: f64,
    /// Processor time of the measured processes a key.
    pub cpu_ns: f64,
    /// That of the broker.
    pub broker_cpu_ns: f64,
}

/// A hub with what is needed to measure at it.
pub struct Bench {
    /// The hub.
    pub hub: Hub,
    /// All of its members; each sends.
    pub origins: Vec<Country>,
    progress: Progress,
}

impl Bench {
    /// Starts a hub for these countries.
    ///
    /// # Errors
    /// The broker does not start.
    pub fn start(countries: &[&str]) -> Result<Self> {
        let hub = hub(countries)?;
        let origins: Vec<_> = hub.world.nations.keys().copied().collect();
        let progress = Progress::of(&hub.kafka("process"), &origins)?;
        Ok(Self { hub, origins, progress })
    }

    fn both(&self, instance: &Instance, uploads: usize, keys: usize) -> Result<Both> {
        let data = self.hub.broker.folder()?.join("data");
        let sizes = || -> Result<Vec<u64>> {
            STORED.iter().map(|kind| stored(&data, &format!("keyferry.{kind}"))).collect()
        };
        let (before, from) = (sizes()?, self.progress.ends()?);
        let processor = self.processors(&[instance], uploads, keys)?;
        let after = sizes()?;
        let number = (uploads * keys) as f64;
        let stored = std::array::from_fn(|i| (after[i] - before[i]) as f64 / number);
        Ok(Both { processor, ceiling: self.ceiling(&from, keys)?, stored })
    }

    /// Lets these processors decide so many uploads of so many keys, which lie there when they begin.
    ///
    /// # Errors
    /// They do not within five minutes.
    pub fn processors(&self, instances: &[&Instance], uploads: usize, keys: usize) -> Result<Speed> {
        self.processors_of(&self.origins, instances, uploads, keys)
    }

    /// The same with uploads of these origins only.
    ///
    /// # Errors
    /// They do not within five minutes.
    pub fn processors_of(
        &self,
        origins: &[Country],
        instances: &[&Instance],
        uploads: usize,
        keys: usize,
    ) -> Result<Speed> {
        let load = Load::make(&self.hub, origins, uploads, keys)?;
        instances.iter().try_for_each(|i| i.hold())?;
        load.put(&self.hub)?;
        let ends = self.progress.ends()?;
        let used = || instances.iter().map(|i| Ok(i.usage()?.cpu_s)).sum::<Result<f64>>();
        let (before, broker) = (used()?, self.broker()?.cpu_s);
        instances.iter().try_for_each(|i| i.release())?;
        let course = self.progress.watch(&ends)?;
        let per_key = 1e9 / load.keys() as f64;
        Ok(Speed {
            keys_per_s: rate(&course, instances.len())? * keys as f64,
            cpu_ns: (used()? - before) * per_key,
            broker_cpu_ns: (self.broker()?.cpu_s - broker) * per_key,
        })
    }

    /// Lets the bare loop go over the uploads from there on.
    fn ceiling(&self, from: &Offsets, keys: usize) -> Result<Speed> {
        let written = Written::read(&self.hub, &self.origins)?;
        let progress = Progress::of(&self.hub.kafka("ceiling"), &self.origins)?;
        progress.rewind(from)?;
        let (ends, stop) = (progress.ends()?, AtomicBool::new(false));
        let uploads = ends.iter().sum::<i64>() - from.iter().sum::<i64>();
        let own = || Usage::of(std::process::id());
        let (before, broker) = (own()?.cpu_s, self.broker()?.cpu_s);
        let course = thread::scope(|scope| {
            let bare = scope.spawn(|| ceiling::run(&self.hub, &self.origins, &written, &stop));
            let course = progress.watch(&ends);
            stop.store(true, Ordering::Relaxed);
            bare.join().map_err(|_| anyhow!("the bare loop panicked"))??;
            course
        })?;
        let per_key = 1e9 / (uploads as f64 * keys as f64);
        Ok(Speed {
            keys_per_s: rate(&course, 1)? * keys as f64,
            cpu_ns: (own()?.cpu_s - before) * per_key,
            broker_cpu_ns: (self.broker()?.cpu_s - broker) * per_key,
        })
    }

    /// Number of processors in the group, as the broker believes.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn members(&self) -> Result<usize> {
        let kafka = self.hub.kafka("process");
        let groups = kafka.reader(Isolation::Committed)?.fetch_group_list(Some(&kafka.group()), TIMEOUT)?;
        Ok(groups.groups().iter().map(|group| group.members().len()).sum())
    }

    /// What the broker has used.
    ///
    /// # Errors
    /// It is gone.
    pub fn broker(&self) -> Result<Usage> {
        Usage::of(self.hub.broker.pid().context("a broker")?)
    }

    /// Waits until each of these instances decides for some origin.
    ///
    /// # Errors
    /// They do not share the origins after half a minute.
    pub fn share(&self, instances: &[&str]) -> Result<()> {
        let mut found = Vec::new();
        for _ in 0..30 {
            Load::make(&self.hub, &self.origins, self.origins.len(), 1)?.put(&self.hub)?;
            self.progress.watch(&self.progress.ends()?)?;
            found.clear();
            for origin in &self.origins {
                let entry =
                    ceiling::last(&self.hub, &topics::ledger(*origin), 1)?.pop().context("an entry")?;
                found.push(self.hub.codec.decode::<LedgerEntry>(entry.into())?.writer);
            }
            // Half of them each, or one more.
            let most = self.origins.len().div_ceil(instances.len());
            if instances.iter().all(|i| (1..=most).contains(&found.iter().filter(|w| w == i).count())) {
                return Ok(());
            }
            thread::sleep(Duration::from_secs(1));
        }
        ensure!(false, "the origins are shared so: {found:?}");
        Ok(())
    }
}

fn rate(course: &Course, instances: usize) -> Result<f64> {
    if instances == 1 { course.rate() } else { course.busy_rate() }
}
