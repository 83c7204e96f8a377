//! Who it is: by the certificate of the handshake, and by what a proxy says of it.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use keyferry_schemas::efgs::DiagnosisKey;
use keyferry_tests::{
    exchange::{DN_HEADER, SHA256_HEADER},
    front::Door,
};

use crate::{row::Row, scene::Scene};

pub fn certificates(s: &Scene) -> Vec<Row> {
    let by = |name: &str, who: &str| s.de(name, s.keys::<1>()).by(Some(&s.people[who]));
    let greek = |origin: &str| DiagnosisKey { origin: origin.into(), ..s.key() };
    let mut rows = vec![
        by("its registered certificate", "DE").created(),
        by("one whose thumbprint begins with zeros", "DE zero").created(),
        s.de("no certificate", s.keys::<1>()).by(None).refused(403, "client-certificate-missing"),
        by("one that nobody registered", "stranger").refused(403, "client-certificate-unknown"),
        by("one without a country", "no country").refused(400, "client-country-missing"),
        by("one with two countries", "two countries").refused(400, "client-country-missing"),
        by("one that is revoked", "DE revoked").refused(403, "client-certificate-not-in-force"),
        by("one that is not in force yet", "DE next year").refused(403, "client-certificate-not-in-force"),
        by("one that was in force", "DE last year").refused(403, "client-certificate-not-in-force"),
        by("one that signs", "DE signing").refused(403, "client-certificate-unknown"),
        by("one for callbacks", "DE callback").refused(403, "client-certificate-unknown"),
        by("another country's", "FR").refused(400, "key-origin-foreign"),
        s.upload("PL", "a member that is paused", [s.key_of("PL")]).refused(403, "member-not-active"),
        s.upload("GR", "its own code", [greek("GR")]).created(),
        s.upload("GR", "its other code", [greek("GR")]).by(Some(&s.people["EL"])).created(),
        s.upload("GR", "its other code in keys, too", [greek("EL"), greek("GR")])
            .by(Some(&s.people["EL"]))
            .created(),
    ];
    if s.door == Door::Tls {
        let fr = hex::encode(s.people["FR"].certificate.sha256());
        rows.push(
            s.de("a certificate, and headers of another country's", s.keys::<1>())
                .header(SHA256_HEADER, fr)
                .header(DN_HEADER, "C=FR")
                .created(),
        );
    }
    rows
}

const MISSING: (u16, &str) = (403, "client-certificate-missing");
const NOWHERE: (u16, &str) = (400, "client-country-missing");
const OTHER: (u16, &str) = (403, "client-country-mismatch");
const FINE: (u16, &str) = (201, "");

/// How proxies write thumbprints and names. Where nobody is a proxy, all of this is noise, and who it comes from has no
/// certificate.
pub fn spellings(s: &Scene) -> Vec<Row> {
    let sha256 = s.people["DE zero"].certificate.sha256();
    let (hex, base64) = (hex::encode(sha256), STANDARD.encode(sha256));
    let encoded = base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let small = encoded.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d");
    let (capitals, of_urls) = (hex.to_uppercase(), URL_SAFE.encode(sha256));
    let colons: String = hex
        .char_indices()
        .flat_map(|(i, c)| [(i > 0 && i % 2 == 0).then_some(':'), Some(c)])
        .flatten()
        .collect();
    let unknown = STANDARD.encode([0xfb; 32]);
    let dn = "C=DE,O=Backend,CN=a";
    let table: Vec<(&str, &str, &str, (u16, &str))> = vec![
        ("hex", &hex, dn, FINE),
        ("hex in capitals", &capitals, dn, FINE),
        ("base64", &base64, dn, FINE),
        ("base64 without padding", base64.trim_end_matches('='), dn, FINE),
        ("base64 of URLs", &of_urls, dn, FINE),
        ("base64, URL-encoded", &encoded, dn, FINE),
        ("base64, URL-encoded in small letters", &small, dn, FINE),
        ("base64 of another", &unknown, dn, (403, "client-certificate-unknown")),
        ("hex without its zeros", hex.trim_start_matches('0'), dn, MISSING),
        ("hex cut short", &hex[..62], dn, MISSING),
        ("hex with colons", &colons, dn, MISSING),
        ("no thumbprint at all", "", dn, MISSING),
        ("country first", &hex, "C=DE,ST=Berlin,O=Backend,CN=a", FINE),
        ("country last", &hex, "CN=a,O=Backend,ST=Berlin,C=DE", FINE),
        ("country in the middle, spaces", &hex, "CN=a, C=DE, O=Backend", FINE),
        ("spaces around the signs", &hex, "CN = a, C = DE", FINE),
        ("semicolons", &hex, "CN=a;C=DE;O=Backend", FINE),
        ("slashes", &hex, "/C=DE/O=Backend/CN=a", FINE),
        ("slashes in a value", &hex, "/CN=https://a/b/C=DE", FINE),
        ("by number", &hex, "2.5.4.6=DE,CN=a", FINE),
        ("by its long name", &hex, "countryName=DE,CN=a", FINE),
        ("several values in one", &hex, "CN=a+C=DE,O=Backend", FINE),
        ("several values in one, country first", &hex, "C=DE+CN=a+O=b", FINE),
        ("an escaped comma", &hex, r"O=Keys\, Inc.,C=DE", FINE),
        ("an escaped plus", &hex, r"O=Keys\+C\=FR,C=DE", FINE),
        ("an escape in hex", &hex, r"O=Keys\2C C\3DFR,C=DE", FINE),
        ("quotes", &hex, r#"O="Keys, C=FR",C=DE"#, FINE),
        ("letters beyond ASCII", &hex, "O=B\u{fc}ro,C=DE", FINE),
        ("URL-encoded", &hex, "CN%3Da%2C%20O%3DKeys%2C%20C%3DDE", FINE),
        ("URL-encoded as a form", &hex, "CN%3Da%2C+O%3DKeys%2C+C%3DDE", FINE),
        ("URL-encoded, several values in one", &hex, "CN%3Da%2BC%3DDE", FINE),
        ("URL-encoded slashes", &hex, "%2FC%3DDE%2FCN%3Da", FINE),
        ("URL-encoded in part", &hex, "CN=Keys%20and%20more,C=DE", FINE),
        ("both URL-encoded", &encoded, "CN%3Da%2CC%3DDE", FINE),
        ("the country twice", &hex, "C=DE,CN=a,C=DE", FINE),
        ("no country", &hex, "CN=a,O=Backend", NOWHERE),
        ("an empty country", &hex, "CN=a,C=", NOWHERE),
        ("an empty name", &hex, "", NOWHERE),
        ("two countries", &hex, "C=DE,C=FR", NOWHERE),
        ("a country inside a value", &hex, r"CN=a\,C=DE", NOWHERE),
        ("a country inside quotes", &hex, r#"CN="a,C=DE""#, NOWHERE),
        ("a domain for a country", &hex, "DC=DE,CN=a", NOWHERE),
        ("another country", &hex, "C=FR,CN=a", OTHER),
        ("a country of no member", &hex, "C=ZZ,CN=a", OTHER),
    ];
    let said = |name: &str, sha256: &str, dn: &str, expected: (u16, &'static str)| {
        let row = s.de(name, s.keys::<1>()).by(None).header(SHA256_HEADER, sha256).header(DN_HEADER, dn);
        judged(s, row, expected)
    };
    let mut rows: Vec<_> =
        table.into_iter().map(|(name, t, dn, expected)| said(name, t, dn, expected)).collect();
    let half = |name: &str, header: &str| said(name, &hex, dn, MISSING).without(header);
    rows.push(half("a thumbprint without a name", DN_HEADER));
    rows.push(half("a name without a thumbprint", SHA256_HEADER));
    rows.push(said("two names", &hex, dn, MISSING).twice(DN_HEADER, "C=DE"));
    rows.push(said("two thumbprints", &hex, dn, MISSING).twice(SHA256_HEADER, &hex));
    rows
}

fn judged(s: &Scene, row: Row, (status, code): (u16, &'static str)) -> Row {
    match (s.door, status) {
        (Door::Tls, _) => row.refused(MISSING.0, MISSING.1),
        (Door::Proxy, 201) => row.created(),
        (Door::Proxy, _) => row.refused(status, code),
    }
}
