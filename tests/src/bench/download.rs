//! A walk through one day's batches, as national backends walk: over mutual TLS, one batch after the other.
//!
//! With verification, each batch is held against its audit as `keyferry client download` does: every upload's signature
//! of its origin, over its keys, by the certificate that the audit shows.

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::{ToSpan, tz::TimeZone};
use keyferry_schemas::{canonical::Canonical, certificate::Certificate, cms::Detached, efgs};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    Size,
    report::Report,
    scene::{COUNTRIES, Maker, Scene},
    watch::Watch,
};

const KEYS: usize = 5000;

/// Measures, for about a minute.
///
/// # Errors
/// Something does not start, or a batch does not verify.
pub fn run(report: &mut Report, size: Size) -> Result<()> {
    let scene = Scene::start()?;
    let (mut maker, watch) = (Maker::new()?, Watch::start(scene.store())?);
    let mut tags = Vec::new();
    for i in 0..size.pick(250, 10) {
        let upload = maker.upload(&scene.hub.world, COUNTRIES[i % COUNTRIES.len()], KEYS)?;
        scene.hub.send(&upload)?;
        tags.push(upload.batch_tag);
    }
    watch.all(&tags)?;
    // Each country gets what the others sent.
    let expected = KEYS * tags.len() / COUNTRIES.len() * (COUNTRIES.len() - 1);
    for verified in [false, true] {
        for countries in [1, 4] {
            let mut rates = Vec::new();
            for _ in 0..size.pick(3, 1) {
                let begun = Instant::now();
                let keys = walk_all(&scene, &COUNTRIES[..countries], verified)?;
                rates.push(keys as f64 / begun.elapsed().as_secs_f64());
                ensure!(keys == expected * countries, "{keys} keys instead of {expected} for each");
            }
            let how = if verified { "_verified" } else { "" };
            report.add_all(format!("download{how}_keys_per_s_{countries}"), &rates, "keys/s");
        }
    }
    Ok(())
}

/// Each country walks by itself, all at the same time; how many keys came.
fn walk_all(scene: &Scene, countries: &[&str], verified: bool) -> Result<usize> {
    let url: Arc<str> = scene.downloads().into();
    scene.load.block_on(async {
        let mut walks = JoinSet::new();
        for country in countries {
            walks.spawn(walk(scene.backend(country)?, Arc::clone(&url), verified));
        }
        walks.join_all().await.into_iter().sum()
    })
}

async fn walk(client: Client, url: Arc<str>, verified: bool) -> Result<usize> {
    // Since yesterday, as it may become midnight.
    let since = TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date().checked_sub(1.day())?;
    let (mut keys, mut tag) = (0, None::<String>);
    loop {
        let mut request = client.get(format!("{url}/download/{since}"));
        request = request.header("Accept", efgs::Encoding::Protobuf.content_type());
        if let Some(tag) = &tag {
            request = request.header("batchTag", tag);
        }
        let answer = request.send().await?;
        ensure!(answer.status() == StatusCode::OK, "a batch is answered with {}", answer.status());
        let header = |name: &str| {
            let value = answer.headers().get(name).with_context(|| format!("there is no {name}"))?;
            anyhow::Ok(value.to_str()?.to_owned())
        };
        let (this, next) = (header("batchTag")?, header("nextBatchTag")?);
        let body = answer.bytes().await?;
        keys += if verified {
            let audit = client
                .get(format!("{url}/audit/download/{since}/{this}"))
                .header("Accept", "application/json; version=1.0");
            let audit = audit.send().await?.error_for_status()?.bytes().await?;
            tokio::task::spawn_blocking(move || verify(body, &audit)).await??
        } else {
            // One field for each key, and nothing else.
            count(&body)
        };
        if next == "null" {
            return Ok(keys);
        }
        tag = Some(next);
    }
}

/// How many messages stand one after the other.
fn count(mut body: &[u8]) -> usize {
    let mut keys = 0;
    // A key is longer than a byte and shorter than what one byte of length can say, or its length takes two.
    while let [_, low, rest @ ..] = body {
        let (length, rest) = match (low, rest) {
            (0..0x80, rest) => (usize::from(*low), rest),
            (_, [high, rest @ ..]) => (usize::from(low & 0x7f) | usize::from(*high) << 7, rest),
            _ => return keys,
        };
        body = rest.get(length..).unwrap_or_default();
        keys += 1;
    }
    keys
}

/// Holds a batch against its audit; how many keys it has.
fn verify(body: Bytes, audit: &[u8]) -> Result<usize> {
    let keys = efgs::decode_joined(body)?;
    let mut rest = &keys[..];
    for entry in serde_json::from_slice::<Vec<Value>>(audit)? {
        let text = |name: &str| entry[name].as_str().with_context(|| format!("an audit without {name}"));
        let amount = entry["amount"].as_u64().context("an audit without amount")?;
        let (own, others) = rest.split_at_checked(amount.try_into()?).context("an audit of other keys")?;
        rest = others;
        let certificate = Certificate::from_pem(text("signingCertificate")?)?;
        let signature = Detached::read(&STANDARD.decode(text("batchSignature")?)?);
        let signature = signature.map_err(|e| anyhow::anyhow!("{e}"))?;
        let signed = Canonical::of(own);
        ensure!(
            signature.names(&certificate) && signature.verify(signed.bytes(), &certificate),
            "an origin's signature does not hold"
        );
    }
    ensure!(rest.is_empty(), "keys of nobody");
    Ok(keys.len())
}
