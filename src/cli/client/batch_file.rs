//! A `DiagnosisKeyBatch` in a file.

use std::path::Path;

use bytes::Bytes;
use clap::ValueEnum;
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::efgs::{self, BadBody, DiagnosisKey, Encoding, MAX_KEYS};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::files;

/// How keys stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Protobuf, as efgs.proto has it
    Protobuf,
    /// The JSON form of it
    Json,
}

impl Format {
    /// By the extension: `.json`, or protobuf under any other.
    fn of(path: &Path) -> Self {
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        if json { Self::Json } else { Self::Protobuf }
    }

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Protobuf => "pb",
            Self::Json => "json",
        }
    }
}

/// Reads the keys of a file; any number of them.
pub(super) fn read(path: &Path, format: Option<Format>) -> Result<Vec<DiagnosisKey>, Fatal> {
    let bytes = Bytes::from(files::read("the batch", path)?);
    let keys = match format.unwrap_or_else(|| Format::of(path)) {
        Format::Protobuf => efgs::decode_joined(bytes).map_err(|e| e.to_string()),
        Format::Json => read_json(bytes),
    };
    let keys = keys.map_err(|e| {
        // The messages speak of a body that came over HTTP.
        let why = e.replacen("the body", "it", 1);
        Fatal::config(format_args!("{}: {why}; another form is read with --format", path.display()))
    })?;
    if keys.is_empty() {
        return Err(Fatal::config(format_args!("{}: there is no key in it", path.display())));
    }
    Ok(keys)
}

#[derive(Deserialize)]
struct Many {
    keys: Vec<Value>,
}

/// The reader of the contract takes what one upload may hold; a longer file is given to it in parts.
fn read_json(bytes: Bytes) -> Result<Vec<DiagnosisKey>, String> {
    match efgs::decode(Encoding::Json, bytes.clone()) {
        Err(BadBody::TooMany(_)) => (),
        other => return other.map_err(|e| e.to_string()),
    }
    // It was read to its end already.
    let Many { keys } = serde_json::from_slice(&bytes).map_err(|_| "it can not be read".to_owned())?;
    let mut all = Vec::with_capacity(keys.len());
    for part in keys.chunks(MAX_KEYS) {
        let part = Bytes::from(json!({ "keys": part }).to_string());
        all.extend(efgs::decode(Encoding::Json, part).map_err(|e| e.to_string())?);
    }
    Ok(all)
}

/// Writes keys in this form.
pub(super) fn write(format: Format, keys: &[DiagnosisKey]) -> Vec<u8> {
    match format {
        Format::Protobuf => efgs::encode_protobuf(keys),
        Format::Json => efgs::encode_json(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: u32) -> Vec<DiagnosisKey> {
        (0..n).map(|i| DiagnosisKey { rolling_start_interval_number: i, ..Default::default() }).collect()
    }

    #[test]
    fn any_number_of_keys_in_either_form_is_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for n in [1, 5000, 5001, 10_001] {
            for format in [Format::Protobuf, Format::Json] {
                let path = folder.path().join(format!("keys.{}", format.extension()));
                std::fs::write(&path, write(format, &keys(n))).unwrap();
                assert!(read(&path, None).unwrap() == keys(n), "{n} {format:?}");
            }
        }
    }

    #[test]
    fn what_is_no_batch_is_said_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, format, says) in [
            (
                "a.json",
                "{\"keys\":[{\"keyData\":\"7$7\"}]}",
                None,
                "a.json: it is not a JSON DiagnosisKeyBatch",
            ),
            ("a.pb", "{\"keys\":[]}", None, "a.pb: it is not a protobuf DiagnosisKeyBatch"),
            ("a.bin", "{\"keys\":[]}", Some(Format::Json), "a.bin: there is no key in it"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let fatal = read(&path, format).unwrap_err();
            assert!(fatal.message.contains(says) && !fatal.message.contains("7$7"), "{fatal}");
        }
    }
}
