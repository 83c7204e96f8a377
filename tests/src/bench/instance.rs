//! Processors in processes of their own, so that each has its cores, its memory and its clock of processor time.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use keyferry_runtime::{
    dependent::{Dependent, last_lines},
    health::Health,
    shutdown::Shutdown,
    transaction::Settings,
};
use rustix::process::Signal;

use super::usage::Usage;
use crate::{
    hub::{Hub, clients},
    lone,
};

/// The argument with which this program becomes a processor: `--instance BOOTSTRAP NAME FOLDER`.
pub const ARGUMENT: &str = "--instance";
/// As long as a restoration may take, and more.
const PATIENCE: Duration = Duration::from_secs(300);

/// A processor; it dies with us.
pub struct Instance {
    process: Dependent,
    folder: tempfile::TempDir,
    started: Instant,
}

impl Instance {
    /// Starts one; on this core alone, if one is given.
    ///
    /// # Errors
    /// It can not be started.
    pub fn start(hub: &Hub, name: &str, core: Option<usize>) -> Result<Self> {
        let folder = lone::folder(&hub.world)?;
        let this = std::env::current_exe()?;
        let mut arguments: Vec<PathBuf> =
            [ARGUMENT, hub.broker.bootstrap_servers(), name].map(Into::into).into();
        arguments.push(folder.path().into());
        let mut program = this;
        if let Some(core) = core {
            // It becomes the program that it starts, so that its number is that of the processor.
            arguments.insert(0, program);
            arguments.splice(0..0, ["-c".into(), core.to_string().into()]);
            program = "taskset".into();
        }
        let started = Instant::now();
        let process = Dependent::launch(&program, arguments, &folder.path().join("log"), None)?;
        Ok(Self { process, folder, started })
    }

    /// Waits until all of its origins are restored; how long that took since its start.
    ///
    /// # Errors
    /// It ends instead, or is not ready within five minutes.
    pub fn ready(&mut self) -> Result<Duration> {
        while !self.folder.path().join("ready").exists() {
            let ended = self.process.ended()?;
            let why = || last_lines(&self.folder.path().join("log"), 0);
            ensure!(ended.is_none(), "the processor ended: {}", why());
            ensure!(self.started.elapsed() < PATIENCE, "the processor is not ready: {}", why());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.started.elapsed())
    }

    /// Holds it. It must be released before its session is over, which lasts 10 s.
    ///
    /// # Errors
    /// It is gone.
    pub fn hold(&self) -> Result<()> {
        Ok(self.process.signal(Signal::STOP)?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn release(&self) -> Result<()> {
        Ok(self.process.signal(Signal::CONT)?)
    }

    /// What it has used up to now.
    ///
    /// # Errors
    /// It is gone.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.pid())
    }
}

/// What this program is when it is started as a processor. Blocks for as long as it runs.
///
/// # Errors
/// Something is missing, or the processor ends.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().context("--instance BOOTSTRAP NAME FOLDER");
    let (bootstrap, name, folder) = (next()?, next()?, PathBuf::from(next()?));
    let kafka = clients(&bootstrap, &[], "process");
    let health = Health::new("process");
    let runner = lone::processor(kafka, &folder, Settings::new(&name), &health)?;
    std::thread::spawn(move || tell(&health, &folder));
    runner.run(&Shutdown::new()).map_err(|e| anyhow::anyhow!("{e}"))
}

fn tell(health: &Health, folder: &Path) {
    while !health.ready().ok {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = std::fs::write(folder.join("ready"), "");
}
