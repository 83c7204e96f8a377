//! Where the nodes live: each in a network of its own, with a cable to a switch that this machine is plugged into, too.
//!
//! Namespaces have no names here. Each is held by a process that sleeps and dies with us, and with the last process in it
//! a namespace goes, its cables and mounts with it: there is nothing to be swept, however a test ends.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use keyferry_runtime::dependent::Dependent;

/// How long the kernel may take for a namespace.
const PATIENCE: Duration = Duration::from_secs(10);
/// Cables of this machine, counted: two clusters of one process need two.
static CABLES: AtomicU32 = AtomicU32::new(0);

/// Why namespaces or mounts can not be made here; `None` if they can.
#[must_use]
pub fn why_not() -> Option<String> {
    let tried = "mount -t tmpfs none /mnt && ip link add kf-try type bridge && ip link del kf-try";
    let output = Command::new("unshare").args(["--net", "--mount", "sh", "-c", tried]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

/// A network and mounts of their own.
pub struct Place {
    // Holds them, by sleeping in them.
    holder: Dependent,
}

impl Place {
    /// `temporary` is removed if this process dies.
    pub(super) fn make(log: &Path, temporary: Option<&Path>) -> Result<Self> {
        let arguments = ["--net", "--mount", "sleep", "infinity"];
        let holder = Dependent::launch(Path::new("unshare"), arguments, log, temporary)?;
        let place = Self { holder };
        let ours = fs::read_link("/proc/self/ns/mnt")?;
        let begun = Instant::now();
        // It is made on the way from the shell to `sleep`.
        while fs::read_link(place.file("ns/mnt")).map_or(true, |theirs| theirs == ours) {
            ensure!(begun.elapsed() < PATIENCE, "no namespaces; see {}", log.display());
            thread::sleep(Duration::from_millis(5));
        }
        place.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(place)
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.holder.pid())
    }

    /// The command that starts another one in here, and becomes it.
    pub(super) fn within(&self) -> Vec<String> {
        let (net, mnt) = (self.file("ns/net"), self.file("ns/mnt"));
        vec!["nsenter".into(), format!("--net={net}"), format!("--mount={mnt}")]
    }

    /// Runs a command in here.
    pub(super) fn run(&self, command: &[&str]) -> Result<String> {
        let within = self.within();
        run(&within.iter().map(String::as_str).chain(command.iter().copied()).collect::<Vec<_>>())
    }

    /// Mounts a disk of this size on a folder, which only those in here see.
    pub(super) fn mount(&self, folder: &Path, bytes: u64) -> Result<()> {
        let folder = folder.display().to_string();
        self.run(&["mount", "-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", &folder]).map(drop)
    }

    /// Bytes in use on the disk mounted at a folder.
    pub(super) fn used(&self, folder: &Path) -> Result<u64> {
        let answer = self.run(&["df", "--output=used", "-B1", &folder.display().to_string()])?;
        answer.lines().last().context("df says nothing")?.trim().parse().context("df")
    }

    /// Changes the size of the disk mounted at a folder.
    pub(super) fn resize(&self, folder: &Path, bytes: u64) -> Result<()> {
        let folder = folder.display().to_string();
        self.run(&["mount", "-o", &format!("remount,size={bytes}"), &folder]).map(drop)
    }
}

/// The switch that all are plugged into.
pub struct Switch {
    place: Place,
    net: u8,
}

impl Switch {
    /// Plugs this machine in as 198.18.NET.254, of a range that is for benchmarks and nowhere in use.
    pub(super) fn make(log: &Path, temporary: &Path) -> Result<Self> {
        let taken = run(&["ip", "-4", "-o", "addr"])?;
        let count = CABLES.fetch_add(1, Ordering::Relaxed);
        let first = std::process::id().wrapping_add(count << 7);
        let free = (0..=255_u8).map(|n| n.wrapping_add(first.to_le_bytes()[0]));
        let net =
            free.into_iter().find(|net| !taken.contains(&format!("198.18.{net}."))).context("no net")?;
        let place = Place::make(log, Some(temporary))?;
        place.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
        place.run(&["ip", "link", "set", "br0", "up"])?;
        let cable = format!("kf{}n{count}", std::process::id());
        let holder = place.holder.pid().to_string();
        run(&["ip", "link", "add", &cable, "type", "veth", "peer", "name", "us", "netns", &holder])?;
        run(&["ip", "addr", "add", &format!("198.18.{net}.254/24"), "dev", &cable])?;
        run(&["ip", "link", "set", &cable, "up"])?;
        place.run(&["ip", "link", "set", "us", "master", "br0", "up"])?;
        Ok(Self { place, net })
    }

    pub(super) fn address(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.net, node)
    }

    /// Plugs a place in.
    pub(super) fn plug_in(&self, node: u8, place: &Place) -> Result<()> {
        let (end, holder) = (format!("n{node}"), place.holder.pid().to_string());
        self.place
            .run(&["ip", "link", "add", &end, "type", "veth", "peer", "name", "eth0", "netns", &holder])?;
        self.place.run(&["ip", "link", "set", &end, "master", "br0", "up"])?;
        place.run(&["ip", "addr", "add", &format!("{}/24", self.address(node)), "dev", "eth0"])?;
        place.run(&["ip", "link", "set", "eth0", "up"]).map(drop)
    }

    /// Pulls the cable of a node, or plugs it in again.
    pub(super) fn cable(&self, node: u8, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        self.place.run(&["ip", "link", "set", &format!("n{node}"), state]).map(drop)
    }
}

/// Runs a command and returns what it says.
fn run(command: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = command else { return Err(io::Error::other("no command").into()) };
    let output = Command::new(program).args(arguments).output().with_context(|| command.join(" "))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", command.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
