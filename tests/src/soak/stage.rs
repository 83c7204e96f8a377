//! The roles of a hub in processes of their own: started, stopped at named points, killed, woken and started again.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use keyferry_runtime::{
    broker::free_ports,
    dependent::{Dependent, last_lines},
};
use keyferry_schemas::world::HUB_KEY;
use openssl::pkey::{Id, PKey};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    client::Gate,
    scene::{OTHER_KEY, Scene},
};
use crate::front::Door;

/// How long a role may take to be ready: others use the machine as well.
const PATIENCE: Duration = Duration::from_secs(90);
/// How many of each role run where nothing is broken.
const EACH: usize = 2;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Takes uploads.
    Gateway,
    /// Decides.
    Processor,
    /// Stores and serves.
    Distribution,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Processor, Self::Distribution];

    /// As the program calls it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Processor => "process",
            Self::Distribution => "distribute",
        }
    }
}

/// A place for a process: it comes and goes, its name and address stay.
pub struct Slot {
    /// Its role.
    pub role: Role,
    /// Its name; of processors also the transactional id.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    admin: SocketAddr,
    door: Door,
    folder: PathBuf,
    process: Option<Dependent>,
    frozen: bool,
}

/// All processes, and what they need.
pub struct Stage {
    /// The scene.
    pub scene: Arc<Scene>,
    /// The places.
    pub slots: Vec<Slot>,
    /// Where files and logs are.
    pub folder: PathBuf,
    program: PathBuf,
    /// Guards that processors are started without, to see that the harness notices.
    pub without: Vec<String>,
    processors: usize,
    /// What was done to them, counted.
    pub counts: BTreeMap<&'static str, usize>,
}

impl Stage {
    /// Two gateways, two processors, two distribution services over one store; waits until they are ready.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(scene: Arc<Scene>, folder: &Path, program: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut stage = Self {
            scene,
            slots: Vec::new(),
            folder: folder.canonicalize()?,
            program: program.to_owned(),
            without: std::env::var("SOAK_WITHOUT").map(|w| vec![w]).unwrap_or_default(),
            processors: 0,
            counts: BTreeMap::new(),
        };
        stage.write_files()?;
        for role in Role::ALL {
            (0..EACH).try_for_each(|_| stage.add(role).map(drop))?;
        }
        (0..stage.slots.len()).try_for_each(|slot| stage.begin(slot))?;
        (0..stage.slots.len()).try_for_each(|slot| stage.await_ready(slot))?;
        Ok(stage)
    }

    fn write_files(&self) -> Result<()> {
        let world = &self.scene.hub.world;
        let write = |name: &str, bytes: &[u8]| fs::write(self.folder.join(name), bytes);
        write("anchor.pem", world.anchor.certificate_pem()?.as_bytes())?;
        write("tls.crt", world.anchor.certificate_pem()?.as_bytes())?;
        write("tls.key", world.anchor.key_pem()?.as_bytes())?;
        for (name, key) in [(HUB_KEY, &world.hub_key), (OTHER_KEY, &self.scene.other_key)] {
            let key = PKey::private_key_from_raw_bytes(&key.to_bytes(), Id::ED25519)?;
            write(&format!("{name}.pem"), &key.private_key_to_pem_pkcs8()?)?;
        }
        Ok(write("fingerprint.hex", "07".repeat(32).as_bytes())?)
    }

    /// Makes a place for one more process; nothing runs there yet.
    ///
    /// # Errors
    /// There is no port.
    pub fn add(&mut self, role: Role) -> Result<usize> {
        let [listen, admin] = free_ports()?.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let n = self.slots.iter().filter(|s| s.role == role).count();
        let mut slot = Slot {
            role,
            name: format!("{}-{n}", role.command()),
            listen,
            admin,
            // One of the gateways for either way to say who one is.
            door: if role == Role::Gateway && n % 2 == 0 { Door::Tls } else { Door::Proxy },
            folder: PathBuf::new(),
            process: None,
            frozen: false,
        };
        if role == Role::Processor {
            self.rename(&mut slot);
        }
        slot.folder = self.folder.join(format!("{}-{n}", role.command()));
        fs::create_dir_all(&slot.folder)?;
        self.slots.push(slot);
        Ok(self.slots.len() - 1)
    }

    fn rename(&mut self, slot: &mut Slot) {
        slot.name = format!("p-{}", self.processors);
        self.processors += 1;
    }

    /// The next process in this place is another instance, as far as Kafka knows.
    pub fn replace(&mut self, slot: usize) {
        self.slots[slot].name = format!("p-{}", self.processors);
        self.processors += 1;
    }

    /// The gateways.
    #[must_use]
    pub fn gates(&self) -> Vec<Gate> {
        let of = |s: &Slot| Gate { address: s.listen, door: s.door };
        self.slots.iter().filter(|s| s.role == Role::Gateway).map(of).collect()
    }

    /// Where the distribution services answer.
    #[must_use]
    pub fn services(&self) -> Vec<SocketAddr> {
        self.slots.iter().filter(|s| s.role == Role::Distribution).map(|s| s.listen).collect()
    }

    /// The places of a role at which something runs, and is not frozen.
    #[must_use]
    pub fn running(&self, role: Role) -> Vec<usize> {
        let runs = |s: &Slot| s.role == role && s.process.is_some() && !s.frozen;
        (0..self.slots.len()).filter(|i| runs(&self.slots[*i])).collect()
    }

    /// The places of a role at which nothing runs and something should: spare ones for processors are left out.
    #[must_use]
    pub fn empty(&self, role: Role) -> Vec<usize> {
        let of = |i: &usize| self.slots[*i].role == role;
        let all: Vec<_> = (0..self.slots.len()).filter(of).collect();
        let runs = all.iter().filter(|i| self.slots[**i].is_running()).count();
        let empty = all.into_iter().filter(|i| !self.slots[*i].is_running());
        empty.take(EACH.saturating_sub(runs)).collect()
    }

    /// A place for a processor at which nothing runs.
    #[must_use]
    pub fn spare(&self) -> Option<usize> {
        self.slots.iter().position(|s| s.role == Role::Processor && !s.is_running())
    }

    /// The places of a role at which something stands still.
    #[must_use]
    pub fn frozen(&self, role: Role) -> Vec<usize> {
        let of = |i: &usize| self.slots[*i].role == role && self.slots[*i].frozen;
        (0..self.slots.len()).filter(of).collect()
    }

    /// Counts what was done.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Starts the process of a place; does not wait for it.
    ///
    /// # Errors
    /// It can not be started.
    pub fn begin(&mut self, slot: usize) -> Result<()> {
        let (config, without) = (self.configuration(slot), self.without.clone());
        let slot = &mut self.slots[slot];
        ensure!(slot.process.is_none(), "{} runs already", slot.name);
        slot.forget();
        let file = slot.folder.join("config.yaml");
        fs::write(&file, config)?;
        let mut arguments = vec![slot.folder.display().to_string(), slot.name.clone()];
        if slot.role == Role::Processor {
            arguments.extend(without.iter().map(|guard| format!("without={guard}")));
        }
        arguments.extend([slot.role.command().into(), "--config".into(), file.display().to_string()]);
        slot.process = Some(Dependent::launch(&self.program, arguments, &slot.folder.join("log"), None)?);
        Ok(())
    }

    fn configuration(&self, slot: usize) -> String {
        let (slot, dir) = (&self.slots[slot], self.folder.display());
        let (brokers, listen) = (self.scene.hub.broker.bootstrap_servers(), slot.listen);
        let http = match slot.door {
            Door::Tls => format!("tls: {{certificate: {dir}/tls.crt, key: {dir}/tls.key}}"),
            Door::Proxy => "trusted_proxies: [127.0.0.1/32]".into(),
        };
        let http = format!("http: {{listen: '{listen}', {http}}}\n");
        // Short sessions, so that a zombie is one after some seconds.
        let (options, role) = match slot.role {
            Role::Gateway => (
                "",
                format!(
                    "{http}gateway: {{decision_wait_ms: 15000, uploads_per_minute_per_member: 60000, \
                     max_concurrent_uploads_per_member: 32}}\n"
                ),
            ),
            Role::Processor => (
                ", options: {session.timeout.ms: '3000', heartbeat.interval.ms: '300'}",
                format!(
                    "process:\n  transactional_id: {}\n  signing_keys: [{{id: {HUB_KEY}, file: {dir}/{HUB_KEY}.pem}}, \
                     {{id: {OTHER_KEY}, file: {dir}/{OTHER_KEY}.pem}}]\n  fingerprint_secret: {{id: one, file: \
                     {dir}/fingerprint.hex}}\n  checkpoint_interval_s: 2\n",
                    slot.name
                ),
            ),
            Role::Distribution => (
                "",
                format!(
                    "{http}distribute: {{max_keys_per_download_batch: 40, store: {{local: {{path: {dir}/store}}}}}}\n"
                ),
            ),
        };
        format!(
            "kafka: {{bootstrap_servers: '{brokers}'{options}}}\ntrust_anchors: [{dir}/anchor.pem]\n\
             log: {{filter: info}}\nadmin: {{listen: '{}'}}\n{role}",
            slot.admin
        )
    }

    /// Waits until the process of a place says that it is ready.
    ///
    /// # Errors
    /// It ends instead, or never is.
    pub fn await_ready(&mut self, slot: usize) -> Result<()> {
        let begun = Instant::now();
        while !self.slots[slot].is_ready() {
            let slot = &mut self.slots[slot];
            slot.alive()?;
            ensure!(begun.elapsed() < PATIENCE, "{} is not ready after {PATIENCE:?}", slot.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// That every process that should run does.
    ///
    /// # Errors
    /// One has ended by itself.
    pub fn all_alive(&mut self) -> Result<()> {
        self.slots.iter_mut().try_for_each(Slot::alive)
    }
}

impl Slot {
    /// Whether something runs here.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn forget(&mut self) {
        self.frozen = false;
        for name in ["armed", "stopped"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
    }

    fn alive(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(status) = process.ended()? {
            let log = self.folder.join("log");
            bail!("{} ended by itself, {status}: {} ({})", self.name, last_lines(&log, 0), log.display());
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let page = || {
            let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).map(|()| head)
        };
        page().is_ok_and(|head| head.ends_with(b"200"))
    }

    /// From now on it stops at this point.
    ///
    /// # Errors
    /// Its folder is gone.
    pub fn arm(&self, point: &str) -> Result<()> {
        // Whole or not at all: it looks at any moment.
        fs::write(self.folder.join("arming"), point)?;
        Ok(fs::rename(self.folder.join("arming"), self.folder.join("armed"))?)
    }

    /// Waits until it stands at its point; `false` if it does not come by within this time, and then it goes on.
    pub fn await_stopped(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        let (armed, stopped) = (self.folder.join("armed"), self.folder.join("stopped"));
        // Whoever takes the file away has the say: it is stopping, or it will not.
        while !stopped.exists() && (begun.elapsed() < limit || fs::remove_file(&armed).is_err()) {
            if begun.elapsed() > 2 * limit {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.frozen = stopped.exists();
        // It says so first: a signal that comes before it stands would not wake it.
        while self.frozen && begun.elapsed() < PATIENCE && !self.stands() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = fs::remove_file(stopped);
        self.frozen
    }

    /// Whether it stands still or is gone, as the system says.
    fn stands(&self) -> bool {
        let Some(process) = &self.process else { return true };
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
        // The name of the program is in brackets, the state behind it.
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['T', 'Z']))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().with_context(|| format!("{} does not run", self.name))?;
        kill_process(Pid::from_raw(process.pid().try_into()?).context("a process id")?, signal)?;
        self.frozen = signal == Signal::STOP;
        Ok(())
    }

    /// SIGKILL; blocks until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.frozen = false;
        Ok(self.process.take().map_or(Ok(()), Dependent::kill)?)
    }

    /// SIGTERM; blocks until it is gone.
    ///
    /// # Errors
    /// It does not end as it should.
    pub fn terminate(&mut self) -> Result<()> {
        self.frozen = false;
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let pid = Pid::from_raw(process.pid().try_into()?).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        // One that stood at a point has to go on to hear of it.
        let _ = kill_process(pid, Signal::CONT);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = process.ended()? {
                ensure!(status.success(), "{} ended with {status} after SIGTERM", self.name);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not end after SIGTERM; its log is in {}", self.name, self.folder.display())
    }
}
