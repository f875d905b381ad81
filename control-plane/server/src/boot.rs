//! From a configuration to a running control plane, and back: the only place that connects the rooms.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use stella_api::{ApiConfig, ApiDeps, OnAnswer};
use stella_certs::Authority;
use stella_certs::tls::{self, ServerIdentity};
use stella_engine::{Condition, Engine, Handle};
use stella_fleet::{Fleet, FleetConfig, FleetDeps};
use stella_journal::{JournalConfig, SledJournal};
use stella_notify::notifier::Notifier;
use stella_publish::nats::Nats;
use stella_publish::place::StateFile;
use stella_publish::publisher::Publisher;
use stella_store::{ArtifactStore, OutputStore};
use stella_telemetry::LogLevel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::calls::{Caller, Destinations};
use crate::config::Config;
use crate::local::Local;
use crate::traces::Traces;
use crate::{backup, current, first_start, local, logs, metrics, spans, systemd};

/// How long the control plane's own certificate is valid. It is made anew at every start and daily in between.
const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How often it is made anew.
const SERVER_CERTIFICATE_RENEWAL: Duration = Duration::from_secs(86_400);
/// How long the listeners may take to end what is going on.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(15);
/// How often finished histogram samples are folded together, so that they do not pile up between scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Runs the control plane until it is told to stop.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    let log = stella_telemetry::init(&stella_telemetry::Config {
        service: "stella-orchestrator",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log.level.clone(),
        format: config.log.format,
        file: config.log.file.clone(),
    })?;
    stella_certs::install_provider();
    backup::refuse_unfinished(&config.state_dir)?;
    private_dir(&config.state_dir)?;
    let recorder = metrics::install()?;
    let journal = open_journal(&config)?;
    let engine = Engine::start(
        journal,
        stella_engine::Config {
            snapshot_every_events: config.journal.snapshot_every_events,
            ..Default::default()
        },
    )
    .context("the journal does not lead to a state")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let traces = Traces::start(&config.traces)?;
    let ended = runtime.block_on(serve(&config, &engine, recorder, traces.as_ref(), log.level()));
    if let Some(traces) = traces {
        traces.stop();
    }
    runtime.shutdown_timeout(DRAIN_TIME_MAX);
    let failure = engine.condition().borrow().clone();
    engine.stop();
    if let Condition::Failed(problem) = failure {
        bail!("the journal failed: {problem}");
    }
    tracing::info!("stopped");
    ended
}

fn open_journal(config: &Config) -> anyhow::Result<Arc<SledJournal>> {
    let settings = JournalConfig {
        cache_bytes: config.journal.cache_bytes,
        reserve_bytes: config.journal.reserve_bytes,
    };
    let journal =
        SledJournal::open(&config.journal_dir(), settings).context("the journal cannot be opened")?;
    Ok(Arc::new(journal))
}

fn private_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("the state folder {} cannot be created", path.display()))
}

/// The certificates: the authority, and the control plane's own.
#[derive(Clone)]
struct Pki {
    authority: Arc<Authority>,
    identity: Arc<ServerIdentity>,
}

fn open_pki(config: &Config) -> anyhow::Result<Pki> {
    let now = SystemTime::now();
    let authority = Authority::open_or_create(&config.state_dir.join("pki"), now)
        .context("the certificate authority cannot be opened")?;
    let own = authority.issue_server(&config.api.names, now, SERVER_CERTIFICATE_LIFETIME)?;
    current::certificates(&own.chain);
    Ok(Pki { authority: Arc::new(authority), identity: ServerIdentity::new(&own)? })
}

async fn serve(
    config: &Config,
    engine: &Engine,
    recorder: PrometheusHandle,
    traces: Option<&Arc<Traces>>,
    log_level: LogLevel,
) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let _stop_all_on_return = shutdown.clone().drop_guard();
    let tasks = TaskTracker::new();
    let pki = open_pki(config)?;
    first_start::ensure_api_token(&engine.handle(), &config.state_dir).await?;
    let logging = CancellationToken::new();
    follow_journal(config, engine, traces, &tasks, &logging).await?;
    let destinations = Destinations::parse(&config.workflows.http_allowed)?;
    tasks.spawn(Caller::new(engine.handle(), destinations)?.run(shutdown.clone()));
    tasks.spawn(renew_certificate(config.api.names.clone(), pki.clone(), shutdown.clone()));
    tasks.spawn(keep_up(recorder.clone(), shutdown.clone()));

    let reserve_bytes = config.journal.reserve_bytes;
    let artifacts = Arc::new(ArtifactStore::open(config.state_dir.join("artifacts"), reserve_bytes)?);
    let output = OutputStore::open(config.state_dir.join("output"), reserve_bytes)?;
    let fleet_deps = FleetDeps {
        engine: engine.handle(),
        authority: Arc::clone(&pki.authority),
        identity: Arc::clone(&pki.identity),
        artifacts: Arc::clone(&artifacts),
        output: Arc::clone(&output),
        last_seen_file: config.state_dir.join("last-seen"),
    };
    let fleet = Arc::new(Fleet::start(fleet_config(config), fleet_deps, shutdown.clone())?);

    let api_deps = ApiDeps {
        engine: engine.handle(),
        artifacts,
        output,
        version: env!("CARGO_PKG_VERSION"),
        root_fingerprint: pki.authority.root_fingerprint(),
        agent_address: agent_address(config, fleet.local_addr()),
        log_level,
        on_answer: traces
            .cloned()
            .map(|traces| OnAnswer(Arc::new(move |request| spans::of_request(&traces, request)))),
    };
    let (api, api_address) = listening(|ready| {
        let tls = tls::https_server(&pki.identity)?;
        Ok(tasks.spawn(stella_api::serve(api_config(config), api_deps, tls, shutdown.clone(), ready)))
    })
    .await?;
    let render = scrape(recorder, engine.handle(), Arc::clone(&fleet), config.state_dir.clone());
    let (metrics, metrics_address) = listening(|ready| {
        let tls = tls::metrics_server(&pki.identity, config.metrics.client_roots()?.as_deref())?;
        Ok(tasks.spawn(stella_api::serve_metrics(
            config.metrics.listen,
            tls,
            render,
            shutdown.clone(),
            ready,
        )))
    })
    .await?;
    let administration = Local::new(engine.handle(), config.state_dir.clone(), shutdown.clone());
    tasks.spawn(local::serve(administration, local::bind(&config.state_dir)?));
    tasks.spawn(stella_gates::run(engine.handle(), config.gates.sources()?, shutdown.clone()));
    tasks.spawn(systemd::feed_watchdog(engine.handle(), shutdown.clone()));
    systemd::ready();
    tracing::info!(agents = %fleet.local_addr(), api = %api_address, metrics = %metrics_address, "ready");

    let ended = until_stopped(engine, api, metrics).await;
    systemd::stopping();
    shutdown.cancel();
    fleet.stopped().await;
    // The ends of the agents' sessions are in the journal now, and in the log after this.
    logging.cancel();
    tasks.close();
    if tokio::time::timeout(DRAIN_TIME_MAX, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "not everything ended in time");
    }
    ended
}

/// Starts whoever reads what is committed: the log, traces, the event bus, notifications.
async fn follow_journal(
    config: &Config,
    engine: &Engine,
    traces: Option<&Arc<Traces>>,
    tasks: &TaskTracker,
    until: &CancellationToken,
) -> anyhow::Result<()> {
    tasks.spawn(logs::follow(engine.handle(), until.clone()));
    if let Some(traces) = traces {
        tasks.spawn(spans::follow(engine.handle(), Arc::clone(traces), until.clone()));
    }
    if let Some(publisher) = publisher(config, engine).await? {
        tasks.spawn(publisher.run(until.clone()));
    }
    if let Some(notifier) = notifier(config, engine).await? {
        tasks.spawn(notifier.run(until.clone()));
    }
    Ok(())
}

/// What sends events to the bus, if there is one.
async fn publisher(config: &Config, engine: &Engine) -> anyhow::Result<Option<Publisher<Nats>>> {
    let bus = &config.event_bus;
    let Some(nats) = bus.nats()? else { return Ok(None) };
    let nats = Nats::connect(nats).await.context("event_bus")?;
    let file = StateFile::new(config.state_dir.join("event-bus.json"));
    let publisher = Publisher::start(engine.handle(), file, nats, bus.source.clone(), bus.begin).await;
    publisher.map(Some).context("events cannot be published")
}

/// What tells people, if there is anybody to be told.
async fn notifier(config: &Config, engine: &Engine) -> anyhow::Result<Option<Notifier>> {
    let receivers = config.notifications.receivers()?;
    if receivers.is_empty() {
        return Ok(None);
    }
    let file = StateFile::new(config.state_dir.join("notifications.json"));
    let notifier = Notifier::start(engine.handle(), file, receivers, config.notifications.routes()).await;
    notifier.map(Some).context("notifications cannot be made")
}

type Listener = JoinHandle<Result<(), stella_api::Error>>;

/// Starts a listener and waits until it listens, or says why it does not.
async fn listening(
    start: impl FnOnce(Box<dyn FnOnce(SocketAddr) + Send>) -> anyhow::Result<Listener>,
) -> anyhow::Result<(Listener, SocketAddr)> {
    let (ready, address) = oneshot::channel();
    // Nobody waits any more only when the start failed already.
    let listener = start(Box::new(move |at| {
        ready.send(at).ok();
    }))?;
    match address.await {
        Ok(at) => Ok((listener, at)),
        Err(_) => match listener.await? {
            Ok(()) => bail!("a listener ended before it listened"),
            Err(error) => Err(error.into()),
        },
    }
}

/// Waits for a signal, or for a part that cannot go on.
async fn until_stopped(engine: &Engine, mut api: Listener, mut metrics: Listener) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut condition = engine.condition();
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        _ = condition.wait_for(|condition| *condition != Condition::Running) => {
            // The caller says why once everything is down.
            tracing::error!("the journal has stopped");
        }
        ended = &mut api => return ended?.context("the API's listener ended"),
        ended = &mut metrics => return ended?.context("the metrics listener ended"),
    }
    Ok(())
}

fn fleet_config(config: &Config) -> FleetConfig {
    FleetConfig {
        heartbeat_interval_ms: config.agents.heartbeat_interval_ms,
        certificate_lifetime: Duration::from_secs(config.agents.certificate_lifetime_s),
        ..FleetConfig::new(config.agents.listen)
    }
}

fn api_config(config: &Config) -> ApiConfig {
    ApiConfig {
        listen: config.api.listen,
        artifact_bytes_max: config.api.artifact_bytes_max,
        requests_per_minute: config.api.requests_per_minute,
        burst: config.api.burst,
        tenant_requests_per_minute: config.api.tenant_requests_per_minute,
    }
}

/// What agents are told to dial: as configured, or the first name of the certificate, or this machine's loopback.
fn agent_address(config: &Config, listening: SocketAddr) -> String {
    config.agents.advertise.clone().unwrap_or_else(|| {
        let host = config.api.names.first().map_or("localhost", String::as_str);
        format!("{host}:{}", listening.port())
    })
}

fn scrape(
    recorder: PrometheusHandle,
    engine: Handle,
    fleet: Arc<Fleet>,
    state_dir: PathBuf,
) -> Arc<dyn Fn() -> String + Send + Sync> {
    Arc::new(move || metrics::render(&recorder, &engine, &fleet, &state_dir))
}

async fn keep_up(recorder: PrometheusHandle, shutdown: CancellationToken) {
    while tokio::time::timeout(METRICS_UPKEEP, shutdown.cancelled()).await.is_err() {
        recorder.run_upkeep();
    }
}

async fn renew_certificate(names: Vec<String>, pki: Pki, shutdown: CancellationToken) {
    while tokio::time::timeout(SERVER_CERTIFICATE_RENEWAL, shutdown.cancelled()).await.is_err() {
        let renewed = pki.authority.issue_server(&names, SystemTime::now(), SERVER_CERTIFICATE_LIFETIME);
        let replaced = renewed.map_err(anyhow::Error::from).and_then(|own| {
            pki.identity.replace(&own)?;
            current::certificates(&own.chain);
            Ok(())
        });
        match replaced {
            Ok(()) => tracing::info!("the control plane's certificate was renewed"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the control plane's certificate was not renewed"
            ),
        }
    }
}
