//! What a client accepts, and what it has already. Pure.

use axum::http::{HeaderMap, HeaderValue, header};

use keyferry_runtime::http::{Code, Problem};
use keyferry_schemas::{
    efgs::{Encoding, VERSION},
    media::{ACCEPTED, MediaType},
};

/// The encoding that a client prefers by its `Accept`.
///
/// # Errors
/// 415 if the version is missing or another one, 406 if it accepts other media types only: the statuses of EFGS.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut best: Option<(f32, Encoding)> = None;
    // No `Accept` at all is a missing version as well.
    let mut known = !headers.contains_key(header::ACCEPT);
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    for range in values.flat_map(|v| v.split(',')).map(str::trim).filter(|r| !r.is_empty()) {
        let media = MediaType::of(range);
        known |= matches!(media.name.as_str(), "*/*" | "application/*");
        let Some(encoding) = media.encoding() else { continue };
        known = true;
        let quality = media.parameter("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
        // Of equals, the first one that was named.
        if media.parameter("version") == Some(VERSION) && quality > best.map_or(0.0, |(q, _)| q) {
            best = Some((quality, encoding));
        }
    }
    let refuse = |code, detail: &str| {
        Problem::new(code, detail).header(header::ACCEPT, HeaderValue::from_static(ACCEPTED))
    };
    match best {
        Some((_, encoding)) => Ok(encoding),
        None if known => Err(refuse(
            Code::AcceptVersion,
            "the Accept header needs a version that is spoken here: application/protobuf; version=1.0",
        )),
        None => Err(refuse(
            Code::AcceptMediaType,
            "keys are served as application/protobuf or application/json, both with version=1.0",
        )),
    }
}

/// Whether the client has the representation with this `ETag` already, by its `If-None-Match`.
#[must_use]
pub fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    // Weak comparison, as RFC 9110 asks for here.
    values.flat_map(|v| v.split(',')).map(str::trim).any(|t| t == "*" || t.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|v| (name.clone(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn accept_is_negotiated_as_efgs_clients_know_it() {
        let (protobuf, json) = (Ok(Encoding::Protobuf), Ok(Encoding::Json));
        let table: [(&[&str], Result<Encoding, u16>); 17] = [
            (&["application/protobuf; version=1.0"], protobuf),
            (&["application/json;version=1.0"], json),
            (&["Application/JSON; Version=\"1.0\""], json),
            (&["text/html, application/json; version=1.0"], json),
            (&["application/json; version=1.0, application/protobuf; version=1.0"], json),
            (&["application/json; version=1.0; q=0.5, application/protobuf; version=1.0"], protobuf),
            (&["application/json; version=1.0; q=0.5", "application/protobuf; version=1.0; q=0.6"], protobuf),
            (&["application/json; version=2.0, application/protobuf; version=1.0"], protobuf),
            (&["application/json; version=1.0; q=0"], Err(415)),
            (&["application/protobuf"], Err(415)),
            (&["application/protobuf; version=2.0"], Err(415)),
            (&["application/protobuf; version=1"], Err(415)),
            (&["*/*"], Err(415)),
            (&[], Err(415)),
            (&["text/html"], Err(406)),
            (&["application/xml; version=1.0"], Err(406)),
            (&["application/x-protobuf; version=1.0"], Err(406)),
        ];
        for (accept, expected) in table {
            let found = encoding(&headers(header::ACCEPT, accept)).map_err(|p| p.status().as_u16());
            assert_eq!(found, expected, "{accept:?}");
        }
    }

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        for (held, same) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            assert_eq!(has_already(&headers(header::IF_NONE_MATCH, &[held]), "\"a\""), same, "{held}");
        }
        assert!(!has_already(&HeaderMap::new(), "\"a\""));
    }
}
