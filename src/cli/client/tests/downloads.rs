//! Downloads: from batch to batch, ended anywhere, and nothing that is not proven.

use std::{collections::BTreeSet, path::Path};

use keyferry_runtime::{
    exit::{Exit, Fatal},
    shutdown::Shutdown,
};
use keyferry_schemas::efgs;

use super::*;
use crate::cli::client::{
    batch_file::Format, download::Receiver, failure::Failure, folder::Folder, proof::Prover,
};

const TAGS: [&str; 4] = ["20270114-1", "20270114-2", "20270115-1", "20270115-2"];

/// What a hub holds.
#[derive(Clone)]
struct Store {
    batches: Vec<(Vec<DiagnosisKey>, Value)>,
    /// How many of them are served.
    served: usize,
    erased: BTreeSet<usize>,
    /// The oldest day that may be asked for.
    oldest: &'static str,
    /// This request is answered so, and not as it ought to be.
    fault: Option<(usize, u16)>,
    /// Instead of the right successor of the last.
    next: Option<&'static str>,
}

impl Store {
    fn new(world: &World) -> Self {
        let batch = |i| {
            let keys = keys("DE", i, 3);
            let audit = json!([entry(world, "DE", &keys)]);
            (keys, audit)
        };
        let batches = (0..TAGS.len() as u64).map(batch).collect();
        Self {
            batches,
            served: TAGS.len(),
            erased: BTreeSet::new(),
            oldest: "2027-01-01",
            fault: None,
            next: None,
        }
    }

    async fn start(self) -> Fake {
        Fake::start(move |n, seen| self.answer(n, seen)).await
    }

    fn answer(&self, n: usize, seen: &Seen) -> Response {
        if let Some((_, status)) = self.fault.filter(|(at, _)| *at == n) {
            return problem(status, "fault");
        }
        if n > 50 {
            return problem(400, "a-client-that-never-ends");
        }
        let path: Vec<_> = seen.line.split('/').collect();
        let [_, "diagnosiskeys", rest @ ..] = &path[..] else { return problem(404, "not-found") };
        let (date, tag, audit) = match rest {
            ["download", date] => (*date, seen.header("batchTag"), false),
            ["audit", "download", date, tag] => (*date, *tag, true),
            _ => return problem(404, "not-found"),
        };
        if date < self.oldest {
            return problem(410, "date-too-old");
        }
        let day = date.replace('-', "");
        let tags = &TAGS[..self.served];
        let found = match tag {
            "" => (0..tags.len()).find(|i| tags[*i] >= day.as_str() && !self.erased.contains(i)),
            tag => tags.iter().position(|t| *t == tag),
        };
        let Some(i) = found else {
            return problem(404, if tag.is_empty() { "no-batch" } else { "batch-unknown" });
        };
        if audit {
            return answer(200, &[], self.batches[i].1.to_string());
        }
        let next = tags.get(i + 1).copied().or(self.next).unwrap_or("null");
        let headers = [("batchTag", tags[i]), ("nextBatchTag", next)];
        if self.erased.contains(&i) {
            return answer(410, &headers[1..], r#"{"code":"batch-erased","detail":"gone"}"#);
        }
        match seen.header("if-none-match") {
            "*" => answer(304, &headers, ""),
            _ => answer(200, &headers, efgs::encode_protobuf(&self.batches[i].0)),
        }
    }
}

fn receiver<'a>(hub: &'a Hub, path: &Path, world: &World) -> Receiver<'a> {
    let prover = Some(Prover::new(world.anchors(), hub.country));
    // The same hub on another port each time.
    let folder = Folder::open(path, "https://hub/", hub.country).unwrap();
    Receiver { hub, folder, prover, format: Format::Protobuf, json: false }
}

async fn fetch(fake: &Fake, path: &Path, world: &World) -> Result<usize, Failure> {
    let hub = fake.hub();
    receiver(&hub, path, world).fetch_all(Some("2027-01-10".parse().unwrap())).await
}

/// The tags of the files there, each with the right keys.
fn stored(path: &Path, store: &Store) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut tags: Vec<_> = names.filter_map(|n| n.strip_suffix(".pb").map(ToOwned::to_owned)).collect();
    tags.sort();
    for tag in &tags {
        let keys =
            efgs::decode_joined(std::fs::read(path.join(format!("{tag}.pb"))).unwrap().into()).unwrap();
        let i = TAGS.iter().position(|t| t == tag).unwrap();
        assert!(keys == store.batches[i].0, "{tag} has other keys");
    }
    tags
}

#[tokio::test]
async fn every_batch_comes_once_and_then_only_what_is_new() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let mut store = Store::new(&world);
    store.served = 0;
    assert_eq!(fetch(&store.clone().start().await, folder.path(), &world).await.unwrap(), 0);
    store.served = 3;
    assert_eq!(fetch(&store.clone().start().await, folder.path(), &world).await.unwrap(), 3);
    assert_eq!(stored(folder.path(), &store), TAGS[..3]);
    let idle = store.clone().start().await;
    assert_eq!(fetch(&idle, folder.path(), &world).await.unwrap(), 0);
    assert_eq!(idle.lines(), ["GET /diagnosiskeys/download/2027-01-15"], "one small request");
    store.served = 4;
    let more = store.clone().start().await;
    assert_eq!(fetch(&more, folder.path(), &world).await.unwrap(), 1);
    assert_eq!(more.lines().len(), 3, "its end, the batch, the audit");
    assert_eq!(stored(folder.path(), &store), TAGS);
}

#[tokio::test]
async fn stopped_at_any_request_it_goes_on_without_loss_or_double() {
    let world = world();
    let store = Store::new(&world);
    // Two requests a batch.
    for at in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let fake = Store { fault: Some((at, 400)), ..store.clone() }.start().await;
        let fatal = Fatal::from(fetch(&fake, folder.path(), &world).await.unwrap_err());
        assert_eq!(fatal.exit, Exit::Failure, "{fatal}");
        assert_eq!(stored(folder.path(), &store), TAGS[..at / 2]);
        let again = store.clone().start().await;
        assert_eq!(fetch(&again, folder.path(), &world).await.unwrap(), 4 - at / 2);
        assert_eq!(stored(folder.path(), &store), TAGS);
    }
}

#[tokio::test]
async fn what_is_not_proven_is_not_stored_and_not_passed_over() {
    let world = world();
    let good = Store::new(&world);
    let mut keys = good.clone();
    keys.batches[1].0[0].rolling_period -= 1;
    let mut audit = good.clone();
    audit.batches[1].1[0]["signingCertificateOperatorSignature"] = "MAA=".into();
    for bad in [keys, audit] {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let fatal =
                Fatal::from(fetch(&bad.clone().start().await, folder.path(), &world).await.unwrap_err());
            assert_eq!(fatal.exit, Exit::Untrusted);
            assert!(
                fatal.message.starts_with("20270114-2: ") && fatal.message.ends_with("not stored"),
                "{fatal}"
            );
            assert_eq!(stored(folder.path(), &good), TAGS[..1]);
        }
        assert_eq!(fetch(&good.clone().start().await, folder.path(), &world).await.unwrap(), 3);
        assert_eq!(stored(folder.path(), &good), TAGS);
    }
}

#[tokio::test]
async fn erased_batches_are_passed_over() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let mut store = Store::new(&world);
    store.served = 1;
    assert_eq!(fetch(&store.clone().start().await, folder.path(), &world).await.unwrap(), 1);
    (store.served, store.erased) = (4, BTreeSet::from([0, 1, 3]));
    assert_eq!(fetch(&store.clone().start().await, folder.path(), &world).await.unwrap(), 1);
    assert_eq!(stored(folder.path(), &store), [TAGS[0], TAGS[2]]);
    let idle = store.start().await;
    assert_eq!(fetch(&idle, folder.path(), &world).await.unwrap(), 0);
    assert_eq!(idle.lines().len(), 1, "an erased end is an end");
}

#[tokio::test]
async fn after_a_long_silence_it_goes_on_where_the_hub_still_has_something() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let mut store = Store::new(&world);
    store.served = 1;
    assert_eq!(fetch(&store.clone().start().await, folder.path(), &world).await.unwrap(), 1);
    (store.served, store.oldest) = (4, "2027-01-15");
    let fake = store.clone().start().await;
    assert_eq!(fetch(&fake, folder.path(), &world).await.unwrap(), 2);
    assert_eq!(stored(folder.path(), &store), [TAGS[0], TAGS[2], TAGS[3]]);
    let days: Vec<_> =
        fake.lines().iter().take(3).map(|l| l.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(
        days,
        ["2027-01-14", "2027-01-14", "2027-01-15"],
        "its end, the oldest day, the first batch of it"
    );
}

#[tokio::test]
async fn a_hub_that_leads_in_circles_is_not_trusted() {
    let world = world();
    for next in ["20270115-2", "20270114-1", "20270115-1"] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { next: Some(next), ..Store::new(&world) };
        let fatal = Fatal::from(fetch(&store.start().await, folder.path(), &world).await.unwrap_err());
        assert_eq!(fatal.exit, Exit::Untrusted, "{fatal}");
    }
    for next in ["../../x", ""] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { next: Some(next), ..Store::new(&world) };
        assert!(fetch(&store.start().await, folder.path(), &world).await.is_err());
    }
}

#[tokio::test]
async fn who_follows_outlasts_a_hub_that_is_away_and_ends_when_asked() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let store = Store::new(&world);
    let (shutdown, served) = (Shutdown::new(), store.clone());
    let ends = shutdown.clone();
    // The first five attempts fail, which is all that one round makes.
    let fake = Fake::start(move |n, seen| match n {
        0..5 => problem(503, "unavailable"),
        // Its first look for a successor of the last.
        _ if seen.header("batchTag") == TAGS[3] && seen.header("if-none-match") == "*" => {
            ends.trip();
            problem(503, "unavailable")
        }
        _ => served.answer(n, seen),
    })
    .await;
    let hub = fake.hub();
    let mut receiver = receiver(&hub, folder.path(), &world);
    let since = Some("2027-01-10".parse().unwrap());
    receiver.follow(since, Some(Duration::from_millis(5)), &shutdown).await.unwrap();
    assert_eq!(stored(folder.path(), &store), TAGS);
}

#[tokio::test]
async fn unverified_and_as_json_only_where_asked_for() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let store = Store::new(&world);
    let fake = store.clone().start().await;
    let hub = fake.hub();
    let mut receiver = receiver(&hub, folder.path(), &world);
    (receiver.prover, receiver.format) = (None, Format::Json);
    assert_eq!(receiver.fetch_all(Some("2027-01-15".parse().unwrap())).await.unwrap(), 2);
    assert!(fake.lines().iter().all(|line| !line.contains("audit")));
    let text = std::fs::read(folder.path().join("20270115-2.json")).unwrap();
    let keys = efgs::decode(efgs::Encoding::Json, text.into()).unwrap();
    assert!(keys == store.batches[3].0);
}
