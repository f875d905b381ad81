//! The tasks that a runner owns: attempts that run or are looked for, their output on its way, and folders to remove.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stella_protocol::id::AttemptKey;
use stella_protocol::message::{Dispatch, Ending as Reached, EndingStage, TaskOutcome, TracedDispatch};
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;
use tokio::sync::watch;
use tokio::task::{self, AbortHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use super::Config;
use crate::cancel::CancelSignal;
use crate::executor::{ArtifactSource, Executor, RunContext, UnitManager};
use crate::host::HostRoot;
use crate::journal::Ending;
use crate::observers::{self, Attempted};
use crate::output::{OutputSink, now};
use crate::session::{Forwarder, Link};
use crate::supervisor::{Groups, Recovered, restore_names};

/// How long a command of an earlier life may take to end.
const RECOVERY_DURATION_MAX: Duration = Duration::from_secs(15);

/// How many pieces of output may wait between a command and its way out.
const CHUNKS_MAX: usize = 8;

/// How far the end of an attempt has got.
pub(super) type Stages = watch::Receiver<Option<EndingStage>>;

/// Something is over.
#[derive(Debug)]
pub(super) enum Over {
    /// An attempt.
    Attempt(Box<Attempted>, Ending),
    /// All of an attempt's output is at the control plane, or nobody waits for it any more.
    Output(AttemptKey),
    /// Not yet, but the end of an attempt that was cancelled has got further, and may get further still.
    Stage(Reached, Stages),
    /// The end of an attempt gets no further: it is there.
    Followed(AttemptKey),
    /// A folder was removed, or a task of no consequence ended.
    Cleaning,
}

/// See the module's documentation. Dropping it leaves commands to their supervisors.
#[derive(Debug)]
pub(super) struct Work {
    executor: Executor,
    host: HostRoot,
    attempts_dir: PathBuf,
    artifacts: Arc<dyn ArtifactSource>,
    units: Arc<dyn UnitManager>,
    link: watch::Receiver<Option<Link>>,
    tasks: JoinSet<Over>,
    /// Whose attempt a task is, in case it panics.
    attempts: HashMap<task::Id, (Box<Attempted>, Option<Timestamp>)>,
    /// Output that is on its way; the token tells that the result is acknowledged.
    outputs: HashMap<AttemptKey, CancellationToken>,
    /// Whose end is followed, because somebody wants to know.
    followed: HashSet<AttemptKey>,
    /// Those that end what is left of attempts that the journal does not know.
    strangers: HashSet<task::Id>,
    /// The last sweep of the host root.
    sweep: Option<AbortHandle>,
    /// Cancelled when the runner is gone.
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Work {
    pub(super) fn new(config: Config) -> Self {
        let Config { attempts_dir, host, executor, artifacts, units, link, .. } = config;
        let stop = CancellationToken::new();
        Self {
            executor,
            host,
            attempts_dir,
            artifacts,
            units,
            link,
            tasks: JoinSet::new(),
            attempts: HashMap::new(),
            outputs: HashMap::new(),
            followed: HashSet::new(),
            strangers: HashSet::new(),
            sweep: None,
            _stop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Waits for the next thing that is over; for ever if there is nothing. Safe to drop and to call again.
    pub(super) async fn next(&mut self) -> Over {
        match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, over))) => {
                self.attempts.remove(&id);
                self.strangers.remove(&id);
                over
            }
            Some(Err(error)) => {
                self.strangers.remove(&error.id());
                let Some((attempted, started_at)) = self.attempts.remove(&error.id()) else {
                    return Over::Cleaning;
                };
                let _in_trace = observers::log_span(&attempted.trace).entered();
                tracing::error!(taskId = %attempted.key.task, attempt = attempted.key.attempt.0, %error, "the executor failed");
                let reason = "the executor failed in itself; see the agent's log".to_owned();
                let outcome = TaskOutcome::Unknown { reason };
                Over::Attempt(attempted, Ending { started_at, finished_at: now(), outcome })
            }
        }
    }

    /// Starts an attempt.
    pub(super) fn run(&mut self, traced: TracedDispatch, started_at: Timestamp, cancel: CancelSignal) {
        let (attempted, trace) = (Box::new(Attempted::new(&traced)), traced.trace());
        let dispatch = traced.dispatch;
        let key = dispatch.key();
        let span = observers::log_span(&trace);
        let (output, chunks) = OutputSink::new(CHUNKS_MAX);
        let attempt_dir = self.attempt_dir(key);
        let spool = matches!(dispatch.spec, TaskSpec::Command(_)).then(|| attempt_dir.clone());
        self.forward(Forwarder::live(key, chunks, spool));
        let context = RunContext {
            dispatch,
            trace,
            host: self.host.clone(),
            attempt_dir,
            artifacts: Arc::clone(&self.artifacts),
            units: Arc::clone(&self.units),
            output,
            cancel,
        };
        let (executor, underway) = (self.executor.clone(), attempted.clone());
        let work = async move {
            let outcome = executor.run(context).await;
            let ending = Ending { started_at: Some(started_at), finished_at: now(), outcome };
            Over::Attempt(attempted, ending)
        };
        let task = self.tasks.spawn(work.instrument(span));
        self.attempts.insert(task.id(), (underway, Some(started_at)));
    }

    /// Follows how far the end of an attempt gets, if nobody does.
    pub(super) fn follow(&mut self, key: AttemptKey, stages: Stages) {
        if self.followed.insert(key) {
            self.follow_on(key, stages);
        }
    }

    /// Waits for the next stage of an attempt's end, or for that end.
    pub(super) fn follow_on(&mut self, key: AttemptKey, mut stages: Stages) {
        self.tasks.spawn(async move {
            match stages.changed().await.ok().and_then(|()| *stages.borrow_and_update()) {
                Some(stage) => Over::Stage(Reached { key, stage }, stages),
                None => Over::Followed(key),
            }
        });
    }

    /// Nothing of an attempt's end is to come any more.
    pub(super) fn followed(&mut self, key: AttemptKey) {
        self.followed.remove(&key);
    }

    /// Other control groups, for what starts from now on. What was kept for it goes.
    pub(super) fn change_groups(&mut self, groups: Option<&Groups>) {
        if let Some(executor) = self.executor.changed_to(groups) {
            self.rest();
            self.executor = executor;
        }
    }

    /// Nothing is to be run for a while.
    pub(super) fn rest(&mut self) {
        let executor = self.executor.clone();
        self.tasks.spawn_blocking(move || {
            executor.rest();
            Over::Cleaning
        });
    }

    /// Looks through the host root for what attempts have left there, unless somebody is looking.
    pub(super) fn sweep(&mut self) {
        if self.sweep.as_ref().is_some_and(|sweep| !sweep.is_finished()) {
            return;
        }
        let (host, stop) = (self.host.clone(), self.stop.clone());
        self.sweep = Some(self.tasks.spawn_blocking(move || {
            Executor::sweep(&host, &stop);
            Over::Cleaning
        }));
    }

    /// Finds out what became of an attempt of an earlier life, and sends what is left of its output.
    pub(super) fn recover(&mut self, dispatch: Dispatch, started_at: Option<Timestamp>) {
        let key = dispatch.key();
        let attempt_dir = self.attempt_dir(key);
        let attempted = Box::new(Attempted::new(&dispatch.clone().into()));
        let underway = attempted.clone();
        let task = self.tasks.spawn(async move {
            let recovered = Executor::recover(&dispatch, &attempt_dir, RECOVERY_DURATION_MAX).await;
            let ending = explain(recovered, started_at);
            Over::Attempt(attempted, ending)
        });
        self.attempts.insert(task.id(), (underway, started_at));
    }

    /// The result of an attempt is at the control plane: its folder goes, once its output has had its chance.
    pub(super) fn acknowledged(&mut self, key: AttemptKey) {
        match self.outputs.get(&key) {
            Some(acknowledged) => acknowledged.cancel(),
            None => self.remove_folder(key),
        }
    }

    /// An attempt's output is on its way no more.
    pub(super) fn output_is_over(&mut self, key: AttemptKey, is_forgotten: bool) {
        self.outputs.remove(&key);
        if is_forgotten {
            self.remove_folder(key);
        }
    }

    /// Sends what the folder of an attempt of an earlier life has of output. Nobody knows what of it has arrived, so all
    /// of it goes again; its offsets say what it is.
    pub(super) fn replay(&mut self, key: AttemptKey) {
        let attempt_dir = self.attempt_dir(key);
        if attempt_dir.exists() {
            self.forward(Forwarder::of_spool(key, attempt_dir));
        }
    }

    /// Finds the folders of attempts that the journal knows. What is left of others is ended and removed: a journal that was moved
    /// away knows nothing of commands that still run. Blocks on the disk; for the start only.
    ///
    /// # Errors
    /// If they cannot be read or put in order.
    pub(super) fn take_over_folders(&mut self, known: &HashSet<AttemptKey>) -> io::Result<()> {
        restore_names(&self.attempts_dir, |key| known.contains(&key).then(|| self.attempt_dir(key)))?;
        let known: HashSet<PathBuf> = known.iter().map(|key| self.attempt_dir(*key)).collect();
        for entry in fs::read_dir(&self.attempts_dir)? {
            let path = entry?.path();
            if !known.contains(&path) {
                self.give_up(path);
            }
        }
        Ok(())
    }

    /// Whether what is left of strange attempts is still being ended; nothing may start beside it.
    pub(super) fn is_ending_strangers(&self) -> bool {
        !self.strangers.is_empty()
    }

    fn give_up(&mut self, path: PathBuf) {
        let task = self.tasks.spawn(async move {
            if let Err(reason) = Executor::give_up(path.clone(), RECOVERY_DURATION_MAX).await {
                let path = path.display();
                tracing::error!(%path, reason, "what is left of an attempt that the journal does not know cannot be ended");
            }
            Over::Cleaning
        });
        self.strangers.insert(task.id());
    }

    fn forward(&mut self, forwarder: Forwarder) {
        let (key, link, acknowledged) = (forwarder.key(), self.link.clone(), CancellationToken::new());
        self.outputs.insert(key, acknowledged.clone());
        self.tasks.spawn(async move {
            forwarder.run(link, acknowledged).await;
            Over::Output(key)
        });
    }

    fn attempt_dir(&self, key: AttemptKey) -> PathBuf {
        self.attempts_dir.join(format!("{}-{}", key.task, key.attempt))
    }

    fn remove_folder(&mut self, key: AttemptKey) {
        let (path, executor) = (self.attempt_dir(key), self.executor.clone());
        self.tasks.spawn_blocking(move || {
            match executor.forget(path.clone()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "the folder of an attempt cannot be removed");
                }
                Ok(()) | Err(_) => {}
            }
            Over::Cleaning
        });
    }
}

/// What was found, as a result. An attempt that never started had no effect, as an interrupted one whose processes are
/// gone; neither is ever run again from here. Only one that is certain never to have started has no start: where that is not known, it
/// counts as begun when it was looked for, at the latest.
fn explain(recovered: Recovered, noted: Option<Timestamp>) -> Ending {
    match recovered {
        Recovered::Finished { outcome, started_at, finished_at } => {
            Ending { started_at: Some(started_at), finished_at, outcome }
        }
        Recovered::Interrupted { started_at } => {
            let finished_at = now();
            let started_at = started_at.or(noted).or(Some(finished_at));
            Ending { started_at, finished_at, outcome: TaskOutcome::Interrupted }
        }
        // A start that was noted is believed, whatever has become of the attempt's folder.
        Recovered::NeverStarted => {
            Ending { started_at: noted, finished_at: now(), outcome: TaskOutcome::Interrupted }
        }
        Recovered::Unknown { reason, started_at } => {
            let outcome = TaskOutcome::Unknown { reason };
            Ending { started_at: started_at.or(noted), finished_at: now(), outcome }
        }
    }
}
