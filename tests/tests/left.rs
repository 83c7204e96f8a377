//! What becomes of the topics of a member that has left: keys for it are gone, and its uploads as far as they are decided.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_runtime::{
    clock::{Clock, SystemClock},
    kafka::Isolation,
    topics::purge,
};
use keyferry_schemas::{
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::hub::Hub;

#[test]
fn the_topics_of_a_member_that_left_are_purged_as_far_as_they_are_decided() {
    let hub = Hub::start(World::new(&["DE", "FR"], SystemClock.now().timestamp()).unwrap()).unwrap();
    let mut rng = Rng::new(1);
    let mut send = |origin: &str, tag: &str| {
        let keys = [key(&mut rng, origin, &[], SystemClock.now())];
        hub.send(&hub.world.upload(origin, tag, &keys).unwrap()).unwrap();
    };
    let processor = hub.processor("p-0").unwrap();
    send("DE", "a");
    send("FR", "a");
    hub.decided("DE", 1).unwrap();
    hub.decided("FR", 1).unwrap();
    processor.stop().unwrap();
    send("FR", "undecided");

    let fr = "FR".parse().unwrap();
    let callbacks = topics::callbacks(fr);
    hub.put_keyed(&callbacks, "id", b"a subscription".to_vec()).unwrap();
    let count = |topic: &str| hub.records(topic, Isolation::Uncommitted).unwrap().len();
    let (keys, uploads) = (topics::keys(fr), topics::uploads(fr));
    let kafka = hub.kafka("cli");
    let planned = purge(&kafka, fr, true).unwrap();
    let counts = || (count(&keys), count(&callbacks), count(&uploads));
    assert_eq!(counts(), (1, 1, 2), "a dry run deletes nothing");
    assert_eq!(purge(&kafka, fr, false).unwrap(), planned);
    assert_eq!(counts(), (0, 0, 1));
    assert_eq!(purge(&kafka, fr, false).unwrap(), []);
    assert_eq!(count(&topics::keys("DE".parse().unwrap())), 1, "nobody else's");

    // The stream goes on with what was not decided.
    let _processor = hub.processor("p-1").unwrap();
    hub.decided("FR", 2).unwrap();
}
