//! An instance whose own worker lags still serves what another one has stored.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{
    DAY, Hub, NOON, cc,
    instance::{Instance, List, tokio},
};
use keyferry_runtime::network::NetworkFeed;
use keyferry_sinks::{
    api::{Api, Periods, Shelves},
    shelf::Shelf,
    store::Store,
};
use object_store::memory::InMemory;

#[test]
fn at_the_end_the_store_is_asked() {
    let (tokio, mut hub, list) = (tokio(), Hub::new(NOON), List::default());
    let objects = Arc::new(InMemory::new());
    let writer = Instance::start(tokio.handle(), cc("DE"), Arc::clone(&objects) as _, &list, &hub.versions);
    let shelf = tokio.block_on(Shelf::open(Store::over(Arc::clone(&objects) as _), cc("DE"))).unwrap();
    let api = Api {
        shelves: Shelves::default(),
        feed: NetworkFeed::fixed(hub.versions.clone()),
        clock: Arc::new(NOON),
        periods: Periods { window_days: 14, retention_ms: 14 * DAY },
    };
    let date = "2020-10-23".parse().unwrap();
    let find = |tag: Option<&str>| tokio.block_on(api.find(&shelf, date, tag.map(|t| t.parse().unwrap())));
    assert!(find(None).is_err());
    let mut publish = || {
        let offset = list.push(&hub.batch("FR", "DE", 1, NOON));
        writer.wait_for(offset);
    };
    publish();
    let found = find(None).ok().unwrap();
    assert_eq!((found.sealed.entry.number, found.next), (1, None));
    publish();
    let found = find(Some("20201023-1")).ok().unwrap();
    assert_eq!(found.next.unwrap().to_string(), "20201023-2");
    publish();
    assert_eq!(find(Some("20201023-3")).ok().unwrap().sealed.entry.number, 3);
    writer.stop();
}
