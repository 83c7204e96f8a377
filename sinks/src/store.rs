//! The object store: a directory or an S3 bucket, and what is asked of either: that an object can be created only once.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, aws::AmazonS3Builder,
    aws::S3ConditionalPut, local::LocalFileSystem, path::Path, prefix::PrefixStore,
};
use serde::Deserialize;

use keyferry_runtime::{
    config::{Check, Faults},
    failpoint,
};
use keyferry_schemas::country::Country;

use crate::files;

/// How long a request to a bucket is repeated.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the store is: `store: {local: {path: ...}}` or `store: {s3: {bucket: ...}}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreConfig {
    /// A directory of this machine, or of a file system that gives its guarantees.
    Local(LocalConfig),
    /// A bucket.
    S3(S3Config),
}

/// A store in a directory.
#[derive(Debug, Clone, Deserialize)]
pub struct LocalConfig {
    /// The directory; made if it is not there.
    pub path: PathBuf,
}

/// A store in a bucket. Credentials come from the environment as every S3 client reads them (`AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`, or the identity of the pod), never from the file.
#[derive(Debug, Clone, Deserialize)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// Its region.
    #[serde(default)]
    pub region: Option<String>,
    /// Another S3 than that of Amazon.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// What every name begins with, if the bucket is shared.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Whether `endpoint` may be without TLS, as in tests.
    #[serde(default)]
    pub allow_http: bool,
}

impl Check for StoreConfig {
    fn check(&self, faults: &mut Faults) {
        match self {
            Self::Local(local) => faults.section("local", local),
            Self::S3(s3) => faults.section("s3", s3),
        }
    }
}

impl Check for LocalConfig {
    fn check(&self, faults: &mut Faults) {
        if self.path.as_os_str().is_empty() {
            faults.add("path", "is empty");
        } else if self.path.is_file() {
            faults.add("path", "is a file; it has to be a directory");
        }
    }
}

impl Check for S3Config {
    fn check(&self, faults: &mut Faults) {
        if self.bucket.is_empty() {
            faults.add("bucket", "is empty");
        }
        if let Some(endpoint) = &self.endpoint {
            let plain = endpoint.starts_with("http://");
            if !plain && !endpoint.starts_with("https://") {
                faults.add("endpoint", "is no http or https URL");
            } else if plain && !self.allow_http {
                faults.add("endpoint", "is without TLS; set `allow_http: true` if that is meant");
            }
        }
    }
}

/// What went wrong with the store. Its `Display` is one line.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can not be had with this configuration.
    #[error("the store can not be used: {0}")]
    Config(String),
    /// It creates an object twice, so that two instances would overwrite each other.
    #[error(
        "the store {0} does not support conditional put (create only if absent), which Keyferry rests on: use another"
    )]
    NoConditionalPut(String),
    /// It does not do what it is asked now; later it may.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// What stands in it is not what belongs there.
    #[error("{name} in the store is not to be trusted: {reason}")]
    Corrupt {
        /// Name of the object.
        name: String,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    fn unavailable(error: &Error) -> Self {
        Self::Unavailable(one_line(error))
    }
}

fn one_line(what: &impl fmt::Display) -> String {
    what.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A store that creates objects only once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Of a local store: where half-written files may be left behind.
    pub(crate) directory: Option<PathBuf>,
}

/// What became of an object that was to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    New,
    /// It was there already and was not touched.
    Exists,
}

impl Store {
    /// Opens the store and proves that it creates objects only once. Blocks on a few requests.
    ///
    /// # Errors
    /// [`StoreError::Config`], [`StoreError::NoConditionalPut`] or [`StoreError::Unavailable`].
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let store = match config {
            StoreConfig::Local(local) => Self::local(local)?,
            StoreConfig::S3(s3) => Self::s3(s3)?,
        };
        store.prove().await?;
        Ok(store)
    }

    /// Opens the store of another for reading: nothing is made, and nothing is proven.
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn read_only(config: &StoreConfig) -> Result<Self, StoreError> {
        match config {
            StoreConfig::Local(local) => {
                let failed =
                    |e: Error| StoreError::Config(format!("{}: {}", local.path.display(), one_line(&e)));
                Ok(Self::over(Arc::new(LocalFileSystem::new_with_prefix(&local.path).map_err(failed)?)))
            }
            StoreConfig::S3(s3) => Self::s3(s3),
        }
    }

    /// Takes over an object store as it is.
    #[must_use]
    pub fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, directory: None }
    }

    fn local(config: &LocalConfig) -> Result<Self, StoreError> {
        let failed =
            |e: &dyn fmt::Display| StoreError::Config(format!("{}: {}", config.path.display(), one_line(&e)));
        std::fs::create_dir_all(&config.path).map_err(|e| failed(&e))?;
        // What is acknowledged has to survive the machine's fall, as in a bucket.
        let files = LocalFileSystem::new_with_prefix(&config.path).map_err(|e| failed(&e))?.with_fsync(true);
        Ok(Self { objects: Arc::new(files), directory: Some(config.path.clone()) })
    }

    fn s3(config: &S3Config) -> Result<Self, StoreError> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&config.bucket)
            // Not for the environment to turn off.
            .with_conditional_put(S3ConditionalPut::ETagMatch);
        // A worker that waits for the store reads nothing, so each request ends soon: what asks is asked again anyway.
        let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        builder = builder.with_retry(retry);
        if let Some(region) = &config.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(config.allow_http);
        }
        let bucket = builder.build().map_err(|e| StoreError::Config(one_line(&e)))?;
        let objects: Arc<dyn ObjectStore> = match config.prefix.as_deref().filter(|p| !p.is_empty()) {
            Some(prefix) => Arc::new(PrefixStore::new(bucket, prefix)),
            None => Arc::new(bucket),
        };
        Ok(Self::over(objects))
    }

    /// Proves that an object can be created only once: stores exist that take the condition and ignore it.
    ///
    /// # Errors
    /// [`StoreError::NoConditionalPut`] or [`StoreError::Unavailable`].
    pub async fn prove(&self) -> Result<(), StoreError> {
        let probe = Path::from("probe/created-once");
        let refused = || StoreError::NoConditionalPut(self.objects.to_string());
        // It stays there: with one shared probe, instances that start together prove the same.
        match self.create(&probe, Bytes::from_static(b"keyferry\n")).await {
            Ok(_) => (),
            Err(StoreError::NoConditionalPut(_)) => return Err(refused()),
            Err(e) => return Err(e),
        }
        match self.create(&probe, Bytes::from_static(b"another\n")).await? {
            Created::Exists => Ok(()),
            Created::New => Err(refused()),
        }
    }

    /// Creates an object unless it is there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: then it may be there or not.
    pub async fn create(&self, path: &Path, bytes: Bytes) -> Result<Created, StoreError> {
        let options = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(path, bytes.into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Exists),
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                Err(StoreError::NoConditionalPut(self.objects.to_string()))
            }
            Err(e) => Err(StoreError::unavailable(&e)),
        }
    }

    /// Writes an object whose name says what is in it, so that writing it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        self.objects.put(path, bytes.into()).await.map(|_| ()).map_err(|e| StoreError::unavailable(&e))
    }

    /// Writes `data`, whose name says what is in it, and then creates `log`, which stands for it, unless that is there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: then either may be there or not, but `log` never without `data`.
    pub async fn publish(&self, data: (&Path, Bytes), log: (&Path, Bytes)) -> Result<Created, StoreError> {
        if let Some(directory) = &self.directory {
            let place = |path: &Path| directory.join(path.as_ref());
            let ((data, keys), (log, entry)) =
                ((place(data.0), data.1.clone()), (place(log.0), log.1.clone()));
            let publish = move || files::publish((&data, &keys), (&log, &entry));
            let published = tokio::task::spawn_blocking(publish).await.map_err(io::Error::other);
            match published.and_then(|done| done) {
                Ok(Some(created)) => return Ok(created),
                Ok(None) => (),
                Err(e) => return Err(StoreError::Unavailable(one_line(&e))),
            }
        }
        self.put(data.0, data.1).await?;
        failpoint::pass("append-data");
        self.create(log.0, log.1).await
    }

    /// The whole object; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found.bytes().await,
            Err(e) => Err(e),
        };
        present(found)
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn exists(&self, path: &Path) -> Result<bool, StoreError> {
        present(self.objects.head(path).await).map(|found| found.is_some())
    }

    /// The names directly or indirectly below `prefix`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list(&self, prefix: &Path) -> Result<Vec<Path>, StoreError> {
        let names = self.objects.list(Some(prefix)).map_ok(|ObjectMeta { location, .. }| location);
        names.try_collect().await.map_err(|e| StoreError::unavailable(&e))
    }

    /// Deletes an object; that there is none is as good.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        present(self.objects.delete(path).await).map(|_| ())
    }
}

fn present<T>(found: Result<T, Error>) -> Result<Option<T>, StoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(StoreError::unavailable(&e)),
    }
}

/// Where the log objects of a country are.
#[must_use]
pub fn log_prefix(country: Country) -> Path {
    Path::from(format!("log/{}", country.lower()))
}

/// Where log object `number` of a country is. Padded, so that a listing is in order.
#[must_use]
pub fn log_path(country: Country, number: u64) -> Path {
    log_prefix(country).join(format!("{number:010}"))
}

/// Where the data objects of a country are.
#[must_use]
pub fn data_prefix(country: Country) -> Path {
    Path::from(format!("data/{}", country.lower()))
}

/// Where a data object of a country is.
#[must_use]
pub fn data_path(country: Country, name: &str) -> Path {
    data_prefix(country).join(name)
}
