//! Stage 3. Which countries get which of these keys, and under which agreement?
//!
//! Most destinations get the same keys. Those are chosen once, so that one more destination costs next to nothing a key.

use std::{collections::BTreeMap, sync::Arc};

use keyferry_schemas::{
    batch::{DataClass, Level},
    country::Country,
    network::{Member, MemberState, Network, OriginProof, Routing},
    records::Withheld,
    rejection::Rejection,
    time::Millis,
};

use crate::{deduplicate::Deduplicated, validate::int};

/// Keys that go out together, to one country or to many.
pub(crate) struct Choice {
    /// Indexes in the upload, in canonical order.
    pub(crate) keys: Vec<usize>,
    pub(crate) new_keys: usize,
    pub(crate) level: Level,
    /// One of the keys for each report type among them.
    kinds: Vec<usize>,
    /// Number of new keys that no agreement covers.
    uncovered: usize,
}

/// What one country gets.
pub struct Route {
    pub(crate) destination: Country,
    /// Never empty.
    pub(crate) choice: Arc<Choice>,
    pub(crate) agreement: i32,
    pub(crate) data_class: DataClass,
}

/// An upload with its destinations.
pub struct Tagged<'e> {
    pub(crate) deduplicated: Deduplicated<'e>,
    pub(crate) routes: Vec<Route>,
    pub(crate) withheld: Vec<Withheld>,
}

/// Finds the destinations: by membership, agreement and routing, and never the origin itself.
#[must_use]
pub fn tag<'e>(deduplicated: Deduplicated<'e>, network: &Network, now: Millis) -> Tagged<'e> {
    let origin = deduplicated.verified.upload.origin;
    let (mut routes, mut withheld) = (Vec::new(), Vec::new());
    if !deduplicated.fingerprints.is_empty() {
        let mut choices = Choices::of(&deduplicated, network);
        for destination in network.countries().filter(|c| *c != origin) {
            let receives =
                matches!(network.state(destination, now), MemberState::Active | MemberState::Paused);
            let Some(member) = network.member(destination).filter(|_| receives) else { continue };
            let mut refuse = |reason: Rejection, keys: usize| {
                if keys > 0 {
                    withheld.push(Withheld {
                        destination,
                        reason: reason.code().to_owned(),
                        keys: int(keys),
                    });
                }
            };
            routes.extend(route(&mut choices, member, now, &mut refuse));
        }
    }
    Tagged { deduplicated, routes, withheld }
}

fn route(
    choices: &mut Choices<'_>,
    member: &Member,
    now: Millis,
    refuse: &mut impl FnMut(Rejection, usize),
) -> Option<Route> {
    let destination = member.country;
    let verified = &choices.upload.verified;
    let coverage = choices.network.coverage(verified.upload.origin, destination, now);
    let covers = |index: usize| coverage.as_ref().is_some_and(|c| c.covers(&verified.keys[index]));
    let choice = choices.choose(member, covers);
    refuse(Rejection::NoAgreement, choice.uncovered);
    if choice.new_keys == 0 {
        return None;
    }
    if choice.level == Level::Subset && member.origin_proof == OriginProof::Required {
        refuse(Rejection::NotProvable, choice.new_keys);
        return None;
    }
    let (agreement, data_class) = coverage?.terms(choice.kinds.iter().map(|i| &verified.keys[*i]))?;
    Some(Route { destination, choice, agreement, data_class })
}

/// What may be chosen from an upload, and what was.
struct Choices<'u> {
    upload: &'u Deduplicated<'u>,
    network: &'u Network,
    /// The valid keys, in canonical order.
    valid: Vec<usize>,
    /// One of them for each report type.
    kinds: Vec<usize>,
    /// Choices from all of them, by the report types that agreements cover.
    made: Vec<(Vec<i32>, Arc<Choice>)>,
    /// The valid keys by the countries that they name, once a destination asks.
    visited: Option<BTreeMap<Country, Vec<usize>>>,
}

impl<'u> Choices<'u> {
    fn of(upload: &'u Deduplicated<'u>, network: &'u Network) -> Self {
        let verified = &upload.verified;
        let is_valid = |index: &usize| verified.invalid[*index].is_none();
        let valid: Vec<usize> = verified.canonical.iter().map(|(index, _)| index).filter(is_valid).collect();
        let mut choices = Self { upload, network, kinds: Vec::new(), valid, made: Vec::new(), visited: None };
        choices.kinds = choices.kinds(&choices.valid);
        choices
    }

    fn report_type(&self, index: usize) -> i32 {
        self.upload.verified.keys[index].report_type
    }

    fn kinds(&self, keys: &[usize]) -> Vec<usize> {
        let mut kinds: Vec<usize> = Vec::new();
        for index in keys {
            if !kinds.iter().any(|known| self.report_type(*known) == self.report_type(*index)) {
                kinds.push(*index);
            }
        }
        kinds
    }

    /// `covers`: whether an agreement covers the report type of a key.
    fn choose(&mut self, member: &Member, covers: impl Fn(usize) -> bool) -> Arc<Choice> {
        let covered = self.kinds.iter().filter(|i| covers(**i)).map(|i| self.report_type(*i));
        let covered: Vec<i32> = covered.collect();
        if member.routing == Routing::Visited {
            let home = self.network.resolve(member.country);
            let visited = self.visited.take().unwrap_or_else(|| self.by_visited());
            let choice = self.pick(visited.get(&home).map_or(&[], Vec::as_slice), &covered);
            self.visited = Some(visited);
            return Arc::new(choice);
        }
        if let Some((_, choice)) = self.made.iter().find(|(types, _)| *types == covered) {
            return Arc::clone(choice);
        }
        let choice = Arc::new(self.pick(&self.valid, &covered));
        self.made.push((covered, Arc::clone(&choice)));
        choice
    }

    fn pick(&self, wanted: &[usize], covered: &[i32]) -> Choice {
        let is_new = |index: &usize| self.upload.fates[*index].is_taken();
        let new_of = |keys: &[usize]| keys.iter().filter(|i| is_new(i)).count();
        let (mut keys, other): (Vec<usize>, Vec<usize>) =
            wanted.iter().partition(|i| covered.contains(&self.report_type(**i)));
        // Whole means every key of the upload: then the origin's own signature travels along and still verifies.
        let whole = keys.len() == self.upload.verified.keys.len();
        let level = if whole { Level::Whole } else { Level::Subset };
        if level == Level::Subset {
            // Nothing has to be complete here, so what the country has already is left out.
            keys.retain(is_new);
        }
        let (new_keys, uncovered) = (new_of(&keys), new_of(&other));
        Choice { new_keys, uncovered, level, kinds: self.kinds(&keys), keys }
    }

    fn by_visited(&self) -> BTreeMap<Country, Vec<usize>> {
        let mut visited = BTreeMap::<Country, Vec<usize>>::new();
        for index in &self.valid {
            for country in self.upload.verified.keys[*index].visited_countries.countries().flatten() {
                let keys = visited.entry(self.network.resolve(country)).or_default();
                // A key may name a country twice, or by two codes.
                if keys.last() != Some(index) {
                    keys.push(*index);
                }
            }
        }
        visited
    }
}
