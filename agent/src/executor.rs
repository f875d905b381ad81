//! What each kind of task does on the host.
//!
//! One function for all kinds, [`Executor::run`], and one for what an earlier life of the agent left behind,
//! [`Executor::recover`]. There is no trait for a kind of task: the set is closed by the protocol, and a `match` says so.
//!
//! Ports, because tests and hosts differ there: [`ArtifactSource`] (the control plane's artifact streams) and
//! [`UnitManager`] (systemd).

mod artifact;
mod check;
mod command;
mod probe;
mod systemd;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::id::AttemptKey;
use stella_protocol::limits::REASON_BYTES_MAX;
use stella_protocol::message::{Dispatch, TaskOutcome};
use stella_protocol::spec::{CheckSpec, Probe, TaskSpec};
use stella_protocol::trace::TraceContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::artifact::inspect::{Patience, inspect, unverified};
pub use self::artifact::source::{ArtifactSource, Fetched, SourceError};
pub use self::probe::Surroundings;
pub(crate) use self::probe::{leaves_no_sign, unclear};
pub use self::systemd::{ActiveState, Request, Systemctl, TakenBack, UnitError, UnitManager, UnitStanding};
use crate::cancel::CancelSignal;
use crate::host::HostRoot;
use crate::output::OutputSink;
use crate::supervisor::{Groups, Recovered, Supervisor, give_up, recover};

/// A future in a box, for ports that are used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs tasks.
#[derive(Clone, Debug)]
pub struct Executor {
    supervisor: Supervisor,
}

/// One attempt of one task, and what it may use.
pub struct RunContext {
    /// The task.
    pub dispatch: Dispatch,
    /// What it belongs to, with all that travels along.
    pub trace: TraceContext,
    /// Where it may write.
    pub host: HostRoot,
    /// The folder of this attempt, in the agent's own state; it must not exist, and its parent must.
    pub attempt_dir: PathBuf,
    /// Where artifacts come from.
    pub artifacts: Arc<dyn ArtifactSource>,
    /// The host's units.
    pub units: Arc<dyn UnitManager>,
    /// Where its output goes.
    pub output: OutputSink,
    /// How it is told to end.
    pub cancel: CancelSignal,
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext").field("key", &self.dispatch.key()).finish_non_exhaustive()
    }
}

impl Executor {
    /// An executor whose commands run under `supervisor`.
    #[must_use]
    pub const fn new(supervisor: Supervisor) -> Self {
        Self { supervisor }
    }

    /// For tasks that start from now on, in other control groups; `None` if they are the same.
    #[must_use]
    pub fn changed_to(&self, groups: Option<&Groups>) -> Option<Self> {
        self.supervisor.changed_to(groups).map(Self::new)
    }

    /// Runs a task to its end. It always ends: at the latest a little after the task's own time-out, or after a cancel
    /// request and its grace.
    ///
    /// Dropping the future leaves a command running under its supervisor; [`Self::recover`] is for that.
    pub async fn run(&self, context: RunContext) -> TaskOutcome {
        let outcome = match &context.dispatch.spec {
            TaskSpec::Artifact(spec) => artifact::run(&context, spec).await,
            TaskSpec::Command(spec) => command::run(&self.supervisor, &context, spec).await,
            TaskSpec::Check(spec) => check::run(&self.supervisor, &context, spec).await,
            TaskSpec::Systemd(spec) => systemd::run(&context, spec).await,
        };
        sendable(outcome, &context.dispatch.spec)
    }

    /// Lets go of what was kept for the next task, because none is near. Blocks on the disk.
    pub fn rest(&self) {
        self.supervisor.rest();
    }

    /// Does away with the folder of an attempt whose result nobody asks for any more. Blocks on the disk.
    ///
    /// # Errors
    /// If the folder cannot be removed.
    pub fn forget(&self, attempt_dir: PathBuf) -> io::Result<()> {
        self.supervisor.forget(attempt_dir)
    }

    /// Ends what is left of an attempt that the agent's journal does not know, and removes its folder. What cannot be ended keeps it,
    /// so that the next start tries again. Takes at most about `limit` for each process that was started for it.
    ///
    /// # Errors
    /// For a person: what may still be there.
    pub async fn give_up(attempt_dir: PathBuf, limit: Duration) -> Result<(), String> {
        for dir in [check::probe_dir(&attempt_dir), attempt_dir.clone()] {
            if let Some(key) = give_up(&dir, limit).await? {
                tracing::warn!(
                    taskId = %key.task,
                    attempt = key.attempt.0,
                    "an attempt that the journal does not know was broken off; nothing of it runs any more"
                );
            }
        }
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(attempt_dir)).await;
        match removed.map_err(io::Error::from).flatten() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes what attempts that did not end by themselves have left on the host root, and downloads that nobody has gone on with
    /// for a day, or all of them if the disk is short of room. Leaves alone what an attempt holds. Blocks on the disk; ends soon after
    /// `stop`.
    pub fn sweep(host: &HostRoot, stop: &CancellationToken) {
        let may_go_on = || if stop.is_cancelled() { Err(Stopped::Cancelled) } else { Ok(()) };
        // What is left then is for the next time.
        let _stopped = artifact::sweep::sweep(host, &may_go_on);
    }

    /// Finds out what became of an attempt that an earlier life of the agent had accepted and perhaps started, and ends what
    /// is left of it. Takes at most about `limit`.
    ///
    /// Only a command knows that it has not started; other kinds count as interrupted. All of them may be run again: an
    /// artifact is switched to in one step or not at all, a check asks, and a unit's action is repeatable.
    pub async fn recover(dispatch: &Dispatch, attempt_dir: &Path, limit: Duration) -> Recovered {
        let key = dispatch.key();
        let found = match &dispatch.spec {
            TaskSpec::Command(_) => return recover(attempt_dir, key, limit).await,
            TaskSpec::Check(spec) => match spec.probe {
                Probe::Command(_) => recover(&check::probe_dir(attempt_dir), key, limit).await,
                Probe::Http { .. } | Probe::Tcp { .. } => Recovered::NeverStarted,
            },
            TaskSpec::Artifact(_) => Recovered::NeverStarted,
            // The marker is in the environment of `systemctl`, too.
            TaskSpec::Systemd(_) => recover(attempt_dir, key, limit).await,
        };
        match found {
            Recovered::Unknown { reason, started_at } => Recovered::Unknown { reason, started_at },
            // The task was not over, whatever its last part did.
            Recovered::Finished { .. } | Recovered::Interrupted { .. } | Recovered::NeverStarted => {
                Recovered::Interrupted { started_at: None }
            }
        }
    }
}

/// Why a task was stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stopped {
    /// It was asked to end.
    #[error("it was cancelled")]
    Cancelled,
    /// It took too long.
    #[error("the time was up")]
    TimedOut,
}

impl From<Stopped> for TaskOutcome {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled => Self::Cancelled,
            Stopped::TimedOut => Self::TimedOut,
        }
    }
}

/// When a task has to stop. Cheap to clone, and usable from blocking code.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) key: AttemptKey,
    pub(crate) deadline: Instant,
    cancel: CancelSignal,
}

impl Limits {
    fn new(context: &RunContext) -> Self {
        Self::lasting(context, Duration::from_millis(context.dispatch.spec.timeout_ms()))
    }

    /// Those of a part of the task, which begins now.
    fn lasting(context: &RunContext, timeout: Duration) -> Self {
        let far = Duration::from_hours(24 * 365);
        let deadline = Instant::now() + timeout.min(far);
        Self { key: context.dispatch.key(), deadline, cancel: context.cancel.clone() }
    }

    /// Fails once the task has to stop.
    pub(crate) fn check(&self) -> Result<(), Stopped> {
        if self.cancel.is_requested() {
            Err(Stopped::Cancelled)
        } else if Instant::now() >= self.deadline {
            Err(Stopped::TimedOut)
        } else {
            Ok(())
        }
    }

    /// Waits for `work`, unless the task has to stop first; then `work` is dropped.
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            _ = self.cancel.requested() => Err(Stopped::Cancelled),
            result = tokio::time::timeout_at(self.deadline, work) => result.map_err(|_| Stopped::TimedOut),
        }
    }

    /// How much time is left.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// A pause between two tries.
    pub(crate) async fn pause(&self, duration: Duration) -> Result<(), Stopped> {
        self.bound(tokio::time::sleep(duration)).await
    }
}

/// An error and its sources in one line, for a person.
pub(crate) fn reason_of(error: &dyn StdError) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        source = error.source();
    }
    reason
}

fn failed(error: &dyn StdError) -> TaskOutcome {
    TaskOutcome::Failed { reason: reason_of(error), exit_code: None }
}

/// Takes secrets out of the reason, which goes into journals and messages, and cuts it to what may be sent.
fn sendable(mut outcome: TaskOutcome, spec: &TaskSpec) -> TaskOutcome {
    match &mut outcome {
        TaskOutcome::Failed { reason, .. }
        | TaskOutcome::Unknown { reason }
        | TaskOutcome::Refused { reason } => {
            *reason = stella_telemetry::redact_values(reason, environment(spec).into_iter().flatten());
            let end = reason.floor_char_boundary(REASON_BYTES_MAX);
            reason.truncate(end);
        }
        TaskOutcome::Succeeded
        | TaskOutcome::TimedOut
        | TaskOutcome::Cancelled
        | TaskOutcome::Interrupted => {}
    }
    outcome
}

/// What the task's command is given, if it has one.
const fn environment(spec: &TaskSpec) -> Option<&BTreeMap<String, String>> {
    match spec {
        TaskSpec::Command(command) | TaskSpec::Check(CheckSpec { probe: Probe::Command(command), .. }) => {
            Some(&command.environment)
        }
        TaskSpec::Check(_) | TaskSpec::Artifact(_) | TaskSpec::Systemd(_) => None,
    }
}
