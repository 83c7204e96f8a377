//! Every reason for which an upload, a key or a delivery is refused: one closed list, which is the metric label, the
//! reason in the ledger, the code in the answer and the header in the rejects topic.

macro_rules! rejections {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal;)*) => {
        /// A reason. A rejection is a value, not an error: it is an answer that the pipeline gives.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rejection { $($(#[$doc])* $variant,)* }

        impl Rejection {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its stable code.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status that answers an upload refused for it, as EFGS clients know it.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

rejections! {
    /// The record on the topic is not an `Upload`.
    Undecodable = "undecodable-record", 400;
    /// The record names another origin than the topic it stands on.
    OriginNotTopic = "origin-not-topic", 400;
    /// The batch tag is empty, too long, or has characters that no header can carry.
    BatchTag = "batch-tag-malformed", 400;
    /// No known media type with version 1.0.
    ContentType = "content-type-unknown", 400;
    /// The body can not be read.
    Body = "body-unreadable", 400;
    /// There is no key in it.
    NoKeys = "no-keys", 400;
    /// There are more keys than the member may send at once.
    TooManyKeys = "too-many-keys", 413;
    /// The origin is no member of the network.
    MemberUnknown = "member-unknown", 403;
    /// The origin's membership is pending, paused or ended.
    MemberNotActive = "member-not-active", 403;
    /// The client certificate is not registered for the origin.
    ClientCertificateUnknown = "client-certificate-unknown", 403;
    /// The client certificate is registered, and not in force now.
    ClientCertificateNotInForce = "client-certificate-not-in-force", 403;
    /// A key names another country than the sender's as its origin.
    KeyOrigin = "key-origin-foreign", 400;
    /// The signature is not a CMS SignedData, or something is wrong with its structure.
    SignatureMalformed = "signature-malformed", 400;
    /// Bytes follow the CMS.
    SignatureTrailingBytes = "signature-trailing-bytes", 400;
    /// Not exactly one signer.
    SignatureSigners = "signature-not-one-signer", 400;
    /// The CMS brings its own content.
    SignatureEmbeddedContent = "signature-embedded-content", 400;
    /// Another digest or signature algorithm than SHA-2 with RSA or ECDSA.
    SignatureAlgorithm = "signature-algorithm", 400;
    /// The signer's certificate is registered for nobody.
    SigningCertificateUnknown = "signing-certificate-unknown", 400;
    /// The signer's certificate is registered for another country.
    SigningCertificateForeign = "signing-certificate-foreign", 400;
    /// The signer's certificate is registered, and not in force now.
    SigningCertificateNotInForce = "signing-certificate-not-in-force", 400;
    /// The signature is not one over these keys.
    SignatureInvalid = "signature-invalid", 400;
    /// The batch tag stands for other content.
    BatchTagConflict = "batch-tag-conflict", 409;
    /// Some keys are invalid, and the member's policy is to refuse the upload then.
    InvalidKeys = "invalid-keys", 400;
    /// Key data is not 16 bytes.
    KeyDataLength = "key-data-length", 400;
    /// The key became valid before midnight UTC fifteen days ago.
    KeyTooOld = "key-too-old", 400;
    /// The key becomes valid later than the next interval.
    KeyInFuture = "key-in-future", 400;
    /// The rolling period is not 1 to 144.
    RollingPeriod = "rolling-period", 400;
    /// The transmission risk level is not 0 to 8 and not "not set".
    RiskLevel = "risk-level", 400;
    /// The report type is outside the enum.
    ReportType = "report-type", 400;
    /// A country of interest is not two letters A to Z.
    CountryMalformed = "country-malformed", 400;
    /// Days since onset lie outside every agreed range, and the policy is to refuse that.
    Onset = "onset-out-of-range", 400;
    /// The same key was taken before.
    Duplicate = "duplicate", 409;
    /// The same key was taken before with other fields, and the change is no revision.
    Conflict = "key-conflict", 409;
    /// No agreement in force covers these keys.
    NoAgreement = "no-agreement", 400;
    /// The destination asks for proof of origin, and these keys can not carry it.
    NotProvable = "not-provable", 400;
}

impl Rejection {
    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.code() == code)
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}
