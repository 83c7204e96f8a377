//! Checkpoints: how far each chain goes, stated also when nothing flows.
//!
//! Operations: processors that start, stop and are replaced; uploads in between; a country that is paused, one that
//! leaves. Failure: a topic that is cut at its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use keyferry_runtime::{codec::KeysRecord, kafka::Isolation, transaction::Settings};
use keyferry_schemas::{
    batch::Checkpoint,
    chain::{Break, Chains, VerifiedBatch},
    country::Country,
    network::{MemberState, StateSince},
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{hub::Hub, processor::Processor, wait::wait_until};

fn processor(hub: &Hub, instance: &str, every_ms: u64) -> Processor {
    let checkpoint_interval = Some(Duration::from_millis(every_ms));
    hub.processor_with(Settings { checkpoint_interval, ..Settings::new(instance) }, &[]).unwrap()
}

fn send(hub: &Hub, origin: &str, tag: &str) {
    let now = jiff::Timestamp::now().into();
    let keys = [key(&mut Rng::from_entropy().unwrap(), origin, &[], now)];
    hub.send(&hub.world.upload(origin, tag, &keys).unwrap()).unwrap();
}

/// Every checkpoint of `origin` for `destination`, in order. That each agrees with the chain before it is verified on the
/// way, as every reader does.
fn stated(hub: &Hub, origin: &str, destination: &str) -> Vec<Checkpoint> {
    hub.batches(destination).unwrap();
    let origin: Country = origin.parse().unwrap();
    let records = hub.records(&topics::keys(destination.parse().unwrap()), Isolation::Committed).unwrap();
    let read = |value| match hub.codec.decode_keys(value).unwrap() {
        KeysRecord::Checkpoint(checkpoint) if checkpoint.origin == origin => Some(checkpoint),
        _ => None,
    };
    records.into_iter().filter_map(|r| read(r.value.unwrap())).collect()
}

fn last_sequence(hub: &Hub, origin: &str, destination: &str) -> Option<i64> {
    stated(hub, origin, destination).last().map(|c| c.sequence)
}

#[test]
fn chains_are_stated_in_silence_and_between_uploads_and_by_whoever_comes_next() {
    let hub = Hub::start(World::new(&["DE", "FR", "NL"], jiff::Timestamp::now()).unwrap()).unwrap();
    let first = processor(&hub, "p-0", 300);
    // Of an origin that never sent anything, too.
    wait_until("silence is stated", || {
        let stated = stated(&hub, "DE", "FR");
        stated.len() >= 2 && stated.iter().all(|c| c.sequence == 0)
    });
    assert_eq!(hub.committed("DE").unwrap(), Some(0));
    send(&hub, "DE", "one");
    hub.decided("DE", 1).unwrap();
    wait_until("the batch is stated", || last_sequence(&hub, "DE", "FR") == Some(1));
    first.stop().unwrap();

    let before = stated(&hub, "DE", "NL").len();
    let second = processor(&hub, "p-1", 300);
    wait_until("the successor states it", || stated(&hub, "DE", "NL").len() > before + 1);
    assert_eq!(last_sequence(&hub, "DE", "NL"), Some(1));
    send(&hub, "DE", "two");
    wait_until("the next batch is stated", || last_sequence(&hub, "DE", "NL") == Some(2));
    let times: Vec<_> = stated(&hub, "DE", "NL").iter().map(|c| c.at).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(hub.committed("DE").unwrap(), Some(2));
    second.stop().unwrap();

    // Who restarts within the interval has nothing new to state: the time of the last is part of the state.
    let count = stated(&hub, "FR", "NL").len();
    let third = processor(&hub, "p-0", 3_600_000);
    send(&hub, "FR", "one");
    hub.decided("FR", 1).unwrap();
    assert_eq!(stated(&hub, "FR", "NL").len(), count);
    third.stop().unwrap();
}

#[test]
fn a_topic_that_is_cut_at_its_end_shows_by_the_next_checkpoint() {
    let hub = Hub::start(World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap()).unwrap();
    let _processor = processor(&hub, "p-0", 200);
    send(&hub, "DE", "one");
    send(&hub, "DE", "two");
    wait_until("both are stated", || last_sequence(&hub, "DE", "FR") == Some(2));
    let networks = hub.network().unwrap().versions();
    let mut chains = Chains::new("FR".parse().unwrap());
    let mut dropped = false;
    let mut found = None;
    for record in hub.records(&topics::keys("FR".parse().unwrap()), Isolation::Committed).unwrap() {
        match hub.codec.decode_keys(record.value.unwrap()).unwrap() {
            KeysRecord::Batch(batch) => {
                let verified = VerifiedBatch::verify(&batch, networks.as_ref()).unwrap();
                dropped = verified.manifest().sequence == 2;
                if !dropped {
                    chains.append(&verified).unwrap();
                }
            }
            KeysRecord::Checkpoint(checkpoint) => match chains.checkpoint(&checkpoint, networks.as_ref()) {
                Ok(()) => assert!(!dropped),
                Err(e) => found = found.or(Some(e)),
            },
        }
    }
    assert_eq!(found, Some(Break::Checkpoint { stated: 2, received: 1 }));
}

#[test]
fn who_is_paused_hears_of_the_others_and_who_has_left_does_not() {
    let mut world = World::new(&["DE", "FR", "NL"], jiff::Timestamp::now()).unwrap();
    let since = |state| StateSince { state, from: jiff::Timestamp::now() };
    world.member_mut("FR").unwrap().states.push(since(MemberState::Paused));
    world.member_mut("NL").unwrap().states.push(since(MemberState::Left));
    let hub = Hub::start(world).unwrap();
    let _processor = processor(&hub, "p-0", 200);
    wait_until("the paused one is told", || stated(&hub, "DE", "FR").len() > 2);
    assert!(stated(&hub, "DE", "NL").is_empty());
    assert!(stated(&hub, "NL", "FR").is_empty());
}
