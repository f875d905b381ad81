//! The agent's own figures for Prometheus: off unless a listener is configured.
//!
//! On a loopback address they are served as plain HTTP. On any other one a certificate for the listener is needed, and scrapers have
//! to show one of theirs. Certificates are read anew for each connection, so that new files need no restart.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use stella_certs::{CertificateDer, certificates_from_pem, tls};
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::message::TaskOutcome;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::journal::Ending;
use crate::resources;
use crate::runner::RunnerHandle;
use crate::session::Link;

/// How many scrapers may be connected: a Prometheus, its twin, and people who look.
const CONNECTIONS_MAX: usize = 8;
/// How long a scraper may take for its handshake, and for the head of a request.
const HEAD_DURATION_MAX: Duration = Duration::from_secs(10);
/// How long one connection may last. A scraper that wants more connects again.
const CONNECTION_DURATION_MAX: Duration = Duration::from_secs(600);
/// The pause after a connection could not be accepted: there are no file descriptors, and that takes a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often finished samples are folded together.
const UPKEEP: Duration = Duration::from_secs(5);
/// Buckets for tasks, in seconds: those of the control plane.
const TASK_SECONDS: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0];

/// Where to listen, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where.
    pub listen: SocketAddr,
    /// Whose certificate; `None` is plain HTTP, on a loopback address only.
    pub tls: Option<Tls>,
}

/// Files, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The listener's certificate, with its intermediates.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Under whose authority scrapers' certificates have to be; `None`: the installation's.
    pub client_ca: Option<PathBuf>,
}

/// Why figures are not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be had.
    #[error("metrics.listen: cannot listen on {address}; is it in use, or not an address of this host?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is not there or not what it should be.
    #[error("metrics.{key}: {} cannot be used: {problem}", path.display())]
    File {
        /// Which key names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another recorder is there.
    #[error("figures are recorded already")]
    Recorder(#[source] metrics_exporter_prometheus::BuildError),
}

/// What an attempt came to.
pub(crate) fn ended(kind: &'static str, ending: &Ending) {
    let status = match ending.outcome {
        TaskOutcome::Succeeded => "succeeded",
        TaskOutcome::Failed { .. } | TaskOutcome::Refused { .. } => "failed",
        TaskOutcome::TimedOut => "timed_out",
        TaskOutcome::Cancelled => "cancelled",
        TaskOutcome::Interrupted => "interrupted",
        TaskOutcome::Unknown { .. } => "unknown",
    };
    counter!("stella_agent_tasks_total", "type" => kind, "status" => status).increment(1);
    if let Some(started_at) = ending.started_at {
        let took = ending.finished_at.since(started_at);
        histogram!("stella_agent_task_duration_seconds", "type" => kind).record(took);
    }
}

/// When the last heartbeat went out: what a session notes and a scrape looks at.
#[derive(Debug)]
pub struct Pulse {
    since: Instant,
    /// Milliseconds after `since`, and 1 more; 0 is never.
    heartbeat: AtomicU64,
}

impl Pulse {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { since: Instant::now(), heartbeat: AtomicU64::new(0) })
    }

    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heartbeat.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// How long ago it was; `None` if there was none.
    fn age(&self) -> Option<Duration> {
        let at = self.heartbeat.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.since.elapsed().saturating_sub(Duration::from_millis(at)))
    }
}

/// What a scrape looks at.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Who this agent is.
    pub who: (TenantId, AgentId),
    /// The roots of the installation.
    pub roots: Vec<CertificateDer<'static>>,
    /// Measured for free space.
    pub host_root: PathBuf,
    /// What runs.
    pub runner: RunnerHandle,
    /// Whether there is a session.
    pub link: watch::Receiver<Option<Link>>,
    /// When the last heartbeat went out.
    pub pulse: Arc<Pulse>,
}

/// A listener that listens.
#[derive(Debug)]
pub struct Exporter {
    config: Config,
    sources: Sources,
    listener: StdListener,
    recorder: PrometheusHandle,
}

impl Exporter {
    /// Listens, and records from now on. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn open(config: Config, sources: Sources) -> Result<Self, Error> {
        if let Some(tls) = &config.tls {
            acceptor(tls, &sources.roots)?;
        }
        let failed = |source| Error::Listen { address: config.listen, source };
        let listener = StdListener::bind(config.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let recorder = recorder(sources.who)?;
        Ok(Self { config, sources, listener, recorder })
    }

    /// Serves until it is dropped.
    pub async fn run(self) {
        let Self { config, sources, listener, recorder } = self;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "figures are not served"),
        };
        tracing::info!(address = %config.listen, tls = config.tls.is_some(), "figures are served");
        let server = Arc::new(Server { tls: config.tls, sources, recorder });
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let Ok(place) = Arc::clone(&free).try_acquire_owned() else { continue };
                        let server = Arc::clone(&server);
                        connections.spawn(async move {
                            let serving = timeout(CONNECTION_DURATION_MAX, server.serve(stream));
                            // What a scraper does wrong is its own matter.
                            drop(serving.await);
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a scraper was not accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = sleep(UPKEEP) => server.recorder.run_upkeep(),
            }
        }
    }
}

/// What every connection has.
#[derive(Debug)]
struct Server {
    tls: Option<Tls>,
    sources: Sources,
    recorder: PrometheusHandle,
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let Some(tls) = self.tls.clone() else { return self.talk(stream).await };
        let roots = self.sources.roots.clone();
        let read = tokio::task::spawn_blocking(move || acceptor(&tls, &roots)).await;
        match read {
            Ok(Ok(acceptor)) => {
                if let Ok(Ok(stream)) = timeout(HEAD_DURATION_MAX, acceptor.accept(stream)).await {
                    self.talk(stream).await;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "a scraper was turned away"),
            Err(error) => tracing::warn!(%error, "a scraper was turned away"),
        }
    }

    async fn talk(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(server.answer(&request)) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DURATION_MAX);
        drop(builder.serve_connection(TokioIo::new(stream), service).await);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        if request.uri().path() != "/metrics" {
            let mut answer = Response::new("there is only /metrics\n".to_owned());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            return answer;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = Response::new(String::new());
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return answer;
        }
        self.look();
        let mut answer = Response::new(self.recorder.render());
        let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }

    /// What is so now.
    fn look(&self) {
        let Sources { runner, host_root, link, pulse, .. } = &self.sources;
        let tasks_running = runner.pulse().tasks_running;
        let host = resources::sample(host_root, tasks_running);
        gauge!("stella_agent_tasks_running").set(f64::from(tasks_running));
        gauge!("stella_agent_load1").set(f64::from(host.load_1m));
        gauge!("stella_agent_memory_available_bytes").set(bytes(host.memory_available_bytes));
        gauge!("stella_agent_memory_total_bytes").set(bytes(host.memory_total_bytes));
        gauge!("stella_agent_disk_available_bytes").set(bytes(host.disk_available_bytes));
        gauge!("stella_agent_session_open").set(f64::from(u8::from(link.borrow().is_some())));
        if let Some(age) = pulse.age() {
            gauge!("stella_agent_heartbeat_age_seconds").set(age.as_secs_f64());
        }
        gauge!("process_resident_memory_bytes").set(bytes(resident_bytes()));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a dashboard shows three digits of it")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

/// What this process has in memory; 0 if that cannot be read.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: Option<u64> = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// Every series names the agent, by its id: its name is the control plane's.
fn recorder((tenant, agent): (TenantId, AgentId)) -> Result<PrometheusHandle, Error> {
    let handle = PrometheusBuilder::new()
        .add_global_label("agent", agent.to_string())
        .add_global_label("tenant", tenant.to_string())
        .set_buckets_for_metric(Matcher::Full("stella_agent_task_duration_seconds".into()), &TASK_SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(Error::Recorder)?;
    describe_counter!("stella_agent_tasks_total", "Tasks executed");
    describe_histogram!("stella_agent_task_duration_seconds", Unit::Seconds, "Task duration");
    describe_gauge!(
        "stella_agent_heartbeat_age_seconds",
        Unit::Seconds,
        "Seconds since the last heartbeat was sent; missing before the first"
    );
    describe_gauge!("stella_agent_session_open", "1 while there is a session with the control plane, else 0");
    describe_gauge!("stella_agent_tasks_running", "Tasks that run now");
    describe_gauge!("stella_agent_load1", "The host's load average of the last minute");
    describe_gauge!(
        "stella_agent_memory_available_bytes",
        Unit::Bytes,
        "The host's memory that is free for use"
    );
    describe_gauge!("stella_agent_memory_total_bytes", Unit::Bytes, "The host's memory in all");
    describe_gauge!("stella_agent_disk_available_bytes", Unit::Bytes, "Free space where the host root is");
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "What the agent has in memory");
    describe_gauge!("stella_build_info", "Always 1; the version is in the label");
    gauge!("stella_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn acceptor(files: &Tls, roots: &[CertificateDer<'static>]) -> Result<TlsAcceptor, Error> {
    let wrong = |key, path: &Path, problem: String| Error::File { key, path: path.to_owned(), problem };
    let read = |key, path: &Path| std::fs::read(path).map_err(|error| wrong(key, path, error.to_string()));
    let certificates = |key, path: &Path| {
        certificates_from_pem(&read(key, path)?).map_err(|error| wrong(key, path, error.to_string()))
    };
    let chain = certificates("certificate", &files.certificate)?;
    let key = zeroize::Zeroizing::new(read("key", &files.key)?);
    let clients = match &files.client_ca {
        Some(path) => certificates("client_ca", path)?,
        None => roots.to_vec(),
    };
    let config = tls::scraped_server(chain, &key, &clients)
        .map_err(|error| wrong("key", &files.key, crate::executor::reason_of(&error)))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
