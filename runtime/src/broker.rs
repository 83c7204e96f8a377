//! The embedded broker: a private single-node Apache Kafka for the demo and the tests.
//!
//! A real broker, because only a real one shows what a transaction does: it runs from a folder of jars, in KRaft
//! mode, on loopback only. It is a development feature (`embedded-broker`) and absent from the image. One replica
//! proves nothing about durability.
//!
//! - [`Broker::builder`]: where the jars are, where data goes, which port, extra properties and listeners.
//! - [`Broker::kill`] and [`Broker::start_again`]: a crash, and the same broker back on the same port and data.
//! - `config`: ports, `server.properties`, the folder of jars. The Java process is a [`Dependent`], which dies with us.
//!
//! Whatever happens to the process that started it (return, panic, `SIGKILL`), the broker and its temporary folder
//! go with it, within a second or two.
//!
//! Everything here blocks its thread: in async code use `spawn_blocking`.

mod config;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
};
use tempfile::TempDir;

pub use config::{default_jars, free_ports};

use crate::dependent::{Dependent, last_lines};

/// Quick to start rather than quick in the long run: C1 only and one collector thread, measured at 2.4 s instead of
/// 3.3 s to ready on two cores.
const JVM_FLAGS: [&str; 9] = [
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
];

/// How long a start may take before it counts as failed; 4 s are usual on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long `SIGTERM` may take before `SIGKILL` follows; half a second is usual.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often a start is tried again when a port that was free is gone when Kafka binds it.
const PORT_TRIES: usize = 5;

/// Why the embedded broker could not be started or stopped. Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The folder of jars does not exist or holds no Kafka.
    #[error("no Kafka jars in {}: run `make setup`, or set KEYFERRY_KAFKA_JARS", .0.display())]
    JarsMissing(PathBuf),
    /// No Java runtime under `JAVA_HOME` or on the `PATH`.
    #[error("java not found: install a Java runtime (17 or later), or set JAVA_HOME")]
    JavaNotFound,
    /// The port that was asked for is held by another process.
    #[error("port {0} is taken by another process")]
    PortTaken(u16),
    /// Kafka ended before it was ready.
    #[error("the broker died at start ({status}); {} says: {last_lines}", .log.display())]
    Died {
        /// Exit code or signal.
        status: String,
        /// The log, which is kept.
        log: PathBuf,
        /// The last errors in it, or its last lines.
        last_lines: String,
    },
    /// Kafka runs, but did not answer a metadata request in time.
    #[error("the broker was not ready after {after_s} s; see {}", .log.display())]
    NotReady {
        /// Seconds waited.
        after_s: u64,
        /// The log, which is kept.
        log: PathBuf,
    },
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes `map_err` on an I/O result read well: `.map_err(io_error("write the properties"))`.
fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BrokerError {
    let doing = doing.into();
    move |source| BrokerError::Io { doing, source }
}

/// What to start. Made by [`Broker::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    jars: Option<PathBuf>,
    data: Option<PathBuf>,
    listener_port: Option<u16>,
    listeners: Vec<(String, String)>,
    properties: BTreeMap<String, String>,
    jvm: Option<Vec<String>>,
}

impl Builder {
    /// The folder of jars. Default: [`default_jars`].
    #[must_use]
    pub fn jars(mut self, folder: impl Into<PathBuf>) -> Self {
        self.jars = Some(folder.into());
        self
    }

    /// The folder for data and log. A given one is kept at stop and, if it was formatted before, used again.
    /// Default (`None`): a temporary one, removed at stop.
    #[must_use]
    pub fn data(mut self, folder: Option<PathBuf>) -> Self {
        self.data = folder;
        self
    }

    /// The port clients connect to on 127.0.0.1. Default (`None`): a free one.
    #[must_use]
    pub fn listener_port(mut self, port: Option<u16>) -> Self {
        self.listener_port = port;
        self
    }

    /// One more listener on a free port, for example `("SECURED", "SASL_PLAINTEXT")`; see
    /// [`Broker::address_of`]. What it needs beyond that (mechanisms, JAAS, keys) comes by [`Builder::property`].
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, security_protocol: impl Into<String>) -> Self {
        self.listeners.push((name.into(), security_protocol.into()));
        self
    }

    /// One line of `server.properties`; wins over what Keyferry sets itself.
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }

    /// Flags of the JVM in place of Keyferry's own, which make it quick to start and slow in the long run.
    #[must_use]
    pub fn jvm(mut self, flags: &[&str]) -> Self {
        self.jvm = Some(flags.iter().map(|flag| (*flag).to_owned()).collect());
        self
    }

    /// Starts the broker and blocks until it answers a metadata request, 90 s at most.
    ///
    /// # Errors
    /// Every kind of [`BrokerError`]. After [`BrokerError::Died`] and [`BrokerError::NotReady`] the log is kept,
    /// in a temporary folder too, since it is all there is to find out why.
    pub fn start(self) -> Result<Broker, BrokerError> {
        let jars = match self.jars {
            Some(jars) => jars,
            None => default_jars()?,
        };
        config::check_jars(&jars)?;
        let java = config::find_java()?;

        let (root, temporary) = match self.data {
            Some(folder) => (folder, None),
            None => {
                let folder = tempfile::Builder::new().prefix("keyferry-broker-").tempdir();
                let folder = folder.map_err(io_error("make a temporary folder for the broker"))?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        std::fs::create_dir_all(&root).map_err(io_error(format!("make the folder {}", root.display())))?;
        let root = root.canonicalize().map_err(io_error(format!("find the folder {}", root.display())))?;

        let mut broker = Broker {
            java,
            jars,
            root,
            temporary,
            fixed_port: self.listener_port,
            extra_listeners: self.listeners,
            properties: self.properties,
            jvm: self.jvm.unwrap_or_else(|| JVM_FLAGS.map(str::to_owned).to_vec()),
            ports: config::Ports::default(),
            bootstrap: String::new(),
            process: None,
            log_from: 0,
        };
        // A free port is only known to have been free: another process may take it before Kafka does.
        for tries_left in (0..PORT_TRIES).rev() {
            broker.choose_ports()?;
            match broker.start_again() {
                Err(BrokerError::Died { last_lines, .. })
                    if tries_left > 0 && last_lines.contains("Address already in use") => {}
                Err(BrokerError::PortTaken(port)) if tries_left > 0 && broker.fixed_port != Some(port) => {}
                Err(error) => {
                    broker.keep_log();
                    return Err(error);
                }
                Ok(()) => break,
            }
        }
        Ok(broker)
    }
}

/// A running broker. Dropping it stops it.
#[derive(Debug)]
pub struct Broker {
    java: PathBuf,
    jars: PathBuf,
    root: PathBuf,
    temporary: Option<TempDir>,
    fixed_port: Option<u16>,
    extra_listeners: Vec<(String, String)>,
    properties: BTreeMap<String, String>,
    jvm: Vec<String>,
    ports: config::Ports,
    bootstrap: String,
    process: Option<Dependent>,
    log_from: u64,
}

impl Broker {
    /// What to start; nothing needs to be set.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `127.0.0.1:port`, plain text, for `bootstrap.servers`. Stays the same over [`Broker::start_again`].
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// `127.0.0.1:port` of a listener added by [`Builder::listener`], or none of that name.
    #[must_use]
    pub fn address_of(&self, listener: &str) -> Option<String> {
        let place = self.extra_listeners.iter().position(|(name, _)| name == listener)?;
        self.ports.extra.get(place).map(|port| format!("127.0.0.1:{port}"))
    }

    /// The broker's own log, of all its runs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.root.join("broker.log")
    }

    /// The folder that holds data, log and `server.properties`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.root
    }

    /// The process id of Java while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Dependent::pid)
    }

    /// Ends the broker as a crash would: `SIGKILL`, at once. Its data stays, for [`Broker::start_again`].
    ///
    /// # Errors
    /// [`BrokerError::Io`] if the process can not be signalled.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        self.process.take().map_or(Ok(()), Dependent::kill).map_err(io_error("kill java"))
    }

    /// Ends the broker in order: `SIGTERM`, then `SIGKILL` after 20 s. Its data stays, for
    /// [`Broker::start_again`]. Blocks until the process is gone.
    ///
    /// # Errors
    /// [`BrokerError::Io`] if the process can not be signalled.
    pub fn shut_down(&mut self) -> Result<(), BrokerError> {
        let ended = self.process.take().map_or(Ok(()), |java| java.terminate(STOP_LIMIT));
        ended.map_err(io_error("stop java"))
    }

    /// Starts a broker that was killed or shut down, on the same ports and data. Blocks until it answers, 90 s at
    /// most. Does nothing while it runs.
    ///
    /// # Errors
    /// [`BrokerError::PortTaken`] if another process took a port meanwhile, and all that a first start may meet.
    pub fn start_again(&mut self) -> Result<(), BrokerError> {
        if self.process.is_some() {
            return Ok(());
        }
        config::ports_are_free(&self.ports)?;
        self.log_from = std::fs::metadata(self.log_path()).map_or(0, |log| log.len());
        let properties = self.root.join("server.properties");
        let text = config::server_properties(
            &self.root.join("data"),
            &self.ports,
            &self.extra_listeners,
            &self.properties,
        );
        std::fs::write(&properties, text).map_err(io_error(format!("write {}", properties.display())))?;
        let owned = self.temporary.as_ref().map(|folder| folder.path());
        let launch = |main: &[&str]| {
            let classes = self.jars.join("*");
            let before = self.jvm.iter().map(OsStr::new).chain([OsStr::new("-cp"), classes.as_os_str()]);
            let arguments = before.chain(main.iter().map(OsStr::new)).chain([properties.as_os_str()]);
            Dependent::launch(&self.java, arguments, &self.log_path(), owned).map_err(io_error("start java"))
        };
        if !self.root.join("data/meta.properties").exists() {
            let cluster = config::random_cluster_id();
            let status = launch(&["kafka.tools.StorageTool", "format", "-t", &cluster, "-c"])?
                .wait()
                .map_err(io_error("wait for java"))?;
            if !status.success() {
                return Err(self.died(status.to_string()));
            }
        }
        let mut java = launch(&["kafka.Kafka"])?;
        self.await_ready(&mut java)?;
        self.process = Some(java);
        Ok(())
    }

    /// Ends the broker in order and removes its folder if it is temporary. Blocks until both are done.
    ///
    /// # Errors
    /// [`BrokerError::Io`] if the process can not be signalled or the folder not be removed.
    pub fn stop(mut self) -> Result<(), BrokerError> {
        self.shut_down()?;
        match self.temporary.take() {
            Some(folder) => folder.close().map_err(io_error("remove the broker's temporary folder")),
            None => Ok(()),
        }
    }

    fn choose_ports(&mut self) -> Result<(), BrokerError> {
        self.ports = config::Ports::choose(self.fixed_port, self.extra_listeners.len())?;
        self.bootstrap = format!("127.0.0.1:{}", self.ports.clients);
        Ok(())
    }

    /// Ready means: the node lists itself in its metadata, which KRaft does only once it is registered, caught up
    /// and unfenced; then topics can be made. An open port, or a log line, comes earlier.
    fn await_ready(&self, java: &mut Dependent) -> Result<(), BrokerError> {
        let begun = Instant::now();
        let mut client: Option<BaseConsumer> = None;
        while begun.elapsed() < START_LIMIT {
            if let Some(status) = java.ended().map_err(io_error("ask for java's status"))? {
                return Err(self.died(status.to_string()));
            }
            // A client from the first moment on would log each refused connection.
            if client.is_none() && TcpStream::connect(&self.bootstrap).is_ok() {
                client = ClientConfig::new()
                    .set("bootstrap.servers", &self.bootstrap)
                    .set_log_level(RDKafkaLogLevel::Emerg)
                    .create()
                    .ok();
            }
            let metadata = client.as_ref().map(|c| c.fetch_metadata(None, Duration::from_secs(2)));
            if let Some(Ok(metadata)) = metadata
                && !metadata.brokers().is_empty()
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(BrokerError::NotReady { after_s: START_LIMIT.as_secs(), log: self.log_path() })
    }

    fn died(&self, status: String) -> BrokerError {
        let log = self.log_path();
        BrokerError::Died { status, last_lines: last_lines(&log, self.log_from), log }
    }

    fn keep_log(&mut self) {
        if let Some(mut folder) = self.temporary.take() {
            folder.disable_cleanup(true);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::warn!(%error, "the embedded broker was not stopped in order");
        }
    }
}
