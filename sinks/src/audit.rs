//! `GET /diagnosiskeys/audit/download/{yyyy-MM-dd}/{batchTag}`: what proves the origin of each upload in a batch.
//!
//! All of it stands in the log objects and in the network document, so an audit outlives the keys.

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;

use keyferry_runtime::{
    http::{ClientCertificate, Code, Problem},
    network::Versions,
};
use keyferry_schemas::{
    avro::Record,
    batch::Manifest,
    country::Country,
    network::{Network, Registered, Use},
    records::Hash,
};

use crate::{
    api::{Api, read_date, unknown_tag},
    body::{HEAVY, Leave},
    download::reply,
    log::{LevelName, Upload},
    negotiate::{coding, has_already},
};

/// One upload of a batch, in the form of EFGS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    country: Country,
    uploaded_time: String,
    uploader_thumbprint: String,
    uploader_signing_thumbprint: String,
    amount: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_signature: Option<String>,
    uploader_certificate: Option<String>,
    uploader_operator_signature: Option<String>,
    signing_certificate: Option<String>,
    signing_certificate_operator_signature: Option<String>,
    /// Only where there is none: the form of all others is exactly that of EFGS.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_proof: Option<bool>,
}

pub(crate) async fn audit(
    State(api): State<Api>,
    client: Option<Extension<ClientCertificate>>,
    Path((date, tag)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shelf = api.caller(client.as_deref())?;
    let tag = tag.parse().map_err(|_| unknown_tag());
    let found = match api.find(&shelf, read_date(&date)?, Some(tag?)).await {
        // What is 400 for a download EFGS answered with 404 here.
        Err(problem) if problem.code() == Code::DateAfterBatch.as_str() => return Err(unknown_tag()),
        other => other?,
    };
    let coding = coding(&headers);
    // All that it is made of never changes, once it was made.
    let etag = coding.etag(&format!("{}-audit", hex::encode(&found.sealed.hash[..16])));
    let mut response = if has_already(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let versions = api.feed.versions();
        let leave = Leave::of(HEAVY).await;
        let body = leave.work(move || coding.apply(written(&found.sealed.entry.uploads, &versions)?).ok());
        let body = body.await.ok_or_else(|| {
            let detail = "the network document of that batch is not known here yet; try again";
            Problem::new(Code::NetworkUnknown, detail)
        })?;
        let mut response = Response::new(Body::from(body));
        coding.describe(response.headers_mut());
        response
    };
    let all = response.headers_mut();
    all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; version=1.0"));
    reply(all, &etag, "accept-encoding");
    Ok(response)
}

/// The audit as JSON; `None` if a version of the network document is missing that it needs.
fn written(uploads: &[Upload], versions: &Versions) -> Option<Bytes> {
    let entries = uploads.iter().map(|upload| {
        let manifest = Manifest::from_avro(upload.manifest.0.clone()).ok()?;
        Some(AuditEntry::of(upload, &manifest, versions.get(&manifest.network_version)?))
    });
    serde_json::to_vec(&entries.collect::<Option<Vec<_>>>()?).ok().map(Bytes::from)
}

impl AuditEntry {
    /// What the log and the network document in force at the time say about one upload. Pure.
    #[must_use]
    pub fn of(upload: &Upload, manifest: &Manifest, network: &Network) -> Self {
        let client = registration(network, manifest, &manifest.client_certificate, Use::Authentication);
        let signing = registration(network, manifest, &manifest.signing_certificate, Use::Signing);
        let pem = |r: Option<&Registered>| r.map(|r| r.entry.pem.clone());
        let anchor = |r: Option<&Registered>| r.map(|r| r.entry.anchor_signature.clone());
        Self {
            country: upload.origin,
            uploaded_time: upload.created_at.to_string(),
            uploader_thumbprint: hex::encode(manifest.client_certificate),
            uploader_signing_thumbprint: hex::encode(manifest.signing_certificate),
            amount: upload.keys,
            batch_signature: upload.origin_signature.as_ref().map(|cms| STANDARD.encode(&cms.0)),
            uploader_certificate: pem(client),
            uploader_operator_signature: anchor(client),
            signing_certificate: pem(signing),
            signing_certificate_operator_signature: anchor(signing),
            origin_proof: (upload.level == LevelName::Subset).then_some(false),
        }
    }
}

/// The registration under which a certificate was accepted; the same one may be registered again later.
fn registration<'a>(
    network: &'a Network,
    manifest: &Manifest,
    sha256: &Hash,
    usage: Use,
) -> Option<&'a Registered> {
    let mut all = network.registered(sha256, usage).filter(|r| r.country == manifest.origin);
    let first = all.next()?;
    let in_force = |r: &&Registered| r.in_force(manifest.created_at);
    Some(std::iter::once(first).chain(all).find(in_force).unwrap_or(first))
}
