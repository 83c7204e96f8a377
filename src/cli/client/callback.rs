//! `client callback`.

use clap::{Args, Subcommand};
use keyferry_runtime::exit::Fatal;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    failure::{Failure, clean},
    hub::{Hub, HubArgs},
    report,
    request::SMALL,
};
use crate::cli::{out, table};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Lists the addresses that the hub calls
    #[command(
        after_help = "Example: keyferry client callback list --url https://HUB:8443 --cacert hub.pem --cert auth.pem --key auth.key"
    )]
    List(List),
    /// Has the hub call an address on every new batch: GET ADDRESS?batchTag=..&date=..
    #[command(
        after_help = "Example: keyferry client callback set warn https://backend.example/new-batch --url https://HUB:8443 \
        --cacert hub.pem --cert auth.pem --key auth.key\n\n\
        The address is https, without a query, on a public host whose certificate the operator has registered for callbacks."
    )]
    Set(Set),
    /// Has an address called no more
    #[command(
        after_help = "Example: keyferry client callback delete warn --url https://HUB:8443 --cacert hub.pem --cert auth.pem --key auth.key"
    )]
    Delete(Delete),
}

/// No choice.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    hub: HubArgs,
}

/// Which, and where to.
#[derive(Args)]
pub struct Set {
    /// Name of the callback, of our own choice; one that is there is replaced
    #[arg(value_parser = id)]
    id: String,
    /// The address
    address: Url,
    #[command(flatten)]
    hub: HubArgs,
}

/// Which.
#[derive(Args)]
pub struct Delete {
    /// Name of the callback
    #[arg(value_parser = id)]
    id: String,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Callback {
    callback_id: String,
    url: String,
}

/// What can stand in a path by itself: the rest is for the hub to judge.
fn id(text: &str) -> Result<String, String> {
    if matches!(text, "" | "." | "..") { Err("is no name".into()) } else { Ok(text.to_owned()) }
}

impl Command {
    fn hub(&self) -> &HubArgs {
        match self {
            Self::List(args) => &args.hub,
            Self::Set(args) => &args.hub,
            Self::Delete(args) => &args.hub,
        }
    }

    pub(super) fn json(&self) -> bool {
        self.hub().json
    }
}

pub(super) async fn run(command: &Command) -> Result<(), Failure> {
    let hub = command.hub().hub()?;
    match command {
        Command::List(args) => list(&hub, args.hub.json).await,
        Command::Set(args) => set(&hub, &args.id, &args.address, args.hub.json).await,
        Command::Delete(args) => delete(&hub, &args.id, args.hub.json).await,
    }
}

pub(super) async fn list(hub: &Hub, as_json: bool) -> Result<(), Failure> {
    let url = hub.at(&["callback"]);
    let answer = hub.send(|| hub.client.get(url.clone()), SMALL).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.refused());
    }
    let all: Vec<Callback> = serde_json::from_slice(&answer.body)
        .map_err(|_| Fatal::failure("the hub's list of callbacks can not be read"))?;
    if as_json {
        for callback in &all {
            out(json!({ "event": "callback", "callbackId": callback.callback_id, "url": callback.url }))?;
        }
        return Ok(());
    }
    let rows: Vec<_> = all.iter().map(|c| [clean(&c.callback_id), clean(&c.url)]).collect();
    Ok(out(table(["id", "address"], &rows))?)
}

pub(super) async fn set(hub: &Hub, id: &str, address: &Url, as_json: bool) -> Result<(), Failure> {
    if address.scheme() != "https" || address.query().is_some() || address.fragment().is_some() {
        let what = "the hub calls https addresses without a query only, and adds batchTag and date itself";
        return Err(Fatal::config(what).into());
    }
    let mut url = hub.at(&["callback", id]);
    url.query_pairs_mut().append_pair("url", address.as_str());
    let answer = hub.send(|| hub.client.put(url.clone()), SMALL).await?;
    if !answer.status.is_success() {
        return Err(answer.refused());
    }
    let object = json!({ "event": "set", "callbackId": id, "url": address.as_str() });
    report(as_json, format_args!("{id}: {address} is called on every new batch"), &object)
}

pub(super) async fn delete(hub: &Hub, id: &str, as_json: bool) -> Result<(), Failure> {
    let url = hub.at(&["callback", id]);
    let answer = hub.send(|| hub.client.delete(url.clone()), SMALL).await?;
    // Asked more than once, an earlier request may have been obeyed and only its answer lost.
    let gone_before = answer.status == StatusCode::NOT_FOUND && answer.attempts > 1;
    if !answer.status.is_success() && !gone_before {
        return Err(answer.refused());
    }
    report(as_json, format_args!("{id}: called no more"), &json!({ "event": "deleted", "callbackId": id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_names_one_callback_and_not_the_list() {
        assert!(["", ".", ".."].iter().all(|text| id(text).is_err()));
        assert_eq!(id("a/..").as_deref(), Ok("a/.."));
    }
}
