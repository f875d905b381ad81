//! What is old enough to be removed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{StoreError, io_error};

/// The folders in a folder.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        if entry.file_type().map_err(io_error("inspect", dir))?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether nothing in a folder was written since. A folder that is empty is as old as it is itself.
pub(super) fn is_older(folder: &Path, before: SystemTime) -> Result<bool, StoreError> {
    let modified = |path: &Path| fs::metadata(path).and_then(|it| it.modified());
    let mut newest = modified(folder).map_err(io_error("inspect", folder))?;
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let path = entry.map_err(io_error("list", folder))?.path();
        newest = newest.max(modified(&path).map_err(io_error("inspect", &path))?);
    }
    Ok(newest < before)
}

/// Removes a folder with its files. Who still reads one of them reads it to its end.
pub(super) fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
