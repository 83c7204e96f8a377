//! Waiting for what has to come about.

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// It does not within a minute.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < give_up, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}
