//! One upload after another through a processor on a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::world::{Rng, World, key};
use keyferry_schemas::{efgs::DiagnosisKey, records::Outcome};
use keyferry_tests::hub::Hub;

fn keys(rng: &mut Rng, origin: &str, n: usize) -> Vec<DiagnosisKey> {
    (0..n).map(|_| key(rng, origin, &["DE", "FR"], SystemClock.now())).collect()
}

#[test]
fn an_upload_reaches_every_other_country_once() {
    let hub = Hub::start(World::new(&["DE", "FR", "NL"], jiff::Timestamp::now()).unwrap()).unwrap();
    let _processor = hub.processor("p-0").unwrap();
    let mut rng = Rng::new(1);
    let sent = keys(&mut rng, "DE", 100);
    hub.send(&hub.world.upload("DE", "tag-1", &sent).unwrap()).unwrap();
    hub.send(&hub.world.upload("DE", "tag-1", &sent).unwrap()).unwrap();
    hub.send(&hub.world.upload("DE", "tag-2", &sent[..10]).unwrap()).unwrap();
    let ledger = hub.decided("DE", 3).unwrap();
    let outcomes: Vec<_> = ledger.iter().map(|e| e.outcome).collect();
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::Repeated, Outcome::Partial], "{ledger:?}");
    for country in ["FR", "NL"] {
        let mut delivered = hub.delivered(country).unwrap();
        delivered.sort();
        let mut expected: Vec<_> = sent.iter().map(|k| k.key_data.to_vec()).collect();
        expected.sort();
        assert!(delivered == expected, "{country}");
    }
    assert!(hub.delivered("DE").unwrap().is_empty());
}
