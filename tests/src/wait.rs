//! Waiting for what has to come about.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use keyferry_runtime::clients::serve;
use rdkafka::producer::{BaseProducer, Producer as _};

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

/// Waits until all records of a producer are acknowledged; `flush` would look only every 100 ms.
///
/// # Errors
/// They are not within the limit.
pub fn delivered(producer: &BaseProducer, limit: Duration) -> Result<()> {
    let give_up = Instant::now() + limit;
    while producer.in_flight_count() > 0 {
        ensure!(Instant::now() < give_up, "{} records are not acknowledged", producer.in_flight_count());
        serve(producer, Duration::from_micros(500));
    }
    Ok(())
}
