//! The body of an upload, bounded in size and time, and what becomes of one that nobody wants to read.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::time::timeout;

use keyferry_runtime::http::{Code, Problem};

/// How long a client may take to send its body.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a refused body is kept open.
const LINGER: Duration = Duration::from_secs(1);

/// Reads a body of at most `limit` bytes within `patience`. One that announces more is not read at all.
///
/// # Errors
/// 413, 408, or 400 if the connection breaks.
pub(crate) async fn read(body: Body, limit: usize, patience: Duration) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {limit} bytes; send fewer keys at once");
        Problem::new(Code::BodyTooLarge, detail)
    };
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        linger(body, limit);
        return Err(too_large());
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced).unwrap_or_default());
    let mut chunks = body.into_data_stream();
    let whole = timeout(patience, async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| {
                Problem::new(Code::BodyIncomplete, "the body ended before its end; send it again")
            })?;
            if bytes.len() + chunk.len() > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    });
    let outcome = whole.await.unwrap_or_else(|_| {
        let detail = format!("the body did not come within {} s; send it again", patience.as_secs());
        Err(Problem::new(Code::BodyTooSlow, detail))
    });
    if let Err(problem) = outcome {
        linger(Body::from_stream(chunks), limit);
        return Err(problem);
    }
    Ok(bytes.freeze())
}

/// Keeps a refused body open for a moment: a connection closed while its client still sends is reset, and the client
/// never reads why. A small body is read to its end, so that the connection can be used again; of a large one no more
/// than `limit` bytes are, and the client stalls until it reads the answer.
pub(crate) fn linger(body: Body, limit: usize) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(LINGER, async move {
        let mut chunks = body.into_data_stream();
        let mut rest = limit;
        while let Some(Ok(chunk)) = chunks.next().await {
            let Some(less) = rest.checked_sub(chunk.len()) else {
                tokio::time::sleep(LINGER).await;
                return;
            };
            rest = less;
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures::stream;

    use super::*;

    /// A body of so many chunks of 1 KiB, of unknown length, and a count of those that were taken.
    fn endless(chunks: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let chunks = stream::iter(0..chunks).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[7; 1024]))
        });
        (Body::from_stream(chunks), taken)
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_read_whole() {
        assert_eq!(read(Body::from("abc"), 3, PATIENCE).await.unwrap(), "abc");
        assert_eq!(read(endless(4).0, 4096, PATIENCE).await.unwrap().len(), 4096);
        assert_eq!(read(Body::empty(), 3, PATIENCE).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read_whole() {
        assert_eq!(read(Body::from("abcd"), 3, PATIENCE).await.unwrap_err().code(), "body-too-large");
        let (body, taken) = endless(100_000);
        let problem = read(body, 4096, PATIENCE).await.unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (413, "body-too-large"));
        tokio::time::sleep(LINGER + LINGER / 5).await;
        assert!(taken.load(Ordering::Relaxed) <= 10);
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(read(body, 10, Duration::from_millis(20)).await.unwrap_err().code(), "body-too-slow");
    }
}
