//! Every form in which programs write a valid signature holds: one row for each combination, made by `openssl cms`.
//!
//! Keys: RSA of 2048, 3072 and 4096 bits by PKCS#1 v1.5 and by PSS, ECDSA on P-256 and P-384. Digests: SHA-256, SHA-384,
//! SHA-512. With signed attributes and without; no certificate, the signer's, several; the signer by issuer and serial
//! number, and by its key identifier; in DER, with indefinite lengths, with octet strings in pieces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use common::{
    NOW,
    asn1::{ber, element, in_pieces, parts},
    desk::{CONTENT, Desk},
};
use keyferry_schemas::{
    certificate::Certificate,
    cms::Detached,
    rejection::Rejection,
    world::{Algorithm, Identity},
};

/// The refusal of the structure; or whether it names `of` and holds over `content`.
fn judge(cms: &[u8], content: &[u8], of: &Certificate) -> Result<(bool, bool), Rejection> {
    let judged = |read: Result<Detached, _>| read.map(|cms| (cms.names(of), cms.verify(content, of)));
    let plain = judged(Detached::read(cms));
    let beside = judged(Detached::read_beside(cms, |hash| *hash == of.sha256()));
    assert_eq!(beside, plain, "that a certificate is known makes a difference");
    plain
}

const HOLDS: Result<(bool, bool), Rejection> = Ok((true, true));

fn identity(name: &str, algorithm: Algorithm) -> Identity {
    Identity::new("NL", name, algorithm, NOW).unwrap()
}

/// Every element of `lists`, combined.
fn combined(lists: &[&[&str]]) -> Vec<String> {
    lists.iter().fold(vec![String::new()], |rows, list| {
        rows.iter().flat_map(|row| list.iter().map(move |one| format!("{row}{one}"))).collect()
    })
}

/// Holds every form of a signature by this key against it; how many that were.
fn every_form_of(name: &str, identity: &Identity, chain: &str) -> usize {
    let desk = Desk::new(&[(name, identity)]);
    fs::write(desk.path().join("chain.pem"), chain).unwrap();
    let other = CONTENT.iter().rev().copied().collect::<Vec<_>>();
    let paddings: &[&str] =
        if name.starts_with("rsa") { &["", " -keyopt rsa_padding_mode:pss"] } else { &[""] };
    let forms = combined(&[
        &[" -md sha256", " -md sha384", " -md sha512"],
        paddings,
        &["", " -noattr"],
        &[" -nocerts", "", " -certfile chain.pem"],
        &["", " -keyid"],
    ]);
    for form in &forms {
        let der = desk.sign(&format!("-signer {name}.pem -inkey {name}.key{form}"));
        for (encoding, cms) in [("DER", der.clone()), ("BER", ber(&der)), ("pieces", in_pieces(&der))] {
            let row = format!("{name}{form}, {encoding}");
            assert_eq!(judge(&cms, CONTENT, &identity.certificate), HOLDS, "{row}");
            assert_eq!(judge(&cms, &other, &identity.certificate), Ok((true, false)), "{row}");
        }
    }
    forms.len() * 3
}

#[test]
fn every_form_of_a_valid_signature_holds() {
    let chain = [identity("root", Algorithm::Rsa(4096)), identity("intermediate", Algorithm::P256)];
    let chain = chain.map(|one| one.certificate_pem().unwrap()).concat();
    let keys = [
        ("rsa2048", Algorithm::Rsa(2048)),
        ("rsa3072", Algorithm::Rsa(3072)),
        ("rsa4096", Algorithm::Rsa(4096)),
        ("p256", Algorithm::P256),
        ("p384", Algorithm::P384),
    ];
    let rows: usize = std::thread::scope(|scope| {
        let of = |(name, algorithm)| {
            let chain = &chain;
            scope.spawn(move || every_form_of(name, &identity(name, algorithm), chain))
        };
        keys.map(of).into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(rows, (3 * 3 * 2 + 2 * 3) * 2 * 3 * 2 * 3);
}

/// The CMS with other parts in the places that `change` looks at: those of its `SignedData`, those of its signer.
fn with(cms: &[u8], change: impl Fn(&mut Vec<Vec<u8>>, &mut Vec<Vec<u8>>)) -> Vec<u8> {
    let owned = |parts: Vec<&[u8]>| parts.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let [id, content] = parts(cms)[..] else { panic!() };
    let mut data = owned(parts(parts(content)[0]));
    let mut signer = owned(parts(parts(&data.pop().unwrap())[0]));
    change(&mut data, &mut signer);
    data.push(element(0x31, &element(0x30, &signer.concat())));
    element(0x30, &[id, &element(0xa0, &element(0x30, &data.concat()))].concat())
}

#[test]
fn what_comes_along_is_ignored_whatever_it_is() {
    let nl = identity("NL", Algorithm::P256);
    let desk = Desk::new(&[("nl", &nl)]);
    let made = |options: &str| {
        desk.openssl(&format!(
            "req -x509 -new -key nl.key -outform DER -out one -days 9 -subj /CN=x {options}"
        ));
        fs::read(desk.path().join("one")).unwrap()
    };
    desk.openssl("req -new -key nl.key -out request -subj /CN=x");
    desk.openssl("x509 -req -in request -signkey nl.key -outform DER -out one -days 9");
    let old = fs::read(desk.path().join("one")).unwrap();
    let came = [
        ("a negative serial number", made("-set_serial -5")),
        ("a long serial number", made(&format!("-set_serial 0x{}", "7f".repeat(30)))),
        ("an X.509 v1 certificate", old),
        ("an attribute certificate", element(0xa2, &element(0x02, &[1]))),
        ("something else by its name", element(0xa3, &[0x06, 0x03, 0x2a, 0x03, 0x04, 0x05, 0x00])),
    ];
    for form in ["", " -noattr"] {
        let cms = desk.sign(&format!("-signer nl.pem -inkey nl.key -nocerts{form}"));
        for (what, one) in &came {
            let cms = with(&cms, |data, _| data.push(element(0xa0, one)));
            assert_eq!(judge(&cms, CONTENT, &nl.certificate), HOLDS, "{what}{form}");
        }
        // And all of it, twice.
        let all = came.each_ref().map(|(_, one)| one.repeat(2)).concat();
        let cms = with(&cms, |data, signer| {
            data.push(element(0xa0, &all));
            // A revocation list by another name than X.509's, and an attribute that is not signed.
            data.push(element(0xa1, &element(0xa1, &[0x06, 0x03, 0x2a, 0x03, 0x04, 0x05, 0x00])));
            let attribute =
                element(0x30, &[&[0x06, 0x03, 0x2a, 0x03, 0x04][..], &element(0x31, &[0x05, 0x00])].concat());
            signer.push(element(0xa1, &attribute));
        });
        assert_eq!(judge(&cms, CONTENT, &nl.certificate), HOLDS, "all of it{form}");
    }
}

#[test]
fn what_comes_along_as_a_certificate_and_is_none_is_refused() {
    // Others would not read it, and a signature that only some take must not travel on.
    let nl = identity("NL", Algorithm::P256);
    let cms = Desk::new(&[("nl", &nl)]).sign("-signer nl.pem -inkey nl.key -nocerts");
    let own = nl.certificate.x509().to_der().unwrap();
    for (came, expected) in [
        (own.clone(), HOLDS),
        (element(0x30, &[0x05, 0x00]), Err(Rejection::SignatureMalformed)),
        ([own, element(0x30, &[0x05, 0x00])].concat(), Err(Rejection::SignatureMalformed)),
    ] {
        let cms = with(&cms, |data, _| data.push(element(0xa0, &came)));
        assert_eq!(judge(&cms, CONTENT, &nl.certificate), expected);
    }
}

#[test]
fn the_name_of_the_issuer_may_be_written_in_another_type_of_string() {
    let nl = identity("NL", Algorithm::P256);
    let cms = Desk::new(&[("nl", &nl)]).sign("-signer nl.pem -inkey nl.key -noattr");
    let own = b"\x0c\x02NL";
    let rewritten = |to: &[u8]| {
        with(&cms, |_, signer| {
            let at = signer[1].windows(own.len()).rposition(|part| part == own).unwrap();
            signer[1][at..at + own.len()].copy_from_slice(to);
        })
    };
    // As PrintableString, and in lower case: names are compared without regard to either.
    for same in [b"\x13\x02NL", b"\x0c\x02nl"] {
        assert_eq!(judge(&rewritten(same), CONTENT, &nl.certificate), HOLDS, "{same:?}");
    }
    assert_eq!(judge(&rewritten(b"\x0c\x02NM"), CONTENT, &nl.certificate), Ok((false, false)));
}
