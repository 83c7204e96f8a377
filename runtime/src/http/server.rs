//! The listener itself: bounded in connections, headers and patience, and an end that finishes what was begun.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    time::Duration,
};

use axum::Router;
use axum_server::{
    Handle,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use prometheus::Gauge;
use tokio::task::JoinHandle;

use super::{HttpConfig, TlsConfig, app, cap::Capped, tls};
use crate::{
    clock::{Clock as _, SystemClock},
    exit::Fatal,
    expiry,
    shutdown::Shutdown,
};

/// How long requests in flight may take after the end was asked for.
const GRACE: Duration = Duration::from_secs(30);
/// How long a peer of HTTP/2 may be silent before, and after, it is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// Room for a detached CMS of 16 KiB in base64, beside the other headers.
const MAX_HEAD_BYTES: u32 = 64 << 10;
const MAX_STREAMS: u32 = 32;
/// How often the files of the server's certificate are looked at.
const RELOAD: Duration = Duration::from_secs(60);

/// What a client is given before its connection is closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the head of a request; an idle connection is closed after this, too.
    pub(super) head: Duration,
    /// In which it takes nothing of an answer that waits for it.
    pub(super) answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let generous = Duration::from_secs(30);
        Self { head: generous, answer: generous }
    }
}

/// A running listener. It ends when its [`Shutdown`] is tripped.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens, with the port it was given if port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for its end: no new connections, every request in flight answered or 30 s gone by.
    pub async fn stopped(self) {
        // A task that panicked has stopped as well.
        let _ = self.task.await;
    }
}

/// Listens and serves `router` until `shutdown` is tripped. Reads the files of the server's certificate.
///
/// # Errors
/// The address is taken, or the certificate can not be used.
pub async fn serve(config: &HttpConfig, router: Router, shutdown: Shutdown) -> Result<Server, Fatal> {
    serve_with(config, router, shutdown, Patience::default()).await
}

pub(super) async fn serve_with(
    config: &HttpConfig,
    router: Router,
    shutdown: Shutdown,
    patience: Patience,
) -> Result<Server, Fatal> {
    let unheard =
        |e: io::Error| Fatal::failure(format_args!("http.listen: can not listen on {}: {e}", config.listen));
    let listener = TcpListener::bind(config.listen).map_err(unheard)?;
    let local_addr = listener.local_addr().map_err(unheard)?;
    let service = app(router, &config.trusted_proxies).into_make_service_with_connect_info::<SocketAddr>();

    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)
        .map_err(unheard)?
        .handle(handle.clone())
        .first_request_timeout(patience.head)
        .accept_error_handler(|peer: Option<&SocketAddr>, error| {
            tracing::debug!(?peer, %error, "a connection was not taken");
        });
    let http = server.http_builder();
    http.http1().header_read_timeout(patience.head).max_buf_size(MAX_HEAD_BYTES as usize);
    http.http2()
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);

    let capped = Capped::new(config, patience.answer);
    let serving: Pin<Box<dyn Future<Output = io::Result<()>> + Send>> = match &config.tls {
        None => Box::pin(server.acceptor(capped).serve(service)),
        Some(files) => {
            let tls = tls::load(files).map_err(|e| Fatal::config(format_args!("http.tls: {e}")))?;
            let tls = RustlsConfig::from_config(tls);
            warn(tls::outdated(files, SystemClock.now()).as_deref());
            let ends = expiry::server_certificate()?;
            ends.set(tls::ends_s(files).unwrap_or_default());
            tokio::spawn(reload(files.clone(), tls.clone(), ends, shutdown.clone()));
            Box::pin(server.acceptor(RustlsAcceptor::new(tls).acceptor(capped)).serve(service))
        }
    };
    let task = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the listener stopped");
        }
    });
    tokio::spawn(async move {
        shutdown.wait().await;
        handle.graceful_shutdown(Some(GRACE));
    });
    tracing::info!(address = %local_addr, tls = config.tls.is_some(), "listening");
    Ok(Server { local_addr, task })
}

fn warn(outdated: Option<&str>) {
    if let Some(outdated) = outdated {
        tracing::warn!("http.tls: {outdated}");
    }
}

/// Takes up a renewed certificate without a restart. Its files change one after the other, so that what does not go
/// together now is looked at again later.
async fn reload(files: TlsConfig, tls: RustlsConfig, ends: Gauge, shutdown: Shutdown) {
    let mut said = tls::outdated(&files, SystemClock.now());
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(RELOAD) => (),
        }
        match tls::load(&files) {
            Ok(config) => {
                tls.reload_from_config(config);
                ends.set(tls::ends_s(&files).unwrap_or_default());
            }
            Err(error) => {
                tracing::error!(%error, "the renewed server certificate is not taken up; the old one stays")
            }
        }
        let outdated = tls::outdated(&files, SystemClock.now());
        if outdated != said {
            warn(outdated.as_deref());
            said = outdated;
        }
    }
}
