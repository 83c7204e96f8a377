//! Roles in processes of their own, to be stopped, woken and killed: `bin/lone-*.rs`.

use std::process::{Child, Command};

use anyhow::{Result, ensure};

use crate::hub::Hub;

impl Hub {
    /// Starts a processor in a process of its own, see `bin/lone-processor.rs`.
    ///
    /// # Errors
    /// It can not be started.
    pub fn lone_processor(&self, program: &str, instance: &str, arguments: &[&str]) -> Result<Lone> {
        self.lone(program, instance, arguments)
    }

    /// Starts `program BOOTSTRAP NAME FOLDER [ARGUMENT]...` with what roles need in its folder.
    pub(crate) fn lone(&self, program: &str, name: &str, arguments: &[&str]) -> Result<Lone> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("anchor.pem"), self.world.anchor.certificate_pem()?)?;
        std::fs::write(folder.path().join("hub.key"), hex::encode(self.world.hub_key.to_bytes()))?;
        let child = Command::new(program)
            .args([self.broker.bootstrap_servers(), name])
            .arg(folder.path())
            .args(arguments)
            .spawn()?;
        Ok(Lone { child, folder })
    }
}

/// A role in a process of its own; killed when dropped.
pub struct Lone {
    child: Child,
    pub(crate) folder: tempfile::TempDir,
}

impl Lone {
    /// Whether it has reached the point at which it was told to stop.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.folder.path().join("stopped").exists()
    }

    /// From now on it stops at its point.
    ///
    /// # Errors
    /// Its folder is gone.
    pub fn arm(&self) -> Result<()> {
        Ok(std::fs::write(self.folder.path().join("armed"), "")?)
    }

    /// Sends it a signal, by the name that `kill` knows.
    ///
    /// # Errors
    /// `kill` fails.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "kill -s {name}: {status}");
        Ok(())
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
