//! Stage 3. Which countries get which of these keys, and under which agreement?

use keyferry_schemas::{
    batch::{DataClass, Level},
    country::Country,
    efgs::DiagnosisKey,
    network::{Member, MemberState, Network, OriginProof, Routing},
    records::Withheld,
    rejection::Rejection,
    time::Millis,
};

use crate::{deduplicate::Deduplicated, validate::int};

/// What one country gets.
pub struct Route {
    pub(crate) destination: Country,
    /// Indexes in the upload, in canonical order; never empty.
    pub(crate) keys: Vec<usize>,
    pub(crate) new_keys: usize,
    pub(crate) level: Level,
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
        let verified = &deduplicated.verified;
        let valid = |index: &usize| verified.invalid[*index].is_none();
        let order: Vec<usize> = verified.canonical.iter().map(|(index, _)| index).filter(valid).collect();
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
            routes.extend(route(&deduplicated, &order, member, network, now, &mut refuse));
        }
    }
    Tagged { deduplicated, routes, withheld }
}

/// `order`: the valid keys of the upload, in canonical order.
fn route(
    upload: &Deduplicated<'_>,
    order: &[usize],
    member: &Member,
    network: &Network,
    now: Millis,
    refuse: &mut impl FnMut(Rejection, usize),
) -> Option<Route> {
    let (origin, destination) = (upload.verified.upload.origin, member.country);
    let keys = &upload.verified.keys;
    let coverage = network.coverage(origin, destination, now);
    let wanted =
        |i: &usize| member.routing == Routing::OneWorld || is_visited(&keys[*i], destination, network);
    let covered = |i: &usize| coverage.as_ref().is_some_and(|c| c.covers(&keys[*i]));
    let fresh = |i: &usize| upload.fates[*i].is_taken();
    let (covered, other): (Vec<usize>, Vec<usize>) =
        order.iter().filter(|i| wanted(i)).partition(|i| covered(i));
    refuse(Rejection::NoAgreement, other.iter().filter(|i| fresh(i)).count());
    let new_keys = covered.iter().filter(|i| fresh(i)).count();
    if new_keys == 0 {
        return None;
    }
    // Whole means every key of the upload: then the origin's own signature travels along and still verifies.
    let level = if covered.len() == keys.len() { Level::Whole } else { Level::Subset };
    if level == Level::Subset && member.origin_proof == OriginProof::Required {
        refuse(Rejection::NotProvable, new_keys);
        return None;
    }
    let sent = match level {
        Level::Whole => covered,
        // Nothing has to be complete here, so what the country has already is left out.
        Level::Subset => covered.into_iter().filter(fresh).collect(),
    };
    let (agreement, data_class) = coverage?.terms(sent.iter().map(|i| &keys[*i]))?;
    Some(Route { destination, keys: sent, new_keys, level, agreement, data_class })
}

fn is_visited(key: &DiagnosisKey, destination: Country, network: &Network) -> bool {
    let home = network.resolve(destination);
    key.visited_countries.iter().any(|c| c.parse().is_ok_and(|c| network.resolve(c) == home))
}
