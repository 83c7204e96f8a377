//! Everything that has to be there before the first upload: files, a broker, the network document, the roles.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use keyferry_runtime::{
    broker::{Broker, free_ports},
    clock::{Clock, SystemClock},
    codec::Codec,
    config::KafkaConfig,
    dependent::{Dependent, last_lines, without_settings},
    kafka::Kafka,
    shutdown::Shutdown,
};
use keyferry_schemas::world::{Algorithm, HUB_KEY, Identity, World};
use openssl::pkey::PKey;
use tempfile::TempDir;

use super::{INTERRUPTED, backend::Backend};

/// How long `SIGTERM` may take before `SIGKILL` follows.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The exchange while it runs. Everything ends and disappears with it, in the order of its fields: roles that have
/// lost their broker, or a folder that is still written to, would leave something behind.
pub(super) struct Stage {
    roles: Roles,
    broker: Broker,
    folder: TempDir,
    address: String,
    admin: String,
    /// The listener's own certificate.
    pub server: Identity,
}

/// The process of all roles.
struct Roles(Option<Dependent>);

impl Drop for Roles {
    fn drop(&mut self) {
        let ended = self.0.take().map_or(Ok(()), |roles| roles.terminate(STOP_LIMIT));
        if let Err(error) = ended {
            tracing::warn!(%error, "the roles were not stopped in order");
        }
    }
}

impl Stage {
    /// Sets it. Blocks for some seconds; given up between two steps if `shutdown` is tripped.
    pub fn set(world: &World, jars: Option<PathBuf>, shutdown: &Shutdown) -> Result<Self> {
        let go_on = || match shutdown.is_tripped() {
            true => Err(anyhow!(INTERRUPTED)),
            false => Ok(()),
        };
        let openssl = Command::new("openssl").arg("version").output();
        ensure!(
            openssl.is_ok_and(|o| o.status.success()),
            "the `openssl` command is missing: it signs the uploads; `make setup` installs it"
        );
        let folder = tempfile::Builder::new().prefix("keyferry-demo-").tempdir()?;
        let path = folder.path();
        let broker = jars.into_iter().fold(Broker::builder(), |b, jars| b.jars(jars)).start()?;
        go_on()?;
        let server = Identity::new("EU", "localhost", Algorithm::P256, SystemClock.now().timestamp())?;
        write_files(path, world, &server)?;
        let [address, admin] = free_ports()?.map(|port| format!("127.0.0.1:{port}"));
        std::fs::write(
            path.join("keyferry.yaml"),
            configuration(path, broker.bootstrap_servers(), &address, &admin),
        )?;
        command(
            path,
            &["network", "sign", "network.yaml", "--anchor-key", "anchor.key", "--anchor-cert", "anchor.pem"],
        )?;
        go_on()?;
        command(path, &["network", "apply", "network.yaml", "--config", "keyferry.yaml"])?;
        go_on()?;
        let program = std::env::current_exe()?;
        let config = path.join("keyferry.yaml");
        let arguments = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let roles = Dependent::launch(&program, arguments, &path.join("keyferry.log"), Some(path))?;
        Ok(Self { roles: Roles(Some(roles)), broker, folder, address, admin, server })
    }

    /// Waits until the roles answer.
    pub async fn wait_until_ready(&mut self, backend: &Backend) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !backend.is_answered().await {
            let ended = self.roles.0.as_mut().and_then(|roles| roles.ended().ok().flatten());
            if ended.is_some() || Instant::now() > give_up {
                bail!("the roles do not answer: {}", last_lines(&self.folder.path().join("keyferry.log"), 0));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Where the roles listen.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The folder with all files.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A way to the broker.
    pub fn kafka(&self) -> Kafka {
        let bootstrap_servers = self.broker.bootstrap_servers().to_owned();
        Kafka::new(&KafkaConfig { bootstrap_servers, client_id: None, options: [].into() }, "demo")
    }

    /// Reads its records.
    pub fn codec(&self) -> Result<Codec> {
        Ok(Codec::single_object()?)
    }

    /// Runs one of our own commands, as an operator would, and returns what it printed.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        command(self.path(), arguments)
    }

    /// What `--keep` prints.
    pub fn invitation(&self) -> String {
        let path = self.path().display();
        let today = SystemClock.now().day().date();
        format!(
            "\nRunning until Ctrl-C. Everything is in {path}\n\
             Kafka     {}\nHTTPS     {}\nMetrics   http://{}/metrics\nLog       {path}/keyferry.log\n\n\
             curl --cacert {path}/server.pem --cert {path}/FR.authentication.pem --key {path}/FR.authentication.key \\\n\
             \x20 -H 'Accept: application/json; version=1.0' {}/diagnosiskeys/download/{today}",
            self.broker.bootstrap_servers(),
            self.url(),
            self.admin,
            self.url()
        )
    }
}

/// PEM files of everyone, the keys of the hub, and the document with certificates that the anchor has not signed yet.
fn write_files(path: &Path, world: &World, server: &Identity) -> Result<()> {
    let write = |name: String, text: String| std::fs::write(path.join(&name), text).with_context(|| name);
    let identity = |name: String, identity: &Identity| {
        write(format!("{name}.pem"), identity.certificate_pem()?)?;
        write(format!("{name}.key"), identity.key_pem()?)
    };
    identity("anchor".into(), &world.anchor)?;
    identity("server".into(), server)?;
    for nation in world.nations.values() {
        identity(format!("{}.authentication", nation.country), &nation.authentication)?;
        identity(format!("{}.signing", nation.country), &nation.signing)?;
    }
    let hub_key = PKey::private_key_from_raw_bytes(&world.hub_key.to_bytes(), openssl::pkey::Id::ED25519)?;
    write(format!("{HUB_KEY}.pem"), String::from_utf8(hub_key.private_key_to_pem_pkcs8()?)?)?;
    let mut secret = [0; 32];
    openssl::rand::rand_bytes(&mut secret)?;
    write("fingerprint.hex".into(), hex::encode(secret))?;
    let mut document = world.document.clone();
    for certificate in document.members.iter_mut().flat_map(|m| &mut m.certificates) {
        certificate.anchor_signature.clear();
    }
    write("network.yaml".into(), serde_saphyr::to_string(&document)?)
}

fn configuration(path: &Path, kafka: &str, address: &str, admin: &str) -> String {
    let path = path.display();
    format!(
        "kafka:\n  bootstrap_servers: {kafka}\n\
         trust_anchors:\n  - {path}/anchor.pem\n\
         admin:\n  listen: {admin}\n\
         http:\n  listen: {address}\n  tls:\n    certificate: {path}/server.pem\n    key: {path}/server.key\n\
         topics:\n  replication_factor: 1\n\
         gateway:\n  uploads_per_minute_per_member: 6000\n\
         process:\n  transactional_id: demo-process-0\n  signing_keys:\n    - id: {HUB_KEY}\n      file: {path}/{HUB_KEY}.pem\n  \
         fingerprint_secret:\n    id: demo\n    file: {path}/fingerprint.hex\n  checkpoint_interval_s: 2\n\
         distribute:\n  store:\n    local:\n      path: {path}/store\n"
    )
}

fn command(path: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    // Ctrl-C in a terminal reaches the whole group, and it is ours to handle.
    without_settings(&mut command).args(arguments).current_dir(path).process_group(0);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "keyferry {}: {} ({})", arguments.join(" "), said.trim(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
