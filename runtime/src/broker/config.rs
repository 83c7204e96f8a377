//! What the embedded broker is started with: jars, Java, ports, `server.properties`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::BrokerError;

/// Below the range from which Linux takes the ports of outgoing connections (32768 and up). A client that tries
/// again and again to reach a killed broker on a port of that range can end up connected to itself, and then the
/// broker can not come back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How long a port may stay held for nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The folder of jars that `make setup` fills: `KEYFERRY_KAFKA_JARS`, else `target/kafka/libs` in the current
/// folder or the nearest one above it that has it.
///
/// # Errors
/// [`BrokerError::JarsMissing`] if there is neither.
pub fn default_jars() -> Result<PathBuf, BrokerError> {
    if let Some(folder) = env::var_os("KEYFERRY_KAFKA_JARS") {
        return Ok(folder.into());
    }
    let here = env::current_dir().unwrap_or_default();
    here.ancestors()
        .map(|folder| folder.join("target/kafka/libs"))
        .find(|folder| folder.is_dir())
        .ok_or_else(|| BrokerError::JarsMissing(here.join("target/kafka/libs")))
}

pub(super) fn check_jars(folder: &Path) -> Result<(), BrokerError> {
    let missing = || BrokerError::JarsMissing(folder.to_owned());
    let mut names = folder.read_dir().map_err(|_| missing())?.flatten().map(|entry| entry.file_name());
    let found = names.any(|name| name.to_string_lossy().starts_with("kafka_"));
    found.then_some(()).ok_or_else(missing)
}

pub(super) fn find_java() -> Result<PathBuf, BrokerError> {
    let home = env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    home.into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("java"))
        .find(|java| java.is_file())
        .ok_or(BrokerError::JavaNotFound)
}

/// The ports of one broker on 127.0.0.1.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub clients: u16,
    pub controller: u16,
    pub extra: Vec<u16>,
}

impl Ports {
    pub fn choose(fixed: Option<u16>, extra: usize) -> Result<Self, BrokerError> {
        // All stay bound until all are chosen, so that no two are the same.
        let mut held = Vec::new();
        let clients = match fixed {
            Some(port) => {
                held.push(bind(port).ok_or(BrokerError::PortTaken(port))?);
                port
            }
            None => free_port(&mut held)?,
        };
        let controller = free_port(&mut held)?;
        let extra = (0..extra).map(|_| free_port(&mut held)).collect::<Result<_, _>>()?;
        Ok(Self { clients, controller, extra })
    }

    fn all(&self) -> impl Iterator<Item = u16> {
        [self.clients, self.controller].into_iter().chain(self.extra.iter().copied())
    }
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

/// Ports on 127.0.0.1 that are free at the moment: none twice, and none that an outgoing connection may be given.
///
/// # Errors
/// [`BrokerError::PortTaken`] if there are not so many.
pub fn free_ports<const N: usize>() -> Result<[u16; N], BrokerError> {
    let (mut held, mut ports) = (Vec::new(), [0; N]);
    for port in &mut ports {
        *port = free_port(&mut held)?;
    }
    Ok(ports)
}

fn free_port(held: &mut Vec<TcpListener>) -> Result<u16, BrokerError> {
    // Starting at random keeps test processes that start together out of each other's way.
    let span = u64::from(PORTS.end - PORTS.start);
    let offset = u16::try_from(random() % span).unwrap_or(0);
    let candidates = (PORTS.start + offset..PORTS.end).chain(PORTS.start..PORTS.start + offset);
    for port in candidates {
        if let Some(listener) = bind(port) {
            held.push(listener);
            return Ok(port);
        }
    }
    Err(BrokerError::PortTaken(PORTS.start))
}

/// Whether the ports are free, now or in a moment. A process that is just being started holds all that its parent had
/// open until it becomes another program: what was let go of in `choose` may still be held by somebody's child.
pub(super) fn ports_are_free(ports: &Ports) -> Result<(), BrokerError> {
    let begun = Instant::now();
    ports.all().try_for_each(|port| {
        while bind(port).is_none() {
            if begun.elapsed() > PATIENCE {
                return Err(BrokerError::PortTaken(port));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
}

/// Random enough to avoid collisions, which is all it is for: the seed of a fresh hash map.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A new id for a cluster: what `StorageTool random-uuid` would print, without the second it takes to start Java. 16
/// bytes in base64url.
#[must_use]
pub fn cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = (u128::from(random()) << 64) | u128::from(random());
    // 21 digits of 6 bits carry 126 bits; the last holds two bits and four of padding, zero. It never starts with
    // "-", which the tool would take for an option.
    let digits = (0..22).map(|place| match place {
        0 => (bits >> 122) & 31,
        21 => (bits & 3) << 4,
        _ => (bits >> (122 - 6 * place)) & 63,
    });
    digits.filter_map(|digit| ALPHABET.get(usize::try_from(digit).ok()?)).map(|&c| char::from(c)).collect()
}

pub(super) fn server_properties(
    data: &Path,
    ports: &Ports,
    extra: &[(String, String)],
    overrides: &BTreeMap<String, String>,
) -> String {
    let mut listeners = format!("CLIENTS://127.0.0.1:{}", ports.clients);
    let mut protocols = "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for ((name, protocol), port) in extra.iter().zip(&ports.extra) {
        let _ = write!(listeners, ",{name}://127.0.0.1:{port}");
        let _ = write!(protocols, ",{name}:{protocol}");
    }
    let own = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("listeners", format!("{listeners},CONTROLLER://127.0.0.1:{}", ports.controller)),
        ("advertised.listeners", listeners.clone()),
        ("listener.security.protocol.map", protocols),
        ("inter.broker.listener.name", "CLIENTS".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        // Voters by configuration and not by `format --standalone`, which writes the controller's port into the
        // data: a kept folder must start on other ports too.
        ("controller.quorum.voters", format!("1@127.0.0.1:{}", ports.controller)),
        ("log.dirs", data.display().to_string()),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("offsets.topic.num.partitions", "4".to_owned()),
        ("transaction.state.log.replication.factor", "1".to_owned()),
        ("transaction.state.log.min.isr", "1".to_owned()),
        ("transaction.state.log.num.partitions", "4".to_owned()),
        ("share.coordinator.state.topic.replication.factor", "1".to_owned()),
        ("share.coordinator.state.topic.min.isr", "1".to_owned()),
        ("share.coordinator.state.topic.num.partitions", "1".to_owned()),
        // Topics are made on purpose, with their settings, or not at all.
        ("auto.create.topics.enable", "false".to_owned()),
        // The limit of `rejects`, 5 MiB, and room for the headers of a batch.
        ("message.max.bytes", (6 * 1024 * 1024).to_string()),
        // Tests lose members on purpose and must not wait long for it to be noticed.
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("group.min.session.timeout.ms", "1000".to_owned()),
    ];
    let mut lines: BTreeMap<&str, &str> = own.iter().map(|(key, value)| (*key, value.as_str())).collect();
    lines.extend(overrides.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    // In a properties file a backslash escapes and a line break ends the value.
    let escape = |value: &str| value.replace('\\', "\\\\").replace('\n', "\\n");
    lines.iter().map(|(key, value)| format!("{key}={}\n", escape(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_22_characters_of_base64url() {
        for _ in 0..1000 {
            let id = cluster_id();
            assert_eq!(id.len(), 22, "{id}");
            assert!(id.ends_with(['A', 'Q', 'g', 'w']) && !id.starts_with('-'), "{id}");
        }
    }

    #[test]
    fn ports_differ_and_stay_below_the_ephemeral_range() {
        let ports = Ports::choose(None, 2).unwrap();
        let mut all: Vec<u16> = ports.all().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn a_port_may_be_held_for_a_moment_and_not_for_long() {
        let mut held = Vec::new();
        let clients = free_port(&mut held).unwrap();
        let ports = Ports { clients, controller: clients, extra: Vec::new() };
        assert!(matches!(ports_are_free(&ports), Err(BrokerError::PortTaken(port)) if port == clients));
        let letting_go = thread::spawn(move || {
            thread::sleep(PATIENCE / 4);
            drop(held);
        });
        ports_are_free(&ports).unwrap();
        letting_go.join().unwrap();
    }

    #[test]
    fn overrides_win_and_extra_listeners_are_mapped() {
        let ports = Ports { clients: 1, controller: 2, extra: vec![3] };
        let extra = [("SECURED".to_owned(), "SASL_PLAINTEXT".to_owned())];
        let overrides = BTreeMap::from([("message.max.bytes".to_owned(), "7".to_owned())]);
        let text = server_properties(Path::new("/d"), &ports, &extra, &overrides);
        assert!(text.contains("message.max.bytes=7\n"));
        assert!(text.contains("SECURED:SASL_PLAINTEXT"));
        assert!(
            text.contains(
                "\nlisteners=CLIENTS://127.0.0.1:1,SECURED://127.0.0.1:3,CONTROLLER://127.0.0.1:2\n"
            )
        );
    }
}
