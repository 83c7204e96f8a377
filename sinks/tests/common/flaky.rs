//! An object store that takes its time, and dies when it is told to: before or after doing what it was asked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use keyferry_runtime::shutdown::Shutdown;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

/// One instance's view of a store that it shares with others.
#[derive(Debug)]
pub struct Flaky {
    inner: Arc<dyn ObjectStore>,
    /// Requests until the instance dies.
    fuse: AtomicI64,
    /// Whether the last request is still done.
    after: bool,
    /// State of a small random generator; 0 for no delays.
    random: AtomicU64,
    /// Whom to tell: an instance is killed, not only its requests.
    stop: Shutdown,
}

impl Flaky {
    pub fn new(inner: Arc<dyn ObjectStore>, fuse: i64, after: bool, seed: u64, stop: Shutdown) -> Arc<Self> {
        Arc::new(Self { inner, fuse: fuse.into(), after, random: seed.into(), stop })
    }

    /// Whether the instance died.
    pub fn is_dead(&self) -> bool {
        self.fuse.load(Ordering::SeqCst) <= 0
    }

    async fn around<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let dead = || Error::Generic { store: "flaky", source: "killed".into() };
        self.delay().await;
        let left = self.fuse.fetch_sub(1, Ordering::SeqCst);
        if left <= 1 {
            self.stop.trip();
        }
        match left {
            ..=0 => Err(dead()),
            1 if self.after => request.await.and(Err(dead())),
            1 => Err(dead()),
            _ => {
                let result = request.await;
                self.delay().await;
                result
            }
        }
    }

    async fn delay(&self) {
        let next = |x: u64| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if self.random.load(Ordering::SeqCst) != 0 {
            let before =
                self.random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(next(x))).unwrap();
            tokio::time::sleep(Duration::from_micros((before >> 33) % 1500)).await;
        }
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.around(self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.around(self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.around(self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A store that does not create objects as it should.
#[derive(Debug)]
pub struct Odd(pub object_store::memory::InMemory, pub Creates);

#[derive(Debug)]
pub enum Creates {
    /// It takes the condition of a put and ignores it.
    Always,
    /// It says that somebody else is about to create it.
    Never,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("odd")
    }
}

#[async_trait]
impl ObjectStore for Odd {
    async fn put_opts(&self, location: &Path, payload: PutPayload, how: PutOptions) -> Result<PutResult> {
        if matches!((&self.1, how.mode), (Creates::Never, PutMode::Create)) {
            let (path, source) = (location.to_string(), "conflict".into());
            return Err(Error::AlreadyExists { path, source });
        }
        self.0.put_opts(location, payload, PutOptions::default()).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
