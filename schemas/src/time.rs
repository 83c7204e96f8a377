//! Times and intervals. All arithmetic on them is here, checked or saturating, with the unit in the name.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};

/// Intervals of ten minutes in one day.
pub const INTERVALS_PER_DAY: u32 = 144;
/// A key may be uploaded until this many days after the midnight on which it became valid.
pub const UPLOAD_WINDOW_DAYS: u32 = 15;
const MILLIS_PER_INTERVAL: i64 = 600_000;
/// Milliseconds in one day.
pub const MILLIS_PER_DAY: i64 = 86_400_000;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z. The record timestamps of Kafka have this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub i64);

impl Millis {
    /// The last midnight UTC at or before this time.
    #[must_use]
    pub fn midnight(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(MILLIS_PER_DAY)))
    }

    /// The number of the UTC day since 1970; days before that are day 0.
    #[must_use]
    pub fn day(self) -> Day {
        Day(u16::try_from(self.0.div_euclid(MILLIS_PER_DAY).max(0)).unwrap_or(u16::MAX))
    }

    /// This time plus `millis`, never past the end of time.
    #[must_use]
    pub fn plus(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time; 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }

    /// The same point in time for calendars and for display; the epoch where the value is outside any calendar.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millisecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl From<Timestamp> for Millis {
    fn from(value: Timestamp) -> Self {
        Self(value.as_millisecond())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.timestamp())
    }
}

/// The number of a UTC day since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Day(pub u16);

impl Day {
    /// The calendar date of this day.
    #[must_use]
    pub fn date(self) -> jiff::civil::Date {
        TimeZone::UTC.to_datetime(Millis(i64::from(self.0) * MILLIS_PER_DAY).timestamp()).date()
    }
}

/// A number of ten-minute intervals since 1970, the clock of exposure notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(pub u32);

impl Interval {
    /// The interval that contains `time`; 0 before 1970.
    #[must_use]
    pub fn at(time: Millis) -> Self {
        Self(u32::try_from(time.0.div_euclid(MILLIS_PER_INTERVAL).max(0)).unwrap_or(u32::MAX))
    }

    /// Whether a key that starts in this interval may be uploaded at `now`: not before midnight UTC fifteen days ago,
    /// not later than the next interval.
    #[must_use]
    pub fn uploadable_at(self, now: Millis) -> bool {
        let oldest = Self::at(now.midnight()).0.saturating_sub(UPLOAD_WINDOW_DAYS * INTERVALS_PER_DAY);
        (oldest..=Self::at(now).0.saturating_add(1)).contains(&self.0)
    }

    /// The last day on which a key that starts in this interval may be uploaded.
    #[must_use]
    pub fn last_upload_day(self) -> Day {
        let day = self.0 / INTERVALS_PER_DAY;
        Day(u16::try_from(day.saturating_add(UPLOAD_WINDOW_DAYS)).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Millis = Millis(1_600_000_000_000 - 1_600_000_000_000 % MILLIS_PER_DAY + MILLIS_PER_DAY / 2);

    #[test]
    fn the_upload_window_ends_where_efgs_ended_it() {
        let midnight = Interval::at(NOON.midnight()).0;
        let oldest = midnight - 15 * 144;
        assert!(Interval(oldest).uploadable_at(NOON));
        assert!(!Interval(oldest - 1).uploadable_at(NOON));
        let now = Interval::at(NOON).0;
        assert!(Interval(now + 1).uploadable_at(NOON));
        assert!(!Interval(now + 2).uploadable_at(NOON));
    }

    #[test]
    fn the_last_upload_day_is_the_last_on_which_it_is_uploadable() {
        let start = Interval::at(NOON);
        let last = Millis(i64::from(start.last_upload_day().0) * MILLIS_PER_DAY);
        assert!(start.uploadable_at(last.plus(MILLIS_PER_DAY - 1)));
        assert!(!start.uploadable_at(last.plus(MILLIS_PER_DAY)));
    }

    #[test]
    fn extremes_do_not_overflow() {
        for t in [i64::MIN, -1, 0, i64::MAX] {
            let _ = (Millis(t).midnight(), Millis(t).day(), Interval::at(Millis(t)), Millis(t).timestamp());
        }
        assert!(!Interval(u32::MAX).uploadable_at(NOON));
    }
}
