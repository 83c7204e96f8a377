//! What processes and topics take: processor time, memory, disk.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Linux counts processor time in these, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used up to now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Processor time of all of its threads, in seconds.
    pub cpu_s: f64,
    /// Memory that is really there, in bytes.
    pub resident_bytes: f64,
}

impl Usage {
    /// That of a process.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        Ok(Self {
            cpu_s: ticks(&read("stat")?).context("a stat of another form")? / TICKS_PER_SECOND,
            resident_bytes: resident(&read("status")?).context("a status of another form")?,
        })
    }
}

/// User and system time of a line of `/proc/PID/stat`. The name of the program comes before, in brackets, and may hold
/// anything.
fn ticks(stat: &str) -> Option<f64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

/// Bytes of the segments of all topics with this prefix, in the data folder of a broker. Indices, which the broker makes
/// larger than they are until a segment is closed, are left out.
///
/// # Errors
/// There is no such folder.
pub fn stored(data: &Path, prefix: &str) -> Result<u64> {
    let mut bytes = 0;
    for folder in data.read_dir().with_context(|| format!("read {}", data.display()))? {
        let folder = folder?;
        if !folder.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        for file in folder.path().read_dir()? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "log") {
                bytes += path.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_found() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2 kB\n"), Some(2048.0));
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.resident_bytes > 1e5 && own.cpu_s >= 0.0);
    }

    #[test]
    fn only_segments_of_the_topic_count() {
        let data = tempfile::tempdir().unwrap();
        for (topic, file, bytes) in [
            ("keyferry.keys.fr-0", "0.log", 5),
            ("keyferry.keys.nl-0", "7.log", 6),
            ("keyferry.keys.fr-0", "0.index", 1000),
            ("keyferry.ledger.fr-0", "0.log", 100),
        ] {
            std::fs::create_dir_all(data.path().join(topic)).unwrap();
            std::fs::write(data.path().join(topic).join(file), vec![0; bytes]).unwrap();
        }
        assert_eq!(stored(data.path(), "keyferry.keys.").unwrap(), 11);
    }
}
