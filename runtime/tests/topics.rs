//! Topics on a real broker. It starts one of its own unless KEYFERRY_TEST_BOOTSTRAP names one.
#![cfg(feature = "embedded-broker")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use futures::executor::block_on;
use keyferry_runtime::{
    broker::Broker,
    config::KafkaConfig,
    exit::{Exit, Fatal},
    kafka::Kafka,
    topics::{Change, TopicsConfig, apply, list},
};
use keyferry_schemas::topics::Topic;
use rdkafka::admin::{AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};

fn kafka(servers: &str) -> Kafka {
    let config = KafkaConfig { bootstrap_servers: servers.into(), client_id: None, options: BTreeMap::new() };
    Kafka::new(&config, "test")
}

fn topic(name: &str, settings: &[(&'static str, &str)]) -> Topic {
    Topic { name: name.into(), settings: settings.iter().map(|(k, v)| (*k, (*v).to_owned())).collect() }
}

fn settings(kafka: &Kafka, name: &str) -> BTreeMap<String, String> {
    list(kafka).unwrap().into_iter().find(|t| t.name == name).unwrap().settings
}

#[test]
fn topics_become_what_they_should_be_and_stay_so() {
    let own = std::env::var("KEYFERRY_TEST_BOOTSTRAP")
        .map_or_else(|_| Some(Broker::builder().start().unwrap()), |_| None);
    let servers = own
        .as_ref()
        .map_or_else(|| std::env::var("KEYFERRY_TEST_BOOTSTRAP").unwrap(), |b| b.bootstrap_servers().into());
    let kafka = kafka(&servers);
    let name = format!("keyferry.test-topics-{}", std::process::id());
    let config = TopicsConfig::default();

    let first = [topic(&name, &[("retention.ms", "1000"), ("cleanup.policy", "delete")])];
    let created = [Change::Created { topic: name.clone() }];
    assert_eq!(apply(&kafka, &first, config, true).unwrap(), created);
    assert_eq!(apply(&kafka, &first, config, false).unwrap(), created, "the first was a dry run");
    assert_eq!(apply(&kafka, &first, config, false).unwrap(), []);

    // What an operator set besides is kept, although the request replaces the whole set.
    let admin = kafka.admin().unwrap();
    let mut request = AlterConfig::new(ResourceSpecifier::Topic(&name));
    request.entries = [("retention.ms", "1000"), ("flush.ms", "77")].into();
    block_on(admin.alter_configs([&request], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
    let second = [topic(&name, &[("retention.ms", "2000"), ("cleanup.policy", "delete")])];
    let config = TopicsConfig { min_insync_replicas: Some(1), ..config };
    for dry_run in [true, false] {
        let changes = apply(&kafka, &second, config, dry_run).unwrap();
        let lines: Vec<_> = changes.iter().map(|c| c.to_string().replace(&name, "t")).collect();
        assert_eq!(
            lines,
            [
                "alter t: cleanup.policy = delete (was the broker's default)",
                "alter t: min.insync.replicas = 1 (was the broker's default)",
                "alter t: retention.ms = 2000 (was 1000)",
            ]
        );
    }
    assert_eq!(apply(&kafka, &second, config, false).unwrap(), []);
    let all = settings(&kafka, &name);
    assert_eq!((all["retention.ms"].as_str(), all["flush.ms"].as_str()), ("2000", "77"));

    // Nothing is changed if anything is beyond repair.
    let wide = format!("{name}.wide");
    block_on(
        admin.create_topics([&NewTopic::new(&wide, 2, TopicReplication::Fixed(1))], &AdminOptions::new()),
    )
    .unwrap();
    let third = [topic(&name, &[("retention.ms", "3000")]), topic(&wide, &[])];
    let fatal = Fatal::from(apply(&kafka, &third, config, false).unwrap_err());
    assert_eq!(fatal.exit, Exit::Config);
    assert!(fatal.message.starts_with(&format!("{wide} has 2 partitions")), "{fatal}");
    assert_eq!(settings(&kafka, &name)["retention.ms"], "2000");
    let thrice = TopicsConfig { replication_factor: 3, ..config };
    let fatal = Fatal::from(apply(&kafka, &second, thrice, false).unwrap_err());
    assert!(fatal.message.contains("has 1 replica(s) instead of 3"), "{fatal}");
    block_on(admin.delete_topics(&[&name, &wide], &AdminOptions::new())).unwrap();
}

#[test]
fn no_broker_is_one_line_and_the_code_for_it() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let fatal = Fatal::from(apply(&kafka(&closed), &[], TopicsConfig::default(), false).unwrap_err());
    assert_eq!(fatal.exit, Exit::Unreachable);
    assert!(fatal.message.starts_with(&format!("the brokers at {closed} do not answer: ")), "{fatal}");
    assert_eq!(fatal.message.lines().count(), 1);
}
