//! The bytes that an origin signs. One form, whatever encoding the keys travelled in.
//!
//! A key: eight fields, each base64 and followed by a dot. A batch: its keys in the order of the base64 of those bytes.
//! The order is not that of the raw bytes (base64 sorts `+ / 0-9 A-Z a-z`), which is where implementations went wrong.

use std::cmp::Ordering;

use crate::efgs::DiagnosisKey;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The two base64 letters of every twelve bits: two looks for three bytes.
static PAIRS: [[u8; 2]; 4096] = pairs();

const fn pairs() -> [[u8; 2]; 4096] {
    let mut pairs = [[0; 2]; 4096];
    let mut bits = 0;
    while bits < 4096 {
        pairs[bits] = [ALPHABET[bits >> 6], ALPHABET[bits & 63]];
        bits += 1;
    }
    pairs
}

fn pair(bits: u32) -> [u8; 2] {
    PAIRS[(bits & 0xfff) as usize]
}

fn letters([a, b, c]: [u8; 3]) -> [u8; 4] {
    let bits = u32::from_be_bytes([0, a, b, c]);
    let ([w, x], [y, z]) = (pair(bits >> 12), pair(bits));
    [w, x, y, z]
}

/// Appends the canonical bytes of one key to `out`.
pub fn write_key(key: &DiagnosisKey, out: &mut Vec<u8>) {
    field(&key.key_data, out);
    number(key.rolling_start_interval_number.to_be_bytes(), out);
    number(key.rolling_period.to_be_bytes(), out);
    number(key.transmission_risk_level.to_be_bytes(), out);
    visited(key, out);
    field(key.origin.as_bytes(), out);
    number(key.report_type.to_be_bytes(), out);
    number(key.days_since_onset_of_symptoms.to_be_bytes(), out);
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    let (groups, rest) = bytes.as_chunks::<3>();
    groups.iter().for_each(|group| out.extend_from_slice(&letters(*group)));
    match *rest {
        [] => out.push(b'.'),
        [a] => {
            let [w, x, ..] = letters([a, 0, 0]);
            out.extend_from_slice(&[w, x, b'=', b'=', b'.']);
        }
        [a, b, ..] => {
            let [w, x, y, _] = letters([a, b, 0]);
            out.extend_from_slice(&[w, x, y, b'=', b'.']);
        }
    }
}

fn number([a, b, c, d]: [u8; 4], out: &mut Vec<u8>) {
    let ([s, t, u, v], [w, x, ..]) = (letters([a, b, c]), letters([d, 0, 0]));
    out.extend_from_slice(&[s, t, u, v, w, x, b'=', b'=', b'.']);
}

/// The list, joined by commas. A code of two letters and its comma are just one group.
fn visited(key: &DiagnosisKey, out: &mut Vec<u8>) {
    let Some(countries) = key.visited_countries.as_few() else {
        let codes: Vec<_> = key.visited_countries.iter().collect();
        return field(codes.join(",").as_bytes(), out);
    };
    let Some((last, others)) = countries.split_last() else { return out.push(b'.') };
    for country in others {
        let [a, b] = country.bytes();
        out.extend_from_slice(&letters([a, b, b',']));
    }
    field(&last.bytes(), out);
}

/// The keys of an upload in the order in which they are signed, and the bytes that are signed.
pub struct Canonical {
    bytes: Vec<u8>,
    /// For each position in canonical order: the index in the upload, and where its bytes end.
    order: Vec<(u32, u32)>,
}

impl Canonical {
    /// Puts `keys` into canonical order. Equal keys keep the order in which they were uploaded.
    #[must_use]
    pub fn of(keys: &[DiagnosisKey]) -> Self {
        let mut sorted: Vec<(u64, u32)> = keys.iter().map(rank).zip(0..).collect();
        sorted.sort_unstable();
        for tied in sorted.chunk_by_mut(|a, b| a.0 == b.0).filter(|tied| tied.len() > 1) {
            settle(tied, keys);
        }
        let mut bytes = Vec::with_capacity(keys.len() * 112);
        let write = |(_, index): &(u64, u32)| {
            write_key(&keys[*index as usize], &mut bytes);
            (*index, bytes.len() as u32)
        };
        let order = sorted.iter().map(write).collect();
        Self { bytes, order }
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// In canonical order: each key's index in the upload, and its canonical bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8])> + Clone {
        let mut start = 0;
        self.order.iter().map(move |(index, end)| {
            let bytes = &self.bytes[start..*end as usize];
            start = *end as usize;
            (*index as usize, bytes)
        })
    }

    /// The canonical bytes of the whole batch: what the origin's signature covers.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The canonical bytes of the keys whose upload index `keep` accepts.
    #[must_use]
    pub fn bytes_of(&self, mut keep: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len());
        for (_, bytes) in self.iter().filter(|(index, _)| keep(*index)) {
            out.extend_from_slice(bytes);
        }
        out
    }
}

/// The beginning of the text by which a key is sorted: nearly always enough, and one number to compare.
fn rank(key: &DiagnosisKey) -> u64 {
    let head: [u8; 6] = match *key.key_data {
        [a, b, c, d, ref rest @ ..] => {
            let [s, t, u, v] = letters([a, b, c]);
            let [w, x, ..] = letters([d, rest.first().copied().unwrap_or(0), 0]);
            [s, t, u, v, w, x]
        }
        _ => {
            let mut all = Vec::new();
            write_key(key, &mut all);
            // Five numbers and eight dots alone are longer.
            std::array::from_fn(|i| all[i])
        }
    };
    let ([a, b, c, d, e, f], mut rank) = (head, [0; 8]);
    rank[..4].copy_from_slice(&letters([a, b, c]));
    rank[4..].copy_from_slice(&letters([d, e, f]));
    u64::from_be_bytes(rank)
}

/// Sorts keys whose texts begin alike, which come in the order of the upload.
fn settle(tied: &mut [(u64, u32)], keys: &[DiagnosisKey]) {
    let text = |entry: &(u64, u32)| {
        let mut text = Vec::new();
        write_key(&keys[entry.1 as usize], &mut text);
        (text, *entry)
    };
    let mut texts: Vec<_> = tied.iter().map(text).collect();
    texts.sort_by(|a, b| base64_order(&a.0, &b.0));
    tied.iter_mut().zip(texts).for_each(|(place, (_, entry))| *place = entry);
}

/// Compares as the base64 texts of `a` and `b` would compare, without writing them.
#[must_use]
pub fn base64_order(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    // Everything before the three-byte group of the first difference is the same text in both.
    let group = common / 3 * 3;
    quad(&a[group..]).cmp(&quad(&b[group..]))
}

/// The base64 text of the first group of `bytes`, 0 where the text has ended (which sorts first, as a shorter text does).
fn quad(bytes: &[u8]) -> [u8; 4] {
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let [w, x, y, z] = letters([at(0), at(1), at(2)]);
    match bytes.len() {
        0 => [0; 4],
        1 => [w, x, b'=', b'='],
        2 => [w, x, y, b'='],
        _ => [w, x, y, z],
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_the_base64_text(a: Vec<u8>, b: Vec<u8>, shared: Vec<u8>) {
            let (a, b) = ([shared.clone(), a].concat(), [shared, b].concat());
            prop_assert_eq!(base64_order(&a, &b), STANDARD.encode(&a).cmp(&STANDARD.encode(&b)));
        }
    }
}
