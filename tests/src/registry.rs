//! A schema registry of a test's own: Apicurio, by its API of Confluent's kind.

use std::{
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use keyferry_runtime::{
    broker::{default_jars, free_ports},
    config::RegistryConfig,
    dependent::{Dependent, last_lines},
};
use serde_json::{Value, json};

use crate::hub::block_on;

/// 4 s are usual on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const PORT_TRIES: usize = 5;

/// A registry; ends with the test.
pub struct Registry {
    process: Option<Dependent>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Registry {
    /// Starts it, empty. Takes some seconds.
    ///
    /// # Errors
    /// It is not there, or does not start.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("keyferry-registry-").tempdir()?;
        let mut registry = Self { process: None, port: 0, folder };
        for _ in 1..PORT_TRIES {
            // It was free a moment ago, and may be taken a moment later.
            [registry.port] = free_ports()?;
            if registry.start_again().is_ok() {
                return Ok(registry);
            }
        }
        [registry.port] = free_ports()?;
        registry.start_again()?;
        Ok(registry)
    }

    /// Starts it where it was, with what it knew.
    ///
    /// # Errors
    /// It does not start; what it says of that is part of the error.
    pub fn start_again(&mut self) -> Result<()> {
        let log = self.folder.path().join("registry.log");
        let from = std::fs::metadata(&log).map_or(0, |log| log.len());
        let java = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
        let java = java.filter(|java| java.is_file()).unwrap_or_else(|| "java".into());
        let database = self.folder.path().join("database");
        let arguments = [
            "-Xms64m".into(),
            "-Xmx384m".into(),
            "-XX:+UseSerialGC".into(),
            "-XX:TieredStopAtLevel=1".into(),
            "-XX:-UsePerfData".into(),
            "-Dquarkus.http.host=127.0.0.1".into(),
            format!("-Dquarkus.http.port={}", self.port),
            // In memory unless told, and then it forgets all when it stops.
            format!("-Dapicurio.datasource.url=jdbc:h2:file:{}", database.display()),
            "-jar".into(),
            archive()?.display().to_string(),
        ];
        let mut process = Dependent::launch(&java, arguments, &log, Some(self.folder.path()))?;
        let begun = Instant::now();
        while begun.elapsed() < START_LIMIT {
            if let Some(status) = process.ended()? {
                bail!("the registry ended ({status}): {}", last_lines(&log, from));
            }
            let listens = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            if listens && self.ask("subjects", None).is_ok() {
                self.process = Some(process);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the registry is not ready: {}", last_lines(&log, from))
    }

    /// Stops it. What it knows stays, for [`Registry::start_again`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn stop(&mut self) -> Result<()> {
        Ok(self.process.take().map_or(Ok(()), |process| process.terminate(STOP_LIMIT))?)
    }

    /// Where its API is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// The same, for a role. An answer may take its time on a shared machine.
    #[must_use]
    pub fn config(&self) -> RegistryConfig {
        RegistryConfig { url: self.url(), timeout_ms: 30_000 }
    }

    /// Registers a schema under a subject, as somebody else does; its id.
    ///
    /// # Errors
    /// It is not taken.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let answer = self.ask(&format!("subjects/{subject}/versions"), Some(json!({ "schema": schema })))?;
        Ok(answer["id"].as_u64().context("no id")?.try_into()?)
    }

    /// The schema with this id.
    ///
    /// # Errors
    /// There is none.
    pub fn schema(&self, id: u32) -> Result<String> {
        let answer = self.ask(&format!("schemas/ids/{id}"), None)?;
        Ok(answer["schema"].as_str().context("no schema")?.to_owned())
    }

    fn ask(&self, path: &str, body: Option<Value>) -> Result<Value> {
        // It was installed already, perhaps.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        block_on(async {
            let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
            let url = format!("{}/{path}", self.url());
            let request = match body {
                None => client.get(url),
                Some(body) => client
                    .post(url)
                    .header("content-type", "application/vnd.schemaregistry.v1+json")
                    .body(body.to_string()),
            };
            let answer = request.send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "{path}: {status} {text}");
            Ok(serde_json::from_str(&text)?)
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Unpacked beside the broker's jars.
fn archive() -> Result<PathBuf> {
    let jars = default_jars()?;
    let app = jars.ancestors().nth(2).context("jars have a folder")?.join("registry/app");
    let missing = || format!("no schema registry in {}: run `make setup`", app.display());
    let mut files = app.read_dir().with_context(missing)?.flatten().map(|file| file.path());
    files.find(|file| file.to_string_lossy().ends_with("-runner.jar")).with_context(missing)
}
