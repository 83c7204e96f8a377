//! What processes and topics take: processor time, memory, disk.

use std::{fs, path::Path};

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
        let path = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{path}/status")).with_context(|| format!("read {path}"))?;
        Ok(Self {
            cpu_s: name_and_cpu_s(Path::new(&path))?.1,
            resident_bytes: resident(&status).context("a status of another form")?,
        })
    }
}

/// Name and processor time, in seconds, of a process or a thread, by its folder below `/proc`.
pub(super) fn name_and_cpu_s(task: &Path) -> Result<(String, f64)> {
    let stat = fs::read_to_string(task.join("stat")).with_context(|| format!("read {}", task.display()))?;
    let (name, ticks) = name_and_ticks(&stat).context("a stat of another form")?;
    Ok((name.to_owned(), ticks / TICKS_PER_SECOND))
}

/// Name, and user and system time, of a line of `stat`. The name is in brackets, and may hold anything.
fn name_and_ticks(stat: &str) -> Option<(&str, f64)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((head.split_once('(')?.1, ticks(11)? + ticks(12)?))
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
        assert_eq!(name_and_ticks(stat), Some(("a) b", 300.0)));
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
