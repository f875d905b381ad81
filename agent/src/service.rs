//! The agent as a whole: opens what it has, starts its parts, and stops them in order.
//!
//! ```text
//! stop: nothing new is accepted -> running tasks have the drain time, and their results go out -> goodbye
//! ```
//!
//! What still runs then is left to its supervisors; the next start finds its real result, or ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::id::{AgentId, TenantId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::enrol::JOURNAL_DIR;
use crate::executor::{Executor, Surroundings, Systemctl, reason_of};
use crate::host::{self, HostRoot};
use crate::identity::{self, Identity};
use crate::journal::{self, Journal};
use crate::metrics::{self, Exporter, Figures, Pulse};
use crate::observers::Observers;
use crate::profile::{self, Rights};
use crate::progress::Progress;
use crate::resources::Sampler;
use crate::runner::{self, Gone, Runner, RunnerHandle};
use crate::session::{self, Link, SessionArtifacts, Sessions};
use crate::spans::Spans;
use crate::supervisor::{Groups, Supervisor};
use crate::tuning::{Tuner, groups};

/// How long the disk may be busy with one commit before the agent counts as stuck.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// How long the parts may take to stop after the drain time.
const STOP_DURATION_MAX: Duration = Duration::from_secs(5);

/// Why the agent does not start, or stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no usable identity.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The host root is not usable.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The journal is damaged or in use.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// Figures cannot be served.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// The folder of attempts cannot be made, or not be read.
    #[error("cannot use the folder of attempts")]
    Attempts(#[source] io::Error),
    /// Signals cannot be handled.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// The runner has stopped by itself.
    #[error(
        "the agent stops: what is promised and what is on disk may differ; it starts again from the disk"
    )]
    Runner(#[source] runner::Error),
    /// Nobody keeps the session any more.
    #[error("the part that keeps the session with the control plane has ended by itself")]
    Sessions,
    /// A part has failed in itself.
    #[error("a part of the agent has failed in itself")]
    Part(#[source] tokio::task::JoinError),
}

/// An agent that is ready to run.
#[derive(Debug)]
pub struct Service {
    config: Config,
    identity: Identity,
    rights: Rights,
    /// Why none may run here, and the control groups of those that do.
    tasks: (Option<String>, Option<Groups>),
    runner: Runner,
    handle: RunnerHandle,
    link: watch::Sender<Option<Link>>,
    pulse: Arc<Pulse>,
    exporter: Option<Exporter>,
    host: HostRoot,
    resources: Sampler,
    spans: Option<Arc<Spans>>,
}

/// A part that has ended.
#[derive(Debug)]
enum Part {
    Runner(Result<(), runner::Error>),
    Sessions,
    Watchdog,
    Exporter,
}

impl Service {
    /// Opens everything that an agent has. Blocks on the disk. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// As [`Error`] says; each message says what to do.
    pub fn open(config: Config, supervisor: Supervisor) -> Result<Self, Error> {
        let identity = Identity::load(&config.state_dir)?;
        let rights = Rights::own();
        if profile::is_lost(&config.state_dir, &identity) {
            tracing::error!(what_to_do = profile::RESTORE, "{}", profile::LOST);
        }
        let objection = rights.objection(profile::enrolled_for(&config.state_dir, &identity)?);
        if let Some(reason) = &objection {
            tracing::error!(reason, "no task runs here");
        }
        let host = HostRoot::open(&config.host_root)?.keeping_free(config.reserve_bytes);
        let (journal, left_open) = Journal::open(&config.state_dir.join(JOURNAL_DIR), config.reserve_bytes)?;
        let attempts_dir = config.state_dir.join("attempts");
        std::fs::create_dir_all(&attempts_dir).map_err(Error::Attempts)?;
        let (link, link_receiver) = watch::channel(None);
        let who = (identity.tenant, identity.agent);
        let figures = config.metrics.as_ref().map(|_| Arc::new(Figures::new(who)));
        let spans = spans_of(&config.traces, who);
        let groups = groups(config.limits);
        let (runner, handle) = Runner::new(
            journal,
            left_open,
            runner::Config {
                concurrency: config.concurrency,
                attempts_dir,
                drain: config.drain,
                host: host.clone(),
                policy: config.policy.clone().unless(objection.clone()),
                executor: Executor::new(supervisor.in_groups(groups.clone())),
                artifacts: Arc::new(SessionArtifacts::new(link_receiver.clone())),
                units: Arc::new(Systemctl::default()),
                link: link_receiver,
                observers: Observers { figures: figures.clone(), spans: spans.clone() },
            },
        )
        .map_err(Error::Attempts)?;
        let pulse = Pulse::new();
        pulse.certified_until(identity.validity().1);
        let resources = Sampler::new(config.host_root.clone());
        let open = |(metrics, figures): (&metrics::Config, Arc<Figures>)| {
            let sources = metrics::Sources {
                figures,
                roots: identity.roots.clone(),
                resources: resources.clone(),
                runner: handle.clone(),
                link: link.subscribe(),
                pulse: Arc::clone(&pulse),
            };
            Exporter::open(metrics.clone(), sources)
        };
        let exporter = config.metrics.as_ref().zip(figures).map(open).transpose()?;
        let tasks = (objection, groups);
        Ok(Self {
            config,
            identity,
            rights,
            tasks,
            runner,
            handle,
            link,
            pulse,
            exporter,
            host,
            resources,
            spans,
        })
    }

    /// Who this agent is.
    #[must_use]
    pub const fn who(&self) -> (TenantId, AgentId) {
        (self.identity.tenant, self.identity.agent)
    }

    /// The way to what can be changed while it runs.
    #[must_use]
    pub fn tuner(&self) -> Tuner {
        let (objection, groups) = self.tasks.clone();
        Tuner::new(self.handle.clone(), objection, self.config.limits, groups)
    }

    /// Runs until `stop`, or until a part fails.
    ///
    /// # Errors
    /// If a part fails. The process has to end; the next start finds everything on disk.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            identity,
            rights,
            tasks: _,
            runner,
            handle,
            link,
            pulse,
            exporter,
            host,
            resources,
            spans,
        } = self;
        let (stop_runner, stop_sessions) = (stop.child_token(), CancellationToken::new());
        let ready = link.subscribe();
        let progress = Progress::new();
        let sessions = Sessions::new(session::Config {
            server: config.server.unwrap_or_else(|| identity.server.clone()),
            state_dir: config.state_dir,
            surroundings: Surroundings { host, units: Arc::new(Systemctl::default()) },
            // One question at a time: the disk is there for the tasks.
            questions: Arc::new(Semaphore::new(1)),
            resources,
            identity,
            rights,
            runner: handle.clone(),
            link,
            pulse,
            progress: Arc::clone(&progress),
            sends_spans: spans.is_some(),
            figures: config.metrics.as_ref().and_then(metrics::Config::figures_at),
        });
        let mut parts = JoinSet::new();
        parts.spawn(async move { Part::Runner(runner.run(stop_runner).await) });
        let token = stop_sessions.clone();
        parts.spawn(async move {
            sessions.run(token).await;
            Part::Sessions
        });
        let token = stop_sessions.clone();
        parts.spawn(async move {
            token.run_until_cancelled(tell_systemd(ready, handle, progress)).await;
            Part::Watchdog
        });
        if let Some(exporter) = exporter {
            let token = stop_sessions.clone();
            parts.spawn(async move {
                token.run_until_cancelled(exporter.run()).await;
                Part::Exporter
            });
        }
        let result = watch_over(&mut parts, &stop).await;
        stop_sessions.cancel();
        let rest = async { while parts.join_next().await.is_some() {} };
        if timeout(STOP_DURATION_MAX, rest).await.is_err() {
            tracing::warn!("a part of the agent did not stop in time; it is dropped");
        }
        if let Some(spans) = spans {
            // It has a bound of its own; that it failed in itself is nobody's matter any more.
            drop(tokio::task::spawn_blocking(move || spans.stop()).await);
        }
        result
    }
}

/// Where spans go, if the agent sends them itself. Without them it works as well, and the control plane writes them.
fn spans_of(config: &stella_otlp::Config, who: (TenantId, AgentId)) -> Option<Arc<Spans>> {
    Spans::open(config, who).map(|spans| spans.map(Arc::new)).unwrap_or_else(|error| {
        let reason = reason_of(&error);
        tracing::error!(reason, "spans are not sent to the collector; the control plane writes them");
        None
    })
}

/// Waits for the end of the runner, which is the end of the agent.
async fn watch_over(parts: &mut JoinSet<Part>, stop: &CancellationToken) -> Result<(), Error> {
    let mut is_told = false;
    loop {
        tokio::select! {
            () = stop.cancelled(), if !is_told => {
                is_told = true;
                notify(sd_notify::NotifyState::Stopping);
                tracing::info!("the agent stops: nothing new is accepted, running tasks have the drain time");
            }
            part = parts.join_next() => match part {
                Some(Ok(Part::Runner(result))) => return result.map_err(Error::Runner),
                // It is stopped after the runner, which has to have its last reports taken.
                Some(Ok(Part::Sessions)) => return Err(Error::Sessions),
                Some(Ok(Part::Watchdog | Part::Exporter)) => {}
                Some(Err(error)) => return Err(Error::Part(error)),
                None => return Ok(()),
            },
        }
    }
}

/// Tells systemd that the agent is ready, after the first welcome, and then that it is alive, as long as it is. That the
/// control plane is away for a while does not make an agent sick.
async fn tell_systemd(
    mut link: watch::Receiver<Option<Link>>,
    runner: RunnerHandle,
    progress: Arc<Progress>,
) {
    let ready = async move {
        if link.wait_for(Option::is_some).await.is_ok() {
            notify(sd_notify::NotifyState::Ready);
        }
        std::future::pending::<()>().await;
    };
    let alive = async move {
        let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
        feed(patience / 3, || runner.ping(), &progress, || notify(sd_notify::NotifyState::Watchdog)).await;
    };
    tokio::join!(ready, alive);
}

/// Feeds the watchdog as long as the runner answers, its disk finishes commits, and the session is kept.
async fn feed<Pong: Future<Output = Result<Duration, Gone>>>(
    pause: Duration,
    ping: impl Fn() -> Pong,
    progress: &Progress,
    feed: impl Fn(),
) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(disk) = ping().await else { return };
        if disk >= DISK_PATIENCE {
            tracing::error!(disk_s = disk.as_secs(), "the disk does not finish a commit");
        } else if let Some(late) = progress.overdue() {
            tracing::error!(late_s = late.as_secs(), "the session with the control plane makes no progress");
        } else {
            feed();
        }
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// A token that SIGTERM and SIGINT cancel. The task that waits for them is in the set.
///
/// # Errors
/// If signals cannot be handled.
pub fn stop_on_signals(tasks: &mut JoinSet<()>) -> Result<CancellationToken, Error> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let token = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_fed_while_its_session_turns_and_its_disk_goes_on() {
        const MINUTE: Duration = Duration::from_secs(60);
        let progress = Progress::new();
        let (disk, fed) = (Cell::new(Duration::ZERO), Cell::new(0_u32));
        let pause = Duration::from_secs(20);
        let mut feeding =
            pin!(feed(pause, || std::future::ready(Ok(disk.get())), &progress, || fed.set(fed.get() + 1)));
        let mut a_minute = async || {
            let before = fed.get();
            timeout(MINUTE, feeding.as_mut()).await.expect_err("it has ended");
            fed.get() - before
        };
        assert!(a_minute().await >= 3);
        // The loop of sessions hangs; everything else is well.
        assert_eq!(a_minute().await, 0);
        // It waits as long as it said that it would.
        progress.next_within(MINUTE * 5);
        assert!(a_minute().await >= 2);
        assert!(a_minute().await >= 2);
        disk.set(DISK_PATIENCE);
        assert_eq!(a_minute().await, 0);
    }

    #[tokio::test]
    async fn an_agent_without_its_session_ends() {
        let mut parts = JoinSet::new();
        parts.spawn(std::future::pending());
        parts.spawn(async { Part::Sessions });
        let ended = watch_over(&mut parts, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(Error::Sessions)), "{ended:?}");
    }
}
