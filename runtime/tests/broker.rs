//! The embedded broker on a real Kafka: it starts, keeps data over a crash, and never outlives its starter.
//! Needs the jars that `make setup` fetches.
#![cfg(feature = "embedded-broker")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    env, fs,
    net::TcpListener,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use keyferry_runtime::broker::{Broker, BrokerError};
use rdkafka::{
    ClientConfig, Message,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

/// Set for the child of the `SIGKILL` test only: where it writes its broker's process id and folder.
const HOLD: &str = "KEYFERRY_TEST_HOLD_A_BROKER";

/// Gone, or ended and only waiting for its parent to take note.
fn process_is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

fn wait_until(what: &str, limit: Duration, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn create_topic(bootstrap: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let made = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

fn produce(bootstrap: &str, topic: &str, payload: &str) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    producer.send(BaseRecord::<(), str>::to(topic).payload(payload)).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn consume(bootstrap: &str, topic: &str, count: usize) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "keyferry-broker-test")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let mut found = Vec::new();
    let begun = Instant::now();
    while found.len() < count && begun.elapsed() < Duration::from_secs(30) {
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
            found.push(String::from_utf8(record.payload().unwrap().to_vec()).unwrap());
        }
    }
    found
}

#[test]
fn records_survive_a_crash_and_nothing_is_left_after_stop() {
    let mut broker = Broker::builder().start().unwrap();
    let bootstrap = broker.bootstrap_servers().to_owned();
    let folder = broker.folder().to_owned();
    create_topic(&bootstrap, "crossing");
    produce(&bootstrap, "crossing", "before the crash");

    let first = broker.pid().unwrap();
    broker.kill().unwrap();
    assert!(process_is_gone(first));
    assert_eq!(broker.pid(), None);
    broker.start_again().unwrap();
    assert_eq!(broker.bootstrap_servers(), bootstrap);
    produce(&bootstrap, "crossing", "after the crash");
    assert_eq!(consume(&bootstrap, "crossing", 2), ["before the crash", "after the crash"]);

    let second = broker.pid().unwrap();
    broker.stop().unwrap();
    assert!(process_is_gone(second));
    assert!(!folder.exists());
}

#[test]
fn a_given_folder_is_kept_and_starts_again_on_another_port() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Broker::builder().data(Some(folder.path().to_owned())).start().unwrap();
    let broker = start();
    create_topic(broker.bootstrap_servers(), "kept");
    produce(broker.bootstrap_servers(), "kept", "still here");
    let pid = broker.pid().unwrap();
    drop(broker);
    assert!(process_is_gone(pid), "dropping stops");

    let broker = start();
    assert_eq!(consume(broker.bootstrap_servers(), "kept", 1), ["still here"]);
}

#[test]
fn it_dies_with_a_starter_that_is_killed() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut starter = Command::new(env::current_exe().unwrap())
        .args(["--exact", "holds_a_broker_for_the_kill_test"])
        .env(HOLD, note.path())
        .spawn()
        .unwrap();
    let read = || fs::read_to_string(note.path()).unwrap_or_default();
    wait_until("the starter's broker is up", Duration::from_secs(90), || read().ends_with('\n'));
    let note = read();
    let (pid, folder) = note.trim().split_once(' ').unwrap();
    let (pid, folder) = (pid.parse().unwrap(), Path::new(folder));
    assert!(!process_is_gone(pid) && folder.exists());

    starter.kill().unwrap();
    starter.wait().unwrap();
    wait_until("the broker is gone", Duration::from_secs(5), || process_is_gone(pid));
    wait_until("its folder is gone", Duration::from_secs(5), || !folder.exists());
}

/// Not a test by itself: the process that the test above kills.
#[test]
fn holds_a_broker_for_the_kill_test() {
    let Some(note) = env::var_os(HOLD) else { return };
    let broker = Broker::builder().start().unwrap();
    fs::write(note, format!("{} {}\n", broker.pid().unwrap(), broker.folder().display())).unwrap();
    // Longer than the test waits; not for ever, should that test itself be killed.
    thread::sleep(Duration::from_secs(120));
}

#[test]
fn each_fault_is_one_clear_line() {
    let empty = tempfile::tempdir().unwrap();
    let error = Broker::builder().jars(empty.path()).start().unwrap_err();
    assert!(matches!(error, BrokerError::JarsMissing(_)), "{error}");

    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let error = Broker::builder().listener_port(Some(port)).start().unwrap_err();
    assert_eq!(error.to_string(), format!("port {port} is taken by another process"));

    let error = Broker::builder().property("log.retention.ms", "soon").start().unwrap_err();
    let line = error.to_string();
    assert!(line.contains("log.retention.ms") && !line.contains('\n'), "{line}");
    let BrokerError::Died { log, .. } = error else { panic!("{line}") };
    assert!(log.exists(), "the log is kept");
    fs::remove_dir_all(log.parent().unwrap()).unwrap();
}
