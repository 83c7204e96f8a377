//! `GET /diagnosiskeys/receipts/{id}`: what became of an upload that was not decided in time.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{
        HeaderValue, StatusCode,
        header::{LOCATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use keyferry_runtime::http::{Access, ClientCertificate, Code, Problem, identify};
use uuid::Uuid;

use crate::{
    decisions::{Receipt, UploadId},
    gateway::Inner,
    upload::network,
};

/// The route.
pub(crate) const PATH: &str = "/diagnosiskeys/receipts/{id}";

/// The answer as it would have been to the upload, 202 while there is none, 404 if this gateway does not know.
pub(crate) async fn receipt(
    State(gateway): State<Arc<Inner>>,
    client: Option<Extension<ClientCertificate>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (network, now) = (network(&gateway)?, gateway.clock.now());
    let country = identify(client.map(|c| c.0).as_ref(), &network, now)?;
    Access::Download.check(country, &network, now)?;
    let id = Uuid::parse_str(&id).ok().map(Uuid::into_bytes);
    match id.and_then(|id| Some((id, gateway.decisions.receipt(country, id)?))) {
        Some((_, Receipt::Decided(decision))) => Ok(decision.response()),
        Some((id, Receipt::Pending)) => Ok(pending(id)),
        None => {
            let detail = "this gateway knows no such upload of yours; send the upload again, which is safe";
            Err(Problem::new(Code::ReceiptUnknown, detail))
        }
    }
}

/// 202 with the place of the receipt.
pub(crate) fn pending(id: UploadId) -> Response {
    let mut response = StatusCode::ACCEPTED.into_response();
    let place = PATH.replace("{id}", &Uuid::from_bytes(id).to_string());
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
