//! What became of a command whose supervisor this agent does not hold: after a restart, or after the supervisor was killed.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stella_protocol::id::AttemptKey;
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;

use super::group;
use super::process::{self, Process, Stat};
use super::record::{End, Ended, Given, Record, Writer, key_of};
use super::run::WATCHED_DURATION_MAX;
use super::spec::{GRACE_DEFAULT, Stop, StopReason};
use super::{MARKER, SUPERVISOR_MARKER};
use crate::output::now;

/// How often `/proc` is looked at while something is being ended. These are no children of the agent, so nothing tells it.
const INTERVAL: Duration = Duration::from_millis(10);

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It has ended, and this is its real result.
    Finished {
        /// How it ended.
        outcome: TaskOutcome,
        /// When it started.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
    },
    /// It was broken off, and its whole process tree is confirmed gone.
    Interrupted {
        /// When it started, if that is known.
        started_at: Option<Timestamp>,
    },
    /// It has not started, and will not.
    NeverStarted,
    /// It cannot be told.
    Unknown {
        /// For a person: why not.
        reason: String,
        /// When it started, if that is known.
        started_at: Option<Timestamp>,
    },
}

/// Finds out what became of the command of an attempt, and ends it if it still runs. Takes at most about `limit`; half of
/// that (at most [`GRACE_DEFAULT`]) is the command's to end on its own after TERM.
pub async fn recover(attempt_dir: &Path, key: AttemptKey, limit: Duration) -> Recovered {
    let attempt_dir = attempt_dir.to_path_buf();
    let work =
        tokio::task::spawn_blocking(move || recover_blocking(&attempt_dir, key, limit, Proof::Confirmed));
    work.await.unwrap_or_else(|_| Recovered::Unknown {
        reason: "looking for the command's processes failed; see the agent's log".to_owned(),
        started_at: None,
    })
}

/// Ends what may be left of an attempt that nobody has a use for any more, because the agent's journal does not know it. Takes at most
/// about `limit`. Whose it was, if it had been started and had not come to its end.
///
/// # Errors
/// For a person: what may still be there.
pub async fn give_up(attempt_dir: &Path, limit: Duration) -> Result<Option<AttemptKey>, String> {
    let attempt_dir = attempt_dir.to_path_buf();
    let work = tokio::task::spawn_blocking(move || {
        // Without a record no supervisor has heard of it, and one that has ended is over.
        let Some(key) = key_of(&attempt_dir) else { return Ok(None) };
        if matches!(Record::read(&attempt_dir, key), Ok(Some(Record { ended: Some(_), .. }))) {
            return Ok(None);
        }
        // Nobody acts on what is found, so that nothing was found is enough.
        match recover_blocking(&attempt_dir, key, limit, Proof::Looked) {
            Recovered::Interrupted { .. } => Ok(Some(key)),
            Recovered::Finished { .. } | Recovered::NeverStarted => Ok(None),
            Recovered::Unknown { reason, .. } => Err(reason),
        }
    });
    work.await.unwrap_or_else(|error| Err(format!("looking for its processes failed: {error}")))
}

/// The processes of an attempt that are there now, by the marker in their environment and by their parents. Blocks on `/proc`.
///
/// # Errors
/// If the host's processes cannot be listed.
pub fn processes_of(key: AttemptKey) -> io::Result<Vec<i32>> {
    let found = victims(&process::all()?, &format!("{MARKER}={key}"), None, &[]);
    Ok(found.iter().map(|process| process.pid).collect())
}

/// What it takes to say that nothing of a command is left whose supervisor is dead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It was looked for and not found. What has another parent, another session and another environment is not seen.
    Looked,
    /// Its control group is empty: nothing gets out of that.
    Confirmed,
}

fn recover_blocking(attempt_dir: &Path, key: AttemptKey, limit: Duration, proof: Proof) -> Recovered {
    let until = Instant::now() + limit;
    match Record::read(attempt_dir, key) {
        Ok(Some(record)) => settle(attempt_dir, record, (limit, until), proof),
        Ok(None) => match sweep(key, None, until) {
            // A supervisor of an earlier version may have written its first line while it was being ended.
            Ok(()) => match Record::read(attempt_dir, key) {
                Ok(Some(record)) => settle(attempt_dir, record, (limit, until), proof),
                Ok(None) => Recovered::NeverStarted,
                Err(error) => unreadable(&error),
            },
            Err(left) => Recovered::Unknown { reason: left.to_string(), started_at: None },
        },
        Err(error) => match sweep(key, None, until) {
            Ok(()) => unreadable(&error),
            Err(left) => Recovered::Unknown { reason: left.to_string(), started_at: None },
        },
    }
}

fn unreadable(error: &io::Error) -> Recovered {
    Recovered::Unknown {
        reason: format!("the record of the command cannot be read: {error}"),
        started_at: None,
    }
}

fn settle(
    attempt_dir: &Path,
    record: Record,
    (limit, until): (Duration, Instant),
    proof: Proof,
) -> Recovered {
    let Record { given, started_at, ended, .. } = record;
    if let Some(ended) = ended {
        return from_end(&ended);
    }
    match process::boot_id() {
        Ok(boot_id) if boot_id == given.boot_id => {}
        Ok(_) => return broken_off(started_at),
        Err(error) => {
            let reason = format!("this boot of the host cannot be told from others: {error}");
            return Recovered::Unknown { reason, started_at };
        }
    }
    let was_alive = end_supervisor(attempt_dir, &given, limit, until);
    // Until here it may have started the command, or ended it.
    let (started_at, child, group) = match Record::read(attempt_dir, given.key) {
        Ok(Some(Record { ended: Some(ended), .. })) => return from_end(&ended),
        Ok(Some(record)) => (record.started_at, record.child, record.group),
        Ok(None) => (started_at, None, None),
        Err(error) => return unreadable(&error),
    };
    let key = given.key;
    // A path from the record is used only if it looks like one that a supervisor makes.
    let known = Known { given, child, group: group.filter(|path| group::is_of_tasks(path)) };
    match sweep(key, Some(&known), until) {
        // One that lived a moment ago and had not come to watch its command has left nothing that could have got away since.
        Ok(()) if was_alive && known.child.is_none() => {
            if let Some(started_at) = started_at {
                // Whoever asks again does not see that it lived. What cannot be written is unknown to them, and known now.
                let _seen_now = note_broken_off(attempt_dir, started_at);
            }
            broken_off(started_at)
        }
        Ok(()) if known.group.is_none() && started_at.is_some() && proof == Proof::Confirmed => {
            let reason = "its supervisor was killed, and without a control group nobody can confirm that nothing of it is left; look for \
                          its processes on the host"
                .to_owned();
            Recovered::Unknown { reason, started_at }
        }
        Ok(()) => broken_off(started_at),
        Err(left) => Recovered::Unknown { reason: left.to_string(), started_at },
    }
}

/// Leaves in the record what only the agent that was here has seen: the supervisor ended at its start, and nothing is left.
fn note_broken_off(attempt_dir: &Path, started_at: Timestamp) -> io::Result<()> {
    let mut record = Writer::resume(attempt_dir)?;
    record.ended(&Ended {
        started_at,
        ended_at: now(),
        end: End::Unseen,
        stop: Some(StopReason::AgentRestarted),
        tree_gone: true,
        usage: None,
    })?;
    record.sync()
}

/// Nothing of it is left. Without a start on disk there was none: the start is durable before the command begins.
const fn broken_off(started_at: Option<Timestamp>) -> Recovered {
    match started_at {
        Some(_) => Recovered::Interrupted { started_at },
        None => Recovered::NeverStarted,
    }
}

fn from_end(ended: &Ended) -> Recovered {
    let started_at = Some(ended.started_at);
    match ended.outcome() {
        TaskOutcome::Interrupted => Recovered::Interrupted { started_at },
        TaskOutcome::Unknown { reason } => Recovered::Unknown { reason, started_at },
        outcome @ (TaskOutcome::Succeeded
        | TaskOutcome::Failed { .. }
        | TaskOutcome::TimedOut
        | TaskOutcome::Cancelled
        | TaskOutcome::Refused { .. }) => {
            Recovered::Finished { outcome, started_at: ended.started_at, finished_at: ended.ended_at }
        }
    }
}

/// Asks a supervisor to end its tree and waits for it; kills it when it takes too long. Whether it lived until then.
fn end_supervisor(attempt_dir: &Path, given: &Given, limit: Duration, until: Instant) -> bool {
    let supervisor = given.supervisor;
    if !supervisor.is_alive() {
        return false;
    }
    await_watch(attempt_dir, given);
    let stop = Stop { reason: StopReason::AgentRestarted, grace: GRACE_DEFAULT.min(limit / 2) };
    // Without the file, the supervisor takes the signal for one from outside: that ends the tree just the same.
    let _unannounced = stop.write(attempt_dir);
    let _seen_below = supervisor.signal(Signal::SIGTERM);
    // The last quarter is for the sweep.
    let ask_until = until.checked_sub(limit / 4).unwrap_or(until);
    while supervisor.is_alive() && Instant::now() < ask_until {
        thread::sleep(INTERVAL);
    }
    let _seen_by_sweep = supervisor.signal(Signal::SIGKILL);
    true
}

/// Waits, shortly, until a supervisor that has begun watches over its command. A TERM before that ends it at once, and nobody proves what
/// is left of the command then.
fn await_watch(attempt_dir: &Path, given: &Given) {
    let until = Instant::now() + WATCHED_DURATION_MAX;
    let has_only_begun = || {
        let record = Record::read(attempt_dir, given.key).ok().flatten();
        record.is_some_and(|it| it.started_at.is_some() && it.child.is_none() && it.ended.is_none())
    };
    while has_only_begun() && given.supervisor.is_alive() && Instant::now() < until {
        thread::sleep(INTERVAL);
    }
}

/// What is known of an attempt whose supervisor is dead.
struct Known {
    given: Given,
    child: Option<Process>,
    group: Option<PathBuf>,
}

/// Something of a tree is left, or might be.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("processes of the command are still there after KILL: {0:?}; look for them on the host")]
    Unkillable(Vec<i32>),
    #[error(
        "processes {0:?} are in the command's session, but nothing proves that they are its own; look at them on the host"
    )]
    Unproven(Vec<i32>),
    #[error("the host's processes cannot be listed: {0}")]
    Proc(io::Error),
    #[error("the command's control group cannot be read: {0}; look for its processes on the host")]
    Group(io::Error),
}

/// Kills what is left of an attempt whose supervisor is dead: processes with the attempt's marker in their environment, the
/// recorded command, a process in the supervisor's session that still has the supervisor's own environment (it was about
/// to become the command), and everything below those. Two looks in a row must find nothing.
///
/// What is in the supervisor's control group is ended too, however it looks: nothing else gets there.
///
/// What is only in the session is not killed: a session's number may have been given to somebody else since.
fn sweep(key: AttemptKey, known: Option<&Known>, until: Instant) -> Result<(), Left> {
    let marker = format!("{MARKER}={key}");
    let mut clean_looks = 0;
    let group = known.and_then(|known| known.group.as_deref());
    if let Some(group) = group {
        // Whatever is in it, and however that looks. Where the kernel cannot, each is signalled.
        let _each = group::kill(group);
    }
    loop {
        let stats = process::all().map_err(Left::Proc)?;
        // A group that is gone has nobody in it; of one that cannot be read, nobody knows.
        let members = group.map_or_else(|| Ok(Vec::new()), group::members).map_err(Left::Group)?;
        let victims = victims(&stats, &marker, known, &members);
        if victims.is_empty() {
            clean_looks += 1;
            if clean_looks == 2 {
                let unproven = known.map(|known| session_of(known.given.supervisor, &stats));
                return match unproven {
                    Some(left) if !left.is_empty() => Err(Left::Unproven(left)),
                    _ => Ok(()),
                };
            }
        } else {
            clean_looks = 0;
            if Instant::now() >= until {
                return Err(Left::Unkillable(victims.iter().map(|victim| victim.pid).collect()));
            }
            if let Some(group) = group {
                let _each = group::kill(group);
            }
            for victim in &victims {
                // One that may not be killed is found again at the next look.
                let _again = victim.signal(Signal::SIGKILL);
            }
        }
        thread::sleep(INTERVAL);
    }
}

fn victims(stats: &[Stat], marker: &str, known: Option<&Known>, members: &[i32]) -> Vec<Process> {
    let this = i32::try_from(std::process::id()).unwrap_or(0);
    let child = known.and_then(|known| known.child);
    let session = known.map_or_else(Vec::new, |known| session_of(known.given.supervisor, stats));
    let has = |pid, variable: &str| process::has_variable(pid, variable).unwrap_or(false);
    let is_root = |stat: &&Stat| {
        stat.pid != this
            && (Some(stat.process()) == child
                || members.contains(&stat.pid)
                || has(stat.pid, marker)
                || session.contains(&stat.pid) && has(stat.pid, SUPERVISOR_MARKER))
    };
    let mut victims: Vec<Process> = stats.iter().filter(is_root).map(Stat::process).collect();
    let roots: Vec<i32> = victims.iter().map(|victim| victim.pid).collect();
    victims.extend(process::descendants(stats, &roots));
    victims
}

/// Who is in the session that a supervisor opened, unless its number has a new owner.
fn session_of(supervisor: Process, stats: &[Stat]) -> Vec<i32> {
    if stats.iter().any(|stat| stat.pid == supervisor.pid && stat.start_time != supervisor.start_time) {
        return Vec::new();
    }
    let is_member = |stat: &&Stat| stat.session == supervisor.pid && stat.start_time >= supervisor.start_time;
    stats.iter().filter(is_member).map(|stat| stat.pid).collect()
}
