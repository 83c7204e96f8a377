//! Topics that are missing: each role says which, and the command that makes them.
//!
//! Failures: a topic that all share, or one of a member, deleted before a role starts.
//! Not here: topics that go while a role runs, a cluster without any (`commands`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_schemas::{topics, world::World};
use keyferry_tests::{
    hub::Hub,
    operator::{configuration, keyferry, prepare, write},
    role::{Role, address},
    wait::wait_until,
};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

#[test]
fn each_role_names_the_topic_that_is_missing() {
    let hub = Hub::start(World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &hub.world);
    write(folder.path(), "roles.yaml", configuration(&dir, hub.broker.bootstrap_servers(), "anchor"));
    let config = format!("--config {dir}/roles.yaml");
    let fr = "FR".parse().unwrap();
    let (ledger, keys, uploads) = (topics::ledger(fr), topics::keys(fr), topics::uploads(fr));
    let gone = |topic: &str| format!("there is no topic {topic} at {}", hub.broker.bootstrap_servers());

    for topic in [topics::HEADS, topics::REJECTS, &ledger, &keys, &uploads] {
        hub.remove(topic).unwrap();
        for role in ["process", "run"] {
            let run = keyferry(&format!("{role} {config}"));
            assert_eq!((run.code, run.err.lines().count()), (Some(2), 1), "{role} {topic}: {run:?}");
            assert!(run.err.contains(&gone(topic)), "{role} {topic}: {run:?}");
            assert!(run.err.contains("`keyferry network apply`"), "{role} {topic}: {run:?}");
        }
        // The command that is named does make it.
        let apply = keyferry(&format!("network apply {dir}/network.yaml {config}"));
        assert_eq!(
            (apply.code, apply.out.contains(&format!("create {topic}\n"))),
            (Some(0), true),
            "{apply:?}"
        );
    }

    // One country's topic keeps no other country out, so these roles start. They say it, and show it as a metric.
    hub.remove(&ledger).unwrap();
    hub.remove(&keys).unwrap();
    let runtime = Runtime::new().unwrap();
    std::fs::create_dir_all(folder.path().join("store")).unwrap();
    for (name, topic, metric) in [
        ("gateway", &ledger, "keyferry_ledger_followed{origin=\"FR\"} 0"),
        ("distribute", &keys, "keyferry_distribution_up{destination=\"FR\"} 0"),
    ] {
        let mut role = Role::start(name, folder.path(), &hub, &address());
        role.wait_until_ready(&runtime);
        wait_until("a line that says so", || {
            let lines = role.says(&gone(topic));
            lines.iter().any(|line| line.contains("`keyferry network apply`") && line.contains("FR"))
        });
        let (status, metrics) = role.page(&runtime, "metrics").unwrap();
        assert_eq!(status, StatusCode::OK);
        assert!(metrics.contains(metric), "{metric}: {metrics}");
        role.terminate();
        assert!(role.ended().success());
    }
    // Without any ledger nobody could upload.
    hub.remove(&topics::ledger("DE".parse().unwrap())).unwrap();
    let run = keyferry(&format!("gateway {config}"));
    assert_eq!((run.code, run.err.lines().count()), (Some(2), 1), "{run:?}");
    assert!(run.err.contains("there is no topic keyferry.ledger."), "{run:?}");
    assert!(run.err.contains("`keyferry network apply`"), "{run:?}");
}
