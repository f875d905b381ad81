//! The supervisor process: one thread, one loop, no runtime. It serves one attempt after the other.
//!
//! Signals are blocked only after the command was started, because a child inherits the mask and there is no safe way to
//! reset it in between. A TERM in that gap ends the supervisor; the agent then finds the command by its marker, as it does
//! when somebody kills the supervisor. The agent's own TERM waits until the gap is over. Between two attempts they are not blocked either: a supervisor
//! that waits ends at once.

mod inherit;
mod pump;
mod spawn;
mod tree;

use std::io;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::setsid;
use stella_protocol::message::EndingStage;

use self::pump::Pump;
use self::tree::Tree;
use super::group::{Group, Meter};
use super::process::{Process, boot_id};
use super::record::{End, Ended, Started, Writer};
use super::spec::{Spec, Stop, StopReason, read_order};
use crate::output::now;

/// How often the tree is looked at while it is being ended: a grandchild's end sends no signal here.
const TREE_INTERVAL: Duration = Duration::from_millis(20);

/// How long KILL is repeated before the tree is called unkillable (a process that hangs in the kernel).
pub(super) const KILL_DURATION_MAX: Duration = Duration::from_secs(10);

/// Who this supervisor is, in records.
#[derive(Debug)]
struct Identity {
    process: Process,
    boot_id: String,
}

impl Identity {
    fn read() -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let process = Process::of(pid).ok_or_else(|| io::Error::other("/proc is not there"))?;
        Ok(Self { process, boot_id: boot_id()? })
    }
}

/// Runs a supervisor until it is not ready for another attempt, or the agent has none for it. Orders come on standard
/// input.
#[must_use]
pub fn main() -> ExitCode {
    // Fails only for a leader of a process group, which a freshly started process is not.
    let _session = setsid();
    let Ok(()) = prctl::set_child_subreaper(true) else { return ExitCode::FAILURE };
    inherit::limit_files();
    let Ok(identity) = Identity::read() else { return ExitCode::FAILURE };
    let group = Group::enter(identity.process);
    let mut orders = io::stdin().lock();
    let mut told = None;
    while let Some((attempt_dir, spec)) = read_order(&mut orders) {
        // The agent lives, and its journal makes the last result durable before it is said.
        drop(told.take());
        match supervise(&identity, group.as_ref(), &attempt_dir, &spec) {
            Ok(Some(record)) => told = Some(record),
            Ok(None) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
    // It may have gone before it has written down what it was told.
    match told.map_or(Ok(()), |record| record.sync()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One attempt. Gives its record if this process is ready for another: the end is written down and told, nothing of the tree
/// is left, and nobody has asked to end it, so that no late signal can hit another command.
///
/// The end is told before it is durable. While the agent lives, its journal makes the result durable before anybody else hears
/// of it, and a barrier here would be one too many for each command; once it is gone, the barrier is here.
fn supervise(
    identity: &Identity,
    group: Option<&Group>,
    attempt_dir: &Path,
    spec: &Spec,
) -> io::Result<Option<Writer>> {
    let started_at = now();
    let mut pump = Pump::new(attempt_dir)?;
    let not_started = |reason: String| Ended {
        started_at,
        ended_at: now(),
        end: End::NotStarted { reason },
        stop: None,
        tree_gone: true,
        usage: None,
    };

    let (supervisor, boot_id) = (identity.process, identity.boot_id.clone());
    let path = group.map(|group| group.path().to_owned());
    let started = Started { key: spec.key, supervisor, boot_id, at: started_at, group: path };
    let mut record = match Writer::start(attempt_dir, started) {
        Ok(record) => record,
        Err(error) => {
            let reason = format!("the start cannot be recorded in {}: {error}", attempt_dir.display());
            return pump.finish(&not_started(reason), false).map(|_| None);
        }
    };
    let meter = group.map(Meter::start);
    // The signals stay blocked until the end is written down and told.
    let (ended, is_free, _signals) = match spawn::spawn(spec) {
        Ok(child) => {
            let signals = Signals::block()?;
            let watched = Watched { attempt_dir, spec, group };
            let (ended, is_free) = watch(&watched, child, &mut record, &mut pump, &signals)?;
            (Ended { started_at, usage: meter.map(Meter::stop), ..ended }, is_free, Some(signals))
        }
        Err(error) => (not_started(error.to_string()), true, None),
    };
    let recorded = record.ended(&ended);
    let is_ready = is_free && recorded.is_ok();
    // The agent hears the end even if the disk did not take it.
    let is_heard = pump.finish(&ended, is_ready);
    recorded?;
    if is_ready && matches!(is_heard, Ok(true)) {
        return Ok(Some(record));
    }
    record.sync()?;
    is_heard.map(|_| None)
}

/// How far the end of the command has got.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Running { deadline: Option<Instant> },
    Terminating { reason: StopReason, kill_at: Instant },
    Killing { reason: StopReason, give_up_at: Instant },
}

impl Phase {
    const fn stage(self) -> Option<EndingStage> {
        match self {
            Self::Running { .. } => None,
            Self::Terminating { .. } => Some(EndingStage::Terminated),
            Self::Killing { .. } => Some(EndingStage::Killed),
        }
    }
}

/// What is watched over.
#[derive(Clone, Copy, Debug)]
struct Watched<'a> {
    attempt_dir: &'a Path,
    spec: &'a Spec,
    group: Option<&'a Group>,
}

/// The command from its start to its end, or to the end of its tree; and whether nothing of it is left that could touch
/// another attempt: no process, and no request to end.
fn watch(
    watched: &Watched<'_>,
    mut child: Child,
    record: &mut Writer,
    pump: &mut Pump,
    signals: &Signals,
) -> io::Result<(Ended, bool)> {
    let Watched { attempt_dir, spec, group } = *watched;
    let started_at = now();
    pump.attach(child.stdout.take(), child.stderr.take())?;
    let mut tree = Tree::new(child, group)?;
    if let Some(process) = tree.command() {
        // It only helps to find the command after this process was killed; the marker does too.
        let _unrecorded = record.spawned(process);
    }
    let mut phase = Phase::Running { deadline: Instant::now().checked_add(spec.timeout) };
    let mut is_asked = false;
    let mut told = None;
    let tree_gone = loop {
        tree.reap();
        if let Some(stage) = phase.stage().filter(|stage| told.replace(*stage) != Some(*stage)) {
            pump.tell(stage);
        }
        if let Some(tree_gone) = step(&mut phase, &tree, spec)? {
            break tree_gone;
        }
        pump.wait(&signals.descriptor, wait_time(phase))?;
        if signals.take_terminations()? {
            is_asked = true;
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
    let is_free = !is_asked && stop.is_none() && tree.is_gone();
    Ok((Ended { started_at, ended_at, end: tree.end(), stop, tree_gone, usage: None }, is_free))
}

/// Moves the phase on if its time has come. `Some` when all is over: whether the tree is gone.
fn step(phase: &mut Phase, tree: &Tree<'_>, spec: &Spec) -> io::Result<Option<bool>> {
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
                tree.kill()?;
                *phase = Phase::Killing { reason, give_up_at: Instant::now() + KILL_DURATION_MAX };
            }
            Ok(None)
        }
        Phase::Killing { give_up_at, .. } => {
            // Again each time: what was being forked during the last round has escaped it.
            tree.kill()?;
            Ok((Instant::now() >= give_up_at).then_some(false))
        }
    }
}

/// TERM to the whole tree. A second request can only shorten the grace of the first.
fn begin_stop(phase: &mut Phase, tree: &Tree<'_>, stop: Stop) -> io::Result<()> {
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

/// The signals that matter, blocked and readable until this is dropped.
#[derive(Debug)]
struct Signals {
    mask: SigSet,
    descriptor: SignalFd,
}

impl Signals {
    fn block() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let descriptor = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { mask, descriptor })
    }

    /// Takes all waiting signals; whether one of them asks to end. The others were about children.
    fn take_terminations(&self) -> io::Result<bool> {
        let mut is_asked = false;
        while let Some(information) = self.descriptor.read_signal()? {
            let child =
                u32::try_from(Signal::SIGCHLD as i32).is_ok_and(|number| number == information.ssi_signo);
            is_asked |= !child;
        }
        Ok(is_asked)
    }
}

impl Drop for Signals {
    /// A request to end that came too late for the command ends this process here.
    fn drop(&mut self) {
        let _only_fails_for_bad_arguments = self.mask.thread_unblock();
    }
}
