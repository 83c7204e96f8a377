//! How to wait for what may be slow, and is alive all the same.

use std::{pin::pin, time::Duration};

use keyferry_runtime::health::Beat;

/// Each request to a store ends by itself, long before this; beyond it something hangs.
const LONGEST_S: u32 = 120;

/// Waits for `work`, and says meanwhile that whoever waits is alive: a store that is slow or away is no reason to
/// restart a process that can serve what is there.
pub(crate) async fn patiently<T>(beat: &Beat, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    for _ in 0..LONGEST_S {
        match tokio::time::timeout(Duration::from_secs(1), &mut work).await {
            Ok(done) => return done,
            Err(_) => beat.idle(),
        }
    }
    work.await
}

#[cfg(test)]
mod tests {
    use keyferry_runtime::health::Health;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_alive() {
        let health = Health::new("distribute");
        let beat = health.component("worker", Duration::from_secs(60));
        let slow = tokio::time::sleep(Duration::from_millis(2300));
        patiently(&beat, slow).await;
        assert!(health.silences()[0].1 < Duration::from_secs(1));
    }
}
