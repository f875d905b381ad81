//! How much room a disk has.

use std::io;
use std::path::Path;

use crate::error::{StoreError, io_error};

/// Fails when writing `more` bytes would leave less than the reserve.
pub(crate) fn check(path: &Path, more: u64, reserve_bytes: u64) -> Result<(), StoreError> {
    let figures = nix::sys::statvfs::statvfs(path)
        .map_err(|errno| io_error("measure the free space of", path)(io::Error::from(errno)))?;
    let available_bytes = figures.blocks_available().saturating_mul(figures.fragment_size());
    if available_bytes.saturating_sub(more) < reserve_bytes {
        return Err(StoreError::NoSpace { path: path.to_owned(), available_bytes, reserve_bytes });
    }
    Ok(())
}
