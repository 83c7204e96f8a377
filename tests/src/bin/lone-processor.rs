//! A processor in a process of its own, for tests that stop, wake and kill it:
//! `lone-processor BOOTSTRAP INSTANCE FOLDER [stop-at=POINT] [without=GUARD] [checkpoint-every-ms=N]...`
//!
//! At the fail point `stop-at` it stops itself as SIGSTOP does, once the file `armed` is in its folder: all of its
//! threads stand, as on a machine that hangs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use keyferry_runtime::{health::Health, shutdown::Shutdown, transaction::Settings};
use keyferry_tests::{hub::clients, lone};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("lone-processor BOOTSTRAP INSTANCE FOLDER [OPTION]...");
    let (bootstrap, instance, folder) = (next()?, next()?, PathBuf::from(next()?));
    let _scenario = fail::FailScenario::setup();
    let mut checkpoints = None;
    for option in arguments {
        match option.split_once('=') {
            Some(("checkpoint-every-ms", ms)) => checkpoints = Some(Duration::from_millis(ms.parse()?)),
            Some(("without", guard)) => fail::cfg(guard, "return").map_err(anyhow::Error::msg)?,
            Some(("stop-at", point)) => {
                let folder = folder.clone();
                let stop = move || {
                    if folder.join("armed").exists() && !folder.join("stopped").exists() {
                        let _ = std::fs::write(folder.join("stopped"), "");
                        let _ = rustix::process::kill_process(
                            rustix::process::getpid(),
                            rustix::process::Signal::STOP,
                        );
                    }
                };
                fail::cfg_callback(format!("{point}@{instance}"), stop).map_err(anyhow::Error::msg)?;
            }
            _ => anyhow::bail!("unknown option {option}"),
        }
    }
    let options = [("session.timeout.ms", "2000"), ("heartbeat.interval.ms", "300")];
    let kafka = clients(&bootstrap, &options, "process");
    let settings = Settings { checkpoint_interval: checkpoints, ..Settings::new(&instance) };
    let runner = lone::processor(kafka, &folder, settings, &Health::new("process"))?;
    runner.run(&Shutdown::new()).map_err(|e| anyhow::anyhow!("{e}"))
}
