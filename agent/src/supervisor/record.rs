//! What a supervisor writes down: one file of JSON lines, in the attempt's folder.
//!
//! | line | written by | when | durable | says |
//! |---|---|---|---|---|
//! | `Given` | the agent | before a supervisor hears of the attempt | no: it only matters in the same boot | who will supervise |
//! | `Started` | the supervisor | before the command starts | yes | who supervises, in which boot |
//! | `Spawned` | the supervisor | after the command has started | no: it only matters in the same boot | which process is the command |
//! | `Ended` | the supervisor; a recovering agent for one that died at the start | when all is over | if the agent is gone; else its journal has the result | how it ended |
//!
//! `Given` closes the gap between an order and `Started`: an agent that died in it left a supervisor behind that may still
//! start the command, and its next life must know whom to end before it may say that the command never started.
//!
//! A line counts once its newline is there; a torn last line is one that was never written. The agent makes the file with
//! its final size, filled up with zeros, and lines are written into that: the end then changes no metadata, so its barrier
//! waits for one block only, and a disk that is full by then cannot take it away.
//!
//! A folder whose attempt is forgotten serves the next one (see `pool`), so a record may still be the one before until
//! `Given` is written over it: one of another attempt counts as none. It cannot hide a start, which is durable in its place
//! before the command begins. The record tells whose it is, and after a power cut the folder's name may not (see `pool`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use stella_protocol::id::AttemptKey;
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;

use super::group::Usage;
use super::process::Process;
use super::spec::StopReason;

const RECORD_FILE: &str = "record";

/// The largest record, in bytes: four short lines and one reason.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// The size that a record is made with, in bytes: one block of most file systems, and room for all but a very long reason.
const RECORD_BYTES: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Given(Given),
    Started(Started),
    Spawned(Process),
    Ended(Ended),
}

/// A supervisor is about to hear of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) key: AttemptKey,
    pub(super) supervisor: Process,
    pub(super) boot_id: String,
}

impl Given {
    /// Leaves it in the attempt's folder: in a new record, or over the whole of the one before.
    pub(super) fn write(self, attempt_dir: &Path) -> io::Result<()> {
        let path = attempt_dir.join(RECORD_FILE);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = encode(&Line::Given(self))?;
        bytes.resize(bytes.len().max(RECORD_BYTES), 0);
        file.write_all(&bytes)
    }
}

/// A supervisor is about to start a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) key: AttemptKey,
    pub(super) supervisor: Process,
    pub(super) boot_id: String,
    pub(super) at: Timestamp,
    /// The control group that the command and all that comes of it are in, if there are groups here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<PathBuf>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
    pub(super) end: End,
    /// Why the supervisor ended the tree, if it did.
    pub(super) stop: Option<StopReason>,
    /// Whether nothing of the tree was left after a stop.
    pub(super) tree_gone: bool,
    /// What it has used, if that was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

/// The end of the command's own process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// It never ran.
    NotStarted {
        reason: String,
    },
    Exited {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
    /// It could not be killed.
    Unseen,
}

impl Ended {
    /// What its host's limits may have to do with a failure, as the end of a sentence.
    fn limit_reached(&self) -> &'static str {
        match self.usage {
            Some(Usage { out_of_memory: true, .. }) => {
                "; it had used up tasks.memory_max_bytes of its host, and something of it was killed"
            }
            Some(Usage { out_of_processes: true, .. }) => {
                "; it had as many processes as tasks.processes_max of its host lets it"
            }
            Some(_) | None => "",
        }
    }

    /// The same as the outcome of a task.
    pub(super) fn outcome(&self) -> TaskOutcome {
        if !self.tree_gone {
            let reason =
                "processes of the command are still there after KILL; look for them on the host".to_owned();
            return TaskOutcome::Unknown { reason };
        }
        match self.stop {
            Some(StopReason::TimedOut) => return TaskOutcome::TimedOut,
            Some(StopReason::Cancelled) => return TaskOutcome::Cancelled,
            Some(StopReason::AgentRestarted | StopReason::Terminated) => return TaskOutcome::Interrupted,
            None => {}
        }
        match &self.end {
            End::Exited { code: 0 } => TaskOutcome::Succeeded,
            End::Exited { code } => TaskOutcome::Failed {
                reason: format!("the command exited with code {code}{}", self.limit_reached()),
                exit_code: Some(*code),
            },
            End::Signalled { signal } => {
                let name = Signal::try_from(*signal).map_or("unknown", Signal::as_str);
                TaskOutcome::Failed {
                    reason: format!(
                        "the command was ended by signal {signal} ({name}){}",
                        self.limit_reached()
                    ),
                    exit_code: None,
                }
            }
            End::NotStarted { reason } => TaskOutcome::Failed { reason: reason.clone(), exit_code: None },
            End::Unseen => {
                TaskOutcome::Unknown { reason: "the exit status of the command was not seen".to_owned() }
            }
        }
    }
}

/// The record while it is written.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    /// Where the next line goes.
    at: u64,
}

impl Writer {
    /// Goes on with the record that the agent has begun: writes the start durably. Fails if there is a start in it already.
    pub(super) fn start(attempt_dir: &Path, started: Started) -> io::Result<Self> {
        let path = attempt_dir.join(RECORD_FILE);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let lines = read_lines(&file)?;
        if lines.iter().filter(|&&byte| byte == b'\n').count() != 1 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the attempt was started before"));
        }
        let mut writer = Self { file, at: lines.len() as u64 };
        writer.append(&Line::Started(started))?;
        writer.sync()?;
        Ok(writer)
    }

    /// Goes on with the record of a supervisor that is dead. A line that it could not finish is written over.
    pub(super) fn resume(attempt_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(attempt_dir.join(RECORD_FILE))?;
        let lines = read_lines(&file)?;
        let at = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        Ok(Self { file, at: at as u64 })
    }

    /// Notes which process the command is.
    pub(super) fn spawned(&mut self, child: Process) -> io::Result<()> {
        self.append(&Line::Spawned(child))
    }

    /// Writes the last line. It is durable after [`Self::sync`].
    pub(super) fn ended(&mut self, ended: &Ended) -> io::Result<()> {
        self.append(&Line::Ended(ended.clone()))
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = encode(line)?;
        self.file.write_all_at(&bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn encode(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What a record has before the zeros.
fn read_lines(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES + 1);
    file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(bytes)
}

/// Whether a folder has nothing but a record of the usual size in it, so that it can serve another attempt.
pub(super) fn is_all_of(attempt_dir: &Path) -> io::Result<bool> {
    if fs::read_dir(attempt_dir)?.count() != 1 {
        return Ok(false);
    }
    Ok(fs::metadata(attempt_dir.join(RECORD_FILE))?.len() == RECORD_BYTES as u64)
}

/// Whose the record in a folder is, whatever the folder's name says. `None` if nobody can tell.
pub(super) fn key_of(attempt_dir: &Path) -> Option<AttemptKey> {
    let bytes = read_lines(&File::open(attempt_dir.join(RECORD_FILE)).ok()?).ok()?;
    let first = bytes.split_inclusive(|&byte| byte == b'\n').next().filter(|line| line.ends_with(b"\n"))?;
    match serde_json::from_slice(first).ok()? {
        Line::Given(given) => Some(given.key),
        Line::Started(started) => Some(started.key),
        Line::Spawned(_) | Line::Ended(_) => None,
    }
}

/// What is on disk of an attempt.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) given: Given,
    /// When the command started; `None` if it has not.
    pub(super) started_at: Option<Timestamp>,
    pub(super) child: Option<Process>,
    pub(super) group: Option<PathBuf>,
    pub(super) ended: Option<Ended>,
}

impl Record {
    /// Reads the record. `None`: no supervisor has heard of the attempt, because the first line comes before that.
    pub(super) fn read(attempt_dir: &Path, key: AttemptKey) -> io::Result<Option<Self>> {
        let file = match File::open(attempt_dir.join(RECORD_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = read_lines(&file)?;
        let mut record: Option<Self> = None;
        for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            match (serde_json::from_slice(line)?, &mut record) {
                (Line::Given(given), None) => record = Some(Self::new(given)),
                (Line::Started(started), None) => record = Some(Self::of_earlier_version(started)),
                (Line::Started(started), Some(record)) => {
                    record.started_at = Some(started.at);
                    record.group = started.group;
                }
                (Line::Spawned(child), Some(record)) => record.child = Some(child),
                (Line::Ended(ended), Some(record)) => record.ended = Some(ended),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "lines are out of order")),
            }
        }
        Ok(record.filter(|record| record.given.key == key))
    }

    const fn new(given: Given) -> Self {
        Self { given, started_at: None, child: None, group: None, ended: None }
    }

    /// Supervisors that served one attempt only began the record themselves.
    fn of_earlier_version(started: Started) -> Self {
        let Started { key, supervisor, boot_id, at, group: _ } = started;
        Self { started_at: Some(at), ..Self::new(Given { key, supervisor, boot_id }) }
    }
}
