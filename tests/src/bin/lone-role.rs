//! The program in a role, as it is, but for fail points: `lone-role FOLDER INSTANCE ROLE --config FILE`, with
//! `without=GUARD` before the role for a guard that is to be left out.
//!
//! At each named point it looks for its name in the file `armed` of its folder. Where it stands there, the process writes
//! `stopped` and stops itself as SIGSTOP does: all of its threads stand, as on a machine that hangs.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Args as _, FromArgMatches as _};
use keyferry::roles::{self, RoleArgs};
use keyferry_tests::soak::points;
use rustix::process::{Signal, getpid, kill_process};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut next = || arguments.next().context("lone-role FOLDER INSTANCE ROLE --config FILE");
    let (folder, instance) = (PathBuf::from(next()?), next()?);
    let _scenario = fail::FailScenario::setup();
    for point in points::ALL {
        let (armed, stopped) = (folder.join("armed"), folder.join("stopped"));
        let stop = move || {
            // Only once: whoever goes on is not held at the next turn. Whoever takes the file away has the say.
            let told = fs::read_to_string(&armed).is_ok_and(|name| name == point);
            if told && fs::remove_file(&armed).is_ok() {
                let _ = fs::write(&stopped, point);
                let _ = kill_process(getpid(), Signal::STOP);
            }
        };
        // Those of the transaction loop name the instance besides.
        for name in [point.to_owned(), format!("{point}@{instance}")] {
            fail::cfg_callback(name, stop.clone()).map_err(anyhow::Error::msg)?;
        }
    }
    let mut role = next()?;
    while let Some(guard) = role.strip_prefix("without=") {
        fail::cfg(guard, "return").map_err(anyhow::Error::msg)?;
        role = next()?;
    }
    let command = RoleArgs::augment_args(clap::Command::new("lone-role"));
    let matches = command.get_matches_from(std::iter::once("lone-role".to_owned()).chain(arguments));
    let arguments = RoleArgs::from_arg_matches(&matches)?;
    let ended = match role.as_str() {
        "gateway" => roles::run::<{ roles::GATEWAY }>(&arguments),
        "process" => roles::run::<{ roles::PROCESS }>(&arguments),
        "distribute" => roles::run::<{ roles::DISTRIBUTE }>(&arguments),
        other => return Err(anyhow!("{other} is no role")),
    };
    ended.map_err(|fatal| anyhow!("{fatal}"))
}
