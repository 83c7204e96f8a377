//! The roles of a hub in processes of their own: which there are, and what each is told.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use keyferry_runtime::{broker::free_ports, dependent::Dependent};
use keyferry_schemas::world::HUB_KEY;
use openssl::pkey::{Id, PKey};

use super::{
    client::Gate,
    scene::{OTHER_KEY, Scene},
    slot::Slot,
};
use crate::front::Door;

/// How long a role may take to be ready: others use the machine as well.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
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
            resting: Arc::default(),
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
        let of = |s: &Slot| Gate { address: s.listen, door: s.door, resting: Arc::clone(&s.resting) };
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
        slot.resting.store(false, SeqCst);
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
        let http = format!("http: {{listen: '{listen}', drain_s: 2, {http}}}\n");
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
