//! The names of download batches, `yyyyMMdd-N`: clients compute N + 1 and parse the date, so the numbers are dense from 1
//! for each UTC day of one destination. Pure.

use std::{collections::BTreeMap, fmt, ops::Bound, str::FromStr};

use jiff::{ToSpan, civil::Date, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use keyferry_schemas::time::Millis;

/// Days whose first batch is remembered: more than any download window, so that a tag in it always resolves.
const REMEMBERED_DAYS: i32 = 31;

/// The name of one download batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchTag {
    date: Date,
    number: u64,
}

/// The text is no `yyyyMMdd-N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch tag is a date and a number, such as 20201023-1")]
pub struct BadTag;

impl BatchTag {
    /// The UTC day it was made on.
    #[must_use]
    pub fn date(self) -> Date {
        self.date
    }

    /// Its number on that day, from 1.
    #[must_use]
    pub fn number(self) -> u64 {
        self.number
    }
}

impl fmt::Display for BatchTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = (self.date.year(), self.date.month(), self.date.day());
        write!(f, "{year:04}{month:02}{day:02}-{}", self.number)
    }
}

impl FromStr for BatchTag {
    type Err = BadTag;

    fn from_str(text: &str) -> Result<Self, BadTag> {
        let (day, number) = text.split_once('-').ok_or(BadTag)?;
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if day.len() != 8 || !digits(day) || !digits(number) || number.starts_with('0') {
            return Err(BadTag);
        }
        let part = |range| day.get(range).and_then(|t: &str| t.parse::<i16>().ok()).ok_or(BadTag);
        let small = |n: i16| i8::try_from(n).map_err(|_| BadTag);
        let date = Date::new(part(0..4)?, small(part(4..6)?)?, small(part(6..8)?)?).map_err(|_| BadTag)?;
        Ok(Self { date, number: number.parse().map_err(|_| BadTag)? })
    }
}

impl Serialize for BatchTag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BatchTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The UTC day of `time`.
#[must_use]
pub fn date_of(time: Millis) -> Date {
    TimeZone::UTC.to_datetime(time.timestamp()).date()
}

/// The first download batch of each recent day that has any. Batches are numbered through, so with this every tag is
/// found by arithmetic: the log itself is the index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Days(BTreeMap<Date, u64>);

impl Days {
    /// The days after batch `number` was added with `date`, which is not before the last one.
    #[must_use]
    pub fn with(&self, date: Date, number: u64) -> Self {
        let mut days = self.0.clone();
        days.entry(date).or_insert(number);
        let oldest = date.checked_sub(REMEMBERED_DAYS.days()).unwrap_or(Date::MIN);
        Self(days.split_off(&oldest))
    }

    /// The last day with a batch.
    #[must_use]
    pub fn last(&self) -> Option<Date> {
        self.0.last_key_value().map(|(date, _)| *date)
    }

    /// The tag of batch `number`.
    #[must_use]
    pub fn tag_of(&self, number: u64) -> Option<BatchTag> {
        let (date, first) = self.0.iter().rev().find(|(_, first)| **first <= number)?;
        Some(BatchTag { date: *date, number: number - first + 1 })
    }

    /// The number of the batch with this tag, if there are `head` batches.
    #[must_use]
    pub fn number_of(&self, tag: BatchTag, head: u64) -> Option<u64> {
        let number = self.0.get(&tag.date)?.checked_add(tag.number.checked_sub(1)?)?;
        let next_day = self.0.range((Bound::Excluded(tag.date), Bound::Unbounded)).next();
        let end = next_day.map_or(head.saturating_add(1), |(_, first)| *first);
        (number < end).then_some(number)
    }

    /// The number of the first batch made on `date` or later.
    #[must_use]
    pub fn first_from(&self, date: Date) -> Option<u64> {
        self.0.range(date..).next().map(|(_, first)| *first)
    }
}

/// Which batch a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The one with this number.
    Batch(u64),
    /// The first one from the date on that was not erased yet, this one or later.
    From(u64),
    /// There is none from that date on, yet.
    NoBatch,
    /// There is no batch with that tag.
    Unknown,
    /// The batch is older than the date.
    DateAfterBatch,
    /// The date is older than the window.
    TooOld,
}

/// Resolves the `date` of a path and the tag of a header, if there was one, against `head` batches.
#[must_use]
pub fn resolve(days: &Days, head: u64, date: Date, tag: Option<BatchTag>, oldest: Date) -> Asked {
    if date < oldest {
        return Asked::TooOld;
    }
    let Some(tag) = tag else {
        return days.first_from(date).map_or(Asked::NoBatch, Asked::From);
    };
    match days.number_of(tag, head) {
        Some(_) if date > tag.date => Asked::DateAfterBatch,
        Some(number) => Asked::Batch(number),
        None => Asked::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn days(list: &[(&str, u64)]) -> Days {
        Days(list.iter().map(|(d, n)| (date(d), *n)).collect())
    }

    #[test]
    fn only_the_exact_form_is_a_tag() {
        assert_eq!("20201023-12".parse::<BatchTag>().unwrap().to_string(), "20201023-12");
        for bad in [
            "",
            "20201023",
            "20201023-",
            "20201023-0",
            "20201023-01",
            "20201023-+1",
            "2020123-1",
            "20201323-1",
            "20200230-1",
            "20201023-1-1",
            "20201023-99999999999999999999",
            "2020102٣-1",
            " 20201023-1",
            "-20201023-1",
        ] {
            assert_eq!(bad.parse::<BatchTag>(), Err(BadTag), "{bad:?}");
        }
    }

    #[test]
    fn dates_and_tags_resolve() {
        // Batches 1..=3 on the 20th, none on the 21st, 4 and 5 around noon of the 22nd, 6 just after midnight.
        let days = days(&[("2020-10-20", 1), ("2020-10-22", 4), ("2020-10-23", 6)]);
        let table = [
            ("2020-10-20", None, Asked::From(1)),
            ("2020-10-19", None, Asked::From(1)),
            ("2020-10-21", None, Asked::From(4)),
            ("2020-10-23", None, Asked::From(6)),
            ("2020-10-24", None, Asked::NoBatch),
            ("2020-10-20", Some("20201020-3"), Asked::Batch(3)),
            ("2020-10-20", Some("20201020-4"), Asked::Unknown),
            ("2020-10-21", Some("20201021-1"), Asked::Unknown),
            ("2020-10-22", Some("20201022-2"), Asked::Batch(5)),
            ("2020-10-22", Some("20201022-3"), Asked::Unknown),
            ("2020-10-20", Some("20201023-1"), Asked::Batch(6)),
            ("2020-10-23", Some("20201023-2"), Asked::Unknown),
            ("2020-10-23", Some("20201022-2"), Asked::DateAfterBatch),
            ("2020-10-09", Some("20201023-1"), Asked::Batch(6)),
            ("2020-10-08", Some("20201023-1"), Asked::TooOld),
            ("2020-10-08", None, Asked::TooOld),
        ];
        for (day, tag, asked) in table {
            let tag = tag.map(|t| t.parse().unwrap());
            assert_eq!(resolve(&days, 6, date(day), tag, date("2020-10-09")), asked, "{day} {tag:?}");
        }
        assert_eq!(
            resolve(&Days::default(), 0, date("2020-10-20"), None, date("2020-10-09")),
            Asked::NoBatch
        );
    }

    #[test]
    fn a_walk_by_tags_crosses_midnight_and_meets_every_batch_once() {
        let mut days = Days::default();
        let made = ["2020-10-20", "2020-10-20", "2020-10-22", "2020-10-22", "2020-10-22", "2020-10-23"];
        for (i, day) in made.iter().enumerate() {
            days = days.with(date(day), i as u64 + 1);
        }
        let tags: Vec<_> = (1..=6).map(|n| days.tag_of(n).unwrap().to_string()).collect();
        assert_eq!(
            tags,
            ["20201020-1", "20201020-2", "20201022-1", "20201022-2", "20201022-3", "20201023-1"]
        );
        for (i, tag) in tags.iter().enumerate() {
            assert_eq!(days.number_of(tag.parse().unwrap(), 6), Some(i as u64 + 1), "{tag}");
        }
        assert_eq!(days.tag_of(0), None);
    }

    #[test]
    fn old_days_are_forgotten() {
        let days = Days::default()
            .with(date("2020-01-01"), 1)
            .with(date("2020-02-01"), 2)
            .with(date("2020-02-02"), 9);
        assert_eq!(days, self::days(&[("2020-02-01", 2), ("2020-02-02", 9)]));
    }
}
