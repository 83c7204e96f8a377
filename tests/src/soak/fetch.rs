//! A national backend that downloads, now from one distribution service and now from another, and holds them to it that
//! what was served once never changes.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use jiff::{ToSpan, tz::TimeZone};
use keyferry_schemas::efgs;
use reqwest::Client;

use super::load::locked;

/// What was downloaded.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Key data.
    pub keys: HashSet<Vec<u8>>,
    pages: BTreeMap<String, Bytes>,
}

/// One answer of a distribution service.
enum Page {
    Batch {
        tag: String,
        next: Option<String>,
        body: Bytes,
    },
    /// There is no such batch here, yet.
    None,
}

/// Downloads until `stop`, each batch from whichever service has it.
///
/// # Errors
/// A batch differs from what it was.
pub async fn fetch(
    into: &Mutex<Fetched>,
    country: &str,
    certificate: &str,
    services: &[SocketAddr],
    stop: impl Fn() -> bool,
) -> Result<()> {
    let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
    let (mut tag, mut turn) = (None::<String>, 0);
    while !stop() {
        turn += 1;
        let page = page(&client, services[turn % services.len()], country, certificate, tag.as_deref()).await;
        // Nobody is there, or not yet: somebody will be.
        let Ok(Page::Batch { tag: name, next, body }) = page else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let known = locked(into).pages.get(&name).cloned();
        match known {
            Some(known) => ensure!(known == body, "batch {name} is another than it was"),
            None => {
                let keys = efgs::decode_joined(body.clone()).map_err(|_| anyhow!("{name} is no batch"))?;
                let mut into = locked(into);
                into.keys.extend(keys.into_iter().map(|k| k.key_data.to_vec()));
                into.pages.insert(name.clone(), body);
            }
        }
        let at_end = next.is_none();
        tag = Some(next.unwrap_or(name));
        if at_end {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    Ok(())
}

/// Everything that one service serves a country, from the first batch to the last.
///
/// # Errors
/// It does not answer, or breaks the contract.
pub async fn walk(service: SocketAddr, country: &str, certificate: &str) -> Result<Vec<(String, Bytes)>> {
    let client = Client::builder().no_proxy().build()?;
    let (mut all, mut asked) = (Vec::new(), None::<String>);
    loop {
        match page(&client, service, country, certificate, asked.as_deref()).await? {
            Page::None => return Ok(all),
            Page::Batch { tag, next, body } => {
                ensure!(asked.is_none_or(|asked| asked == tag), "another batch than was asked for");
                all.push((tag, body));
                let Some(next) = next else { return Ok(all) };
                asked = Some(next);
            }
        }
    }
}

impl Fetched {
    /// That a walk found the same under the same names.
    ///
    /// # Errors
    /// It did not.
    pub fn holds(&self, walked: &[(String, Bytes)]) -> Result<()> {
        for (tag, body) in &self.pages {
            let now = walked.iter().find(|(name, _)| name == tag).map(|(_, body)| body);
            ensure!(now == Some(body), "batch {tag} was another when it was downloaded first");
        }
        Ok(())
    }
}

async fn page(
    client: &Client,
    service: SocketAddr,
    country: &str,
    certificate: &str,
    tag: Option<&str>,
) -> Result<Page> {
    // Yesterday, as it may become midnight.
    let since = TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date().checked_sub(1.day())?;
    let mut request = client
        .get(format!("http://{service}/diagnosiskeys/download/{since}"))
        .header("accept", "application/protobuf; version=1.0")
        .header("x-ssl-client-sha256", certificate)
        .header("x-ssl-client-dn", format!("C={country}"))
        .timeout(Duration::from_secs(5));
    if let Some(tag) = tag {
        request = request.header("batchTag", tag);
    }
    let response = request.send().await?;
    if response.status().as_u16() == 404 {
        return Ok(Page::None);
    }
    let response = response.error_for_status()?;
    let header = |name: &str| {
        let value = response.headers().get(name).with_context(|| format!("there is no {name}"))?;
        anyhow::Ok(value.to_str()?.to_owned())
    };
    let (tag, next) = (header("batchTag")?, header("nextBatchTag")?);
    Ok(Page::Batch { tag, next: Some(next).filter(|n| n != "null"), body: response.bytes().await? })
}
