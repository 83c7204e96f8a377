//! `POST /diagnosiskeys/upload`, step by step. What is refused here needs no state; the rest is the pipeline's.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use keyferry_runtime::{
    failpoint,
    http::{Access, ClientCertificate, Code, Problem, identify},
    producer::ProduceError,
};
use keyferry_schemas::{
    country::Country,
    efgs::{self, BadBody, Encoding},
    network::Network,
    records::{Hash, Kind, Upload},
    rejection::Rejection,
};

use crate::{
    answer::Decision,
    body,
    decisions::{Of, UploadId},
    gateway::Inner,
    head::Head,
    limits::Ticket,
    receipts,
};

/// How long an upload of a new member waits for its ledger to be followed.
const NEW_MEMBER: Duration = Duration::from_secs(3);

/// One upload, from its first header to its answer.
pub(crate) async fn upload(State(gateway): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let limit = gateway.config.max_body_bytes;
    let admitted = match admit(&gateway, &parts) {
        Ok(admitted) => admitted,
        Err(problem) => {
            body::linger(body, limit);
            tracing::info!(%problem, "an upload is refused");
            return problem.into_response();
        }
    };
    let country = admitted.country;
    let answer = async {
        let body = body::read(body, limit, body::PATIENCE).await?;
        let read = Instant::now();
        let (encoding, max, looked_into) = (admitted.head.encoding, admitted.max_keys, body.clone());
        gateway.apart(move || check_keys(encoding, looked_into, max)).await?;
        submit(&gateway, &admitted, body, read).await
    };
    answer.await.unwrap_or_else(|problem| {
        tracing::info!(%country, %problem, "an upload is refused");
        problem.into_response()
    })
}

/// A sender that may send, and what its headers say.
pub(crate) struct Admitted {
    pub(crate) country: Country,
    pub(crate) certificate: Hash,
    pub(crate) head: Head,
    max_keys: usize,
    pub(crate) _ticket: Ticket,
}

/// # Errors
/// Who it is, what the headers say, or how much it sends: all that is known before the body.
pub(crate) fn admit(gateway: &Inner, parts: &Parts) -> Result<Admitted, Problem> {
    let (network, now) = (network(gateway)?, gateway.clock.now());
    let client = parts.extensions.get::<ClientCertificate>();
    let country = identify(client, &network, now)?;
    Access::Upload.check(country, &network, now)?;
    let head = Head::read(&parts.headers)?;
    Ok(Admitted {
        country,
        certificate: client.map(|c| c.sha256).unwrap_or_default(),
        head,
        max_keys: network.member(country).map_or(0, |m| m.max_keys_per_upload as usize),
        _ticket: gateway.limits.enter(country, Instant::now().into_std())?,
    })
}

/// The network document in force.
pub(crate) fn network(gateway: &Inner) -> Result<Arc<Network>, Problem> {
    gateway
        .network
        .current()
        .ok_or_else(|| Problem::new(Code::NetworkUnknown, "the network document is not known yet"))
}

fn check_keys(encoding: Encoding, body: Bytes, max: usize) -> Result<(), Problem> {
    let keys = match efgs::decode(encoding, body) {
        Ok(keys) => keys.len(),
        Err(BadBody::TooMany(keys)) => keys,
        Err(e) => return Err(Problem::rejection(Rejection::Body, e.to_string())),
    };
    if keys == 0 {
        return Err(Problem::rejection(Rejection::NoKeys, "there is no key in the body"));
    }
    if keys > max {
        let detail =
            format!("there are {keys} keys in the body and {max} may be sent at once; send several uploads");
        return Err(Problem::rejection(Rejection::TooManyKeys, detail));
    }
    Ok(())
}

/// Puts the upload, whose last byte was read at `read`, on its topic and answers with what the ledger says.
async fn submit(
    gateway: &Inner,
    admitted: &Admitted,
    payload: Bytes,
    read: Instant,
) -> Result<Response, Problem> {
    let Admitted { country, head, .. } = admitted;
    let country = *country;
    let now = Instant::now();
    let deadline = now + gateway.config.decision_wait();
    if !gateway.decisions.followed(country, now + NEW_MEMBER).await {
        let detail = format!("the ledger of {country} is not followed yet; nothing was accepted");
        return Err(Problem::new(Code::LedgerNotFollowed, detail));
    }
    let id = Uuid::new_v4().into_bytes();
    let upload = Upload {
        upload_id: id,
        kind: Kind::ExposedKeys,
        origin: country,
        batch_tag: head.batch_tag.clone(),
        content_type: head.encoding.content_type().into(),
        payload,
        batch_signature: head.signature.clone(),
        client_certificate: admitted.certificate,
        received_at: gateway.clock.now(),
    };
    // A broker that takes its time must not keep the client for longer than it was promised.
    failpoint::pass("upload-read");
    let written = timeout_at(deadline, gateway.log.write(upload)).await;
    failpoint::pass("upload-written");
    let written = written.unwrap_or_else(|_| Err(ProduceError::Unknown("no answer within the wait".into())));
    let of = match &written {
        Ok(offset) => {
            gateway.metrics.received(country);
            gateway.decisions.expect(country, id, gateway.clock.now());
            Of::Offset(*offset)
        }
        Err(error @ ProduceError::NotAccepted(_)) => {
            tracing::error!(%country, %error, "an upload could not be written");
            let detail = "the upload could not be stored; nothing was accepted, send it again later";
            return Err(Problem::new(Code::BrokerUnreachable, detail));
        }
        // It may be on the topic all the same, and then its decision names it.
        Err(ProduceError::Unknown(_)) => Of::Upload(id),
    };
    match (gateway.decisions.wait(country, of, deadline).await, written) {
        (Some(decision), written) => {
            if written.is_err() {
                // What was decided is on its topic, whether or not the broker said so.
                gateway.metrics.received(country);
            }
            gateway.metrics.decided(read.elapsed());
            failpoint::pass("upload-decided");
            log(country, id, &decision);
            Ok(decision.response())
        }
        (None, Ok(_)) if head.respond_async => {
            let mut response = receipts::pending(id);
            response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
            Ok(response)
        }
        (None, Ok(_)) => {
            let detail =
                "the upload is stored and not decided yet; sending it again is safe and gets the same answer";
            Err(Problem::new(Code::NotYetDecided, detail))
        }
        (None, Err(error)) => {
            tracing::error!(%country, %error, "it is not known whether an upload was written");
            let detail = "it is not known whether the upload was stored; sending it again is safe";
            Err(Problem::new(Code::NotConfirmed, detail))
        }
    }
}

fn log(country: Country, id: UploadId, decision: &Decision) {
    let upload = Uuid::from_bytes(id);
    tracing::info!(%country, %upload, decision = decision.code(), "an upload is decided");
}
