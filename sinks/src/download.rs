//! `GET /diagnosiskeys/download/{yyyy-MM-dd}`: the batches of the country that asks, one at a time, each naming the next.

use std::convert::Infallible;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::stream;
use tokio::sync::Semaphore;

use keyferry_runtime::http::{ClientCertificate, Code, Problem};
use keyferry_schemas::efgs::{self, Encoding};

use crate::{
    api::{Api, Found, erased, next_batch_tag, read_date, read_tag, store_problem},
    audit::audit,
    log::Entry,
    negotiate::{encoding, has_already},
};

/// Bodies that are written as JSON at a time: each is in memory three times over, and few backends ask for them.
static WRITERS: Semaphore = Semaphore::const_new(2);

/// The routes of the distribution service.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/diagnosiskeys/download/{date}", get(download))
        .route("/diagnosiskeys/audit/download/{date}/{tag}", get(audit))
        .with_state(api)
}

async fn download(
    State(api): State<Api>,
    client: Option<Extension<ClientCertificate>>,
    Path(date): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shelf = api.caller(client.as_deref())?;
    let encoding = encoding(&headers)?;
    let found = api.find(&shelf, read_date(&date)?, read_tag(&headers)?).await?;
    let gone = || erased(found.next);
    if api.is_erased(&found.sealed) {
        return Err(gone());
    }
    let entry = &found.sealed.entry;
    let etag = etag(entry, encoding);
    let mut response = if has_already(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if method == Method::HEAD {
        head(entry, encoding)
    } else {
        let data = async || shelf.data(entry).await.map_err(|e| store_problem(&e))?.ok_or_else(gone);
        Response::new(Body::from(match encoding {
            // As it came from Kafka: nothing here writes keys anew.
            Encoding::Protobuf => data().await?,
            Encoding::Json => {
                // The semaphore is never closed. Held before the keys are read, so that few wait in memory.
                let _permit = WRITERS.acquire().await.ok();
                as_json(data().await?).await?
            }
        }))
    };
    describe(response.headers_mut(), &found, encoding, &etag);
    Ok(response)
}

/// An answer whose body nobody reads: the keys stay where they are.
fn head(entry: &Entry, encoding: Encoding) -> Response {
    match encoding {
        Encoding::Protobuf => ([(header::CONTENT_LENGTH, entry.data.bytes)], ()).into_response(),
        // Its length is known only once it was written, and is not that of an empty body.
        Encoding::Json => Response::new(Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())),
    }
}

/// Writes keys as JSON, which takes a while: apart from the threads that serve.
async fn as_json(data: Bytes) -> Result<Bytes, Problem> {
    let written = tokio::task::spawn_blocking(|| {
        efgs::decode_joined(data).ok().map(|keys| Bytes::from(efgs::encode_json(&keys)))
    });
    written.await.ok().flatten().ok_or_else(|| {
        let detail = "the batch can not be written as JSON; ask for application/protobuf";
        Problem::new(Code::NotJson, detail)
    })
}

/// A batch never changes, so its hash names it; each encoding has its own name.
fn etag(entry: &Entry, encoding: Encoding) -> String {
    let form = match encoding {
        Encoding::Protobuf => "pb",
        Encoding::Json => "json",
    };
    format!("\"{}-{form}\"", hex::encode(&entry.data.sha256.0[..16]))
}

/// The headers of 200 and 304 alike: with the next tag in them, a client that polls the last batch needs no body.
fn describe(headers: &mut HeaderMap, found: &Found, encoding: Encoding, etag: &str) {
    for (name, text) in [("batchtag", found.sealed.entry.tag.to_string()), ("etag", etag.to_owned())] {
        // Digits, letters, hyphens and quotes: always a header value.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    headers.insert("nextbatchtag", next_batch_tag(found.next));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    // Personal data, and whether there is a next batch has to be asked each time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
}
