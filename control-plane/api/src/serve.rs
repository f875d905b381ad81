//! Sockets: the API's listener and the metrics' own, both HTTPS, both stopped by a token.

mod connections;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use stella_api_types::paths;
use stella_telemetry::exposition::Exposition;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{ApiDeps, App, routes};
pub(crate) use connections::LetIn;
use connections::{Bounded, Prompt};

/// How long requests may go on after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the other end of a quiet HTTP/2 connection is asked whether it is still there. It has 20 seconds to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Why a listener cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be had.
    #[error("cannot listen on {address}; is it in use, or not an address of this machine?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The listener broke.
    #[error("the listener on {address} ended")]
    Serve {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Serves the API until `shutdown` is cancelled. `ready` is told the address once connections are taken.
///
/// # Errors
/// As [`Error`] says.
pub async fn serve(
    address: SocketAddr,
    deps: ApiDeps,
    tls: rustls::ServerConfig,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr) + Send,
) -> Result<(), Error> {
    let app = App::new(deps, shutdown.clone());
    let tuning = Arc::clone(&app.tuning);
    let keep_small = tuning.keep_small(shutdown.clone());
    let tls = RustlsConfig::from_config(Arc::new(tls));
    let bounded = Bounded::new(Some(Arc::clone(&tuning)));
    let serving = listen(address, (tls, bounded), routes::with_state(app.clone()), shutdown, ready);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = keep_small => {}
    }
    serving.await
}

/// How the metrics' listener speaks TLS. A cheap clone, through which that is changed while it listens.
#[derive(Clone, Debug)]
pub struct MetricsTls(RustlsConfig);

impl MetricsTls {
    /// As it is at first.
    #[must_use]
    pub fn new(config: rustls::ServerConfig) -> Self {
        Self(RustlsConfig::from_config(Arc::new(config)))
    }

    /// For the handshakes to come.
    pub fn change(&self, config: rustls::ServerConfig) {
        self.0.reload_from_config(Arc::new(config));
    }
}

/// How many pages of metrics are written at the same time. Anybody who reaches that port may ask for one, and one of a large fleet takes
/// a processor for a good part of a second and tens of megabytes: the others wait for their turn.
const RENDERS_MAX: usize = 2;

/// How long a scrape waits for its turn: longer than scrapers do by default. A disk that hangs may hold up those that are being written.
const TURN_DURATION_MAX: Duration = Duration::from_secs(30);

/// What writes all metrics as they are now.
pub type Render = Arc<dyn Fn(Exposition) -> String + Send + Sync>;

/// Serves `/metrics` and nothing else until `shutdown` is cancelled.
///
/// # Errors
/// As [`Error`] says.
pub async fn serve_metrics(
    address: SocketAddr,
    tls: MetricsTls,
    render: Render,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr) + Send,
) -> Result<(), Error> {
    let turns = Arc::new(Semaphore::new(RENDERS_MAX));
    let scrape = move |Extension(connection): Extension<LetIn>, headers: HeaderMap| {
        // There is nothing else here, and no token: whoever asks for it has what there is to have.
        connection.now();
        let accepted = headers.get_all(header::ACCEPT).into_iter().map(HeaderValue::as_bytes);
        let (format, render, turns) =
            (Exposition::accepted(accepted), Arc::clone(&render), Arc::clone(&turns));
        async move {
            let Some(turn) = turn(turns).await else {
                tracing::warn!(
                    "a scrape was turned away: those before it have not been written for too long"
                );
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            };
            // Rendering a large fleet takes time that the runtime's workers should not lose. The turn goes on if the scraper goes away.
            let rendered = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                render(format)
            });
            answer(rendered.await, format)
        }
    };
    let router = Router::new().route(paths::METRICS, get(scrape));
    listen(address, (tls.0, Bounded::new(None)), router, shutdown, ready).await
}

/// Whether a page may be written now, or a little later.
async fn turn(turns: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    // Nobody closes it.
    timeout(TURN_DURATION_MAX, turns.acquire_owned()).await.ok()?.ok()
}

/// Nothing is no figures: a scraper that got an empty page would take every series for gone, and its alerts for resolved.
fn answer(rendered: Result<String, JoinError>, format: Exposition) -> Response {
    match rendered {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the figures cannot be rendered; this is a defect");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn listen(
    address: SocketAddr,
    (tls, bounded): (RustlsConfig, Bounded),
    router: Router,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr) + Send,
) -> Result<(), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let handle = Handle::new();
    let stop = handle.clone();
    let acceptor = Prompt::new(RustlsAcceptor::new(tls).acceptor(bounded));
    let mut server = axum_server::from_tcp(listener).map_err(failed)?.acceptor(acceptor).handle(handle);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.http_builder().http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE_INTERVAL);
    let serving = server.serve(router.into_make_service_with_connect_info::<SocketAddr>());
    tokio::pin!(serving);
    ready(bound);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            stop.graceful_shutdown(Some(GRACE));
            serving.await
        }
    };
    ended.map_err(|source| Error::Serve { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_scrape_waits_for_its_turn_and_not_for_ever() {
        let turns = Arc::new(Semaphore::new(1));
        let first = turn(Arc::clone(&turns)).await.unwrap();
        assert!(turn(Arc::clone(&turns)).await.is_none(), "the first is not written yet");
        drop(first);
        assert!(turn(turns).await.is_some());
    }

    #[tokio::test]
    async fn figures_that_cannot_be_rendered_are_no_empty_page() {
        let format = Exposition::Text;
        let rendered = tokio::task::spawn_blocking(|| "stella_build_info 1\n".to_owned()).await;
        assert_eq!(answer(rendered, format).status(), StatusCode::OK);
        let panicked = tokio::task::spawn_blocking(|| -> String { panic!("a defect") }).await;
        assert_eq!(answer(panicked, format).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
