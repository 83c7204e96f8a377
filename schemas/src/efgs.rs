//! The EFGS wire: protobuf and JSON batches of diagnosis keys, as received. Nothing here is judged yet.

use std::fmt;

use bytes::Bytes;
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, skip_field},
};

pub use wire::{DiagnosisKey, DiagnosisKeyBatch, ReportType};

use crate::json;

#[expect(missing_docs, reason = "generated; documented in proto/efgs.proto")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/keyferry.efgs.rs"));
}

/// The transmission risk level that stands for "not set".
pub const RISK_LEVEL_UNSET: i32 = 0x7fff_ffff;
/// The only version of the wire format.
pub const VERSION: &str = "1.0";
/// Most keys in one batch, whatever the network document allows. An empty key takes two bytes of a body and a hundred
/// of memory, so that keys are counted before they are read.
pub const MAX_KEYS: usize = 5000;

/// How the keys of an upload are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/protobuf; version=1.0`
    Protobuf,
    /// `application/json; version=1.0`
    Json,
}

impl Encoding {
    /// The media type with its version, as it stands in `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/protobuf; version=1.0",
            Self::Json => "application/json; version=1.0",
        }
    }

    /// The encoding with exactly this content type.
    #[must_use]
    pub fn from_content_type(text: &str) -> Option<Self> {
        [Self::Protobuf, Self::Json].into_iter().find(|e| e.content_type() == text)
    }
}

/// The body of an upload can not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Not a protobuf `DiagnosisKeyBatch`.
    #[error("the body is not a protobuf DiagnosisKeyBatch: {0}")]
    Protobuf(String),
    /// Not the JSON form of it.
    #[error("the body is not a JSON DiagnosisKeyBatch: {0}")]
    Json(String),
    /// More than [`MAX_KEYS`] keys: this many.
    #[error("there are {0} keys in the body, and {MAX_KEYS} is the most for anyone")]
    TooMany(usize),
}

/// Reads a batch. Key data borrows `body`; nothing is checked but the encoding itself, and that there are not too many
/// keys to hold.
///
/// # Errors
/// [`BadBody`] with the position or field at fault, never with its content.
pub fn decode(encoding: Encoding, body: Bytes) -> Result<Vec<DiagnosisKey>, BadBody> {
    match encoding {
        Encoding::Protobuf => {
            let keys = count_protobuf(body.clone());
            if keys > MAX_KEYS {
                return Err(BadBody::TooMany(keys));
            }
            decode_joined(body)
        }
        Encoding::Json => json::decode(&body),
    }
}

/// Reads what a distribution service serves: batches that were verified one by one and joined, of any number of keys.
///
/// # Errors
/// [`BadBody::Protobuf`]
pub fn decode_joined(body: Bytes) -> Result<Vec<DiagnosisKey>, BadBody> {
    // prost names message and field, not the bytes.
    DiagnosisKeyBatch::decode(body).map(|b| b.keys).map_err(|e| BadBody::Protobuf(e.to_string()))
}

/// Number of keys up to the first byte that can not be read, which the decoder will name.
fn count_protobuf(mut body: Bytes) -> usize {
    let mut keys = 0;
    while let Ok((field, form)) = decode_key(&mut body) {
        if skip_field(form, field, &mut body, DecodeContext::default()).is_err() {
            break;
        }
        keys += usize::from(field == 1 && form == WireType::LengthDelimited);
    }
    keys
}

/// Writes keys as one protobuf batch. Batches written so may be concatenated.
#[must_use]
pub fn encode_protobuf<'a>(keys: impl IntoIterator<Item = &'a DiagnosisKey>) -> Vec<u8> {
    let mut out = Vec::new();
    for key in keys {
        // Field 1, length-delimited: what `DiagnosisKeyBatch` writes for each key, without owning the keys.
        prost::encoding::message::encode(1, key, &mut out);
    }
    out
}

/// Writes keys as the JSON form of a batch.
#[must_use]
pub fn encode_json(keys: &[DiagnosisKey]) -> Vec<u8> {
    json::encode(keys)
}

impl fmt::Debug for DiagnosisKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiagnosisKey(redacted, origin {:?})", self.origin)
    }
}

impl fmt::Debug for DiagnosisKeyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiagnosisKeyBatch({} keys)", self.keys.len())
    }
}

/// What a backend says about the onset of symptoms, by the ranges agreed for EFGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onset {
    /// -14..=21: days since a known onset; 0 is the day of onset.
    Known,
    /// n * 100 - 14 ..= n * 100 + 21 for n of 1..=19: onset within n days.
    Range,
    /// 1986..=2014: symptoms, onset unknown; 2000 is the day of submission.
    Unknown,
    /// 2986..=3014: no symptoms; 3000 is the day of submission.
    Asymptomatic,
    /// 3986..=4014: no information; 4000 is the day of submission.
    NoInformation,
}

impl Onset {
    /// The range in which `value` lies; `None` outside all of them.
    #[must_use]
    pub fn of(value: i32) -> Option<Self> {
        match value {
            -14..=21 => Some(Self::Known),
            1986..=2014 => Some(Self::Unknown),
            2986..=3014 => Some(Self::Asymptomatic),
            3986..=4014 => Some(Self::NoInformation),
            86..=1921 => {
                let past = (value + 14) % 100;
                (past <= 35).then_some(Self::Range)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onset_ranges() {
        let table = [
            (-15, None),
            (-14, Some(Onset::Known)),
            (0, Some(Onset::Known)),
            (21, Some(Onset::Known)),
            (22, None),
            (85, None),
            (86, Some(Onset::Range)),
            (121, Some(Onset::Range)),
            (122, None),
            (186, Some(Onset::Range)),
            (1921, Some(Onset::Range)),
            (1922, None),
            (1986, Some(Onset::Unknown)),
            (2015, None),
            (3000, Some(Onset::Asymptomatic)),
            (4000, Some(Onset::NoInformation)),
            (4015, None),
            (i32::MIN, None),
            (i32::MAX, None),
        ];
        for (value, range) in table {
            assert_eq!(Onset::of(value), range, "{value}");
        }
    }

    #[test]
    fn an_upload_is_bounded_and_a_joined_download_is_not() {
        let keys = vec![DiagnosisKey::default(); MAX_KEYS + 1];
        let body = Bytes::from(encode_protobuf(&keys));
        assert_eq!(decode(Encoding::Protobuf, body.clone()), Err(BadBody::TooMany(MAX_KEYS + 1)));
        assert_eq!(decode_joined(body).map(|k| k.len()), Ok(MAX_KEYS + 1));
    }

    #[test]
    fn one_key_at_a_time_writes_what_the_whole_message_writes() {
        let key = DiagnosisKey {
            key_data: Bytes::from_static(&[7; 16]),
            origin: "DE".into(),
            ..Default::default()
        };
        let batch = DiagnosisKeyBatch { keys: vec![key.clone(), key] };
        assert_eq!(encode_protobuf(&batch.keys), batch.encode_to_vec());
        assert!(!format!("{batch:?} {:?}", batch.keys).contains('7'));
    }
}
