//! What can be wrong with a network document beyond its syntax: all faults at once, each with its place.

use std::collections::{BTreeSet, HashSet};

use super::document::{Document, Member, OriginProof, Routing};
use crate::efgs::MAX_KEYS;

/// One fault of a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Fault {
    /// Where, as a path of fields.
    pub path: String,
    /// What, and how to put it right.
    pub what: String,
}

impl Fault {
    pub(super) fn new(path: String, what: String) -> Self {
        Self { path, what }
    }
}

pub(super) fn check(document: &Document) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |path: String, what: &str| faults.push(Fault::new(path, what.into()));

    if document.network.is_empty() {
        fault("network".into(), "is empty");
    }
    if document.version < 1 {
        fault("version".into(), "starts at 1");
    }
    let mut ids = HashSet::new();
    for (i, key) in document.signing_keys.iter().enumerate() {
        if key.id.trim().is_empty() {
            fault(format!("signing_keys[{i}].id"), "is empty");
        }
        if !ids.insert(&key.id) {
            fault(format!("signing_keys[{i}].id"), "stands for an earlier key already");
        }
        if key.from >= key.until {
            fault(format!("signing_keys[{i}].until"), "is not after `from`");
        }
    }
    let countries: BTreeSet<_> = document.members.iter().map(|m| m.country).collect();
    for (alias, country) in &document.aliases {
        if countries.contains(alias) {
            fault(format!("aliases.{alias}"), "is a member itself");
        }
        if document.aliases.contains_key(country) {
            fault(format!("aliases.{alias}"), "leads to another alias");
        }
    }
    let mut seen = HashSet::new();
    for (i, member) in document.members.iter().enumerate() {
        let path = format!("members[{i}] ({})", member.country);
        if !seen.insert(member.country) {
            fault(path.clone(), "is a member already");
        }
        check_member(&path, member, &mut fault);
    }
    let mut numbers = HashSet::new();
    for (i, agreement) in document.agreements.iter().enumerate() {
        let path = format!("agreements[{i}]");
        if !numbers.insert(agreement.id) {
            fault(format!("{path}.id"), "stands for an earlier agreement already");
        }
        let mutual = agreement.parties.len() > 1;
        let one_way = !agreement.origins.is_empty() && !agreement.destinations.is_empty();
        let empty = agreement.origins.is_empty() && agreement.destinations.is_empty();
        if !((mutual && empty) || (one_way && agreement.parties.is_empty())) {
            fault(
                path.clone(),
                "names either two or more `parties` (mutual), or `origins` and `destinations`",
            );
        }
        for side in [&agreement.parties, &agreement.origins, &agreement.destinations] {
            let mut named = HashSet::new();
            for country in side.iter().filter(|c| !named.insert(**c)) {
                fault(path.clone(), &format!("names {country} twice"));
            }
        }
        if agreement.legal_basis.trim().is_empty() {
            fault(format!("{path}.legal_basis"), "is empty");
        }
        for country in agreement.parties.iter().chain(&agreement.origins).chain(&agreement.destinations) {
            if !countries.contains(country) {
                fault(path.clone(), &format!("names {country}, which is no member"));
            }
        }
        if agreement.from >= agreement.until {
            fault(format!("{path}.until"), "is not after `from`");
        }
        if agreement.kinds.is_empty() || agreement.report_types.is_empty() {
            fault(path, "covers nothing: name `kinds` and `report_types`");
        }
    }
    faults
}

fn check_member(path: &str, member: &Member, fault: &mut impl FnMut(String, &str)) {
    if member.states.windows(2).any(|w| w[0].from >= w[1].from) {
        fault(format!("{path}.states"), "are not in order of time");
    }
    if member.routing == Routing::Visited && member.origin_proof == OriginProof::Required {
        fault(
            format!("{path}.routing"),
            "`visited` gives parts of uploads, which only `origin_proof: hub` accepts",
        );
    }
    if !(1..=MAX_KEYS).contains(&(member.max_keys_per_upload as usize)) {
        fault(format!("{path}.max_keys_per_upload"), &format!("is not 1 to {MAX_KEYS}"));
    }
    for (c, certificate) in member.certificates.iter().enumerate() {
        if certificate.from >= certificate.until {
            fault(format!("{path}.certificates[{c}].until"), "is not after `from`");
        }
    }
}
