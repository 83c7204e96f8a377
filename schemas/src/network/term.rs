//! From when until when a registration counts, and where it stands at a time. Pure: dates in, state out.

use serde::Serialize;

use crate::time::{MILLIS_PER_DAY, Millis};

/// What ends within this time is retiring, whether or not its successor is there. It is the first alarm of the expiry.
pub const RETIRING_MS: i64 = 30 * MILLIS_PER_DAY;

/// The dates of a registration, those of the certificate itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// From when it counts.
    pub from: Millis,
    /// The first moment at which it does not count any more.
    pub until: Millis,
    /// When it was revoked, or will be.
    pub revoked: Option<Millis>,
}

/// Where a certificate stands between its registration and its end. Nobody writes it: it follows from the dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateState {
    /// Registered, and not in force yet.
    Pending,
    /// In force.
    Active,
    /// In force, and on its way out: a newer one of the same member and use is in force as well, or the end is near
    /// ([`RETIRING_MS`]). It counts as an active one does.
    Retiring,
    /// Revoked by now; or revoked before it could begin.
    Revoked,
    /// Its time is over; or was over before it could begin.
    Expired,
}

impl CertificateState {
    /// As the outside reads it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// Whether what it signs counts.
    #[must_use]
    pub fn in_force(self) -> bool {
        matches!(self, Self::Active | Self::Retiring)
    }
}

impl Term {
    /// The first moment at which it does not count any more, for whatever reason.
    #[must_use]
    pub fn end(&self) -> Millis {
        self.revoked.map_or(self.until, |at| at.min(self.until))
    }

    /// Whether it counts at `now`.
    #[must_use]
    pub fn in_force(&self, now: Millis) -> bool {
        self.from <= now && now < self.end()
    }

    /// Where it stands at `now` among all of the same member and use (it may be one of them). Newer is what begins
    /// later; of two that begin together, what ends later.
    #[must_use]
    pub fn state(&self, all: &[Self], now: Millis) -> CertificateState {
        let reached = now.max(self.from);
        if self.revoked.is_some_and(|at| at <= reached) {
            return CertificateState::Revoked;
        }
        if self.until <= reached {
            return CertificateState::Expired;
        }
        if now < self.from {
            return CertificateState::Pending;
        }
        let newer = |other: &&Self| (other.from, other.end()) > (self.from, self.end());
        let replaced = all.iter().filter(newer).any(|other| other.in_force(now));
        if replaced || self.end().since(now) <= RETIRING_MS {
            CertificateState::Retiring
        } else {
            CertificateState::Active
        }
    }
}

/// The first moment from `now` on at which none of these is in force, those that follow one another without a gap
/// taken together. If none is in force at `now`: when the last one ended; `None` if none ever was.
#[must_use]
pub fn covered_until(all: &[Term], now: Millis) -> Option<Millis> {
    let reach = |at| all.iter().filter(|t| t.in_force(at)).map(Term::end).max();
    let Some(mut end) = reach(now) else {
        return all.iter().filter(|t| t.from < t.end() && t.end() <= now).map(Term::end).max();
    };
    // Whatever is in force at the end of another ends later, so this comes to an end.
    while let Some(further) = reach(end) {
        end = further;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use CertificateState::{Active, Expired, Pending, Retiring, Revoked};

    use super::*;

    const DAY: i64 = MILLIS_PER_DAY;

    fn term(from: i64, until: i64, revoked: Option<i64>) -> Term {
        Term { from: Millis(from), until: Millis(until), revoked: revoked.map(Millis) }
    }

    #[test]
    fn a_state_changes_at_its_date_and_not_a_millisecond_before() {
        let (from, until) = (1000 * DAY, 1100 * DAY);
        let near = until - RETIRING_MS;
        for (revoked, at, state) in [
            (None, i64::MIN, Pending),
            (None, from - 1, Pending),
            (None, from, Active),
            (None, near - 1, Active),
            (None, near, Retiring),
            (None, until - 1, Retiring),
            (None, until, Expired),
            (None, i64::MAX, Expired),
            // A revocation that is to come is an end like another.
            (Some(1050 * DAY), 1020 * DAY - 1, Active),
            (Some(1050 * DAY), 1020 * DAY, Retiring),
            (Some(1050 * DAY), 1050 * DAY - 1, Retiring),
            (Some(1050 * DAY), 1050 * DAY, Revoked),
            // Whoever was revoked stays so.
            (Some(1050 * DAY), until, Revoked),
            (Some(until + 1), until, Expired),
            (Some(until + 1), until + 1, Revoked),
            // It will never begin, which is certain now.
            (Some(from), from - 1, Revoked),
            (Some(0), from - 1, Revoked),
            (Some(from + 1), from - 1, Pending),
        ] {
            let term = term(from, until, revoked);
            assert_eq!(term.state(&[term], Millis(at)), state, "{revoked:?} at {at}");
            assert_eq!(term.state(&[], Millis(at)), state, "alone, {revoked:?} at {at}");
            assert_eq!(term.in_force(Millis(at)), state.in_force(), "{revoked:?} at {at}");
        }
        // The certificate itself ends before its registration begins.
        assert_eq!(term(from, from, None).state(&[], Millis(0)), Expired);
    }

    #[test]
    fn the_older_one_retires_when_the_newer_one_is_in_force_and_both_count() {
        let old = term(0, 1000 * DAY, None);
        let new = term(100 * DAY, 900 * DAY, None);
        let states = |at: i64, new: Term| {
            let all = [old, new];
            all.map(|t| t.state(&all, Millis(at)))
        };
        assert_eq!(states(100 * DAY - 1, new), [Active, Pending]);
        assert_eq!(states(100 * DAY, new), [Retiring, Active]);
        assert_eq!(states(899 * DAY, new), [Retiring, Retiring]);
        assert_eq!(states(900 * DAY, new), [Active, Expired], "nothing replaces it any more");
        let revoked = Term { revoked: Some(Millis(200 * DAY)), ..new };
        assert_eq!(states(200 * DAY - 1, revoked), [Retiring, Retiring]);
        assert_eq!(states(200 * DAY, revoked), [Active, Revoked]);
        // Two that begin together: the one that ends later stays; of two alike, both.
        assert_eq!(states(DAY, term(0, 1000 * DAY + 1, None)), [Retiring, Active]);
        assert_eq!(states(DAY, term(0, 1000 * DAY - 1, None)), [Active, Retiring]);
        assert_eq!(states(DAY, old), [Active, Active]);
    }

    #[test]
    fn what_follows_without_a_gap_is_one() {
        let now = Millis(50);
        let until = |all: &[Term]| covered_until(all, now).map(|end| end.0);
        assert_eq!(until(&[]), None);
        assert_eq!(until(&[term(0, 100, None)]), Some(100));
        assert_eq!(until(&[term(100, 200, None), term(0, 100, None)]), Some(200), "end to end");
        assert_eq!(until(&[term(101, 200, None), term(0, 100, None)]), Some(100), "a gap");
        assert_eq!(until(&[term(90, 200, None), term(0, 100, None), term(199, 300, None)]), Some(300));
        assert_eq!(until(&[term(90, 200, Some(95)), term(0, 100, None)]), Some(100), "one that ends sooner");
        assert_eq!(until(&[term(90, 200, Some(90)), term(0, 100, Some(80))]), Some(80));
        // None in force: the last that was; one that never was does not count.
        assert_eq!(until(&[term(0, 40, None), term(0, 45, Some(30)), term(60, 90, None)]), Some(40));
        assert_eq!(until(&[term(60, 90, None), term(20, 45, Some(10))]), None);
        assert_eq!(until(&[term(0, 50, None)]), Some(50), "it ends at this moment");
    }
}
