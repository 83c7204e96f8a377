//! What a processor does with an origin that can not be taken over as it is, and with none at all.
//!
//! Failures: offsets of the group that are wrong or have expired, uploads that expired before they were decided, a topic
//! that was made anew, an input that falls silent.
//! Not here: instances that stall or die (`exactly_once`, `killed`).
//!
//! Fail points are global, so these tests run one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use fail::FailScenario;
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    topics::list,
};
use keyferry_schemas::{
    topics,
    world::{Rng, World, key},
};
use keyferry_tests::{
    hub::Hub,
    operator::prepare,
    role::{Role, address},
    wait::wait_until,
};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

fn hub(countries: &[&str]) -> Hub {
    Hub::start(World::new(countries, jiff::Timestamp::now()).unwrap()).unwrap()
}

fn send(hub: &Hub, origin: &str, tags: std::ops::Range<usize>) {
    let mut rng = Rng::new(tags.start as u64 + u64::from(origin.as_bytes()[0]));
    for tag in tags {
        let keys = [key(&mut rng, origin, &[], SystemClock.now())];
        hub.send(&hub.world.upload(origin, &format!("tag-{tag}"), &keys).unwrap()).unwrap();
    }
}

fn uploads(origin: &str) -> String {
    topics::uploads(origin.parse().unwrap())
}

#[test]
fn an_origin_that_does_not_continue_stops_and_the_others_go_on() {
    let scenario = FailScenario::setup();
    let origins = ["DE", "ES", "FR", "IT", "NL"];
    let hub = hub(&origins);
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &hub.world);
    let mut before = Role::start("process", folder.path(), &hub, &address());
    for origin in origins {
        send(&hub, origin, 0..2);
        hub.decided(origin, 2).unwrap();
    }
    before.terminate();
    assert!(before.ended().success());

    // The offsets of ES have expired; those of FR are as they were.
    hub.forget_offsets().unwrap();
    assert_eq!(hub.committed("ES").unwrap(), None);
    hub.commit("FR", 2).unwrap();
    // That of DE is not where its ledger ends.
    hub.commit("DE", 1).unwrap();
    // The topic of IT was made anew, and has fewer records than were read.
    let kafka = hub.kafka("test");
    let it = topics::of_member("IT".parse().unwrap()).into_iter().find(|t| t.name == uploads("IT"));
    hub.remove(&uploads("IT")).unwrap();
    hub.create(it.into_iter()).unwrap();
    wait_until("the topic again", || list(&kafka).unwrap().iter().any(|t| t.name == uploads("IT")));
    send(&hub, "IT", 2..3);
    hub.commit("IT", 2).unwrap();
    // An upload of NL has expired before anybody decided it.
    hub.commit("NL", 2).unwrap();
    send(&hub, "NL", 2..4);
    hub.expire(&uploads("NL"), 3).unwrap();

    let runtime = Runtime::new().unwrap();
    let role = Role::start("process", folder.path(), &hub, &address());
    send(&hub, "FR", 2..3);
    send(&hub, "ES", 2..3);
    for origin in ["ES", "FR"] {
        let ledger = hub.decided(origin, 3).unwrap();
        assert_eq!(ledger.iter().map(|e| e.source_offset).collect::<Vec<_>>(), [0, 1, 2], "{origin}");
    }
    wait_until("every fault", || role.says("ORIGIN STOPPED").len() == 3);
    for (origin, why) in [
        ("DE", "the group has committed offset 1, the ledger ends at source offset 1"),
        ("IT", "keyferry.uploads.it ends at offset 1, and 2 is next"),
        ("NL", "the uploads at offsets 2 to 2 expired before they were decided"),
    ] {
        let lines = role.says(why);
        assert_eq!(lines.len(), 1, "{origin}: {lines:?}");
        assert!(lines[0].contains("ORIGIN STOPPED") && lines[0].contains(origin), "{lines:?}");
        assert_eq!(hub.ledger(origin).unwrap().len(), 2, "{origin}");
    }
    let metrics = role.page(&runtime, "metrics").unwrap().1;
    for (origin, breaks) in [("DE", 1), ("ES", 0), ("FR", 0), ("IT", 1), ("NL", 1)] {
        let line = format!("keyferry_chain_breaks_total{{origin=\"{origin}\"}} {breaks}\n");
        assert!(metrics.contains(&line), "{line}");
    }
    let (status, said) = role.page(&runtime, "readyz").unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    assert!(said.contains("process/transactions: not ready"), "{said}");
    // It is not dead: a restart would mend nothing.
    assert_eq!(role.page(&runtime, "livez").unwrap().0, StatusCode::OK);
    scenario.teardown();
}

#[test]
fn a_processor_that_has_nothing_to_do_is_ready() {
    let scenario = FailScenario::setup();
    let hub = hub(&["DE", "FR"]);
    let first = hub.processor("p-0").unwrap();
    let second = hub.processor("p-1").unwrap();
    wait_until("two that are ready", || first.health.ready().ok && second.health.ready().ok);
    let third = hub.processor("p-2").unwrap();
    wait_until("a third", || third.health.ready().ok);
    // And it is not ready for nothing.
    first.stop().unwrap();
    second.stop().unwrap();
    send(&hub, "DE", 0..1);
    assert_eq!(hub.decided("DE", 1).unwrap()[0].writer, "p-2");
    wait_until("the last", || third.health.ready().ok);
    scenario.teardown();
}

#[test]
fn an_input_that_falls_silent_is_opened_anew() {
    let scenario = FailScenario::setup();
    // Its first consumer is never resumed: it keeps up its heartbeats and gets nothing.
    fail::cfg("input-resumes", "2*return").unwrap();
    let hub = hub(&["DE", "FR"]);
    let processor = hub.processor("p-0").unwrap();
    wait_until("both origins", || processor.health.ready().ok);
    let begun = std::time::Instant::now();
    send(&hub, "DE", 0..1);
    let ledger = hub.decided("DE", 1).unwrap();
    assert_eq!(ledger[0].writer, "p-0");
    // Not by itself, but since somebody looked.
    assert!(begun.elapsed().as_secs() > 10, "{:?}", begun.elapsed());
    assert_eq!(hub.delivered("FR").unwrap().len(), 1);
    wait_until("both origins again", || processor.health.ready().ok);
    scenario.teardown();
}
