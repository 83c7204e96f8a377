//! One country's subscriptions, and how far each was called: what the records of its topic say, one after the other. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use keyferry_runtime::codec::Codec;
use keyferry_schemas::callbacks::{Callback, CallbackProgress, PROGRESS_SUFFIX};

use super::target::{CallbackId, Target};
use crate::{log::Entry, tag::BatchTag};

/// A batch up to which nothing is to be called for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Its number in the log; 0 before the first.
    pub(crate) number: u64,
    /// Its tag, by which another store is noticed.
    pub(crate) tag: Option<BatchTag>,
}

impl Mark {
    /// Of this batch.
    pub(crate) fn at(entry: &Entry) -> Self {
        Self { number: entry.number, tag: Some(entry.tag) }
    }

    fn read(number: i64, tag: &str) -> Result<Self, String> {
        match (u64::try_from(number), tag.parse()) {
            (Ok(0), _) => Ok(Self::default()),
            (Ok(number), Ok(tag)) => Ok(Self { number, tag: Some(tag) }),
            _ => Err(format!("{number} with the tag {tag:?} is no batch")),
        }
    }

    /// As it stands in records.
    pub(crate) fn written(self) -> (i64, String) {
        let tag = self.tag.map(|tag| tag.to_string()).unwrap_or_default();
        (i64::try_from(self.number).unwrap_or(i64::MAX), tag)
    }
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Where to call.
    pub(crate) target: Target,
    /// The last batch for which it is not called.
    pub(crate) after: Mark,
}

/// What stands on the topic of one country.
#[derive(Debug, Default)]
pub(crate) struct Book {
    subscriptions: BTreeMap<CallbackId, Subscription>,
    /// Also of subscriptions that come later: a changed one stands behind its progress.
    progress: BTreeMap<CallbackId, Mark>,
}

impl Book {
    /// Takes the next record; tells whether a subscription came, changed or went.
    ///
    /// # Errors
    /// It is none of ours, in one line; it is passed over.
    pub(crate) fn take(
        &mut self,
        codec: &Codec,
        key: Option<&[u8]>,
        value: Option<Bytes>,
    ) -> Result<bool, String> {
        let key = key.and_then(|key| std::str::from_utf8(key).ok()).ok_or("it has no key that is text")?;
        let (id, is_progress) = key.strip_suffix(PROGRESS_SUFFIX).map_or((key, false), |id| (id, true));
        let id: CallbackId = id.parse().map_err(|_| "its key is no callback id")?;
        match (is_progress, value) {
            (true, None) => {
                self.progress.remove(&id);
                Ok(false)
            }
            (true, Some(value)) => {
                let record: CallbackProgress = codec.decode(value).map_err(|e| e.to_string())?;
                self.progress.insert(id, Mark::read(record.number, &record.tag)?);
                Ok(false)
            }
            (false, None) => Ok(self.subscriptions.remove(&id).is_some()),
            (false, Some(value)) => {
                let record: Callback = codec.decode(value).map_err(|e| e.to_string())?;
                let target = record.url.parse().map_err(|e| format!("{e}"))?;
                let after = Mark::read(record.after_number, &record.after_tag)?;
                let subscription = Subscription { target, after };
                let changed = self.subscriptions.get(&id) != Some(&subscription);
                self.subscriptions.insert(id, subscription);
                Ok(changed)
            }
        }
    }

    /// All subscriptions by their ids.
    pub(crate) fn subscriptions(&self) -> &BTreeMap<CallbackId, Subscription> {
        &self.subscriptions
    }

    /// Whether it is written somewhere how far `id` was called, subscribed or not.
    pub(crate) fn has_progress(&self, id: &CallbackId) -> bool {
        self.progress.contains_key(id)
    }

    /// Up to where `id` was called.
    pub(crate) fn reached(&self, id: &CallbackId) -> Option<Mark> {
        let after = self.subscriptions.get(id)?.after;
        Some(self.progress.get(id).copied().unwrap_or(after))
    }
}

#[cfg(test)]
mod tests {
    use keyferry_schemas::time::Millis;

    use super::*;

    fn mark(number: u64) -> Mark {
        Mark { number, tag: format!("20201023-{number}").parse().ok() }
    }

    struct Reader(Book, Codec);

    impl Reader {
        fn new() -> Self {
            Self(Book::default(), Codec::single_object().unwrap())
        }

        fn put(&mut self, key: &str, value: Option<Vec<u8>>) -> Result<bool, String> {
            self.0.take(&self.1, Some(key.as_bytes()), value.map(Into::into))
        }

        fn subscribe(&mut self, key: &str, url: &str, after: Mark) -> Result<bool, String> {
            let (after_number, after_tag) = after.written();
            let record = Callback { url: url.into(), created_at: Millis(1), after_number, after_tag };
            let value = self.1.encode(&record);
            self.put(key, Some(value))
        }

        fn progress(&mut self, key: &str, mark: Mark) -> Result<bool, String> {
            let (number, tag) = mark.written();
            let value = self.1.encode(&CallbackProgress { number, tag });
            self.put(key, Some(value))
        }

        fn reached(&self, id: &str) -> Option<Mark> {
            self.0.reached(&id.parse().unwrap())
        }
    }

    #[test]
    fn a_book_is_what_the_last_records_say() {
        let mut reader = Reader::new();
        assert_eq!(reader.subscribe("a", "https://a.example/", mark(3)), Ok(true));
        assert_eq!(reader.reached("a"), Some(mark(3)));
        assert_eq!(reader.progress("a/progress", mark(5)), Ok(false));
        assert_eq!(reader.reached("a"), Some(mark(5)));
        assert_eq!(reader.subscribe("a", "https://a.example/", mark(3)), Ok(false), "nothing changed");
        assert_eq!(reader.subscribe("a", "https://b.example/", mark(3)), Ok(true));
        assert_eq!(reader.reached("a"), Some(mark(5)), "a changed address goes on where the former stood");
        assert_eq!(reader.put("a", None), Ok(true));
        assert_eq!((reader.put("a", None), reader.reached("a")), (Ok(false), None));
        assert!(reader.0.has_progress(&"a".parse().unwrap()));
        reader.put("a/progress", None).unwrap();
        assert_eq!(reader.subscribe("a", "https://a.example/", Mark::default()), Ok(true));
        assert_eq!(reader.reached("a"), Some(Mark::default()));
    }

    #[test]
    fn after_compaction_progress_may_stand_before_its_subscription() {
        let mut reader = Reader::new();
        reader.progress("a/progress", mark(9)).unwrap();
        reader.subscribe("a", "https://a.example/", mark(3)).unwrap();
        assert_eq!(reader.reached("a"), Some(mark(9)));
    }

    #[test]
    fn what_is_none_of_ours_is_passed_over() {
        let mut reader = Reader::new();
        reader.subscribe("a", "https://a.example/", mark(3)).unwrap();
        reader.subscribe("a/b", "https://a.example/", mark(3)).unwrap_err();
        reader.subscribe("b", "http://a.example/", mark(3)).unwrap_err();
        reader.subscribe("b", "https://a.example/", Mark { number: 1, tag: None }).unwrap_err();
        reader.put("b", Some(b"garbage".to_vec())).unwrap_err();
        reader.put("a/progress", Some(b"garbage".to_vec())).unwrap_err();
        reader.0.take(&reader.1, None, None).unwrap_err();
        reader.0.take(&reader.1, Some(&[0xff]), None).unwrap_err();
        assert_eq!((reader.0.subscriptions().len(), reader.reached("a")), (1, Some(mark(3))));
    }
}
