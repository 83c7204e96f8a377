//! A place for a process: started, stopped at named points, killed, woken and started again.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use keyferry_runtime::dependent::{Dependent, last_lines};
use rustix::process::Signal;

use super::stage::{PATIENCE, Role};
use crate::front::Door;

/// A place for a process: it comes and goes, its name and address stay.
pub struct Slot {
    /// Its role.
    pub role: Role,
    /// Its name; of processors also the transactional id.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) door: Door,
    /// Whether clients are told to send nothing here any more.
    pub resting: Arc<AtomicBool>,
    pub(super) folder: PathBuf,
    pub(super) process: Option<Dependent>,
    pub(super) frozen: bool,
}

impl Slot {
    /// Whether something runs here.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn forget(&mut self) {
        self.frozen = false;
        for name in ["armed", "stopped"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
    }

    pub(super) fn alive(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(status) = process.ended()? {
            let log = self.folder.join("log");
            bail!("{} ended by itself, {status}: {} ({})", self.name, last_lines(&log, 0), log.display());
        }
        Ok(())
    }

    pub(super) fn is_ready(&self) -> bool {
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
        process.signal(signal)?;
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
        process.signal(Signal::TERM)?;
        // One that stood at a point has to go on to hear of it.
        let _ = process.signal(Signal::CONT);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = process.ended()? {
                ensure!(status.success(), "{} ended with {status} after SIGTERM", self.name);
                return Ok(());
            }
            // As a load balancer does, which asks all the time.
            if !self.is_ready() {
                self.resting.store(true, SeqCst);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not end after SIGTERM; its log is in {}", self.name, self.folder.display())
    }
}
