//! `GET /diagnosiskeys/download/{yyyy-MM-dd}`: the batches of the country that asks, one at a time, each naming the next.

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use keyferry_runtime::http::{ClientCertificate, Problem};
use keyferry_schemas::efgs::Encoding;

use crate::{
    api::{Api, Found, erased, next_batch_tag, read_date, read_tag, store_problem},
    audit::audit,
    body,
    log::Entry,
    negotiate::{Coding, coding, encoding, has_already},
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
    let gone = || erased(found.next);
    if api.is_erased(&found.sealed) {
        return Err(gone());
    }
    let entry = &found.sealed.entry;
    let form = (encoding, coding(&headers));
    let etag = etag(entry, form);
    let mut response = if has_already(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if method == Method::HEAD {
        head(entry, form)
    } else {
        let read = async || shelf.data(entry).await.map_err(|e| store_problem(&e))?.ok_or_else(gone);
        Response::new(Body::from(body::keys(form, read).await?))
    };
    if response.status() == StatusCode::OK {
        form.1.describe(response.headers_mut());
    }
    describe(response.headers_mut(), &found, encoding);
    reply(response.headers_mut(), &etag, "accept, accept-encoding");
    Ok(response)
}

/// An answer whose body nobody reads: the keys stay where they are.
fn head(entry: &Entry, form: (Encoding, Coding)) -> Response {
    match form {
        (Encoding::Protobuf, Coding::Identity) => {
            ([(header::CONTENT_LENGTH, entry.data.bytes)], ()).into_response()
        }
        _ => Response::new(body::unwritten()),
    }
}

/// A batch never changes, so its hash names it; each form has its own name.
fn etag(entry: &Entry, (encoding, coding): (Encoding, Coding)) -> String {
    let form = match encoding {
        Encoding::Protobuf => "pb",
        Encoding::Json => "json",
    };
    coding.etag(&format!("{}-{form}", hex::encode(&entry.data.sha256.0[..16])))
}

/// The headers of 200 and 304 alike: with the next tag in them, a client that polls the last batch needs no body.
fn describe(headers: &mut HeaderMap, found: &Found, encoding: Encoding) {
    // Digits and a hyphen: always a header value.
    if let Ok(tag) = HeaderValue::from_str(&found.sealed.entry.tag.to_string()) {
        headers.insert("batchtag", tag);
    }
    headers.insert("nextbatchtag", next_batch_tag(found.next));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
}

/// What every answer says of itself that may be kept: its name, and what it depends on.
pub(crate) fn reply(headers: &mut HeaderMap, etag: &str, vary: &'static str) {
    // Digits, letters, hyphens, slashes and quotes: always a header value.
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::VARY, HeaderValue::from_static(vary));
    // Personal data, and whether there is a next batch has to be asked each time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
}
