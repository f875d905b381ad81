//! What tasks print: one file for each attempt, `<dir>/<tenant>/<task>/<attempt>.out`, of framed records.
//!
//! An agent that reconnects sends its output again from a byte offset of its choice. Every record therefore says where
//! in the attempt's output it ends, and what is here already is skipped, also when two streams of one attempt overlap.
//! There is no `fsync`: output decides nothing, and what a power loss takes shows as a gap.

mod file;
mod follow;
mod retention;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use stella_protocol::id::{AttemptKey, TenantId};
use stella_protocol::message::{OutputChunk, OutputHeader};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::blocking;
use crate::error::{StoreError, io_error};
use crate::space::Room;
use file::Log;
use follow::Followers;
use retention::folders;

/// How much output of one attempt is kept, in bytes with framing. Who prints more wants a log file on the host.
pub const ATTEMPT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The most chunks in one page.
pub const PAGE_CHUNKS_MAX: usize = 1000;

/// The most payload in one page, in bytes, give or take one chunk.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What a chunk takes beside its bytes, at most: its frame, its time, where it ends.
const CHUNK_OVERHEAD_BYTES: u64 = 64;

/// What the first bytes of a file take: its node and its folders, and a block.
const FILE_OVERHEAD_BYTES: u64 = 16 * 1024;

/// How many places where a reader stopped are remembered, so that it goes on without reading from the start.
const PLACES_MAX: usize = 1024;

/// The output of tasks.
#[derive(Debug)]
pub struct OutputStore {
    dir: PathBuf,
    room: Arc<Room>,
    attempt_bytes_max: u64,
    /// The files that are being written; two streams of one attempt share one. Nothing is done with a file while this is locked: who
    /// waits for a slow disk, or reads a large file, keeps only the streams of the same attempt waiting.
    shared: Mutex<HashMap<AttemptKey, Weak<Shared>>>,
    followers: Followers,
    places: Mutex<HashMap<AttemptKey, Place>>,
}

/// Where a record starts.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    record: u64,
    byte: u64,
}

/// A part of an attempt's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPage {
    /// The pieces, in order.
    pub chunks: Vec<OutputChunk>,
    /// Where to go on reading.
    pub next: u64,
    /// Whether the agent has said that nothing follows. Without a word it may still be over: see the task's state.
    pub complete: bool,
}

impl OutputStore {
    /// Opens the store in a directory, which is created if need be. Output takes no more than the room gives.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory cannot be created.
    pub fn open(dir: impl Into<PathBuf>, room: Arc<Room>) -> Result<Arc<Self>, StoreError> {
        Self::with_limit(dir, room, ATTEMPT_BYTES_MAX)
    }

    /// As [`Self::open`], with another limit in the place of [`ATTEMPT_BYTES_MAX`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_limit(
        dir: impl Into<PathBuf>,
        room: Arc<Room>,
        attempt_bytes_max: u64,
    ) -> Result<Arc<Self>, StoreError> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        Ok(Arc::new(Self {
            dir,
            room,
            attempt_bytes_max,
            shared: Mutex::default(),
            followers: Followers::default(),
            places: Mutex::default(),
        }))
    }

    /// Whether there is a file of an attempt already.
    ///
    /// # Errors
    /// [`StoreError::Io`] if that cannot be known.
    pub async fn has(&self, tenant: TenantId, key: AttemptKey) -> Result<bool, StoreError> {
        let path = self.path(tenant, key);
        blocking(move || path.try_exists().map_err(io_error("look for", &path))).await
    }

    /// Begins to write what one stream brings. A record that a crash tore is cut off first.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Damaged`] or [`StoreError::Io`].
    pub async fn writer(
        self: &Arc<Self>,
        tenant: TenantId,
        header: OutputHeader,
    ) -> Result<OutputWriter, StoreError> {
        let store = Arc::clone(self);
        blocking(move || {
            // It is taken at once, and what comes is taken piece by piece.
            let _overhead = store.room.take(FILE_OVERHEAD_BYTES)?;
            let shared = store.share(tenant, header.key);
            let was_complete = shared.with(|log| Ok(log.is_complete()))?;
            Ok(OutputWriter::new(shared, header.offset, was_complete))
        })
        .await
    }

    /// Reads up to `limit` chunks (and at most [`PAGE_CHUNKS_MAX`] and about [`PAGE_BYTES_MAX`]) from `from_record` on,
    /// which is 0 or the [`OutputPage::next`] of an earlier page. An attempt without output gives an empty page.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Io`].
    pub async fn read(
        self: &Arc<Self>,
        tenant: TenantId,
        key: AttemptKey,
        from_record: u64,
        limit: usize,
    ) -> Result<OutputPage, StoreError> {
        let store = Arc::clone(self);
        blocking(move || {
            let remembered = store.places.lock().get(&key).copied();
            let start = remembered.filter(|place| place.record <= from_record).unwrap_or_default();
            let limit = limit.min(PAGE_CHUNKS_MAX);
            let (page, place) = file::read_page(&store.path(tenant, key), start, from_record, limit)?;
            let mut places = store.places.lock();
            if places.len() >= PLACES_MAX {
                // Only time is lost.
                places.clear();
            }
            places.insert(key, place);
            Ok(page)
        })
        .await
    }

    /// Notices whenever output of this attempt was added or completed. Mark it as seen, read, then wait for a change.
    ///
    /// # Errors
    /// [`StoreError::TooManyFollowed`].
    pub fn subscribe(&self, key: AttemptKey) -> Result<watch::Receiver<u64>, StoreError> {
        self.followers.follow(key)
    }

    /// Removes what was printed by tasks whose output was last written longer ago than this. Returns by how many tasks.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was removed before is.
    pub async fn remove_older(self: &Arc<Self>, age: Duration) -> Result<u64, StoreError> {
        let store = Arc::clone(self);
        blocking(move || {
            let Some(before) = SystemTime::now().checked_sub(age) else { return Ok(0) };
            let mut removed = 0;
            for tenant in folders(&store.dir)? {
                for task in folders(&tenant)? {
                    if retention::is_older(&task, before)? {
                        retention::remove(&task)?;
                        removed += 1;
                    }
                }
            }
            Ok(removed)
        })
        .await
    }

    fn path(&self, tenant: TenantId, key: AttemptKey) -> PathBuf {
        self.dir.join(tenant.to_string()).join(key.task.to_string()).join(format!("{}.out", key.attempt))
    }

    /// The file of an attempt, with whoever writes to it already. It is not opened yet.
    fn share(self: &Arc<Self>, tenant: TenantId, key: AttemptKey) -> Arc<Shared> {
        let mut shared = self.shared.lock();
        if let Some(shared) = shared.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        let (store, log, starts) = (Arc::clone(self), Mutex::default(), Mutex::default());
        let made = Arc::new(Shared { store, tenant, key, log, starts });
        shared.insert(key, Arc::downgrade(&made));
        made
    }
}

/// The file of one attempt, for as long as anybody writes to it.
#[derive(Debug)]
struct Shared {
    store: Arc<OutputStore>,
    tenant: TenantId,
    key: AttemptKey,
    /// Opened by the first who needs it.
    log: Mutex<Option<Log>>,
    /// Where the streams begin that may still bring something. As many as an agent may open.
    starts: Mutex<Vec<u64>>,
}

impl Shared {
    /// Works on the file. Blocks on the disk.
    fn with<T>(&self, work: impl FnOnce(&mut Log) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut log = self.log.lock();
        let log = match &mut *log {
            Some(log) => log,
            None => {
                let opened = Log::open(self.store.path(self.tenant, self.key), self.store.attempt_bytes_max)?;
                log.insert(opened)
            }
        };
        work(log)
    }
}

impl Drop for Shared {
    /// Happens where a session ends, on a thread that must not wait for the disk.
    fn drop(&mut self) {
        let mut shared = self.store.shared.lock();
        // Somebody may have begun anew meanwhile.
        if shared.get(&self.key).is_some_and(|shared| shared.strong_count() == 0) {
            shared.remove(&self.key);
        }
        drop(shared);
        if let (Some(log), Ok(runtime)) = (self.log.get_mut().take(), Handle::try_current()) {
            // Nobody waits for it.
            drop(runtime.spawn_blocking(move || drop(log)));
        }
    }
}

/// Writes what one stream brings.
#[derive(Debug)]
pub struct OutputWriter {
    shared: Arc<Shared>,
    /// Where the stream begins in the attempt's output.
    start: u64,
    /// How much of that comes before this stream's next byte.
    offset: u64,
    was_complete: bool,
}

impl OutputWriter {
    fn new(shared: Arc<Shared>, start: u64, was_complete: bool) -> Self {
        shared.starts.lock().push(start);
        Self { shared, start, offset: start, was_complete }
    }

    /// Whether all of the attempt's output was here when this was begun, as far as its agent had said.
    #[must_use]
    pub const fn was_complete(&self) -> bool {
        self.was_complete
    }

    /// Adds the stream's next chunks, as far as they are not here yet. Where the disk has no room for them the output is
    /// cut off, and says so.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if not even that has room, [`StoreError::Chunk`] or [`StoreError::Io`].
    pub async fn append(&mut self, chunks: Vec<OutputChunk>) -> Result<(), StoreError> {
        let offset = self.offset;
        self.offset =
            chunks.iter().fold(offset, |offset, chunk| offset.saturating_add(chunk.bytes.len() as u64));
        let shared = Arc::clone(&self.shared);
        let appended = blocking(move || {
            let bytes = |chunk: &OutputChunk| CHUNK_OVERHEAD_BYTES + chunk.bytes.len() as u64;
            let taken = shared.store.room.take(chunks.iter().map(bytes).sum());
            shared.with(|log| match taken {
                Ok(_taken) => log.append(offset, chunks),
                Err(StoreError::NoSpace { .. }) => log.cut_off(offset, &chunks),
                Err(error) => Err(error),
            })
        })
        .await;
        self.notify();
        appended
    }

    /// Notes that the stream has brought everything. If others have brought more, or begin behind its end, it has not: where an agent
    /// has lost output, it ends one stream and goes on in another. Saying it twice is saying it once.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Io`].
    pub async fn complete(self) -> Result<(), StoreError> {
        let end = self.offset;
        if self.shared.starts.lock().iter().any(|start| *start > end) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let completed = blocking(move || shared.with(|log| log.complete(end))).await;
        self.notify();
        completed
    }

    fn notify(&self) {
        self.shared.store.followers.notify(self.shared.key);
    }
}

impl Drop for OutputWriter {
    fn drop(&mut self) {
        let mut starts = self.shared.starts.lock();
        if let Some(own) = starts.iter().position(|start| *start == self.start) {
            starts.swap_remove(own);
        }
    }
}
