//! Why a file cannot be stored or read.

use std::io;
use std::path::{Path, PathBuf};

use stella_protocol::digest::Digest;

/// Why a file cannot be stored or read. What failed to be stored is gone; what was there before is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The content is not what its sender said.
    #[error("the content has the digest {actual}, not {expected}; was it changed on its way?")]
    WrongDigest {
        /// What the sender said.
        expected: Digest,
        /// What the content hashes to.
        actual: Digest,
    },
    /// The content is larger than it may be.
    #[error("the content has more than the {max} bytes that are allowed")]
    TooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The disk is full, or nearly so.
    #[error(
        "the disk of {path} has {available_bytes} bytes left, and {reserve_bytes} are kept in reserve: free some space"
    )]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What is left, in bytes.
        available_bytes: u64,
        /// What is kept in reserve, in bytes.
        reserve_bytes: u64,
    },
    /// A read from behind the end.
    #[error("the content has {size_bytes} bytes and cannot be read from {offset} on")]
    BehindTheEnd {
        /// From where.
        offset: u64,
        /// How much there is, in bytes.
        size_bytes: u64,
    },
    /// A file of output has something else in it.
    #[error("{path} is damaged at byte {at}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        at: u64,
    },
    /// A piece of output that breaks its bounds.
    #[error("a piece of output cannot be stored")]
    Chunk {
        /// What is wrong with it.
        #[source]
        source: stella_protocol::frame::FrameError,
    },
    /// Too many readers wait for output.
    #[error("more than {max} attempts are being followed; try again later")]
    TooManyFollowed {
        /// The limit.
        max: usize,
    },
    /// The file system refuses.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Wraps an error of the system. A full disk is told apart, because it has a remedy of its own.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            StoreError::NoSpace { path, available_bytes: 0, reserve_bytes: 0 }
        } else {
            StoreError::Io { action, path, source }
        }
    }
}
