//! The names of downloads, and the log objects behind them.

use jiff::{ToSpan as _, civil::Date};
use keyferry_schemas::batch::sha256;
use keyferry_sinks::{
    api::{read_date, read_tag},
    log::{FORMAT, Sealed, oldest_in},
    tag::{Asked, BatchTag, Days, resolve},
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::one_line;

const START: Date = jiff::civil::date(2026, 1, 1);

/// A date and a tag, each in a line, and then a log: for each batch how many days it comes after the one before.
pub fn tag(data: &[u8]) {
    let mut parts = data.splitn(3, |b| *b == b'\n');
    let mut text = || parts.next().and_then(|p| std::str::from_utf8(p).ok()).unwrap_or_default();
    let (date, tag) = (read_date(text()), text());
    let named: Option<BatchTag> = tag.parse().ok();
    if let Some(named) = named {
        assert_eq!(named.to_string(), tag);
        assert!(named.number() > 0);
    }
    if let Ok(value) = HeaderValue::from_str(tag) {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("batchtag"), value)]);
        // What is not ASCII is no header text, a blank of that kind neither.
        let known = tag.is_ascii().then(|| tag.trim().parse().ok()).flatten();
        let expected = known.map(Some).ok_or_else(keyferry_sinks::api::unknown_tag);
        assert!(tag.is_empty() || read_tag(&headers) == expected);
    }
    let (days, made) = log(parts.next().unwrap_or_default());
    let head = made.len() as u64;
    for number in 1..=head {
        let Some(tag) = days.tag_of(number) else { continue };
        assert_eq!(tag.date(), made[number as usize - 1], "filed on another day");
        assert_eq!(days.number_of(tag, head), Some(number), "its tag names another");
    }
    let date = match date {
        Ok(date) => date,
        Err(problem) => return one_line(&problem),
    };
    let of = |number: u64| (days.tag_of(number), made.get(number as usize - 1));
    let tag_given = named.is_some();
    match resolve(&days, head, date, named, START) {
        Asked::Batch(number) => assert!(days.tag_of(number) == named && date <= named.unwrap().date()),
        Asked::From(number) => {
            assert!(!tag_given && of(number).1.is_some_and(|made| *made >= date));
            assert!(number == 1 || of(number).0.is_some_and(|tag| tag.number() == 1), "not a day's first");
        }
        Asked::NoBatch => assert!(!tag_given && made.last().is_none_or(|last| *last < date)),
        Asked::Unknown => assert!(tag_given),
        Asked::DateAfterBatch => assert!(named.is_some_and(|tag| tag.date() < date)),
        Asked::TooOld => assert!(date < START),
    }
}

/// The first batches of the days, and the day of each batch.
fn log(gaps: &[u8]) -> (Days, Vec<Date>) {
    let (mut days, mut made, mut date) = (Days::default(), Vec::new(), START);
    for (number, gap) in (1..).zip(gaps.iter().take(500)) {
        date = date.saturating_add(i64::from(gap / 64).days());
        days = days.with(date, number);
        made.push(date);
    }
    (days, made)
}

/// A log object as a store gives it back.
pub fn log_object(data: &[u8]) {
    let sealed = match Sealed::read(data, "DE".parse().unwrap(), 1) {
        Ok(sealed) => sealed,
        Err(error) => return one_line(&error),
    };
    let entry = &sealed.entry;
    assert_eq!((entry.format, entry.number, sealed.hash), (FORMAT, 1, sha256(data)));
    let written = serde_json::to_vec(entry).unwrap();
    let again = Sealed::read(&written, entry.destination, 1).unwrap();
    assert!(again.entry == *entry, "it is written otherwise than read");
    assert!(
        !again.follows(Some(&sealed)) && !sealed.follows(Some(&again)),
        "the first one follows something"
    );
    assert_eq!(entry.links().len(), entry.chains.len());
    let (_, _) = (entry.oldest(), oldest_in(&entry.data.name));
    if let Some(tag) = entry.days.tag_of(1) {
        assert_eq!(entry.days.number_of(tag, 1), Some(1));
    }
    for upload in &entry.uploads {
        let Some(batch) = upload.with_keys(Default::default()) else { continue };
        assert!(batch.manifest == upload.manifest.0 && batch.new == upload.new.0);
    }
}
