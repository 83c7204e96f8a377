//! The transaction loop and the take-over over a log that is simulated.
//!
//! Operations: uploads of one to four countries at random times; one to three instances that start, are told to stop, and
//! start again. At every call of an instance into the log others may run first.
//! Failures, at any call: an instance crashes, some of what it has sent lands, and it comes back under its name or another;
//! it sleeps, for longer than the session and transaction time-outs at times, and may be replaced under its name meanwhile;
//! one of its threads is held; it is put out of the group and hears of it later; its input gets nothing any more; a call
//! fails, or is carried out and its answer lost; deliveries time out; markers land seconds apart from one another.
//! No failures, as the broker is trusted with them: what was acknowledged is lost; a record is written twice; a topic is
//! cut. The network document does not change, and no offset expires.
//! Nondeterminism: none; a seed plays the same history again, which is a test of its own.
//!
//! `KEYFERRY_SEED=` plays one history and prints it. Fail points are global, so these tests run one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::time::Duration;

use fail::FailScenario;
use keyferry_tests::sim::{
    Stage,
    campaign::{Until, campaign, tell},
    without,
};

#[test]
fn histories_hold() {
    let _alone = FailScenario::setup();
    let stage = Stage::new().unwrap();
    if let Ok(seed) = std::env::var("KEYFERRY_SEED") {
        let seed = seed.parse().unwrap();
        println!("{}", tell(&stage, seed));
        assert!(stage.play(seed, false).violations.is_empty());
        return;
    }
    let first = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap() << 20;
    let report = campaign(&stage, first, Until::Time(Duration::from_secs(10)));
    println!("{report}");
    if let Some(history) = report.violation {
        panic!("{}", tell(&stage, history.seed));
    }
    assert!(report.histories > 0);
}

#[test]
fn a_seed_plays_the_same_history_again() {
    let _alone = FailScenario::setup();
    let (one, other) = (Stage::new().unwrap(), Stage::new().unwrap());
    for seed in 0..30 {
        assert_eq!(one.play(seed, true).trace, other.play(seed, true).trace, "seed {seed}");
    }
}

/// Histories until the first that does not hold without this guard, of `most`.
fn found(stage: &Stage, guard: &str, most: u64) {
    let scenario = without(guard);
    let report = campaign(stage, 1, Until::Histories(most));
    println!("without {guard}: {report}");
    let found = report.violation.map(|v| v.violations);
    println!("    {found:?}");
    assert!(found.is_some(), "without {guard} {most} histories hold");
    scenario.teardown();
}

#[test]
fn without_a_guard_a_history_does_not_hold() {
    let stage = Stage::new().unwrap();
    for guard in ["guard-revoked", "guard-own-metadata", "guard-stable-offset", "guard-mark", "input-resumes"]
    {
        found(&stage, guard, 5000);
    }
}

/// Whoever left a transaction open is fenced, so that nobody waits for the broker to abort it.
#[test]
fn what_was_left_open_is_not_waited_for() {
    let stage = Stage::new().unwrap().patient();
    let alone = FailScenario::setup();
    let report = campaign(&stage, 1, Until::Histories(1000));
    println!("{report}");
    assert!(report.violation.is_none(), "{}", tell(&stage, report.violation.unwrap().seed));
    alone.teardown();
    found(&stage, "guard-fence", 1000);
}
