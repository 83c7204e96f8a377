//! Generated keys: random data, plausible fields.

use crate::{
    efgs::{DiagnosisKey, RISK_LEVEL_UNSET},
    time::{INTERVALS_PER_DAY, Interval, Millis},
};
use anyhow::Result;

/// A small generator (splitmix64): fast, seedable, good enough for data that only has to look random.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the system.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn from_entropy() -> Result<Self> {
        let mut seed = [0; 8];
        openssl::rand::rand_bytes(&mut seed)?;
        Ok(Self(u64::from_be_bytes(seed)))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n.max(1)
    }

    /// An index into something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// True in `times` of `of` cases.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// A number from `low` to under `high`, small ones as likely as large ones: each doubling has the same share.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        let doublings = u64::from((high / low.max(1)).max(2).ilog2());
        let from = low << self.below(doublings + 1);
        (from + self.below(from.max(1))).min(high)
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.number() as u8)
    }
}

/// A valid key of `origin` at `now`, confirmed by test, with `visited` as its countries of interest.
pub fn key(rng: &mut Rng, origin: &str, visited: &[&str], now: Millis) -> DiagnosisKey {
    let today = Interval::at(now.midnight()).0;
    let days_ago = rng.below(14) as u32 + 1;
    DiagnosisKey {
        key_data: rng.bytes::<16>().to_vec().into(),
        rolling_start_interval_number: today - days_ago * INTERVALS_PER_DAY,
        rolling_period: INTERVALS_PER_DAY,
        transmission_risk_level: if rng.below(4) == 0 { RISK_LEVEL_UNSET } else { rng.below(9) as i32 },
        visited_countries: visited.iter().copied().collect(),
        origin: origin.into(),
        report_type: 1,
        days_since_onset_of_symptoms: [0, -3, 5, 3998, 4000][rng.below(5) as usize],
    }
}
