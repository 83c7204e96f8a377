//! Signatures made by the `openssl` program, and the ways to make them wrong. The forms that hold are in `cms_forms.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{fs, sync::OnceLock};

use common::{
    NOW,
    asn1::{ber, element, parts},
    desk::{CONTENT, Desk},
    uncovered,
};
use keyferry_schemas::{
    certificate::Certificate,
    cms::{Detached, MAX_BYTES},
    rejection::Rejection,
    world::{Algorithm, Identity},
};
use proptest::prelude::*;

fn identity(name: &str, algorithm: Algorithm) -> Identity {
    Identity::new("NL", name, algorithm, NOW).unwrap()
}

/// The refusal of the structure; or whether it names `of` and holds over `content`.
fn judge(cms: &[u8], content: &[u8], of: &Certificate) -> Result<(bool, bool), Rejection> {
    let judged = |read: Result<Detached, _>| read.map(|cms| (cms.names(of), cms.verify(content, of)));
    let plain = judged(Detached::read(cms));
    let beside = judged(Detached::read_beside(cms, |hash| *hash == of.sha256()));
    assert_eq!(beside, plain, "that a certificate is known makes a difference");
    plain
}

const HOLDS: Result<(bool, bool), Rejection> = Ok((true, true));

#[test]
fn the_older_program_for_pkcs7_holds() {
    let signer = identity("NL", Algorithm::P256);
    let desk = Desk::new(&[("nl", &signer)]);
    desk.openssl("smime -sign -binary -in content -outform DER -out cms -signer nl.pem -inkey nl.key");
    assert_eq!(judge(&fs::read(desk.path().join("cms")).unwrap(), CONTENT, &signer.certificate), HOLDS);
}

#[test]
fn other_content_or_another_certificate_does_not_hold() {
    let (own, other) = (identity("own", Algorithm::P256), identity("other", Algorithm::P256));
    let rsa = identity("rsa", Algorithm::Rsa(2048));
    let desk = Desk::new(&[("own", &own)]);
    for form in ["", " -noattr", " -keyid", " -nocerts"] {
        let cms = desk.sign(&format!("-signer own.pem -inkey own.key{form}"));
        assert_eq!(judge(&cms, b"other", &own.certificate), Ok((true, false)), "{form}");
        assert_eq!(judge(&cms, b"", &own.certificate), Ok((true, false)), "{form}");
        // Line ends are content: nothing translates them.
        let unix = CONTENT.iter().copied().filter(|b| *b != b'\r').collect::<Vec<_>>();
        assert_eq!(judge(&cms, &unix, &own.certificate), Ok((true, false)), "{form}");
        for certificate in [&other.certificate, &rsa.certificate] {
            assert_eq!(judge(&cms, CONTENT, certificate), Ok((false, false)), "{form}");
        }
    }
}

#[test]
fn a_certificate_that_only_looks_the_same_does_not_hold() {
    // Same issuer and serial number, another key: the CMS names it, and the signature decides.
    let desk =
        Desk::new(&[("own", &identity("a", Algorithm::P256)), ("other", &identity("b", Algorithm::P256))]);
    let twin = "-set_serial 42 -subj /C=NL/CN=twin";
    desk.openssl(&format!("req -x509 -new -key own.key -out first.pem -days 9000 {twin}"));
    desk.openssl(&format!("req -x509 -new -key other.key -out second.pem -days 9000 {twin}"));
    let read = |file| Certificate::from_pem(&fs::read_to_string(desk.path().join(file)).unwrap()).unwrap();
    let cms = desk.sign("-signer first.pem -inkey own.key");
    assert_eq!(judge(&cms, CONTENT, &read("first.pem")), HOLDS);
    assert_eq!(judge(&cms, CONTENT, &read("second.pem")), Ok((true, false)));
    // One after the other, as whoever looks for the signer among several does.
    let (first, second) = (read("first.pem"), read("second.pem"));
    for order in [[&first, &second, &first], [&second, &first, &second]] {
        let cms = Detached::read(&cms).unwrap();
        let held = order.map(|c| cms.verify(CONTENT, c));
        assert_eq!(held, order.map(|c| c.sha256() == first.sha256()));
    }
}

#[test]
fn each_fault_of_structure_has_its_name() {
    let (nl, de) = (identity("NL", Algorithm::Rsa(2048)), identity("DE", Algorithm::P256));
    let desk = Desk::new(&[("nl", &nl), ("de", &de)]);
    let (rsa, ec) = ("-signer nl.pem -inkey nl.key", "-signer de.pem -inkey de.key");
    let refused = |options: &str| judge(&desk.sign(options), CONTENT, &nl.certificate).unwrap_err();
    for signer in [rsa, ec] {
        for weak in ["-md sha1", "-md sha1 -noattr", "-md sha224"] {
            assert_eq!(
                refused(&format!("{signer} {weak}")),
                Rejection::SignatureAlgorithm,
                "{signer} {weak}"
            );
        }
        // This program embeds the content when it streams DER, whatever else it is told.
        for embedded in ["-nodetach", "-stream", "-nodetach -noattr -nocerts"] {
            let reason = refused(&format!("{signer} {embedded}"));
            assert_eq!(reason, Rejection::SignatureEmbeddedContent, "{signer} {embedded}");
        }
    }
    assert_eq!(refused(&format!("{rsa} -md md5")), Rejection::SignatureAlgorithm);
    let pss = "-keyopt rsa_padding_mode:pss";
    for weak in ["-md sha1", "-md sha256 -keyopt rsa_mgf1_md:sha1", "-keyopt rsa_mgf1_md:sha224"] {
        assert_eq!(refused(&format!("{rsa} {pss} {weak}")), Rejection::SignatureAlgorithm, "{weak}");
    }
    assert_eq!(refused(&format!("{rsa} {ec}")), Rejection::SignatureSigners);

    desk.sign(rsa);
    desk.openssl(&format!("cms -resign -inform DER -in cms -outform DER -out two {ec}"));
    let two = fs::read(desk.path().join("two")).unwrap();
    assert_eq!(judge(&two, CONTENT, &nl.certificate), Err(Rejection::SignatureSigners));
    desk.openssl("crl2pkcs7 -nocrl -certfile nl.pem -outform DER -out none");
    let none = fs::read(desk.path().join("none")).unwrap();
    assert_eq!(judge(&none, CONTENT, &nl.certificate), Err(Rejection::SignatureSigners));
}

#[test]
fn the_content_is_plain_data_by_type_too() {
    let nl = identity("NL", Algorithm::P256);
    let desk = Desk::new(&[("nl", &nl)]);
    for form in ["", " -noattr"] {
        let mut cms = desk.sign(&format!("-signer nl.pem -inkey nl.key{form}"));
        // 1.2.840.113549.1.7.1, first where the CMS names the type of its content.
        let data = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
        let last = cms.windows(data.len()).position(|w| w == data).unwrap() + data.len() - 1;
        cms[last] = 0x05;
        assert_eq!(judge(&cms, CONTENT, &nl.certificate), Err(Rejection::SignatureMalformed), "{form}");
    }
}

/// The same CMS with other entries in its list of digest algorithms, which no signature covers.
fn with_digests(cms: &[u8], digests: &[Vec<u8>]) -> Vec<u8> {
    let [id, content] = parts(cms)[..] else { panic!() };
    let data = parts(parts(content)[0]);
    let list = element(0x31, &digests.concat());
    let data = [data[0], &list, &data[2..].concat()].concat();
    element(0x30, &[id, &element(0xa0, &element(0x30, &data))].concat())
}

#[test]
fn exactly_the_digest_of_the_signer_is_listed() {
    let nl = identity("NL", Algorithm::P256);
    let cms = Desk::new(&[("nl", &nl)]).sign("-signer nl.pem -inkey nl.key");
    let sha2 = |n, parameters: &[u8]| {
        let oid = element(0x06, &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, n]);
        element(0x30, &[&oid, parameters].concat())
    };
    let [sha256, sha384, sha512] = [1, 2, 3].map(|n| sha2(n, &[]));
    for own in [sha256.clone(), sha2(1, &[0x05, 0])] {
        assert_eq!(judge(&with_digests(&cms, &[own]), CONTENT, &nl.certificate), HOLDS);
    }
    // The same digest thousands of times, told apart by its parameters, which OpenSSL does not look at.
    let many =
        |n: u16| -> Vec<_> { (0..n).map(|i| sha2(1, &element(0x04, &[(i >> 8) as u8, i as u8]))).collect() };
    let refused = |all: &[Vec<u8>]| judge(&with_digests(&cms, all), CONTENT, &nl.certificate);
    for all in [many(3_000), vec![sha256.clone(); 3_000], many(2), vec![sha256.clone(); 2]] {
        assert_eq!(refused(&all), Err(Rejection::SignatureAlgorithm), "{} entries", all.len());
    }
    assert_eq!(refused(&many(20_000)), Err(Rejection::SignatureMalformed), "longer than {MAX_BYTES} bytes");
    let two = vec![sha256.clone(), sha384.clone()];
    let three = [&two[..], &[sha512]].concat();
    for other in [vec![], vec![sha384], two, three] {
        assert_eq!(refused(&other), Err(Rejection::SignatureAlgorithm), "{other:?}");
    }
}

#[test]
fn no_byte_may_follow_and_none_be_missing() {
    let nl = identity("NL", Algorithm::P256);
    let desk = Desk::new(&[("nl", &nl)]);
    let der = desk.sign("-signer nl.pem -inkey nl.key");
    for (form, cms) in [("DER", der.clone()), ("BER", ber(&der))] {
        for more in [&[0][..], &[0, 0], b"\n", &cms] {
            let longer = [&cms[..], more].concat();
            assert_eq!(
                judge(&longer, CONTENT, &nl.certificate),
                Err(Rejection::SignatureTrailingBytes),
                "{form}"
            );
        }
        for end in 0..cms.len() {
            assert!(judge(&cms[..end], CONTENT, &nl.certificate).is_err(), "{form} {end}");
        }
    }
}

#[test]
fn what_is_no_signature_is_malformed() {
    let nl = identity("NL", Algorithm::P256);
    let desk = Desk::new(&[("nl", &nl)]);
    desk.openssl("cms -data_create -in content -binary -outform DER -out data");
    desk.openssl("cms -encrypt -in content -binary -aes256 -outform DER -out encrypted nl.pem");
    desk.openssl("cms -digest_create -in content -binary -md sha256 -outform DER -out digest");
    desk.sign("-signer nl.pem -inkey nl.key -outform PEM");
    let pem = fs::read(desk.path().join("cms")).unwrap();
    let mut others: Vec<_> =
        ["data", "encrypted", "digest"].map(|f| fs::read(desk.path().join(f)).unwrap()).into_iter().collect();
    others.push(nl.certificate.x509().to_der().unwrap());
    others.extend([vec![], vec![0x30, 0], vec![0x30, 0x80, 0, 0], b"no".to_vec()]);
    for other in others {
        assert_eq!(judge(&other, CONTENT, &nl.certificate), Err(Rejection::SignatureMalformed), "{other:?}");
    }
    assert!(judge(&pem, CONTENT, &nl.certificate).is_err());
}

#[test]
fn a_thumbprint_that_begins_with_a_zero_byte_is_like_any_other() {
    let key = identity("NL", Algorithm::P256).key;
    let second = NOW.as_second();
    let nl = (0..20_000)
        .map(|i| Identity::with_dates("NL", &format!("NL {i}"), key.clone(), second - 1, second + 1).unwrap())
        .find(|nl| nl.certificate.sha256()[0] == 0)
        .unwrap();
    let cms = Desk::new(&[("nl", &nl)]).sign("-signer nl.pem -inkey nl.key");
    assert_eq!(judge(&cms, CONTENT, &nl.certificate), HOLDS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_changed_signature_is_refused_and_never_panics(at: proptest::sample::Index, byte: u8, form: bool) {
        static CMS: OnceLock<(Identity, [Vec<u8>; 2])> = OnceLock::new();
        let (nl, forms) = CMS.get_or_init(|| {
            let nl = identity("NL", Algorithm::P256);
            let der = Desk::new(&[("nl", &nl)]).sign("-signer nl.pem -inkey nl.key");
            (nl, [ber(&der), der])
        });
        let cms = &forms[usize::from(form)];
        let at = at.index(cms.len());
        let mut changed = cms.clone();
        changed[at] = byte;
        let judged = judge(&changed, CONTENT, &nl.certificate);
        let free = uncovered(cms, &nl.certificate.x509().to_der().unwrap());
        if changed == *cms {
            prop_assert_eq!(judged, HOLDS);
            return Ok(());
        }
        // OpenSSL does not look whether a list says that it has parts.
        let same_list = [0x31, 0xa0].contains(&cms[at]) && byte == cms[at] ^ 0x20;
        if !free[at] && !same_list {
            prop_assert_ne!(judged, HOLDS);
        }
    }
}
