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

mod model;

use std::{net::SocketAddr, time::Duration};

use jiff::SignedDuration;
use keyferry_producers::GatewayConfig;
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    efgs::DiagnosisKey,
    network::{InvalidKeys, OriginProof, Use},
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::{
    front::{Door, Front},
    hub::Hub,
    lossy::Lossy,
};
use model::{CLIENTS, Client, Kind, MOST};
use rustix::process::{Pid, Signal, kill_process};

/// In which all have to come to rest, waits for a certificate or the broker included.
const ROUNDS: usize = 60;
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
        let clients = CLIENTS.map(|(kind, country)| Client::new(kind, country));
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
