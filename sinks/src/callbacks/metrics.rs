//! What is counted of calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};

use keyferry_runtime::{exit::Fatal, metrics};
use keyferry_schemas::{country::Country, time::Millis};

use super::target::CallbackId;

/// What became of a call, or instead of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    /// It was answered with one of the 200s.
    Acknowledged,
    /// It was not; it is made again.
    Failed,
    /// The keys of the batch were erased before.
    Skipped,
}

impl Called {
    const ALL: [Self; 3] = [Self::Acknowledged, Self::Failed, Self::Skipped];

    fn label(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// The metrics of callbacks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CallbackMetrics {
    calls: IntCounterVec,
    oldest: GaugeVec,
    in_charge: IntGaugeVec,
    waiting: Arc<Mutex<BTreeMap<(Country, CallbackId), Millis>>>,
}

impl CallbackMetrics {
    pub(crate) fn new() -> Result<Self, Fatal> {
        let calls = "Calls to subscribers, by what became of them.";
        let oldest = "Time of the oldest batch for which a subscriber was called and has not acknowledged.";
        let in_charge = "1 while this instance makes a country's calls, 0 while another one does, or none.";
        let of = ["destination"];
        Ok(Self {
            calls: metrics::counter("keyferry_callbacks_total", calls, &["destination", "result"])?,
            oldest: metrics::float_gauge(
                "keyferry_callback_oldest_unacknowledged_timestamp_seconds",
                oldest,
                &of,
            )?,
            in_charge: metrics::gauge("keyferry_callbacks_in_charge", in_charge, &of)?,
            waiting: Arc::default(),
        })
    }

    /// Lets what is counted of a country stand at 0.
    pub(crate) fn expect(&self, destination: Country) {
        for result in Called::ALL {
            self.calls.with_label_values(&[destination.as_str(), result.label()]);
        }
        self.in_charge(destination, false);
    }

    pub(crate) fn forget(&self, destination: Country) {
        // Whether they were there is all the same.
        let _ = self.in_charge.remove_label_values(&[destination.as_str()]);
        for result in Called::ALL {
            let _ = self.calls.remove_label_values(&[destination.as_str(), result.label()]);
        }
    }

    pub(crate) fn in_charge(&self, destination: Country, is: bool) {
        self.in_charge.with_label_values(&[destination.as_str()]).set(is.into());
    }

    pub(crate) fn called(&self, destination: Country, result: Called) {
        self.calls.with_label_values(&[destination.as_str(), result.label()]).inc();
    }

    /// A subscription waits to be acknowledged for a batch of this time, or for none.
    pub(crate) fn waits(&self, destination: Country, id: &CallbackId, batch: Option<Millis>) {
        // Nothing under this lock leaves it half changed.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (destination, id.clone());
        match batch {
            Some(time) => drop(waiting.insert(key, time)),
            None => drop(waiting.remove(&key)),
        }
        let oldest =
            waiting.iter().filter(|((country, _), _)| *country == destination).map(|(_, t)| *t).min();
        match oldest {
            Some(time) => self.oldest.with_label_values(&[destination.as_str()]).set(time.0 as f64 / 1000.0),
            // Absent, not 0: an alert on age would take that for 1970.
            None => drop(self.oldest.remove_label_values(&[destination.as_str()])),
        }
    }
}
