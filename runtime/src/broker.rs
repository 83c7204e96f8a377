//! The embedded broker: a private Apache Kafka for the demo and the tests.
//!
//! A real broker, because only a real one shows what a transaction does: it runs from a folder of jars, in KRaft
//! mode, on loopback only. It is a development feature (`embedded-broker`) and absent from the image. One replica
//! proves nothing about durability: for that a broker can be a [`Node`] of several.
//!
//! - [`Broker::builder`]: where the jars are, where data goes, which port, extra properties and listeners.
//! - [`Broker::kill`] and [`Broker::start_again`]: a crash, and the same broker back on the same port and data.
//! - [`Node`]: a broker as one of several, with an address of its own.
//! - `config`: ports, `server.properties`, the folder of jars. The Java process is a [`Dependent`], which dies with us.
//!
//! Whatever happens to the process that started it (return, panic, `SIGKILL`), the broker and its temporary folder
//! go with it, within a second or two.
//!
//! Everything here blocks its thread: in async code use `spawn_blocking`.

mod config;
mod error;
mod node;

use std::{
    collections::BTreeMap,
    ffi::OsString,
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

pub use config::{cluster_id, default_jars, free_ports};
pub use error::BrokerError;
pub use node::Node;

use crate::dependent::{Dependent, last_lines};
use error::io_error;

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

/// What to start. Made by [`Broker::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    jars: Option<PathBuf>,
    data: Option<PathBuf>,
    listener_port: Option<u16>,
    listeners: Vec<(String, String)>,
    properties: BTreeMap<String, String>,
    jvm: Option<Vec<String>>,
    node: Option<Node>,
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

    /// Makes it one of several. Its port and its listeners are those of [`Node`] then.
    #[must_use]
    pub fn node(mut self, node: Node) -> Self {
        self.node = Some(node);
        self
    }

    /// Starts the broker and blocks until it answers a metadata request, 90 s at most. One of several answers once most
    /// of them run: start them at the same time.
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
            properties: self.node.iter().flat_map(Node::properties).chain(self.properties).collect(),
            jvm: self.jvm.unwrap_or_else(|| JVM_FLAGS.map(str::to_owned).to_vec()),
            node: self.node,
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
    node: Option<Node>,
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

    /// `address:port`, plain text, for `bootstrap.servers`. Stays the same over [`Broker::start_again`].
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

    /// Whether Java runs: not after [`Broker::kill`], and not if it has ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|java| matches!(java.ended(), Ok(None)))
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
    /// most. Does nothing while it runs. One that has ended by itself is to be killed first.
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
            let (within, heap) = self.node.as_ref().map_or_else(Default::default, Node::launch);
            let flags = self.jvm.iter().map(OsString::from).chain(heap);
            let mut command = within.into_iter().chain([self.java.clone().into_os_string()]).chain(flags);
            let program = command.next().map(PathBuf::from).unwrap_or_default();
            let arguments = command
                .chain([OsString::from("-cp"), classes.into_os_string()])
                .chain(main.iter().map(OsString::from))
                .chain([properties.clone().into_os_string()]);
            Dependent::launch(&program, arguments, &self.log_path(), owned).map_err(io_error("start java"))
        };
        // What is mounted for a node alone can not be looked into from here: hence the mark.
        let mark = self.root.join("formatted");
        if !self.root.join("data/meta.properties").exists() && !mark.exists() {
            let cluster = self.node.as_ref().map_or_else(cluster_id, |node| node.cluster.clone());
            let status = launch(&["kafka.tools.StorageTool", "format", "-t", &cluster, "-c"])?
                .wait()
                .map_err(io_error("wait for java"))?;
            if !status.success() {
                return Err(self.died(status.to_string()));
            }
            std::fs::write(&mark, cluster).map_err(io_error(format!("write {}", mark.display())))?;
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
        if let Some(node) = &self.node {
            // All ports are free where it lives.
            self.bootstrap = node.bootstrap();
            return Ok(());
        }
        self.ports = config::Ports::choose(self.fixed_port, self.extra_listeners.len())?;
        self.bootstrap = format!("127.0.0.1:{}", self.ports.clients);
        Ok(())
    }

    /// Ready means: the node lists itself in its metadata, which KRaft does only once it is registered, caught up
    /// and unfenced; then topics can be made. An open port, or a log line, comes earlier.
    fn await_ready(&self, java: &mut Dependent) -> Result<(), BrokerError> {
        let (begun, id) = (Instant::now(), self.node.as_ref().map_or(1, |node| node.id));
        // Several start at the same time, and one waits for another.
        let limit = if self.node.is_some() { 2 * START_LIMIT } else { START_LIMIT };
        let mut client: Option<BaseConsumer> = None;
        while begun.elapsed() < limit {
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
                && metadata.brokers().iter().any(|broker| broker.id() == id)
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(BrokerError::NotReady { after_s: limit.as_secs(), log: self.log_path() })
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
