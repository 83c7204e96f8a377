//! The benchmarks: `make bench`, or `bench PART...` for some of them.
//!
//! Each part is a function that measures and puts figures into a [`Report`]. What is compared is measured in one run,
//! in turns, on topics that are warm.
//!
//! | module | what it holds |
//! |---|---|
//! | [`processor`], [`ceiling`] | the processor, and the bare loop that it is held against |
//! | [`scale_out`] | one processor and two |
//! | [`remembered`] | memory and restoration of keys that are remembered |
//! | [`end_to_end`], [`download`] | the ways in and out |
//! | [`load`], [`instance`] | uploads made beforehand; processors in processes of their own |
//! | `scene`, `watch`, `cpu` | the whole exchange, when uploads can be downloaded, and who used the processors |
//! | [`progress`], [`usage`] | how far a group is; what processes and topics take |
//! | [`report`] | the figures: a table for people, flat JSON for programs |
//! | [`sizing`] | what a network of some size needs |
//! | [`targets`] | what is to be reached |

pub mod ceiling;
mod cpu;
pub mod download;
pub mod end_to_end;
pub mod instance;
pub mod load;
pub mod processor;
pub mod progress;
pub mod remembered;
pub mod report;
pub mod scale_out;
mod scene;
pub mod sizing;
pub mod targets;
pub mod usage;
mod watch;

use anyhow::{Result, bail};
use keyferry_runtime::{
    broker::Broker,
    clock::{Clock as _, SystemClock},
};
use keyferry_schemas::world::World;

use crate::hub::Hub;
use report::Report;

/// What an operator would give a small broker; the embedded one is made to start quickly.
const JVM_FLAGS: [&str; 4] = ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError"];

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// As much as figures need that can be relied on.
    Full,
    /// So little that it takes seconds: it shows that all of it works, and its figures say nothing.
    Quick,
}

impl Size {
    /// One of two.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// One part.
pub struct Part {
    /// Its name on the command line.
    pub name: &'static str,
    /// Measures. Blocks for up to some minutes, and starts its own broker.
    pub run: fn(&mut Report, Size) -> Result<()>,
}

/// All parts, in the order in which they run.
pub const PARTS: &[Part] = &[
    Part { name: "processor", run: processor::run },
    Part { name: "scale_out", run: scale_out::run },
    Part { name: "end_to_end", run: end_to_end::run },
    Part { name: "download", run: download::run },
    Part { name: "remembered", run: remembered::run },
];

/// The parts with these names, all of them if there is no name.
///
/// # Errors
/// A name is unknown.
pub fn parts(names: &[String]) -> Result<Vec<&'static Part>> {
    if let Some(name) = names.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        bail!("there is no part {name:?}; there are: {}", known.join(" "));
    }
    Ok(PARTS.iter().filter(|part| names.is_empty() || names.iter().any(|name| name == part.name)).collect())
}

/// A hub for these countries on a broker as an operator would run it: in a temporary folder on disk, with the whole
/// compiler of the JVM and more memory than the embedded one has. Takes some seconds.
///
/// # Errors
/// The broker does not start.
pub fn hub(countries: &[&str]) -> Result<Hub> {
    let broker = Broker::builder().jvm(&JVM_FLAGS).start()?;
    Hub::on(broker, World::new(countries, SystemClock.now().timestamp())?, |topic| topic)
}
