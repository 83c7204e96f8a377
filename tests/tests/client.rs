//! `keyferry client` against the real roles, over mutual TLS: what a national backend would put into its scripts.
//!
//! Operations: uploads, the same again, keys that are known, files in parts; downloads with proof, from the start, after
//! the last, while new batches come; audits. Failures: keys and certificates that are not the right ones, another server,
//! another anchor, a changed file, SIGKILL of the client at any moment, a hub that is away for a while.
//! Not here: answers that the hub never gives (src/cli/client/tests), callbacks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{Timestamp, tz::TimeZone};
use keyferry_runtime::{
    clock::{Clock, SystemClock},
    dependent::{last_lines, without_settings},
};
use keyferry_schemas::{
    efgs::{self, DiagnosisKey},
    world::{Algorithm, Identity, Rng, World, key},
};
use keyferry_tests::{
    hub::Hub,
    operator::{keyferry, prepare, write},
    program::{self, Run},
    role::{Role, address},
    wait::wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Everything that the commands are given.
struct Scene {
    hub: Hub,
    folder: tempfile::TempDir,
    listen: String,
    role: Role,
    runtime: Runtime,
    rng: Rng,
}

impl Scene {
    fn start() -> Self {
        let hub = Hub::start(World::new(&["DE", "FR", "NL"], Timestamp::now()).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), &hub.world);
        fs::create_dir(folder.path().join("store")).unwrap();
        for (country, nation) in &hub.world.nations {
            for (name, identity) in [("auth", &nation.authentication), ("sign", &nation.signing)] {
                write(folder.path(), &format!("{country}-{name}.pem"), identity.certificate_pem().unwrap());
                write(folder.path(), &format!("{country}-{name}.key"), identity.key_pem().unwrap());
            }
        }
        let stranger = Identity::new("DE", "Nobody", Algorithm::P256, Timestamp::now()).unwrap();
        for name in ["XX-auth", "XX-sign"] {
            write(folder.path(), &format!("{name}.pem"), stranger.certificate_pem().unwrap());
            write(folder.path(), &format!("{name}.key"), stranger.key_pem().unwrap());
        }
        let (listen, runtime) = (address(), Runtime::new().unwrap());
        let mut role = Role::start("run", folder.path(), &hub, &listen);
        role.wait_until_ready(&runtime);
        Self { hub, folder, listen, role, runtime, rng: Rng::new(1) }
    }

    fn dir(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&mut self, n: usize) -> Vec<DiagnosisKey> {
        (0..n).map(|_| key(&mut self.rng, "DE", &[], SystemClock.now())).collect()
    }

    /// `client`, a command, and the way to the hub as this country.
    fn line(&self, command: &str, country: &str) -> String {
        let (dir, listen) = (self.dir(), &self.listen);
        let to = format!("--url https://{listen} --cacert {dir}/server.pem");
        format!("client {command} {to} --cert {dir}/{country}-auth.pem --key {dir}/{country}-auth.key")
    }

    fn upload_line(&self, file: &str, country: &str, signer: &str, more: &str) -> String {
        let dir = self.dir();
        let signer = format!("--signing-cert {dir}/{signer}-sign.pem --signing-key {dir}/{signer}-sign.key");
        self.line(&format!("upload {dir}/{file} {signer} {more} --json"), country)
    }

    fn upload(&self, file: &str, more: &str) -> Vec<Value> {
        let run = keyferry(&self.upload_line(file, "DE", "DE", more));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
        lines(&run)
    }

    fn download_line(&self, out: &str, more: &str) -> String {
        let dir = self.dir();
        self.line(&format!("download --out {dir}/{out} {more}"), "FR")
    }

    fn download(&self, out: &str) -> Run {
        keyferry(&self.download_line(out, &format!("--anchor {}/anchor.pem --json", self.dir())))
    }

    /// The files of a folder of downloads, by their tags.
    fn batches(&self, out: &str) -> BTreeMap<String, Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.path(out)) else { return BTreeMap::new() };
        let files = entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pb"));
        let name = |p: &Path| p.file_stem().unwrap().to_str().unwrap().to_owned();
        files.map(|p| (name(&p), fs::read(&p).unwrap())).collect()
    }

    /// All keys in a folder, sorted.
    fn received(&self, out: &str) -> Vec<Vec<u8>> {
        let batches = self.batches(out);
        let keys = batches.values().flat_map(|b| efgs::decode_joined(b.clone().into()).unwrap());
        let mut keys: Vec<_> = keys.map(|k| k.key_data.to_vec()).collect();
        keys.sort();
        keys
    }
}

fn lines(run: &Run) -> Vec<Value> {
    run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// That a run failed so: exit code, one line on standard error that says this, the same as an object if wanted.
fn fails(line: &str, code: i32, says: &[&str]) {
    let run = keyferry(line);
    assert_eq!((run.code, run.err.lines().count()), (Some(code), 1), "{line}\n{run:?}");
    assert!(says.iter().all(|what| run.err.contains(what)), "{line}\n{run:?}\n{says:?}");
    if line.contains("--json") && code != 2 {
        let last = lines(&run).pop().unwrap();
        assert_eq!(
            (last["event"].as_str(), last["exit"].as_i64()),
            (Some("error"), Some(code.into())),
            "{run:?}"
        );
    }
}

fn data(keys: &[&[DiagnosisKey]]) -> Vec<Vec<u8>> {
    let mut data: Vec<_> = keys.iter().flat_map(|k| k.iter()).map(|k| k.key_data.to_vec()).collect();
    data.sort();
    data
}

#[test]
fn a_backend_in_scripts_uploads_downloads_and_proves() {
    let mut scene = Scene::start();
    let dir = scene.dir();
    let (first, second) = (scene.keys(20), scene.keys(5));
    write(scene.folder.path(), "first.pb", efgs::encode_protobuf(&first));
    let mixed = [&first[3..6], &second[..]].concat();
    write(scene.folder.path(), "mixed.json", efgs::encode_json(&mixed));

    // Uploads: once, again, with keys that are known, in parts.
    let sent = scene.upload("first.pb", "");
    assert_eq!((sent[0]["status"].as_u64(), sent[0]["taken"].as_u64()), (Some(201), Some(20)), "{sent:?}");
    assert_eq!(scene.upload("first.pb", ""), sent, "the same again has the same answer");
    let partial = scene.upload("mixed.json", "");
    assert_eq!(
        (partial[0]["status"].as_u64(), &partial[0]["notTaken"]),
        (Some(207), &Value::from(vec![0, 1, 2]))
    );
    assert_eq!(scene.upload("mixed.json", ""), partial);
    let third = scene.keys(7);
    write(scene.folder.path(), "third.bin", efgs::encode_json(&third));
    let parts = scene.upload("third.bin", "--format json --max-keys 3 --tag monday");
    let tags: Vec<_> = parts.iter().map(|p| p["batchTag"].as_str().unwrap()).collect();
    assert_eq!(tags, ["monday-1", "monday-2", "monday-3"]);
    assert_eq!(parts[2]["firstIndex"], 6);

    // Refusals, each in one line with its code.
    let fourth = scene.keys(2);
    write(scene.folder.path(), "tried.pb", efgs::encode_protobuf(&fourth));
    let tried = scene.upload("tried.pb", "--check");
    assert_eq!((&tried[0]["state"], &tried[0]["invalid"]), (&"active".into(), &Value::Array(Vec::new())));
    fails(&scene.upload_line("tried.pb", "DE", "NL", "--check"), 1, &["400 signing-certificate-foreign"]);
    write(scene.folder.path(), "fourth.pb", efgs::encode_protobuf(&fourth));
    let unsigned = scene.upload_line("fourth.pb", "DE", "XX", "");
    fails(&unsigned, 1, &["400 signing-certificate-unknown", "upload 1 of 1", "--signing-cert"]);
    fails(&scene.upload_line("fourth.pb", "DE", "NL", ""), 1, &["400 signing-certificate-foreign"]);
    fails(&scene.upload_line("fourth.pb", "XX", "DE", ""), 1, &["403 client-certificate-unknown"]);
    fails(&scene.upload_line("fourth.pb", "NL", "NL", ""), 1, &["400 key-origin-foreign"]);
    fails(
        &scene.upload_line("fourth.pb", "DE", "DE", "--tag monday-1"),
        1,
        &["409 batch-tag-conflict", "--tag"],
    );
    let mismatch = scene.upload_line("fourth.pb", "DE", "DE", "").replace("DE-sign.key", "NL-sign.key");
    fails(&mismatch, 2, &["NL-sign.key is not the key of the certificate"]);
    fails(
        &unsigned.replace("server.pem", "other.pem"),
        4,
        &["the server is not the hub that --cacert names"],
    );
    let nowhere =
        scene.download_line("none", "--no-verify --retries 0").replace(&scene.listen, "127.0.0.1:1");
    let run = keyferry(&nowhere);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("NOT VERIFIED") && run.err.contains("can not be reached"), "{run:?}");

    // Downloads: all of it, proven; then nothing; and nobody else's anchor.
    let everything = data(&[&first, &mixed, &third]);
    wait_until("all downloads", || {
        let run = scene.download("inbox");
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
        let batches = lines(&run).into_iter().filter(|line| line["event"] == "batch");
        assert!(
            batches.into_iter().all(|b| b["level"] == "whole" && b["origins"] == Value::from(vec!["DE"]))
        );
        scene.received("inbox").len() >= everything.len()
    });
    assert!(scene.received("inbox") == everything, "other keys than were sent, or some twice");
    let idle = scene.download("inbox");
    assert_eq!((lines(&idle).len(), &lines(&idle)[0]["batches"]), (1, &Value::from(0)), "{idle:?}");
    fails(
        &scene.download_line("wrong", &format!("--anchor {dir}/other.pem --json")),
        4,
        &["is not signed by the trust anchor", "is not stored"],
    );
    assert!(scene.batches("wrong").is_empty() && !scene.path("wrong/keyferry-state.json").exists());
    fails(&scene.download_line("wrong", ""), 2, &["--anchor"]);
    let own = keyferry(&scene.line(&format!("download --out {dir}/own --anchor {dir}/anchor.pem"), "DE"));
    assert_eq!((own.code, own.out.trim()), (Some(0), "there is no batch yet"), "{own:?}");

    // An audit, with the file as it came and with a key changed in it.
    let (tag, batch) = scene.batches("inbox").pop_first().unwrap();
    let day = TimeZone::UTC.to_datetime(tag_time(&tag)).date();
    let audit = |more: &str| scene.line(&format!("audit {day} {tag} {more} --anchor {dir}/anchor.pem"), "FR");
    let run = keyferry(&audit(&format!("--batch {dir}/inbox/{tag}.pb")));
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.out.starts_with("ORIGIN") && run.out.contains("whole, proven by"), "{}", run.out);
    let mut keys = efgs::decode_joined(batch.into()).unwrap();
    keys[0].rolling_period -= 1;
    write(scene.folder.path(), "changed.pb", efgs::encode_protobuf(&keys));
    fails(
        &audit(&format!("--batch {dir}/changed.pb --json")),
        4,
        &["its origin's signature does not hold over its keys"],
    );

    // What was printed holds no key.
    let printed = format!("{sent:?}{partial:?}{idle:?}{own:?}{}", run.out);
    for key in &everything {
        assert!(!printed.contains(&hex::encode(key)) && !printed.contains(&STANDARD.encode(key)));
    }
    killed_and_away(&mut scene, everything);
}

fn tag_time(tag: &str) -> Timestamp {
    let day = &tag[..8];
    format!("{}-{}-{}T00:00:00Z", &day[..4], &day[4..6], &day[6..8]).parse().unwrap()
}

fn follow(scene: &Scene, out: &str) -> Child {
    let line =
        scene.download_line(out, &format!("--follow --interval-s 1 --anchor {}/anchor.pem", scene.dir()));
    let mut command = Command::new(program::path().unwrap());
    without_settings(&mut command).args(line.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A follower that is killed again and again while batches come, and a hub that is away for a while.
fn killed_and_away(scene: &mut Scene, mut everything: Vec<Vec<u8>>) {
    for round in 0..5 {
        let before = scene.batches("killed").len();
        let mut follower = follow(scene, "killed");
        let keys = scene.keys(12);
        write(scene.folder.path(), "more.pb", efgs::encode_protobuf(&keys));
        everything.extend(data(&[&keys]));
        scene.upload("more.pb", "--max-keys 3");
        // Not always at the same point of its work.
        wait_until("a batch of this run", || scene.batches("killed").len() > before + round % 2);
        follower.kill().unwrap();
        follower.wait().unwrap();
        let partial = scene.batches("killed").into_values().any(|b| efgs::decode_joined(b.into()).is_err());
        assert!(!partial, "a file has its name and is not whole");
    }
    everything.sort();

    // The client waits for the hub.
    let keys = scene.keys(2);
    write(scene.folder.path(), "away.pb", efgs::encode_protobuf(&keys));
    everything.extend(data(&[&keys]));
    everything.sort();
    scene.role.terminate();
    let ended = scene.role.ended();
    assert!(ended.success(), "{ended}: {}", last_lines(&scene.role.log, 0));
    let line = scene.upload_line("away.pb", "DE", "DE", "--retries 60");
    let waiting = std::thread::spawn(move || keyferry(&line));
    scene.role = Role::start("run", scene.folder.path(), &scene.hub, &scene.listen);
    scene.role.wait_until_ready(&scene.runtime);
    let run = waiting.join().unwrap();
    assert_eq!((run.code, lines(&run)[0]["status"].as_u64()), (Some(0), Some(201)), "{run:?}");

    wait_until("all downloads", || {
        let run = scene.download("killed");
        assert_eq!(run.code, Some(0), "{run:?}");
        scene.received("killed").len() >= everything.len()
    });
    assert!(scene.received("killed") == everything, "lost or doubled");
    let mut follower = follow(scene, "whole");
    wait_until("all batches", || scene.batches("whole").len() >= scene.batches("killed").len());
    assert!(scene.batches("whole") == scene.batches("killed"), "not the batches of a run that nobody killed");
    kill_process(Pid::from_raw(follower.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert!(follower.wait().unwrap().success(), "asked to end, it has done what it should");
}
