//! The keys that an origin's stream remembers: a dense table, because there are tens of millions.
//!
//! A map of the standard library doubles and so holds 23 to 54 bytes a key. Fingerprints are uniform already, so this
//! is plain open addressing over flat slots that grow by a fifth: less than 32 bytes a key, measured by a test.

use keyferry_schemas::time::Day;

use crate::fingerprint::{Facts, Fingerprint, Id, LENGTH};

/// Splits the table, so that growing moves a sixty-fourth of it and not all.
const SHARDS: usize = 64;
/// A slot whose report type is this is free.
const FREE: u8 = 0xff;
/// A shard grows when it is fuller than this. To put a key in means to move those behind it up to the next free slot: 30 of
/// them here, and a hundred where nine tenths and more are full.
const FULL_PERCENT: usize = 87;

type Slot = [u8; LENGTH];

/// A set of fingerprints by id.
#[derive(Clone)]
pub struct Seen {
    shards: Vec<Shard>,
}

#[derive(Clone, Default)]
struct Shard {
    slots: Vec<Slot>,
    used: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self { shards: vec![Shard::default(); SHARDS] }
    }
}

impl Seen {
    /// What is remembered of the key with this id.
    #[must_use]
    pub fn get(&self, id: &Id) -> Option<Facts> {
        let shard = &self.shards[shard_of(id)];
        shard.find(id).ok().map(|at| Fingerprint::from_bytes(&shard.slots[at]).facts)
    }

    /// Has the memory fetched in which these keys would be, all at once: in a large table each is far away, and waiting for
    /// one after the other takes longer than all that is done with them.
    pub fn fetch<'i>(&self, ids: impl Iterator<Item = &'i Id>) {
        let touch = |id: &Id| {
            let shard = &self.shards[shard_of(id)];
            shard.slots.get(shard.home(id)).map_or(0, |slot| slot[16])
        };
        std::hint::black_box(ids.fold(0, |sum, id| sum ^ touch(id)));
    }

    /// Remembers a key, in place of what was remembered of it.
    pub fn insert(&mut self, print: &Fingerprint) {
        self.shards[shard_of(&print.id)].insert(print.to_bytes());
    }

    /// Forgets every key whose last day is before `today`.
    pub fn forget_before(&mut self, today: Day) {
        for shard in &mut self.shards {
            let old = std::mem::take(&mut shard.slots);
            let kept =
                |slot: &&Slot| slot[16] != FREE && Fingerprint::from_bytes(slot).facts.last_day >= today;
            let count = old.iter().filter(kept).count();
            *shard = Shard::with_room_for(count);
            old.iter().filter(kept).for_each(|slot| shard.insert(*slot));
        }
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.used).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory of the table, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.slots.capacity() * LENGTH).sum()
    }
}

impl Shard {
    fn with_room_for(count: usize) -> Self {
        let room = count * 100 / FULL_PERCENT + 1;
        let mut slots = Vec::new();
        slots.reserve_exact(room);
        slots.resize(room, [FREE; LENGTH]);
        Self { slots, used: 0 }
    }

    /// Where a key with this id would like to be.
    fn home(&self, id: &[u8]) -> usize {
        // Scales the hash to the room instead of dividing, so that the room need not be a power of two.
        let hash = u64::from_be_bytes(std::array::from_fn(|i| id[i + 1]));
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Where `id` is, or where it would be put. Along the slots keys stand in the order of their homes, so the search for
    /// one that is not there ends soon, however full the table.
    fn find(&self, id: &Id) -> Result<usize, usize> {
        let room = self.slots.len();
        if room == 0 {
            return Err(0);
        }
        let mut at = self.home(id);
        for way in 0..room {
            let slot = &self.slots[at];
            if slot[16] == FREE {
                return Err(at);
            }
            if slot[..16] == id[..] {
                return Ok(at);
            }
            let home = self.home(slot);
            let its_way = if at < home { at + room - home } else { at - home };
            if its_way < way {
                return Err(at);
            }
            at = self.after(at);
        }
        Err(at)
    }

    fn insert(&mut self, slot: Slot) {
        let id: Id = std::array::from_fn(|i| slot[i]);
        match self.find(&id) {
            Ok(at) => self.slots[at] = slot,
            Err(_) if (self.used + 1) * 100 > self.slots.len() * FULL_PERCENT => {
                self.grow();
                self.insert(slot);
            }
            Err(at) => {
                self.make_way(at);
                self.slots[at] = slot;
                self.used += 1;
            }
        }
    }

    /// Moves those that stand from here to the next free slot on by one.
    fn make_way(&mut self, at: usize) {
        let free = |slots: &[Slot]| slots.iter().position(|slot| slot[16] == FREE);
        if let Some(n) = free(&self.slots[at..]) {
            self.slots.copy_within(at..at + n, at + 1);
        } else if let Some(n) = free(&self.slots) {
            let last = self.slots.len() - 1;
            self.slots.copy_within(..n, 1);
            self.slots[0] = self.slots[last];
            self.slots.copy_within(at..last, at + 1);
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        *self = Self::with_room_for((self.used + self.used / 5).max(8));
        old.into_iter().filter(|slot| slot[16] != FREE).for_each(|slot| self.insert(slot));
    }
}

fn shard_of(id: &Id) -> usize {
    usize::from(id[0]) % SHARDS
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn print(n: u32, report_type: u8, day: u16) -> Fingerprint {
        let hash = Sha256::digest(n.to_be_bytes());
        let facts = Facts { report_type, last_day: Day(day), rest: [1; 4] };
        Fingerprint { id: std::array::from_fn(|i| hash[i]), facts }
    }

    proptest! {
        #[test]
        fn it_is_a_map(operations in proptest::collection::vec((0u32..400, 0u8..6, 0u16..9), 0..900)) {
            let (mut seen, mut model) = (Seen::default(), HashMap::new());
            for (i, (n, report_type, day)) in operations.into_iter().enumerate() {
                let p = print(n, report_type, day);
                seen.insert(&p);
                model.insert(p.id, p.facts);
                if i % 300 == 299 {
                    seen.forget_before(Day(day));
                    model.retain(|_, f| f.last_day >= Day(day));
                }
            }
            prop_assert_eq!(seen.len(), model.len());
            for n in 0..400 {
                let id = print(n, 0, 0).id;
                prop_assert_eq!(seen.get(&id), model.get(&id).copied());
            }
        }
    }

    #[test]
    fn a_key_takes_less_than_32_bytes() {
        let mut seen = Seen::default();
        for n in 0..200_000 {
            seen.insert(&print(n, 1, 1));
            if n > 20_000 && n % 1000 == 0 {
                assert!(seen.bytes() < seen.len() * 32, "{} keys, {} bytes", seen.len(), seen.bytes());
            }
        }
    }
}
