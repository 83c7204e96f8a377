//! What a network of some size needs, from measured constants: the table of `docs/sizing.md`. Pure.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

/// Uploads come in bursts, each hour or each day: the busiest second of a day against its mean.
const BURST: f64 = 15.0;
/// Copies of each record.
const REPLICAS: f64 = 3.0;
/// Days for which keys are kept, a ledger is kept, and a key can come again, so that it is remembered.
const KEYS_DAYS: f64 = 14.0;
const LEDGER_DAYS: f64 = 17.0;
const REMEMBERED_DAYS: f64 = 15.0;
/// A core that is busy to more than this leaves nothing for a restart, or for the next burst.
const BUSY: f64 = 0.6;
/// The share of the largest country: it can not be split, for an origin is one ordered stream.
const LARGEST: f64 = 0.2;
/// Memory of an instance before it remembers anything: clients, what was read ahead, one transaction.
const BASE_BYTES: f64 = 300e6;
const DAY_S: f64 = 86_400.0;

/// A network.
pub struct Network {
    /// What it is, for the table.
    pub name: &'static str,
    /// Countries, of which each sends to all others.
    pub members: f64,
    /// Keys uploaded a day.
    pub keys_per_day: f64,
}

/// The largest day the EU has planned for, ten times that, and as much for everybody on earth.
pub const NETWORKS: [Network; 3] = [
    Network { name: "EU, largest day", members: 27.0, keys_per_day: 6.1e6 },
    Network { name: "ten times that", members: 27.0, keys_per_day: 61e6 },
    Network { name: "the world", members: 195.0, keys_per_day: 110e6 },
];

/// What was measured, per key that comes in, and per key and destination.
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    processor_ns: f64,
    processor_ns_each: f64,
    broker_ns: f64,
    broker_ns_each: f64,
    upload_bytes: f64,
    ledger_bytes: f64,
    keys_bytes_each: f64,
    remembered_bytes: f64,
    restored_per_s: f64,
}

impl Constants {
    /// From the summary of a whole run. What a key costs is a line through four and 26 destinations.
    ///
    /// # Errors
    /// A figure is missing.
    pub fn of(summary: &Map<String, Value>) -> Result<Self> {
        let get = |name: &str| {
            summary.get(name).and_then(Value::as_f64).with_context(|| format!("{name} is not measured"))
        };
        let line = |name: &str| -> Result<(f64, f64)> {
            let (few, many) = (get(&format!("{name}_5000x4"))?, get(&format!("{name}_5000x26"))?);
            // Noise must not make a destination cost less than nothing.
            let each = ((many - few) / 22.0).max(0.0);
            Ok(((few - 4.0 * each).max(0.0), each))
        };
        let (processor_ns, processor_ns_each) = line("processor_cpu_ns_per_key")?;
        let (broker_ns, broker_ns_each) = line("broker_cpu_ns_per_key")?;
        Ok(Self {
            processor_ns,
            processor_ns_each,
            broker_ns,
            broker_ns_each,
            upload_bytes: get("stored_uploads_bytes_per_key_4")?,
            ledger_bytes: get("stored_ledger_bytes_per_key_4")?,
            keys_bytes_each: get("stored_keys_bytes_per_key_4")? / 4.0,
            remembered_bytes: get("remembered_bytes_per_key")?,
            restored_per_s: get("restore_keys_per_s")?,
        })
    }

    /// What a network needs.
    #[must_use]
    pub fn needs(&self, network: &Network) -> Needs {
        let destinations = network.members - 1.0;
        let peak = network.keys_per_day / DAY_S * BURST;
        let written = self.ledger_bytes + destinations * self.keys_bytes_each;
        let processor = self.processor_ns + destinations * self.processor_ns_each;
        let processor_cores = peak * processor / 1e9;
        let remembered = network.keys_per_day * REMEMBERED_DAYS;
        // Two at least, so that one may go; more origins than instances, or some have nothing to do.
        let instances = (processor_cores / BUSY).ceil().clamp(2.0, network.members);
        let kept = (self.upload_bytes + destinations * self.keys_bytes_each) * KEYS_DAYS
            + self.ledger_bytes * LEDGER_DAYS;
        Needs {
            partitions: 4.0 * network.members + 3.0,
            mean_per_s: network.keys_per_day / DAY_S,
            peak_per_s: peak,
            peak_out_per_s: peak * destinations,
            processor_cores,
            instances,
            broker_cores: peak * (self.broker_ns + destinations * self.broker_ns_each) * REPLICAS / 1e9,
            instance_bytes: BASE_BYTES + remembered * self.remembered_bytes / instances,
            disk_bytes: network.keys_per_day * kept * REPLICAS,
            // Written once by its producer, and to each other replica; read once by its consumer.
            network_bytes_per_s: peak * (self.upload_bytes + written) * (REPLICAS + 1.0),
            restore_s: remembered * LARGEST / self.restored_per_s,
            largest_busy: LARGEST * peak * processor / 1e9,
        }
    }

    /// The keys a second at which one core is busy with one origin: an origin is one partition, and one partition has one
    /// reader.
    #[must_use]
    pub fn one_core_keys_per_s(&self, destinations: f64) -> f64 {
        1e9 / (self.processor_ns + destinations * self.processor_ns_each)
    }
}

/// What a network needs, at its peak where it says so.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    partitions: f64,
    mean_per_s: f64,
    peak_per_s: f64,
    peak_out_per_s: f64,
    processor_cores: f64,
    instances: f64,
    broker_cores: f64,
    instance_bytes: f64,
    disk_bytes: f64,
    network_bytes_per_s: f64,
    restore_s: f64,
    largest_busy: f64,
}

/// The table, as Markdown: a column for each network.
#[must_use]
pub fn table(constants: &Constants) -> String {
    let needs: Vec<_> = NETWORKS.iter().map(|n| (n, constants.needs(n))).collect();
    let mut text = String::from("| |");
    for network in &NETWORKS {
        let _ = write!(text, " {} |", network.name);
    }
    text += "\n|---|---:|---:|---:|\n";
    let mut row = |name: &str, of: &dyn Fn(&Network, &Needs) -> String| {
        let cells: String = needs.iter().map(|(network, n)| format!(" {} |", of(network, n))).collect();
        let _ = writeln!(text, "| {name} |{cells}");
    };
    row("members", &|network, _| format!("{:.0}", network.members));
    row("keys uploaded a day", &|network, _| short(network.keys_per_day));
    row("keys a second: mean, burst", &|_, n| format!("{}, {}", short(n.mean_per_s), short(n.peak_per_s)));
    row("keys delivered a second in a burst", &|_, n| short(n.peak_out_per_s));
    row("partitions", &|_, n| format!("{:.0}", n.partitions));
    row("processors: cores in a burst", &|_, n| format!("{:.2}", n.processor_cores));
    row("processor instances", &|_, n| format!("{:.0}", n.instances));
    row("memory of each", &|_, n| format!("{}B", short(n.instance_bytes)));
    row("one core, busy with the largest country", &|_, n| format!("{:.1} %", 100.0 * n.largest_busy));
    row("brokers: cores in a burst", &|_, n| format!("{:.2}", n.broker_cores));
    row("brokers: disk, three copies", &|_, n| format!("{}B", short(n.disk_bytes)));
    row("brokers: network in a burst", &|_, n| format!("{}B/s", short(n.network_bytes_per_s)));
    row("restoring the largest country", &|_, n| format!("{:.1} s", n.restore_s));
    text
}

/// Two digits and a prefix.
fn short(value: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (step, unit) = steps.into_iter().find(|(step, _)| value >= *step).unwrap_or((1.0, ""));
    let value = value / step;
    format!("{value:.*} {unit}", usize::from(value < 10.0)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Map<String, Value> {
        let figures = [
            ("processor_cpu_ns_per_key_5000x4", 3000.0),
            ("processor_cpu_ns_per_key_5000x26", 5200.0),
            ("broker_cpu_ns_per_key_5000x4", 500.0),
            ("broker_cpu_ns_per_key_5000x26", 2700.0),
            ("stored_uploads_bytes_per_key_4", 50.0),
            ("stored_ledger_bytes_per_key_4", 25.0),
            ("stored_keys_bytes_per_key_4", 120.0),
            ("remembered_bytes_per_key", 30.0),
            ("restore_keys_per_s", 2e6),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }

    #[test]
    fn needs_follow_from_the_constants() {
        let constants = Constants::of(&summary()).unwrap();
        // 2600 ns a key and 100 ns a destination.
        assert_eq!(constants.one_core_keys_per_s(4.0).round(), 333_333.0);
        let day = 86_400.0 * 9e4;
        let network = Network { name: "", members: 11.0, keys_per_day: day };
        let needs = constants.needs(&network);
        let near =
            |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 1e-9, "{value}, not {wanted}");
        near(needs.mean_per_s, 9e4);
        near(needs.peak_per_s, 1.35e6);
        near(needs.peak_out_per_s, 1.35e7);
        near(needs.processor_cores, 1.35 * 3.6);
        near(needs.broker_cores, 1.35 * 1.1 * 3.0);
        // 4.86 cores that may be busy to 60 %.
        assert_eq!((needs.instances, needs.partitions), (9.0, 47.0));
        near(needs.disk_bytes, day * (350.0 * 14.0 + 25.0 * 17.0) * 3.0);
        near(needs.network_bytes_per_s, 1.35e6 * 375.0 * 4.0);
        near(needs.restore_s, day * 15.0 * 0.2 / 2e6);
        near(needs.instance_bytes, 300e6 + day * 15.0 * 30.0 / 9.0);
        near(needs.largest_busy, 0.2 * 1.35 * 3.6);
    }

    #[test]
    fn the_table_has_a_column_for_each_network_and_misses_nothing() {
        let text = table(&Constants::of(&summary()).unwrap());
        let columns = |line: &str| line.matches('|').count();
        assert!(text.lines().all(|line| columns(line) == NETWORKS.len() + 2), "{text}");
        assert!(text.contains("| keys uploaded a day | 6.1 M | 61 M | 110 M |"), "{text}");
        let mut missing = summary();
        missing.remove("restore_keys_per_s");
        assert!(Constants::of(&missing).is_err());
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.5, 7.0, 12.3, 1234.0, 61e6, 2.5e12].map(short);
        assert_eq!(all, ["0.5", "7.0", "12", "1.2 k", "61 M", "2.5 T"]);
    }
}
