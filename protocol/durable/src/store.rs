//! A sled database with a barrier that holds.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use parking_lot::Mutex;
use sled::{Batch, IVec};

use crate::error::Error;
use crate::files::Files;
use crate::space::Reserve;

/// How long to wait for the lock. sled's worker threads hold it for a moment after a store was dropped in this process.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two tries for the lock.
const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How to open a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// How much memory the page cache may take, in bytes.
    pub cache_bytes: u64,
    /// How much of the disk must stay free for others and for a clean stop, in bytes; 0 turns the check off.
    /// It has to be larger than what can be written within a second.
    pub reserve_bytes: u64,
}

/// An open store. Clones share it; the last one to go closes it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    db: sled::Db,
    files: Mutex<Files>,
    reserve: Reserve,
    /// Set by the first failed write or barrier and never cleared: a second `fdatasync` after a failed one may
    /// report success for pages that the kernel has thrown away.
    is_broken: AtomicBool,
    barriers: AtomicU64,
}

/// A named, ordered map from bytes to bytes in a store. Made by [`Store::tree`].
#[derive(Clone, Debug)]
pub struct Tree {
    shared: Arc<Shared>,
    tree: sled::Tree,
}

/// Writes that become durable in their order: a crash may leave only the first of them, but never one without those before it.
///
/// This is cheaper than a [`Batch`], which is all or nothing: sled writes the mark that makes a batch whole to the disk by itself, in
/// another write of its log, with the threads of its pool waking up once more.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    writes: Vec<(IVec, Option<IVec>)>,
}

/// The pairs of a range, in the order of their keys.
pub struct Pairs {
    shared: Arc<Shared>,
    iter: sled::Iter,
}

impl Store {
    /// Whether the directory holds a store. Lets tools refuse a wrong path instead of making an empty store there.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join("db").is_file()
    }

    /// Whether a process has the store in the directory open. Opens nothing of it, so it is safe beside that process; one that
    /// opens the store at this moment finds it locked and tries again.
    ///
    /// # Errors
    /// If its file cannot be read, or is not there.
    pub fn is_held(dir: &Path) -> io::Result<bool> {
        match open_regular(&dir.join("db"))?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Copies a store that nobody has open, so that it can be looked into without being changed: opening one writes to it.
    /// `to` has to be there.
    ///
    /// # Errors
    /// If it cannot be copied, or has more than `bytes_max` bytes ([`io::ErrorKind::FileTooLarge`]).
    pub fn copy_closed(dir: &Path, to: &Path, bytes_max: u64) -> io::Result<()> {
        copy_folder(dir, to, &mut { bytes_max }, 0)
    }

    /// Opens the store in the directory, or makes a new one, private to this user.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| Error::from_io(dir, "create", source))?;
        let db = open_database(dir, config.cache_bytes)?;
        let files = Mutex::new(Files::open(dir)?);
        let shared = Shared {
            dir: dir.to_owned(),
            db,
            files,
            reserve: Reserve::new(dir.to_owned(), config.reserve_bytes),
            is_broken: AtomicBool::new(false),
            barriers: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The tree with this name; it is created if it is not there.
    pub fn tree(&self, name: &str) -> Result<Tree, Error> {
        let tree =
            self.shared.db.open_tree(name).map_err(|error| self.shared.error("open a tree in", error))?;
        Ok(Tree { shared: Arc::clone(&self.shared), tree })
    }

    /// Writes a batch, all of it or nothing. It is **not durable** before the next [`Store::barrier`] has returned.
    ///
    /// An error here is fatal, as one of the barrier is.
    pub fn apply(&self, tree: &Tree, batch: Batch) -> Result<(), Error> {
        self.shared.refuse_if_broken()?;
        tree.tree.apply_batch(batch).map_err(|error| self.shared.broken(self.shared.error("write to", error)))
    }

    /// Makes writes in their order. They are **not durable** before the next [`Store::barrier`] has returned; after a crash before
    /// that, the first of them may be there without the others.
    ///
    /// An error here is fatal, as one of the barrier is.
    pub fn apply_in_order(&self, tree: &Tree, sequence: Sequence) -> Result<(), Error> {
        self.shared.refuse_if_broken()?;
        for (key, value) in sequence.writes {
            let written = match value {
                Some(value) => tree.tree.insert(key, value),
                None => tree.tree.remove(key),
            };
            written.map_err(|error| self.shared.broken(self.shared.error("write to", error)))?;
        }
        Ok(())
    }

    /// Makes everything that was applied before this call durable: survives a power cut once this returns.
    ///
    /// **An error is fatal.** Nobody can tell which of the writes the disk has, so the process must stop and start
    /// again from the disk. Every later call fails with [`Error::Broken`].
    pub fn barrier(&self) -> Result<(), Error> {
        let mut files = self.shared.files.lock();
        self.shared.refuse_if_broken()?;
        flush_to_files(&self.shared.db)
            .map_err(|error| self.shared.error("flush", error))
            .and_then(|()| files.sync())
            .map_err(|error| self.shared.broken(error))?;
        self.shared.barriers.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How many barriers this store has completed since it was opened.
    #[must_use]
    pub fn barriers(&self) -> u64 {
        self.shared.barriers.load(Ordering::Relaxed)
    }

    /// Fails with [`Error::ReserveReached`] if the disk is too full for new writes. Cheap: looks once a second.
    pub fn check_reserve(&self) -> Result<(), Error> {
        self.shared.reserve.check()
    }

    /// How much of the disk the store takes, in bytes.
    pub fn size_on_disk(&self) -> Result<u64, Error> {
        self.shared.db.size_on_disk().map_err(|error| self.shared.error("measure", error))
    }

    /// The store's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }
}

impl Sequence {
    /// Sets a key, after all that is in it.
    pub fn insert(&mut self, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    /// Removes a key, after all that is in it.
    pub fn remove(&mut self, key: impl Into<IVec>) {
        self.writes.push((key.into(), None));
    }
}

impl Tree {
    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<IVec>, Error> {
        self.tree.get(key).map_err(|error| self.shared.error("read", error))
    }

    /// The pairs whose keys are in the range. It sees writes that are made while it is walked.
    pub fn range<K: AsRef<[u8]>>(&self, keys: impl RangeBounds<K>) -> Pairs {
        let bytes = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
        let keys = (bytes(keys.start_bound()), bytes(keys.end_bound()));
        Pairs { shared: Arc::clone(&self.shared), iter: self.tree.range::<Vec<u8>, _>(keys) }
    }

    /// The pairs whose keys start with the prefix.
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Pairs {
        Pairs { shared: Arc::clone(&self.shared), iter: self.tree.scan_prefix(prefix) }
    }

    /// Whether there is nothing in the tree.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }
}

impl Iterator for Pairs {
    type Item = Result<(IVec, IVec), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.iter.next().map(|pair| pair.map_err(|error| self.shared.error("read", error)))
    }
}

impl DoubleEndedIterator for Pairs {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.iter.next_back().map(|pair| pair.map_err(|error| self.shared.error("read", error)))
    }
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs").finish_non_exhaustive()
    }
}

impl Shared {
    fn error(&self, action: &'static str, error: sled::Error) -> Error {
        Error::from_sled(&self.dir, action, error)
    }

    fn refuse_if_broken(&self) -> Result<(), Error> {
        if self.is_broken.load(Ordering::Acquire) {
            Err(Error::Broken { dir: self.dir.clone() })
        } else {
            Ok(())
        }
    }

    fn broken(&self, error: Error) -> Error {
        self.is_broken.store(true, Ordering::Release);
        error
    }
}

/// The first half of the barrier: what sled has in memory goes to its files.
#[expect(clippy::disallowed_methods, reason = "the one place that pairs it with fdatasync")]
fn flush_to_files(db: &sled::Db) -> sled::Result<()> {
    db.flush().map(|_bytes| ())
}

fn open_database(dir: &Path, cache_bytes: u64) -> Result<sled::Db, Error> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match try_open_database(dir, cache_bytes) {
            Err(Error::Locked { .. }) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY_PAUSE),
            result => return result,
        }
    }
}

fn try_open_database(dir: &Path, cache_bytes: u64) -> Result<sled::Db, Error> {
    // The timer of sled's own flusher is off: it flushes without a barrier, and two flushers only contend.
    let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(None);
    // sled panics on some damaged files; that is a refusal like the others, not the end of a tool that looks at them.
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) if is_lock_conflict(&error) => Err(Error::Locked { dir: dir.to_owned() }),
        Ok(Err(error)) => Err(Error::from_sled(dir, "open", error)),
        Err(_panic) => {
            let detail = "the storage engine gave up on its files".to_owned();
            Err(Error::Corrupt { dir: dir.to_owned(), detail })
        }
    }
}

/// sled's own folders go two deep.
const FOLDERS_DEEP_MAX: usize = 3;

/// Opens a file as root in a folder that the service's user may change: no link is followed, and nothing waits for a pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other(format!("{} is no file", path.display())))
    }
}

fn copy_folder(from: &Path, to: &Path, left: &mut u64, depth: usize) -> io::Result<()> {
    if depth > FOLDERS_DEEP_MAX {
        return Err(io::Error::other(format!("{} is too deep for a store", from.display())));
    }
    for item in fs::read_dir(from)? {
        let item = item?;
        let (path, about) = (item.path(), item.metadata()?);
        let copy = to.join(item.file_name());
        if about.is_dir() {
            DirBuilder::new().mode(0o700).create(&copy)?;
            copy_folder(&path, &copy, left, depth + 1)?;
        } else if about.is_file() {
            let file = open_regular(&path)?;
            let bytes = file.metadata()?.len();
            *left = left.checked_sub(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
            let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy)?;
            io::copy(&mut file.take(bytes), &mut copy)?;
        }
    }
    Ok(())
}

/// sled reports a held lock as an unspecific I/O error; its text is all there is to tell it by.
fn is_lock_conflict(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().starts_with("could not acquire lock"))
}
