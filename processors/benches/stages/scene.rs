//! Who sends what to whom: an origin, so many destinations, and uploads without end that were never seen before.

use std::{cell::RefCell, sync::Arc};

use ed25519_dalek::SigningKey;
use keyferry_processors::{
    fingerprint::{Secret, Secrets},
    pipeline::{Source, Tools},
    sign::Signer,
    state::OriginState,
};
use keyferry_schemas::{
    country::Country,
    network::Network,
    records::Upload,
    time::Millis,
    world::{HUB_KEY, Rng, World, key},
};

pub const NOW: Millis = Millis(1_790_000_000_000);
/// The origin first, then the destinations.
const COUNTRIES: [&str; 27] = [
    "DE", "FR", "NL", "IT", "ES", "AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI", "GR", "HU", "IE",
    "LV", "LT", "LU", "MT", "PL", "PT", "RO", "SK", "SI", "SE",
];

pub fn de() -> Country {
    "DE".parse().unwrap()
}

pub struct Scene {
    pub network: Arc<Network>,
    pub tools: Tools,
    pub state: OriginState,
    /// Keys in each upload.
    pub keys: usize,
    world: World,
    rng: RefCell<Rng>,
    visited: usize,
    offset: i64,
}

impl Scene {
    pub fn new(destinations: usize, keys: usize, visited: usize) -> Self {
        let world = World::new(&COUNTRIES[..=destinations], NOW.timestamp()).unwrap();
        let signer = Signer::new(HUB_KEY.into(), SigningKey::from_bytes(&world.hub_key.to_bytes()));
        let secrets = Secrets { current: Secret::new("s1", &[7; 32]), previous: None };
        Self {
            network: world.network().unwrap(),
            tools: Tools { secrets, signers: vec![signer], writer: "p-0".into() },
            state: OriginState::new(de(), 0),
            keys,
            world,
            rng: RefCell::new(Rng::new(5)),
            visited,
            offset: 0,
        }
    }

    /// An upload with new keys and a new tag.
    pub fn upload(&self) -> Upload {
        let rng = &mut *self.rng.borrow_mut();
        let visited = &COUNTRIES[1..=self.visited];
        let keys: Vec<_> = (0..self.keys).map(|_| key(rng, "DE", visited, NOW)).collect();
        self.world.upload("DE", &format!("tag-{}", rng.number()), &keys).unwrap()
    }

    /// The next record of the stream.
    pub fn source(&mut self) -> Source {
        self.offset += 1;
        Source { offset: self.offset, timestamp: NOW, upload: Ok(self.upload()) }
    }
}
