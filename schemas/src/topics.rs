//! Names of topics, and the settings that the law and the record limits ask for.

use crate::country::Country;

/// Operators' signed network documents.
pub const NETWORK: &str = "keyferry.network";
/// Where each origin's stream stands.
pub const HEADS: &str = "keyferry.heads";
/// Records that were refused, untouched.
pub const REJECTS: &str = "keyferry.rejects";
/// Prefix of the upload topics.
pub const UPLOADS_PREFIX: &str = "keyferry.uploads.";
/// All upload topics, as a subscription pattern of librdkafka.
pub const UPLOADS_PATTERN: &str = r"^keyferry\.uploads\.[a-z][a-z]$";

/// The largest record on `uploads`: 2 MiB.
pub const MAX_UPLOAD_BYTES: usize = 2 << 20;
/// The largest record on `keys` and `ledger`: 4 MiB.
pub const MAX_OUTPUT_BYTES: usize = 4 << 20;
/// The largest record on `callbacks`: 16 KiB.
pub const MAX_CALLBACK_BYTES: usize = 16 << 10;
/// The largest record on `rejects`, and of any client: 5 MiB.
pub const MAX_REJECT_BYTES: usize = 5 << 20;
/// The longest batch tag, in bytes.
pub const MAX_BATCH_TAG_BYTES: usize = 128;

/// Whether a sender may name a batch so: 1 to [`MAX_BATCH_TAG_BYTES`] visible ASCII characters, opaque otherwise.
#[must_use]
pub fn is_batch_tag(tag: &[u8]) -> bool {
    (1..=MAX_BATCH_TAG_BYTES).contains(&tag.len()) && tag.iter().all(u8::is_ascii_graphic)
}

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// A segment is closed after this time and can be deleted only then.
const SEGMENT_MS: i64 = 6 * HOUR_MS;
/// Keys are gone 14 days after upload: a segment may live on for its own length, and the broker looks every few minutes.
const KEYS_RETENTION_MS: i64 = 14 * DAY_MS - SEGMENT_MS - 10 * 60_000;
/// The ledger outlives the sixteen days in which a key can come again.
const LEDGER_RETENTION_MS: i64 = 17 * DAY_MS;

/// `keyferry.uploads.<cc>`.
#[must_use]
pub fn uploads(country: Country) -> String {
    format!("{UPLOADS_PREFIX}{}", country.lower())
}

/// `keyferry.ledger.<cc>`.
#[must_use]
pub fn ledger(country: Country) -> String {
    format!("keyferry.ledger.{}", country.lower())
}

/// `keyferry.keys.<cc>`.
#[must_use]
pub fn keys(country: Country) -> String {
    format!("keyferry.keys.{}", country.lower())
}

/// `keyferry.callbacks.<cc>`.
#[must_use]
pub fn callbacks(country: Country) -> String {
    format!("keyferry.callbacks.{}", country.lower())
}

/// The country whose upload topic this is.
#[must_use]
pub fn origin_of(topic: &str) -> Option<Country> {
    Country::from_lower(topic.strip_prefix(UPLOADS_PREFIX)?).ok()
}

/// A topic as it has to be: one partition, and these settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Settings by their Kafka names.
    pub settings: Vec<(&'static str, String)>,
}

/// The topics that exist once.
#[must_use]
pub fn shared() -> Vec<Topic> {
    vec![
        // Kept for ever and not compacted, so that a replay finds every version that was in force.
        topic(
            NETWORK.into(),
            MAX_OUTPUT_BYTES,
            &[("retention.ms", "-1".into()), ("retention.bytes", "-1".into()), stamped_by_the_broker()],
        ),
        topic(
            HEADS.into(),
            MAX_OUTPUT_BYTES,
            &[
                ("cleanup.policy", "compact".into()),
                // Few origins, one record per transaction: small segments keep what a take-over has to read short.
                ("segment.bytes", (16 << 20).to_string()),
                ("min.cleanable.dirty.ratio", "0.1".into()),
                stamped_by_the_broker(),
            ],
        ),
        topic(REJECTS.into(), MAX_REJECT_BYTES, &retention(KEYS_RETENTION_MS)),
    ]
}

/// The topics of one member.
#[must_use]
pub fn of_member(country: Country) -> Vec<Topic> {
    let mut of_uploads = retention(KEYS_RETENTION_MS).to_vec();
    // The broker's clock, so that no writer chooses when its upload happened.
    of_uploads.push(stamped_by_the_broker());
    // The limit of a topic counts what is compressed: a few thousand bytes of zstd could hold more than any consumer
    // takes. Stored as it is, a record is as large as it says.
    of_uploads.push(("compression.type", "uncompressed".into()));
    vec![
        topic(uploads(country), MAX_UPLOAD_BYTES, &of_uploads),
        topic(ledger(country), MAX_OUTPUT_BYTES, &retention(LEDGER_RETENTION_MS)),
        topic(keys(country), MAX_OUTPUT_BYTES, &retention(KEYS_RETENTION_MS)),
        topic(
            callbacks(country),
            MAX_CALLBACK_BYTES,
            &[
                // Nothing expires. `delete` is there because Kafka deletes no records of a topic that is compacted only,
                // and those of a member that left have to go.
                ("cleanup.policy", "compact,delete".into()),
                ("retention.ms", "-1".into()),
                ("retention.bytes", "-1".into()),
                ("segment.bytes", (1 << 20).to_string()),
                ("min.cleanable.dirty.ratio", "0.1".into()),
                stamped_by_the_broker(),
            ],
        ),
    ]
}

/// For topics whose timestamps bind nothing: a writer whose clock is wrong is not refused, and learns what time it is.
fn stamped_by_the_broker() -> (&'static str, String) {
    ("message.timestamp.type", "LogAppendTime".into())
}

fn retention(ms: i64) -> [(&'static str, String); 2] {
    [("retention.ms", ms.to_string()), ("segment.ms", SEGMENT_MS.to_string())]
}

fn topic(name: String, max_bytes: usize, extra: &[(&'static str, String)]) -> Topic {
    let mut settings =
        vec![("cleanup.policy", "delete".to_owned()), ("max.message.bytes", max_bytes.to_string())];
    for (key, value) in extra {
        settings.retain(|(k, _)| k != key);
        settings.push((key, value.clone()));
    }
    Topic { name, settings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_origins_belong_together() {
        let de: Country = "DE".parse().unwrap();
        assert_eq!(uploads(de), "keyferry.uploads.de");
        assert_eq!(origin_of("keyferry.uploads.de"), Some(de));
        for other in ["keyferry.uploads.DE", "keyferry.uploads.deu", "keyferry.keys.de", "keyferry.uploads."]
        {
            assert_eq!(origin_of(other), None, "{other}");
        }
    }

    #[test]
    fn keys_are_gone_within_fourteen_days_segments_included() {
        let holds_keys = |t: &&Topic| !["ledger", "callbacks"].iter().any(|without| t.name.contains(without));
        for topic in of_member("DE".parse().unwrap()).iter().filter(holds_keys) {
            let of = |k| topic.settings.iter().find(|(key, _)| *key == k).unwrap().1.parse::<i64>().unwrap();
            assert!(of("retention.ms") + of("segment.ms") < 14 * DAY_MS, "{}", topic.name);
        }
    }
}
