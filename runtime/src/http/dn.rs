//! The country in a distinguished name, as proxies write it: RFC 2253 in either direction or the slash form of
//! OpenSSL, perhaps URL-encoded.

use std::borrow::Cow;

use keyferry_schemas::country::Country;
use percent_encoding::percent_decode_str;

/// The country that `dn` names in `C`; `None` if there is none, or if two disagree.
pub(super) fn country(dn: &str) -> Option<Country> {
    let dn = dn.trim();
    // Where a `=` is plain, so are the separators: what is encoded in a value makes no attribute of its own.
    let whole = !dn.contains('=');
    let text = if whole { decode_form(dn) } else { Cow::Borrowed(dn) };
    let attributes = if text.starts_with('/') { slashed(&text) } else { rfc2253(&text) };
    let mut named = attributes.iter().filter_map(|a| {
        let (kind, value) = a.split_once('=')?;
        let [kind, value] = [kind, value].map(|t| if whole { Cow::Borrowed(t) } else { decode(t) });
        is_country(kind.trim()).then(|| unquoted(value.trim()).parse::<Country>().ok())
    });
    let first = named.next()??;
    // A name that can be read in two ways is not read at all.
    named.all(|other| other == Some(first)).then_some(first)
}

fn is_country(kind: &str) -> bool {
    ["C", "countryName", "2.5.4.6", "OID.2.5.4.6"].iter().any(|known| known.eq_ignore_ascii_case(kind))
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Form encoding also writes a space as `+`, which in a plain name separates values.
fn decode_form(dn: &str) -> Cow<'_, str> {
    Cow::Owned(decode(&dn.replace('+', " ")).trim().to_owned())
}

/// `C=DE,O=x+CN=y`, also with `;`; separators count unless escaped or quoted.
fn rfc2253(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // Stays an escape: `\DE` is one byte in hexadecimal, and no country code needs one.
            '\\' => part.extend([c].into_iter().chain(chars.next())),
            '"' => {
                quoted = !quoted;
                part.push(c);
            }
            ',' | ';' | '+' if !quoted => parts.push(std::mem::take(&mut part)),
            _ => part.push(c),
        }
    }
    parts.push(part);
    parts
}

/// `/C=DE/O=x/CN=y`; OpenSSL escapes nothing here, so a value may hold slashes of its own.
fn slashed(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in text.split('/').skip(1) {
        match parts.last_mut() {
            Some(last) if !part.contains('=') => last.extend(["/", part]),
            _ => parts.push(part.to_owned()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_names_the_country() {
        for dn in [
            "C=DE,O=Backend,CN=a",
            "CN=a, O=Backend, C=DE",
            "CN = a, OU = b, C = DE",
            "CN=a;C=DE",
            "/C=DE/O=Backend/CN=a",
            "/CN=a/with/slashes/C=DE",
            "CN=a+C=DE,O=b",
            r"CN=a\,b\, C\=FR,C=DE",
            r#"O="Keys, Inc.; C=FR",C=DE"#,
            r#"C="DE""#,
            r"O=a\2C b,C=DE",
            "2.5.4.6=DE,CN=a",
            "countryName=DE",
            "C%3DDE%2CO%3DBackend",
            "CN%3Da+b%2C+C%3DDE",
            "CN=a%20b,C=DE",
            "%2FC%3DDE%2FCN%3Da",
            "CN=a,%20C=DE",
            "CN=100%,C=DE",
            "C=DE,C=DE",
        ] {
            assert_eq!(country(dn), "DE".parse().ok(), "{dn}");
        }
    }

    #[test]
    fn no_country_or_two_are_none() {
        for dn in [
            "",
            "/",
            "CN=a",
            "C=",
            "C=de",
            "C=DEU",
            "C=DE,C=FR",
            "/C=DE/CN=a/C=FR",
            r"CN=a\,C=DE",
            r#"CN="C=DE""#,
            "DC=DE",
            "CN=a%2CC=DE",
            r"C=\DE",
            r"C=D\E",
            r#"C=D"E""#,
            "C=DE%2CO=Backend",
            "\\",
        ] {
            assert_eq!(country(dn), None, "{dn}");
        }
    }
}
