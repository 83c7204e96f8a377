//! The program in a role, in a process of its own, with the page of its admin port.
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use keyferry_runtime::{
    broker::free_ports,
    dependent::{Dependent, last_lines},
};
use reqwest::StatusCode;
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::{
    hub::Hub,
    operator::{configuration, write},
    program,
    wait::wait_until,
};

/// The program in a role; it dies with us.
pub struct Role {
    process: Dependent,
    admin: String,
    /// What it logs.
    pub log: PathBuf,
}

impl Role {
    /// Starts `keyferry NAME`, with what [`crate::operator::prepare`] left in the folder. Where it listens is part of its
    /// configuration.
    ///
    /// # Panics
    /// It can not be started.
    #[must_use]
    pub fn start(name: &str, folder: &Path, hub: &Hub, listen: &str) -> Self {
        Self::start_with(name, folder, hub, listen, |text| text)
    }

    /// The same with its configuration as `adapt` makes it.
    ///
    /// # Panics
    /// It can not be started.
    #[must_use]
    pub fn start_with(
        name: &str,
        folder: &Path,
        hub: &Hub,
        listen: &str,
        adapt: impl FnOnce(String) -> String,
    ) -> Self {
        let [admin] = free_ports().unwrap().map(|port| format!("127.0.0.1:{port}"));
        let text = configuration(&folder.display().to_string(), hub.broker.bootstrap_servers(), "anchor");
        let text = text.replace("127.0.0.1:0", listen).replace("filter: 'off'", "filter: info");
        // A shared machine may be slow; what a wait that is too short leads to is not asked here.
        let text = text.replace("gateway: {}", "gateway: {decision_wait_ms: 15000}");
        let text = adapt(text);
        write(folder, &format!("{name}.yaml"), format!("{text}admin: {{listen: '{admin}'}}\n"));
        let (config, log) = (folder.join(format!("{name}.yaml")), folder.join(format!("{name}.log")));
        let arguments = [name.as_ref(), "--config".as_ref(), config.as_os_str()];
        let process = Dependent::launch(&program::path().unwrap(), arguments, &log, None).unwrap();
        Self { process, admin, log }
    }

    /// A page of its admin port, if it answers.
    ///
    /// # Panics
    /// No client can be made.
    #[must_use]
    pub fn page(&self, runtime: &Runtime, page: &str) -> Option<(StatusCode, String)> {
        // It was installed already, perhaps.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = client.get(format!("http://{}/{page}", self.admin)).send().await.ok()?;
            Some((answer.status(), answer.text().await.ok()?))
        })
    }

    /// Where its admin port is.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// It ends instead, or is not ready within a minute.
    pub fn wait_until_ready(&mut self, runtime: &Runtime) {
        let what = format!("a ready role ({})", self.admin);
        wait_until(&what, || {
            let ended = self.process.ended().unwrap();
            assert_eq!(ended, None, "it ended: {}", last_lines(&self.log, 0));
            self.page(runtime, "readyz").is_some_and(|(status, _)| status == StatusCode::OK)
        });
    }

    /// The lines of its log that hold this text.
    ///
    /// # Panics
    /// There is no log.
    #[must_use]
    pub fn says(&self, text: &str) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(text)).map(ToOwned::to_owned).collect()
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// It is gone already.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end within 90 s.
    pub fn ended(&mut self) -> ExitStatus {
        let give_up = Instant::now() + Duration::from_secs(90);
        loop {
            if let Some(status) = self.process.ended().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up, "it does not end: {}", last_lines(&self.log, 0));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An address that is free at the moment.
///
/// # Panics
/// There is none.
#[must_use]
pub fn address() -> String {
    let [port] = free_ports().unwrap();
    format!("127.0.0.1:{port}")
}
