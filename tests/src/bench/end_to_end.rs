//! From the first byte of an upload to a batch that every other country can download, on one machine.
//!
//! First as much as goes in: eight uploads of 5,000 keys at a time for each of five origins, a closed loop, timed until the
//! last of them can be downloaded in all four other countries. Then shares of that, an open loop at an even pace: uploads
//! of 5,000 keys are the load, and single ones of 100 keys come in between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_schemas::records::Upload;
use reqwest::{Client, StatusCode};
use tokio::task::JoinSet;

use super::{
    Size,
    cpu::Cpu,
    report::Report,
    scene::{COUNTRIES, Maker, Scene},
    watch::Watch,
};

const KEYS: usize = 5000;
const FEW_KEYS: usize = 100;
/// Uploads at a time of one origin, as many as a gateway lets in.
const AT_A_TIME: usize = 8;
/// Single small uploads in a second, so few that they are no load.
const SINGLES_PER_S: f64 = 5.0;

/// An upload that is ready to be sent.
struct Ready {
    client: Client,
    upload: Upload,
    signature: String,
}

/// Measures, for about two minutes.
///
/// # Errors
/// Something does not start, or an upload is not taken.
pub fn run(report: &mut Report, size: Size) -> Result<()> {
    let (warm_up, saturated) = (size.pick(40, 5), size.pick(400, 10));
    let sending = Duration::from_secs(size.pick(30, 2));
    let scene = Scene::start()?;
    let mut maker = Maker::new()?;
    let clients: Vec<Client> = COUNTRIES.iter().map(|c| scene.backend(c)).collect::<Result<_>>()?;
    let mut ready = |i: usize, keys: usize| -> Result<Ready> {
        let upload = maker.upload(&scene.hub.world, COUNTRIES[i % COUNTRIES.len()], keys)?;
        let signature = STANDARD.encode(&upload.batch_signature);
        Ok(Ready { client: clients[i % clients.len()].clone(), upload, signature })
    };
    let mut many = |n: usize| -> Result<Vec<Ready>> { (0..n).map(|i| ready(i, KEYS)).collect() };
    saturate(&scene, many(warm_up)?)?;
    let uploads = many(saturated)?;
    let before = Cpu::now(scene.hub.broker.pid())?;
    let took = saturate(&scene, uploads)?;
    let used = Cpu::now(scene.hub.broker.pid())?.since(&before);
    let keys = (saturated * KEYS) as f64;
    let keys_per_s = keys / took.as_secs_f64();
    report.add("end_to_end_keys_per_s_4", keys_per_s, "keys/s");
    for (name, seconds) in used {
        report.add(format!("end_to_end_cpu_s_per_million_keys_{name}"), seconds * 1e6 / keys, "s");
    }
    for percent in [1, 10, 50] {
        let large_per_s = keys_per_s * f64::from(percent) / 100.0 / KEYS as f64;
        let mut plan = Vec::new();
        for (keys, per_s) in [(KEYS, large_per_s), (FEW_KEYS, SINGLES_PER_S)] {
            let n = ((per_s * sending.as_secs_f64()) as usize).max(1);
            for i in 0..n {
                // The small ones fall between the large ones, not upon them.
                let shift = if keys == KEYS { 0.0 } else { 0.37 };
                plan.push((Duration::from_secs_f64((i as f64 + shift) / per_s), ready(i, keys)?));
            }
        }
        plan.sort_by_key(|(at, _)| *at);
        let times = open_loop(&scene, plan)?;
        for keys in [FEW_KEYS, KEYS] {
            let name = if percent == 10 { String::new() } else { format!("_at_{percent}_percent") };
            let of_these = times.iter().filter(|(k, _)| *k == keys).map(|(_, t)| *t).collect();
            quantiles(report, &format!("latency_{keys}"), &name, of_these);
        }
    }
    Ok(())
}

fn quantiles(report: &mut Report, what: &str, load: &str, mut times: Vec<Duration>) {
    times.sort();
    let Some(last) = times.len().checked_sub(1) else { return };
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let at = (last as f64 * share).round() as usize;
        report.add(format!("{what}_{name}_ms{load}"), times[at].as_secs_f64() * 1000.0, "ms");
    }
}

/// Sends all of them, so many at a time, and waits until all can be downloaded everywhere.
fn saturate(scene: &Scene, uploads: Vec<Ready>) -> Result<Duration> {
    let watch = Watch::start(scene.store())?;
    let tags: Vec<_> = uploads.iter().map(|r| r.upload.batch_tag.clone()).collect();
    // Each origin has its own line, as countries do.
    let mut lines: Vec<Vec<Ready>> = COUNTRIES.iter().map(|_| Vec::new()).collect();
    for (i, ready) in uploads.into_iter().enumerate() {
        lines[i % COUNTRIES.len()].push(ready);
    }
    let url: Arc<str> = scene.uploads().into();
    let begun = Instant::now();
    scene.load.block_on(async {
        let mut tasks = JoinSet::new();
        for line in lines {
            let line = Arc::new(tokio::sync::Mutex::new(line));
            for _ in 0..AT_A_TIME {
                let (line, url) = (Arc::clone(&line), Arc::clone(&url));
                tasks.spawn(async move {
                    loop {
                        let Some(ready) = line.lock().await.pop() else { return Ok(()) };
                        send(&url, ready).await?;
                    }
                });
            }
        }
        tasks.join_all().await.into_iter().collect::<Result<()>>()
    })?;
    let last = watch.all(&tags)?.into_iter().max().unwrap_or(begun);
    Ok(last - begun)
}

/// Sends each at its time, whatever became of those before; number of keys, and time until it can be downloaded everywhere.
fn open_loop(scene: &Scene, plan: Vec<(Duration, Ready)>) -> Result<Vec<(usize, Duration)>> {
    let watch = Watch::start(scene.store())?;
    let few = |r: &Ready| r.upload.payload.len() < KEYS * 10;
    let (tags, keys): (Vec<_>, Vec<_>) =
        plan.iter().map(|(_, r)| (r.upload.batch_tag.clone(), if few(r) { FEW_KEYS } else { KEYS })).unzip();
    let url: Arc<str> = scene.uploads().into();
    let begun = Instant::now() + Duration::from_millis(100);
    let starts: Vec<Instant> = plan.iter().map(|(at, _)| begun + *at).collect();
    scene.load.block_on(async {
        let mut tasks = JoinSet::new();
        for (at, ready) in plan {
            let url = Arc::clone(&url);
            tasks.spawn(async move {
                // From when it was due, not from when this machine came to it.
                tokio::time::sleep_until((begun + at).into()).await;
                send(&url, ready).await
            });
        }
        tasks.join_all().await.into_iter().collect::<Result<()>>()
    })?;
    let ends = watch.all(&tags)?;
    Ok(keys.into_iter().zip(ends.iter().zip(starts).map(|(end, start)| *end - start)).collect())
}

async fn send(url: &str, Ready { client, upload, signature }: Ready) -> Result<()> {
    let request = client
        .post(url)
        .header("Content-Type", upload.content_type)
        .header("batchTag", upload.batch_tag)
        .header("batchSignature", signature)
        .body(upload.payload);
    let answer = request.send().await?;
    let status = answer.status();
    let said = answer.text().await?;
    ensure!(status == StatusCode::CREATED, "an upload is answered with {status}: {said}");
    Ok(())
}
