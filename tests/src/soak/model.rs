//! What has to come of the uploads of one origin: the rules once more, in plain lists and maps, without the stages.
//!
//! It is told the uploads in the order in which they stand on their topic, and for each the version of the network
//! document that was applied; everything else follows.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use keyferry_schemas::{
    efgs::DiagnosisKey,
    network::{Agreement, Document, InvalidKeys, Member, MemberState, OriginProof, Routing, Use},
    records::Hash,
};

use super::keys::{canonical_order, fault, revises, text};

/// An upload, as its sender knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// Whose it is.
    pub origin: String,
    /// Its name.
    pub tag: String,
    /// Its keys, in the sender's order.
    pub keys: Vec<DiagnosisKey>,
    /// Whether the signature is one over these keys.
    pub signed: bool,
    /// SHA-256 of the certificate that goes with the signature.
    pub signer: Hash,
}

/// What becomes of an upload.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// As the ledger names it.
    pub outcome: &'static str,
    /// Why nothing was taken.
    pub code: Option<&'static str>,
    /// Keys not taken: index and code.
    pub refused: Vec<(usize, &'static str)>,
    /// How many were taken.
    pub taken: usize,
    /// How many of these revise an earlier one.
    pub revised: usize,
    /// For a repeat: the place of the upload that was decided first.
    pub first: Option<i64>,
    /// What goes out, by country.
    pub parcels: Vec<Parcel>,
    /// What does not: country, code, number of keys.
    pub withheld: Vec<(String, &'static str, usize)>,
}

/// What one country gets of one upload.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// The country.
    pub destination: String,
    /// Its number on the way from the origin to there.
    pub sequence: i64,
    /// The keys, in canonical order.
    pub keys: Vec<DiagnosisKey>,
    /// Which of them are new.
    pub new: Vec<bool>,
    /// Whether it is the whole upload, with the origin's signature.
    pub whole: bool,
    /// The number of the agreement.
    pub agreement: i32,
}

/// What a tag stands for.
struct Bound {
    content: Vec<String>,
    taken: Vec<String>,
    refused: Vec<(usize, &'static str)>,
    first: i64,
}

/// The uploads of one origin so far.
#[derive(Default)]
pub struct Stream {
    known: BTreeMap<Vec<u8>, DiagnosisKey>,
    tags: BTreeMap<String, Bound>,
    sequences: BTreeMap<String, i64>,
}

impl Stream {
    /// The next upload: it stands at `place`, at the time `now`, and is judged under this document.
    pub fn decide(&mut self, upload: &Upload, place: i64, now: Timestamp, document: &Document) -> Decision {
        let Some(sender) = document.members.iter().find(|m| m.country.as_str() == upload.origin) else {
            return rejected("member-unknown");
        };
        if let Some(code) = refusal(upload, sender, now) {
            return rejected(code);
        }
        let order = canonical_order(&upload.keys);
        let content: Vec<_> = order.iter().map(|i| text(&upload.keys[*i])).collect();
        if let Some(bound) = self.tags.get(&upload.tag) {
            return repeated(bound, &content, &order);
        }
        let bad: Vec<_> = upload.keys.iter().map(|k| fault(k, now)).collect();
        if sender.invalid_keys == InvalidKeys::RejectUpload && bad.iter().any(Option::is_some) {
            let named = bad.iter().enumerate().filter_map(|(i, code)| Some((i, (*code)?)));
            return Decision { refused: named.collect(), ..rejected("invalid-keys") };
        }
        let (verdicts, revised) = self.judge(&upload.keys, &bad);
        let refused: Vec<_> = verdicts.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?))).collect();
        let fresh: BTreeSet<usize> = (0..upload.keys.len()).filter(|i| verdicts[*i].is_none()).collect();
        for i in &fresh {
            self.known.insert(upload.keys[*i].key_data.to_vec(), upload.keys[*i].clone());
        }
        // Where nothing was taken for other reasons than that it was there, there is nothing to repeat.
        if !fresh.is_empty() || refused.iter().all(|(_, code)| *code == "duplicate") {
            let taken = order.iter().filter(|i| fresh.contains(i)).map(|i| text(&upload.keys[*i])).collect();
            let places = order.iter().enumerate().filter_map(|(place, i)| Some((place, verdicts[*i]?)));
            let bound = Bound { content, taken, refused: places.collect(), first: place };
            self.tags.insert(upload.tag.clone(), bound);
        }
        let valid: Vec<_> = order.into_iter().filter(|i| bad[*i].is_none()).collect();
        let (mut parcels, mut withheld) = (Vec::new(), Vec::new());
        let mut members: Vec<_> = document.members.iter().collect();
        members.sort_by_key(|m| m.country.as_str());
        for member in members.into_iter().filter(|m| m.country != sender.country && !fresh.is_empty()) {
            let parcel = deliver(upload, &valid, &fresh, member, document, now, &mut withheld);
            parcels.extend(parcel.map(|p| self.number(p)));
        }
        Decision {
            outcome: if refused.is_empty() { "ACCEPTED" } else { "PARTIAL" },
            code: None,
            refused,
            taken: fresh.len(),
            revised,
            first: None,
            parcels,
            withheld,
        }
    }

    fn number(&mut self, parcel: Parcel) -> Parcel {
        let last = self.sequences.entry(parcel.destination.clone()).or_default();
        *last += 1;
        Parcel { sequence: *last, ..parcel }
    }

    /// Why each key is not taken, and how many are revisions.
    fn judge(
        &self,
        keys: &[DiagnosisKey],
        bad: &[Option<&'static str>],
    ) -> (Vec<Option<&'static str>>, usize) {
        let (mut within, mut revised) = (BTreeMap::new(), 0);
        let mut verdicts = Vec::new();
        for (key, fault) in keys.iter().zip(bad) {
            let earlier = within.get(&key.key_data).copied();
            let verdict = match (fault, earlier, self.known.get(key.key_data.as_ref())) {
                (Some(code), ..) => Some(*code),
                // The first in one upload counts.
                (_, Some(first), _) => Some(if first == key { "duplicate" } else { "key-conflict" }),
                (_, None, None) => None,
                (_, None, Some(old)) if old == key => Some("duplicate"),
                (_, None, Some(old)) if revises(old, key) => {
                    revised += 1;
                    None
                }
                _ => Some("key-conflict"),
            };
            if fault.is_none() {
                within.entry(key.key_data.clone()).or_insert(key);
            }
            verdicts.push(verdict);
        }
        (verdicts, revised)
    }
}

fn rejected(code: &'static str) -> Decision {
    Decision {
        outcome: "REJECTED",
        code: Some(code),
        refused: Vec::new(),
        taken: 0,
        revised: 0,
        first: None,
        parcels: Vec::new(),
        withheld: Vec::new(),
    }
}

/// Of a member and its certificates, at a time.
#[must_use]
pub fn state_of(member: &Member, now: Timestamp) -> MemberState {
    let mut begun = member.states.iter().filter(|s| s.from <= now);
    begun.next_back().map_or(MemberState::Pending, |s| s.state)
}

fn refusal(upload: &Upload, sender: &Member, now: Timestamp) -> Option<&'static str> {
    if state_of(sender, now) != MemberState::Active {
        return Some("member-not-active");
    }
    if upload.keys.iter().any(|k| *k.origin != *upload.origin) {
        return Some("key-origin-foreign");
    }
    let named: Vec<_> = sender
        .certificates
        .iter()
        .filter(|c| c.usage == Use::Signing && sha256_of(&c.pem) == Some(upload.signer))
        .collect();
    if named.is_empty() {
        return Some("signing-certificate-unknown");
    }
    let in_force = named.iter().any(|c| c.from <= now && now < c.until && c.revoked.is_none_or(|r| now < r));
    match (in_force, upload.signed) {
        (false, _) => Some("signing-certificate-not-in-force"),
        (true, false) => Some("signature-invalid"),
        (true, true) => None,
    }
}

fn sha256_of(pem: &str) -> Option<Hash> {
    let der = openssl::x509::X509::from_pem(pem.as_bytes()).ok()?.to_der().ok()?;
    Some(openssl::sha::sha256(&der))
}

fn repeated(bound: &Bound, content: &[String], order: &[usize]) -> Decision {
    let repeat = |refused| Decision {
        outcome: "REPEATED",
        code: None,
        refused,
        first: Some(bound.first),
        ..rejected("")
    };
    if bound.taken == content {
        return repeat(Vec::new());
    }
    if bound.content != content {
        return rejected("batch-tag-conflict");
    }
    let mut refused: Vec<_> = bound.refused.iter().map(|(place, code)| (order[*place], *code)).collect();
    refused.sort_unstable();
    repeat(refused)
}

fn covers(agreement: &Agreement, from: &str, to: &str, now: Timestamp) -> bool {
    let has = |list: &[keyferry_schemas::country::Country], c: &str| list.iter().any(|x| x.as_str() == c);
    let joined = (has(&agreement.parties, from) && has(&agreement.parties, to))
        || (has(&agreement.origins, from) && has(&agreement.destinations, to));
    joined && agreement.from <= now && now < agreement.until
}

/// `valid`: the indexes of the good keys in canonical order; `fresh`: of those taken.
fn deliver(
    upload: &Upload,
    valid: &[usize],
    fresh: &BTreeSet<usize>,
    member: &Member,
    document: &Document,
    now: Timestamp,
    withheld: &mut Vec<(String, &'static str, usize)>,
) -> Option<Parcel> {
    let destination = member.country.as_str();
    if !matches!(state_of(member, now), MemberState::Active | MemberState::Paused) {
        return None;
    }
    let key = |i: &usize| &upload.keys[*i];
    let mut agreements: Vec<_> =
        document.agreements.iter().filter(|a| covers(a, &upload.origin, destination, now)).collect();
    agreements.sort_by_key(|a| a.id);
    let types = |a: &Agreement, i: &usize| a.report_types.iter().any(|t| *t as i32 == key(i).report_type);
    let visited = |i: &&usize| key(i).visited_countries.iter().any(|c| c == destination);
    let wanted: Vec<_> =
        valid.iter().filter(|i| member.routing == Routing::OneWorld || visited(i)).copied().collect();
    let (may, may_not): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|i| agreements.iter().any(|a| types(a, i)));
    let new = |keys: &[usize]| keys.iter().filter(|i| fresh.contains(i)).count();
    let mut keep = |code, n| {
        if n > 0 {
            withheld.push((destination.to_owned(), code, n));
        }
    };
    keep("no-agreement", new(&may_not));
    if new(&may) == 0 {
        return None;
    }
    let whole = may.len() == upload.keys.len();
    if !whole && member.origin_proof == OriginProof::Required {
        keep("not-provable", new(&may));
        return None;
    }
    let sent: Vec<_> = may.into_iter().filter(|i| whole || fresh.contains(i)).collect();
    Some(Parcel {
        destination: destination.to_owned(),
        sequence: 0,
        keys: sent.iter().map(|i| key(i).clone()).collect(),
        new: sent.iter().map(|i| fresh.contains(i)).collect(),
        whole,
        agreement: agreements.iter().find(|a| sent.iter().any(|i| types(a, i)))?.id,
    })
}
