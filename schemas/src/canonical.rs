//! The bytes that an origin signs. One form, whatever encoding the keys travelled in.
//!
//! A key: eight fields, each base64 and followed by a dot. A batch: its keys in the order of the base64 of those bytes.
//! The order is not that of the raw bytes (base64 sorts `+ / 0-9 A-Z a-z`), which is where implementations went wrong.

use std::cmp::Ordering;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::efgs::DiagnosisKey;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the canonical bytes of one key to `out`.
pub fn write_key(key: &DiagnosisKey, out: &mut Vec<u8>) {
    field(&key.key_data, out);
    field(&key.rolling_start_interval_number.to_be_bytes(), out);
    field(&key.rolling_period.to_be_bytes(), out);
    field(&key.transmission_risk_level.to_be_bytes(), out);
    match key.visited_countries.as_slice() {
        [] => out.push(b'.'),
        [one] => field(one.as_bytes(), out),
        many => field(many.join(",").as_bytes(), out),
    }
    field(key.origin.as_bytes(), out);
    field(&key.report_type.to_be_bytes(), out);
    field(&key.days_since_onset_of_symptoms.to_be_bytes(), out);
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let room = bytes.len().div_ceil(3) * 4;
    out.resize(start + room, 0);
    // The slice is exactly as long as base64 needs, so this writes all of it.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
    out.push(b'.');
}

/// The keys of an upload in the order in which they are signed, with the signed bytes of each.
pub struct Canonical {
    arena: Vec<u8>,
    /// For each position in canonical order: the index in the upload, and where its bytes lie.
    order: Vec<(u32, u32, u32)>,
}

impl Canonical {
    /// Puts `keys` into canonical order. Equal keys keep the order in which they were uploaded.
    #[must_use]
    pub fn of(keys: &[DiagnosisKey]) -> Self {
        let mut arena = Vec::with_capacity(keys.len() * 112);
        let mut order = Vec::with_capacity(keys.len());
        for (index, key) in (0u32..).zip(keys) {
            let start = arena.len();
            write_key(key, &mut arena);
            order.push((index, start as u32, arena.len() as u32));
        }
        order.sort_by(|a, b| base64_order(slice(&arena, *a), slice(&arena, *b)));
        Self { arena, order }
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
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[u8])> {
        self.order.iter().map(|entry| (entry.0 as usize, slice(&self.arena, *entry)))
    }

    /// The canonical bytes of the whole batch: what the origin's signature covers.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_of(|_| true)
    }

    /// The canonical bytes of the keys whose upload index `keep` accepts.
    #[must_use]
    pub fn bytes_of(&self, mut keep: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.arena.len());
        for (_, bytes) in self.iter().filter(|(index, _)| keep(*index)) {
            out.extend_from_slice(bytes);
        }
        out
    }
}

fn slice(arena: &[u8], (_, start, end): (u32, u32, u32)) -> &[u8] {
    &arena[start as usize..end as usize]
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
    let at = |i: usize| u32::from(bytes.get(i).copied().unwrap_or(0));
    let bits = at(0) << 16 | at(1) << 8 | at(2);
    let letter = |shift: u32| ALPHABET[(bits >> shift & 63) as usize];
    match bytes.len() {
        0 => [0; 4],
        1 => [letter(18), letter(12), b'=', b'='],
        2 => [letter(18), letter(12), letter(6), b'='],
        _ => [letter(18), letter(12), letter(6), letter(0)],
    }
}

#[cfg(test)]
mod tests {
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
