//! What a client accepts, and what it has already (RFC 9110, 12.5 and 13.1.2). Pure.

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
        let quality = quality(&media);
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

/// How a body is coded on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// Smaller.
    Gzip,
}

/// The coding that a client prefers by its `Accept-Encoding`. Of equals the smaller one; without the header none. A client
/// that excludes all there are gets the body as it is, which is what it would get from a server that does not negotiate.
#[must_use]
pub fn coding(headers: &HeaderMap) -> Coding {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    for item in values.flat_map(|v| v.split(',')) {
        // The same form: a name and parameters.
        let item = MediaType::of(item);
        match item.name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality(&item)),
            "identity" => identity = Some(quality(&item)),
            "*" => any = Some(quality(&item)),
            _ => (),
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    if gzip > 0.0 && gzip >= identity.unwrap_or(0.0) { Coding::Gzip } else { Coding::Identity }
}

/// A quality beyond its bounds is none: infinity would beat all others.
fn quality(item: &MediaType<'_>) -> f32 {
    let bounded = |q: &str| q.parse().ok().filter(|q| (0.0..=1.0).contains(q));
    item.parameter("q").map_or(1.0, |q| bounded(q).unwrap_or(0.0))
}

/// Whether the client has the representation with this `ETag` already, by its `If-None-Match`.
#[must_use]
pub fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    // Weak comparison, as RFC 9110 asks for here.
    let opaque = |tag: &str| -> String { tag.trim_start_matches("W/").into() };
    values.flat_map(|v| v.split(',')).map(str::trim).any(|t| t == "*" || opaque(t) == opaque(etag))
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
        let table: [(&[&str], Result<Encoding, u16>); 26] = [
            (&["application/protobuf; version=1.0"], protobuf),
            (&["application/json;version=1.0"], json),
            (&["Application/JSON; Version=\"1.0\""], json),
            (&["text/html, application/json; version=1.0"], json),
            (&["application/json; version=1.0, application/protobuf; version=1.0"], json),
            (&["application/json; version=1.0; q=0.5, application/protobuf; version=1.0"], protobuf),
            (&["application/json; version=1.0; q=0.5", "application/protobuf; version=1.0; q=0.6"], protobuf),
            (&["application/json; version=2.0, application/protobuf; version=1.0"], protobuf),
            (&["application/json; version=1.0; q=inf, application/protobuf; version=1.0"], protobuf),
            (&["application/json; version=1.0; q=0"], Err(415)),
            (&["application/protobuf"], Err(415)),
            (&["application/protobuf; version=2.0"], Err(415)),
            (&["application/protobuf; version=1"], Err(415)),
            (&["*/*"], Err(415)),
            (&["application/*"], Err(415)),
            (&["text/html, */*;q=0.1"], Err(415)),
            (&["*/*; version=1.0"], Err(415)),
            (&["*/*, application/json; version=1.0; q=0.1"], json),
            (&["text/html", "application/protobuf; version=1.0"], protobuf),
            (&["application/protobuf; version=2.0, text/html"], Err(415)),
            (&["application/protobuf; version=1.0; q=nan"], Err(415)),
            (&[""], Err(406)),
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
    fn gzip_is_for_those_who_ask_for_it() {
        let table: [(&[&str], Coding); 17] = [
            (&[], Coding::Identity),
            (&[""], Coding::Identity),
            (&["identity"], Coding::Identity),
            (&["br, deflate, zstd"], Coding::Identity),
            (&["gzip"], Coding::Gzip),
            (&["X-GZIP"], Coding::Gzip),
            (&["deflate, gzip;q=1.0, *;q=0.5"], Coding::Gzip),
            (&["br", "gzip ; q=0.1"], Coding::Gzip),
            (&["gzip;q=0"], Coding::Identity),
            (&["gzip;q=0, *"], Coding::Identity),
            (&["gzip;q=much"], Coding::Identity),
            (&["gzip;q=1.5"], Coding::Identity),
            (&["*"], Coding::Gzip),
            (&["*;q=0"], Coding::Identity),
            (&["identity;q=0.5, gzip;q=0.4"], Coding::Identity),
            (&["identity;q=0.5, *;q=0.6"], Coding::Gzip),
            (&["identity;q=0, br"], Coding::Identity),
        ];
        for (accepted, expected) in table {
            assert_eq!(coding(&headers(header::ACCEPT_ENCODING, accepted)), expected, "{accepted:?}");
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
            for etag in ["\"a\"", "W/\"a\""] {
                assert_eq!(has_already(&headers(header::IF_NONE_MATCH, &[held]), etag), same, "{held}");
            }
        }
        assert!(!has_already(&HeaderMap::new(), "\"a\""));
    }
}
