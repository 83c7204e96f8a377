//! How long to wait after a call that failed. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);

/// A pause between nothing and what `failures` in a row allow: twice as much after each, up to `longest`. `random` is any
/// number; the whole span is drawn from, so that many that failed together do not come back together.
pub(crate) fn pause(failures: u32, longest: Duration, random: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(30));
    let span = u64::try_from(doubled.min(longest).as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % span.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_drawn_from_spans_that_double_up_to_the_longest() {
        let longest = Duration::from_secs(300);
        for (failures, span) in
            [(1, 1_000), (2, 2_000), (3, 4_000), (9, 256_000), (10, 300_000), (u32::MAX, 300_000)]
        {
            let drawn: Vec<_> = (0..=span).map(|n| pause(failures, longest, n).as_millis() as u64).collect();
            assert!(drawn.iter().copied().eq(0..=span), "{failures}");
            assert_eq!(pause(failures, longest, span + 1), Duration::ZERO, "{failures}");
        }
        assert!(pause(1, Duration::ZERO, u64::MAX).is_zero());
    }
}
