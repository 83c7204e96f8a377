//! Stores of both kinds, heads of every length, and verification of what stands in them.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{
    Hub, NOON, cc,
    flaky::{Creates, Odd},
    instance::{Instance, List, tokio},
};
use keyferry_schemas::{
    chain::{Break, Proofs},
    time::Millis,
};
use keyferry_sinks::{
    intake::{Intake, Read},
    joining::Joined,
    log::draft,
    shelf::Shelf,
    store::{Created, LocalConfig, Store, StoreConfig, data_path, log_path},
    sweep::sweep,
    verify::{Fault, Wrong, verify_store},
};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

#[tokio::test]
async fn a_local_store_creates_once_and_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig::Local(LocalConfig { path: directory.path().join("new") });
    // Twice: the probe of the first one is there when the second one asks.
    Store::open(&config).await.unwrap();
    let store = Store::open(&config).await.unwrap();
    let path = log_path(cc("DE"), 1);
    assert_eq!(store.create(&path, Bytes::from_static(b"a")).await.unwrap(), Created::New);
    assert_eq!(store.create(&path, Bytes::from_static(b"b")).await.unwrap(), Created::Exists);
    assert_eq!(store.get(&path).await.unwrap().unwrap(), "a");
    assert!(!store.exists(&log_path(cc("DE"), 2)).await.unwrap());
    store.delete(&path).await.unwrap();
    store.delete(&path).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let store = Store::over(Arc::new(Odd(InMemory::new(), Creates::Always)));
    let refused = store.prove().await.unwrap_err().to_string();
    assert!(refused.starts_with("the store odd does not support conditional put"), "{refused}");
    Store::over(Arc::new(InMemory::new())).prove().await.unwrap();
}

#[tokio::test]
async fn a_sweep_finds_half_written_files_of_a_local_store() {
    let directory = tempfile::tempdir().unwrap();
    let store =
        Store::open(&StoreConfig::Local(LocalConfig { path: directory.path().into() })).await.unwrap();
    let name = |millis: i64| format!("0000000001-{millis}-0011223344556677");
    for millis in [10, 20] {
        store.put(&data_path(cc("DE"), &name(millis)), Bytes::new()).await.unwrap();
        std::fs::write(directory.path().join("data/de").join(format!("{}#1", name(millis))), "").unwrap();
    }
    let swept = sweep(&store, cc("DE"), keyferry_schemas::time::Millis(10)).await.unwrap();
    assert_eq!((swept.erased, swept.oldest.unwrap().0), (2, 20));
    assert_eq!(std::fs::read_dir(directory.path().join("data/de")).unwrap().count(), 2);
    assert_eq!(sweep(&store, cc("FR"), NOON).await.unwrap().erased, 0);
}

#[test]
fn the_head_is_found_in_a_log_of_any_length() {
    let tokio = tokio();
    let mut hub = Hub::new(NOON);
    let list = List::default();
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = Instance::start(tokio.handle(), cc("DE"), Arc::clone(&objects), &list, &hub.versions);
    for length in 0..=18 {
        let shelf = tokio.block_on(Shelf::open(Store::over(Arc::clone(&objects)), cc("DE"))).unwrap();
        assert_eq!(shelf.head().map_or(0, |h| h.entry.number), length);
        let offset = list.push(&hub.batch("FR", "DE", 1, NOON));
        writer.wait_for(offset);
        // One that is open already gets there as well.
        assert!(tokio.block_on(shelf.follow()).unwrap());
        assert_eq!(shelf.head().unwrap().entry.number, length + 1);
        let kept = tokio.block_on(shelf.entry(1)).unwrap().unwrap();
        assert_eq!(kept.entry.number, 1);
        assert!(tokio.block_on(shelf.entry(length + 2)).unwrap().is_none());
    }
    writer.stop();
}

#[test]
fn a_log_without_its_first_object_is_no_empty_store() {
    let (tokio, _, objects) = written(2);
    tokio.block_on(objects.delete(&log_path(cc("DE"), 1))).unwrap();
    let open = |country| {
        let store = Store::over(Arc::clone(&objects) as _);
        tokio.block_on(Shelf::open(store, cc(country))).map(|s| s.head().is_some())
    };
    let refused = open("DE").unwrap_err().to_string();
    assert!(refused.contains("log/de/0000000001") && refused.contains("it is gone"), "{refused}");
    assert!(!open("FR").unwrap(), "of this one there never was anything");
}

/// Log objects of DE: one batch, two joined, and one batch each up to `length`.
fn written(length: usize) -> (tokio::runtime::Runtime, Hub, Arc<InMemory>) {
    let (tokio, mut hub, list) = (tokio(), Hub::new(NOON), List::default());
    let last = list.push(&hub.batch("FR", "DE", 2, NOON));
    let objects = Arc::new(InMemory::new());
    let run = |hub: &Hub, last| {
        let instance =
            Instance::start(tokio.handle(), cc("DE"), Arc::clone(&objects) as _, &list, &hub.versions);
        instance.wait_for(last);
        instance.stop();
    };
    run(&hub, last);
    list.push(&hub.batch("NL", "DE", 2, NOON));
    let last = list.push(&hub.batch("FR", "DE", 3, NOON));
    run(&hub, last);
    for _ in 2..length {
        let last = list.push(&hub.batch("FR", "DE", 1, NOON));
        run(&hub, last);
    }
    (tokio, hub, objects)
}

#[test]
fn a_store_verifies_with_and_without_its_keys() {
    let (tokio, hub, objects) = written(2);
    let store = Store::over(Arc::clone(&objects) as _);
    let verify = |erased_until| {
        let shelf = Shelf::unread(store.clone(), cc("DE"));
        tokio.block_on(verify_store(&shelf, &hub.versions, erased_until)).unwrap()
    };
    let report = verify(Millis(0));
    assert_eq!(report.fault, None);
    let found: Vec<_> =
        report.batches.iter().map(|b| (b.tag.to_string(), b.origin, b.sequence, b.keys)).collect();
    let tag = |n| format!("20201023-{n}");
    assert_eq!(found, [(tag(1), cc("FR"), 1, 2), (tag(2), cc("NL"), 1, 2), (tag(2), cc("FR"), 2, 3)]);
    assert_eq!(report.starts.values().copied().collect::<Vec<_>>(), [0, 0]);
    tokio.block_on(sweep(&store, cc("DE"), NOON)).unwrap();
    let report = verify(NOON);
    assert_eq!((report.fault, report.batches.len()), (None, 3));
    assert!(report.batches.iter().all(|b| !b.keys_present));
    let early = verify(NOON.plus(-1)).fault.unwrap();
    assert_eq!((early.number, early.what), (1, Wrong::Gone));
}

/// The last log object is the one to change: all before it are held by the hash in their successor.
#[test]
fn verification_finds_every_change() {
    let (tokio, hub, objects) = written(2);
    let last = log_path(cc("DE"), 2);
    let get = |path: &Path| tokio.block_on(async { objects.get(path).await.unwrap().bytes().await.unwrap() });
    let put = |path: &Path, bytes: Bytes| drop(tokio.block_on(objects.put(path, bytes.into())).unwrap());
    let text = String::from_utf8(get(&last).to_vec()).unwrap();
    let data_name = text.split("\"name\": \"").nth(1).unwrap().split('"').next().unwrap();
    let data = data_path(cc("DE"), data_name);
    let store = Store::over(Arc::clone(&objects) as _);
    let verify = || {
        let shelf = Shelf::unread(store.clone(), cc("DE"));
        tokio.block_on(verify_store(&shelf, &hub.versions, NOON)).unwrap().fault
    };
    let fault = |text: &str| {
        put(&last, text.to_owned().into());
        verify().map(|f| f.to_string())
    };
    let keys = get(&data);
    for erased in [false, true] {
        if erased {
            tokio.block_on(objects.delete(&data)).unwrap();
        }
        assert_eq!(fault(&text), None);
        let mut changed = 0;
        for (i, line) in text.lines().enumerate() {
            let Some(mutated) = mutated(line) else { continue };
            // The hash of several uploads' keys together stands nowhere else.
            if erased && line.starts_with("    \"sha256\"") {
                continue;
            }
            let lines: Vec<_> =
                text.lines().enumerate().map(|(n, l)| if n == i { &*mutated } else { l }).collect();
            assert!(fault(&lines.join("\n")).is_some(), "erased {erased}, {line} -> {mutated}");
            changed += 1;
        }
        assert!(changed > 40, "{changed} lines changed");
    }
    fault(&text);
    put(&data, keys.slice(..keys.len() - 1));
    assert!(matches!(verify().unwrap().what, Wrong::Object { .. }));
}

#[test]
fn a_log_object_that_was_taken_away_is_missed() {
    let (tokio, hub, objects) = written(4);
    let missing = |number| Some(Fault { number, what: Wrong::Missing });
    for (gone, found) in
        [(&[1][..], 1), (&[2], 2), (&[3], 3), (&[1, 2, 3], 1), (&[3, 4], 3), (&[1, 2, 3, 4], 1)]
    {
        let logs: Vec<_> = gone.iter().map(|n| log_path(cc("DE"), *n)).collect();
        let bytes = |path| tokio.block_on(async { objects.get(path).await.unwrap().bytes().await.unwrap() });
        let kept: Vec<_> = logs.iter().map(bytes).collect();
        for log in &logs {
            tokio.block_on(objects.delete(log)).unwrap();
        }
        let shelf = Shelf::unread(Store::over(Arc::clone(&objects) as _), cc("DE"));
        let report = tokio.block_on(verify_store(&shelf, &hub.versions, Millis(0))).unwrap();
        assert_eq!(report.fault, missing(found), "without {gone:?}");
        for (log, bytes) in logs.iter().zip(kept) {
            tokio.block_on(objects.put(log, bytes.into())).unwrap();
        }
    }
}

/// Began at a checkpoint, a store does not prove what came before, and may not say that it does.
#[test]
fn a_complete_log_has_each_chain_from_its_first_batch_on() {
    let (tokio, mut hub) = (tokio(), Hub::new(NOON));
    hub.batch("FR", "DE", 1, NOON);
    let start = Read::Checkpoint(hub.checkpoint("FR", "DE", NOON));
    let second = Read::Batch(hub.batch("FR", "DE", 1, NOON));
    let mut intake = Intake::resume(cc("DE"), None, true);
    intake.take(5, &start, &hub.versions, &Proofs::default()).unwrap();
    intake.take(6, &second, &hub.versions, &Proofs::default()).unwrap();
    let draft = draft(cc("DE"), None, &Joined::next(&intake, None, 10).unwrap().batches).unwrap();
    let store = Store::over(Arc::new(InMemory::new()));
    let verify = |log: Bytes| {
        tokio.block_on(async {
            store.put(&data_path(cc("DE"), &draft.sealed.entry.data.name), draft.data.clone()).await.unwrap();
            store.put(&log_path(cc("DE"), 1), log).await.unwrap();
            verify_store(&Shelf::unread(store.clone(), cc("DE")), &hub.versions, Millis(0)).await.unwrap()
        })
    };
    let report = verify(draft.log.clone());
    assert_eq!((report.fault, report.starts), (None, [(cc("FR"), 1)].into()));
    let complete = String::from_utf8(draft.log.to_vec()).unwrap();
    let complete = complete.replace("\"complete\": false", "\"complete\": true");
    let Some(Fault { what: Wrong::Batch { reason, .. }, .. }) = verify(complete.into()).fault else {
        panic!()
    };
    assert_eq!(reason, Break::Sequence { last: 0, found: 2 });
}

/// Another value in a line of JSON; `None` if it holds none that could be wrong.
fn mutated(line: &str) -> Option<String> {
    let (name, value) = line.rsplit_once(": ")?;
    if value.starts_with('"') {
        let middle = value.len() / 2;
        let other = if value.as_bytes()[middle] == b'1' { '2' } else { '1' };
        return Some(format!("{name}: {}{other}{}", &value[..middle], &value[middle + 1..]));
    }
    value.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("{name}: 7{value}"))
}
