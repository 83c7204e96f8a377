//! The admin listener: `/livez`, `/readyz`, `/metrics`. Apart from the listeners of the roles, and without TLS: it is
//! for the machine it runs on and its supervisors.

use std::{future::IntoFuture, net::SocketAddr};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Encoder, GaugeVec, TextEncoder};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    clock::{Clock, SystemClock},
    config::AdminConfig,
    exit::Fatal,
    health::{Health, Report},
    metrics,
    shutdown::Shutdown,
};

/// A running admin listener. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    stop: Shutdown,
    task: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Pages {
    health: Health,
    last_progress: GaugeVec,
}

/// Starts the admin listener, in the tokio runtime that it is called in.
///
/// # Errors
/// The address can not be listened on, for example since something else does already.
pub async fn serve(config: &AdminConfig, health: Health) -> Result<AdminServer, Fatal> {
    let help = "When the part of the role that has been silent longest last turned its loop.";
    let last_progress = metrics::float_gauge("keyferry_last_progress_timestamp_seconds", help, &["role"])?;
    metrics::build_info()?;
    let unheard = |e: std::io::Error| {
        Fatal::failure(format_args!("admin.listen: can not listen on {}: {e}", config.listen))
    };
    let listener = TcpListener::bind(config.listen).await.map_err(unheard)?;
    let address = listener.local_addr().map_err(unheard)?;
    let pages = Router::new()
        .route("/livez", get(async |State(pages): State<Pages>| answer(&pages.health.live())))
        .route("/readyz", get(async |State(pages): State<Pages>| answer(&pages.health.ready())))
        .route("/metrics", get(async |State(pages): State<Pages>| pages.metrics()))
        .with_state(Pages { health, last_progress });
    let stop = Shutdown::new();
    let told = stop.clone();
    let server = axum::serve(listener, pages).with_graceful_shutdown(async move { told.wait().await });
    let task = tokio::spawn(async move {
        if let Err(e) = server.into_future().await {
            tracing::error!(error = %e, "the admin listener stopped");
        }
    });
    tracing::info!(%address, "admin listener");
    Ok(AdminServer { address, stop, task: Some(task) })
}

impl AdminServer {
    /// Where it listens; with the real port if 0 was configured.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and waits for the answers that are under way.
    pub async fn stop(mut self) {
        self.stop.trip();
        if let Some(task) = self.task.take() {
            // A task that panicked has stopped as well.
            let _ = task.await;
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.trip();
    }
}

fn answer(report: &Report) -> Response {
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, report.to_string()).into_response()
}

impl Pages {
    fn metrics(&self) -> Response {
        // Told at the time of the scrape and not by each beat: a beat is too frequent, and the wall clock can jump.
        let now = SystemClock.now().0;
        for (role, silence) in self.health.silences() {
            let millis = now.saturating_sub(i64::try_from(silence.as_millis()).unwrap_or(i64::MAX));
            self.last_progress.with_label_values(&[role]).set(millis as f64 / 1000.0);
        }
        let mut text = Vec::new();
        match TextEncoder::new().encode(&prometheus::default_registry().gather(), &mut text) {
            Ok(()) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        }
    }
}
