//! What each country has to have received by all rows so far.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_tests::exchange::Exchange;

use crate::{downloads::Page, row::Row};

/// Of the countries that are asked, the one that asks for no proof of origin.
const HUB: &str = "NL";

/// By key data.
#[derive(Default)]
pub struct Deliveries(BTreeMap<Vec<u8>, Key>);

struct Key {
    origin: String,
    /// The last row with it, to be blamed.
    row: String,
    /// To everybody.
    whole: usize,
    /// To those who ask for no proof.
    subset: usize,
}

impl Key {
    fn to(&self, country: &str) -> usize {
        match country {
            _ if country == self.origin => 0,
            HUB => self.whole + self.subset,
            _ => self.whole,
        }
    }
}

impl Deliveries {
    pub fn expect(&mut self, row: &Row) {
        for (index, key) in row.keys.iter().enumerate() {
            let known = self.0.entry(key.key_data.to_vec()).or_insert_with(|| Key {
                origin: key.origin.to_string(),
                row: String::new(),
                whole: 0,
                subset: 0,
            });
            known.row.clone_from(&row.name);
            let n = usize::from(row.delivered.contains(&index));
            *(if row.subset { &mut known.subset } else { &mut known.whole }) += n;
        }
    }

    /// Which rows brought a country too much or too little, by the topics.
    pub fn topics(&self, exchange: &Exchange) -> BTreeSet<String> {
        let mut failures = BTreeSet::new();
        for country in ["DE", "FR", HUB] {
            let mut got = BTreeMap::<_, usize>::new();
            for key in exchange.hub.delivered(country).unwrap() {
                *got.entry(key).or_default() += 1;
            }
            for (data, key) in &self.0 {
                let (expected, got) = (key.to(country), got.remove(data).unwrap_or_default());
                if got != expected {
                    failures.insert(format!("{}: {country} got a key {got} times, not {expected}", key.row));
                }
            }
            if !got.is_empty() {
                failures.insert(format!("{country} got {} keys that nobody sent", got.len()));
            }
        }
        failures
    }

    fn due(&self, country: &str) -> impl Iterator<Item = &Vec<u8>> {
        self.0.iter().filter(move |(_, key)| key.to(country) > 0).map(|(data, _)| data)
    }

    /// Whether these batches hold everything that is due.
    pub fn are_in(&self, country: &str, pages: &[Page]) -> bool {
        let got: BTreeSet<_> = pages.iter().flat_map(|p| &p.keys).map(|k| &k.key_data[..]).collect();
        self.due(country).all(|data| got.contains(&data[..]))
    }

    /// What is in these batches that must not be. A whole upload is downloaded whole, with keys that are known already.
    pub fn downloads(&self, country: &str, pages: &[Page]) -> BTreeSet<String> {
        let keys = pages.iter().flat_map(|page| &page.keys);
        let bad = keys.filter_map(|key| {
            let Some(known) = self.0.get(&key.key_data[..]) else {
                return Some("a key that nobody sent".into());
            };
            let never = known.whole + known.subset == 0 || known.origin == country;
            never.then(|| format!("{}: {country} downloads a key that it must not have", known.row))
        });
        bad.collect()
    }
}
