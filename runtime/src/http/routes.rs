//! What every listener of the contract answers by itself, whatever roles are behind it.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::header::{ACCEPT, ALLOW},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, options},
};
use ipnet::IpNet;
use keyferry_schemas::media::ACCEPTED;
use percent_encoding::percent_decode_str;

use super::{Code, Problem, client, openapi};

/// The routes of all roles, complete: which media types are spoken and the description of the contract, the client's
/// certificate in every request, and 404 and 405 as problems. For [`super::serve`], and for tests without a listener.
pub fn app(router: Router, trusted_proxies: &[IpNet]) -> Router {
    let trusted: Arc<[IpNet]> = trusted_proxies.into();
    router
        // As EFGS said it, of the contract as a whole.
        .route("/diagnosiskeys", options(async || [(ALLOW, "POST,GET,OPTIONS"), (ACCEPT, ACCEPTED)]))
        .route("/openapi.json", get(openapi::serve))
        .fallback(async || not_found())
        .method_not_allowed_fallback(async || {
            let detail = "this path knows other methods only; the header Allow names them";
            Problem::new(Code::MethodNotAllowed, detail)
        })
        .layer(from_fn(readable))
        .layer(from_fn_with_state(trusted, client::attach))
}

fn not_found() -> Problem {
    Problem::new(Code::NotFound, "there is nothing at this path")
}

/// A path whose escapes are no text would be refused by the framework, in words of its own.
async fn readable(request: Request, next: Next) -> Response {
    match percent_decode_str(request.uri().path()).decode_utf8() {
        Ok(_) => next.run(request).await,
        Err(_) => not_found().into_response(),
    }
}
