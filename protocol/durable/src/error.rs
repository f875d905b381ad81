//! What can go wrong, sorted by what the caller has to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a store failed.
///
/// [`Error::is_fatal`] sorts these: a fatal error means that memory and disk may differ, so the process must stop and
/// start again from what the disk has. The others changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the store open.
    #[error("{} is in use by another process; stop that process first", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The files cannot be read as a store, or a page of it is damaged.
    #[error("{} is damaged: {detail}", dir.display())]
    Corrupt {
        /// The store's directory.
        dir: PathBuf,
        /// What the storage engine said.
        detail: String,
    },
    /// The disk or the quota is full, although the reserve should have kept it from filling up.
    #[error("no space is left for {}; free some and start again", dir.display())]
    NoSpace {
        /// The store's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused a file operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, to follow "cannot".
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk has less free space than the reserve. Nothing was written; reads go on.
    #[error(
        "only {available_bytes} bytes are free, below the reserve of {reserve_bytes}; free some space on the disk"
    )]
    ReserveReached {
        /// What is free for this user, in bytes.
        available_bytes: u64,
        /// What has to stay free, in bytes.
        reserve_bytes: u64,
    },
    /// An earlier write or barrier failed, so nothing more is written in this process.
    #[error("an earlier write to {} failed; restart the process", dir.display())]
    Broken {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The flusher's queue is full. Nothing was written; try again later.
    #[error("too many writes wait for the disk")]
    Busy,
    /// The flusher has stopped before it came to this write.
    #[error("the flusher has stopped")]
    Stopped,
}

impl Error {
    /// Whether the process must stop, because it cannot know what the disk has.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        match self {
            Self::ReserveReached { .. } | Self::Busy => false,
            Self::Locked { .. }
            | Self::Corrupt { .. }
            | Self::NoSpace { .. }
            | Self::Io { .. }
            | Self::Broken { .. }
            | Self::Stopped => true,
        }
    }

    pub(crate) fn from_sled(dir: &Path, action: &'static str, error: sled::Error) -> Self {
        let corrupt = |detail: String| Self::Corrupt { dir: dir.to_owned(), detail };
        match error {
            sled::Error::Io(source) => Self::from_io(dir, action, source),
            sled::Error::Corruption { at, .. } => {
                corrupt(at.map_or_else(|| "bad checksum".to_owned(), |at| format!("bad checksum at {at:?}")))
            }
            sled::Error::Unsupported(text) | sled::Error::ReportableBug(text) => corrupt(text),
            sled::Error::CollectionNotFound(_) => corrupt("a tree has disappeared".to_owned()),
        }
    }

    pub(crate) fn from_io(path: &Path, action: &'static str, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::NoSpace { dir: path.to_owned(), source }
        } else {
            Self::Io { action, path: path.to_owned(), source }
        }
    }
}
