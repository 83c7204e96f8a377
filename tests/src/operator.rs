//! What an operator has: configurations, keys, certificates and documents in files, and the program.
#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use keyferry_schemas::world::{Algorithm, HUB_KEY, Identity, World};
use openssl::pkey::{Id, PKey};

use crate::program::{Run, run};

/// How long a command may take that waits for brokers.
pub const PATIENCE: Duration = Duration::from_secs(50);

/// Runs the program with these arguments, none of which has a blank in it.
///
/// # Panics
/// It does not end.
#[must_use]
pub fn keyferry(arguments: &str) -> Run {
    run(&arguments.split_whitespace().collect::<Vec<_>>(), PATIENCE).unwrap()
}

/// Writes a file.
///
/// # Panics
/// It can not be written.
pub fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// A signed document, as `network sign` leaves it.
///
/// # Panics
/// It can not be made.
pub fn write_network(folder: &Path, name: &str, world: &World) {
    let record = world.publish().unwrap();
    write(folder, name, &record.document);
    write(folder, &format!("{name}.cms"), &record.signature);
}

/// The configuration of all roles. Their log is not what is looked at here.
#[must_use]
pub fn configuration(dir: &str, brokers: &str, anchor: &str) -> String {
    format!(
        "kafka: {{bootstrap_servers: '{brokers}'}}\ntrust_anchors: [{dir}/{anchor}.pem]\nlog: {{filter: 'off'}}\n\
         http: {{listen: '127.0.0.1:0', tls: {{certificate: {dir}/server.pem, key: {dir}/server.key}}}}\n\
         topics: {{replication_factor: 1, min_insync_replicas: 1}}\ngateway: {{}}\n\
         process:\n  transactional_id: p-0\n  signing_keys: [{{id: {HUB_KEY}, file: {dir}/hub.pem}}]\n  \
         fingerprint_secret: {{id: one, file: {dir}/fingerprint.hex}}\n\
         distribute: {{store: {{local: {{path: {dir}/store}}}}, \
         callbacks: {{client: {{certificate: {dir}/server.pem, key: {dir}/server.key}}}}}}\n"
    )
}

/// The files that the configuration names, and the document of `world` as network.yaml.
///
/// # Panics
/// They can not be made.
pub fn prepare(folder: &Path, world: &World) {
    let now = Timestamp::now();
    let other = Identity::new("EU", "Another anchor", Algorithm::P256, now).unwrap();
    let server = Identity::new("EU", "localhost", Algorithm::P256, now).unwrap();
    for (name, identity) in [("anchor", &world.anchor), ("other", &other), ("server", &server)] {
        write(folder, &format!("{name}.pem"), identity.certificate_pem().unwrap());
        write(folder, &format!("{name}.key"), identity.key_pem().unwrap());
    }
    let hub_key = PKey::private_key_from_raw_bytes(&world.hub_key.to_bytes(), Id::ED25519).unwrap();
    write(folder, "hub.pem", hub_key.private_key_to_pem_pkcs8().unwrap());
    write(folder, "fingerprint.hex", "07".repeat(32));
    write_network(folder, "network.yaml", world);
}
