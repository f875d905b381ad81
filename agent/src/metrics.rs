//! The agent's own figures for Prometheus: off unless a listener is configured.
//!
//! On a loopback address they are served as plain HTTP. On any other one a certificate for the listener is needed, and scrapers have
//! to show one of theirs. Certificates are read anew for each connection, so that new files need no restart.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use stella_certs::{CertificateDer, certificates_from_pem, tls};
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::message::FiguresAt;
use stella_protocol::spec::TaskSpec;
use stella_telemetry::exemplars::{Exemplar, Exemplars, Histogram};
use stella_telemetry::exposition::Exposition;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::journal::Ending;
use crate::observers::{self, Attempted};
use crate::resources::Sampler;
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
/// How long tasks take, in seconds, in the buckets of the control plane.
const TASKS: Histogram = Histogram {
    name: "stella_agent_task_duration_seconds",
    bounds: &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0],
};

/// Where to listen, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where.
    pub listen: SocketAddr,
    /// Whose certificate; `None` is plain HTTP, on a loopback address only.
    pub tls: Option<Tls>,
    /// Where scrapers on other hosts reach it, if that is somewhere else.
    pub advertise: Option<FiguresAt>,
}

impl Config {
    /// Where scrapers on other hosts reach it, as the control plane is told; `None` if they do not.
    ///
    /// What listens on one address is reached there and nowhere else; what listens on all of them, where the control plane sees this host.
    #[must_use]
    pub fn figures_at(&self) -> Option<FiguresAt> {
        let ip = self.listen.ip();
        let own = || FiguresAt {
            host: (!ip.is_unspecified()).then(|| ip.to_canonical().to_string()),
            port: self.listen.port(),
        };
        self.advertise.clone().or_else(|| (!ip.is_loopback()).then(own))
    }
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

/// What attempts came to, with an example of each size.
#[derive(Debug)]
pub struct Figures {
    who: (TenantId, AgentId),
    exemplars: Exemplars,
}

impl Figures {
    /// Of this agent; none yet.
    #[must_use]
    pub fn new(who: (TenantId, AgentId)) -> Self {
        Self { who, exemplars: Exemplars::default() }
    }

    /// Counts an attempt.
    pub(crate) fn ended(&self, attempt: &Attempted, ending: &Ending) {
        let Attempted { kind, trace, .. } = attempt;
        let status = observers::status(&ending.outcome);
        counter!("stella_agent_tasks_total", "type" => *kind, "status" => status).increment(1);
        let Some(started_at) = ending.started_at else { return };
        let took = ending.finished_at.since(started_at);
        histogram!(TASKS.name, "type" => *kind).record(took);
        if trace.is_valid() && trace.sampled {
            let (value, at_ms) = (took.as_secs_f64(), ending.finished_at.0);
            let exemplar = Exemplar { trace_id: trace.trace_id, span_id: trace.span_id, value, at_ms };
            let [agent, tenant] = self.labels();
            self.exemplars.record(&TASKS, &[agent, tenant, ("type", (*kind).to_owned())], exemplar);
        }
    }

    /// Every series names the agent, by its id: its name is the control plane's.
    fn labels(&self) -> [(&'static str, String); 2] {
        let (tenant, agent) = self.who;
        [("agent", agent.to_string()), ("tenant", tenant.to_string())]
    }
}

/// When the last heartbeat went out, and when the certificate ends: what a session notes and a scrape looks at.
#[derive(Debug)]
pub struct Pulse {
    since: Instant,
    /// In seconds since 1970; 0 before the first session.
    certificate_ends: AtomicU64,
    /// Milliseconds after `since`, and 1 more; 0 is never.
    heartbeat: AtomicU64,
}

impl Pulse {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let (certificate_ends, heartbeat) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { since: Instant::now(), certificate_ends, heartbeat })
    }

    /// The certificate that is on the disk ends then.
    pub(crate) fn certified_until(&self, ends: SystemTime) {
        let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.certificate_ends.store(ends.as_secs(), Ordering::Relaxed);
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
    /// What attempts came to.
    pub figures: Arc<Figures>,
    /// The roots of the installation.
    pub roots: Vec<CertificateDer<'static>>,
    /// How the host does.
    pub resources: Sampler,
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
        let recorder = recorder(&sources.figures)?;
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
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DURATION_MAX);
        drop(builder.serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<String> {
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
        self.look().await;
        let accepted = request.headers().get_all(ACCEPT).into_iter().map(HeaderValue::as_bytes);
        let format = Exposition::accepted(accepted);
        let text = format.of(self.recorder.render(), &self.sources.figures.exemplars);
        let mut answer = Response::new(text);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        answer
    }

    /// What is so now.
    async fn look(&self) {
        let Sources { runner, resources, link, pulse, .. } = &self.sources;
        let tasks_running = runner.pulse().tasks_running;
        let host = resources.fresh(tasks_running).await;
        gauge!("stella_agent_tasks_running").set(f64::from(tasks_running));
        gauge!("stella_agent_load1").set(f64::from(host.load_1m));
        gauge!("stella_agent_memory_available_bytes").set(as_f64(host.memory_available_bytes));
        gauge!("stella_agent_memory_total_bytes").set(as_f64(host.memory_total_bytes));
        gauge!("stella_agent_disk_available_bytes").set(as_f64(host.disk_available_bytes));
        gauge!("stella_agent_session_open").set(f64::from(u8::from(link.borrow().is_some())));
        if let Some(age) = pulse.age() {
            gauge!("stella_agent_heartbeat_age_seconds").set(age.as_secs_f64());
        }
        for (output, lines) in stella_telemetry::dropped_lines() {
            counter!("stella_log_lines_dropped_total", "output" => output).absolute(lines);
        }
        gauge!("stella_agent_certificate_expiry_timestamp_seconds")
            .set(as_f64(pulse.certificate_ends.load(Ordering::Relaxed)));
        gauge!("process_resident_memory_bytes").set(as_f64(resident_bytes()));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a dashboard shows three digits of it")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}

/// What this process has in memory; 0 if that cannot be read.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: Option<u64> = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

fn recorder(figures: &Figures) -> Result<PrometheusHandle, Error> {
    let builder = PrometheusBuilder::new();
    let builder =
        figures.labels().into_iter().fold(builder, |it, (key, value)| it.add_global_label(key, value));
    let handle = builder
        .set_buckets_for_metric(Matcher::Full(TASKS.name.into()), TASKS.bounds)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(Error::Recorder)?;
    describe_counter!("stella_agent_tasks_total", "Tasks executed");
    // From 0 on, or the first that ends so is no increase.
    for kind in TaskSpec::KINDS {
        for status in observers::ENDS {
            counter!("stella_agent_tasks_total", "type" => kind, "status" => status).increment(0);
        }
    }
    describe_histogram!(TASKS.name, Unit::Seconds, "Task duration");
    stella_otlp::describe();
    describe_gauge!(
        "stella_agent_heartbeat_age_seconds",
        Unit::Seconds,
        "Since last heartbeat, in seconds; missing before the first"
    );
    describe_gauge!(
        "stella_agent_certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        "When the certificate of this agent ends; it cannot come back by itself after that"
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
    describe_counter!(
        "stella_log_lines_dropped_total",
        "Lines of the log that were dropped, because where they go was too slow"
    );
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
