//! Roles in processes of their own, to be stopped, woken and killed: `bin/lone-*.rs`.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
};

use anyhow::{Result, ensure};
use keyferry_processors::role::Pipeline;
use keyferry_runtime::{
    codec::Codec,
    health::Health,
    kafka::Kafka,
    network::NetworkFeed,
    transaction::{Runner, Settings},
};
use keyferry_schemas::{certificate::Certificate, world::World};
use tempfile::TempDir;

use crate::{
    hub::Hub,
    processor::{runner, tools},
};

/// A folder with what a role of this world needs.
///
/// # Errors
/// It can not be written.
pub fn folder(world: &World) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("anchor.pem"), world.anchor.certificate_pem()?)?;
    fs::write(folder.path().join("hub.key"), hex::encode(world.hub_key.to_bytes()))?;
    Ok(folder)
}

/// The anchor in such a folder.
///
/// # Errors
/// There is none.
pub fn anchor(folder: &Path) -> Result<Certificate> {
    Ok(Certificate::from_pem(&fs::read_to_string(folder.join("anchor.pem"))?)?)
}

/// A processor of that world, ready to run in this process.
///
/// # Errors
/// Something is missing in the folder, or there is no network document.
pub fn processor(
    kafka: Kafka,
    folder: &Path,
    settings: Settings,
    health: &Health,
) -> Result<Runner<Pipeline>> {
    let mut hub_key = [0; 32];
    hex::decode_to_slice(fs::read_to_string(folder.join("hub.key"))?, &mut hub_key)?;
    let codec = Codec::single_object()?;
    let network = NetworkFeed::start(&kafka, codec.clone(), vec![anchor(folder)?])?;
    let tools = tools(&settings.transactional_id, &hub_key);
    runner(kafka, codec, network, tools, settings, health)
}

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
        let folder = folder(&self.world)?;
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
    pub(crate) folder: TempDir,
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
