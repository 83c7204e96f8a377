//! What the clients of five countries do with the answers, and that each comes to rest with every valid key delivered
//! once.
//!
//! Operations: uploads by five clients at the same time, each of which goes on by its own rules until nothing is left to
//! send. Failures: keys that are known already, bad keys, answers that are lost after the request was delivered, a broker
//! that stands still for a while, certificates that are registered late and come into force later.
//! Not here: that one answer is right (`conformance`); clients of one country that do not know of each other (`uploads`).
//!
//! All of them are members with `invalid_keys: reject-key`. With `reject-upload` a bad key is answered with 400: four of
//! them would send the same again until the key is too old to be sent, and the Italian one would lose the keys beside it.
//! That is what EFGS did to them, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use jiff::SignedDuration;
use keyferry_producers::GatewayConfig;
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    batch::sha256,
    canonical::Canonical,
    efgs::DiagnosisKey,
    network::{InvalidKeys, OriginProof, Use},
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::{
    front::{Answer, Door, Front},
    hub::Hub,
    lossy::Lossy,
};
use rustix::process::{Pid, Signal, kill_process};

/// In one upload; 4,000 or 5,000 in truth.
const MOST: usize = 5;
/// In which all have to come to rest, waits for a certificate or the broker included.
const ROUNDS: usize = 60;
/// How often the Finnish client queues a key that is refused. Without an end it would send known keys for as long as they
/// may be sent: there is no answer by which it would learn that they have arrived.
const FINNISH_TRIES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Germany: an empty 2xx is final; after 207 what stands under 201 and 500 goes into a new upload. What stands under
    /// 409 is dropped, its own bad keys with it.
    Cwa,
    /// Finland: after 207 what stands under 201 goes again under the same tag, the rest is queued.
    Finland,
    /// Netherlands: the tag is a hash of the content, so a retry has the same. 207 is final but for what stands under 500.
    Netherlands,
    /// Italy: everything counts as sent after 207, and after 400: bad keys are lost, and with a signature that does not
    /// hold good ones as well.
    Italy,
    /// Switzerland and others: 201 is stored, only what stands under 500 goes again. Bad keys are dropped.
    Dp3t,
}

const CLIENTS: [(Kind, &str); 5] = [
    (Kind::Cwa, "DE"),
    (Kind::Finland, "FI"),
    (Kind::Netherlands, "NL"),
    (Kind::Italy, "IT"),
    (Kind::Dp3t, "CH"),
];

struct Batch {
    tag: String,
    keys: Vec<DiagnosisKey>,
}

struct Client {
    kind: Kind,
    country: &'static str,
    queue: Vec<DiagnosisKey>,
    /// What goes again as it is, before anything else.
    open: Option<Batch>,
    uploads: usize,
    refused: HashMap<Bytes, usize>,
    /// Counted as sent after an answer that took nothing.
    lost: Vec<DiagnosisKey>,
}

impl Client {
    fn at_rest(&self) -> bool {
        self.queue.is_empty() && self.open.is_none()
    }

    fn next(&mut self) -> Batch {
        if let Some(open) = self.open.take() {
            return open;
        }
        let keys: Vec<_> = self.queue.drain(..self.queue.len().min(MOST)).collect();
        self.uploads += 1;
        let tag = match self.kind {
            Kind::Netherlands => hex::encode(sha256(&Canonical::of(&keys).bytes())),
            _ => format!("{:?}/{}", self.kind, self.uploads),
        };
        Batch { tag, keys }
    }

    fn hear(&mut self, batch: Batch, answer: Option<&Answer>) {
        let listed = |status: &str| {
            let indexes = answer.map(|a| a.listed(status)).unwrap_or_default();
            indexes.into_iter().map(|i| batch.keys[i as usize].clone()).collect::<Vec<_>>()
        };
        match (self.kind, answer.map(|a| a.status)) {
            (_, Some(201)) => (),
            (Kind::Cwa, Some(207)) => self.queue.extend([listed("201"), listed("500")].concat()),
            (Kind::Finland, Some(207)) => {
                let (taken, queued) = (listed("201"), [listed("409"), listed("500")].concat());
                self.open = (!taken.is_empty()).then_some(Batch { tag: batch.tag, keys: taken });
                for key in queued {
                    let tries = self.refused.entry(key.key_data.clone()).or_default();
                    *tries += 1;
                    if *tries < FINNISH_TRIES {
                        self.queue.push(key);
                    }
                }
            }
            (Kind::Netherlands | Kind::Dp3t, Some(207)) => self.queue.extend(listed("500")),
            (Kind::Italy, Some(207)) => (),
            (Kind::Italy, Some(400)) => self.lost.extend(batch.keys),
            // The same upload: the same content has the same tag.
            (Kind::Netherlands, _) => self.open = Some(batch),
            // No answer, 403, 503, and 400: nothing is known to be sent, and all of it goes into the next upload.
            _ => self.queue.splice(..0, batch.keys).for_each(drop),
        }
    }
}

struct Scene {
    front: Front,
    proxy: Lossy,
    clients: [Client; 5],
    rng: Rng,
    /// Every valid key that any of them was given.
    valid: Vec<DiagnosisKey>,
}

impl Scene {
    fn start() -> Self {
        let countries = ["DE", "FI", "NL", "IT", "CH", "PT"];
        let mut world = World::new(&countries, SystemClock.now().timestamp()).unwrap();
        for member in &mut world.document.members {
            member.invalid_keys = InvalidKeys::RejectKey;
            // What is left of an upload with bad keys can not carry its origin's proof.
            member.origin_proof = OriginProof::Hub;
        }
        // Short, as clients have to live with "not decided yet" as well.
        let config = GatewayConfig { decision_wait_ms: 5000, ..GatewayConfig::default() };
        let front = Front::with(Hub::start(world).unwrap(), Door::Proxy, config).unwrap();
        let proxy = Lossy::before(front.address()).unwrap();
        let clients = CLIENTS.map(|(kind, country)| Client {
            kind,
            country,
            queue: Vec::new(),
            open: None,
            uploads: 0,
            refused: HashMap::new(),
            lost: Vec::new(),
        });
        Self { front, proxy, clients, rng: Rng::from_entropy().unwrap(), valid: Vec::new() }
    }

    fn keys(&mut self, country: &str, n: usize) -> Vec<DiagnosisKey> {
        let keys: Vec<_> = (0..n).map(|_| key(&mut self.rng, country, &["PT"], SystemClock.now())).collect();
        self.valid.extend(keys.iter().cloned());
        keys
    }

    /// Gives each client valid keys for more than one upload.
    fn give(&mut self) {
        for (i, (_, country)) in CLIENTS.into_iter().enumerate() {
            let keys = self.keys(country, MOST + 2);
            self.clients[i].queue.extend(keys);
        }
    }

    /// Each client that has something to send sends once, all at the same time; what they were answered.
    fn round(&mut self, address: SocketAddr) -> Vec<Option<u16>> {
        let front = &self.front;
        std::thread::scope(|scope| {
            let sending = self.clients.iter_mut().filter(|client| !client.at_rest()).map(|client| {
                scope.spawn(move || {
                    let batch = client.next();
                    let upload = front.hub.world.upload(client.country, &batch.tag, &batch.keys).unwrap();
                    let answer = front.post_via(address, &upload).ok();
                    client.hear(batch, answer.as_ref());
                    answer.map(|a| a.status)
                })
            });
            let sending: Vec<_> = sending.collect();
            sending.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    /// Lets them send until nobody has anything to send.
    fn rest(&mut self) {
        let mut answers = Vec::new();
        for _ in 0..ROUNDS {
            if self.clients.iter().all(Client::at_rest) {
                return;
            }
            answers = self.round(self.proxy.address());
            if answers.iter().any(|status| !matches!(status, Some(201 | 207))) {
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        let restless: Vec<_> = self.clients.iter().filter(|c| !c.at_rest()).map(|c| c.kind).collect();
        panic!("{restless:?} do not come to rest; the last answers were {answers:?}");
    }

    /// That every valid key that nobody lost has reached every other country once, and nothing else has.
    fn check(&self, what: &str) {
        for country in self.front.hub.world.nations.keys() {
            let lost = |key: &DiagnosisKey| self.clients.iter().any(|c| c.lost.contains(key));
            let expected: Vec<_> =
                self.valid.iter().filter(|key| key.origin != country.as_str() && !lost(key)).collect();
            let delivered = self.front.delivered_exactly(country.as_str(), &expected);
            delivered.unwrap_or_else(|e| panic!("{what}: {e:#}"));
        }
    }

    fn signal_broker(&self, signal: Signal) {
        let pid = self.front.hub.broker.pid().unwrap();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Gives every client a new certificate that nobody has registered yet.
    fn renew(&mut self, usage: Use) -> Vec<Identity> {
        let now = SystemClock.now().timestamp();
        let renewed = CLIENTS.map(|(_, country)| {
            let identity = Identity::new(country, "Renewed", Algorithm::P256, now).unwrap();
            let nation = self.front.hub.world.nations.get_mut(&country.parse().unwrap()).unwrap();
            let own = if usage == Use::Signing { &mut nation.signing } else { &mut nation.authentication };
            *own = identity.clone();
            identity
        });
        renewed.into()
    }

    /// Registers them, in force from a few seconds ahead.
    fn register(&mut self, renewed: &[Identity], usage: Use) {
        let now = SystemClock.now().timestamp();
        let seconds = |n| now.saturating_add(SignedDuration::from_secs(n)).unwrap();
        let publish = |world: &mut World| {
            for ((_, country), identity) in CLIENTS.iter().zip(renewed) {
                let entry = world.register(identity, usage, seconds(4), seconds(86_400)).unwrap();
                world.member_mut(country).unwrap().certificates.push(entry);
            }
        };
        self.front.publish(publish).unwrap();
    }
}

#[test]
fn every_client_comes_to_rest_with_each_valid_key_delivered_once() {
    let mut scene = Scene::start();
    duplicates(&mut scene);
    bad_keys(&mut scene);
    lost_answers(&mut scene);
    broker_outage(&mut scene);
    client_certificate(&mut scene);
    assert!(scene.clients.iter().all(|c| c.lost.is_empty()), "somebody has lost keys");
    signing_certificate(&mut scene);
}

/// A backend that has forgotten what it sent: known keys before, between and behind new ones.
fn duplicates(scene: &mut Scene) {
    for (i, (_, country)) in CLIENTS.into_iter().enumerate() {
        let known = scene.keys(country, 4);
        assert_eq!(scene.front.send(country, "before", &known).unwrap().status, 201);
        scene.clients[i].queue.extend(known[..2].to_vec());
    }
    scene.give();
    for (i, (_, country)) in CLIENTS.into_iter().enumerate() {
        let known = scene.clients[i].queue[..2].to_vec();
        let twice = scene.keys(country, 1);
        scene.clients[i].queue.extend([twice.clone(), known, twice].concat());
    }
    scene.rest();
    scene.check("known keys");
}

fn bad_keys(scene: &mut Scene) {
    for (i, (_, country)) in CLIENTS.into_iter().enumerate() {
        let mut bad: Vec<_> = (0..3).map(|_| key(&mut scene.rng, country, &[], SystemClock.now())).collect();
        bad[0].rolling_period = 0;
        bad[1].rolling_start_interval_number -= 20 * 144;
        bad[2].transmission_risk_level = 9;
        scene.clients[i].queue.extend(bad);
    }
    scene.give();
    scene.rest();
    scene.check("bad keys");
}

/// The request arrives, the answer does not: twice for each client, and then here and there.
fn lost_answers(scene: &mut Scene) {
    scene.give();
    for lost in [5, 5, 3, 2, 1] {
        scene.proxy.lose(lost);
        let answers = scene.round(scene.proxy.address());
        assert!(answers.iter().filter(|a| a.is_none()).count() == lost.min(answers.len()), "{answers:?}");
    }
    scene.proxy.lose(0);
    scene.rest();
    scene.check("lost answers");
}

/// The broker stands still: what has reached it is written when it goes on, whatever its senders were told.
fn broker_outage(scene: &mut Scene) {
    scene.give();
    scene.signal_broker(Signal::STOP);
    let answers = scene.round(scene.proxy.address());
    scene.signal_broker(Signal::CONT);
    assert!(answers.iter().all(|status| *status == Some(503)), "{answers:?}");
    scene.rest();
    scene.check("a broker that stood still");
}

/// 403 until the network document knows the certificate and its date has come.
fn client_certificate(scene: &mut Scene) {
    scene.give();
    let renewed = scene.renew(Use::Authentication);
    let answers = scene.round(scene.proxy.address());
    assert!(answers.iter().all(|status| *status == Some(403)), "{answers:?}");
    scene.register(&renewed, Use::Authentication);
    scene.rest();
    scene.check("a client certificate that came late");
}

/// 400, as EFGS answered: one client takes that for final.
fn signing_certificate(scene: &mut Scene) {
    let renewed = scene.renew(Use::Signing);
    scene.give();
    let answers = scene.round(scene.proxy.address());
    assert!(answers.iter().all(|status| *status == Some(400)), "{answers:?}");
    scene.register(&renewed, Use::Signing);
    scene.rest();
    for client in &scene.clients {
        // At least what it sent before the certificate was registered; what it sends until the date has come as well.
        let loses = client.kind == Kind::Italy;
        assert_eq!(client.lost.len() >= MOST, loses, "{:?} lost {} keys", client.kind, client.lost.len());
    }
    scene.check("a signing certificate that came late");
}
