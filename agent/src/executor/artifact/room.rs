//! Room on the disk that releases are brought to: a release takes none of what the host has to keep free.

use std::io;
use std::sync::Arc;

use cap_std::fs::Dir;
use nix::sys::statvfs::fstatvfs;

/// How much may be written between two looks at the disk, in bytes. What runs side by side goes beyond the reserve by no more than
/// this each.
const STEP_BYTES: u64 = 1024 * 1024;

/// What an entry without content takes, in bytes: a folder, a link, an empty file.
pub(super) const ENTRY_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    #[error(
        "there is no room for it on the host's disk: another {more} bytes are to be written, {available} are free, and {reserve} \
         of them have to stay free"
    )]
    Short { more: u64, available: u64, reserve: u64 },
    #[error("the free space of the host's disk cannot be read")]
    Unreadable(#[source] io::Error),
}

/// The disk of one folder, and what was written to it since it was looked at. A clone looks at the same disk.
#[derive(Clone, Debug)]
pub(super) struct Room {
    dir: Arc<Dir>,
    reserve_bytes: u64,
    unseen_bytes: u64,
}

impl Room {
    pub(super) fn new(dir: Dir, reserve_bytes: u64) -> Self {
        Self { dir: Arc::new(dir), reserve_bytes, unseen_bytes: 0 }
    }

    /// Fails if `more` bytes do not fit. Blocks on the disk.
    pub(super) fn look(&self, more: u64) -> Result<(), Error> {
        let figures = fstatvfs(&*self.dir).map_err(|errno| Error::Unreadable(errno.into()))?;
        let available = figures.blocks_available().saturating_mul(figures.fragment_size());
        if available < self.reserve_bytes.saturating_add(more) {
            return Err(Error::Short { more, available, reserve: self.reserve_bytes });
        }
        Ok(())
    }

    /// Notes that `bytes` are about to be written; whether so much has come together that it is time to look.
    pub(super) const fn note(&mut self, bytes: u64) -> bool {
        self.unseen_bytes = self.unseen_bytes.saturating_add(bytes);
        let is_time = self.unseen_bytes >= STEP_BYTES;
        if is_time {
            self.unseen_bytes = 0;
        }
        is_time
    }

    /// Both: asks before `bytes` are written. Blocks on the disk.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Error> {
        if self.note(bytes) { self.look(bytes) } else { Ok(()) }
    }
}

/// Whether something failed because there is no room on a disk, for whatever is behind it.
pub(super) fn is_lacking(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let is_short = matches!(error.downcast_ref(), Some(Error::Short { .. }));
        let is_full = error.downcast_ref().is_some_and(|error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        });
        if is_short || is_full {
            return true;
        }
        next = error.source();
    }
    false
}
