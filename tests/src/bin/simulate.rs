//! `simulate [MINUTES]`: histories of the simulation for so long, from a new seed on; `KEYFERRY_SEED=` tells one.
//! Ends with 1 at the first that does not hold.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use keyferry_tests::sim::{
    Stage,
    campaign::{Until, campaign, tell},
};

fn main() -> Result<ExitCode> {
    let minutes: u64 = std::env::args().nth(1).map_or(Ok(1), |m| m.parse())?;
    let stage = Stage::new()?;
    if let Ok(seed) = std::env::var("KEYFERRY_SEED") {
        println!("{}", tell(&stage, seed.parse()?));
        return Ok(ExitCode::SUCCESS);
    }
    let first = u64::try_from(jiff::Timestamp::now().as_millisecond())? << 20;
    let report = campaign(&stage, first, Until::Time(Duration::from_secs(60 * minutes)));
    println!("{report}");
    let Some(history) = report.violation else { return Ok(ExitCode::SUCCESS) };
    println!("{}", tell(&stage, history.seed));
    Ok(ExitCode::FAILURE)
}
