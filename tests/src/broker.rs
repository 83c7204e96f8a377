//! One broker for all tests of a process, or of a whole run; and what a hub stands on.

use std::{path::Path, sync::OnceLock};

use anyhow::{Context as _, Result, anyhow};
use keyferry_runtime::broker::Broker;

/// Names a running broker (`host:port`) that tests use instead of starting their own. `with-broker` sets it.
pub const BOOTSTRAP: &str = "KEYFERRY_TEST_BOOTSTRAP";

/// The address of the broker that the tests share, for `bootstrap.servers`: the one named by [`BOOTSTRAP`], else one
/// of this process, started at the first call. It is shared: take random names for topics and groups, and start an
/// own [`Broker`] for a test that kills it. The first call blocks for some seconds.
///
/// # Errors
/// When the broker can not be started, at every call the same.
pub fn shared_broker() -> anyhow::Result<&'static str> {
    // A static is never dropped. The broker ends with this process all the same: its watchdog sees to that.
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    static NAMED: OnceLock<Option<String>> = OnceLock::new();

    if let Some(named) = NAMED.get_or_init(|| std::env::var(BOOTSTRAP).ok()) {
        return Ok(named);
    }
    match BROKER.get_or_init(|| Broker::builder().start().map_err(|error| error.to_string())) {
        Ok(broker) => Ok(broker.bootstrap_servers()),
        Err(error) => Err(anyhow!("{error}")),
    }
}

/// What a hub stands on: a broker of its own, or brokers that others start and stop.
pub struct Brokers {
    bootstrap: String,
    own: Option<Broker>,
}

impl Brokers {
    /// Brokers that others start and stop.
    #[must_use]
    pub fn of_others(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), own: None }
    }

    /// For `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// The folder of the hub's own broker.
    ///
    /// # Errors
    /// It has none.
    pub fn folder(&self) -> Result<&Path> {
        Ok(self.own.as_ref().context("the brokers are not this hub's")?.folder())
    }

    /// The process id of the hub's own broker while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref().and_then(Broker::pid)
    }

    /// [`Broker::kill`] of the hub's own.
    ///
    /// # Errors
    /// It has none, or it can not be signalled.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.own.as_mut().context("the brokers are not this hub's")?.kill()?)
    }

    /// [`Broker::start_again`] of the hub's own.
    ///
    /// # Errors
    /// It has none, or it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        Ok(self.own.as_mut().context("the brokers are not this hub's")?.start_again()?)
    }
}

impl From<Broker> for Brokers {
    fn from(own: Broker) -> Self {
        Self { bootstrap: own.bootstrap_servers().to_owned(), own: Some(own) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_and_is_the_same_each_time() {
        let first = shared_broker().unwrap();
        assert!(std::net::TcpStream::connect(first).is_ok());
        assert_eq!(first, shared_broker().unwrap());
    }
}
