//! Whose the state folder is. Tools are run by root as a rule, the control plane is not: what a tool makes in the folder must
//! not be in its way.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

/// Gives everything in the state folder to the folder's owner, if root made some of it. Nobody else can, or has to.
///
/// # Errors
/// If the folder cannot be read or changed.
pub(crate) fn keep(state_dir: &Path) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() || !state_dir.try_exists()? {
        return Ok(());
    }
    let owner = fs::metadata(state_dir)?;
    give_content(state_dir, (owner.uid(), owner.gid()))
}

fn give_content(folder: &Path, owner: (u32, u32)) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if (metadata.uid(), metadata.gid()) != owner {
            lchown(&path, Some(owner.0), Some(owner.1))?;
        }
        // Not through links: what they lead to is not the folder's.
        if metadata.is_dir() {
            give_content(&path, owner)?;
        }
    }
    Ok(())
}
