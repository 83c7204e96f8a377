//! Bodies that take work to write: JSON, and gzip of either form. Few at a time, and apart from the threads that serve.
//!
//! Keys are random, the fields beside them are not. Measured for 20,000 keys with four countries each at the fastest level:
//! JSON shrinks to 11 % in 60 ms and protobuf to 44 % in 40 ms, so both are worth it to a client that asks. The usual level
//! takes ten times as long for a tenth or two less.

use std::{
    convert::Infallible,
    io::{self, Write as _},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use tokio::sync::{Semaphore, SemaphorePermit};

use keyferry_runtime::http::{Code, Problem};
use keyferry_schemas::efgs::{self, Encoding};

use crate::negotiate::Coding;

/// What may be at work at a time, over all clients.
static WORK: Semaphore = Semaphore::const_new(4);

/// What JSON counts for: while it is written, a batch is in memory three times over.
pub(crate) const HEAVY: u32 = 2;
/// What gzip alone counts for.
pub(crate) const LIGHT: u32 = 1;

/// Leave to do some of the work. Held from before the keys are read, so that few wait in memory.
pub(crate) struct Leave(Option<SemaphorePermit<'static>>);

impl Leave {
    /// Waits for it.
    pub(crate) async fn of(weight: u32) -> Self {
        // The semaphore is never closed.
        Self(WORK.acquire_many(weight).await.ok())
    }

    /// Does the work. It ends when it is done and not when a client goes away, and neither does the leave.
    pub(crate) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let leave = self.0;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(leave);
            done
        });
        done.await.ok().flatten()
    }
}

/// The keys of a batch in the form that was asked for; `read` gets them as the store has them.
pub(crate) async fn keys(
    (encoding, coding): (Encoding, Coding),
    read: impl AsyncFnOnce() -> Result<Bytes, Problem>,
) -> Result<Bytes, Problem> {
    let leave = match (encoding, coding) {
        // As they came from Kafka: nothing here writes keys anew.
        (Encoding::Protobuf, Coding::Identity) => return read().await,
        (Encoding::Protobuf, Coding::Gzip) => Leave::of(LIGHT).await,
        (Encoding::Json, _) => Leave::of(HEAVY).await,
    };
    let data = read().await?;
    let written = leave.work(move || {
        let data = match encoding {
            Encoding::Protobuf => data,
            Encoding::Json => efgs::encode_json(&efgs::decode_joined(data).ok()?).into(),
        };
        coding.apply(data).ok()
    });
    written.await.ok_or_else(|| {
        let detail = "the batch can not be written as JSON; ask for application/protobuf";
        Problem::new(Code::NotJson, detail)
    })
}

/// A body that nobody reads, of a length that is known only to whoever has written it and is not 0.
pub(crate) fn unwritten() -> Body {
    Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())
}

impl Coding {
    /// Codes a body. Takes milliseconds for a megabyte.
    ///
    /// # Errors
    /// None that is known: it writes to memory.
    pub(crate) fn apply(self, body: Bytes) -> io::Result<Bytes> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => {
                let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
                gzip.write_all(&body)?;
                gzip.finish().map(Bytes::from)
            }
        }
    }

    /// The entity tag of a body by its name. What gzip makes of the same bytes may change with its version, so its tag is
    /// weak, and it is another one, since no cache may put one body for the other (RFC 9110, 8.8.3.3).
    pub(crate) fn etag(self, name: &str) -> String {
        match self {
            Self::Identity => format!("\"{name}\""),
            Self::Gzip => format!("W/\"{name}-gzip\""),
        }
    }

    /// Says how the body of this answer is coded.
    pub(crate) fn describe(self, headers: &mut HeaderMap) {
        if self == Self::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_still_counts() {
        let (begin, begun) = oneshot::channel();
        let (go_on, until) = mpsc::channel::<()>();
        let work = tokio::spawn(Leave::of(HEAVY).await.work(move || {
            begin.send(()).ok()?;
            until.recv().ok()
        }));
        begun.await.unwrap();
        // The client goes away.
        work.abort();
        assert!(work.await.is_err());
        assert_eq!(WORK.available_permits(), 2);
        go_on.send(()).unwrap();
        // As much as there is can be had again, when the work is done.
        drop(Leave::of(4).await);
    }
}
