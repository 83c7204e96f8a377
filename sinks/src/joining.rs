//! Which uploads are served together in one download batch, and how long they wait for one another. Pure: times are
//! passed in.

use std::time::{Duration, Instant};

use jiff::civil::Date;

use crate::{
    intake::{Accepted, Intake},
    log::{Sealed, filed_on},
    tag::date_of,
};

/// Most uploads in one download batch, however small: their signatures and certificates stand in its log object and its
/// audit, some kilobytes each.
pub(crate) const MAX_UPLOADS: usize = 1000;

/// What bounds a download batch. Where two instances differ in it, the one that logs first decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joining {
    /// Most keys that several uploads may have together.
    pub max_keys: usize,
    /// How long the first upload of a batch waits for others; it waits for none if this is zero.
    pub wait: Duration,
}

/// Batches that are served together.
pub struct Joined<'a> {
    /// At least one, in the order of the topic.
    pub batches: Vec<&'a Accepted>,
    /// The day on which they are filed.
    pub date: Date,
    /// Whether none can be added any more.
    pub closed: bool,
}

impl<'a> Joined<'a> {
    /// What goes into the download batch after `before`: whole batches, of one day, of `max_keys` together unless the
    /// first alone has more. `None` if nothing waits.
    #[must_use]
    pub fn next(intake: &'a Intake, before: Option<&Sealed>, max_keys: usize) -> Option<Self> {
        let pending = intake.pending();
        let first = pending.front()?;
        let date = filed_on(before, first.manifest().created_at);
        let mut keys = first.keys();
        let more = pending.iter().take(MAX_UPLOADS).skip(1).take_while(|next| {
            let together = keys.saturating_add(next.keys());
            let fits = together <= max_keys && date_of(next.manifest().created_at) <= date;
            keys = if fits { together } else { keys };
            fits
        });
        let batches: Vec<_> = std::iter::once(first).chain(more).collect();
        let full = keys >= max_keys || batches.len() >= MAX_UPLOADS;
        let closed = full || batches.len() < pending.len();
        Some(Self { batches, date, closed })
    }
}

/// The wait of the upload that is first in line.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Option<(i64, Instant)>);

impl Waiting {
    /// How much longer the upload at `offset` may wait, whose batch is filed on `day`. A batch has one date: nothing that
    /// comes when the day is over can be joined to it, and who asks for a day that is over is to find all of it.
    pub(crate) fn left(
        &mut self,
        wait: Duration,
        (offset, day): (i64, Date),
        (now, today): (Instant, Date),
    ) -> Duration {
        let since = match self.0 {
            Some((waiting, since)) if waiting == offset => since,
            _ => now,
        };
        self.0 = Some((offset, since));
        if today > day { Duration::ZERO } else { wait.saturating_sub(now.saturating_duration_since(since)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_counts_from_the_first_upload_and_ends_with_its_day() {
        let (begun, wait) = (Instant::now(), Duration::from_millis(100));
        let day: Date = "2020-10-23".parse().unwrap();
        let (eve, morrow) = (day.yesterday().unwrap(), day.tomorrow().unwrap());
        let table = [
            // Offset of the first in line, its day, milliseconds since the beginning, today; what is left.
            (7, day, 0, day, 100),
            (7, day, 60, day, 40),
            (7, day, 100, day, 0),
            (7, day, 250, day, 0),
            // The first one was logged; the next in line begins its own wait.
            (9, day, 250, day, 100),
            (9, day, 260, morrow, 0),
            (9, day, 270, day, 80),
            // A clock that is behind that of the pipeline ends no day.
            (9, day, 280, eve, 70),
        ];
        let mut waiting = Waiting::default();
        for (offset, day, ms, today, left) in table {
            let now = begun + Duration::from_millis(ms);
            let found = waiting.left(wait, (offset, day), (now, today));
            assert_eq!(found, Duration::from_millis(left), "{offset} at {ms}");
        }
        assert_eq!(Waiting::default().left(Duration::ZERO, (1, day), (begun, day)), Duration::ZERO);
    }
}
