//! The agent's side: giving an attempt to a supervisor, listening to it, and telling it to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_protocol::id::AttemptKey;
use stella_protocol::message::{OutputChunk, TaskOutcome};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::child::KILL_DURATION_MAX;
use super::frame::{self, Frame};
use super::group::Groups;
use super::pool::{Pool, Worker};
use super::record::{Ended, Record};
use super::recover::{Recovered, recover};
use super::spec::{Spec, Stop, StopReason, encode_order};
use crate::cancel::CancelSignal;
use crate::output::OutputSink;

/// How much later than a supervisor the agent acts on the same deadline: the supervisor knows better.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a supervisor may take to read its order.
const ORDER_DURATION_MAX: Duration = Duration::from_secs(10);

/// How long, and how often, to look whether a supervisor watches over its command before it is asked to end it. It takes
/// microseconds from the command's start, and more on a busy host.
pub(super) const WATCHED_DURATION_MAX: Duration = Duration::from_secs(1);
const WATCHED_INTERVAL: Duration = Duration::from_millis(5);

/// How long the tree of a killed supervisor may take to go.
const RECOVER_DURATION_MAX: Duration = Duration::from_secs(15);

/// Runs commands, each under a supervisor process. Clones share the supervisors that wait for an attempt.
#[derive(Clone, Debug)]
pub struct Supervisor {
    program: PathBuf,
    pool: Pool,
    groups: Option<Groups>,
}

/// Why a supervisor was not started. Nothing has run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An attempt starts at most once.
    #[error("the attempt's folder {0:?} exists: the attempt has been started before")]
    StartedBefore(PathBuf),
    /// The folder of the attempt.
    #[error("cannot create the attempt's folder {path:?}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Too much for the pipe's reader.
    #[error("the command and its environment are larger than {} bytes", super::SPEC_BYTES_MAX)]
    TooLarge,
    /// The operating system said no.
    #[error("cannot start a supervisor process")]
    Spawn(#[source] io::Error),
}

impl Supervisor {
    /// Supervisors are this very program, even if its file has been replaced by an upgrade since.
    #[must_use]
    pub fn current() -> Self {
        Self::at(PathBuf::from("/proc/self/exe"))
    }

    /// Supervisors are the agent's binary at this path.
    #[must_use]
    pub fn at(program: PathBuf) -> Self {
        Self { program, pool: Pool::default(), groups: None }
    }

    /// The same, with a control group for each of them.
    #[must_use]
    pub fn in_groups(self, groups: Option<Groups>) -> Self {
        Self { groups, ..self }
    }

    /// For attempts that start from now on, with other groups; `None` if they are the same. What is kept for the next attempt is in
    /// the groups of before, and stays with them.
    #[must_use]
    pub fn changed_to(&self, groups: Option<&Groups>) -> Option<Self> {
        let program = self.program.clone();
        (self.groups.as_ref() != groups).then(|| Self {
            program,
            pool: Pool::default(),
            groups: groups.cloned(),
        })
    }

    /// Lets go of what is kept for the next attempt, because none comes. Blocks on the disk.
    pub fn rest(&self) {
        self.pool.rest();
        if let Some(groups) = &self.groups {
            groups.clean();
        }
    }

    /// Does away with the folder of an attempt whose result nobody asks for any more. Blocks on the disk.
    ///
    /// # Errors
    /// If the folder cannot be removed.
    pub fn forget(&self, attempt_dir: PathBuf) -> io::Result<()> {
        self.pool.put_folder(attempt_dir)
    }

    /// Starts the command of `spec` in `attempt_dir`, which must not exist (its parent must). From here on it runs whether
    /// the result is waited for or not.
    ///
    /// # Errors
    /// If nothing was started.
    pub async fn start(&self, attempt_dir: &Path, spec: Spec) -> Result<Supervised, StartError> {
        let order = encode_order(attempt_dir, &spec).ok_or(StartError::TooLarge)?;
        let (this, dir, key) = (self.clone(), attempt_dir.to_path_buf(), spec.key);
        // To start a process holds its thread up for a millisecond, in which the runtime would not say that the attempt
        // is accepted. Once begun it goes to its end, even if nobody waits for it any more.
        let taking = tokio::task::spawn_blocking(move || {
            this.pool.take(&this.program, this.groups.as_ref(), &dir, key)
        });
        let mut worker = taking.await.map_err(|error| StartError::Spawn(io::Error::other(error)))??;
        // A supervisor that died or hangs is seen in `wait`.
        let _seen_later = timeout(ORDER_DURATION_MAX, worker.orders.write_all(&order)).await;
        let now = Instant::now();
        let far = Duration::from_hours(24 * 365);
        let deadline = now + spec.timeout.min(far) + MARGIN;
        Ok(Supervised {
            worker,
            pool: self.pool.clone(),
            attempt_dir: attempt_dir.to_path_buf(),
            key: spec.key,
            is_probe: spec.is_probe,
            grace: spec.grace,
            deadline,
        })
    }

    /// Starts a command and waits for its end.
    pub async fn run(
        &self,
        attempt_dir: &Path,
        spec: Spec,
        output: &OutputSink,
        cancel: &CancelSignal,
    ) -> TaskOutcome {
        match self.start(attempt_dir, spec).await {
            Ok(supervised) => supervised.wait(output, cancel).await,
            Err(error) => TaskOutcome::Failed { reason: crate::executor::reason_of(&error), exit_code: None },
        }
    }
}

/// A command that this agent has started. Dropping it leaves the command running.
#[derive(Debug)]
pub struct Supervised {
    worker: Worker,
    pool: Pool,
    attempt_dir: PathBuf,
    key: AttemptKey,
    is_probe: bool,
    grace: Duration,
    deadline: Instant,
}

/// How a supervisor was heard last.
#[derive(Debug)]
enum Heard {
    End {
        ended: Box<Ended>,
        is_ready: bool,
    },
    /// It went away, or did not end in time, after it was asked to stop for this reason.
    Nothing(Option<StopReason>),
}

impl Supervised {
    /// Forwards output until the command has ended, and ends it when `cancel` asks for that.
    pub async fn wait(mut self, output: &OutputSink, cancel: &CancelSignal) -> TaskOutcome {
        match self.listen(output, cancel).await {
            Heard::End { ended, is_ready: true } => {
                self.pool.put(self.worker);
                tell_usage(self.key, &ended, self.is_probe);
                ended.outcome()
            }
            Heard::End { ended, is_ready: false } => {
                self.worker.leave(MARGIN).await;
                tell_usage(self.key, &ended, self.is_probe);
                ended.outcome()
            }
            Heard::Nothing(stop) => self.settle(stop).await,
        }
    }

    async fn listen(&mut self, output: &OutputSink, cancel: &CancelSignal) -> Heard {
        let Self { worker: Worker { child, frames, .. }, attempt_dir, .. } = self;
        let mut forward = pin!(forward(frames, output, cancel));
        let mut timer = pin!(sleep_until(self.deadline));
        let mut stopping = None;
        loop {
            let stop = tokio::select! {
                end = &mut forward => return match end {
                    // One that was asked to stop gets no other attempt: the signal may still be on its way.
                    Some((ended, is_ready)) => Heard::End { ended, is_ready: is_ready && stopping.is_none() },
                    None => Heard::Nothing(stopping),
                },
                request = cancel.requested(), if stopping.is_none() => {
                    output.say_if_room(&format!("ending the command: {}", request.reason));
                    Stop { reason: StopReason::Cancelled, grace: request.grace }
                }
                () = &mut timer => match stopping {
                    None => Stop { reason: StopReason::TimedOut, grace: self.grace },
                    Some(_) => return Heard::Nothing(stopping),
                },
            };
            watched(attempt_dir, self.key).await;
            tell(child, attempt_dir, stop);
            stopping = Some(stop.reason);
            let far = Duration::from_hours(1);
            timer.as_mut().reset(Instant::now() + stop.grace.min(far) + KILL_DURATION_MAX + MARGIN);
        }
    }

    /// The supervisor ended without a last word, or did not end in time.
    async fn settle(mut self, stop: Option<StopReason>) -> TaskOutcome {
        let _gone = self.worker.child.start_kill();
        self.worker.leave(MARGIN).await;
        match recover(&self.attempt_dir, self.key, RECOVER_DURATION_MAX).await {
            Recovered::Finished { outcome, .. } => outcome,
            Recovered::Interrupted { .. } | Recovered::NeverStarted => match stop {
                Some(StopReason::TimedOut) => TaskOutcome::TimedOut,
                Some(StopReason::Cancelled) => TaskOutcome::Cancelled,
                Some(StopReason::AgentRestarted | StopReason::Terminated) | None => TaskOutcome::Interrupted,
            },
            Recovered::Unknown { reason, .. } => TaskOutcome::Unknown { reason },
        }
    }
}

/// Says in the log what a command has used, if that was counted.
fn tell_usage(key: AttemptKey, ended: &Ended, is_probe: bool) {
    let Some(usage) = ended.usage else { return };
    let (cpu_ms, memory_peak_bytes) = (usage.cpu_us / 1000, usage.memory_peak_bytes);
    if is_probe {
        tracing::debug!(taskId = %key.task, attempt = key.attempt.0, cpu_ms, memory_peak_bytes, "what a look of the check used");
    } else {
        tracing::info!(taskId = %key.task, attempt = key.attempt.0, cpu_ms, memory_peak_bytes, "what the command used");
    }
}

/// Waits, shortly, until the supervisor watches over the command. A TERM before that ends the supervisor, and its command is
/// then killed without a grace.
async fn watched(attempt_dir: &Path, key: AttemptKey) {
    let until = Instant::now() + WATCHED_DURATION_MAX;
    // What it watches is written down right after the signals are blocked.
    let is_watched = || {
        let record = Record::read(attempt_dir, key).ok().flatten();
        record.is_some_and(|record| record.child.is_some() || record.ended.is_some())
    };
    while !is_watched() && Instant::now() < until {
        sleep(WATCHED_INTERVAL).await;
    }
}

/// Asks the supervisor to end the tree. Two small writes: cheaper inline than on another thread.
fn tell(supervisor: &Child, attempt_dir: &Path, stop: Stop) {
    // Unannounced, the signal ends the tree too; and a supervisor that is gone is seen by its closed pipe.
    let _unannounced = stop.write(attempt_dir);
    if let Some(pid) = supervisor.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Forwards output up to the supervisor's last frame of the attempt. `None` if it went away without one.
async fn forward(
    frames: &mut (impl AsyncRead + Unpin),
    output: &OutputSink,
    cancel: &CancelSignal,
) -> Option<(Box<Ended>, bool)> {
    loop {
        match frame::read(frames).await {
            Ok(Some(Frame::Stage(stage))) => cancel.reached(stage),
            Ok(Some(Frame::Output(chunk))) => send(output, chunk).await,
            Ok(Some(Frame::End { ended, is_ready })) => return Some((ended, is_ready)),
            Ok(None) | Err(_) => return None,
        }
    }
}

async fn send(output: &OutputSink, chunk: OutputChunk) {
    if !chunk.bytes.is_empty() {
        output.send(chunk).await;
    }
}
