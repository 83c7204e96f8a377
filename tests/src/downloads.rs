//! Distribution services in processes of their own, and a client that walks their downloads as a national backend does.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use jiff::{ToSpan, tz::TimeZone};
use keyferry_runtime::clock::{Clock, SystemClock};
use keyferry_schemas::{
    batch::sha256,
    country::Country,
    efgs::{self, DiagnosisKey, Encoding},
    records::Hash,
};
use keyferry_sinks::{
    Countries, DistributeConfig,
    config::may_be_gone,
    shelf::Shelf,
    store::{LocalConfig, Store, StoreConfig},
    verify::{Report, verify_store},
};
use reqwest::{Response, StatusCode};
use tokio::runtime::Runtime;

use crate::{
    hub::{Hub, block_on},
    lone::Lone,
};

/// What a service over the store in this folder is told. Few keys are joined, so that there are many batches.
#[must_use]
pub fn config(store: &Path, join_wait_ms: u32) -> DistributeConfig {
    DistributeConfig {
        countries: Countries::All,
        store: StoreConfig::Local(LocalConfig { path: store.to_owned() }),
        download_window_days: 14,
        retention_days: 14,
        sweep_interval_s: 5,
        max_keys_per_download_batch: 40,
        join_wait_ms,
        callbacks: None,
    }
}

impl Hub {
    /// Starts a distribution service in a process of its own, see `bin/lone-distribution.rs`.
    ///
    /// # Errors
    /// It can not be started.
    pub fn lone_distribution(&self, program: &str, store: &Path) -> Result<Lone> {
        self.lone_distribution_that_waits(program, store, 0)
    }

    /// The same with uploads that wait for one another, for up to this long.
    ///
    /// # Errors
    /// It can not be started.
    pub fn lone_distribution_that_waits(&self, program: &str, store: &Path, wait_ms: u32) -> Result<Lone> {
        self.lone(program, &store.to_string_lossy(), &[&wait_ms.to_string()])
    }

    /// The same, with a file that holds the section `callbacks` of its configuration.
    ///
    /// # Errors
    /// It can not be started.
    pub fn lone_distribution_that_calls(
        &self,
        program: &str,
        store: &Path,
        callbacks: &Path,
    ) -> Result<Lone> {
        self.lone(program, &store.to_string_lossy(), &["0", &callbacks.to_string_lossy()])
    }

    /// Verifies the store of one country as `keyferry verify` does.
    ///
    /// # Errors
    /// It can not be read.
    pub fn verify_store(&self, store: &Path, country: &str) -> Result<Report> {
        let versions = self.network()?.versions();
        let config = StoreConfig::Local(LocalConfig { path: store.to_owned() });
        block_on(async {
            let shelf = Shelf::unread(Store::read_only(&config)?, country.parse()?);
            Ok(verify_store(&shelf, versions.as_ref(), may_be_gone(SystemClock.now())).await?)
        })
    }
}

/// Where a service answers.
pub struct Addresses {
    downloads: String,
    admin: String,
}

impl Addresses {
    /// A service behind a proxy that is us.
    #[must_use]
    pub fn of(downloads: &str, admin: &str) -> Self {
        Self { downloads: format!("http://{downloads}"), admin: format!("http://{admin}") }
    }
}

impl Lone {
    /// Waits until the distribution service answers.
    ///
    /// # Errors
    /// It does not within 30 s.
    pub fn addresses(&self) -> Result<Addresses> {
        let file = self.folder.path().join("addresses");
        let give_up = Instant::now() + Duration::from_secs(30);
        while !file.exists() {
            ensure!(Instant::now() < give_up, "the distribution service does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.answers().context("it answers")
    }

    /// Where it answers, if it does.
    #[must_use]
    pub fn answers(&self) -> Option<Addresses> {
        let text = std::fs::read_to_string(self.folder.path().join("addresses")).ok()?;
        let mut lines = text.lines().map(|address| format!("http://{address}"));
        Some(Addresses { downloads: lines.next()?, admin: lines.next()? })
    }
}

/// One batch as it was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its name.
    pub tag: String,
    /// Names its content.
    pub etag: String,
    /// SHA-256 of what came.
    pub hash: Hash,
    /// The keys in it.
    pub keys: Vec<DiagnosisKey>,
}

/// How a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// At a batch after which there is none yet.
    Null,
    /// There is no batch at all.
    Nothing,
    /// With this status.
    Status(StatusCode),
}

/// A national backend that fetches.
pub struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    since: String,
}

impl Client {
    /// One for every country of a hub.
    ///
    /// # Errors
    /// There is no runtime or no client.
    pub fn new() -> Result<Self> {
        // It was installed already, perhaps.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Yesterday, as it may become midnight.
        let since =
            TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date().checked_sub(1.day())?.to_string();
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            http: reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?,
            since,
        })
    }

    /// Downloads every batch of `country` from the first one on.
    ///
    /// # Errors
    /// Nobody answers, or what is answered breaks the contract.
    pub fn walk(&self, hub: &Hub, at: &Addresses, country: &str) -> Result<(Vec<Page>, End)> {
        self.runtime.block_on(async {
            let (mut pages, mut tag) = (Vec::new(), None::<String>);
            loop {
                let response = self.get(hub, at, country.parse()?, tag.as_deref()).await?;
                match response.status() {
                    StatusCode::OK => (),
                    StatusCode::NOT_FOUND if tag.is_none() => return Ok((pages, End::Nothing)),
                    status => return Ok((pages, End::Status(status))),
                }
                let (page, next) = read(response).await?;
                ensure!(tag.is_none_or(|asked| asked == page.tag), "another batch than was asked for");
                pages.push(page);
                if next == "null" {
                    return Ok((pages, End::Null));
                }
                tag = Some(next);
            }
        })
    }

    async fn get(&self, hub: &Hub, at: &Addresses, country: Country, tag: Option<&str>) -> Result<Response> {
        let nation = hub.world.nation(country.as_str())?;
        let mut request = self
            .http
            .get(format!("{}/diagnosiskeys/download/{}", at.downloads, self.since))
            .header("accept", "application/protobuf; version=1.0")
            .header("x-ssl-client-sha256", hex::encode(nation.authentication.certificate.sha256()))
            .header("x-ssl-client-dn", format!("CN=Backend,C={country}"));
        if let Some(tag) = tag {
            request = request.header("batchTag", tag);
        }
        Ok(request.send().await?)
    }

    /// One of the pages for operators, with its status.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn admin(&self, at: &Addresses, page: &str) -> Result<(StatusCode, String)> {
        self.runtime.block_on(async {
            let response = self.http.get(format!("{}/{page}", at.admin)).send().await?;
            Ok((response.status(), response.text().await?))
        })
    }
}

async fn read(response: Response) -> Result<(Page, String)> {
    let header = |name: &str| {
        let value = response.headers().get(name).with_context(|| format!("there is no {name}"))?;
        anyhow::Ok(value.to_str()?.to_owned())
    };
    let (tag, next, etag) = (header("batchTag")?, header("nextBatchTag")?, header("etag")?);
    let body: Bytes = response.bytes().await?;
    let keys =
        efgs::decode(Encoding::Protobuf, body.clone()).map_err(|_| anyhow::anyhow!("{tag} is no batch"))?;
    Ok((Page { tag, etag, hash: sha256(&body), keys }, next))
}
