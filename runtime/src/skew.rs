//! The broker's clock, as its acknowledgements tell it, and how far ours is from it.
//!
//! The broker refuses a record that is stamped more than an hour ahead of it, and with it the whole transaction; and what
//! is once written with a time that lies in the future holds up whoever goes by it later. So nothing is written that only
//! this machine's clock says. On topics with `LogAppendTime` the broker stamps each record itself, and its acknowledgement
//! says with what.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use keyferry_schemas::time::Millis;
use prometheus::GaugeVec;
use rdkafka::Timestamp;

use crate::{clock::SharedClock, exit::Fatal, metrics};

/// What is further ahead of the broker than this is not written so: it takes an hour at most.
const MOST_AHEAD_MS: i64 = 30 * 60_000;
/// From here on the log says so. An alert goes by the metric.
const NOTABLE_MS: i64 = 60_000;

/// The broker's clock.
pub struct BrokerClock {
    own: SharedClock,
    /// Our clock less the broker's, in milliseconds; 0 until something was heard.
    ahead_ms: AtomicI64,
    gauge: GaugeVec,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    heard: bool,
    notable: bool,
}

impl BrokerClock {
    /// One of which nothing was heard yet: until then it goes by `own`.
    ///
    /// # Errors
    /// The metric is defined twice, which is a fault of the build.
    pub fn register(own: SharedClock) -> Result<Self, Fatal> {
        let help = "How far the clock of this machine is ahead of the broker's, as of the last record that it stamped.";
        let gauge = metrics::float_gauge("keyferry_clock_skew_seconds", help, &[])?;
        gauge.with_label_values::<&str>(&[]);
        Ok(Self { own, ahead_ms: AtomicI64::new(0), gauge, state: Mutex::default() })
    }

    /// A record of ours was acknowledged, `stamped` with this time by the broker; `None` on topics that keep the sender's.
    pub fn hear(&self, stamped: Option<Millis>) {
        // Nothing under this lock leaves it half changed.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.heard = true;
        let Some(Millis(stamped)) = stamped else { return };
        // Both ways, unlike `Millis::since`. That the acknowledgement took a moment makes ours seem ahead by it, and what
        // is written a moment early.
        let ahead = self.own.now().0.saturating_sub(stamped);
        self.ahead_ms.store(ahead, Ordering::Relaxed);
        self.gauge.with_label_values::<&str>(&[]).set(ahead as f64 / 1000.0);
        let notable = ahead.saturating_abs() > NOTABLE_MS;
        if notable && !state.notable {
            let seconds = ahead / 1000;
            tracing::warn!(
                seconds,
                "the clock of this machine is ahead of the broker's (behind, if negative); set it right"
            );
        }
        state.notable = notable;
    }

    /// Whether any acknowledgement has come, so that [`BrokerClock::now`] is the broker's if its topics tell.
    pub fn is_heard(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).heard
    }

    /// The time now.
    pub fn now(&self) -> Millis {
        self.own.now().plus(self.ahead_ms.load(Ordering::Relaxed).saturating_neg())
    }

    /// A timestamp as the broker takes it. Only one that it gave itself, before its clock was set back, is too far ahead;
    /// and what is stamped so would outlive the time by which it has to be erased.
    pub fn acceptable(&self, timestamp: Millis) -> Millis {
        let now = self.now();
        if timestamp > now.plus(MOST_AHEAD_MS) { now } else { timestamp }
    }
}

/// What the broker has stamped a record with, if it did.
pub(crate) fn stamped(timestamp: Timestamp) -> Option<Millis> {
    if let Timestamp::LogAppendTime(millis) = timestamp { Some(Millis(millis)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn clock(own: i64) -> BrokerClock {
        BrokerClock::register(Arc::new(Millis(own))).unwrap()
    }

    #[test]
    fn ours_counts_until_the_broker_was_heard() {
        let clock = clock(10 * HOUR);
        assert_eq!((clock.is_heard(), clock.now()), (false, Millis(10 * HOUR)));
        // A topic that keeps the sender's time.
        clock.hear(stamped(Timestamp::CreateTime(HOUR)));
        assert_eq!((clock.is_heard(), clock.now()), (true, Millis(10 * HOUR)));
        for broker in [8 * HOUR, 12 * HOUR, i64::MAX] {
            clock.hear(stamped(Timestamp::LogAppendTime(broker)));
            assert_eq!(clock.now(), Millis(broker));
        }
    }

    #[test]
    fn what_the_broker_would_refuse_is_stamped_now() {
        let clock = clock(10 * HOUR);
        clock.hear(stamped(Timestamp::LogAppendTime(8 * HOUR)));
        for (timestamp, taken) in
            [(0, 0), (8 * HOUR, 8 * HOUR), (8 * HOUR + 1, 8 * HOUR + 1), (10 * HOUR, 8 * HOUR)]
        {
            assert_eq!(clock.acceptable(Millis(timestamp)), Millis(taken));
        }
    }
}
