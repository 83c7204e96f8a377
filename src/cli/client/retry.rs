//! When a request is sent again. Pure.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use keyferry_schemas::time::Millis;
use reqwest::StatusCode;

/// A hub that asks for more than this is not waited for: a scheduler does that better.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How often, and after which time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Attempts after the first.
    pub(super) retries: u32,
    /// Before the second attempt; doubled each time.
    pub(super) first: Duration,
    /// Between any two, unless the hub asks for more.
    pub(super) longest: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { retries: 8, first: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }
}

impl Policy {
    /// How long to wait after so many attempts; `None` if it is enough. What the hub asks for is obeyed.
    pub(super) fn wait(&self, attempts: u32, asked: Option<Duration>) -> Option<Duration> {
        if attempts > self.retries || asked.is_some_and(|asked| asked > LONGEST_ASKED) {
            return None;
        }
        let doubled = self.first.saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1)));
        Some(asked.map_or(doubled.min(self.longest), |asked| asked.max(self.first)))
    }
}

/// Whether the same request may be answered otherwise a little later: the hub says so, or what stands before it does.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(text: &str, now: Millis) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(Duration::from_millis(u64::try_from(Millis::from(date).since(now)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn waits_double_and_end() {
        let policy = Policy { retries: 6, ..Policy::default() };
        let waits: Vec<_> = (1..=7).map(|n| policy.wait(n, None)).collect();
        assert_eq!(waits, [Some(S(1)), Some(S(2)), Some(S(4)), Some(S(8)), Some(S(16)), Some(S(30)), None]);
        assert_eq!(Policy { retries: 1000, ..policy }.wait(1000, None), Some(S(30)));
        assert_eq!(Policy { retries: 0, ..policy }.wait(1, Some(S(1))), None);
    }

    #[test]
    fn the_hub_is_obeyed_within_reason() {
        let policy = Policy::default();
        assert_eq!(policy.wait(1, Some(S(120))), Some(S(120)));
        assert_eq!(policy.wait(8, Some(S(5))), Some(S(5)), "and not what it has grown to");
        assert_eq!(policy.wait(1, Some(S(0))), Some(S(1)));
        assert_eq!(policy.wait(1, Some(S(301))), None);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = Millis(1_445_412_470_000);
        assert_eq!(retry_after(" 5 ", now), Some(S(5)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(S(10)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:27:00 GMT", now), Some(S(0)));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
    }
}
