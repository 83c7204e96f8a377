//! The client certificate of a request. It comes from our own handshake, or from the headers of a proxy that the
//! configuration trusts; from anybody else those headers mean nothing.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Version, header::CONNECTION},
    middleware::Next,
    response::Response,
};
use axum_server::tls::TlsInfo;
use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ipnet::IpNet;
use openssl::{nid::Nid, x509::X509};
use percent_encoding::percent_decode_str;

use keyferry_schemas::{batch::sha256, country::Country, records::Hash};

use super::dn;

const SHA256_HEADER: &str = "x-ssl-client-sha256";
const DN_HEADER: &str = "x-ssl-client-dn";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const ALPHABETS: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&STANDARD, LENIENT), GeneralPurpose::new(&URL_SAFE, LENIENT)];

/// The certificate that the client of this request has proven to hold: an extension of the request, absent if there
/// is none. Whether anybody registered it is for [`identify`](super::identify) to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of its DER. Bytes and not a number: one in 256 begins with a zero.
    pub sha256: Hash,
    /// The country that its subject names, if it names exactly one.
    pub subject_country: Option<Country>,
}

impl ClientCertificate {
    /// From the DER of a certificate that the handshake has proven.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Self {
        Self { sha256: sha256(der), subject_country: subject_country(der) }
    }

    /// From the headers of a proxy; `None` unless both are there, once, and readable.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let sha256 = thumbprint(only(headers, SHA256_HEADER)?)?;
        Some(Self { sha256, subject_country: dn::country(only(headers, DN_HEADER)?) })
    }
}

/// Puts the client's certificate into the request.
pub(super) async fn attach(
    State(trusted): State<Arc<[IpNet]>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(client) = of_request(&request, &trusted) {
        request.extensions_mut().insert(client);
    }
    // HTTP/2 has no such header. A proxy's connection is everybody's.
    let stays = request.version() >= Version::HTTP_2 || is_proxy(&request, &trusted);
    let mut response = next.run(request).await;
    if stays {
        response.headers_mut().remove(CONNECTION);
    }
    response
}

fn is_proxy(request: &Request, trusted: &[IpNet]) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    peer.is_some_and(|ip| trusted.iter().any(|net| net.contains(&ip)))
}

fn of_request(request: &Request, trusted: &[IpNet]) -> Option<ClientCertificate> {
    // A proxy that encrypts anew shows its own certificate in the handshake and the client's in the headers.
    if is_proxy(request, trusted) && request.headers().contains_key(SHA256_HEADER) {
        let client = ClientCertificate::from_headers(request.headers());
        if client.is_none() {
            tracing::warn!(
                "a trusted proxy sends {SHA256_HEADER} or {DN_HEADER} missing, twice or malformed"
            );
        }
        return client;
    }
    let tls = request.extensions().get::<Arc<TlsInfo>>()?;
    tls.peer_certificates.first().map(|der| ClientCertificate::from_der(der))
}

/// The value of a header that stands there once. Of two, one may be the client's own, passed through.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { std::str::from_utf8(value.as_bytes()).ok() }
}

/// Hexadecimal in either case, base64 in either alphabet, perhaps URL-encoded.
fn thumbprint(text: &str) -> Option<Hash> {
    let text = percent_decode_str(text.trim()).decode_utf8().ok()?;
    if let Ok(bytes) = hex::decode(&*text) {
        return bytes.try_into().ok();
    }
    ALPHABETS.iter().find_map(|engine| engine.decode(&*text).ok()?.try_into().ok())
}

fn subject_country(der: &[u8]) -> Option<Country> {
    let certificate = X509::from_der(der).ok()?;
    let mut named = certificate
        .subject_name()
        .entries_by_nid(Nid::COUNTRYNAME)
        .map(|entry| std::str::from_utf8(entry.data().as_slice()).ok()?.parse::<Country>().ok());
    let first = named.next()??;
    named.all(|other| other == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::HeaderValue};
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    /// Begins with a zero byte and has all three characters that URLs encode.
    fn hash() -> Hash {
        let mut hash = [0xff; 32];
        (hash[0], hash[1], hash[2]) = (0, 0xfb, 0xef);
        hash
    }

    fn headers(sha256: &str, dn: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SHA256_HEADER, HeaderValue::from_str(sha256).unwrap());
        headers.insert(DN_HEADER, HeaderValue::from_str(dn).unwrap());
        headers
    }

    #[test]
    fn every_form_of_a_thumbprint_is_the_same_bytes() {
        let base64 = BASE64.encode(hash());
        let encoded = base64.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
        assert!(encoded.matches('%').count() > 2, "{encoded}");
        let hex = hex::encode(hash());
        let forms = [
            hex.clone(),
            hex.to_uppercase(),
            base64.clone(),
            encoded,
            base64.replace('=', ""),
            format!(" {hex} "),
        ];
        for form in forms {
            assert_eq!(thumbprint(&form), Some(hash()), "{form}");
        }
        for bad in ["", "00", &hex[1..], &hex[..63], "zz", &format!("{hex}00")] {
            assert_eq!(thumbprint(bad), None, "{bad}");
        }
    }

    #[test]
    fn headers_count_from_trusted_peers_only() {
        let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let seen = |peer: Option<&str>| {
            let mut request = Request::new(Body::empty());
            *request.headers_mut() = headers(&hex::encode(hash()), "CN=a,C=DE");
            if let Some(peer) = peer {
                request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
            }
            of_request(&request, &trusted)
        };
        let client = ClientCertificate { sha256: hash(), subject_country: "DE".parse().ok() };
        for peer in ["10.1.2.3:9", "[fd00::1]:9", "[::ffff:10.1.2.3]:9"] {
            assert_eq!(seen(Some(peer)), Some(client), "{peer}");
        }
        for peer in [Some("11.0.0.1:9"), Some("[fe80::1]:9"), None] {
            assert_eq!(seen(peer), None, "{peer:?}");
        }
    }

    #[test]
    fn a_header_that_stands_twice_is_none() {
        let mut twice = headers(&hex::encode(hash()), "C=DE");
        assert!(ClientCertificate::from_headers(&twice).is_some());
        twice.append(DN_HEADER, HeaderValue::from_static("C=FR"));
        assert_eq!(ClientCertificate::from_headers(&twice), None);
        twice.remove(DN_HEADER);
        assert_eq!(ClientCertificate::from_headers(&twice), None);
    }
}
