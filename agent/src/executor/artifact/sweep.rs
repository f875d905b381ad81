//! What tasks that did not end by themselves have left in the folders for downloads, on the whole host root.
//!
//! A component's next task removes that as well, but it may never come, or not be let in because the disk is full of just that.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::fs::{Dir, MetadataExt as _};

use super::super::{Stopped, reason_of};
use super::layout::{Component, is_component};
use super::remove::MayGoOn;
use crate::host::{HostRoot, open_dir_nofollow, plain_name};

/// How long a download that broke off is kept for another attempt.
const PARTIAL_AGE_MAX: Duration = Duration::from_hours(24);

/// How many folders are looked into. A host root has as many as it has slots and components.
const FOLDERS_MAX: usize = 10_000;

/// Looks through the folders of all slots and components, and removes what no task needs: what was being unpacked, and downloads
/// that are old, or all of them if the disk is short of room. What a task holds is left alone. Blocks on the disk.
pub(crate) fn sweep(host: &HostRoot, may_go_on: MayGoOn<'_>) -> Result<(), Stopped> {
    let (root, top) = (host.dir(), Path::new(""));
    // The root of a system has all kinds of file systems in it; a folder made for releases may have its components on disks of their own.
    let device = host.path().parent().is_none().then(|| root.dir_metadata().ok().map(|found| found.dev()));
    let mut left = FOLDERS_MAX;
    for (first, path) in folders(root, top, device.flatten(), &mut left) {
        may_go_on()?;
        if is_component(&first) {
            sweep_component(host, first, &path, may_go_on)?;
            continue;
        }
        for (second, path) in folders(&first, &path, device.flatten(), &mut left) {
            may_go_on()?;
            if is_component(&second) {
                sweep_component(host, second, &path, may_go_on)?;
            }
        }
    }
    Ok(())
}

/// The folders in a folder that may be those of a slot or a component. What cannot be read is none.
fn folders(dir: &Dir, at: &Path, device: Option<u64>, left: &mut usize) -> Vec<(Dir, PathBuf)> {
    let Ok(entries) = dir.entries() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().take(*left) {
        *left -= 1;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_ours = plain_name("folder", &name).is_ok()
            && entry
                .metadata()
                .is_ok_and(|found| found.is_dir() && device.is_none_or(|device| found.dev() == device));
        if let (true, Ok(dir)) = (is_ours, open_dir_nofollow(dir, &name)) {
            found.push((dir, at.join(name)));
        }
    }
    found
}

fn sweep_component(host: &HostRoot, dir: Dir, path: &Path, may_go_on: MayGoOn<'_>) -> Result<(), Stopped> {
    let swept = Component::lock(dir, host.reserve_bytes(), may_go_on).and_then(|held| match held {
        Some(component) => component.give_up_partials(
            |changed_at| SystemTime::now().duration_since(changed_at).is_ok_and(|age| age > PARTIAL_AGE_MAX),
            may_go_on,
        ),
        None => Ok(Vec::new()),
    });
    match swept {
        Ok(names) => {
            for name in names {
                tracing::info!(folder = %path.display(), name, "a download that broke off was removed");
            }
        }
        Err(error) => {
            if let Some(stopped) = error.stopped() {
                return Err(stopped);
            }
            let reason = reason_of(&error);
            tracing::warn!(folder = %path.display(), reason, "what tasks have left cannot be removed");
        }
    }
    Ok(())
}
