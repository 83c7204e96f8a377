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
pub struct Tagged {
    pub(crate) deduplicated: Deduplicated,
    pub(crate) routes: Vec<Route>,
    pub(crate) withheld: Vec<Withheld>,
}

/// Finds the destinations: by membership, agreement and routing, and never the origin itself.
#[must_use]
pub fn tag(deduplicated: Deduplicated, network: &Network, now: Millis) -> Tagged {
    let origin = deduplicated.verified.upload.origin;
    let (mut routes, mut withheld) = (Vec::new(), Vec::new());
    if !deduplicated.fingerprints.is_empty() {
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
            routes.extend(route(&deduplicated, origin, member, network, now, &mut refuse));
        }
    }
    Tagged { deduplicated, routes, withheld }
}

fn route(
    upload: &Deduplicated,
    origin: Country,
    member: &Member,
    network: &Network,
    now: Millis,
    refuse: &mut impl FnMut(Rejection, usize),
) -> Option<Route> {
    let destination = member.country;
    let keys = &upload.verified.keys;
    let wanted = |i: usize| member.routing == Routing::OneWorld || is_visited(&keys[i], destination, network);
    let fresh = |i: &usize| upload.fates[*i].is_taken();
    let order: Vec<usize> = upload.verified.canonical.iter().map(|(index, _)| index).collect();
    let wanted: Vec<usize> =
        order.iter().copied().filter(|i| wanted(*i) && upload.verified.invalid[*i].is_none()).collect();
    let wanted_new = wanted.iter().filter(|i| fresh(i)).count();

    let Some((agreement, _)) = network.agreement(origin, destination, now, wanted.iter().map(|i| &keys[*i]))
    else {
        refuse(Rejection::NoAgreement, wanted_new);
        return None;
    };
    let covered: Vec<usize> = wanted.into_iter().filter(|i| agreement.covers(&keys[*i])).collect();
    let new_keys = covered.iter().filter(|i| fresh(i)).count();
    refuse(Rejection::NoAgreement, wanted_new - new_keys);
    if new_keys == 0 {
        return None;
    }
    // Whole means every key of the upload: then the origin's own signature travels along and still verifies.
    let level = if covered.len() == keys.len() { Level::Whole } else { Level::Subset };
    if level == Level::Subset && member.origin_proof == OriginProof::Required {
        refuse(Rejection::NotProvable, new_keys);
        return None;
    }
    let keys = match level {
        Level::Whole => covered,
        // Nothing has to be complete here, so what the country has already is left out.
        Level::Subset => covered.into_iter().filter(fresh).collect(),
    };
    Some(Route {
        destination,
        keys,
        new_keys,
        level,
        agreement: agreement.id,
        data_class: agreement.data_class.into(),
    })
}

fn is_visited(key: &DiagnosisKey, destination: Country, network: &Network) -> bool {
    let home = network.resolve(destination);
    key.visited_countries.iter().any(|c| c.parse().is_ok_and(|c| network.resolve(c) == home))
}
