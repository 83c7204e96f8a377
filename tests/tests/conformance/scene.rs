//! The world of the table: who is in it, and keys that nobody has sent.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    certificate::Certificate,
    efgs::DiagnosisKey,
    network::{InvalidKeys, MemberState, OnsetPolicy, OriginProof, StateSince, Use},
    time::{Interval, Millis},
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::front::Door;
use openssl::{
    asn1::Asn1Time,
    hash::MessageDigest,
    x509::{X509Builder, X509NameBuilder},
};

/// Who connects or signs, by the names that the table uses.
pub type People = BTreeMap<&'static str, Identity>;

/// DE and FR are as the contract has it. The others differ in one thing each:
/// ES checks days since onset and may send three keys at once, GR is EL in its certificate, IT has bad keys refused alone,
/// NL takes the hub's word for what has no proof of origin, PL is paused.
pub fn world() -> (World, People) {
    let now = SystemClock.now().timestamp();
    let hours = |n| now.saturating_add(SignedDuration::from_hours(n)).unwrap();
    let mut world = World::new(&["DE", "ES", "FR", "GR", "IT", "NL", "PL"], now).unwrap();
    let es = world.member_mut("ES").unwrap();
    (es.days_since_onset, es.max_keys_per_upload) = (OnsetPolicy::Reject, 3);
    world.member_mut("IT").unwrap().invalid_keys = InvalidKeys::RejectKey;
    world.member_mut("NL").unwrap().origin_proof = OriginProof::Hub;
    let paused = StateSince { state: MemberState::Paused, from: hours(-1) };
    world.member_mut("PL").unwrap().states.push(paused);
    world.document.aliases.insert("EL".parse().unwrap(), "GR".parse().unwrap());

    let mut people = People::new();
    for (name, code) in
        [("DE", "DE"), ("ES", "ES"), ("FR", "FR"), ("GR", "GR"), ("IT", "IT"), ("NL", "NL"), ("PL", "PL")]
    {
        people.insert(name, world.nation(code).unwrap().authentication.clone());
    }
    people.insert("DE signing", world.nation("DE").unwrap().signing.clone());
    people.insert("FR signing", world.nation("FR").unwrap().signing.clone());
    let made = |code, name| Identity::new(code, name, Algorithm::P256, now).unwrap();
    let registered = [
        // Name, country, use, in force from and until so many hours from now, revoked.
        ("DE zero", zero(made("DE", "Zero")), "DE", Use::Authentication, (-1, 48), false),
        ("DE zero signing", zero(made("DE", "Zero signing")), "DE", Use::Signing, (-1, 48), false),
        ("DE revoked", made("DE", "Revoked"), "DE", Use::Authentication, (-1, 48), true),
        ("DE next year", made("DE", "Next year"), "DE", Use::Authentication, (24, 48), false),
        ("DE last year", made("DE", "Last year"), "DE", Use::Authentication, (-48, -24), false),
        ("DE signs next year", made("DE", "Signs next year"), "DE", Use::Signing, (24, 48), false),
        ("DE signing revoked", made("DE", "Signing revoked"), "DE", Use::Signing, (-1, 48), true),
        ("DE callback", made("DE", "Callback"), "DE", Use::Callback, (-1, 48), false),
        ("EL", made("EL", "Greece"), "GR", Use::Authentication, (-1, 48), false),
    ];
    for (name, identity, code, usage, (from, until), revoked) in registered {
        let mut entry = world.register(&identity, usage, hours(from), hours(until)).unwrap();
        entry.revoked = revoked.then(|| hours(-1));
        world.member_mut(code).unwrap().certificates.push(entry);
        people.insert(name, identity);
    }
    people.insert("stranger", made("DE", "Stranger"));
    people.insert("no country", with_countries(&made("DE", "Nowhere"), &[]));
    people.insert("two countries", with_countries(&made("DE", "Both"), &["DE", "FR"]));
    (world, people)
}

/// The same key with a certificate whose SHA-256 begins with a zero: one serial number in some
/// hundreds leads to one.
fn zero(mut identity: Identity) -> Identity {
    let now = SystemClock.now().timestamp().as_second();
    // And whose base64 has all that URLs encode.
    let plain = |i: &Identity| {
        let base64 = STANDARD.encode(i.certificate.sha256());
        i.certificate.sha256()[0] != 0 || !base64.contains('+') || !base64.contains('/')
    };
    while plain(&identity) {
        let (from, until) = (now - 86_400, now + 86_400);
        identity = Identity::with_dates("DE", "Zero", identity.key.clone(), from, until).unwrap();
    }
    identity
}

/// The same key with a certificate whose subject names these countries.
fn with_countries(identity: &Identity, countries: &[&str]) -> Identity {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "Backend").unwrap();
    countries.iter().for_each(|code| name.append_entry_by_text("C", code).unwrap());
    let name = name.build();
    let mut x509 = X509Builder::new().unwrap();
    x509.set_version(2).unwrap();
    x509.set_subject_name(&name).unwrap();
    x509.set_issuer_name(&name).unwrap();
    x509.set_pubkey(&identity.key).unwrap();
    x509.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    x509.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    x509.sign(&identity.key, MessageDigest::sha256()).unwrap();
    Identity { key: identity.key.clone(), certificate: Certificate::new(x509.build()).unwrap() }
}

/// What the rows of one door are made from.
pub struct Scene<'w> {
    pub door: Door,
    pub world: &'w World,
    pub people: &'w People,
    rng: RefCell<Rng>,
}

impl<'w> Scene<'w> {
    pub fn new(door: Door, world: &'w World, people: &'w People) -> Self {
        let rng = RefCell::new(Rng::from_entropy().unwrap());
        Self { door, world, people, rng }
    }

    /// Keys of DE that nobody has sent.
    pub fn keys<const N: usize>(&self) -> [DiagnosisKey; N] {
        std::array::from_fn(|_| self.key())
    }

    /// One of them.
    pub fn key(&self) -> DiagnosisKey {
        self.key_of("DE")
    }

    /// One of another country.
    pub fn key_of(&self, origin: &str) -> DiagnosisKey {
        key(&mut self.rng.borrow_mut(), origin, &["FR"], SystemClock.now())
    }

    /// Many of DE.
    pub fn many(&self, n: usize) -> Vec<DiagnosisKey> {
        (0..n).map(|_| self.key()).collect()
    }
}

/// Now, and a while until the next interval of ten minutes and with it the next day: what is exactly as old as may be
/// must not become older on its way.
pub fn settled_now() -> Millis {
    loop {
        let now = SystemClock.now();
        if Interval::at(now) == Interval::at(now.plus(60_000)) {
            return now;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
