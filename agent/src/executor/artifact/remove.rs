//! Taking away what may be large: a tree of files of which nobody knows how many there are.

use std::io;
use std::path::Path;

use cap_std::fs::Dir;

use super::super::Stopped;

/// Asked before each step of work that may be long.
pub(crate) type MayGoOn<'a> = &'a dyn Fn() -> Result<(), Stopped>;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Removes a file, a link, or a folder with all that is in it. What is not there is removed already; what is left when it may
/// not go on is for somebody else.
pub(super) fn remove(parent: &Dir, name: &Path, may_go_on: MayGoOn<'_>) -> Result<(), Error> {
    match parent.symlink_metadata(name) {
        Ok(found) if found.is_dir() => {
            empty(&parent.open_dir(name)?, may_go_on)?;
            gone(parent.remove_dir(name))
        }
        Ok(_) => gone(parent.remove_file(name)),
        Err(error) => gone(Err(error)),
    }
}

fn empty(dir: &Dir, may_go_on: MayGoOn<'_>) -> Result<(), Error> {
    for entry in dir.entries()? {
        may_go_on()?;
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty(&entry.open_dir()?, may_go_on)?;
            gone(entry.remove_dir())?;
        } else {
            gone(entry.remove_file())?;
        }
    }
    Ok(())
}

fn gone(removed: io::Result<()>) -> Result<(), Error> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
