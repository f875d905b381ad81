//! From a configuration to a running control plane, and back: the only place that connects the rooms.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use stella_api::{ApiConfig, ApiDeps};
use stella_certs::Authority;
use stella_certs::tls::{self, ServerIdentity};
use stella_engine::{Condition, Engine};
use stella_fleet::{Fleet, FleetConfig, FleetDeps};
use stella_journal::{JournalConfig, SledJournal};
use stella_store::{ArtifactStore, OutputStore};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::{first_start, logs, metrics};

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
    let _log = stella_telemetry::init(&stella_telemetry::Config {
        service: "stella-orchestrator",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log.level.clone(),
        format: config.log.format,
        file: config.log.file.clone(),
    })?;
    stella_certs::install_provider();
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
    let ended = runtime.block_on(serve(&config, &engine, recorder));
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
struct Pki {
    authority: Arc<Authority>,
    identity: Arc<ServerIdentity>,
}

fn open_pki(config: &Config) -> anyhow::Result<Pki> {
    let now = SystemTime::now();
    let authority = Authority::open_or_create(&config.state_dir.join("pki"), now)
        .context("the certificate authority cannot be opened")?;
    let own = authority.issue_server(&config.api.names, now, SERVER_CERTIFICATE_LIFETIME)?;
    Ok(Pki { authority: Arc::new(authority), identity: ServerIdentity::new(&own)? })
}

async fn serve(
    config: &Config,
    engine: &Engine,
    recorder: metrics_exporter_prometheus::PrometheusHandle,
) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let _stop_all_on_return = shutdown.clone().drop_guard();
    let tasks = TaskTracker::new();
    let pki = open_pki(config)?;
    first_start::ensure_api_token(&engine.handle(), &config.state_dir).await?;
    tasks.spawn(logs::follow(engine.handle(), shutdown.clone()));
    let artifacts =
        Arc::new(ArtifactStore::open(config.state_dir.join("artifacts"), config.journal.reserve_bytes)?);
    let output = OutputStore::open(config.state_dir.join("output"), config.journal.reserve_bytes)?;
    let fleet = Arc::new(start_fleet(config, engine, &pki, &artifacts, &output, &shutdown)?);
    tasks.spawn(renew_certificate(config.api.names.clone(), pki.clone_parts(), shutdown.clone()));
    let api =
        start_api(config, engine, &pki, artifacts, output, fleet.local_addr().port(), &shutdown, &tasks)
            .await?;
    let (metrics_ready, metrics_listening) = tokio::sync::oneshot::channel();
    let (handle, live) = (engine.handle(), Arc::clone(&fleet));
    let upkeep = recorder.clone();
    let render: Arc<dyn Fn() -> String + Send + Sync> =
        Arc::new(move || metrics::render(&recorder, &handle, &live));
    let tls = tls::metrics_server(&pki.identity, None)?;
    let metrics =
        tasks.spawn(stella_api::serve_metrics(config.metrics.listen, tls, render, shutdown.clone(), |at| {
            metrics_ready.send(at).ok();
        }));
    tasks.spawn(keep_up(upkeep, shutdown.clone()));
    let _ = metrics_listening.await;
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    tracing::info!(agents = %fleet.local_addr(), api = %config.api.listen, metrics = %config.metrics.listen, "ready");
    let ended = until_stopped(engine, api, metrics).await;
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    shutdown.cancel();
    fleet.stopped().await;
    tasks.close();
    if tokio::time::timeout(DRAIN_TIME_MAX, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "not everything ended in time");
    }
    ended
}
