//! Backups: everything that a control plane is, in one file, taken while it runs.
//!
//! A backup is a tar archive that any tar can list. In it, in this order:
//!
//! | member | what |
//! |---|---|
//! | `stella-backup.json` | [`Header`]: of what it is, and the hash of the state that its journal leads to |
//! | `state/…` | the files of the state folder but the journal's: certificates **with their keys**, artifacts, output |
//! | `journal/000001.jsonl.gz` … | all events up to the point in the header; together one export of the journal |
//! | `sha256` | SHA-256 of all bytes before it, so that a backup that was cut off or changed is refused |
//!
//! The journal is written as text and not as the database's files: those change under a reader, and another version of the
//! database, or another database, reads the text. The events end at a durable point of which the state is known; the files
//! are read after it, so what the events refer to is there.

mod last;
mod restore;
mod seal;
mod shelf;
mod tool;
mod write;

use serde::{Deserialize, Serialize};
use stella_domain::name::Name;
use stella_journal::Stream;
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position};

pub(crate) use last::last;
pub(crate) use restore::refuse_unfinished;
pub(crate) use tool::{BackupArgs, RestoreArgs, backup, restore};
pub(crate) use write::write;

/// The version of the archive's layout.
const FORMAT: u32 = 1;
/// While a restore has not finished, this file is in the state folder.
const UNFINISHED: &str = "restore-unfinished";
/// The first member.
const HEADER_NAME: &str = "stella-backup.json";
/// The folder of the state folder's files.
const STATE_FOLDER: &str = "state";
/// The folder of the events.
const JOURNAL_FOLDER: &str = "journal";

/// What of the state folder is in a backup, beside what always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parts {
    /// The archives of releases.
    pub(crate) artifacts: bool,
    /// What tasks printed.
    pub(crate) output: bool,
}

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// [`FORMAT`].
    format: u32,
    /// The version of the software that wrote it.
    version: String,
    /// When it was taken, RFC 3339.
    taken_at: String,
    /// The journal's name.
    incarnation: Incarnation,
    /// The leader's term.
    epoch: Epoch,
    /// When the newest event was decided, RFC 3339.
    last_event_at: String,
    /// SHA-256 of the state after these events, as `version` writes it.
    state: Digest,
    /// What else is in it.
    parts: Parts,
    /// The streams of the journal.
    streams: Vec<StreamHeader>,
}

/// A stream in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamHeader {
    stream: Stream,
    /// The tenant's name; `None` for the system's stream.
    tenant: Option<Name>,
    /// How many events it has.
    events: Position,
    /// Its hash in the journal that the backup is of.
    hash: Digest,
}
