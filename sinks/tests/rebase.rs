//! What a worker does when somebody else was faster: pure, from the log object that it lost against.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    Hub, NOON, cc,
    flaky::{Creates, Odd},
};
use keyferry_runtime::codec::KeysRecord;
use keyferry_schemas::{
    batch::{Level, SignedBatch},
    chain::Proofs,
};
use keyferry_sinks::{
    intake::{Accepted, Diverged, Intake, Read},
    joining::Joined,
    log::{Draft, Sealed, draft},
    shelf::{Appended, Shelf},
    store::{Store, StoreError},
};
use object_store::memory::InMemory;

fn intake(hub: &Hub, batches: &[&SignedBatch], head: Option<&Sealed>) -> Intake {
    let mut intake = Intake::resume(cc("DE"), head, false);
    let from = head.map_or(0, |h| h.entry.next_offset);
    for (i, batch) in batches.iter().enumerate() {
        let read = Read::of(Some(Ok(KeysRecord::Batch((*batch).clone()))));
        intake.take(from + i as i64, &read, &hub.versions, &Proofs::default()).unwrap();
    }
    intake
}

/// The first `n` batches that wait, as a download batch.
fn logged(intake: &Intake, n: usize) -> Draft {
    draft(cc("DE"), None, &intake.pending().iter().take(n).collect::<Vec<&Accepted>>()).unwrap()
}

fn sequences(intake: &Intake) -> Vec<i64> {
    intake.pending().iter().map(|b| b.manifest().sequence).collect()
}

#[test]
fn what_was_logged_is_dropped_and_the_rest_is_kept() {
    let mut hub = Hub::new(NOON);
    let b: Vec<_> = (0..4).map(|_| hub.batch("FR", "DE", 1, NOON)).collect();
    let theirs = intake(&hub, &[&b[0], &b[1], &b[2]], None);
    for n in 1..=3 {
        let head = logged(&theirs, n).sealed;
        let mut ours = intake(&hub, &[&b[0], &b[1], &b[2]], None);
        ours.rebase(&head).unwrap();
        assert_eq!(sequences(&ours), (n as i64 + 1..=3).collect::<Vec<_>>());
        assert_eq!(ours.stands_on(), 1);
    }
    // They are ahead: their chains are taken over, and what they have read is passed over.
    let head = logged(&theirs, 3).sealed;
    let mut ours = intake(&hub, &[&b[0]], None);
    ours.rebase(&head).unwrap();
    for (offset, batch) in b.iter().enumerate().skip(1) {
        let read = Read::of(Some(Ok(KeysRecord::Batch(batch.clone()))));
        ours.take(offset as i64, &read, &hub.versions, &Proofs::default()).unwrap();
    }
    assert_eq!(sequences(&ours), [4]);
}

#[test]
fn another_history_is_noticed() {
    let mut hub = Hub::new(NOON);
    let mine = hub.batch("FR", "DE", 1, NOON);
    let head = logged(&intake(&hub, &[&mine], None), 1).sealed;
    // The same origin and sequence from a hub that signed something else.
    let mut manifest = common::manifest_of(&mine);
    manifest.batch_tag = "another".into();
    let other = hub.signed(mine.clone(), &manifest);
    assert_eq!(intake(&hub, &[&other], None).rebase(&head), Err(Diverged));
    // They logged a part of what is one record here, or nothing that waits here.
    let mut moved = head.clone();
    moved.entry.next_offset = 0;
    assert_eq!(intake(&hub, &[&mine], None).rebase(&moved), Err(Diverged));
}

#[test]
fn batches_are_joined_up_to_a_bound_and_not_across_midnight() {
    let mut hub = Hub::new(NOON);
    let midnight = NOON.plus(12 * common::HOUR);
    let eve = NOON.plus(-common::DAY);
    let made = [(2, NOON), (2, NOON), (3, NOON), (1, midnight), (9, eve), (1, midnight)];
    let origin = |at| if at == eve { "NL" } else { "FR" };
    let b: Vec<_> = made.iter().map(|(n, at)| hub.batch(origin(*at), "DE", *n, *at)).collect();
    let mut waiting = intake(&hub, &b.iter().collect::<Vec<_>>(), None);
    let mut head: Option<Sealed> = None;
    let mut parts = Vec::new();
    while !waiting.pending().is_empty() {
        let joined = Joined::next(&waiting, head.as_ref(), 5).unwrap();
        let sealed = draft(cc("DE"), head.as_ref(), &joined.batches).unwrap().sealed;
        let keys: Vec<_> = joined.batches.iter().map(|b| b.keys()).collect();
        parts.push((sealed.entry.tag.to_string(), keys, joined.closed));
        waiting.rebase(&sealed).unwrap();
        head = Some(sealed);
    }
    // The batch of nine is more than the bound and goes alone; it was made the day before and is filed here, as dates
    // never decrease.
    let expected = [
        ("20201023-1", vec![2, 2], true),
        ("20201023-2", vec![3], true),
        ("20201024-1", vec![1], true),
        ("20201024-2", vec![9], true),
        // Others may still come.
        ("20201024-3", vec![1], false),
    ];
    assert_eq!(parts, expected.map(|(tag, keys, closed)| (tag.to_owned(), keys, closed)));
    let days = head.unwrap().entry.days;
    assert_eq!(days.first_from("2020-10-22".parse().unwrap()), Some(1));
}

/// However small they are: what an audit says of each takes some kilobytes.
#[test]
fn no_more_than_a_thousand_uploads_are_joined() {
    let mut hub = Hub::new(NOON);
    let b: Vec<_> = (0..1001).map(|_| hub.batch_of("FR", "DE", 1, NOON, Level::Subset)).collect();
    let mut waiting = intake(&hub, &b.iter().collect::<Vec<_>>()[..1000], None);
    let joined = |intake: &Intake| {
        let joined = Joined::next(intake, None, 20_000).unwrap();
        (joined.batches.len(), joined.closed)
    };
    assert_eq!(joined(&waiting), (1000, true));
    let last = Read::of(Some(Ok(KeysRecord::Batch(b[1000].clone()))));
    waiting.take(1000, &last, &hub.versions, &Proofs::default()).unwrap();
    assert_eq!(joined(&waiting), (1000, true));
}

/// A lost answer looks like another instance and is none.
#[tokio::test]
async fn only_another_log_object_is_theirs() {
    let mut hub = Hub::new(NOON);
    let (first, second) = (hub.batch("FR", "DE", 1, NOON), hub.batch("FR", "DE", 1, NOON));
    let both = intake(&hub, &[&first, &second], None);
    let shelf = Shelf::open(Store::over(std::sync::Arc::new(InMemory::new())), cc("DE")).await.unwrap();
    assert_eq!(shelf.append(&logged(&both, 1)).await.unwrap(), Appended::Ours);
    assert_eq!(shelf.append(&logged(&both, 1)).await.unwrap(), Appended::Ours);
    assert_eq!(shelf.append(&logged(&both, 2)).await.unwrap(), Appended::Theirs);
    assert_eq!(shelf.head().unwrap().entry.uploads.len(), 1);
}

/// Of two requests that meet a bucket refuses one before the other has succeeded.
#[tokio::test]
async fn a_conflict_is_no_damage() {
    let mut hub = Hub::new(NOON);
    let first = hub.batch("FR", "DE", 1, NOON);
    let store = Store::over(std::sync::Arc::new(Odd(InMemory::new(), Creates::Never)));
    let shelf = Shelf::open(store, cc("DE")).await.unwrap();
    let refused = shelf.append(&logged(&intake(&hub, &[&first], None), 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
}
