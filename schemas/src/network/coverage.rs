//! What the agreements let flow: all of them together that are in force for one pair of countries.

use std::collections::BTreeSet;

use super::{Agreement, DataClassName, KindName, Network};
use crate::{batch::DataClass, country::Country, efgs::DiagnosisKey, time::Millis};

/// The agreements in force from one country to another at one time. Each covers its own report types; what any of them
/// covers may flow.
pub struct Coverage<'n> {
    /// By number; never empty.
    agreements: Vec<&'n Agreement>,
}

impl Network {
    /// What may flow from `origin` to `destination` at `now`; `None` if no agreement is in force.
    #[must_use]
    pub fn coverage(&self, origin: Country, destination: Country, now: Millis) -> Option<Coverage<'_>> {
        let mut agreements: Vec<_> = self
            .document
            .agreements
            .iter()
            .filter(|a| Millis::from(a.from) <= now && now < Millis::from(a.until))
            .filter(|a| a.kinds.contains(&KindName::ExposedKeys) && a.joins(origin, destination))
            .collect();
        agreements.sort_by_key(|a| a.id);
        (!agreements.is_empty()).then_some(Coverage { agreements })
    }
}

impl Coverage<'_> {
    /// Whether any agreement covers the report type of `key`.
    #[must_use]
    pub fn covers(&self, key: &DiagnosisKey) -> bool {
        self.agreements.iter().any(|a| a.covers(key.report_type))
    }

    /// Under which number and as which class of data these keys go out: the lowest number of the agreements that cover
    /// at least one of them, and pseudonymous if any of those says so. `None` if no agreement covers any.
    pub fn terms<'k>(&self, keys: impl Iterator<Item = &'k DiagnosisKey>) -> Option<(i32, DataClass)> {
        self.terms_of(&keys.map(|k| k.report_type).collect())
    }

    /// The same of keys with these report types, if every one of them is covered; else `None`.
    pub(crate) fn terms_of_all(&self, types: &BTreeSet<i32>) -> Option<(i32, DataClass)> {
        let covered = types.iter().all(|t| self.agreements.iter().any(|a| a.covers(*t)));
        if covered { self.terms_of(types) } else { None }
    }

    fn terms_of(&self, types: &BTreeSet<i32>) -> Option<(i32, DataClass)> {
        let mut applying = self.agreements.iter().filter(|a| types.iter().any(|t| a.covers(*t))).peekable();
        let number = applying.peek()?.id;
        let pseudonymous = applying.any(|a| a.data_class == DataClassName::Pseudonymous);
        Some((number, if pseudonymous { DataClass::Pseudonymous } else { DataClass::Anonymous }))
    }

    /// As which classes of data keys may have gone out under this number, whichever keys they were; `None` if it is not
    /// in force here.
    pub(crate) fn classes(&self, number: i32) -> Option<Vec<DataClass>> {
        let from = self.agreements.iter().position(|a| a.id == number)?;
        // Those with lower numbers covered none of them, the named one did, and any of the others may have.
        let (named, others) = (self.agreements[from], &self.agreements[from + 1..]);
        let pseudonymous = |a: &Agreement| a.data_class == DataClassName::Pseudonymous;
        let mut classes = Vec::new();
        if pseudonymous(named) || others.iter().any(|a| pseudonymous(a)) {
            classes.push(DataClass::Pseudonymous);
        }
        if !pseudonymous(named) {
            classes.push(DataClass::Anonymous);
        }
        Some(classes)
    }
}

impl Agreement {
    fn joins(&self, origin: Country, destination: Country) -> bool {
        let mutual = self.parties.contains(&origin) && self.parties.contains(&destination);
        mutual || (self.origins.contains(&origin) && self.destinations.contains(&destination))
    }

    fn covers(&self, report_type: i32) -> bool {
        self.report_types.iter().any(|t| *t as i32 == report_type)
    }
}
