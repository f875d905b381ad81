//! The supervisor process: one thread, one loop, no runtime.
//!
//! Signals are blocked only after the command was started, because a child inherits the mask and there is no safe way to
//! reset it in between. A TERM in that gap of microseconds ends the supervisor; the agent then finds the command by its
//! marker, as it does when somebody kills the supervisor.

mod pump;
mod spawn;
mod tree;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::setsid;
use stella_protocol::time::Timestamp;

use self::pump::Pump;
use self::tree::Tree;
use super::process::{Process, boot_id};
use super::record::{End, Ended, Started, Writer};
use super::spec::{SPEC_BYTES_MAX, Spec, Stop, StopReason};
use crate::output::now;

/// How often the tree is looked at while it is being ended: a grandchild's end sends no signal here.
const TREE_INTERVAL: Duration = Duration::from_millis(20);

/// How long KILL is repeated before the tree is called unkillable (a process that hangs in the kernel).
pub(super) const KILL_DURATION_MAX: Duration = Duration::from_secs(10);

/// Runs the supervisor for the attempt in `attempt_dir`; the specification comes on standard input.
#[must_use]
pub fn main(attempt_dir: Option<PathBuf>) -> ExitCode {
    let spec = attempt_dir.as_ref().and_then(|_| read_spec());
    // Without a whole specification the agent has died while it wrote it: nothing was started, nothing is recorded.
    let (Some(attempt_dir), Some(spec)) = (attempt_dir, spec) else { return ExitCode::from(2) };
    match supervise(&attempt_dir, spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_spec() -> Option<Spec> {
    let mut bytes = Vec::new();
    io::stdin().take(SPEC_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
    Spec::decode(&bytes)
}

fn supervise(attempt_dir: &Path, spec: Spec) -> io::Result<()> {
    // Fails only for a leader of a process group, which a freshly started process is not.
    let _session = setsid();
    prctl::set_child_subreaper(true)?;
    let started_at = now();
    let mut pump = Pump::new(attempt_dir)?;
    let not_started = |reason: String| Ended {
        started_at,
        ended_at: now(),
        end: End::NotStarted { reason },
        stop: None,
        tree_gone: true,
    };

    let mut record = match start_record(attempt_dir, &spec, started_at) {
        Ok(record) => record,
        Err(error) => {
            let reason = format!("the start cannot be recorded in {}: {error}", attempt_dir.display());
            return pump.finish(&not_started(reason));
        }
    };
    let ended = match spawn::spawn(&spec) {
        Ok(child) => watch(attempt_dir, &spec, child, started_at, &mut record, &mut pump)?,
        Err(error) => not_started(error.to_string()),
    };
    // The agent hears the end even if the disk did not take it.
    let recorded = record.ended(&ended);
    pump.finish(&ended)?;
    recorded
}

fn start_record(attempt_dir: &Path, spec: &Spec, at: Timestamp) -> io::Result<Writer> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let supervisor = Process::of(pid).ok_or_else(|| io::Error::other("/proc is not there"))?;
    Writer::create(attempt_dir, Started { key: spec.key, supervisor, boot_id: boot_id()?, at })
}

/// How far the end of the command has got.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Running { deadline: Option<Instant> },
    Terminating { reason: StopReason, kill_at: Instant },
    Killing { reason: StopReason, give_up_at: Instant },
}

/// The command from its start to its end, or to the end of its tree.
fn watch(
    attempt_dir: &Path,
    spec: &Spec,
    mut child: Child,
    started_at: Timestamp,
    record: &mut Writer,
    pump: &mut Pump,
) -> io::Result<Ended> {
    let signals = block_signals()?;
    pump.attach(child.stdout.take(), child.stderr.take())?;
    let mut tree = Tree::new(child)?;
    if let Some(process) = tree.command() {
        // It only helps to find the command after this process was killed; the marker does too.
        let _unrecorded = record.spawned(process);
    }
    let mut phase = Phase::Running { deadline: Instant::now().checked_add(spec.timeout) };
    let tree_gone = loop {
        tree.reap();
        if let Some(tree_gone) = step(&mut phase, &tree, spec)? {
            break tree_gone;
        }
        pump.wait(&signals, wait_time(phase))?;
        if terminated(&signals)? {
            tree.reap();
            if matches!(phase, Phase::Running { .. }) && tree.command_ended() {
                // It was faster than the request: its own end is the result.
                continue;
            }
            let stop = Stop::read(attempt_dir);
            let stop = stop.unwrap_or(Stop { reason: StopReason::Terminated, grace: spec.grace });
            begin_stop(&mut phase, &tree, stop)?;
        }
    };
    let ended_at = now();
    pump.drain()?;
    let stop = match phase {
        Phase::Running { .. } => None,
        Phase::Terminating { reason, .. } | Phase::Killing { reason, .. } => Some(reason),
    };
    Ok(Ended { started_at, ended_at, end: tree.end(), stop, tree_gone })
}

/// Moves the phase on if its time has come. `Some` when all is over: whether the tree is gone.
fn step(phase: &mut Phase, tree: &Tree, spec: &Spec) -> io::Result<Option<bool>> {
    match *phase {
        // What a command leaves behind when it ends by itself is left alone.
        Phase::Running { .. } if tree.command_ended() => Ok(Some(true)),
        Phase::Running { deadline } => {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                begin_stop(phase, tree, Stop { reason: StopReason::TimedOut, grace: spec.grace })?;
            }
            Ok(None)
        }
        Phase::Terminating { .. } | Phase::Killing { .. } if !tree.is_running() => Ok(Some(true)),
        Phase::Terminating { reason, kill_at } => {
            if Instant::now() >= kill_at {
                tree.signal(Signal::SIGKILL)?;
                *phase = Phase::Killing { reason, give_up_at: Instant::now() + KILL_DURATION_MAX };
            }
            Ok(None)
        }
        Phase::Killing { give_up_at, .. } => {
            // Again each time: what was being forked during the last round has escaped it.
            tree.signal(Signal::SIGKILL)?;
            Ok((Instant::now() >= give_up_at).then_some(false))
        }
    }
}

/// TERM to the whole tree. A second request can only shorten the grace of the first.
fn begin_stop(phase: &mut Phase, tree: &Tree, stop: Stop) -> io::Result<()> {
    let wanted = Instant::now() + stop.grace.min(Duration::from_hours(1));
    match *phase {
        Phase::Running { .. } => {
            tree.signal(Signal::SIGTERM)?;
            *phase = Phase::Terminating { reason: stop.reason, kill_at: wanted };
        }
        Phase::Terminating { reason, kill_at } => {
            *phase = Phase::Terminating { reason, kill_at: kill_at.min(wanted) };
        }
        Phase::Killing { .. } => {}
    }
    Ok(())
}

fn wait_time(phase: Phase) -> Option<Duration> {
    match phase {
        Phase::Running { deadline } => deadline.map(|at| at.saturating_duration_since(Instant::now())),
        Phase::Terminating { .. } | Phase::Killing { .. } => Some(TREE_INTERVAL),
    }
}

fn block_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Takes all waiting signals; whether one of them asks to end. The others were about children.
fn terminated(signals: &SignalFd) -> io::Result<bool> {
    let mut terminated = false;
    while let Some(information) = signals.read_signal()? {
        let child = u32::try_from(Signal::SIGCHLD as i32).is_ok_and(|number| number == information.ssi_signo);
        terminated |= !child;
    }
    Ok(terminated)
}
