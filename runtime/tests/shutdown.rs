//! Signals, sent to a child: this very test binary, told to wait. And the token by hand, and the log that says so.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use keyferry_runtime::{
    config::{LogConfig, LogFormat},
    shutdown::Shutdown,
    telemetry,
};
use rustix::process::{Pid, Signal, kill_process};

/// Set for children only: what to do once the first signal has come.
const CHILD: &str = "KEYFERRY_TEST_SHUTDOWN_CHILD";
/// The log of the child.
const READY: &str = "ready for signals";

fn child(then: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "the_child", "--ignored", "--nocapture"])
        .env(CHILD, then)
        .env_remove("KEYFERRY_LOG");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    (child, log)
}

fn read_until(log: &mut impl BufRead, what: &str) -> String {
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 {
        if line.contains(what) {
            return line;
        }
        line.clear();
    }
    panic!("the child never said {what}");
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[tokio::test]
#[ignore = "the child of the other tests"]
async fn the_child() {
    let Ok(then) = env::var(CHILD) else { return };
    let log = LogConfig { format: LogFormat::Json, ..LogConfig::default() };
    telemetry::init(&log).unwrap();
    telemetry::init(&log).unwrap();
    let shutdown = Shutdown::on_signals().unwrap();
    tracing::debug!("not at this level");
    tracing::info!("{READY}");
    shutdown.wait().await;
    assert!(shutdown.is_tripped());
    if then == "hang" {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

#[test]
fn a_signal_trips_the_token() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut child, mut log) = child("end");
        let line = read_until(&mut log, READY);
        assert!(
            line.starts_with('{') && line.contains(r#""level":"INFO""#),
            "JSON on standard error: {line}"
        );
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal:?}");
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert!(!out.contains(READY), "standard output is not for the log: {out}");
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let begun = Instant::now();
    let (mut child, mut log) = child("hang");
    read_until(&mut log, READY);
    send(&child, Signal::TERM);
    read_until(&mut log, "a second signal");
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn by_hand_it_wakes_all_and_stays_tripped() {
    let shutdown = Shutdown::new();
    let (task, polled) = (shutdown.clone(), shutdown.clone());
    let task = tokio::spawn(async move { task.wait().await });
    let thread = thread::spawn(move || {
        while !polled.is_tripped() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(!shutdown.is_tripped());
    shutdown.trip();
    shutdown.trip();
    tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    thread.join().unwrap();
    shutdown.wait().await;
}
