//! The end of a process, asked for by a signal or by hand: one token that tasks await and plain threads look at.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::exit::{EXIT_IMPATIENT, Fatal};

/// A token that is tripped once and stays so. Clones are the same token.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Beside the channel, so that a poll loop looks at it without taking a lock.
    tripped: AtomicBool,
    told: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token that only [`Shutdown::trip`] trips.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner { tripped: AtomicBool::new(false), told: watch::Sender::new(false) }))
    }

    /// A token that SIGTERM or SIGINT trips. A second signal ends the process at once, with code 130. To be called
    /// once per process, inside a tokio runtime.
    ///
    /// # Errors
    /// The system does not let a signal be handled.
    pub fn on_signals() -> Result<Self, Fatal> {
        let unhandled = |e: std::io::Error| Fatal::failure(format_args!("signals can not be handled: {e}"));
        let mut term = signal(SignalKind::terminate()).map_err(unhandled)?;
        let mut int = signal(SignalKind::interrupt()).map_err(unhandled)?;
        let token = Self::new();
        let ours = token.clone();
        tokio::spawn(async move {
            // Counted here and not by the token: whoever tripped it by hand may still be told once by a supervisor.
            let mut asked = false;
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                };
                if asked {
                    tracing::warn!(signal = name, "stopped at once");
                    process::exit(EXIT_IMPATIENT);
                }
                tracing::info!(signal = name, "stopping; a second signal stops at once");
                asked = true;
                ours.trip();
            }
        });
        Ok(token)
    }

    /// Trips the token. Repeats do nothing.
    pub fn trip(&self) {
        self.0.tripped.store(true, Ordering::Release);
        self.0.told.send_replace(true);
    }

    /// Whether the token is tripped: one atomic load.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.0.tripped.load(Ordering::Acquire)
    }

    /// Waits until the token is tripped; at once if it is. May be dropped at any point.
    pub async fn wait(&self) {
        // It fails only without a sender, and `self` holds it.
        let _ = self.0.told.subscribe().wait_for(|tripped| *tripped).await;
    }
}
