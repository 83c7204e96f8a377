//! Waiting for what has to come about.

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// It does not within a minute.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(60), condition);
}

/// The same, with another limit.
///
/// # Panics
/// It does not within the limit.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < give_up, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}
