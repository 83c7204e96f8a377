//! Headers of HTTP.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_producers::Head;
use keyferry_runtime::http::ClientCertificate;
use keyferry_schemas::{country::Country, efgs::Encoding, topics::is_batch_tag};
use keyferry_sinks::negotiate::{encoding, has_already};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};

use super::{
    name::{countries, decoded},
    one_line,
};

const SHA256: HeaderName = HeaderName::from_static("x-ssl-client-sha256");
const DN: HeaderName = HeaderName::from_static("x-ssl-client-dn");
static BATCH_TAG: HeaderName = HeaderName::from_static("batchtag");
static SIGNATURE: HeaderName = HeaderName::from_static("batchsignature");
static PREFER: HeaderName = HeaderName::from_static("prefer");

/// What a proxy says of a client, as far as HTTP lets it through.
fn proxied(sha256: &[u8], dn: &[u8]) -> Option<ClientCertificate> {
    let value = |bytes| HeaderValue::from_bytes(bytes).ok();
    ClientCertificate::from_headers(&HeaderMap::from_iter([(SHA256, value(sha256)?), (DN, value(dn)?)]))
}

/// The thumbprint that a proxy says.
pub fn thumbprint(data: &[u8]) {
    let Some(client) = proxied(data, b"C=DE") else { return };
    let text = decoded(std::str::from_utf8(data).unwrap().trim());
    let base64 = text.replace('-', "+").replace('_', "/");
    let is_hex = text.eq_ignore_ascii_case(&hex::encode(client.sha256));
    let is_base64 = base64.trim_end_matches('=') == STANDARD.encode(client.sha256).trim_end_matches('=');
    assert!(is_hex || is_base64, "a thumbprint that nobody wrote");
    for form in [hex::encode(client.sha256), STANDARD.encode(client.sha256)] {
        assert_eq!(proxied(form.as_bytes(), b"C=DE"), Some(client));
    }
}

/// The distinguished name that a proxy says.
pub fn country_name(data: &[u8]) {
    let Some(client) = proxied(&[b'0'; 64], data) else { return };
    let text = std::str::from_utf8(data).unwrap().trim();
    let Some(country) = client.subject_country else {
        // The plain form, which every proxy can write, has to be understood.
        let plain = !text.contains(['\\', '%', '#', '"']);
        let named = countries(text, false).filter(|named| plain && !named.is_empty()).unwrap_or_default();
        let same = named.windows(2).all(|w| w[0] == w[1]);
        let known = same && named.first().is_some_and(|name| name.parse::<Country>().is_ok());
        return assert!(!known, "a country is not seen");
    };
    assert!(decoded(text).contains(country.as_str()));
    // A plain `=` says that the separators are plain too; else the whole is encoded.
    let encoded = text.contains('%');
    let named = if encoded && !text.contains('=') {
        let spaces = text.replace('+', " ");
        countries(&decoded(&spaces), false)
    } else {
        countries(text, encoded)
    };
    // Of what is no such name by the letter nothing is claimed: proxies have dialects.
    if let Some(named) = named {
        let all = named.iter().all(|name| *name == country.as_str());
        assert!(all && !named.is_empty(), "{country} is not what it names: {named:?}");
    }
}

/// A line for each header: which one by its first letter, then its value.
fn lines(data: &[u8], names: &[(u8, HeaderName)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        let Some((letter, value)) = line.split_first() else { continue };
        let name = names.iter().find(|(l, _)| l == letter).map(|(_, name)| name);
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// The headers of an upload.
pub fn upload_headers(data: &[u8]) {
    let names =
        [(b'c', CONTENT_TYPE), (b't', BATCH_TAG.clone()), (b's', SIGNATURE.clone()), (b'p', PREFER.clone())];
    let headers = lines(data, &names);
    let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match Head::read(&headers) {
        Ok(head) => {
            assert_eq!(headers.get_all(&BATCH_TAG).iter().count(), 1);
            assert!(head.batch_tag == text(&BATCH_TAG) && is_batch_tag(head.batch_tag.as_bytes()));
            assert!(head.signature.len() <= 16 << 10);
            let sent = text(&SIGNATURE).trim_end_matches('=');
            assert!(STANDARD.encode(&head.signature).trim_end_matches('=') == sent, "another signature");
            let said = text(&CONTENT_TYPE).to_ascii_lowercase();
            assert!(said.contains("1.0") && said.trim_start().starts_with(media_type(head.encoding)));
            assert!(!head.respond_async || headers.contains_key(&PREFER));
        }
        Err(problem) => {
            assert!([400, 406, 415].contains(&problem.status().as_u16()), "{problem}");
            one_line(&problem);
        }
    }
}

fn media_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Protobuf => "application/protobuf",
        Encoding::Json => "application/json",
    }
}

/// What a download says of what it takes, and of what it has.
pub fn accept(data: &[u8]) {
    let headers = lines(data, &[(b'a', ACCEPT), (b'i', IF_NONE_MATCH)]);
    let values = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let ranges: Vec<_> = values.flat_map(|v| v.split(',')).map(|r| r.trim().to_ascii_lowercase()).collect();
    let taken = |e: Encoding| {
        let of_type = ranges.iter().filter(|r| r.split(';').next().map(str::trim) == Some(media_type(e)));
        let spoken = of_type.filter(|r| parameter(r, "version") == Some("1.0"));
        spoken.map(|r| quality(r)).fold(0.0, f32::max)
    };
    match encoding(&headers) {
        Ok(chosen) => {
            let most = [Encoding::Protobuf, Encoding::Json].map(taken).into_iter().fold(0.0, f32::max);
            assert!(taken(chosen) > 0.0 && taken(chosen) == most, "it is not taken, or another is preferred");
        }
        Err(problem) => {
            assert!([406, 415].contains(&problem.status().as_u16()), "{problem}");
            one_line(&problem);
        }
    }
    if has_already(&headers, "\"tag\"") {
        let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
        assert!(values.into_iter().any(|v| v.contains("\"tag\"") || v.contains('*')));
    }
}

fn parameter<'a>(range: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = range.split(';').skip(1).filter_map(|p| p.split_once('='));
    pairs.find(|(n, _)| n.trim() == name).map(|(_, value)| value.trim().trim_matches('"'))
}

/// The quality of a media range: 0 to 1.
fn quality(range: &str) -> f32 {
    let value = parameter(range, "q").map_or(Some(1.0), |q| q.parse::<f32>().ok());
    value.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0)
}
