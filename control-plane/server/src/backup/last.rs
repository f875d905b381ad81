//! The latest good backup, as a file in the state folder. Whoever takes a backup writes it, and the control plane, which may be stopped
//! meanwhile, tells of it in its figures.

use std::io;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stella_doctor::{open_regular, read_all};
use stella_protocol::time::Timestamp;
use stella_readers::place::StateFile;

use crate::owner::become_owner;

/// The file. It is in no backup: one that is restored was never backed up.
pub(super) const FILE_NAME: &str = "last-backup.json";
/// The largest that is read, in bytes.
const BYTES_MAX: u64 = 4 << 10;

/// A backup that was written to a file, read back and found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBackup {
    /// When it was taken.
    pub(crate) taken_at: Timestamp,
    /// How large it is.
    pub(crate) bytes: u64,
}

/// The latest backup of this folder; `None` if there was none, or only by means that nobody here knows of.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn last(state_dir: &Path) -> io::Result<Option<LastBackup>> {
    // Root looks too, in a folder that is another's.
    let read = open_regular(&state_dir.join(FILE_NAME)).and_then(|file| read_all(file, BYTES_MAX));
    match read {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Remembers it, as the folder's owner.
///
/// # Errors
/// If it cannot be written. The backup is good all the same.
pub(super) fn remember(state_dir: &Path, backup: LastBackup) -> anyhow::Result<()> {
    let _as_owner = become_owner(state_dir)?;
    let path = state_dir.join(FILE_NAME);
    let wrong = || format!("the backup is good, but {} cannot be written", path.display());
    StateFile::new(path.clone()).save(&backup).with_context(wrong)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_remembered_is_found_and_what_is_damaged_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last(folder.path()).unwrap(), None);
        let backup = LastBackup { taken_at: Timestamp(1_769_851_800_042), bytes: 7 };
        remember(folder.path(), backup).unwrap();
        assert_eq!(last(folder.path()).unwrap(), Some(backup));
        fs::write(folder.path().join(FILE_NAME), "{").unwrap();
        last(folder.path()).unwrap_err();
    }
}
