//! What all routes share: who asks, for which batch, and how its answer begins.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use futures::{StreamExt as _, stream};
use jiff::{ToSpan, civil::Date};

use keyferry_runtime::{
    clock::SharedClock,
    http::{Access, ClientCertificate, Code, Problem, identify},
    network::NetworkFeed,
};
use keyferry_schemas::{country::Country, time::Millis};

use crate::{
    log::Sealed,
    shelf::Shelf,
    store::StoreError,
    tag::{Asked, BatchTag, date_of, resolve},
};

/// Log objects that are read at a time in the search for one.
const AHEAD: usize = 16;

/// The countries that this instance serves. Clones are the same.
#[derive(Clone, Default)]
pub struct Shelves(Arc<RwLock<BTreeMap<Country, Option<Arc<Shelf>>>>>);

impl Shelves {
    /// Lets a country wait for its shelf.
    pub fn expect(&self, country: Country) {
        self.write().entry(country).or_default();
    }

    /// Adds the shelf of a country.
    pub fn add(&self, shelf: Arc<Shelf>) {
        self.write().insert(shelf.country(), Some(shelf));
    }

    /// Takes a country away.
    pub fn remove(&self, country: Country) {
        self.write().remove(&country);
    }

    /// The shelf of a country, if it could be opened.
    #[must_use]
    pub fn get(&self, country: Country) -> Option<Arc<Shelf>> {
        self.read().get(&country).cloned().flatten()
    }

    /// All countries, those included that wait for their shelf.
    #[must_use]
    pub fn countries(&self) -> Vec<Country> {
        self.read().keys().copied().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Country, Option<Arc<Shelf>>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Country, Option<Arc<Shelf>>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when data may be served, and from when it is erased.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// Days before today that a client may ask for.
    pub window_days: u16,
    /// Milliseconds after an upload at which its keys are erased.
    pub retention_ms: i64,
}

impl Periods {
    /// Uploads from this time or before are erased at `now`.
    #[must_use]
    pub fn erased_until(self, now: Millis) -> Millis {
        now.plus(-self.retention_ms)
    }

    /// The oldest day that may be asked for at `now`.
    #[must_use]
    pub fn oldest(self, now: Millis) -> Date {
        date_of(now).checked_sub(i32::from(self.window_days).days()).unwrap_or(Date::MIN)
    }
}

/// What the routes work with.
#[derive(Clone)]
pub struct Api {
    /// The countries served here.
    pub shelves: Shelves,
    /// Whose certificate is whose.
    pub feed: NetworkFeed,
    /// What day it is.
    pub clock: SharedClock,
    /// How far back.
    pub periods: Periods,
}

/// A batch that was found.
pub struct Found {
    /// Its log object.
    pub sealed: Arc<Sealed>,
    /// The name of the next one, if there is one yet.
    pub next: Option<BatchTag>,
}

impl Api {
    /// The shelf of the country that asks: nobody sees another one's.
    ///
    /// # Errors
    /// What [`identify`] and [`Access::check`] say; 421 if the country is served by another instance, 503 if
    /// its store can not be read.
    pub fn caller(&self, client: Option<&ClientCertificate>) -> Result<Arc<Shelf>, Problem> {
        let now = self.clock.now();
        let network = self
            .feed
            .current()
            .ok_or_else(|| Problem::new(Code::NetworkUnknown, "no network document is known yet"))?;
        let country = identify(client, &network, now)?;
        Access::Download.check(country, &network, now)?;
        self.shelves.get(country).ok_or_else(|| {
            if self.shelves.countries().contains(&country) {
                return Problem::new(
                    Code::Unavailable,
                    "your batches can not be read at the moment; the operator knows",
                );
            }
            let detail =
                format!("keys for {country} are not served here; ask the operator for the right host");
            Problem::new(Code::CountryNotServed, detail)
        })
    }

    /// The batch that the date of a path and a tag ask for.
    ///
    /// # Errors
    /// The statuses of EFGS: 400, 404, 410; 503 if the store does not answer.
    pub async fn find(&self, shelf: &Shelf, date: Date, tag: Option<BatchTag>) -> Result<Found, Problem> {
        let oldest = self.periods.oldest(self.clock.now());
        let mut head = shelf.head();
        let mut asked = look_up(head.as_deref(), date, tag, oldest);
        let last = head.as_ref().map(|h| h.entry.number);
        let at_end = match asked {
            Asked::NoBatch | Asked::Unknown => true,
            Asked::Batch(n) | Asked::From(n) => Some(n) == last,
            Asked::DateAfterBatch | Asked::TooOld => false,
        };
        // Another instance may have gone further than this one.
        if at_end && shelf.follow().await.map_err(|e| store_problem(&e))? {
            head = shelf.head();
            asked = look_up(head.as_deref(), date, tag, oldest);
        }
        let refuse = |code, detail: &str| Err(Problem::new(code, detail));
        let number = match asked {
            Asked::Batch(number) => number,
            Asked::From(first) => self.first_kept(shelf, first, head.as_deref()).await?,
            Asked::NoBatch => {
                return refuse(Code::NoBatch, "there is no batch from that date on yet");
            }
            Asked::Unknown => return Err(unknown_tag()),
            Asked::DateAfterBatch => {
                return refuse(Code::DateAfterBatch, "the date is later than that of the batch");
            }
            Asked::TooOld => {
                let detail = format!(
                    "batches are kept for {} days; start from {oldest} or later",
                    self.periods.window_days
                );
                return refuse(Code::DateTooOld, &detail);
            }
        };
        let sealed = shelf.entry(number).await.map_err(|e| store_problem(&e))?.ok_or_else(unknown_tag)?;
        let next = head.filter(|h| number < h.entry.number).and_then(|h| h.entry.days.tag_of(number + 1));
        Ok(Found { sealed, next })
    }

    /// Whether the keys of a batch are erased, or about to be.
    #[must_use]
    pub fn is_erased(&self, sealed: &Sealed) -> bool {
        sealed.entry.oldest() <= self.periods.erased_until(self.clock.now())
    }

    /// The first batch from `first` on whose keys are still there: on the oldest day some are gone already. Each batch
    /// is looked at, because times do not always rise along the log: one origin may lag behind the others.
    async fn first_kept(&self, shelf: &Shelf, first: u64, head: Option<&Sealed>) -> Result<u64, Problem> {
        let kept = async |number| -> Result<Option<u64>, Problem> {
            let sealed = shelf.entry(number).await.map_err(|e| store_problem(&e))?;
            Ok(sealed.filter(|s| !self.is_erased(s)).map(|_| number))
        };
        // Most often this is all, and nothing is read ahead.
        let begin = shelf.after_erased(first);
        if let Some(number) = kept(begin).await? {
            return Ok(number);
        }
        let end = head.map_or(begin, |h| h.entry.number);
        let mut rest = pin!(stream::iter(begin..=end).skip(1).map(kept).buffered(AHEAD));
        while let Some(found) = rest.next().await {
            if let Some(number) = found? {
                shelf.found_erased(first..number);
                return Ok(number);
            }
        }
        shelf.found_erased(first..end + 1);
        let detail = "there is no batch from that date on any more";
        Err(Problem::new(Code::NoBatch, detail))
    }
}

fn look_up(head: Option<&Sealed>, date: Date, tag: Option<BatchTag>, oldest: Date) -> Asked {
    match head {
        Some(head) => resolve(&head.entry.days, head.entry.number, date, tag, oldest),
        None => resolve(&Default::default(), 0, date, tag, oldest),
    }
}

/// Reads the date of a path, `yyyy-MM-dd` and nothing else.
///
/// # Errors
/// 400 `date-malformed`.
pub fn read_date(text: &str) -> Result<Date, Problem> {
    let exact = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    let date = exact.then(|| text.parse().ok()).flatten();
    date.ok_or_else(|| Problem::new(Code::DateMalformed, "the path ends in a date such as 2020-10-23"))
}

/// Reads the header `batchTag`, if there is one.
///
/// # Errors
/// 404: what is no tag is the name of no batch.
pub fn read_tag(headers: &HeaderMap) -> Result<Option<BatchTag>, Problem> {
    let Some(value) = headers.get("batchTag").filter(|v| !v.is_empty()) else { return Ok(None) };
    let tag = value.to_str().ok().and_then(|t| t.trim().parse().ok());
    tag.map(Some).ok_or_else(unknown_tag)
}

/// 404 for a tag that no batch has.
#[must_use]
pub fn unknown_tag() -> Problem {
    Problem::new(Code::BatchUnknown, "there is no batch with that tag")
}

/// 410 for a batch whose keys are erased, with the name of the next one: a walk can go on.
#[must_use]
pub fn erased(next: Option<BatchTag>) -> Problem {
    let detail = "the keys of that batch are erased; go on with the one that nextBatchTag names";
    Problem::new(Code::BatchErased, detail)
        .header(HeaderName::from_static("nextbatchtag"), next_batch_tag(next))
}

/// The value of the header `nextBatchTag`.
#[must_use]
pub fn next_batch_tag(next: Option<BatchTag>) -> HeaderValue {
    // Digits and a hyphen: always a header value.
    let tag = next.and_then(|tag| HeaderValue::from_str(&tag.to_string()).ok());
    tag.unwrap_or(HeaderValue::from_static("null"))
}

/// 503: the details are for the operator and not for the client.
#[must_use]
pub fn store_problem(error: &StoreError) -> Problem {
    tracing::error!(reason = %error, "a download failed");
    Problem::new(Code::Unavailable, "the store does not answer; try again")
}
