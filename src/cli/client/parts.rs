//! How a file is divided into uploads, and how they are named. Pure.
//!
//! The same content has the same name, so that what is sent again is recognised: by the hub, which answers as it did
//! the first time, and after a crash by us, who need to remember nothing.

use keyferry_schemas::{
    batch::sha256,
    canonical::Canonical,
    efgs::DiagnosisKey,
    topics::{MAX_BATCH_TAG_BYTES, is_batch_tag},
};

/// Digits of the hash of the content in a tag.
const DIGITS: usize = 32;

/// One upload of a file.
pub(super) struct Part {
    pub(super) tag: String,
    /// Of each key, its index in the file.
    pub(super) indexes: Vec<usize>,
    pub(super) keys: Vec<DiagnosisKey>,
}

/// A tag that is to stand before all others, if it can.
pub(super) fn tag(text: &str) -> Result<String, String> {
    let longest = MAX_BATCH_TAG_BYTES - DIGITS - 1;
    if is_batch_tag(text.as_bytes()) && text.len() <= longest {
        return Ok(text.to_owned());
    }
    Err(format!("is not 1 to {longest} visible ASCII characters"))
}

/// Divides keys in the order in which they stand: a file to which keys are added keeps its first parts.
pub(super) fn divide(keys: Vec<DiagnosisKey>, most: usize, tag: Option<&str>) -> Vec<Part> {
    let alone = keys.len() <= most;
    let mut parts = Vec::new();
    let mut rest = keys;
    let mut first = 0;
    while !rest.is_empty() {
        let after = rest.split_off(most.clamp(1, rest.len()));
        let indexes = (first..first + rest.len()).collect();
        first += rest.len();
        let tag = match tag {
            None => content(&rest),
            Some(tag) if alone => tag.to_owned(),
            Some(tag) => format!("{tag}-{}", parts.len() + 1),
        };
        parts.push(Part { tag, indexes, keys: rest });
        rest = after;
    }
    parts
}

impl Part {
    /// The keys at these positions as an upload of their own, to be sent again.
    pub(super) fn again(&self, positions: &[usize], tag: Option<&str>) -> Self {
        let at = || positions.iter().filter(|i| **i < self.keys.len());
        let keys: Vec<_> = at().map(|i| self.keys[*i].clone()).collect();
        let own = content(&keys);
        let tag = tag.map_or_else(|| own.clone(), |tag| format!("{tag}-{own}"));
        Self { tag, indexes: at().map(|i| self.indexes[*i]).collect(), keys }
    }
}

fn content(keys: &[DiagnosisKey]) -> String {
    let mut tag = hex::encode(sha256(Canonical::of(keys).bytes()));
    tag.truncate(DIGITS);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u32>) -> Vec<DiagnosisKey> {
        range.map(|i| DiagnosisKey { rolling_start_interval_number: i, ..Default::default() }).collect()
    }

    fn tags(parts: &[Part]) -> Vec<&str> {
        parts.iter().map(|p| p.tag.as_str()).collect()
    }

    #[test]
    fn the_same_content_has_the_same_tag_in_any_order_and_a_longer_file_too() {
        let parts = divide(keys(0..10), 4, None);
        assert_eq!(
            parts.iter().map(|p| p.indexes.clone()).collect::<Vec<_>>(),
            [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]
        );
        let longer = divide(keys(0..12), 4, None);
        assert_eq!(tags(&parts)[..2], tags(&longer)[..2]);
        assert_ne!(tags(&parts)[2], tags(&longer)[2]);
        let mut turned = keys(0..4);
        turned.reverse();
        assert_eq!(divide(turned, 4, None)[0].tag, parts[0].tag);
        assert!(parts.iter().all(|p| is_batch_tag(p.tag.as_bytes())));
    }

    #[test]
    fn a_given_tag_is_numbered_only_where_it_has_to_be() {
        assert_eq!(tags(&divide(keys(0..4), 4, Some("a"))), ["a"]);
        assert_eq!(tags(&divide(keys(0..5), 4, Some("a"))), ["a-1", "a-2"]);
        assert!(tag(&"x".repeat(95)).is_ok() && tag(&"x".repeat(96)).is_err());
        assert!(tag("").is_err() && tag("a b").is_err());
    }

    #[test]
    fn what_is_sent_again_keeps_its_place_in_the_file() {
        let part = &divide(keys(0..10), 4, None)[1];
        let again = part.again(&[1, 3, 99], None);
        assert_eq!(again.indexes, [5, 7]);
        assert_eq!(again.keys, [keys(5..6), keys(7..8)].concat());
        assert_ne!(again.tag, part.tag);
        assert_eq!(part.again(&[1, 3], Some("a")).tag, format!("a-{}", again.tag));
        assert!(is_batch_tag(part.again(&[1], Some(&tag(&"x".repeat(95)).unwrap())).tag.as_bytes()));
    }
}
