//! What a supervisor writes down: one file of JSON lines, in the attempt's folder.
//!
//! | line | written | durable | says |
//! |---|---|---|---|
//! | `Started` | before the command starts | yes | who supervises, in which boot |
//! | `Spawned` | after the command has started | no: it only matters in the same boot | which process is the command |
//! | `Ended` | when all is over | yes | how it ended |
//!
//! A line counts once its newline is there; a torn last line is one that was never written. One file that grows, and not
//! a file a record with renames, costs two barriers an attempt, and the last line needs no new block: a disk that is full by
//! then cannot take it away.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use stella_protocol::id::AttemptKey;
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;

use super::process::Process;
use super::spec::StopReason;

const RECORD_FILE: &str = "record";

/// The largest record, in bytes: three short lines and one reason.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Started(Started),
    Spawned(Process),
    Ended(Ended),
}

/// A supervisor is about to start a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) key: AttemptKey,
    pub(super) supervisor: Process,
    pub(super) boot_id: String,
    pub(super) at: Timestamp,
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
                reason: format!("the command exited with code {code}"),
                exit_code: Some(*code),
            },
            End::Signalled { signal } => {
                let name = Signal::try_from(*signal).map_or("unknown", Signal::as_str);
                TaskOutcome::Failed {
                    reason: format!("the command was ended by signal {signal} ({name})"),
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
pub(super) struct Writer(File);

impl Writer {
    /// Writes the first line durably, and the folder's entry of the file too. Fails if there is a record already: then the
    /// attempt has been started before.
    pub(super) fn create(attempt_dir: &Path, started: Started) -> io::Result<Self> {
        let path = attempt_dir.join(RECORD_FILE);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        let mut writer = Self(file);
        writer.append(&Line::Started(started))?;
        writer.0.sync_all()?;
        File::open(attempt_dir)?.sync_all()?;
        if let Some(parent) = attempt_dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(writer)
    }

    /// Notes which process the command is.
    pub(super) fn spawned(&mut self, child: Process) -> io::Result<()> {
        self.append(&Line::Spawned(child))
    }

    /// Writes the last line durably.
    pub(super) fn ended(&mut self, ended: &Ended) -> io::Result<()> {
        self.append(&Line::Ended(ended.clone()))?;
        self.0.sync_data()
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.0.write_all(&bytes)
    }
}

/// What is on disk of an attempt.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) started: Started,
    pub(super) child: Option<Process>,
    pub(super) ended: Option<Ended>,
}

impl Record {
    /// Reads the record. `None`: the command was never started, because the first line comes before that.
    pub(super) fn read(attempt_dir: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(attempt_dir.join(RECORD_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
        let mut record: Option<Self> = None;
        for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            match (serde_json::from_slice(line)?, &mut record) {
                (Line::Started(started), None) => record = Some(Self { started, child: None, ended: None }),
                (Line::Spawned(child), Some(record)) => record.child = Some(child),
                (Line::Ended(ended), Some(record)) => record.ended = Some(ended),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "lines are out of order")),
            }
        }
        Ok(record)
    }
}
