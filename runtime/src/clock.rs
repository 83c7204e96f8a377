//! The one place that reads the wall clock. Everything else is given its time, so that tests can choose it.

use std::sync::Arc;

use keyferry_schemas::time::Millis;

/// Where a role takes its time from. Decisions of the pipeline never do: they use the broker's timestamps.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Millis;
}

/// A clock that can be shared.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
    fn now(&self) -> Millis {
        jiff::Timestamp::now().into()
    }
}

/// A clock that stands where it was put.
impl Clock for Millis {
    fn now(&self) -> Millis {
        *self
    }
}
