//! What trust begins with: signatures of origins and of the trust anchor, certificates, the network document.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use keyferry_runtime::http::ClientCertificate;
use keyferry_schemas::{
    batch::sha256,
    certificate::Certificate,
    cms::{Detached, MAX_BYTES},
    network::Network,
    records::NetworkRecord,
    rejection::Rejection,
    time::Millis,
};
use openssl::{error::ErrorStack, x509::X509};

use super::{golden::golden, one_line};

/// A detached signature.
pub fn cms(data: &[u8]) {
    let read = Detached::read(data);
    left_nothing_behind();
    let Ok(cms) = read else { return };
    let longer = Detached::read(&[data, &[0]].concat()).err();
    assert!(data.len() == MAX_BYTES || longer == Some(Rejection::SignatureTrailingBytes), "{longer:?}");
    assert!(Detached::read(&data[..data.len() - 1]).is_err(), "its last byte does not matter");
    let golden = golden();
    let registered = golden.network.certificates().iter().map(|r| &r.certificate);
    for certificate in registered.chain(&golden.anchors) {
        assert!(!cms.verify(b"what nobody has signed", certificate), "it signs what nobody signed");
        for (content, signer) in &golden.signed {
            let holds = cms.verify(content, certificate);
            left_nothing_behind();
            assert!(!holds || *signer == certificate.sha256(), "it is another's signature");
        }
    }
}

/// OpenSSL queues its errors for each thread, where the next call would find them.
fn left_nothing_behind() {
    assert!(ErrorStack::get().errors().is_empty());
}

/// A certificate, in DER as a handshake brings it, or in PEM as the network document does.
pub fn certificate(data: &[u8]) {
    let client = ClientCertificate::from_der(data);
    assert_eq!(client.sha256, sha256(data));
    if let Ok(x509) = X509::from_der(data) {
        match Certificate::new(x509) {
            Ok(certificate) => is_what_it_says(&certificate),
            Err(error) => one_line(&error),
        }
    }
    left_nothing_behind();
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Certificate::from_pem_alone(text) {
        Ok(certificate) => {
            is_what_it_says(&certificate);
            // It is published as it stands, so nothing may stand there but the certificate.
            assert!(!text.contains("PRIVATE KEY"));
            let lines = text.lines().filter(|line| !line.starts_with("-----"));
            let body: String = lines.flat_map(str::split_ascii_whitespace).collect();
            let der = certificate.x509().to_der().unwrap();
            assert!(STANDARD.decode(body).is_ok_and(|body| body == der), "something stands beside it");
            assert_eq!(Certificate::from_pem(text).unwrap().sha256(), certificate.sha256());
        }
        Err(error) => one_line(&error),
    }
    left_nothing_behind();
}

fn is_what_it_says(certificate: &Certificate) {
    let der = certificate.x509().to_der().unwrap();
    let again = Certificate::new(X509::from_der(&der).unwrap()).unwrap();
    assert_eq!((again.sha256(), again.country()), (certificate.sha256(), certificate.country()));
    assert_eq!(certificate.sha256(), sha256(&der));
    // What a handshake says of it is what the network document says of it.
    let client = ClientCertificate::from_der(&der);
    assert_eq!(client.sha256, certificate.sha256());
    assert!(client.subject_country.is_none() || client.subject_country == certificate.country());
    assert!(
        !certificate.in_force(certificate.not_after().plus(1)) && !certificate.in_force(Millis(i64::MIN))
    );
    let key = certificate.x509().public_key().unwrap();
    assert!((256..=8192).contains(&key.bits()), "a key of {} bits", key.bits());
}

/// A network document: as its author checks it, and as a role receives it with the anchor's signature.
pub fn network(data: &[u8]) {
    let golden = golden();
    let document = Bytes::copy_from_slice(data);
    let network = match Network::read(&document, &golden.anchors) {
        Ok(network) => network,
        Err(error) => return one_line(&error),
    };
    let text = serde_saphyr::to_string(network.document()).unwrap();
    let again = Network::read(&text.into(), &golden.anchors);
    let again = again.unwrap_or_else(|error| panic!("it can not be written: {error}"));
    assert_eq!(format!("{:?}", again.document()), format!("{:?}", network.document()));
    for registered in network.certificates() {
        let named = registered.certificate.country().map(|c| network.resolve(c));
        assert_eq!(named, Some(network.resolve(registered.country)), "a certificate of another country");
        assert!(network.registered(&registered.certificate.sha256(), registered.usage).count() > 0);
    }
    let record = NetworkRecord {
        network: network.name().into(),
        version: network.version(),
        document,
        signature: golden.record.signature.clone(),
    };
    let signed = record.document == golden.record.document;
    assert_eq!(Network::open(&record, &golden.anchors).is_ok(), signed, "a document that nobody signed");
}
