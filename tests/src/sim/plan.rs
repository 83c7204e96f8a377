//! What a history is about: how many instances, origins and uploads, and what may befall them. Drawn from the seed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use keyferry_runtime::transaction::Settings;
use keyferry_schemas::{country::Country, time::Millis, topics, world::Rng};

use super::baton::{MS, Micros, SECOND};

/// What one origin may upload.
pub(super) type Payloads = Arc<Vec<Vec<Bytes>>>;

/// The bounds of one history.
#[derive(Clone)]
pub(super) struct Plan {
    pub origins: Vec<Country>,
    /// By origin.
    pub uploads: Vec<usize>,
    pub instances: usize,
    /// No fault begins after this time, and whatever slept is awake.
    pub calm: Micros,
    /// After which everything must be decided within this time.
    pub patience: Micros,
    pub faults: u32,
    /// A call in so many is struck.
    pub rarity: u64,
    /// Calls in a thousand that fail.
    pub errors: u64,
    pub stops: usize,
    pub session_timeout: Micros,
    pub transaction_timeout: Micros,
    pub max_output_bytes: usize,
    pub checkpoint_interval: Option<Duration>,
    /// Without, uploads are random bytes.
    pub payloads: Payloads,
    /// When the history begins, by the broker's clock.
    pub epoch: Millis,
}

impl Plan {
    pub fn draw(rng: &mut Rng, origins: &[Country]) -> Self {
        let origins = origins[..1 + rng.index(origins.len())].to_vec();
        let most = [2, 4, 12][rng.index(3)];
        let uploads = origins.iter().map(|_| rng.index(most + 1)).collect();
        Self {
            uploads,
            origins,
            instances: 1 + rng.index(3),
            calm: rng.spread(2 * SECOND, 45 * SECOND),
            // The sleep of a session, a take-over, and an input whose silence is doubted twice.
            patience: 120 * SECOND,
            faults: u32::try_from(rng.below(7)).unwrap_or(0),
            rarity: rng.spread(5, 200),
            errors: [0, 2, 20][rng.index(3)],
            stops: rng.index(3),
            session_timeout: 10 * SECOND,
            transaction_timeout: 10 * SECOND,
            max_output_bytes: [1, 600, 32 << 20][rng.index(3)],
            checkpoint_interval: [None, None, Some(Duration::from_secs(1 + rng.below(10)))][rng.index(3)],
            payloads: Payloads::default(),
            epoch: Millis(0),
        }
    }

    pub fn topic(&self, origin: usize) -> String {
        topics::uploads(self.origins[origin])
    }

    pub fn origin_of(&self, topic: &str) -> usize {
        let origin = topics::origin_of(topic);
        self.origins.iter().position(|o| Some(*o) == origin).unwrap_or(usize::MAX)
    }

    pub fn payload(&self, origin: usize, rng: &mut Rng) -> Bytes {
        match self.payloads.get(origin) {
            Some(pool) if !pool.is_empty() => pool[rng.index(pool.len())].clone(),
            _ => Bytes::copy_from_slice(&rng.number().to_be_bytes()),
        }
    }

    pub fn settings(&self, name: &str) -> Settings {
        Settings {
            max_output_bytes: self.max_output_bytes,
            checkpoint_interval: self.checkpoint_interval,
            max_duration: Duration::from_micros(100 * MS),
            // One thread at a time, and the seed says which.
            threads: 0,
            ..Settings::new(name)
        }
    }
}
