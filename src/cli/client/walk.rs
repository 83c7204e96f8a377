//! From batch to batch by their tags: what the hub is asked, and what its answers mean.

use bytes::Bytes;
use jiff::{ToSpan as _, civil::Date};
use keyferry_runtime::exit::Fatal;
use keyferry_schemas::efgs::Encoding;
use keyferry_sinks::tag::{BatchTag, date_of};
use reqwest::{StatusCode, header::ACCEPT, header::IF_NONE_MATCH};

use super::{
    failure::{Failure, Problem, clean},
    hub::Hub,
    request::Answer,
};

/// Longest batch or audit, in bytes: several times what the largest batch of a hub takes, or its audit if each upload in
/// it is small.
const LONGEST: usize = 256 << 20;
/// Days back from today that are asked for to find the oldest one the hub has; the law knows fourteen.
const MOST_DAYS: i32 = 31;

/// Which batch is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The first one from this day on.
    From(Date),
    /// The one with this tag.
    Tag(BatchTag),
}

/// What comes of it.
pub(super) enum Got {
    Batch(Batch),
    /// There is none yet.
    Nothing,
    /// Its keys are erased; this is the next one.
    Erased(Option<BatchTag>),
}

/// One batch as it was served.
pub(super) struct Batch {
    pub(super) tag: BatchTag,
    pub(super) next: Option<BatchTag>,
    pub(super) body: Bytes,
}

/// What follows the last batch.
pub(super) enum Next {
    Tag(BatchTag),
    Nothing,
    /// The day of the last one is longer ago than the hub keeps batches.
    TooOld,
}

impl Hub {
    async fn get(&self, date: Date, tag: Option<BatchTag>, body: bool) -> Result<Answer, Failure> {
        let url = self.at(&["download", &date.to_string()]);
        let request = || {
            let mut request = self.client.get(url.clone()).header(ACCEPT, Encoding::Protobuf.content_type());
            if let Some(tag) = tag {
                request = request.header("batchTag", tag.to_string());
            }
            // Whatever it is, we have it: only the headers are wanted, and, unlike with HEAD, the reason of a refusal.
            if body { request } else { request.header(IF_NONE_MATCH, "*") }
        };
        self.send(request, LONGEST).await
    }

    /// Fetches a batch.
    pub(super) async fn fetch(&self, ask: Ask) -> Result<Got, Failure> {
        let (date, tag) = match ask {
            Ask::From(date) => (date, None),
            Ask::Tag(tag) => (tag.date(), Some(tag)),
        };
        let answer = self.get(date, tag, true).await?;
        match answer.status {
            StatusCode::OK => {
                let served = required(&answer)?;
                let next = next(&answer, served)?;
                match ask {
                    Ask::Tag(tag) if tag != served => {
                        Err(untrusted(format_args!("it serves {served} and was asked for {tag}")))
                    }
                    Ask::From(date) if served.date() < date => {
                        Err(untrusted(format_args!("it serves {served} and was asked for {date} or later")))
                    }
                    _ => Ok(Got::Batch(Batch { tag: served, next, body: answer.body })),
                }
            }
            // Other hubs of this contract do not say why.
            StatusCode::NOT_FOUND if tag.is_none() && is_none_yet(&answer) => Ok(Got::Nothing),
            StatusCode::GONE => match (tag, answer.header("nextBatchTag")) {
                (Some(tag), Some(_)) => Ok(Got::Erased(next(&answer, tag)?)),
                _ => Err(answer.refused()),
            },
            _ => Err(answer.refused()),
        }
    }

    /// The batch after `last`.
    pub(super) async fn after(&self, last: BatchTag) -> Result<Next, Failure> {
        let answer = self.get(last.date(), Some(last), false).await?;
        let told = answer.header("nextBatchTag").is_some();
        match answer.status {
            StatusCode::OK | StatusCode::NOT_MODIFIED => {
                Ok(next(&answer, last)?.map_or(Next::Nothing, Next::Tag))
            }
            StatusCode::GONE if told => Ok(next(&answer, last)?.map_or(Next::Nothing, Next::Tag)),
            StatusCode::GONE => Ok(Next::TooOld),
            _ => Err(answer.refused()),
        }
    }

    /// The oldest day that may be asked for: from today back until the hub says that it is too old.
    pub(super) async fn oldest(&self) -> Result<Date, Failure> {
        let today = date_of(self.clock.now());
        let mut oldest = today;
        for days in 1..=MOST_DAYS {
            let Ok(date) = today.checked_sub(days.days()) else { break };
            let answer = self.get(date, None, false).await?;
            match answer.status {
                StatusCode::GONE => break,
                StatusCode::OK | StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND => oldest = date,
                _ => return Err(answer.refused()),
            }
        }
        Ok(oldest)
    }

    /// The audit of a batch, as it came.
    pub(super) async fn audit(&self, date: Date, tag: BatchTag) -> Result<Bytes, Failure> {
        let url = self.at(&["audit", "download", &date.to_string(), &tag.to_string()]);
        let request = || self.client.get(url.clone()).header(ACCEPT, Encoding::Json.content_type());
        let answer = self.send(request, LONGEST).await?;
        match answer.status {
            StatusCode::OK => Ok(answer.body),
            _ => Err(answer.refused().during(format_args!("the audit of {tag}"))),
        }
    }
}

fn is_none_yet(answer: &Answer) -> bool {
    matches!(Problem::read(answer.status, &answer.body).code.as_str(), "no-batch" | "http-404")
}

fn required(answer: &Answer) -> Result<BatchTag, Failure> {
    let text = answer.header("batchTag").unwrap_or_default();
    text.parse().map_err(|_| unreadable("batchTag", text))
}

/// The tag behind `after`, which has to be a later one: else a walk might never end.
fn next(answer: &Answer, after: BatchTag) -> Result<Option<BatchTag>, Failure> {
    let text = answer.header("nextBatchTag").unwrap_or_default();
    if text == "null" {
        return Ok(None);
    }
    let tag: BatchTag = text.parse().map_err(|_| unreadable("nextBatchTag", text))?;
    if tag > after { Ok(Some(tag)) } else { Err(untrusted(format_args!("after {after} it names {tag}"))) }
}

fn unreadable(name: &str, text: &str) -> Failure {
    Fatal::failure(format_args!("the hub answers with {name} `{}`, which is no batch tag", clean(text)))
        .into()
}

fn untrusted(what: std::fmt::Arguments<'_>) -> Failure {
    Failure::Untrusted(format!("the hub breaks its contract: {what}"))
}
