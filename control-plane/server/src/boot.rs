//! From a configuration to a running control plane, and back: the only place that connects the rooms.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use stella_api::{AgentsDial, ApiConfig, ApiDeps, LookAtHosts, MetricsTls, OnAnswer, Render, Tuning};
use stella_certs::{HookKey, tls};
use stella_domain::state::State;
use stella_engine::{Condition, Engine, Handle};
use stella_fleet::{Fleet, FleetConfig, FleetDeps};
use stella_journal::{JournalConfig, SledJournal};
use stella_parts::Parts;
use stella_publish::nats::Nats;
use stella_publish::publisher::Publisher;
use stella_readers::live::Live;
use stella_readers::place::StateFile;
use stella_store::{ArtifactStore, OutputStore};
use stella_telemetry::LogLevel;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authority::{self, Rotator};
use crate::calls::Caller;
use crate::config::{Config, Loaded};
use crate::followed::Followed;
use crate::local::Local;
use crate::look::{Listening, View};
use crate::measured::Measurements;
use crate::pki::{self, Pki};
use crate::reload::Reloader;
use crate::traces::Traces;
use crate::{
    backup, current, first_start, followed, itself, local, logs, metrics, reload, spans, stores, systemd,
    written_by,
};

/// How long the listeners may take to end what is going on.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(15);
/// How often finished histogram samples are folded together, so that they do not pile up between scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Runs the control plane until it is told to stop. Why it ends is in the log, also if it never got anywhere.
pub(crate) fn run(loaded: &Loaded) -> anyhow::Result<()> {
    let config = &loaded.config;
    let log = stella_telemetry::init(&stella_telemetry::Config {
        service: "stella-orchestrator",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log.level.clone(),
        format: config.log.format,
        file: config.log.file.clone(),
    })?;
    let ended = start_and_serve(loaded, log.level());
    // Here, while there is a log.
    match &ended {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::error!(error = format!("{error:#}"), "stopped"),
    }
    ended
}

fn start_and_serve(loaded: &Loaded, log_level: LogLevel) -> anyhow::Result<()> {
    let config = &loaded.config;
    backup::refuse_unfinished(&config.state_dir)?;
    written_by::refuse_newer(&config.state_dir)?;
    written_by::refuse_lost_journal(&config.state_dir, &config.journal_dir())?;
    private_dir(&config.state_dir)?;
    let recorder = metrics::install()?;
    current::reserve(config.journal.reserve_bytes);
    let journal = open_journal(config)?;
    let engine = Engine::start(
        journal,
        stella_engine::Config {
            snapshot_every_events: config.journal.snapshot_every_events,
            awaits_agents: true,
            ..Default::default()
        },
    )
    .context("the journal does not lead to a state")?;
    // From here on events are written that an older program would misread.
    written_by::remember(&config.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let traces = Traces::start(&config.traces)?;
    let ended = runtime.block_on(serve(loaded, &engine, recorder, traces.as_ref(), log_level));
    if let Some(traces) = traces {
        traces.stop();
    }
    runtime.shutdown_timeout(DRAIN_TIME_MAX);
    if let Condition::Failed(problem) = engine.stop() {
        bail!("the journal failed: {problem}");
    }
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

/// Opens the authority; makes one at the first start alone.
fn open_pki(config: &Config, engine: &Engine) -> anyhow::Result<Pki> {
    let is_in_use = written_by::is_in_use(&engine.handle().state());
    written_by::refuse_lost_authority(&config.state_dir, is_in_use)?;
    Pki::open(config)
}

pub(crate) fn private_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("the state folder {} cannot be created", path.display()))
}

async fn serve(
    loaded: &Loaded,
    engine: &Engine,
    recorder: PrometheusHandle,
    traces: Option<&Arc<Traces>>,
    log_level: LogLevel,
) -> anyhow::Result<()> {
    let config = &loaded.config;
    let signals = Signals::listen()?;
    let shutdown = CancellationToken::new();
    let _stop_all_on_return = shutdown.clone().drop_guard();
    let running = Running { tasks: TaskTracker::new(), parts: Parts::default() };
    let pki = open_pki(config, engine)?;
    first_start::ensure_api_token(&engine.handle(), &config.state_dir).await?;
    authority::resume(&engine.handle(), &pki).await?;
    let logging = CancellationToken::new();
    let followed = Followed::new(config)?;
    let measurements = follow_journal((config, &followed, &pki), engine, traces, &running, &logging).await?;
    let tuning = Tuning::new(&api_config(config)?);
    let scraping = MetricsTls::new(pki.metrics_server(config)?);
    let taken_over = (scraping.clone(), followed);
    let reloader = Reloader::new(loaded, log_level.clone(), Arc::clone(&tuning), pki.clone(), taken_over)?;
    running.other("reload", &shutdown, reload::at_hangups(Arc::clone(&reloader), shutdown.clone()));
    let renewal = pki::renew(pki.clone(), shutdown.clone());
    running.essential("renewal of the certificate", &shutdown, renewal);
    running.other("upkeep of figures", &shutdown, keep_up(recorder.clone(), shutdown.clone()));

    let (artifacts, output) = stores::open(config)?;
    let stores = (Arc::clone(&artifacts), Arc::clone(&output));
    let work = followed::retain(engine.handle(), stores, reloader.followed().follow(), shutdown.clone());
    running.other("retention", &shutdown, work);
    let fleet = running.fleet(config, engine, &pki, (&artifacts, &output), &shutdown)?;

    let api_deps = ApiDeps {
        engine: engine.handle(),
        artifacts,
        output,
        version: env!("CARGO_PKG_VERSION"),
        authority: Arc::clone(&pki.authority),
        hook_key: hook_key(config, &engine.handle().state())?,
        agents_port: fleet.local_addr().port(),
        log_level,
        tuning,
        sample_ratio: config.traces.sample_ratio,
        on_answer: traces.cloned().map(|traces| on_answer(traces, measurements.clone())),
        look: Some(look_at_hosts(Arc::clone(&fleet))),
        outside: Some(reloader.followed().reach()),
    };
    let (api, api_address) = listening(|ready| {
        let tls = tls::https_server(&pki.api)?;
        Ok(running.tasks.spawn(stella_api::serve(config.api.listen, api_deps, tls, shutdown.clone(), ready)))
    })
    .await?;
    let render = scrape((config, &pki), recorder, &measurements, engine.handle(), Arc::clone(&fleet));
    let (metrics, metrics_address) = listening(|ready| {
        let (at, until, render) = (config.metrics.listen, shutdown.clone(), Arc::clone(&render));
        Ok(running.tasks.spawn(stella_api::serve_metrics(at, scraping, render, until, ready)))
    })
    .await?;
    let rotator = Rotator::new(engine.handle(), pki, Arc::clone(&fleet));
    let at = Listening { api: api_address, metrics: metrics_address, agents: fleet.local_addr() };
    ask_outside(engine, reloader.followed(), &running, &shutdown)?;
    administer(config, engine, (reloader, rotator, View { listening: at, render }), &running, &shutdown)?;
    running.other("watchdog", &shutdown, systemd::feed_watchdog(engine.handle(), shutdown.clone()));
    systemd::ready();
    tracing::info!(agents = %at.agents, api = %at.api, metrics = %at.metrics, "ready");

    let ended = until_stopped(signals, engine, &running.parts, api, metrics).await;
    systemd::stopping();
    shutdown.cancel();
    fleet.stopped().await;
    // What agents have said to the end is in the journal now, and in the log after this.
    logging.cancel();
    let tasks = running.tasks;
    tasks.close();
    if tokio::time::timeout(DRAIN_TIME_MAX, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "not everything ended in time");
    }
    ended
}

/// Starts whoever reads what is committed: the log, traces, the event bus, notifications. Answers with what measures on the way.
async fn follow_journal(
    (config, followed, pki): (&Config, &Followed, &Pki),
    engine: &Engine,
    traces: Option<&Arc<Traces>>,
    running: &Running,
    until: &CancellationToken,
) -> anyhow::Result<Measurements> {
    let measurements = Measurements::new(traces.cloned());
    let work = logs::follow(Live::start(engine.handle()), measurements.clone(), until.clone());
    running.other("log of events", until, work);
    if let Some(traces) = traces {
        let work = spans::follow(Live::start(engine.handle()), Arc::clone(traces), until.clone());
        running.other("traces", until, work);
    }
    if let Some(publisher) = publisher(config, engine).await? {
        running.other("event bus", until, publisher.run(until.clone()));
    }
    let look = itself::look(engine.handle(), config, running.parts.clone(), pki.clone());
    let work = followed::notify(engine.handle(), look, followed.follow(), until.clone());
    running.other("notifications", until, work);
    Ok(measurements)
}

/// What the secrets of incoming webhooks are made from.
fn hook_key(config: &Config, state: &State) -> anyhow::Result<HookKey> {
    let path = config.state_dir.join("pki").join("hooks.key");
    let (key, was_there) = HookKey::open_or_create(&path).with_context(|| path.display().to_string())?;
    let hooks: usize = state.tenants.values().map(|tenant| tenant.hooks.len()).sum();
    if !was_there && hooks > 0 {
        tracing::warn!(hooks, file = %path.display(), "the key of incoming webhooks was lost: rotate all of them");
    }
    Ok(key)
}

fn look_at_hosts(fleet: Arc<Fleet>) -> LookAtHosts {
    LookAtHosts(Arc::new(move |agent, inspect| {
        let fleet = Arc::clone(&fleet);
        Box::pin(async move { fleet.inspect(agent, inspect).await })
    }))
}

fn on_answer(traces: Arc<Traces>, measurements: Measurements) -> OnAnswer {
    OnAnswer(Arc::new(move |request| measurements.request(request, spans::of_request(&traces, request))))
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

/// Starts what this host's own administrator asks for by the socket.
fn administer(
    config: &Config,
    engine: &Engine,
    (reloader, rotator, view): (Arc<Reloader>, Rotator, View),
    running: &Running,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let state_dir = config.state_dir.clone();
    let local = Local::new(engine.handle(), state_dir, reloader, rotator, view, shutdown.clone());
    running.other("local socket", shutdown, local::serve(local, local::bind(&config.state_dir)?));
    Ok(())
}

/// Starts what asks and calls others: for gates, and for steps of workflows.
fn ask_outside(
    engine: &Engine,
    followed: &Followed,
    running: &Running,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let work = Caller::new(engine.handle(), followed.follow())?.run(shutdown.clone());
    running.other("calls of workflows", shutdown, work);
    running.other(
        "questions of gates",
        shutdown,
        followed::ask(engine.handle(), followed.follow(), shutdown.clone()),
    );
    Ok(())
}

/// What runs until the shutdown.
struct Running {
    tasks: TaskTracker,
    parts: Parts,
}

impl Running {
    /// Starts a part that the process ends without.
    fn essential(
        &self,
        name: &'static str,
        until: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn(self.parts.essential(name, until, work));
    }

    /// Starts a part that the process goes on without.
    fn other(
        &self,
        name: &'static str,
        until: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn(self.parts.other(name, until, work));
    }

    /// Starts to listen for agents.
    fn fleet(
        &self,
        config: &Config,
        engine: &Engine,
        pki: &Pki,
        (artifacts, output): (&Arc<ArtifactStore>, &Arc<OutputStore>),
        until: &CancellationToken,
    ) -> anyhow::Result<Arc<Fleet>> {
        let deps = FleetDeps {
            engine: engine.handle(),
            authority: Arc::clone(&pki.authority),
            identity: Arc::clone(&pki.identity),
            artifacts: Arc::clone(artifacts),
            output: Arc::clone(output),
            last_seen_file: config.state_dir.join("last-seen"),
            parts: self.parts.clone(),
        };
        Ok(Arc::new(Fleet::start(fleet_config(config), deps, until.clone())?))
    }
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

/// What tells the control plane to stop. It is listened for before anything else is started: a signal that comes before that ends
/// the process at once, and the API answers that it is ready while the rest is still coming up.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

/// Waits for a signal, or for a part that cannot go on.
async fn until_stopped(
    mut signals: Signals,
    engine: &Engine,
    parts: &Parts,
    mut api: Listener,
    mut metrics: Listener,
) -> anyhow::Result<()> {
    let mut condition = engine.condition();
    tokio::select! {
        _ = signals.terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = signals.interrupt.recv() => tracing::info!("SIGINT: stopping"),
        _ = condition.wait_for(|condition| *condition != Condition::Running) => {
            // The caller says why once everything is down.
            tracing::error!("the journal has stopped");
        }
        part = parts.gone() => bail!("the {part} has ended by itself"),
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

pub(crate) fn api_config(config: &Config) -> anyhow::Result<ApiConfig> {
    Ok(ApiConfig {
        artifact_bytes_max: config.api.artifact_bytes_max,
        tenant_artifact_bytes_max: config.api.tenant_artifact_bytes_max,
        tenant_releases_max: config.api.tenant_releases_max,
        tenant_release_bytes_max: config.api.tenant_release_bytes_max,
        requests_per_minute: config.api.requests_per_minute,
        burst: config.api.burst,
        tenant_requests_per_minute: config.api.tenant_requests_per_minute,
        proxies: config.api.proxies()?,
        hook_requests_per_minute: config.api.hook_requests_per_minute,
        agents_dial: agents_dial(config),
    })
}

/// What agents are told to dial: as configured, or the first name of the certificate, or this machine's loopback.
fn agents_dial(config: &Config) -> AgentsDial {
    let of_certificate = || config.api.names.first().map_or("localhost", String::as_str).to_owned();
    let advertised = config.agents.advertise.clone().map(AgentsDial::Address);
    advertised.unwrap_or_else(|| AgentsDial::Host(of_certificate()))
}

fn scrape(
    (config, pki): (&Config, &Pki),
    recorder: PrometheusHandle,
    measurements: &Measurements,
    engine: Handle,
    fleet: Arc<Fleet>,
) -> Render {
    let (state_dir, pki, exemplars) = (config.state_dir.clone(), pki.clone(), measurements.exemplars());
    let sources = metrics::Sources { recorder, exemplars, engine, fleet, state_dir, pki };
    Arc::new(move |format| metrics::render(&sources, format))
}

async fn keep_up(recorder: PrometheusHandle, shutdown: CancellationToken) {
    while tokio::time::timeout(METRICS_UPKEEP, shutdown.cancelled()).await.is_err() {
        recorder.run_upkeep();
    }
}
