//! Configuration as an operator meets it: a file, some variables, and all that is wrong with them at once.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, fs, path::Path};

use keyferry_runtime::{
    config::{
        AdminConfig, Check, ConfigError, Faults, KafkaConfig, LogConfig, LogFormat, RegistryConfig,
        TrustConfig, load, load_with,
    },
    exit::{Exit, Fatal},
};
use openssl::{asn1::Asn1Time, ec, hash::MessageDigest, nid::Nid, pkey::PKey, x509};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Role {
    kafka: KafkaConfig,
    registry: Option<RegistryConfig>,
    admin: Option<AdminConfig>,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    countries: Vec<String>,
    store: Option<Store>,
    #[serde(default)]
    limits: BTreeMap<String, u32>,
    #[serde(default)]
    strict: bool,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Store {
    Memory,
    Folder { path: String },
}

impl Check for Role {
    fn check(&self, faults: &mut Faults) {
        faults.section("kafka", &self.kafka);
        faults.section("registry", &self.registry);
        faults.section("admin", &self.admin);
        faults.section("log", &self.log);
    }
}

const GOOD: &str = "kafka:\n  bootstrap_servers: a:9092, [::1]:9093\n";

fn read(yaml: &str, variables: &[(&str, &str)]) -> Result<Role, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("role.yaml");
    fs::write(&path, yaml).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let prefix = format!("{}/", folder.path().display());
    load_with(&path, "gateway", variables).map_err(|e| e.to_string().replace(&prefix, ""))
}

fn faults(yaml: &str, variables: &[(&str, &str)]) -> Vec<String> {
    read(yaml, variables).unwrap_err().lines().map(Into::into).collect()
}

#[test]
fn what_is_optional_has_defaults() {
    let role = read(GOOD, &[]).unwrap();
    assert_eq!(role.kafka.bootstrap_servers, "a:9092, [::1]:9093");
    assert!(
        role.registry.is_none()
            && role.admin.is_none()
            && role.store.is_none()
            && role.limits.is_empty()
            && !role.strict
    );
    assert_eq!((role.log.format, role.log.filter.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn the_first_error_of_syntax_or_type_has_line_and_column() {
    let found = faults("kafka:\n  bootstrap_servers: 'a\n", &[]);
    assert!(found.len() == 1 && found[0].starts_with("role.yaml:"), "{found:?}");
    assert_eq!(
        faults("kafka:\n  bootstrap_servers: [a]\n", &[]),
        ["role.yaml:2:22: kafka.bootstrap_servers: invalid type: sequence, expected a string"]
    );
    assert_eq!(
        faults(&format!("{GOOD}limits:\n  a: 1\n  b: x\n"), &[]),
        ["role.yaml:5:6: limits.b: invalid type: string \"x\", expected u32"]
    );
    let found = faults(&format!("{GOOD}admin: {{listen: here}}\n"), &[]);
    assert_eq!(found, ["role.yaml:3:17: admin.listen: invalid socket address syntax"]);
    assert_eq!(faults("log: {}\n", &[]), ["role.yaml:1:1: kafka: is missing"]);
}

#[test]
fn unknown_fields_and_senseless_values_come_at_once() {
    let yaml = "\
kafka:
  bootstrap_servers: a:port, b
  bootstrap: x
  options: {acks: all, ssl.ca.location: /ca.pem, no.such.option: 1}
registry: {url: 'ftp://x', timeout_ms: 0, tiemout_ms: 3}
log: {filter: 'a=b=c'}
extra: {a: 1}
";
    let found = faults(yaml, &[]);
    let places: Vec<_> =
        found.iter().map(|f| f.splitn(5, ": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "role.yaml:2:22 kafka.bootstrap_servers",
            "role.yaml:3:3 kafka.bootstrap",
            "role.yaml:4:19 kafka.options.acks",
            "role.yaml:4:66 kafka.options.no.such.option",
            "role.yaml:5:17 registry.url",
            "role.yaml:5:40 registry.timeout_ms",
            "role.yaml:5:43 registry.tiemout_ms",
            "role.yaml:6:15 log.filter",
            "role.yaml:7:1 extra",
        ],
        "{found:#?}"
    );
}

#[test]
fn a_misspelt_field_is_named_beside_the_missing_one() {
    assert_eq!(
        faults("kafka:\n  bootstrap_server: a\n", &[]),
        [
            "role.yaml:2:3: kafka.bootstrap_server: is not a known field",
            "role.yaml:2:3: kafka.bootstrap_servers: is missing"
        ]
    );
}

#[test]
fn variables_go_before_the_file_and_are_taken_as_they_are() {
    let role = read(
        &format!("{GOOD}  options: {{sasl.password: old}}\ncountries: [DE]\n"),
        &[
            ("KEYFERRY_KAFKA__BOOTSTRAP_SERVERS", "b:1"),
            ("KEYFERRY_KAFKA__CLIENT_ID", "007"),
            ("KEYFERRY_KAFKA__OPTIONS__SASL_PASSWORD", "null: [#x"),
            ("KEYFERRY_KAFKA__OPTIONS__SASL_USERNAME", "~"),
            ("KEYFERRY_ADMIN__LISTEN", "127.0.0.1:0"),
            ("KEYFERRY_COUNTRIES", "NO, FR"),
            ("KEYFERRY_STRICT", "true"),
            ("KEYFERRY_STORE__FOLDER__PATH", "/data"),
            ("KEYFERRY_LOG", "debug"),
        ],
    )
    .unwrap();
    assert_eq!(
        (role.kafka.bootstrap_servers.as_str(), role.kafka.client_id.as_deref()),
        ("b:1", Some("007"))
    );
    let options: Vec<_> = role.kafka.options.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(options, [("sasl.password", "null: [#x"), ("sasl.username", "~")]);
    assert!(role.admin.is_some() && role.strict);
    assert_eq!(role.countries, ["NO", "FR"]);
    assert_eq!(role.store, Some(Store::Folder { path: "/data".into() }));
    assert!(!format!("{role:?}").contains("#x"), "secrets are not printed");
}

#[test]
fn wrong_variables_are_named_and_their_text_is_not() {
    let variables = [
        ("KEYFERRY_KAFKA__BOOTSTRP", "hidden"),
        ("KEYFERRY_NOTHING__A", "hidden"),
        ("KEYFERRY_NOTHING__B", "hidden"),
        ("KEYFERRY_KAFKA__OPTIONS__GROUP_ID", "hidden"),
    ];
    let found = faults(GOOD, &variables);
    let mut names: Vec<_> = found.iter().map(|f| f.split(": ").next().unwrap()).collect();
    names.sort_unstable();
    let mut expected: Vec<_> = variables.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "{found:#?}");
    let found = faults(GOOD, &[("KEYFERRY_STRICT", "hidden")]);
    assert_eq!(
        found,
        ["KEYFERRY_STRICT: strict: invalid type: the text of the variable, expected a boolean"]
    );
}

#[test]
fn options_that_correctness_rests_on_are_refused() {
    for option in [
        "enable.auto.commit",
        "isolation.level",
        "transactional.id",
        "enable.idempotence",
        "group.id",
        "auto.offset.reset",
        "acks",
        "partition.assignment.strategy",
        "bootstrap.servers",
        "client_id",
    ] {
        let found = faults(&format!("{GOOD}  options: {{{option}: x}}\n"), &[]);
        assert!(found.len() == 1 && found[0].contains("is fixed by Keyferry"), "{found:?}");
    }
    let role = read(
        &format!("{GOOD}  options: {{security.protocol: sasl_ssl, sasl.mechanism: SCRAM-SHA-512}}\n"),
        &[],
    );
    assert_eq!(role.unwrap().kafka.options.len(), 2);
}

#[test]
fn choices_are_read_and_wrong_ones_are_named() {
    assert_eq!(read(&format!("{GOOD}store: memory\n"), &[]).unwrap().store, Some(Store::Memory));
    let yaml = format!("{GOOD}store:\n  folder: {{path: /a, pth: b}}\n");
    assert_eq!(faults(&yaml, &[]), ["role.yaml:4:22: store.folder.pth: is not a known field"]);
    assert_eq!(
        faults(&format!("{GOOD}store: folder\n"), &[]),
        ["role.yaml:3:8: store: needs the fields of this choice below it"]
    );
    let found = faults(&format!("{GOOD}store: tape\n"), &[]);
    assert_eq!(found, ["role.yaml:3:8: store: unknown variant `tape`, expected `memory` or `folder`"]);
}

#[test]
fn a_missing_file_is_one_line_and_exits_with_2() {
    let error = load::<Role>(Path::new("/nowhere/role.yaml"), "gateway").unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    let fatal = Fatal::from(error);
    assert_eq!((fatal.exit, fatal.exit.code()), (Exit::Config, 2));
    assert!(
        fatal
            .message
            .starts_with("the configuration of gateway, /nowhere/role.yaml, can not be read: No such")
    );
    assert!(!fatal.message.contains('\n'));
}

#[derive(Debug, Deserialize)]
struct Trusting {
    trust_anchors: TrustConfig,
}

impl Check for Trusting {
    fn check(&self, faults: &mut Faults) {
        faults.section("trust_anchors", &self.trust_anchors);
    }
}

#[test]
fn trust_anchors_are_read_and_judged() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(file("good.pem"), certificate()).unwrap();
    fs::write(file("bad.pem"), "nothing").unwrap();
    fs::write(file("a.yaml"), format!("trust_anchors:\n  - {}\n", file("good.pem"))).unwrap();
    let config: Trusting = load_with(file("a.yaml").as_ref(), "process", []).unwrap();
    assert_eq!(config.trust_anchors.load().unwrap().len(), 1);

    let anchors = format!("{},{},{}", file("bad.pem"), file("good.pem"), file("gone.pem"));
    let variables = [("KEYFERRY_TRUST_ANCHORS".into(), anchors)];
    let error = load_with::<Trusting>(file("a.yaml").as_ref(), "process", variables).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].contains("trust_anchors[0]: is not usable")
            && lines[1].contains("trust_anchors[2]: can not be read")
    );
    fs::write(file("b.yaml"), "trust_anchors: []\n").unwrap();
    load_with::<Trusting>(file("b.yaml").as_ref(), "process", []).unwrap_err();
}

fn certificate() -> Vec<u8> {
    let group = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(ec::EcKey::generate(&group).unwrap()).unwrap();
    let mut made = x509::X509::builder().unwrap();
    made.set_version(2).unwrap();
    made.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    made.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    made.set_pubkey(&key).unwrap();
    made.append_extension(x509::extension::BasicConstraints::new().ca().build().unwrap()).unwrap();
    made.sign(&key, MessageDigest::sha256()).unwrap();
    made.build().to_pem().unwrap()
}
