//! Who used the processors: CPU time by the names of the threads.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Result;

use super::usage::name_and_cpu_s;

/// CPU seconds so far, by thread name, and of another process as a whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Cpu(BTreeMap<String, f64>);

impl Cpu {
    /// As it is now; of a thread that has ended nothing is known any more.
    pub fn now(broker: Option<u32>) -> Result<Self> {
        let mut all = BTreeMap::new();
        let nameless = name_and_cpu_s(Path::new("/proc/self"))?.0;
        for task in fs::read_dir("/proc/self/task")? {
            // One may end at any moment.
            if let Ok((name, seconds)) = name_and_cpu_s(&task?.path()) {
                // "keys-de" and "keys-fr" are one part of the service, "rdk:broker1" and "rdk:main" one library.
                let name = name.split(['-', ':']).next().unwrap_or_default();
                // A thread without a name has that of the program: it is the processor's.
                let name = if name == nameless { "process" } else { name };
                *all.entry(name.to_owned()).or_default() += seconds;
            }
        }
        if let Some(pid) = broker {
            all.insert("broker".into(), name_and_cpu_s(Path::new(&format!("/proc/{pid}")))?.1);
        }
        Ok(Self(all))
    }

    /// What was used since `before`, the most first.
    pub fn since(&self, before: &Self) -> Vec<(String, f64)> {
        let used = |(name, now): (&String, &f64)| (name.clone(), now - before.0.get(name).unwrap_or(&0.0));
        let mut used: Vec<_> = self.0.iter().map(used).filter(|(_, s)| *s >= 0.01).collect();
        used.sort_by(|a, b| b.1.total_cmp(&a.1));
        used
    }
}
