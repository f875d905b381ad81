//! What a journal does, whatever it is kept in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, ParseIdError, Position, TenantId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

/// The largest event, in bytes. Larger things are artifacts, not events.
pub const EVENT_BYTES_MAX: usize = 4 << 20;
/// The most payload that one append may carry, in bytes: the whole batch is in memory a few times.
pub const APPEND_BYTES_MAX: usize = 64 << 20;
/// How much payload a read gathers before it returns, in bytes. It always returns at least one event if there is one.
pub const READ_BYTES_MAX: usize = 16 << 20;
/// The largest snapshot, in bytes. One that does not fit in here does not fit in memory twice either.
pub const SNAPSHOT_BYTES_MAX: usize = 2 << 30;

/// What the storage behind a journal says is wrong. The port does not know which storage that is.
pub type StorageError = Arc<dyn std::error::Error + Send + Sync>;

/// An ordered run of events with positions of its own. Written `system` or `tenant/<uuid>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// What belongs to no tenant: tenants themselves, API tokens.
    System,
    /// Everything of one tenant.
    Tenant(TenantId),
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The position that the next event gets; also how many events there are.
    pub next: Position,
    /// The hash over the whole stream up to here.
    pub hash: Digest,
}

/// How a head that another place remembers compares with this journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The journal has this very history.
    Matches,
    /// The journal has another history, or none, up to this position: one of the two was restored or replaced.
    Differs,
}

/// Events to add to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Which stream.
    pub stream: Stream,
    /// Where the writer believes the stream ends.
    pub expected: Position,
    /// The events' bytes.
    pub events: Vec<Vec<u8>>,
}

/// An event as it is in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the stream.
    pub position: Position,
    /// When it was decided.
    pub at: Timestamp,
    /// The leader's term in which it was written.
    pub epoch: Epoch,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// The state after all events up to some heads, so that a restart need not replay them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Up to where each stream is in it. A stream that is not named is not in it at all.
    pub heads: BTreeMap<Stream, Head>,
    /// When it was taken.
    pub at: Timestamp,
    /// The state's bytes.
    pub payload: Vec<u8>,
}

/// The port. Calls block on the disk: async callers use a thread for them.
pub trait Journal: Send + Sync + fmt::Debug {
    /// The random name of this life of the journal; an imported or new journal has another.
    fn incarnation(&self) -> Incarnation;

    /// The current leader's term; 0 before the first [`Journal::begin_epoch`].
    fn epoch(&self) -> Epoch;

    /// Starts a new term and makes it durable, even below the free-space reserve. Appends with an older one are
    /// refused from here on.
    fn begin_epoch(&self) -> Result<Epoch, AppendError>;

    /// The durable ends of all streams that have events.
    fn heads(&self) -> BTreeMap<Stream, Head>;

    /// How many durable events a stream has.
    fn head(&self, stream: Stream) -> Position {
        self.heads().get(&stream).map(|head| head.next).unwrap_or_default()
    }

    /// The time of the newest event. Time never goes back: the next append must not be earlier.
    fn last_time(&self) -> Timestamp;

    /// Adds events to one or more streams, all or nothing, with one barrier. Returns when they are durable, with the
    /// new end of the stream of each append. Appends of one call may name a stream twice; they are taken in order.
    fn append(&self, epoch: Epoch, at: Timestamp, appends: &[Append]) -> Result<Vec<Head>, AppendError>;

    /// Durable events of a stream from a position on: at most `limit`, and fewer when they are large. Empty only at
    /// the end of the stream. Every event returned has passed its checksum and is on the hash chain.
    fn read(&self, stream: Stream, from: Position, limit: usize) -> Result<Vec<Entry>, ReadError>;

    /// The hash of a stream up to a position, if an append ended there. Heads are such positions.
    fn hash_at(&self, stream: Stream, position: Position) -> Result<Option<Digest>, ReadError>;

    /// Whether a remembered head is on this journal's history.
    fn compare(&self, stream: Stream, head: Head) -> Result<Mark, ReadError> {
        let hash = self.hash_at(stream, head.next)?;
        Ok(if hash == Some(head.hash) { Mark::Matches } else { Mark::Differs })
    }

    /// How much of the disk it takes, in bytes, if that is known.
    fn size_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether its disk is too full for an append now, whether anybody has tried one or not; `None` if only a try can tell. Cheap enough
    /// to be asked all the time.
    fn is_short_of_space(&self) -> Option<bool> {
        None
    }

    /// Saves a snapshot with barriers of its own, beside appends. The last two are kept.
    fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), SnapshotError>;

    /// The newest snapshot that is whole and on this journal's history; a damaged one is skipped with a warning.
    fn load_snapshot(&self) -> Result<Option<Snapshot>, ReadError>;

    /// Where what has left memory is kept.
    fn archive(&self) -> &dyn Archive;
}

/// Records of what has left memory, in the same backend as the journal. They follow from its events: an import makes them anew.
/// Calls block on the disk, and go on beside appends.
pub trait Archive: Send + Sync + fmt::Debug {
    /// Writes records, durably when it returns; one that is there already is replaced. After a crash some of them may be there
    /// and others not, but each is whole, and one is only there if those before it are.
    fn store(&self, records: &[ArchiveRecord]) -> Result<(), AppendError>;

    /// A record's bytes, if it is there.
    fn load(&self, shelf: Shelf, id: Uuid) -> Result<Option<Vec<u8>>, ReadError>;

    /// The records of a shelf in the order of their ids, at most `limit`, from behind an id on.
    fn list(
        &self,
        shelf: Shelf,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(Uuid, Vec<u8>)>, ReadError>;

    /// The records of a shelf from the last id to the first, at most `limit`, from before an id on.
    fn list_back(
        &self,
        shelf: Shelf,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(Uuid, Vec<u8>)>, ReadError>;
}

/// Records of one kind and one tenant, or of one thing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shelf {
    /// Whose they are.
    pub tenant: TenantId,
    /// What they are; the reader of the records says what the numbers mean. Never reused.
    pub kind: u8,
    /// What they belong to; [`Uuid::nil`] is the tenant itself.
    pub within: Uuid,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRecord {
    /// Among which others.
    pub shelf: Shelf,
    /// Its id there.
    pub id: Uuid,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Why nothing was appended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The writer's idea of the stream is out of date.
    #[error("{stream} ends at position {actual}, not at {expected}")]
    PositionConflict {
        /// Which stream.
        stream: Stream,
        /// What the append said.
        expected: Position,
        /// Where the stream ends.
        actual: Position,
    },
    /// The writer is not the current leader.
    #[error("the journal is in epoch {current}, the append is of epoch {given}")]
    StaleEpoch {
        /// What the append said.
        given: Epoch,
        /// The journal's.
        current: Epoch,
    },
    /// The append is earlier than the newest event.
    #[error("journal time never goes back: the append is of {given}, the newest event of {last}")]
    TimeWentBack {
        /// What the append said.
        given: Timestamp,
        /// The newest event's time.
        last: Timestamp,
    },
    /// An event, or all of them together, are larger than the journal takes.
    #[error("{bytes} bytes are more than the {max} that {what} may have")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is, in bytes.
        bytes: usize,
        /// What is allowed, in bytes.
        max: usize,
    },
    /// The disk is nearly full. Nothing was written; reads go on.
    #[error(
        "the journal's disk has {available_bytes} bytes free, below the reserve of {reserve_bytes}; free some space"
    )]
    NoSpace {
        /// What is free, in bytes.
        available_bytes: u64,
        /// What has to stay free, in bytes.
        reserve_bytes: u64,
    },
    /// The write failed and nobody can tell how much of it the disk has. **Fatal**: the process must stop and replay.
    #[error(
        "the journal could not make a write durable; the process must stop and start again from the disk"
    )]
    Failed(#[source] StorageError),
}

impl AppendError {
    /// Whether the process must stop.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The journal is damaged there.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The storage engine failed.
    #[error("the journal's storage cannot be read")]
    Storage(#[source] StorageError),
}

/// Why a snapshot was not saved. The ones before it are still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The snapshot says it is of a history that this journal does not have.
    #[error("the snapshot's {stream} up to position {position} is not this journal's")]
    NotOurHistory {
        /// Which stream.
        stream: Stream,
        /// Up to where.
        position: Position,
    },
    /// It could not be compared with the events.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be written; [`AppendError::is_fatal`] says whether the process must stop.
    #[error(transparent)]
    Write(#[from] AppendError),
}

/// Why a journal was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no journal in the directory.
    #[error("there is no journal in {}", .0.display())]
    NotFound(PathBuf),
    /// Another process has it open.
    #[error("the journal in {} is in use: the control plane is running; stop it first", .0.display())]
    InUse(PathBuf),
    /// There are events but the journal has no name: an import did not finish.
    #[error("the journal in {} is incomplete: an import into it did not finish; remove the directory and import again", .0.display())]
    Unfinished(PathBuf),
    /// What is in it does not fit together.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The storage engine could not open or read its files. If they are damaged, restore the directory from a backup.
    #[error("the journal's storage cannot be opened")]
    Storage(#[source] StorageError),
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => Self::Damaged(damage),
            ReadError::Storage(error) => Self::Storage(error),
        }
    }
}

/// Where a journal is damaged, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal is damaged: {}{problem}. Nothing was changed. Look at all of it with `stella-orchestrator journal verify`; \
     save what is readable with `stella-orchestrator journal export --salvage` and start a new journal from that with \
     `stella-orchestrator journal import`", place(.stream, .position)
)]
pub struct Damage {
    /// In which stream, if in one.
    pub stream: Option<Stream>,
    /// At the event of which position, if that is known.
    pub position: Option<Position>,
    /// What is wrong there.
    pub problem: Problem,
}

impl Damage {
    pub(crate) const fn of_journal(problem: Problem) -> Self {
        Self { stream: None, position: None, problem }
    }

    pub(crate) const fn at(stream: Stream, position: Position, problem: Problem) -> Self {
        Self { stream: Some(stream), position: Some(position), problem }
    }

    /// The damage without the way out, for lists: `system at position 7: the checksum is wrong`.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{}{}", place(&self.stream, &self.position), self.problem)
    }
}

fn place(stream: &Option<Stream>, position: &Option<Position>) -> String {
    match (stream, position) {
        (Some(stream), Some(position)) => format!("{stream} at position {position}: "),
        (Some(stream), None) => format!("{stream}: "),
        (None, _) => String::new(),
    }
}

/// What is wrong with a piece of a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Bytes have changed or are missing.
    #[error("the checksum is wrong")]
    Checksum,
    /// A newer software wrote it.
    #[error("format version {0} is not known to this software; use a newer one")]
    Version(u8),
    /// The checksum is right but the content cannot be.
    #[error("the content makes no sense ({0})")]
    Malformed(&'static str),
    /// A record says it belongs elsewhere.
    #[error("the record there belongs to another place")]
    Misplaced,
    /// Events are missing.
    #[error("the events from there up to position {found} are missing")]
    Gap {
        /// Where the next record is.
        found: Position,
    },
    /// Two records claim the same positions.
    #[error("the record there overlaps the one before it")]
    Overlap,
    /// A record is not the one that the next one, or the head, was written after.
    #[error("the hash chain is broken")]
    BrokenChain,
    /// The stream's end is unknown.
    #[error("there are events but no head")]
    NoHead,
    /// The last record and the head disagree.
    #[error("the stream's head says that it ends at position {head}")]
    HeadDisagrees {
        /// What the head says.
        head: Position,
    },
    /// Durable events have gone: a snapshot covers more than there is.
    #[error("a snapshot covers events up to position {covered}, which are gone")]
    BehindSnapshot {
        /// What the snapshot covers.
        covered: Position,
    },
    /// Durable events have gone: more were acknowledged than there are.
    #[error(
        "{acknowledged} events were acknowledged but only {present} are there; the end of the storage is lost"
    )]
    BehindAcknowledged {
        /// How many were acknowledged in all streams.
        acknowledged: u64,
        /// How many are there in all streams.
        present: u64,
    },
    /// A record of what has left memory cannot be used.
    #[error("the archive's record {0} cannot be used: {1}")]
    Archive(Uuid, &'static str),
    /// A saved snapshot cannot be used. Not fatal: an older one or a replay from the start takes its place.
    #[error("snapshot {0} cannot be used: {1}")]
    Snapshot(u64, &'static str),
    /// The storage engine refuses to read there.
    #[error("the storage engine cannot read it: {0}")]
    Unreadable(String),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Tenant(tenant) => write!(f, "tenant/{tenant}"),
        }
    }
}

/// Why a text is not a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseStreamError {
    /// Neither of the two forms.
    #[error("a stream is written `system` or `tenant/<uuid>`")]
    Form,
    /// The second form with something else than an id.
    #[error(transparent)]
    Tenant(#[from] ParseIdError),
}

impl FromStr for Stream {
    type Err = ParseStreamError;

    fn from_str(text: &str) -> Result<Self, ParseStreamError> {
        match text.strip_prefix("tenant/") {
            Some(tenant) => Ok(Self::Tenant(tenant.parse()?)),
            None if text == "system" => Ok(Self::System),
            None => Err(ParseStreamError::Form),
        }
    }
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
