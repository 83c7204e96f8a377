//! Processors of a hub, in threads of the test.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Result, bail};
use ed25519_dalek::SigningKey;
use keyferry_processors::{
    fingerprint::{Secret, Secrets},
    pipeline::Tools,
    role::Pipeline,
    sign::Signer,
};
use keyferry_runtime::{
    clock::SystemClock,
    codec::Codec,
    health::Health,
    kafka::Kafka,
    network::NetworkFeed,
    shutdown::Shutdown,
    transaction::{Runner, Settings},
};
use keyferry_schemas::world::HUB_KEY;

use crate::hub::{Hub, clients};

/// A processor in a thread; stopped when dropped.
pub struct Processor {
    /// How it says it is.
    pub health: Health,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Processor {
    pub(crate) fn start(runner: Runner<Pipeline>, health: Health) -> Self {
        let shutdown = Shutdown::new();
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || runner.run(&token).map_err(|e| anyhow::anyhow!("{e}")));
        Self { health, shutdown, thread: Some(thread) }
    }

    /// Whether it has ended by itself, which no processor does unless an operator has to help.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops it in good order and returns how it ended.
    ///
    /// # Errors
    /// It had ended with a fault.
    pub fn stop(mut self) -> Result<()> {
        self.shutdown.trip();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => bail!("the processor panicked"),
        }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.shutdown.trip();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Hub {
    /// Starts a processor in a thread.
    ///
    /// # Errors
    /// The network document can not be read.
    pub fn processor(&self, instance: &str) -> Result<Processor> {
        self.processor_with(Settings::new(instance), &[])
    }

    /// The same, with these limits and options of its Kafka clients.
    ///
    /// # Errors
    /// The network document can not be read.
    pub fn processor_with(&self, settings: Settings, options: &[(&str, &str)]) -> Result<Processor> {
        self.processor_following(self.network()?, settings, options)
    }

    /// The same, with a document that is followed already.
    ///
    /// # Errors
    /// A metric is defined twice.
    pub fn processor_following(
        &self,
        network: NetworkFeed,
        settings: Settings,
        options: &[(&str, &str)],
    ) -> Result<Processor> {
        let tools = self.tools(&settings.transactional_id);
        let kafka = clients(self.broker.bootstrap_servers(), options, "process");
        let health = Health::new("process");
        let runner = runner(kafka, self.codec.clone(), network, tools, settings, &health)?;
        Ok(Processor::start(runner, health))
    }

    /// What a processor of this hub holds.
    #[must_use]
    pub fn tools(&self, instance: &str) -> Tools {
        tools(instance, &self.world.hub_key.to_bytes())
    }
}

/// What a processor holds.
#[must_use]
pub fn tools(instance: &str, hub_key: &[u8; 32]) -> Tools {
    Tools {
        secrets: Secrets { current: Secret::new("s1", &[7; 32]), previous: None },
        signers: vec![Signer::new(HUB_KEY.into(), SigningKey::from_bytes(hub_key))],
        writer: instance.into(),
    }
}

/// A processor that is ready to run.
///
/// # Errors
/// A metric is defined twice.
pub fn runner(
    kafka: Kafka,
    codec: Codec,
    network: NetworkFeed,
    tools: Tools,
    settings: Settings,
    health: &Health,
) -> Result<Runner<Pipeline>> {
    let beat = health.component("transactions", Duration::from_secs(60));
    let application = Arc::new(Pipeline::new(tools, codec.clone())?);
    Ok(Runner { application, kafka, codec, network, settings, clock: Arc::new(SystemClock), beat })
}
