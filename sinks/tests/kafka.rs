//! The service as a whole, on a real Kafka.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::{Body, to_bytes},
    http::Request,
};
use common::{Hub, cc, metric};
use keyferry_runtime::{
    broker::Broker,
    clock::{Clock, SystemClock},
    codec::Codec,
    config::KafkaConfig,
    health::Health,
    http::ClientCertificate,
    kafka::Kafka,
    network::NetworkFeed,
    producer::Producer,
};
use keyferry_schemas::topics;
use keyferry_sinks::{
    Countries, DistributeConfig, Distribution,
    store::{LocalConfig, StoreConfig},
};
use tower::ServiceExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_on_kafka_can_be_downloaded_within_a_second() {
    // Topics come with their first record here; what their settings do is tested elsewhere.
    let broker = Broker::builder().property("auto.create.topics.enable", "true").start().unwrap();
    let kafka_config = KafkaConfig {
        bootstrap_servers: broker.bootstrap_servers().into(),
        client_id: None,
        options: Default::default(),
    };
    let kafka = Kafka::new(&kafka_config, "distribute");
    let now = SystemClock.now();
    let mut hub = Hub::new(now);
    let codec = Codec::single_object().unwrap();
    let producer = Producer::new(&kafka).unwrap();
    let topic = topics::keys(cc("DE"));
    let checkpoint = codec.encode(&hub.checkpoint("FR", "DE", now));
    producer.send(&topic, b"", &checkpoint, &[]).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let config = DistributeConfig {
        countries: Countries::Only(vec![cc("DE"), cc("NL")]),
        store: StoreConfig::Local(LocalConfig { path: directory.path().into() }),
        download_window_days: 14,
        retention_days: 14,
        sweep_interval_s: 600,
        max_keys_per_download_batch: 20_000,
        join_wait_ms: 0,
        callbacks: None,
    };
    let feed = NetworkFeed::fixed(hub.versions.clone());
    let health = Health::new("distribute");
    let start = async || {
        let (codec, feed, config) = (codec.clone(), feed.clone(), config.clone());
        Distribution::start(&kafka, codec, feed, config, Arc::new(SystemClock), &health).await.unwrap()
    };
    let sha256 = hub.nation(cc("DE")).authentication.certificate.sha256();
    let client = ClientCertificate { sha256, subject_country: Some(cc("DE")) };
    let mut tags = Vec::new();
    for round in 0..2 {
        let service = start().await;
        let router = service.router().layer(Extension(client));
        for n in 1..=3 {
            let batch = codec.encode(&hub.batch("FR", "DE", 100, now));
            producer.send(&topic, b"", &batch, &[]).await.unwrap();
            let sent = Instant::now();
            let wanted = round * 3 + n;
            let tag = format!("{}-{wanted}", now.timestamp().strftime("%Y%m%d"));
            loop {
                let request =
                    Request::get(format!("/diagnosiskeys/download/{}", now.timestamp().strftime("%Y-%m-%d")))
                        .header("Accept", "application/protobuf; version=1.0")
                        .header("batchTag", &tag)
                        .body(Body::empty());
                let response = router.clone().oneshot(request.unwrap()).await.unwrap();
                if response.status() == 200 {
                    assert!(!to_bytes(response.into_body(), 1 << 20).await.unwrap().is_empty());
                    break;
                }
                assert!(sent.elapsed() < Duration::from_secs(20), "{tag} does not come");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The first one waits for the worker to begin.
            tags.push((tag, sent.elapsed()));
            assert!(n == 1 || sent.elapsed() < Duration::from_secs(1), "{tags:?}");
        }
        // NL has no topic: that is to be seen, and disturbs nobody.
        let begun = Instant::now();
        while !health.ready().ok && begun.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(health.ready().ok, "{}", health.ready());
        let up = |country| metric("keyferry_distribution_up", country);
        assert_eq!((up("DE"), up("NL")), (Some(1.0), Some(0.0)));
        service.stop().await;
    }
    let last = std::fs::read_to_string(directory.path().join("log/de/0000000006")).unwrap();
    assert!(last.contains("\"complete\": true"), "{last}");
    broker.stop().unwrap();
}
