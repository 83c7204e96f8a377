//! What the headers of an upload say. Pure.

use axum::http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE},
};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

use keyferry_runtime::http::{Code, Problem};
use keyferry_schemas::{
    efgs::{Encoding, VERSION},
    media::{ACCEPTED, MediaType},
    rejection::Rejection,
    topics::{MAX_BATCH_TAG_BYTES, is_batch_tag},
};

/// Name of the header with the sender's name for the batch.
pub(crate) const BATCH_TAG: &str = "batchtag";
const BATCH_SIGNATURE: &str = "batchsignature";
/// Several times what a CMS with a chain of RSA certificates needs.
const MAX_SIGNATURE_BYTES: usize = 16 << 10;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The headers of an upload.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// How the body is encoded.
    pub encoding: Encoding,
    /// The sender's name for the batch.
    pub batch_tag: String,
    /// The detached CMS, not looked into yet.
    pub signature: Bytes,
    /// Whether 202 with a receipt may answer an upload that is not decided in time.
    pub respond_async: bool,
}

impl Head {
    /// Reads the headers.
    ///
    /// # Errors
    /// 400, 406 or 415.
    pub fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let encoding = encoding(headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()))?;
        uncoded(headers)?;
        Ok(Self {
            encoding,
            batch_tag: batch_tag(headers)?,
            signature: signature(headers)?,
            respond_async: prefers_async(headers),
        })
    }
}

/// The encoding that a `Content-Type` names: the media type must be known (415), its version there and of the form
/// `major.minor` (400), and 1.0 (406).
fn encoding(content_type: Option<&str>) -> Result<Encoding, Problem> {
    let media = MediaType::of(content_type.unwrap_or_default());
    let known = media.encoding().ok_or_else(|| {
        let detail = "the media type of the body is not one of those that the header Accept names";
        Problem::new(Code::MediaTypeUnknown, detail).header(ACCEPT, HeaderValue::from_static(ACCEPTED))
    })?;
    let version = media.parameter("version").ok_or_else(|| {
        Problem::new(Code::MediaTypeVersionMissing, "Content-Type has no version; add version=1.0")
    })?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !version.split_once('.').is_some_and(|(major, minor)| digits(major) && digits(minor)) {
        return Err(Problem::new(
            Code::MediaTypeVersionMalformed,
            "the version in Content-Type is not major.minor, such as 1.0",
        ));
    }
    if version != VERSION {
        let detail = "this version of the wire format is not known; 1.0 is";
        let problem = Problem::new(Code::MediaTypeVersionUnknown, detail);
        return Err(problem.header(ACCEPT, HeaderValue::from_static(ACCEPTED)));
    }
    Ok(known)
}

/// Bodies are taken as they are: a small one that is coded may be of any size in memory.
fn uncoded(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    let identity = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    if codings.all(|coding| identity(coding.trim_ascii())) {
        return Ok(());
    }
    let detail = "bodies are taken as they are; send it again without Content-Encoding, not compressed";
    Err(Problem::new(Code::ContentEncodingUnknown, detail)
        .header(ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

fn batch_tag(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(BATCH_TAG).iter();
    let first =
        values.next().ok_or_else(|| Problem::new(Code::BatchTagMissing, "the header batchTag is missing"))?;
    let tag = first.to_str().ok().filter(|tag| is_batch_tag(tag.as_bytes()));
    match (tag, values.next()) {
        (Some(tag), None) => Ok(tag.to_owned()),
        _ => {
            let detail =
                format!("batchTag is one header of 1 to {MAX_BATCH_TAG_BYTES} visible ASCII characters");
            Err(Problem::rejection(Rejection::BatchTag, detail))
        }
    }
}

fn signature(headers: &HeaderMap) -> Result<Bytes, Problem> {
    let text = headers.get(BATCH_SIGNATURE).map(HeaderValue::as_bytes).filter(|text| !text.is_empty());
    let text =
        text.ok_or_else(|| Problem::new(Code::SignatureMissing, "the header batchSignature is missing"))?;
    let not_base64 = |_| {
        Problem::new(
            Code::SignatureNotBase64,
            "batchSignature is not base64; it carries a detached CMS in DER",
        )
    };
    let cms = BASE64.decode(text).map_err(not_base64)?;
    if cms.len() > MAX_SIGNATURE_BYTES {
        let detail = format!(
            "batchSignature is longer than {MAX_SIGNATURE_BYTES} bytes; leave chains of certificates out"
        );
        return Err(Problem::rejection(Rejection::SignatureMalformed, detail));
    }
    Ok(cms.into())
}

/// RFC 7240: `Prefer: respond-async, wait=10`.
fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|p| p.trim().eq_ignore_ascii_case("respond-async"))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[test]
    fn content_types() {
        for (text, expected) in [
            ("application/protobuf; version=1.0", Encoding::Protobuf),
            ("application/protobuf;version=1.0", Encoding::Protobuf),
            ("Application/JSON; charset=utf-8; Version=\"1.0\"", Encoding::Json),
        ] {
            assert_eq!(encoding(Some(text)).unwrap(), expected, "{text}");
        }
        for (text, status, code) in [
            (Some("application/protobuf"), 400, "media-type-version-missing"),
            (Some("application/json; charset=utf-8"), 400, "media-type-version-missing"),
            (Some("application/json; version=1"), 400, "media-type-version-malformed"),
            (Some("application/json; version="), 400, "media-type-version-malformed"),
            (Some("application/json; version=1.x"), 400, "media-type-version-malformed"),
            (Some("application/json; version=1.0.0"), 400, "media-type-version-malformed"),
            (Some("application/json; version=1.1"), 406, "media-type-version-unknown"),
            (Some("application/protobuf; version=2.0"), 406, "media-type-version-unknown"),
            (Some("application/x-protobuf; version=1.0"), 415, "media-type-unknown"),
            (Some("text/plain"), 415, "media-type-unknown"),
            (Some(""), 415, "media-type-unknown"),
            (None, 415, "media-type-unknown"),
        ] {
            let problem = encoding(text).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.code()), (status, code), "{text:?}");
        }
    }

    #[test]
    fn bodies_are_taken_as_they_are() {
        let asked = |values: &[&'static str]| {
            let all = values.iter().map(|v| (CONTENT_ENCODING, HeaderValue::from_static(v)));
            uncoded(&all.collect())
        };
        for taken in [&[][..], &["identity"], &[" Identity ,"], &[""]] {
            assert!(asked(taken).is_ok(), "{taken:?}");
        }
        for refused in
            [&["gzip"][..], &["x-gzip"], &["identity, br"], &["identity", "deflate"], &["aes128gcm"]]
        {
            let response = asked(refused).unwrap_err().into_response();
            let accepted = response.headers().get(ACCEPT_ENCODING).map(HeaderValue::as_bytes);
            assert_eq!((response.status().as_u16(), accepted), (415, Some(&b"identity"[..])), "{refused:?}");
        }
    }

    #[test]
    fn tags_signatures_and_preferences() {
        let read = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf; version=1.0"));
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            Head::read(&headers)
        };
        let head =
            read(&[("batchtag", "a/b+c=="), ("batchsignature", "MAA="), ("prefer", "wait=3, Respond-Async")]);
        let expected = Head {
            encoding: Encoding::Protobuf,
            batch_tag: "a/b+c==".into(),
            signature: Bytes::from_static(&[0x30, 0]),
            respond_async: true,
        };
        assert_eq!(head.unwrap(), expected);
        assert!(!read(&[("batchtag", "a"), ("batchsignature", "MAA")]).unwrap().respond_async);

        let long = "x".repeat(MAX_BATCH_TAG_BYTES + 1);
        let huge = BASE64.encode(vec![0; MAX_SIGNATURE_BYTES + 1]);
        for (pairs, code) in [
            (&[("batchsignature", "MAA=")][..], "batch-tag-missing"),
            (&[("batchtag", ""), ("batchsignature", "MAA=")], "batch-tag-malformed"),
            (&[("batchtag", "a b"), ("batchsignature", "MAA=")], "batch-tag-malformed"),
            (&[("batchtag", "ä"), ("batchsignature", "MAA=")], "batch-tag-malformed"),
            (&[("batchtag", &long), ("batchsignature", "MAA=")], "batch-tag-malformed"),
            (&[("batchtag", "a"), ("batchtag", "b"), ("batchsignature", "MAA=")], "batch-tag-malformed"),
            (&[("batchtag", "a")], "signature-missing"),
            (&[("batchtag", "a"), ("batchsignature", "")], "signature-missing"),
            (&[("batchtag", "a"), ("batchsignature", "%%")], "signature-not-base64"),
            (&[("batchtag", "a"), ("batchsignature", &huge)], "signature-malformed"),
        ] {
            let problem = read(pairs).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.code()), (400, code), "{pairs:?}");
        }
    }
}
