//! `bench [--quick] [--into FILE] [PART]...`: measures, prints a table, and writes the figures as flat JSON, to
//! `target/bench/summary.json` unless told otherwise, and tables for the documentation beside it. `make bench` runs all
//! of it.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, bail};
use keyferry_tests::bench::{
    Size, instance, parts,
    report::{Report, read},
    sizing::{self, Constants},
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == instance::ARGUMENT).is_some() {
        return instance::run(arguments);
    }
    let (mut size, mut file, mut names) =
        (Size::Full, PathBuf::from("target/bench/summary.json"), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => size = Size::Quick,
            "--into" => file = arguments.next().context("--into FILE")?.into(),
            option if option.starts_with('-') => {
                bail!("bench [--quick] [--into FILE] [PART]..., not {option}")
            }
            _ => names.push(argument),
        }
    }
    let parts = parts(&names)?;
    let folder = file.parent().context("a file has a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let stages = read(&folder.join("stages.json"))?;
    if names.is_empty() && file.exists() {
        std::fs::remove_file(&file)?;
    }

    let mut all = Report::default();
    for part in parts {
        let begun = Instant::now();
        (part.run)(&mut all, size).with_context(|| format!("measure {}", part.name))?;
        eprintln!("{}: {:.0} s", part.name, begun.elapsed().as_secs_f64());
        // After each part, so that what was measured is not lost with the next.
        all.write(&file)?;
    }
    // What criterion measured stands in a table of its own already.
    let mut summary = read(&file)?;
    summary.extend(stages);
    std::fs::write(&file, serde_json::to_string_pretty(&summary)? + "\n")?;
    std::fs::write(folder.join("table.md"), all.to_string())?;
    println!("{all}");
    // Only a whole run, or one that goes on with the figures of such a run, has all constants.
    if let Ok(constants) = Constants::of(&summary) {
        let table = sizing::table(&constants);
        std::fs::write(folder.join("sizing.md"), &table)?;
        println!("{table}");
    }
    Ok(())
}
