//! The code of every problem that is no rejection: one closed list, as [`Rejection`] is for what the pipeline refuses.
//!
//! A new one takes a line here, one in `docs/errors.md` and one in the description of the HTTP contract; tests miss
//! those that are forgotten. A code that was ever sent keeps its meaning.

use std::{borrow::Cow, fmt};

use axum::http::StatusCode;
use keyferry_schemas::rejection::Rejection;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:ident;)*) => {
        /// The stable code of a problem. Each has one status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code there is, beside those of [`Rejection::ALL`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As clients read it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    // Of every route.
    /// No role here has this path.
    NotFound = "not-found", NOT_FOUND;
    /// The path knows other methods.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED;
    /// No client certificate came with the request.
    ClientCertificateMissing = "client-certificate-missing", FORBIDDEN;
    /// The subject of the client certificate names no single country.
    ClientCountryMissing = "client-country-missing", BAD_REQUEST;
    /// The client certificate is registered for another country than its subject names.
    ClientCountryMismatch = "client-country-mismatch", FORBIDDEN;
    /// The network document that is needed has not been read yet.
    NetworkUnknown = "network-unknown", SERVICE_UNAVAILABLE;

    // Of uploads and receipts.
    /// The media type of the body is not spoken.
    MediaTypeUnknown = "media-type-unknown", UNSUPPORTED_MEDIA_TYPE;
    /// The body is compressed, or coded otherwise.
    ContentEncodingUnknown = "content-encoding-unknown", UNSUPPORTED_MEDIA_TYPE;
    /// `Content-Type` has no version.
    MediaTypeVersionMissing = "media-type-version-missing", BAD_REQUEST;
    /// The version in `Content-Type` is not `major.minor`.
    MediaTypeVersionMalformed = "media-type-version-malformed", BAD_REQUEST;
    /// The version in `Content-Type` is not spoken.
    MediaTypeVersionUnknown = "media-type-version-unknown", NOT_ACCEPTABLE;
    /// There is no header `batchTag`.
    BatchTagMissing = "batch-tag-missing", BAD_REQUEST;
    /// There is no header `batchSignature`, or nothing in it.
    SignatureMissing = "signature-missing", BAD_REQUEST;
    /// The header `batchSignature` is not base64.
    SignatureNotBase64 = "signature-not-base64", BAD_REQUEST;
    /// The body has more bytes than are taken.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE;
    /// The body did not come in time.
    BodyTooSlow = "body-too-slow", REQUEST_TIMEOUT;
    /// The connection broke within the body.
    BodyIncomplete = "body-incomplete", BAD_REQUEST;
    /// The member has too many uploads under way, or sent too many within a minute.
    TooManyUploads = "too-many-uploads", TOO_MANY_REQUESTS;
    /// All members together have too many uploads under way.
    GatewayBusy = "gateway-busy", SERVICE_UNAVAILABLE;
    /// Decisions about this member's uploads are not heard of yet.
    LedgerNotFollowed = "ledger-not-followed", SERVICE_UNAVAILABLE;
    /// The upload could not be written.
    BrokerUnreachable = "broker-unreachable", SERVICE_UNAVAILABLE;
    /// The upload may have been written, or not.
    NotConfirmed = "not-confirmed", SERVICE_UNAVAILABLE;
    /// The upload is stored, and the wait was over before it was decided.
    NotYetDecided = "not-yet-decided", SERVICE_UNAVAILABLE;
    /// The ledger says that the upload is refused, and not why.
    Rejected = "rejected", BAD_REQUEST;
    /// This gateway knows no such receipt of this member.
    ReceiptUnknown = "receipt-unknown", NOT_FOUND;

    // Of downloads and audits.
    /// The header `Accept` names no version that is spoken.
    AcceptVersion = "accept-version", UNSUPPORTED_MEDIA_TYPE;
    /// The header `Accept` names no media type that is spoken.
    AcceptMediaType = "accept-media-type", NOT_ACCEPTABLE;
    /// The date in the path is not `yyyy-MM-dd`.
    DateMalformed = "date-malformed", BAD_REQUEST;
    /// The date in the path is later than that of the batch.
    DateAfterBatch = "date-after-batch", BAD_REQUEST;
    /// The date in the path is before the window.
    DateTooOld = "date-too-old", GONE;
    /// There is no batch from that date on.
    NoBatch = "no-batch", NOT_FOUND;
    /// There is no batch with that tag.
    BatchUnknown = "batch-unknown", NOT_FOUND;
    /// The keys of the batch are erased.
    BatchErased = "batch-erased", GONE;
    /// The country is served by another instance.
    CountryNotServed = "country-not-served", MISDIRECTED_REQUEST;
    /// The store of the country can not be read now.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE;
    /// The batch can not be written as JSON.
    NotJson = "not-json", INTERNAL_SERVER_ERROR;

    // Of callbacks.
    /// No callbacks are made from here.
    CallbacksNotOffered = "callbacks-not-offered", NOT_IMPLEMENTED;
    /// The id in the path is not 1 to 64 plain characters.
    CallbackIdMalformed = "callback-id-malformed", BAD_REQUEST;
    /// The query names no address to call, or several.
    CallbackUrlMissing = "callback-url-missing", BAD_REQUEST;
    /// The address has more than 512 bytes.
    CallbackUrlTooLong = "callback-url-too-long", BAD_REQUEST;
    /// The address is no absolute one in visible ASCII.
    CallbackUrlMalformed = "callback-url-malformed", BAD_REQUEST;
    /// The address is not https.
    CallbackUrlNotHttps = "callback-url-not-https", BAD_REQUEST;
    /// The address names a user or password.
    CallbackUrlUserinfo = "callback-url-userinfo", BAD_REQUEST;
    /// The address has a query.
    CallbackUrlQuery = "callback-url-query", BAD_REQUEST;
    /// The address has a fragment.
    CallbackUrlFragment = "callback-url-fragment", BAD_REQUEST;
    /// No callback certificate of the country in force names the host.
    CallbackCertificateMissing = "callback-certificate-missing", BAD_REQUEST;
    /// The host has an address that is not public.
    CallbackAddressRefused = "callback-address-refused", BAD_REQUEST;
    /// The host has no address now.
    CallbackHostUnresolved = "callback-host-unresolved", BAD_REQUEST;
    /// The country has as many callbacks as it may have.
    CallbackTooMany = "callback-too-many", BAD_REQUEST;
    /// The country has no callback of that id.
    CallbackUnknown = "callback-unknown", NOT_FOUND;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The status of a code as the ledger has it; 400 for one that only a newer processor knows.
pub(super) fn decided(code: &str) -> StatusCode {
    let known = Rejection::from_code(code).and_then(|r| StatusCode::from_u16(r.status()).ok());
    known.unwrap_or(StatusCode::BAD_REQUEST)
}

impl From<Code> for Cow<'static, str> {
    fn from(code: Code) -> Self {
        Self::Borrowed(code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_code_stands_for_two_things() {
        let own = Code::ALL.iter().map(|c| c.as_str());
        let codes: Vec<_> = own.chain(Rejection::ALL.iter().map(|r| r.code())).collect();
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
        for code in codes {
            assert!(
                code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{code}"
            );
        }
    }
}
