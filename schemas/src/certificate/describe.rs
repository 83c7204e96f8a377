//! A certificate in words, for operators.

use openssl::{nid::Nid, pkey::Id};

use super::Certificate;

impl Certificate {
    /// The subject in one line, most general part first: `C=DE, O=Health institute, CN=Backend`. What would move a
    /// cursor is escaped: the text is its owner's.
    #[must_use]
    pub fn subject(&self) -> String {
        let part = |entry: &openssl::x509::X509NameEntryRef| {
            let nid = entry.object().nid();
            let name = nid.short_name().ok().filter(|_| nid != Nid::UNDEF);
            let name = name.map_or_else(|| entry.object().to_string(), str::to_owned);
            let value = entry.data().to_string().unwrap_or_default();
            format!("{name}={}", value.escape_debug())
        };
        self.x509.subject_name().entries().map(part).collect::<Vec<_>>().join(", ")
    }

    /// The serial number, hexadecimal.
    #[must_use]
    pub fn serial_number(&self) -> String {
        hex::encode(&self.serial)
    }

    /// The kind of its key: `RSA 3072`, `EC P-256`.
    #[must_use]
    pub fn algorithm(&self) -> String {
        let Ok(key) = self.x509.public_key() else { return "unknown".to_owned() };
        match (key.id(), key.bits()) {
            (Id::RSA, bits) => format!("RSA {bits}"),
            (Id::RSA_PSS, bits) => format!("RSA-PSS {bits}"),
            (_, bits) => format!("EC P-{bits}"),
        }
    }
}
