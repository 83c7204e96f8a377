//! Which ledgers are followed, on a real Kafka.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_runtime::{
    broker::Broker, clock::SystemClock, codec::Codec, config::KafkaConfig, health::Health, kafka::Kafka,
    network::NetworkFeed, producer::Producer,
};
use keyferry_schemas::{topics, world::World};

use super::fixture::NOW;
use crate::{Gateway, GatewayConfig};

fn followed(origin: &str) -> Option<i64> {
    let all = prometheus::default_registry().gather();
    let metric = all.iter().find(|f| f.name() == "keyferry_ledger_followed")?;
    let series = metric.get_metric().iter().find(|m| m.get_label()[0].value() == origin)?;
    Some(series.get_gauge().get_value() as i64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_ledger_that_is_missing_keeps_its_country_out_and_no_other() {
    // Topics come with their first record here.
    let broker = Broker::builder().property("auto.create.topics.enable", "true").start().unwrap();
    let servers = broker.bootstrap_servers().into();
    let config = KafkaConfig { bootstrap_servers: servers, client_id: None, options: Default::default() };
    let kafka = Kafka::new(&config, "gateway");
    let network = World::new(&["DE", "FR"], NOW.timestamp()).unwrap().network().unwrap();
    let feed = NetworkFeed::fixed([(1, network)].into());
    let health = Health::new("gateway");
    let start = || {
        let (config, codec) = (GatewayConfig::default(), Codec::single_object().unwrap());
        Gateway::start(&kafka, codec, feed.clone(), config, Arc::new(SystemClock), &health)
    };
    let none = tokio::task::block_in_place(start).err().unwrap();
    assert!(none.to_string().contains("there is no topic keyferry.ledger."), "{none}");

    let producer = Producer::new(&kafka).unwrap();
    for topic in [topics::ledger("DE".parse().unwrap()), topics::uploads("DE".parse().unwrap())] {
        producer.send(&topic, b"", b"", &[]).await.unwrap();
    }
    let gateway = tokio::task::block_in_place(start).unwrap();
    let begun = Instant::now();
    while !health.ready().ok {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", health.ready());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((followed("DE"), followed("FR")), (Some(1), Some(0)));
    tokio::task::block_in_place(|| gateway.stop());
    broker.stop().unwrap();
}
