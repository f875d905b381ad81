//! A folder that backups are put into one after the other, under names by their time, and that old ones are taken out of.
//!
//! Whatever else is in the folder is left alone. One backup at a time is put there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::sys::statvfs::statvfs;
use stella_api_types::time::{parse_rfc3339, rfc3339};
use stella_protocol::time::Timestamp;
use tempfile::{Builder, NamedTempFile};

/// What names begin and end with.
const PREFIX: &str = "stella-";
const SUFFIX: &str = ".backup";
/// The same of what is being written, or was when the power went.
const UNFINISHED_PREFIX: &str = ".stella-";
const UNFINISHED_SUFFIX: &str = ".unfinished";
/// The free space is looked at each time that so much was written, in bytes.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// The folder. Nobody else puts a backup there while this lives.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    _held: File,
}

impl Shelf {
    /// Takes a folder that is there, and removes what an earlier backup that did not come to its end has left in it.
    ///
    /// # Errors
    /// If it is no folder, cannot be used, or another backup is being put there.
    pub(super) fn take(folder: &Path) -> anyhow::Result<Self> {
        let wrong = || format!("backups cannot be put into {}", folder.display());
        // Not made here: a disk that is not mounted must not be mistaken for an empty folder of another one.
        let held = File::open(folder).with_context(wrong)?;
        ensure!(held.metadata().with_context(wrong)?.is_dir(), "{}: it is no folder", wrong());
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: another backup is being put there", wrong()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(wrong),
        }
        for (name, path) in files(folder).with_context(wrong)? {
            if is_unfinished(&name) {
                fs::remove_file(&path).with_context(wrong)?;
            }
        }
        Ok(Self { folder: folder.to_owned(), _held: held })
    }

    /// A file that is no backup yet, and is gone if nobody makes it one.
    pub(super) fn new_file(&self) -> anyhow::Result<NamedTempFile> {
        let file = unfinished_in(&self.folder);
        file.with_context(|| format!("no file can be made in {}", self.folder.display()))
    }

    /// Where a backup of this time belongs.
    pub(super) fn place(&self, taken_at: Timestamp) -> PathBuf {
        self.folder.join(name(taken_at))
    }

    /// Removes the oldest backups until `keep` are left. The newest by its place stays in any case, also if the clock was set back and its
    /// name is not the newest. Answers with what was removed.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub(super) fn keep(&self, keep: usize, newest: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let wrong =
            || format!("the new backup is good, but old ones in {} cannot be removed", self.folder.display());
        let mut others: Vec<_> = files(&self.folder)
            .with_context(wrong)?
            .into_iter()
            .filter_map(|(name, path)| Some((taken_at(&name)?, path)))
            .filter(|(_, path)| path != newest)
            .collect();
        others.sort();
        others.truncate(others.len().saturating_sub(keep.saturating_sub(1)));
        let mut removed = Vec::new();
        for (_, path) in others {
            fs::remove_file(&path).with_context(wrong)?;
            removed.push(path);
        }
        Ok(removed)
    }

    /// Where a backup is written to: if the state folder is on the same disk, it leaves so much of it free.
    ///
    /// # Errors
    /// If the folders cannot be looked at.
    pub(super) fn sparing<W>(
        &self,
        out: W,
        state_dir: &Path,
        reserve_bytes: u64,
    ) -> anyhow::Result<Sparing<W>> {
        let is_shared = fs::metadata(state_dir)
            .is_ok_and(|state| fs::metadata(&self.folder).is_ok_and(|folder| folder.dev() == state.dev()));
        let reserve_bytes = if is_shared { reserve_bytes } else { 0 };
        Ok(Sparing { out, folder: self.folder.clone(), reserve_bytes, unseen_bytes: LOOK_EVERY_BYTES })
    }
}

/// A file that is no backup yet, and is gone if nobody makes it one.
pub(super) fn unfinished_in(folder: &Path) -> io::Result<NamedTempFile> {
    Builder::new().prefix(UNFINISHED_PREFIX).suffix(UNFINISHED_SUFFIX).tempfile_in(folder)
}

/// Whether a file of this name is no backup yet.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED_PREFIX) && name.ends_with(UNFINISHED_SUFFIX)
}

/// The regular files of a folder, by name.
fn files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder)? {
        let item = item?;
        if let Ok(name) = item.file_name().into_string()
            && item.file_type()?.is_file()
        {
            found.push((name, item.path()));
        }
    }
    Ok(found)
}

/// `stella-2026-01-31T09-30-00.042Z.backup`: the order of names is that of times, and no file system minds.
fn name(taken_at: Timestamp) -> String {
    format!("{PREFIX}{}{SUFFIX}", rfc3339(taken_at).replace(':', "-"))
}

fn taken_at(file: &str) -> Option<Timestamp> {
    let text = file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (date, time) = text.split_once('T')?;
    let at = parse_rfc3339(&format!("{date}T{}", time.replace('-', ":"))).ok()?;
    // What is named alike by somebody else is theirs.
    (name(at) == file).then_some(at)
}

/// Writes as long as there is more than the reserve: a backup must not be what keeps the control plane from writing.
#[derive(Debug)]
pub(super) struct Sparing<W> {
    out: W,
    folder: PathBuf,
    /// 0 for another disk than the control plane's.
    reserve_bytes: u64,
    unseen_bytes: u64,
}

impl<W> Sparing<W> {
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    fn look(&mut self) -> io::Result<()> {
        let figures = statvfs(&self.folder)?;
        let free = figures.blocks_available().saturating_mul(figures.fragment_size());
        if free < self.reserve_bytes.saturating_add(LOOK_EVERY_BYTES) {
            let why = format!(
                "{} is on the disk of the state folder and has {} MiB free, of which {} are left for the control plane: put backups on another disk",
                self.folder.display(),
                free >> 20,
                self.reserve_bytes >> 20
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        self.unseen_bytes = 0;
        Ok(())
    }
}

impl<W: Write> Write for Sparing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reserve_bytes > 0 && self.unseen_bytes >= LOOK_EVERY_BYTES {
            self.look()?;
        }
        let written = self.out.write(bytes)?;
        self.unseen_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_are_in_the_order_of_their_times_and_read_back() {
        let at = Timestamp(1_769_851_800_042);
        assert_eq!(name(at), "stella-2026-01-31T09-30-00.042Z.backup");
        assert_eq!(taken_at(&name(at)), Some(at));
        assert!(name(at) < name(Timestamp(at.0 + 1)) && name(at) < name(Timestamp(at.0 + 31_536_000_000)));
        for other in [
            "stella-moved.backup",
            "stella-2026-01-31T09-30-00Z.backup",
            "stella-2026-01-31T09:30:00.042Z.backup",
            "stella-2026-01-31T09-30-00.042Z.backup.age",
            "my-stella-2026-01-31T09-30-00.042Z.backup",
        ] {
            assert_eq!(taken_at(other), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_go_and_what_is_not_a_backup_by_its_name_stays() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        for day in 1..=5 {
            put(&name(Timestamp(day * 86_400_000)));
        }
        for others in ["notes", "stella-before-upgrade.backup"] {
            put(others);
        }
        put(".stella-x1y2z3.unfinished");
        fs::create_dir(folder.path().join(name(Timestamp(7)))).unwrap();
        std::os::unix::fs::symlink("notes", folder.path().join(name(Timestamp(8)))).unwrap();
        let shelf = Shelf::take(folder.path()).unwrap();
        assert!(Shelf::take(folder.path()).unwrap_err().to_string().contains("another backup"));
        // The clock was set back: the new one has the oldest name of all.
        let new = shelf.place(Timestamp(86_400_000));
        let removed = shelf.keep(3, &new).unwrap();
        let gone: Vec<_> = [2, 3].map(|day| folder.path().join(name(Timestamp(day * 86_400_000)))).into();
        assert_eq!(removed, gone);
        let mut left = vec!["notes".to_owned(), "stella-before-upgrade.backup".to_owned()];
        left.extend([7, 8, 86_400_000, 4 * 86_400_000, 5 * 86_400_000].map(|at| name(Timestamp(at))));
        left.sort();
        assert_eq!(names(folder.path()), left);
        assert_eq!(shelf.keep(1, &new).unwrap().len(), 2);
        assert!(new.exists());
    }

    #[test]
    fn a_file_is_no_folder_and_a_folder_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Shelf::take(&file).unwrap_err().to_string().contains("no folder"));
        let none = folder.path().join("none");
        Shelf::take(&none).unwrap_err();
        assert!(!none.exists());
    }

    #[test]
    fn a_backup_leaves_the_control_planes_disk_its_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::take(folder.path()).unwrap();
        let mut full = shelf.sparing(Vec::new(), folder.path(), u64::MAX).unwrap();
        let error = full.write_all(b"x").unwrap_err();
        assert!(error.to_string().contains("put backups on another disk"), "{error}");
        assert_eq!(full.into_inner(), b"");
        let mut other = shelf.sparing(Vec::new(), Path::new("/proc"), u64::MAX).unwrap();
        other.write_all(b"x").unwrap();
        assert_eq!(other.into_inner(), b"x");
    }
}
