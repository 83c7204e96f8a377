//! What is uploaded, and what must become of it: written down before anything is sent.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    efgs::DiagnosisKey,
    rejection::Rejection,
    time::{INTERVALS_PER_DAY, Millis},
    world::{Rng, World, key},
};

use super::COUNTRIES;

/// Most clients send 4,000 keys at most.
const KEYS_PER_UPLOAD: usize = 4000;
/// Uploads of one key, whose way is timed.
const SINGLES: usize = 20;

/// One upload and what must come of it.
pub(super) struct Upload {
    pub tag: String,
    pub keys: Vec<DiagnosisKey>,
    /// Signs something else.
    pub bad_signature: bool,
    /// The HTTP status, and for a refusal its code.
    pub status: u16,
    pub code: Option<Rejection>,
    /// Keys by what must become of them.
    pub accepted: usize,
    pub revised: usize,
    pub duplicate: usize,
    pub invalid: usize,
    /// Indexes of the keys that an answer of 207 lists as not taken.
    pub not_taken: Vec<usize>,
    /// Keys that come with a download of each country.
    downloads: BTreeMap<&'static str, usize>,
}

/// The uploads of one country, in order.
pub(super) struct Uploads {
    all: Vec<Upload>,
    bulk: usize,
}

impl Uploads {
    /// The large ones and the special ones.
    pub fn bulk(&self) -> &[Upload] {
        &self.all[..self.bulk]
    }

    /// Those of one key.
    pub fn singles(&self) -> &[Upload] {
        &self.all[self.bulk..]
    }

    /// All of them.
    pub fn all(&self) -> &[Upload] {
        &self.all
    }
}

/// Everything that is uploaded.
pub(super) struct Plan {
    of: BTreeMap<String, Uploads>,
    /// By destination: the keys that must arrive.
    must_arrive: BTreeMap<&'static str, Keys>,
}

/// Report types by key data, each as it came last.
pub(super) type Keys = BTreeMap<Vec<u8>, i32>;

impl Plan {
    /// A plan with about `keys` keys.
    pub fn new(world: &World, keys: usize) -> Result<Self> {
        let mut plan = Self { of: BTreeMap::new(), must_arrive: BTreeMap::new() };
        let mut rng = Rng::from_entropy()?;
        let each = keys.div_ceil(COUNTRIES.len()).max(400);
        for country in COUNTRIES {
            world.nation(country)?;
            let uploads = plan.country(&mut rng, country, each);
            plan.of.insert(country.to_owned(), uploads);
        }
        Ok(plan)
    }

    fn country(&mut self, rng: &mut Rng, origin: &'static str, keys: usize) -> Uploads {
        let now = SystemClock.now();
        let mut fresh = |n: usize| (0..n).map(|_| traveller(rng, origin, now)).collect::<Vec<_>>();
        let mut first = fresh(keys.min(KEYS_PER_UPLOAD));
        // The first hundred are diagnoses, of which half are confirmed by a test later.
        first.iter_mut().take(100).for_each(|k| k.report_type = 2);
        let mut all = vec![self.taken(origin, "bulk-0", first.clone())];
        let mut left = keys - first.len();
        while left > 0 {
            let n = left.min(KEYS_PER_UPLOAD);
            all.push(self.taken(origin, &format!("bulk-{}", all.len()), fresh(n)));
            left -= n;
        }

        let known = first[100..200].to_vec();
        let mut mixed = self.taken(origin, "duplicates", [known.clone(), fresh(100)].concat());
        (mixed.status, mixed.accepted, mixed.duplicate) = (207, 100, known.len());
        mixed.not_taken = (0..known.len()).collect();
        all.push(mixed);

        let confirmed = first[..50].iter().map(|k| DiagnosisKey { report_type: 1, ..k.clone() }).collect();
        let mut revisions = self.taken(origin, "revisions", confirmed);
        revisions.revised = revisions.accepted;
        all.push(revisions);

        all.push(Upload {
            bad_signature: true,
            ..refused("bad-signature", fresh(10), Rejection::SignatureInvalid)
        });
        let mut foreign = fresh(10);
        foreign[3].origin = if origin == "DE" { "FR".into() } else { "DE".into() };
        all.push(refused("wrong-origin", foreign, Rejection::KeyOrigin));
        let mut expired = fresh(10);
        expired[4].rolling_start_interval_number -= 16 * INTERVALS_PER_DAY;
        all.push(self.expired(origin, expired));

        let bulk = all.len();
        for i in 0..SINGLES {
            all.push(self.taken(origin, &format!("single-{i}"), fresh(1)));
        }
        Uploads { all, bulk }
    }

    /// An upload of which every key is taken, as far as it says; whole for everyone but the Netherlands, who get what
    /// names them and was not there before.
    fn taken(&mut self, origin: &str, tag: &str, keys: Vec<DiagnosisKey>) -> Upload {
        let mut downloads = BTreeMap::new();
        for destination in COUNTRIES.into_iter().filter(|d| *d != origin) {
            let arrived = self.must_arrive.entry(destination).or_default();
            let wanted =
                |k: &DiagnosisKey| destination != "NL" || k.visited_countries.iter().any(|c| c == "NL");
            let revises = tag == "revisions";
            let some: Vec<_> = keys
                .iter()
                .filter(|k| wanted(k) && (revises || !arrived.contains_key(k.key_data.as_ref())))
                .collect();
            // If all of them are wanted, the upload travels whole, known keys included.
            let whole = keys.iter().all(wanted);
            let count = if some.is_empty() {
                0
            } else if whole {
                keys.len()
            } else {
                some.len()
            };
            arrived.extend(some.iter().map(|k| (k.key_data.to_vec(), k.report_type)));
            downloads.insert(destination, count);
        }
        let accepted = keys.len();
        Upload {
            tag: format!("{origin}-{tag}"),
            keys,
            bad_signature: false,
            status: 201,
            code: None,
            accepted,
            revised: 0,
            duplicate: 0,
            invalid: 0,
            not_taken: Vec::new(),
            downloads,
        }
    }

    /// Nine good keys and one that is too old: refused as a whole, but by Italy's policy, which leaves the one out. What
    /// is left can not carry Italy's signature, so only the Netherlands accept it.
    fn expired(&mut self, origin: &'static str, keys: Vec<DiagnosisKey>) -> Upload {
        if origin != "IT" {
            return refused("expired", keys, Rejection::InvalidKeys);
        }
        let good: Vec<_> = keys.iter().enumerate().filter(|(i, _)| *i != 4).map(|(_, k)| k).collect();
        let for_nl: Vec<_> = good.iter().filter(|k| k.visited_countries.iter().any(|c| c == "NL")).collect();
        let arrived = self.must_arrive.entry("NL").or_default();
        arrived.extend(for_nl.iter().map(|k| (k.key_data.to_vec(), k.report_type)));
        let downloads = [("NL", for_nl.len())].into();
        let accepted = good.len();
        Upload {
            status: 207,
            code: None,
            accepted,
            invalid: 1,
            not_taken: vec![4],
            downloads,
            ..refused("expired", keys, Rejection::InvalidKeys)
        }
    }

    /// The uploads of one country.
    pub fn of(&self, country: &str) -> &Uploads {
        &self.of[country]
    }

    /// Number of uploads.
    pub fn uploads(&self) -> usize {
        self.of.values().map(|u| u.all.len()).sum()
    }

    /// Number of keys in them.
    pub fn keys(&self) -> usize {
        self.of.values().flat_map(|u| &u.all).map(|u| u.keys.len()).sum()
    }

    /// The keys that must arrive at a destination.
    pub fn must_arrive(&self, destination: &str) -> Result<&Keys> {
        self.must_arrive.get(destination).with_context(|| format!("nothing is planned for {destination}"))
    }

    /// Number of keys that the first uploads of each origin must bring to a destination.
    pub fn downloads(&self, destination: &str, uploaded: &[(String, usize)]) -> usize {
        let of = |(origin, n): &(String, usize)| -> usize {
            self.of[origin]
                .all
                .iter()
                .take(*n)
                .map(|u| u.downloads.get(destination).copied().unwrap_or(0))
                .sum()
        };
        uploaded.iter().map(of).sum()
    }

    /// Number of keys that all uploads must bring to all destinations.
    pub fn expected_downloads(&self) -> usize {
        let all: Vec<_> = self.of.iter().map(|(c, u)| (c.clone(), u.all.len())).collect();
        COUNTRIES.iter().map(|d| self.downloads(d, &all)).sum()
    }
}

fn refused(tag: &str, keys: Vec<DiagnosisKey>, code: Rejection) -> Upload {
    Upload {
        tag: tag.to_owned(),
        keys,
        bad_signature: false,
        status: code.status(),
        code: Some(code),
        accepted: 0,
        revised: 0,
        duplicate: 0,
        invalid: 0,
        not_taken: Vec::new(),
        downloads: BTreeMap::new(),
    }
}

/// A key of somebody who has been in a few countries.
fn traveller(rng: &mut Rng, origin: &str, now: Millis) -> DiagnosisKey {
    let seen = rng.number();
    let visited: Vec<_> =
        COUNTRIES.iter().enumerate().filter(|(i, _)| seen >> i & 1 == 1).map(|(_, c)| *c).collect();
    key(rng, origin, &visited, now)
}
