//! `client download`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use jiff::civil::Date;
use keyferry_runtime::{exit::Fatal, shutdown::Shutdown};
use keyferry_schemas::efgs;
use keyferry_sinks::tag::BatchTag;
use serde_json::json;

use super::{
    audit,
    batch_file::{self, Format},
    failure::Failure,
    folder::Folder,
    hub::{Hub, HubArgs},
    note,
    proof::{ProofArgs, Proven, Prover},
    report,
    walk::{Ask, Batch, Got, Next},
};

/// What to fetch, and where to.
#[derive(Args)]
pub struct Download {
    /// Folder for the batches, made if it is not there; each is written as TAG.pb or TAG.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Day to begin with, in a folder where nothing was downloaded yet; the oldest that the hub has, unless given
    #[arg(long, value_name = "yyyy-MM-dd")]
    since: Option<Date>,
    /// Form of the files
    #[arg(long, value_enum, default_value = "protobuf")]
    format: Format,
    /// Goes on until SIGTERM or SIGINT, and waits for new batches
    #[arg(long)]
    follow: bool,
    /// Seconds between two looks for a new batch
    #[arg(long, value_name = "S", default_value_t = 60, requires = "follow", value_parser = clap::value_parser!(u64).range(1..=86400))]
    interval_s: u64,
    /// Takes the hub's word for everything: nothing is verified
    #[arg(long, conflicts_with_all = ["anchor", "origin_proof", "alias"])]
    no_verify: bool,
    #[command(flatten)]
    proof: ProofArgs,
    #[command(flatten)]
    pub(super) hub: HubArgs,
}

pub(super) async fn run(args: &Download) -> Result<(), Failure> {
    let hub = args.hub.hub()?;
    let prover = if args.no_verify { None } else { Some(args.proof.prover(hub.country)?) };
    if args.no_verify {
        note(
            "NOT VERIFIED: with --no-verify nobody but the hub says whose keys these are; give --anchor instead",
        );
    }
    let folder = Folder::open(&args.out, hub.name(), hub.country)?;
    let mut receiver = Receiver { hub: &hub, folder, prover, format: args.format, json: args.hub.json };
    // Without --follow a signal means that it is not done, and kills: everything here can be killed.
    let shutdown = if args.follow { Shutdown::on_signals()? } else { Shutdown::new() };
    let interval = args.follow.then(|| Duration::from_secs(args.interval_s));
    receiver.follow(args.since, interval, &shutdown).await
}

/// Fetches batches into a folder.
pub(super) struct Receiver<'a> {
    pub(super) hub: &'a Hub,
    pub(super) folder: Folder,
    pub(super) prover: Option<Prover>,
    pub(super) format: Format,
    pub(super) json: bool,
}

impl Receiver<'_> {
    /// Fetches what there is; with an interval, again and again. A signal ends it between two batches.
    pub(super) async fn follow(
        &mut self,
        since: Option<Date>,
        interval: Option<Duration>,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        loop {
            // What is under way is dropped where it stands: each step is as safe to leave as it is to be killed in.
            let fetched = tokio::select! {
                fetched = self.fetch_all(since) => fetched,
                () = shutdown.wait() => return Ok(()),
            };
            match (fetched, interval) {
                (Ok(n), None) => return self.end(n),
                (Ok(_), Some(_)) => (),
                // It may come back, and whoever follows has time.
                (Err(Failure::Unreachable(why)), Some(_)) => note(why),
                (Err(failure), _) => return Err(failure),
            }
            tokio::select! {
                () = tokio::time::sleep(interval.unwrap_or_default()) => (),
                () = shutdown.wait() => return Ok(()),
            }
        }
    }

    fn end(&self, batches: usize) -> Result<(), Failure> {
        let last = self.folder.last().map(|tag| tag.to_string());
        let text = match (batches, &last) {
            (0, None) => "there is no batch yet".to_owned(),
            (0, Some(last)) => format!("nothing new after {last}"),
            (n, _) => format!("{n} batch(es) fetched"),
        };
        report(self.json, text, &json!({ "event": "end", "batches": batches, "lastBatchTag": last }))
    }

    /// Fetches every batch that there is; how many that were.
    pub(super) async fn fetch_all(&mut self, since: Option<Date>) -> Result<usize, Failure> {
        let mut ask = match self.folder.last() {
            Some(last) => self.after(last).await?,
            None => Some(Ask::From(match since {
                Some(since) => since,
                None => self.hub.oldest().await?,
            })),
        };
        let mut batches = 0;
        while let Some(wanted) = ask {
            ask = match self.hub.fetch(wanted).await? {
                Got::Nothing => None,
                Got::Erased(next) => {
                    if let Ask::Tag(tag) = wanted {
                        self.folder.pass(tag)?;
                        let text = format!(
                            "{tag}: its keys are erased, as the law asks; it was not fetched in time"
                        );
                        report(self.json, text, &json!({ "event": "erased", "batchTag": tag }))?;
                    }
                    next.map(Ask::Tag)
                }
                Got::Batch(batch) => {
                    self.take(&batch).await.map_err(|e| e.during(batch.tag))?;
                    batches += 1;
                    batch.next.map(Ask::Tag)
                }
            };
        }
        Ok(batches)
    }

    async fn after(&self, last: BatchTag) -> Result<Option<Ask>, Failure> {
        match self.hub.after(last).await? {
            Next::Tag(tag) => Ok(Some(Ask::Tag(tag))),
            Next::Nothing => Ok(None),
            Next::TooOld => {
                let oldest = self.hub.oldest().await?;
                let text = format!(
                    "the hub keeps no batch of the day of {last} any more; what came between it and {oldest} is lost"
                );
                report(
                    self.json,
                    text,
                    &json!({ "event": "lost", "after": last, "before": oldest.to_string() }),
                )?;
                Ok(Some(Ask::From(oldest)))
            }
        }
    }

    /// Proves a batch and stores it.
    async fn take(&mut self, batch: &Batch) -> Result<(), Failure> {
        let keys = efgs::decode_joined(batch.body.clone())
            .map_err(|_| Fatal::failure("what the hub serves is no DiagnosisKeyBatch"))?;
        let proven = match &mut self.prover {
            None => None,
            Some(prover) => {
                let entries = audit::read(&self.hub.audit(batch.tag.date(), batch.tag).await?)?;
                Some(
                    prover
                        .prove(&keys, &entries)
                        .map_err(|e| Failure::Untrusted(format!("{e}; it is not stored")))?,
                )
            }
        };
        let bytes = match self.format {
            Format::Protobuf => batch.body.clone(),
            Format::Json => batch_file::write(Format::Json, &keys).into(),
        };
        let file = self.folder.store(batch.tag, self.format.extension(), &bytes)?;
        let text = format!(
            "{}: {} keys{}",
            batch.tag,
            keys.len(),
            proven.as_ref().map_or_else(|| ", NOT VERIFIED".into(), ToString::to_string)
        );
        let object = json!({
            "event": "batch", "batchTag": batch.tag, "nextBatchTag": batch.next, "file": file, "keys": keys.len(),
            "verified": proven.is_some(), "level": proven.as_ref().map(Proven::level),
            "uploads": proven.as_ref().map(Proven::uploads), "origins": proven.as_ref().map(|p| &p.origins),
        });
        report(self.json, text, &object)
    }
}
