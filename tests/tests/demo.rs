//! The demo as whoever tries Keyferry runs it: the real program, with its broker, its roles and its backends.
//!
//! Operations: to its end; kept running, with the request that it prints.
//! Failures: a signal while it sets up and while it exchanges; settings of another cluster in the environment.
//! Whatever happens, nothing is left: no file, no process, no port.
//! Not here: whether the exchange does what it must, which the demo judges by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use keyferry_runtime::dependent::without_settings;
use keyferry_tests::program;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// For whatever a loaded machine takes long for.
const PATIENCE: Duration = Duration::from_secs(240);

/// A demo that runs; killed when dropped, and what it started goes with it.
struct Demo {
    child: Child,
    temporary: TempDir,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(program::path().unwrap());
        without_settings(&mut command)
            .args(["demo", "--keys", "2000"])
            .args(arguments)
            .env("TMPDIR", temporary.path())
            // As an operator may have it, for another cluster than the demo's.
            .env("KEYFERRY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, read) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        thread::spawn(move || out.lines().map_while(Result::ok).for_each(|l| read.lock().unwrap().push(l)));
        Self { child, temporary, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line has `what` in it.
    fn wait_for(&mut self, what: &str) {
        let give_up = Instant::now() + PATIENCE;
        while !self.lines().iter().any(|line| line.contains(what)) {
            assert_eq!(
                self.child.try_wait().unwrap(),
                None,
                "it ended without {what:?}: {:#?}",
                self.lines()
            );
            assert!(Instant::now() < give_up, "{what:?} does not come: {:#?}", self.lines());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every address that its configuration names, as soon as there is one.
    fn addresses(&self) -> Vec<String> {
        let folders = fs::read_dir(self.temporary.path()).unwrap().flatten();
        let text: String =
            folders.filter_map(|f| fs::read_to_string(f.path().join("keyferry.yaml")).ok()).collect();
        let lines = text.lines().filter_map(|l| l.trim().split_once(": "));
        let named = lines.filter(|(name, _)| ["bootstrap_servers", "listen"].contains(name));
        named.map(|(_, address)| address.to_owned()).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code and what it said of faults, after its end, when nothing may be left of it.
    fn ended(&mut self, addresses: &[String]) -> (Option<i32>, String) {
        let give_up = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < give_up, "it does not end: {:#?}", self.lines());
            thread::sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let files: Vec<_> = fs::read_dir(self.temporary.path()).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(files.is_empty(), "{files:?} are left; it said {said}");
        // The watchdogs hear of the end and go; that takes a moment.
        let give_up = Instant::now() + Duration::from_secs(20);
        while let Some(left) = named_in_a_process(&self.temporary.path().to_string_lossy()) {
            assert!(Instant::now() < give_up, "a process is left: {left}");
            thread::sleep(Duration::from_millis(20));
        }
        for address in addresses {
            assert!(TcpStream::connect(address).is_err(), "{address} still takes connections");
        }
        (status.code(), said)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line of a process in which `what` stands.
fn named_in_a_process(what: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).find(|line| line.contains(what))
}

#[test]
fn it_shows_that_every_number_is_right_and_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    demo.wait_for("ready after");
    let addresses = demo.addresses();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for address in &addresses {
        assert!(TcpStream::connect(address).is_ok(), "{address} takes no connection");
    }
    let (code, said) = demo.ended(&addresses);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{:#?}", demo.lines());
    assert_eq!(demo.lines().last().unwrap(), "every number is what it must be");
}

#[test]
fn a_signal_before_the_verdict_is_no_success_and_leaves_nothing() {
    for (at, signal) in [("starting Apache Kafka", Signal::TERM), ("keys downloaded", Signal::INT)] {
        let mut demo = Demo::start(&[]);
        demo.wait_for(at);
        let addresses = demo.addresses();
        demo.signal(signal);
        let (code, said) = demo.ended(&addresses);
        assert_eq!(
            (code, said.as_str()),
            (Some(1), "interrupted before anything was checked\n"),
            "{at}: {:#?}",
            demo.lines()
        );
    }
}

#[test]
fn kept_running_it_answers_the_request_that_it_prints() {
    let mut demo = Demo::start(&["--keep"]);
    demo.wait_for("/diagnosiskeys/download/");
    let lines = demo.lines();
    let curl: Vec<_> = lines.iter().skip_while(|l| !l.starts_with("curl ")).cloned().collect();
    let command =
        format!("{} --silent --show-error --noproxy '*' --write-out '%{{http_code}}'", curl.join("\n"));
    let run = Command::new("sh").args(["-c", &command]).output().unwrap();
    let (out, err) =
        (String::from_utf8(run.stdout).unwrap(), String::from_utf8_lossy(&run.stderr).into_owned());
    assert!(run.status.success(), "{command}: {err}");
    let body = out.strip_suffix("200").unwrap_or_else(|| panic!("{command}: {out}"));
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body["keys"].as_array().is_some_and(|keys| !keys.is_empty()), "{command}: {body}");

    let printed: Vec<_> = lines
        .iter()
        .filter(|l| ["Kafka ", "HTTPS ", "Metrics "].iter().any(|name| l.starts_with(name)))
        .map(|l| l.split_whitespace().last().unwrap())
        .map(|l| l.trim_start_matches("https://").trim_start_matches("http://").replace("/metrics", ""))
        .collect();
    assert_eq!(printed.len(), 3, "{lines:#?}");
    demo.signal(Signal::INT);
    let (code, said) = demo.ended(&printed);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{:#?}", demo.lines());
}
