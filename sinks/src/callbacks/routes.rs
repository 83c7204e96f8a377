//! `/diagnosiskeys/callback`: subscribe, list, end. Each country its own only.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde_json::{Value, json};

use keyferry_runtime::{
    http::{ClientCertificate, Code, Problem},
    outbound::Refused,
};
use keyferry_schemas::{
    callbacks::{Callback, PROGRESS_SUFFIX},
    country::Country,
};

use super::{
    Callbacks, Tools,
    book::{Mark, Subscription},
    notifier::pins,
    target::{BadTarget, CallbackId, MAX_ID_BYTES, Target},
};
use crate::{
    api::{Api, store_problem},
    shelf::Shelf,
};

/// What these routes work with.
#[derive(Clone)]
struct Desks {
    api: Api,
    /// Absent where the configuration has no section for it.
    callbacks: Option<Callbacks>,
}

type Client = Option<Extension<ClientCertificate>>;

/// The routes of callbacks.
pub(crate) fn routes(api: Api, callbacks: Option<Callbacks>) -> Router {
    Router::new()
        .route("/diagnosiskeys/callback", get(list))
        .route("/diagnosiskeys/callback/{id}", put(subscribe).delete(end))
        .with_state(Desks { api, callbacks })
}

async fn list(State(desks): State<Desks>, client: Client) -> Result<Response, Problem> {
    let shelf = desks.api.caller(client.as_deref())?;
    let tools = &desks.callbacks()?.tools;
    tools.known(shelf.country()).await?;
    let listed = |(id, s): (&CallbackId, &Subscription)| json!({ "callbackId": id.as_str(), "url": s.target.as_given() });
    let all = tools.register.read(shelf.country(), |book| book.subscriptions().iter().map(listed).collect());
    let body = all.unwrap_or_else(|| Value::Array(Vec::new())).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn subscribe(
    State(desks): State<Desks>,
    client: Client,
    Path(id): Path<String>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let shelf = desks.api.caller(client.as_deref())?;
    let (callbacks, country) = (desks.callbacks()?, shelf.country());
    let tools = &callbacks.tools;
    let id = read_id(&id)?;
    let target = read_target(query)?;
    tools.admit(country, &target).await?;
    let writing = callbacks.writing(country)?;
    let _only = writing.lock().await;
    tools.known(country).await?;
    let (before, count, has_progress) = tools
        .register
        .read(country, |book| {
            let all = book.subscriptions();
            (all.get(&id).cloned(), all.len(), book.has_progress(&id))
        })
        .ok_or_else(unavailable)?;
    let after = match before {
        // A changed address goes on where the former stood.
        Some(before) if before.target.as_given() == target.as_given() => return Ok(StatusCode::OK),
        Some(before) => before.after,
        None if count >= tools.config.max_per_member => {
            let detail = format!("{country} has {count} callbacks, and may have no more; end one first");
            return Err(Problem::new(Code::CallbackTooMany, detail));
        }
        None => {
            if has_progress {
                // Of a former subscription of that name.
                tools.write(country, &format!("{id}{PROGRESS_SUFFIX}"), None).await?;
            }
            newest(&shelf).await?
        }
    };
    let (after_number, after_tag) = after.written();
    let created_at = tools.clock.now();
    let record = Callback { url: target.as_given().to_owned(), created_at, after_number, after_tag };
    tools.write(country, id.as_str(), Some(&tools.codec.encode(&record))).await?;
    tracing::info!(destination = %country, callback = %id, host = target.host(), after_number, "subscribed");
    Ok(StatusCode::OK)
}

async fn end(
    State(desks): State<Desks>,
    client: Client,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let shelf = desks.api.caller(client.as_deref())?;
    let (callbacks, country) = (desks.callbacks()?, shelf.country());
    let tools = &callbacks.tools;
    let id = read_id(&id)?;
    let writing = callbacks.writing(country)?;
    let _only = writing.lock().await;
    tools.known(country).await?;
    let is_there = tools.register.read(country, |book| book.subscriptions().contains_key(&id));
    if is_there != Some(true) {
        let detail = "your country has no callback of that id";
        return Err(Problem::new(Code::CallbackUnknown, detail));
    }
    tools.write(country, id.as_str(), None).await?;
    // It has ended; what is left of it goes before the next one of that name begins.
    let _ = tools.put(country, &format!("{id}{PROGRESS_SUFFIX}"), None).await;
    tracing::info!(destination = %country, callback = %id, "unsubscribed");
    Ok(StatusCode::OK)
}

impl Desks {
    fn callbacks(&self) -> Result<&Callbacks, Problem> {
        self.callbacks.as_ref().ok_or_else(|| {
            let detail = "nobody is called from here: the operator has configured no certificate for it; ask for batches by download";
            Problem::new(Code::CallbacksNotOffered, detail)
        })
    }
}

impl Callbacks {
    fn writing(&self, country: Country) -> Result<Arc<tokio::sync::Mutex<()>>, Problem> {
        self.desks().get(&country).map(|desk| Arc::clone(&desk.writing)).ok_or_else(unavailable)
    }
}

impl Tools {
    /// That all is known that any instance has answered.
    async fn known(&self, country: Country) -> Result<(), Problem> {
        self.register.catch_up(country).await.map_err(|_| unavailable())
    }

    async fn write(&self, country: Country, key: &str, value: Option<&[u8]>) -> Result<(), Problem> {
        let written = self.put(country, key, value).await.map_err(|reason| {
            tracing::error!(destination = %country, reason, "a callback is not written");
            Problem::new(Code::BrokerUnreachable, "the callback is not written for sure; send the same again")
        });
        // Whoever asks this instance next sees it; that it is written does not hang on it.
        let _ = self.register.has_read(country, written?).await;
        Ok(())
    }

    /// That the host has a certificate of the country, and public addresses only. In this order: names are not resolved
    /// for the asking.
    async fn admit(&self, country: Country, target: &Target) -> Result<(), Problem> {
        let host = target.host();
        let network = self.feed.current().ok_or_else(unavailable)?;
        if pins(&network, country, host, self.clock.now()).is_empty() {
            let detail = format!(
                "no callback certificate of {country} that is in force names {host}; ask the operator to register one"
            );
            return Err(Problem::new(Code::CallbackCertificateMissing, detail));
        }
        let patience = Duration::from_millis(self.config.timeout_ms);
        match tokio::time::timeout(patience, self.caller.guard().check(target.url())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused @ (Refused::NotPublic { .. } | Refused::TooMany { .. } | Refused::NoHost))) => {
                // What addresses names have in here is nobody's business.
                tracing::warn!(destination = %country, reason = %refused, "a callback is refused");
                let detail = format!("{host} has an address that is not public, and is not called");
                Err(Problem::new(Code::CallbackAddressRefused, detail))
            }
            Ok(Err(Refused::Unresolved { .. })) | Err(_) => Err(Problem::new(
                Code::CallbackHostUnresolved,
                format!("{host} has no address at the moment"),
            )),
        }
    }
}

/// The last batch there is in the store, whoever stored it.
async fn newest(shelf: &Shelf) -> Result<Mark, Problem> {
    shelf.follow().await.map_err(|e| store_problem(&e))?;
    Ok(shelf.head().map(|head| Mark::at(&head.entry)).unwrap_or_default())
}

fn read_id(text: &str) -> Result<CallbackId, Problem> {
    text.parse().map_err(|_| {
        let detail = format!("a callback id is 1 to {MAX_ID_BYTES} letters, digits, or any of - . _ ~");
        Problem::new(Code::CallbackIdMalformed, detail)
    })
}

fn read_target(query: Result<Query<Vec<(String, String)>>, QueryRejection>) -> Result<Target, Problem> {
    let given = query.map(|Query(pairs)| pairs).unwrap_or_default();
    let mut urls = given.into_iter().filter(|(name, _)| name == "url").map(|(_, value)| value);
    let (Some(url), None) = (urls.next(), urls.next()) else {
        let detail =
            "the query has to name the address to call, once and percent-encoded: ?url=https%3A%2F%2F...";
        return Err(Problem::new(Code::CallbackUrlMissing, detail));
    };
    url.parse().map_err(|e: BadTarget| Problem::new(e.code(), e.to_string()))
}

fn unavailable() -> Problem {
    Problem::new(Code::Unavailable, "the callbacks of your country can not be read at the moment; try again")
}
