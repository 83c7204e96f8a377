//! What the countries must receive, said in another way than the pipeline says it: plain sets, no stages, no hashes.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_schemas::efgs::DiagnosisKey;

/// All fields of a key, comparable.
type Fields = (Vec<u8>, u32, u32, i32, Vec<String>, String, i32, i32);

fn fields(key: &DiagnosisKey) -> Fields {
    (
        key.key_data.to_vec(),
        key.rolling_start_interval_number,
        key.rolling_period,
        key.transmission_risk_level,
        key.visited_countries.iter().map(str::to_owned).collect(),
        key.origin.to_string(),
        key.report_type,
        key.days_since_onset_of_symptoms,
    )
}

/// How one country receives.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Takes only keys that name it.
    pub visited_only: bool,
    /// Accepts parts of uploads.
    pub accepts_parts: bool,
    /// Report types that each of its agreements with the sender covers; any of them is enough.
    pub agreements: Vec<BTreeSet<i32>>,
}

/// What the model says of one upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is taken.
    Refused,
    /// Decided before; nothing is sent again.
    Repeated,
    /// Taken, except the keys at these indexes.
    Taken(Vec<usize>),
}

struct Bound {
    content: Vec<Fields>,
    taken: Vec<Fields>,
}

/// One origin and all its receivers.
pub struct Model {
    receivers: BTreeMap<String, Receiver>,
    invalid_refuses_upload: bool,
    known: BTreeMap<Vec<u8>, Fields>,
    tags: BTreeMap<String, Bound>,
    /// By country: the new keys of each batch, in order of time.
    pub delivered: BTreeMap<String, Vec<BTreeSet<Vec<u8>>>>,
}

impl Model {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(receivers: BTreeMap<String, Receiver>, invalid_refuses_upload: bool) -> Self {
        let delivered = receivers.keys().map(|c| (c.clone(), Vec::new())).collect();
        Self { receivers, invalid_refuses_upload, known: BTreeMap::new(), tags: BTreeMap::new(), delivered }
    }

    /// An upload whose sender and signature are right. `invalid` says which keys are no valid keys.
    pub fn upload(
        &mut self,
        tag: &str,
        keys: &[DiagnosisKey],
        invalid: impl Fn(&DiagnosisKey) -> bool,
    ) -> Answer {
        if self.invalid_refuses_upload && keys.iter().any(&invalid) {
            return Answer::Refused;
        }
        let mut content: Vec<_> = keys.iter().map(fields).collect();
        content.sort();
        if let Some(bound) = self.tags.get(tag) {
            return if bound.content == content || bound.taken == content {
                Answer::Repeated
            } else {
                Answer::Refused
            };
        }
        let (mut taken, mut left_out, mut only_duplicates) = (Vec::new(), Vec::new(), true);
        let mut within = BTreeSet::new();
        for (i, key) in keys.iter().enumerate() {
            let again = !within.insert(key.key_data.to_vec()) && !invalid(key);
            let same_before = keys[..i].iter().find(|k| k.key_data == key.key_data && !invalid(k));
            let old = match same_before {
                Some(first) => Some(fields(first)),
                None => self.known.get(key.key_data.as_ref()).cloned(),
            };
            let duplicate = old.as_ref() == Some(&fields(key));
            if invalid(key)
                || duplicate
                || (again && same_before.is_some())
                || old.is_some_and(|o| !revises(&o, key))
            {
                left_out.push(i);
                only_duplicates &= duplicate && !invalid(key);
            } else {
                taken.push(key);
            }
        }
        for key in &taken {
            self.known.insert(key.key_data.to_vec(), fields(key));
        }
        if !taken.is_empty() || only_duplicates {
            let mut subset: Vec<_> = taken.iter().map(|k| fields(k)).collect();
            subset.sort();
            self.tags.insert(tag.to_owned(), Bound { content, taken: subset });
        }
        self.deliver(keys, &taken, &invalid);
        Answer::Taken(left_out)
    }

    fn deliver(
        &mut self,
        keys: &[DiagnosisKey],
        taken: &[&DiagnosisKey],
        invalid: &impl Fn(&DiagnosisKey) -> bool,
    ) {
        for (country, receiver) in &self.receivers {
            let goes = |key: &DiagnosisKey| {
                !invalid(key)
                    && receiver.agreements.iter().any(|covered| covered.contains(&key.report_type))
                    && (!receiver.visited_only || key.visited_countries.contains(country))
            };
            let new: BTreeSet<_> = taken.iter().filter(|k| goes(k)).map(|k| k.key_data.to_vec()).collect();
            if !new.is_empty() && (receiver.accepts_parts || keys.iter().all(goes)) {
                self.delivered.entry(country.clone()).or_default().push(new);
            }
        }
    }
}

/// A clinical diagnosis becomes a confirmed test; either is revoked; nothing else changes.
fn revises(old: &Fields, new: &DiagnosisKey) -> bool {
    let mut as_before = fields(new);
    as_before.6 = old.6;
    as_before == *old && matches!((old.6, new.report_type), (2, 1) | (2 | 1, 5))
}
