//! The EFGS wire: protobuf and JSON batches of diagnosis keys, as received. Nothing here is judged yet.

mod code;
mod key;
mod protobuf;

use bytes::Bytes;

pub use code::{Code, Codes};
pub use key::{DiagnosisKey, Onset, ReportType};

use crate::json;

/// The transmission risk level that stands for "not set".
pub const RISK_LEVEL_UNSET: i32 = 0x7fff_ffff;
/// The only version of the wire format.
pub const VERSION: &str = "1.0";
/// Most keys in one batch, whatever the network document allows. An empty key takes two bytes of a body and 136
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
        Encoding::Protobuf => match protobuf::count(&body) {
            keys if keys > MAX_KEYS => Err(BadBody::TooMany(keys)),
            keys => protobuf::decode(&body, keys),
        },
        Encoding::Json => json::decode(&body),
    }
}

/// Reads what a distribution service serves: batches that were verified one by one and joined, of any number of keys.
///
/// # Errors
/// [`BadBody::Protobuf`]
pub fn decode_joined(body: Bytes) -> Result<Vec<DiagnosisKey>, BadBody> {
    protobuf::decode(&body, protobuf::count(&body))
}

/// Writes keys as one protobuf batch. Batches written so may be concatenated. The keys are gone through twice.
#[must_use]
pub fn encode_protobuf<'a>(keys: impl IntoIterator<Item = &'a DiagnosisKey, IntoIter: Clone>) -> Vec<u8> {
    protobuf::encode(keys)
}

/// Writes keys as the JSON form of a batch.
#[must_use]
pub fn encode_json(keys: &[DiagnosisKey]) -> Vec<u8> {
    json::encode(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_bounded_and_a_joined_download_is_not() {
        let keys = vec![DiagnosisKey::default(); MAX_KEYS + 1];
        let body = Bytes::from(encode_protobuf(&keys));
        assert_eq!(decode(Encoding::Protobuf, body.clone()), Err(BadBody::TooMany(MAX_KEYS + 1)));
        assert_eq!(decode_joined(body).map(|k| k.len()), Ok(MAX_KEYS + 1));
    }
}
