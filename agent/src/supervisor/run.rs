//! The agent's side: starting a supervisor, listening to it, and telling it to stop.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_protocol::id::AttemptKey;
use stella_protocol::message::{OutputChunk, TaskOutcome};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::child::KILL_DURATION_MAX;
use super::frame::{self, Frame};
use super::record::Ended;
use super::recover::{Recovered, recover};
use super::spec::{Spec, Stop, StopReason};
use super::{MARKER, VERB};
use crate::cancel::CancelSignal;
use crate::output::OutputSink;

/// How much later than a supervisor the agent acts on the same deadline: the supervisor knows better.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a new supervisor may take to read its specification.
const SPEC_DURATION_MAX: Duration = Duration::from_secs(10);

/// How long the tree of a killed supervisor may take to go.
const RECOVER_DURATION_MAX: Duration = Duration::from_secs(15);

/// Starts supervisors.
#[derive(Clone, Debug)]
pub struct Supervisor {
    program: PathBuf,
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
    pub const fn at(program: PathBuf) -> Self {
        Self { program }
    }

    /// Starts a supervisor for `spec` in `attempt_dir`, which must not exist (its parent must). From here on the command
    /// runs whether the result is waited for or not.
    ///
    /// # Errors
    /// If nothing was started.
    pub async fn start(&self, attempt_dir: &Path, spec: Spec) -> Result<Supervised, StartError> {
        let encoded = spec.encode().ok_or(StartError::TooLarge)?;
        let (program, dir, key) = (self.program.clone(), attempt_dir.to_path_buf(), spec.key);
        // To start a process holds its thread up for a millisecond, in which the runtime would not say that the attempt
        // is accepted. Once begun it goes to its end, even if nobody waits for it any more.
        let spawning = tokio::task::spawn_blocking(move || spawn(&program, &dir, key));
        let mut child = spawning.await.map_err(|error| StartError::Spawn(io::Error::other(error)))??;
        if let Some(mut stdin) = child.stdin.take() {
            // A supervisor that died or hangs is seen in `wait`.
            let _seen_later = timeout(SPEC_DURATION_MAX, stdin.write_all(&encoded)).await;
        }
        let now = Instant::now();
        let far = Duration::from_hours(24 * 365);
        let deadline = now + spec.timeout.min(far) + MARGIN;
        Ok(Supervised {
            child,
            attempt_dir: attempt_dir.to_path_buf(),
            key: spec.key,
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

/// Makes the attempt's folder and starts its supervisor. Blocks; needs the runtime's context.
fn spawn(program: &Path, attempt_dir: &Path, key: AttemptKey) -> Result<Child, StartError> {
    DirBuilder::new().mode(0o700).create(attempt_dir).map_err(|source| {
        let path = attempt_dir.to_path_buf();
        if source.kind() == io::ErrorKind::AlreadyExists {
            StartError::StartedBefore(path)
        } else {
            StartError::Folder { path, source }
        }
    })?;
    Command::new(program)
        .arg(VERB)
        .arg(attempt_dir)
        .env_clear()
        // Found by it as well, so that there is no moment without a marker between its fork and the command's start.
        .env(MARKER, key.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(StartError::Spawn)
}

/// A supervisor that this agent has started. Dropping it leaves the command running.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    attempt_dir: PathBuf,
    key: AttemptKey,
    grace: Duration,
    deadline: Instant,
}

impl Supervised {
    /// Forwards output until the command has ended, and ends it when `cancel` asks for that.
    pub async fn wait(mut self, output: &OutputSink, cancel: &CancelSignal) -> TaskOutcome {
        let (ended, stop) = self.listen(output, cancel).await;
        if let Some(ended) = ended {
            // It exits right after its last frame; reaping it is all that is left, and the runtime does it in any case.
            let _reaped = timeout(MARGIN, self.child.wait()).await;
            return ended.outcome();
        }
        self.settle(stop).await
    }

    async fn listen(
        &mut self,
        output: &OutputSink,
        cancel: &CancelSignal,
    ) -> (Option<Ended>, Option<StopReason>) {
        let Some(stdout) = self.child.stdout.take() else { return (None, None) };
        let mut forward = pin!(forward(stdout, output));
        let mut timer = pin!(sleep_until(self.deadline));
        let mut stopping = None;
        loop {
            let stop = tokio::select! {
                ended = &mut forward => return (ended, stopping),
                request = cancel.requested(), if stopping.is_none() => {
                    output.say_if_room(&format!("ending the command: {}", request.reason));
                    Stop { reason: StopReason::Cancelled, grace: request.grace }
                }
                () = &mut timer => match stopping {
                    None => Stop { reason: StopReason::TimedOut, grace: self.grace },
                    Some(_) => return (None, stopping),
                },
            };
            self.tell(stop);
            stopping = Some(stop.reason);
            let far = Duration::from_hours(1);
            timer.as_mut().reset(Instant::now() + stop.grace.min(far) + KILL_DURATION_MAX + MARGIN);
        }
    }

    /// Asks the supervisor to end the tree. Two small writes: cheaper inline than on another thread.
    fn tell(&self, stop: Stop) {
        // Unannounced, the signal ends the tree too; and a supervisor that is gone is seen by its closed pipe.
        let _unannounced = stop.write(&self.attempt_dir);
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// The supervisor ended without a last word, or did not end in time.
    async fn settle(mut self, stop: Option<StopReason>) -> TaskOutcome {
        let _gone = self.child.start_kill();
        let _reaped = timeout(MARGIN, self.child.wait()).await;
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

/// Forwards output up to the supervisor's last frame. `None` if it went away without one.
async fn forward(stdout: ChildStdout, output: &OutputSink) -> Option<Ended> {
    let mut stdout = BufReader::new(stdout);
    loop {
        match frame::read(&mut stdout).await {
            Ok(Some(Frame::Output(chunk))) => send(output, chunk).await,
            Ok(Some(Frame::End(ended))) => return Some(*ended),
            Ok(None) | Err(_) => return None,
        }
    }
}

async fn send(output: &OutputSink, chunk: OutputChunk) {
    if !chunk.bytes.is_empty() {
        output.send(chunk).await;
    }
}
