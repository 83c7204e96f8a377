//! The samples of `docs/samples` are what they say, and each sample takes its role.
//!
//! They are read when this runs: the image is built without `docs`.

use std::{fs, path::PathBuf};

use keyferry_runtime::{config::load_with, exit::Fatal};
use keyferry_schemas::{
    certificate::Certificate,
    network::{Document, Network, UntrustedNetwork},
};
use openssl::{
    asn1::Asn1Time,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{X509, X509Builder, X509NameBuilder, extension::KeyUsage},
};
use tempfile::TempDir;

use super::*;

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/samples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn identity() -> (PKey<Private>, X509) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut certificate = X509Builder::new().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.append_extension(KeyUsage::new().digital_signature().build().unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    (key, certificate.build())
}

/// The files that the samples name, made anew in a folder of their own.
fn etc() -> TempDir {
    let etc = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = etc.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let (key, certificate) = identity();
    let certificate = certificate.to_pem().unwrap();
    write("anchors/anchor.pem", &certificate);
    for folder in ["tls", "callbacks"] {
        write(&format!("{folder}/tls.crt"), &certificate);
        write(&format!("{folder}/tls.key"), &key.private_key_to_pem_pkcs8().unwrap());
    }
    let hub = PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
    write("keys/hub-1.pem", &hub);
    write("keys/fingerprint.hex", "00".repeat(32).as_bytes());
    etc
}

fn load<const ROLES: u8>(etc: &TempDir, text: &str) -> Result<Config, Fatal> {
    let path = etc.path().join("config.yaml");
    fs::write(&path, text.replace("/etc/keyferry", &etc.path().display().to_string())).unwrap();
    Ok(load_with::<Checked<ROLES>>(&path, "test", [])?.narrowed())
}

fn roles(config: &Config) -> [bool; 3] {
    [config.gateway.is_some(), config.process.is_some(), config.distribute.is_some()]
}

#[test]
fn every_sample_is_good_for_its_role() {
    let etc = etc();
    let gateway = load::<GATEWAY>(&etc, &sample("gateway.yaml")).unwrap();
    assert_eq!(roles(&gateway), [true, false, false]);
    let process = load::<PROCESS>(&etc, &sample("process.yaml")).unwrap();
    assert_eq!(roles(&process), [false, true, false]);
    let distribute = load::<DISTRIBUTE>(&etc, &sample("distribute.yaml")).unwrap();
    assert_eq!(roles(&distribute), [false, false, true]);
}

#[test]
fn one_file_serves_every_role_or_all_of_them() {
    let etc = etc();
    let all = sample("keyferry.yaml");
    assert_eq!(roles(&load::<PRESENT>(&etc, &all).unwrap()), [true, true, true]);
    assert_eq!(roles(&load::<GATEWAY>(&etc, &all).unwrap()), [true, false, false]);
    // Whoever runs the gateway has none of the processor's secrets.
    fs::remove_dir_all(etc.path().join("keys")).unwrap();
    load::<GATEWAY>(&etc, &all).unwrap();
    load::<TOOLS>(&etc, &all).unwrap();
    let missing = load::<PRESENT>(&etc, &all).unwrap_err().to_string();
    assert!(
        missing.contains("process.signing_keys[0].file")
            && missing.contains("process.fingerprint_secret.file")
    );
}

#[test]
fn every_fault_is_said_at_once() {
    let etc = etc();
    let text = "kafka: {bootstrap_servers: 'a b'}\ngateway: {decision_wait_ms: 1}\ndistribute:\n  store: {local: {path: ''}}\nnothing: 1\n";
    let faults = load::<PRESENT>(&etc, text).unwrap_err().to_string();
    for fault in [
        "nothing: is not a known field",
        "kafka.bootstrap_servers: ",
        "gateway.decision_wait_ms: ",
        "distribute.store.local.path: is empty",
        "trust_anchors: is missing",
        "http: is missing",
    ] {
        assert!(faults.contains(fault), "{fault} is not in:\n{faults}");
    }
    let none = load::<PRESENT>(
        &etc,
        "kafka: {bootstrap_servers: 'a:1'}\ntrust_anchors: [/etc/keyferry/anchors/anchor.pem]",
    );
    assert!(none.unwrap_err().to_string().contains("`keyferry run` needs"));
    let other = load::<PROCESS>(&etc, &sample("gateway.yaml")).unwrap_err().to_string();
    assert!(other.contains("process: is missing"), "{other}");
}

#[test]
fn the_network_document_lacks_only_what_no_sample_can_have() {
    let text = sample("network.yaml");
    serde_saphyr::from_str::<Document>(&text).unwrap();
    let anchor = Certificate::new(identity().1).unwrap();
    let Err(UntrustedNetwork::Faults(faults)) = Network::read(&text.into_bytes().into(), &[anchor]) else {
        panic!()
    };
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.rsplit('.').next().unwrap()).collect();
    assert_eq!(paths, ["pem", "pem", "public_key"]);
}
