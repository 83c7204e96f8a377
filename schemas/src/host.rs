//! Which hosts a certificate stands for.

use std::net::IpAddr;

use openssl::nid::Nid;

use crate::certificate::Certificate;

impl Certificate {
    /// Whether it names exactly this host: a name in lower case, or an address as [`IpAddr`] writes it. A certificate
    /// without any alternative name stands for the host in its `CN`. No wildcards: whose hosts they cover nobody can say.
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        let Some(names) = self.x509().subject_alt_names() else {
            let named = self.x509().subject_name().entries_by_nid(Nid::COMMONNAME).last();
            let named = named.and_then(|name| std::str::from_utf8(name.data().as_slice()).ok());
            return named.is_some_and(|name| !host.is_empty() && name.eq_ignore_ascii_case(host));
        };
        names.iter().any(|name| match (name.dnsname(), name.ipaddress()) {
            (Some(name), _) => !host.is_empty() && name.eq_ignore_ascii_case(host),
            (_, Some(bytes)) => address(bytes).is_some_and(|address| host.parse() == Ok(address)),
            _ => false,
        })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use openssl::{
        asn1::Asn1Time,
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        pkey::PKey,
        x509::{X509Builder, X509NameBuilder, extension::SubjectAlternativeName},
    };

    use super::*;

    fn certificate(common: &str, names: impl FnOnce(&mut SubjectAlternativeName) -> bool) -> Certificate {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", common).unwrap();
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&subject.build()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(1).unwrap()).unwrap();
        let mut alternative = SubjectAlternativeName::new();
        if names(&mut alternative) {
            let extension = alternative.build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(extension).unwrap();
        }
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Certificate::new(builder.build()).unwrap()
    }

    #[test]
    fn a_certificate_stands_for_its_names_and_no_others() {
        let named = certificate("cn.example", |names| {
            names.dns("A.example").dns("*.wild.example").ip("192.0.2.1").ip("2001:db8::1");
            true
        });
        for host in ["a.example", "192.0.2.1", "2001:db8::1"] {
            assert!(named.names_host(host), "{host}");
        }
        let others =
            ["", "example", "b.a.example", "x.wild.example", "cn.example", "192.0.2.2", "a.example."];
        for host in others {
            assert!(!named.names_host(host), "{host}");
        }
    }

    #[test]
    fn the_common_name_counts_where_there_is_no_other() {
        let common = certificate("CN.example", |_| false);
        assert!(common.names_host("cn.example"));
        assert!(!common.names_host("other.example"));
        assert!(!common.names_host(""));
    }
}
