//! What the program says when something is wrong, and that it says it in one line an operator can act on.
//!
//! Operations: every role and command, with files and brokers as an operator would have them, on a new cluster first.
//! Failures: faults in configurations, brokers and registries that do not answer, topics and documents that are missing,
//! anchors, countries and certificates that are not the right ones.
//! Not here: what happens to uploads and downloads while all is well configured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use jiff::Timestamp;
use keyferry_runtime::{broker::Broker, kafka::Isolation};
use keyferry_schemas::{
    network::{MemberState, StateSince, Use},
    topics,
    world::{Identity, World},
};
use keyferry_tests::{
    hub::Hub,
    operator::{PATIENCE, configuration, keyferry, prepare, write, write_network},
    program::run,
};
use openssl::{hash::MessageDigest, pkey::PKey, x509::X509};

const NOBODY: &str = "127.0.0.1:1";

/// A run that has to fail: its arguments, exit code, number of lines, and what they have to say.
struct Case {
    arguments: String,
    code: i32,
    lines: usize,
    says: Vec<&'static str>,
}

fn case(arguments: impl Into<String>, code: i32, lines: usize, says: &[&'static str]) -> Case {
    Case { arguments: arguments.into(), code, lines, says: says.to_vec() }
}

/// Why a run was not as it had to be.
fn judge(case: &Case) -> Result<(), String> {
    let Case { arguments, code, lines, says } = case;
    let run = run(&arguments.split_whitespace().collect::<Vec<_>>(), PATIENCE).map_err(|e| e.to_string())?;
    let all = format!("{}\n{}", run.out, run.err);
    let good = run.code == Some(*code)
        && run.err.lines().count() == *lines
        && says.iter().all(|what| run.err.contains(what))
        && !all.contains("panicked")
        && !all.contains("backtrace")
        && !all.contains(".rs:");
    if good {
        Ok(())
    } else {
        Err(format!("keyferry {arguments}\n  {run:?}\n  instead of {code}, {lines} line(s), {says:?}"))
    }
}

/// All at once, since most of them only wait.
fn judge_all(cases: &[Case]) {
    let bad: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = cases.iter().map(|case| scope.spawn(|| judge(case))).collect();
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), cases.len(), bad.join("\n"));
}

/// A certificate without extensions, as OpenSSL makes them unless told.
fn version_one() -> String {
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let mut name = openssl::x509::X509Name::builder().unwrap();
    name.append_entry_by_text("C", "DE").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&openssl::asn1::Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&openssl::asn1::Asn1Time::days_from_now(300).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
}

#[test]
fn every_fault_is_said_in_one_line() {
    let world = World::new(&["DE", "FR"], Timestamp::now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &world);
    let good = configuration(&dir, "localhost:9", "anchor");
    write(folder.path(), "good.yaml", &good);
    write(folder.path(), "syntax.yaml", format!("{good}x: [1\ny: 2\n"));
    write(folder.path(), "unknown.yaml", format!("{good}nothing: 1\n"));
    let three = good.replace("gateway: {}", "gateway: {decision_wait_ms: 1}").replace("localhost:9", "a b");
    write(folder.path(), "three.yaml", format!("{three}nothing: 1\n"));
    write(folder.path(), "nobody.yaml", configuration(&dir, NOBODY, "anchor"));
    write(
        folder.path(),
        "registry.yaml",
        format!("{good}registry: {{url: 'http://{NOBODY}', timeout_ms: 500}}\n"),
    );

    let to_nobody = format!("--bootstrap {NOBODY} --anchor {dir}/anchor.pem");
    let mut cases = vec![
        case(format!("run --config {dir}/syntax.yaml"), 2, 1, &["syntax.yaml:1"]),
        case(
            format!("run --config {dir}/unknown.yaml"),
            2,
            1,
            &["unknown.yaml:", "nothing: is not a known field"],
        ),
        case(
            format!("run --config {dir}/three.yaml --check-config"),
            2,
            3,
            &["kafka.bootstrap_servers: ", "gateway.decision_wait_ms: ", "nothing: is not a known field"],
        ),
        // Commands take less of the file, and check less.
        case(
            format!("topics list --config {dir}/three.yaml --check-config"),
            2,
            2,
            &["kafka.bootstrap_servers: ", "nothing: is not a known field"],
        ),
        case(format!("run --config {dir}/none.yaml"), 2, 1, &["none.yaml", "can not be read"]),
        case(format!("network apply {dir}/network.yaml {to_nobody}"), 3, 1, &[NOBODY, "do not answer"]),
        case(format!("network show {to_nobody}"), 3, 1, &[NOBODY, "do not answer"]),
        case(format!("network diff {dir}/network.yaml {to_nobody}"), 3, 1, &[NOBODY, "do not answer"]),
        case(format!("network certificates {to_nobody}"), 3, 1, &[NOBODY, "do not answer"]),
        case(
            format!("network certificates {dir}/network.yaml --anchor {dir}/other.pem"),
            4,
            1,
            &["network.yaml", "no trust anchor"],
        ),
        case(
            format!("network certificates {dir}/network.yaml --anchor {dir}/anchor.pem --within 400"),
            5,
            1,
            &["DE has no authentication certificate in force from ", "; FR has no signing certificate"],
        ),
        case(format!("topics apply --bootstrap {NOBODY}"), 3, 1, &[NOBODY, "do not answer"]),
        case(format!("topics list --bootstrap {NOBODY}"), 3, 1, &[NOBODY, "do not answer"]),
        case(format!("verify topic --country FR {to_nobody}"), 3, 1, &[NOBODY, "do not answer"]),
        case(format!("schemas check --registry http://{NOBODY}"), 3, 1, &[NOBODY]),
        case(format!("schemas register --registry http://{NOBODY}"), 3, 1, &[NOBODY]),
        case("schemas check --bootstrap localhost:9", 2, 1, &["no registry is given"]),
        case("topics apply", 2, 1, &["--bootstrap"]),
        case(
            format!(
                "verify store --country FR --path {dir}/none --network {dir}/network.yaml --anchor {dir}/anchor.pem"
            ),
            2,
            1,
            &["is no directory"],
        ),
        case(
            format!("network check {dir}/none.yaml --anchor {dir}/anchor.pem"),
            2,
            1,
            &["none.yaml can not be read"],
        ),
        case(format!("network check {dir}/network.yaml --anchor {dir}/hub.pem"), 2, 1, &["hub.pem"]),
        case(format!("keys public {dir}/server.key"), 2, 1, &["is no Ed25519 key"]),
    ];
    for role in ["gateway", "process", "distribute", "run"] {
        cases.push(case(format!("{role} --config {dir}/nobody.yaml"), 3, 1, &[NOBODY, "do not answer"]));
    }
    cases.push(case(format!("gateway --config {dir}/registry.yaml"), 3, 1, &[NOBODY]));
    judge_all(&cases);
    for role in ["gateway", "process", "distribute", "run"] {
        let run = keyferry(&format!("{role} --config {dir}/good.yaml --check-config"));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{role}");
    }
    for command in ["topics apply", "schemas check", "network show", "verify topic --country FR"] {
        let run = keyferry(&format!("{command} --config {dir}/nobody.yaml --check-config"));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{command}");
        assert!(run.out.ends_with("nobody.yaml is good\n"), "{command}: {}", run.out);
    }
    let run = keyferry(&format!("network check {dir}/network.yaml --config {dir}/nobody.yaml"));
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "it needs the anchors, and no broker");
}

#[test]
fn a_cluster_lacks_one_thing_after_the_other() {
    let mut world = World::new(&["DE", "FR"], Timestamp::now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &world);
    let broker = Broker::builder().start().unwrap();
    let brokers = broker.bootstrap_servers();
    let good = configuration(&dir, brokers, "anchor");
    write(folder.path(), "good.yaml", &good);
    write(folder.path(), "other.yaml", configuration(&dir, brokers, "other"));
    let only = good.replace("distribute: {store", "distribute: {countries: {only: [XX]}, store");
    write(folder.path(), "only.yaml", only);
    let ours = format!("--bootstrap {brokers} --anchor {dir}/anchor.pem");
    let topics = || keyferry(&format!("topics list --bootstrap {brokers}")).out;

    let no_topic: Vec<_> = ["gateway", "process", "distribute", "run"]
        .map(|role| case(format!("{role} --config {dir}/good.yaml"), 2, 1, &["keyferry.network", "apply"]))
        .into_iter()
        .chain([
            case(format!("network show {ours}"), 2, 1, &["no network document", "`keyferry network apply`"]),
            case(format!("verify topic --country FR {ours}"), 2, 1, &["there is no topic keyferry.keys.fr"]),
        ])
        .collect();
    judge_all(&no_topic);

    let before = topics();
    for command in [format!("network apply {dir}/network.yaml"), "topics apply --country DE".into()] {
        let run = keyferry(&format!("{command} --config {dir}/good.yaml --dry-run"));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{command}");
        assert!(run.out.contains("would "), "{}", run.out);
    }
    assert_eq!(topics(), before, "a dry run has changed something");

    let run = keyferry(&format!("topics apply --config {dir}/good.yaml"));
    assert_eq!(run.code, Some(0), "{run:?}");
    let no_document: Vec<_> = ["gateway", "process", "distribute", "run"]
        .map(|role| {
            case(
                format!("{role} --config {dir}/good.yaml"),
                2,
                1,
                &["no network document on keyferry.network"],
            )
        })
        .into();
    judge_all(&no_document);

    let run = keyferry(&format!("network apply {dir}/network.yaml --config {dir}/good.yaml"));
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    let mut cases: Vec<_> = ["gateway", "process", "distribute", "run"]
        .map(|role| {
            case(
                format!("{role} --config {dir}/other.yaml"),
                4,
                1,
                &["no trusted network document", "trust_anchors"],
            )
        })
        .into();
    // Its end, and a line for each record that is passed over.
    let others = format!("--bootstrap {brokers} --anchor {dir}/other.pem");
    cases.push(case(format!("network show {others}"), 4, 2, &["is it the right --anchor?"]));
    cases.push(case(format!("network apply {dir}/network.yaml {others}"), 4, 1, &["network.yaml"]));
    cases.push(case(
        format!("verify topic --country XX {ours}"),
        2,
        1,
        &["there is no topic keyferry.keys.xx"],
    ));
    cases.push(case(
        format!("distribute --config {dir}/only.yaml"),
        2,
        1,
        &["distribute.countries.only", "XX"],
    ));
    cases.push(case(
        format!("verify topic --country xyz {ours}"),
        2,
        1,
        &["'--country <CC>'", "two letters"],
    ));

    // The same version with other content; a lower one.
    world.document.agreements[0].legal_basis = "another".into();
    write_network(folder.path(), "same.yaml", &world);
    cases.push(case(
        format!("network apply {dir}/same.yaml {ours}"),
        2,
        1,
        &["version: 1 is published with other content"],
    ));
    // A certificate that no TLS of today takes.
    world.document.version = 2;
    world.document.members[0].certificates[0].pem = version_one();
    write_network(folder.path(), "v1.yaml", &world);
    cases.push(case(
        format!("network apply {dir}/v1.yaml {ours}"),
        2,
        1,
        &["v1.yaml: members[0]", "X.509 v1"],
    ));
    cases.push(case(
        format!("network check {dir}/v1.yaml --anchor {dir}/anchor.pem"),
        2,
        1,
        &["v1.yaml: members[0]", "X.509 v1"],
    ));
    judge_all(&cases);
    assert!(!keyferry(&format!("network show {ours}")).out.contains("version 2"));
    broker.stop().unwrap();
}

#[test]
fn a_certificate_that_ended_is_shown_as_such() {
    let mut world = World::new(&["DE", "FR"], Timestamp::now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &world);
    let (from, until) = (world.document.agreements[0].from, world.document.agreements[0].until);
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let now = Timestamp::now().as_second();
    let ended = Identity::with_dates("DE", "Ended", key, now - 86400 * 10, now - 86400).unwrap();
    let entry = world.register(&ended, Use::Signing, from, until).unwrap();
    world.document.members[0].certificates.push(entry);
    write_network(folder.path(), "network.yaml", &world);
    let run = keyferry(&format!("network check {dir}/network.yaml --anchor {dir}/anchor.pem"));
    // It may stand there for what it once signed.
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn a_version_is_published_once_and_no_lower_one_after_it() {
    let mut hub = Hub::start(World::new(&["DE", "FR"], Timestamp::now()).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    prepare(folder.path(), &hub.world);
    write(folder.path(), "hub.yaml", configuration(&dir, hub.broker.bootstrap_servers(), "anchor"));
    let keys = topics::keys("FR".parse().unwrap());
    hub.put(&keys, b"for nobody any more".to_vec()).unwrap();
    hub.world.document.version = 2;
    let now = Timestamp::now();
    hub.world.member_mut("FR").unwrap().states.push(StateSince { state: MemberState::Left, from: now });
    write_network(folder.path(), "left.yaml", &hub.world);
    let count = |topic: &str| hub.records(topic, Isolation::Committed).unwrap().len();
    let apply = |file: &str| keyferry(&format!("network apply {dir}/{file} --config {dir}/hub.yaml"));

    let again = apply("network.yaml");
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains("version 1 is published already"), "{}", again.out);
    assert_eq!((count(topics::NETWORK), count(&keys)), (1, 1));

    let dry = keyferry(&format!("network apply {dir}/left.yaml --config {dir}/hub.yaml --dry-run"));
    assert!(dry.out.contains("would publish") && dry.out.contains("would delete the records"), "{}", dry.out);
    assert_eq!((count(topics::NETWORK), count(&keys)), (1, 1));

    let left = apply("left.yaml");
    assert_eq!(left.code, Some(0), "{left:?}");
    let line = |what: &str| left.out.lines().position(|l| l.starts_with(what)).unwrap();
    assert!(line("published") < line("delete the records"), "{}", left.out);
    assert_eq!((count(topics::NETWORK), count(&keys)), (2, 0));

    let lower = apply("network.yaml");
    assert_eq!((lower.code, lower.err.lines().count()), (Some(2), 1), "{lower:?}");
    assert!(lower.err.contains("version: 1 is lower than 2, which is published"), "{}", lower.err);
    assert_eq!(count(topics::NETWORK), 2);

    let show = |more: &str| keyferry(&format!("network show --config {dir}/hub.yaml {more}"));
    let written = folder.path().join("shown.yaml");
    let dry = show(&format!("--version 1 --out {} --dry-run", written.display()));
    assert!(dry.out.starts_with("would write version 1") && !written.exists(), "{dry:?}");
    assert_eq!(show(&format!("--version 1 --out {}", written.display())).code, Some(0));
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("shown.yaml") == read("network.yaml"), "another document than was published");
    let none = show("--version 3");
    assert_eq!((none.code, none.err.lines().count()), (Some(2), 1), "{none:?}");
    assert!(none.err.contains("there is no version 3; there are 1, 2"), "{}", none.err);
}

#[test]
fn every_command_helps() {
    let mut waiting = vec![String::new()];
    let mut seen = 0;
    while let Some(command) = waiting.pop() {
        let run = keyferry(&format!("{command} --help"));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{command}");
        let commands =
            run.out.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| l.starts_with("  "));
        let commands: Vec<_> = commands
            .filter_map(|l| l.split_whitespace().next())
            .filter(|name| *name != "help")
            .map(|name| format!("{command} {name}"))
            .collect();
        let about = run.out.lines().next().unwrap_or_default();
        assert!(about.len() > 10 && !about.starts_with("Usage"), "{command} does not say what it does");
        // A command that does something shows how.
        let example = format!("Example: keyferry{command} ");
        assert!(!commands.is_empty() || run.out.contains(&example), "{command}");
        waiting.extend(commands);
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}
