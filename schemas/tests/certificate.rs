//! Which certificates can be registered, and what is said of the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use common::{NOW, desk::Desk};
use keyferry_schemas::{
    certificate::{BadCertificate, Certificate},
    world::{Algorithm, Identity},
};
use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    hash::MessageDigest,
    pkey::PKey,
    rsa::Rsa,
    x509::X509Builder,
};

/// A certificate of an RSA key with this many bits. Nobody has its other half: to make one would take minutes.
fn rsa(bits: i32) -> Result<Certificate, BadCertificate> {
    let mut modulus = BigNum::new().unwrap();
    modulus.rand(bits, MsbOption::ONE, true).unwrap();
    let key = Rsa::from_public_components(modulus, BigNum::from_u32(65_537).unwrap()).unwrap();
    let ca = Identity::new("NL", "a", Algorithm::P256, NOW).unwrap();
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(&PKey::from_rsa(key).unwrap()).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(NOW.as_second()).unwrap()).unwrap();
    builder.sign(&ca.key, MessageDigest::sha256()).unwrap();
    Certificate::new(builder.build())
}

#[test]
fn certificates_that_can_not_be_registered() {
    let desk = Desk::new(&[]);
    let made = |request: &str| {
        desk.openssl(&format!("req -new -nodes -keyout a.key -out a.csr -subj /C=NL/CN=a {request}"));
        // Without extensions this program makes version 1.
        desk.openssl("x509 -req -in a.csr -signkey a.key -days 30 -out v1.pem");
        desk.openssl(&format!("req -x509 -key a.key -days 30 -out v3.pem -subj /C=NL/CN=a {request}"));
        ["v1.pem", "v3.pem"].map(|f| Certificate::from_pem(&fs::read_to_string(desk.path().join(f)).unwrap()))
    };
    let [v1, v3] = made("-newkey rsa:2048");
    assert_eq!(v1.as_ref().err(), Some(&BadCertificate::Version(1)));
    assert!(v1.unwrap_err().to_string().starts_with("an X.509 v1 certificate: TLS here needs v3"));
    assert_eq!(v3.unwrap().country(), "NL".parse().ok());
    let key = |request: &str| made(request)[1].as_ref().err().map(ToString::to_string).unwrap_or_default();
    assert!(key("-newkey rsa:1024").starts_with("the key is RSA with 1024 bits"));
    assert_eq!(rsa(8192).err(), None);
    assert_eq!(rsa(8193).err(), Some(BadCertificate::Key("RSA with 8193 bits".into())));
    let ec = |curve: &str| key(&format!("-newkey ec -pkeyopt ec_paramgen_curve:{curve}"));
    for curve in ["P-256", "P-384", "P-521"] {
        assert_eq!(ec(curve), "", "{curve}");
    }
    for curve in ["secp224r1", "secp256k1", "brainpoolP256r1", "brainpoolP384r1"] {
        assert!(ec(curve).starts_with(&format!("the key is EC on {curve}; ")), "{curve}: {}", ec(curve));
    }
    let explicit = ec("P-256 -pkeyopt ec_param_enc:explicit");
    assert!(explicit.starts_with("the key is EC on a curve of its own"), "{explicit}");
    assert!(key("-newkey ed25519").starts_with("the key is of an unused kind"));
    let pem = fs::read_to_string(desk.path().join("v3.pem")).unwrap();
    for other in [
        String::new(),
        "garbage".into(),
        pem.repeat(2),
        fs::read_to_string(desk.path().join("a.key")).unwrap(),
    ] {
        assert_eq!(Certificate::from_pem(&other).err(), Some(BadCertificate::Pem));
    }
}
