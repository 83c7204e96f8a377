//! `GET /diagnosiskeys/download/{yyyy-MM-dd}`: the batches of the country that asks, one at a time, each naming the next.

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;

use keyferry_runtime::http::{ClientCertificate, Problem};
use keyferry_schemas::efgs::{self, Encoding};

use crate::{
    api::{Api, Found, erased, read_date, read_tag, store_problem},
    audit::audit,
    log::Entry,
    negotiate::{encoding, has_already},
};

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
    if api.is_erased(&found.sealed) {
        return Err(erased());
    }
    let entry = &found.sealed.entry;
    let etag = etag(entry, encoding);
    let mut response = if has_already(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if method == Method::HEAD {
        head(entry, encoding)
    } else {
        let data = shelf.data(entry).await.map_err(|e| store_problem(&e))?.ok_or_else(erased)?;
        Response::new(Body::from(body(data, encoding)?))
    };
    describe(response.headers_mut(), &found, encoding, &etag);
    Ok(response)
}

/// An answer whose body nobody reads: the keys stay where they are.
fn head(entry: &Entry, encoding: Encoding) -> Response {
    let mut response = StatusCode::OK.into_response();
    // The length as JSON is known only once it was written.
    if encoding == Encoding::Protobuf {
        response.headers_mut().insert(header::CONTENT_LENGTH, entry.data.bytes.into());
    }
    response
}

fn body(data: Bytes, encoding: Encoding) -> Result<Bytes, Problem> {
    match encoding {
        // As it came from Kafka: nothing here writes keys anew.
        Encoding::Protobuf => Ok(data),
        Encoding::Json => {
            efgs::decode_joined(data).map(|keys| efgs::encode_json(&keys).into()).map_err(|_| {
                let detail = "the batch can not be written as JSON; ask for application/protobuf";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not-json", detail)
            })
        }
    }
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
    let next = found.next.map_or_else(|| "null".to_owned(), |tag| tag.to_string());
    let texts =
        [("batchtag", found.sealed.entry.tag.to_string()), ("nextbatchtag", next), ("etag", etag.to_owned())];
    for (name, text) in texts {
        // Digits, letters, hyphens and quotes: always a header value.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    // Personal data, and whether there is a next batch has to be asked each time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
}
