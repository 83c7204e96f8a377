//! Brokers that ask for a password and speak TLS: options of the configuration reach the clients, and no secret comes out.
//!
//! Operations: a command and a role over SASL with and without TLS, the password in the environment.
//! Failures: a wrong password, none at all, a certificate of the brokers that nobody vouches for.
//! Not here: ACLs (see `trust`), the listener for countries (`roles`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use keyferry_runtime::broker::Broker;
use keyferry_schemas::world::World;
use keyferry_tests::{
    operator::{PATIENCE, configuration, prepare, write},
    program::{Run, run_in},
};

const PASSWORD: &str = "over-the-fence";
const WRONG: &str = "under-the-fence";

/// A broker with a listener that asks for a password, and one that speaks TLS as well, with `server.pem` of this folder.
fn broker(folder: &std::path::Path) -> Broker {
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let users = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_keyferry=\"{PASSWORD}\";"
    );
    let mut builder = Broker::builder().listener("SECURED", "SASL_PLAINTEXT").listener("SEALED", "SASL_SSL");
    for name in ["secured", "sealed"] {
        builder = builder
            .property(format!("listener.name.{name}.sasl.enabled.mechanisms"), "PLAIN")
            .property(format!("listener.name.{name}.plain.sasl.jaas.config"), &users);
    }
    builder
        .property("listener.name.sealed.ssl.keystore.type", "PEM")
        .property("listener.name.sealed.ssl.keystore.certificate.chain", file("server.pem"))
        .property("listener.name.sealed.ssl.keystore.key", file("server.key"))
        .start()
        .unwrap()
}

fn with_password(password: Option<&str>, arguments: &str) -> Run {
    let variables = password.map(|password| ("KEYFERRY_KAFKA__OPTIONS__SASL_PASSWORD", password));
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let run = run_in(variables.as_slice(), &arguments, PATIENCE).unwrap();
    for secret in [PASSWORD, WRONG] {
        assert!(!run.out.contains(secret) && !run.err.contains(secret), "a secret is printed: {run:?}");
    }
    run
}

fn failed(run: &Run, code: i32, says: &[&str]) {
    assert_eq!((run.code, run.err.lines().count()), (Some(code), 1), "{run:?}");
    assert!(says.iter().all(|what| run.err.contains(what)), "{run:?}");
}

#[test]
fn passwords_and_certificates_of_brokers_count() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &World::new(&["DE", "FR"], jiff::Timestamp::now()).unwrap());
    let broker = broker(folder.path());
    for (name, listener, protocol, more) in [
        ("secured", "SECURED", "sasl_plaintext", String::new()),
        ("sealed", "SEALED", "sasl_ssl", format!(", ssl.ca.location: {dir}/server.pem")),
        ("stranger", "SEALED", "sasl_ssl", format!(", ssl.ca.location: {dir}/other.pem")),
        ("plain", "SECURED", "plaintext", String::new()),
    ] {
        let text = configuration(&dir, &broker.address_of(listener).unwrap(), "anchor");
        let options = format!(
            "options: {{security.protocol: {protocol}, sasl.mechanism: PLAIN, sasl.username: keyferry{more}}}"
        );
        write(folder.path(), &format!("{name}.yaml"), text.replacen('}', &format!(", {options}}}"), 1));
    }
    let topics = |name: &str, password: Option<&str>| {
        with_password(password, &format!("topics list --config {dir}/{name}.yaml"))
    };
    for name in ["secured", "sealed"] {
        let run = topics(name, Some(PASSWORD));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{name}: {run:?}");
        assert!(run.out.contains("there is no topic of Keyferry yet"), "{name}: {run:?}");
        // A role gets as far.
        let role = with_password(Some(PASSWORD), &format!("process --config {dir}/{name}.yaml"));
        failed(&role, 2, &["there is no topic keyferry.network"]);
        failed(&topics(name, Some(WRONG)), 2, &["SASL authentication error", "`kafka.options`"]);
        failed(&topics(name, None), 2, &["kafka.options: ", "sasl.password"]);
    }
    let role = with_password(Some(WRONG), &format!("process --config {dir}/secured.yaml"));
    failed(&role, 2, &["SASL authentication error", "`kafka.options`"]);
    failed(&topics("stranger", Some(PASSWORD)), 2, &["certificate verify failed", "`kafka.options`"]);
    // Brokers that want more than they are given hang up, as brokers do that are not there.
    failed(&topics("plain", Some(PASSWORD)), 3, &["do not answer", "TLS and SASL"]);
}
