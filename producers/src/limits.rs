//! How much a member may send at a time, so that none can keep the others out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use keyferry_runtime::http::{Code, Problem};
use keyferry_schemas::country::Country;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::GatewayConfig;

const MINUTE: Duration = Duration::from_secs(60);

/// The limits of a gateway, and how far they are used.
pub(crate) struct Limits {
    all: Arc<Semaphore>,
    per_member: usize,
    interval: Duration,
    members: Mutex<HashMap<Country, Used>>,
}

struct Used {
    slots: Arc<Semaphore>,
    /// When all uploads so far would have come at an even pace.
    due: Instant,
}

/// Leave to take one upload, until it is dropped.
pub(crate) struct Ticket {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Limits {
    pub(crate) fn new(config: &GatewayConfig) -> Self {
        Self {
            all: Arc::new(Semaphore::new(config.max_concurrent_uploads)),
            per_member: config.max_concurrent_uploads_per_member,
            interval: MINUTE / config.uploads_per_minute_per_member.max(1),
            members: Mutex::default(),
        }
    }

    /// Lets in one upload of `country`. `now` is no time of day: a clock that is set back must keep nobody out.
    ///
    /// # Errors
    /// 429 beyond the member's own limits, 503 beyond those of all; each with the time after which to come again.
    pub(crate) fn enter(&self, country: Country, now: Instant) -> Result<Ticket, Problem> {
        // Nothing in here leaves the map half changed.
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let used = members
            .entry(country)
            .or_insert_with(|| Used { slots: Arc::new(Semaphore::new(self.per_member)), due: now });
        let own = Arc::clone(&used.slots).try_acquire_owned().map_err(|_| {
            let detail = format!(
                "{} uploads of {country} are under way, as many as may be at a time",
                self.per_member
            );
            Problem::new(Code::TooManyUploads, detail).retry_after(1)
        })?;
        let all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| {
            let detail = "as many uploads are under way as this gateway takes; nothing was accepted";
            Problem::new(Code::GatewayBusy, detail).retry_after(2)
        })?;
        used.due = paced(used.due, now, self.interval).map_err(|wait_s| {
            let detail = format!("{country} sends more uploads per minute than may be");
            Problem::new(Code::TooManyUploads, detail).retry_after(wait_s)
        })?;
        Ok(Ticket { _all: all, _own: own })
    }
}

/// One more at an even pace of one per `interval_ms`, a minute's worth of which may come at once: the new due time, or
/// the seconds to wait.
fn paced(due: Instant, now: Instant, interval: Duration) -> Result<Instant, u32> {
    let next = due.max(now) + interval;
    match next.duration_since(now).checked_sub(MINUTE) {
        Some(over) if over > Duration::ZERO => {
            Err(u32::try_from(over.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
        }
        _ => Ok(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn country(code: &str) -> Country {
        code.parse().unwrap()
    }

    #[test]
    fn a_minutes_worth_at_once_then_an_even_pace() {
        let config = GatewayConfig { uploads_per_minute_per_member: 3, ..GatewayConfig::default() };
        let limits = Limits::new(&config);
        let start = Instant::now();
        let enter = |at_ms| limits.enter(country("DE"), start + Duration::from_millis(at_ms)).map(drop);
        (0..3).for_each(|_| enter(0).unwrap());
        assert_eq!(enter(0).unwrap_err().status(), 429);
        enter(20_000).unwrap();
        assert!(enter(20_000).is_err());
        assert!(limits.enter(country("FR"), start).is_ok(), "another member has its own pace");
        (0..3).for_each(|_| enter(200_000).unwrap());
    }

    #[test]
    fn slots_come_back() {
        let config = GatewayConfig {
            max_concurrent_uploads: 3,
            max_concurrent_uploads_per_member: 2,
            ..GatewayConfig::default()
        };
        let limits = Limits::new(&config);
        let enter = |code| limits.enter(country(code), Instant::now());
        let held = [enter("DE").unwrap(), enter("DE").unwrap(), enter("FR").unwrap()];
        assert_eq!(enter("DE").err().unwrap().code(), "too-many-uploads");
        assert_eq!(enter("FR").err().unwrap().code(), "gateway-busy");
        drop(held);
        assert!(enter("DE").is_ok());
    }
}
