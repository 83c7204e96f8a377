//! The topic of the network document holds what whoever can write to it has put there; only what a pinned anchor has
//! signed, and no version before the last, counts for roles and commands.
//!
//! Failures: versions that are lower or come twice, of another anchor, of another network, changed, garbage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use jiff::Timestamp;
use keyferry_schemas::{records::NetworkRecord, topics, world::World};
use keyferry_tests::{
    hub::Hub,
    operator::{keyferry, prepare},
};

#[test]
fn roles_and_commands_believe_the_anchor_and_no_lower_version() {
    let mut hub = Hub::start(World::new(&["DE", "FR"], Timestamp::now()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let feed = hub.network().unwrap();
    let put = |hub: &Hub, record: &NetworkRecord| hub.put(topics::NETWORK, hub.codec.encode(record)).unwrap();

    let first = hub.world.publish().unwrap();
    hub.world.document.version = 2;
    hub.publish().unwrap();
    put(&hub, &first);
    hub.world.document.agreements[0].legal_basis = "another".into();
    hub.publish().unwrap();
    hub.world.document.version = 3;
    let good = hub.world.publish().unwrap();
    let mut other = World::new(&["DE", "FR"], Timestamp::now()).unwrap();
    other.document.version = 3;
    put(&hub, &other.publish().unwrap());
    let text = String::from_utf8(good.document.to_vec()).unwrap().replacen("another", "changed", 1);
    put(&hub, &NetworkRecord { document: text.into(), ..good });
    hub.world.document.network = "other".into();
    hub.publish().unwrap();
    hub.world.document.network = first.network.clone();
    hub.put(topics::NETWORK, b"garbage".to_vec()).unwrap();
    let refused = 6;
    hub.world.document.version = 4;
    hub.publish().unwrap();

    assert!(feed.wait_for(4, Duration::from_secs(30)), "version 4 is not in force");
    let known = |versions: &keyferry_runtime::network::Versions| versions.keys().copied().collect::<Vec<_>>();
    assert_eq!(known(&feed.versions()), [1, 2, 4], "by a role that was there");
    assert_eq!(known(&hub.network().unwrap().versions()), [1, 2, 4], "by a role that starts");
    assert_ne!(feed.versions()[&2].document().agreements[0].legal_basis, "another");

    let (brokers, dir) = (hub.broker.bootstrap_servers(), folder.path().display());
    let show = keyferry(&format!("network show --bootstrap {brokers} --anchor {dir}/anchor.pem"));
    assert!(show.code == Some(0) && show.out.starts_with("network demo, version 4\n"), "{show:?}");
    let said = show.err.lines().filter(|line| line.contains("is passed over: ")).count();
    assert_eq!((said, show.err.lines().count()), (refused, refused), "{}", show.err);
}
