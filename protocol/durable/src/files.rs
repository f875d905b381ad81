//! The files that sled keeps in its directory, and making them reach the disk.
//!
//! sled writes one log (`db`) in place, and creates other files once and never changes them again: `conf`, snapshots
//! of its page table (`snap.*`) and large pages (`blobs/*`). So a barrier is `fdatasync` of the log, and for every file
//! that is new since the last barrier `fdatasync` of it and `fsync` of its folder.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::Error;

/// How long a folder's modification time must be in the past before "unchanged time" is taken as "unchanged folder".
/// Kernels stamp files with a clock that ticks every 1 to 10 ms; two changes within a tick look alike.
const FOLDER_TIME_SETTLES: Duration = Duration::from_millis(100);

/// sled's files, with an own handle on the log.
#[derive(Debug)]
pub(crate) struct Files {
    log_path: PathBuf,
    /// Opened before the first write that a barrier covers, so that no write-back error is missed.
    log: File,
    root: Folder,
    blobs: Folder,
}

impl Files {
    /// Takes hold of the files of an opened database and makes all that is there durable, its directory included.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let log_path = dir.join("db");
        let log = File::open(&log_path).map_err(|source| Error::from_io(&log_path, "open", source))?;
        let root = Folder::open(dir.to_owned())?;
        let blobs = Folder::open(dir.join("blobs"))?;
        let mut files = Self { log_path, log, root, blobs };
        files.sync()?;
        let parent = dir.canonicalize().map_err(|source| Error::from_io(dir, "resolve", source))?;
        if let Some(parent) = parent.parent() {
            File::open(parent)
                .and_then(|folder| folder.sync_all())
                .map_err(|source| Error::from_io(parent, "fsync", source))?;
        }
        Ok(files)
    }

    /// The second half of the barrier: everything that sled has written so far is on the disk when this returns.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.blobs.sync_new_files()?;
        self.root.sync_new_files()?;
        self.log.sync_data().map_err(|source| Error::from_io(&self.log_path, "fdatasync", source))
    }
}

/// A folder of files that are written once.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    handle: File,
    synced: HashSet<OsString>,
    /// The folder's modification time at the last listing, if no later change can hide behind the same time.
    settled: Option<SystemTime>,
}

impl Folder {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let handle = File::open(&path).map_err(|source| Error::from_io(&path, "open", source))?;
        Ok(Self { path, handle, synced: HashSet::new(), settled: None })
    }

    fn sync_new_files(&mut self) -> Result<(), Error> {
        self.try_sync_new_files().map_err(|source| Error::from_io(&self.path, "fsync", source))
    }

    fn try_sync_new_files(&mut self) -> io::Result<()> {
        // Both times are taken before the listing: a change during it is seen by the next call.
        let now = SystemTime::now();
        let modified = self.handle.metadata()?.modified()?;
        if self.settled == Some(modified) {
            return Ok(());
        }
        let mut present = HashSet::new();
        let mut is_any_new = false;
        for item in self.path.read_dir()? {
            let item = item?;
            let name = item.file_name();
            if !self.synced.contains(&name) {
                match File::open(item.path()).and_then(|file| file.sync_data()) {
                    Ok(()) => is_any_new = true,
                    // sled removes large pages that it has replaced.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            present.insert(name);
        }
        if is_any_new {
            self.handle.sync_all()?;
        }
        self.synced = present;
        let is_settled = now.duration_since(modified).is_ok_and(|age| age > FOLDER_TIME_SETTLES);
        self.settled = is_settled.then_some(modified);
        Ok(())
    }
}
