//! One request to the hub, sent again where that helps. Every request of the contract is safe to send again.

use std::error::Error as _;

use bytes::{Bytes, BytesMut};
use keyferry_runtime::exit::Fatal;
use reqwest::{RequestBuilder, Response, StatusCode, header::HeaderMap, header::RETRY_AFTER};

use super::{
    failure::{Failure, Problem},
    hub::Hub,
    note,
    retry::{is_passing, retry_after},
};

/// Longest answer that holds no keys, in bytes.
pub(super) const SMALL: usize = 1 << 20;

/// An answer that is no request to come again.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    /// How often it was asked for. If more than once, an earlier request may have been obeyed and its answer lost.
    pub(super) attempts: u32,
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The refusal that this is.
    pub(super) fn refused(&self) -> Failure {
        Failure::Refused(Problem::read(self.status, &self.body))
    }
}

/// Why there is no answer.
enum Fault {
    /// It may come the next time.
    Passing(String),
    Lasting(Failure),
}

impl Hub {
    /// Sends what `request` makes until there is an answer that stays, of at most `limit` bytes.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> RequestBuilder,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let mut attempts = 0u32;
        loop {
            attempts = attempts.saturating_add(1);
            let (why, asked) = match exchange(request(), limit).await {
                Ok((status, headers, body)) if !is_passing(status) => {
                    return Ok(Answer { status, headers, body, attempts });
                }
                Ok((status, headers, body)) => {
                    let asked = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                    let asked = asked.and_then(|text| retry_after(text, self.clock.now()));
                    (format!("the hub answers {}", Problem::read(status, &body)), asked)
                }
                Err(Fault::Passing(why)) => (why, None),
                Err(Fault::Lasting(failure)) => return Err(failure),
            };
            let Some(wait) = self.policy.wait(attempts, asked) else {
                let later = asked.map_or_else(String::new, |asked| format!(" in {} s", asked.as_secs()));
                return Err(Failure::Unreachable(format!(
                    "{why}; asked {attempts} time(s); run it again{later}"
                )));
            };
            note(format_args!("{why}; again in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
        }
    }
}

async fn exchange(request: RequestBuilder, limit: usize) -> Result<(StatusCode, HeaderMap, Bytes), Fault> {
    let mut response = request.send().await.map_err(|e| fault(&e))?;
    let body = read(&mut response, limit).await?;
    Ok((response.status(), std::mem::take(response.headers_mut()), body))
}

async fn read(response: &mut Response, limit: usize) -> Result<Bytes, Fault> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| fault(&e))? {
        if body.len() + chunk.len() > limit {
            let what = format_args!("the answer is longer than {limit} bytes: that is no hub");
            return Err(Fault::Lasting(Fatal::failure(what).into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn fault(error: &reqwest::Error) -> Fault {
    if error.is_builder() {
        return Fault::Lasting(Fatal::config(format_args!("the request can not be made: {error}")).into());
    }
    if let Some(why) = bad_server(error) {
        return Fault::Lasting(Failure::Untrusted(format!(
            "the server is not the hub that --cacert names, or --url has another name than its certificate: {why}"
        )));
    }
    let at = error.url().map(|url| format!(" at {}", url.authority())).unwrap_or_default();
    let why = if error.is_timeout() { "no answer in time".into() } else { innermost(error) };
    Fault::Passing(format!("the hub{at} can not be reached: {why}"))
}

/// What the TLS library says against the server's certificate. It is hidden in I/O errors, which do not name it as
/// their source.
fn bad_server(error: &reqwest::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
        let tls = inner.and_then(|e| e.downcast_ref::<rustls::Error>());
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) = tls.or_else(|| error.downcast_ref()) {
            return Some(tls.to_string());
        }
        cause = inner.map_or_else(|| error.source(), |inner| Some(inner));
    }
    None
}

/// The cause behind all wrappings, which only repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
