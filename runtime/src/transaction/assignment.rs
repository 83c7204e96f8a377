//! Which partitions this instance owns, as the consumer group tells it from inside `poll`.

use std::{collections::BTreeMap, sync::Mutex};

use keyferry_schemas::country::Country;

/// Counts assignments: a record belongs to the assignment in which it was read, and to no later one.
pub type Generation = u64;

/// What the group has given to this instance.
#[derive(Default)]
pub struct Assignment {
    owned: Mutex<Owned>,
}

#[derive(Default)]
struct Owned {
    joined: bool,
    last: Generation,
    origins: BTreeMap<Country, Generation>,
    rebalances: u64,
}

impl Assignment {
    /// Every origin owned now, with the generation of its assignment.
    pub fn owned(&self) -> BTreeMap<Country, Generation> {
        self.owned.lock().map(|owned| owned.origins.clone()).unwrap_or_default()
    }

    /// Whether `origin` is still owned by the assignment with this generation.
    pub fn still_owns(&self, origin: Country, generation: Generation) -> bool {
        self.owned.lock().is_ok_and(|owned| owned.origins.get(&origin) == Some(&generation))
    }

    /// Whether the group has told at least once what is ours, be it nothing.
    pub fn has_joined(&self) -> bool {
        self.owned.lock().is_ok_and(|owned| owned.joined)
    }

    /// Number of rebalances since the last call.
    pub fn take_rebalances(&self) -> u64 {
        self.owned.lock().map(|mut owned| std::mem::take(&mut owned.rebalances)).unwrap_or_default()
    }

    /// Notes that the group has given these, which were not ours.
    pub fn given(&self, origins: &[Country]) {
        if let Ok(mut owned) = self.owned.lock() {
            (owned.rebalances, owned.joined) = (owned.rebalances + 1, true);
            for origin in origins {
                owned.last += 1;
                let generation = owned.last;
                owned.origins.insert(*origin, generation);
            }
        }
    }

    /// Notes that the group has taken these away.
    pub fn taken(&self, origins: &[Country]) {
        if let Ok(mut owned) = self.owned.lock() {
            owned.rebalances += 1;
            owned.origins.retain(|origin, _| !origins.contains(origin));
        }
    }
}
