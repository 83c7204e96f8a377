//! The fault harness, short: every kind of fault once, on one broker. `make soak` runs it for as long as it is told.
//!
//! A run that failed is made again, as far as chance allows, with `KEYFERRY_SEED` set to the number it printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use keyferry_schemas::world::Rng;
use keyferry_tests::soak::{Places, fault, folder, round, stage::Stage};

#[test]
fn nothing_is_lost_doubled_or_changed_whatever_ends_hangs_or_wakes() {
    let given = std::env::var("KEYFERRY_SEED").ok().map(|s| s.parse().expect("KEYFERRY_SEED is a number"));
    let seed = given.unwrap_or_else(|| Rng::from_entropy().unwrap().number());
    println!("KEYFERRY_SEED={seed}");
    let under = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_lone-role").into();
    let places = Places { program, folder: folder(under.path(), seed, 1), three_brokers: false };
    let mut left = fault::each(&mut Rng::new(seed));
    left.reverse();
    let mut faults = |_: &mut Rng, _: &Stage| left.pop().map(|f| vec![f]);
    let report = round(seed, &places, &mut faults, &mut |line| println!("{line}"));
    if report.is_err() {
        // The logs are wanted.
        println!("{}", under.keep().display());
    }
    println!("{:#?}", report.unwrap());
}
