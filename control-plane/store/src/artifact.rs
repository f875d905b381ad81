//! Archives by the digest of their content: `<dir>/sha256/<2 hex digits>/<64 hex digits>`.
//!
//! A file under its digest is whole, verified and durable, always: it is written under another name in
//! `<dir>/incoming`, hashed on the way, and moved only after its `fsync`. Because the name is the content, storing the
//! same archive twice is the same as storing it once. Only a removal has to be kept apart from whoever stores the same
//! archive anew: from the begin of an upload until the journal knows of it the digest is held, and is not removed.

use std::collections::HashMap;
use std::fs;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::blocking;
use crate::error::{StoreError, io_error};
use crate::space::{Room, Taken};

/// What a file takes beside its bytes: its node, and its name in a folder.
const FILE_OVERHEAD_BYTES: u64 = 8 * 1024;

/// The archives.
#[derive(Debug)]
pub struct ArtifactStore {
    dir: PathBuf,
    room: Arc<Room>,
    uploads: AtomicU64,
    held: Arc<Held>,
}

/// Which archives are on their way in or out. Nothing waits for the disk while it holds the lock.
#[derive(Debug, Default)]
struct Held {
    digests: Mutex<HashMap<Digest, Use>>,
    /// Told when a removal is over.
    removed: Notify,
}

#[derive(Clone, Copy, Debug)]
enum Use {
    /// So many uploads of it are under way.
    Uploads(usize),
    /// It is being removed.
    Removal,
}

/// An archive that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive {
    /// What it hashes to.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was last stored.
    pub stored_at: SystemTime,
}

impl ArtifactStore {
    /// Opens the store in a directory, which is created if need be, and removes what interrupted uploads left there.
    /// Archives take no more than the room gives. Only one process may have it open.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a directory cannot be created or cleaned.
    pub fn open(dir: impl Into<PathBuf>, room: Arc<Room>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let (incoming, stored) = (dir.join("incoming"), dir.join("sha256"));
        for dir in [&incoming, &stored] {
            fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        }
        for entry in fs::read_dir(&incoming).map_err(io_error("list", &incoming))? {
            let path = entry.map_err(io_error("list", &incoming))?.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        sync_dir(&dir)?;
        Ok(Self { dir, room, uploads: AtomicU64::new(0), held: Arc::default() })
    }

    /// Begins to store an archive of at most `size_max` bytes.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] or [`StoreError::Io`]; nothing was stored.
    pub async fn upload(&self, expected: Digest, size_max: u64) -> Result<Upload, StoreError> {
        let overhead = self.room.take_soon(FILE_OVERHEAD_BYTES).await?;
        let hold = Hold::take(&self.held, expected).await;
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let temporary = Temporary(self.dir.join("incoming").join(number.to_string()));
        let file =
            tokio::fs::File::create_new(&temporary.0).await.map_err(io_error("create", &temporary.0))?;
        Ok(Upload {
            file,
            temporary,
            place: self.place(expected),
            hasher: Sha256::new(),
            expected,
            size: 0,
            size_max,
            is_verified: false,
            room: Arc::clone(&self.room),
            under_way: overhead,
            hold,
        })
    }

    /// Opens an archive for reading from `offset` on, and tells its whole size in bytes; `None` if it is not here.
    ///
    /// # Errors
    /// [`StoreError::BehindTheEnd`] or [`StoreError::Io`].
    pub async fn open_at(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<Option<(tokio::fs::File, u64)>, StoreError> {
        let path = self.place(digest);
        let mut file = match tokio::fs::File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let size_bytes = file.metadata().await.map_err(io_error("inspect", &path))?.len();
        if offset > size_bytes {
            return Err(StoreError::BehindTheEnd { offset, size_bytes });
        }
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).await.map_err(io_error("read", &path))?;
        }
        Ok(Some((file, size_bytes)))
    }

    /// Whether an archive is here.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn contains(&self, digest: Digest) -> Result<bool, StoreError> {
        let path = self.place(digest);
        tokio::fs::try_exists(&path).await.map_err(io_error("look for", &path))
    }

    /// All archives that are here, in no order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn list(&self) -> Result<Vec<Archive>, StoreError> {
        let stored = self.dir.join("sha256");
        blocking(move || {
            let mut found = Vec::new();
            for shard in fs::read_dir(&stored).map_err(io_error("list", &stored))? {
                let shard = shard.map_err(io_error("list", &stored))?.path();
                for entry in fs::read_dir(&shard).map_err(io_error("list", &shard))? {
                    let entry = entry.map_err(io_error("list", &shard))?;
                    // Whatever else somebody has put there is not ours.
                    let digest =
                        entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
                    let Some(digest) = digest else { continue };
                    let metadata = entry.metadata().map_err(io_error("inspect", &entry.path()))?;
                    let stored_at = metadata.modified().map_err(io_error("inspect", &entry.path()))?;
                    found.push(Archive { digest, size_bytes: metadata.len(), stored_at });
                }
            }
            Ok(found)
        })
        .await
    }

    /// Removes an archive, unless it is being uploaded, or `is_needed` says so at a moment at which no upload of it can
    /// begin. Whoever reads it reads it to its end. Returns whether it was removed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn remove(
        &self,
        digest: Digest,
        is_needed: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, StoreError> {
        let (place, held) = (self.place(digest), Arc::clone(&self.held));
        blocking(move || {
            let Some(_removal) = Removal::begin(&held, digest) else { return Ok(false) };
            if is_needed() {
                return Ok(false);
            }
            match fs::remove_file(&place) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(io_error("remove", &place)(error)),
            }
        })
        .await
    }

    fn place(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.dir.join("sha256").join(&hex[..2]).join(hex)
    }
}

/// An archive on its way in. Dropping it before [`Upload::finish`] removes what came so far.
#[derive(Debug)]
pub struct Upload {
    file: tokio::fs::File,
    temporary: Temporary,
    place: PathBuf,
    hasher: Sha256,
    expected: Digest,
    size: u64,
    size_max: u64,
    /// Whether it is what it should be.
    is_verified: bool,
    room: Arc<Room>,
    /// Room for what was written last: it may not be on the disk yet.
    under_way: Taken,
    hold: Hold,
}

/// An archive that is stored. It is not removed as long as this is there: drop it when it is known to be needed.
#[derive(Debug)]
pub struct Stored {
    /// Its size in bytes.
    pub size_bytes: u64,
    _hold: Hold,
}

/// That an archive is on its way in.
#[derive(Debug)]
struct Hold {
    held: Arc<Held>,
    digest: Digest,
}

impl Hold {
    /// Waits until a removal of it is over.
    async fn take(held: &Arc<Held>, digest: Digest) -> Self {
        loop {
            // Before the look: what is told in between is not missed.
            let mut removed = pin!(held.removed.notified());
            removed.as_mut().enable();
            if let Some(hold) = Self::at_once(held, digest) {
                return hold;
            }
            removed.await;
        }
    }

    fn at_once(held: &Arc<Held>, digest: Digest) -> Option<Self> {
        let mut digests = held.digests.lock();
        match digests.entry(digest).or_insert(Use::Uploads(0)) {
            Use::Uploads(count) => *count += 1,
            Use::Removal => return None,
        }
        Some(Self { held: Arc::clone(held), digest })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut digests = self.held.digests.lock();
        if let Some(Use::Uploads(count)) = digests.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                digests.remove(&self.digest);
            }
        }
    }
}

/// That an archive is on its way out. No upload of it begins before this is dropped.
#[derive(Debug)]
struct Removal {
    held: Arc<Held>,
    digest: Digest,
}

impl Removal {
    /// `None` if it is being uploaded, or removed by another.
    fn begin(held: &Arc<Held>, digest: Digest) -> Option<Self> {
        let mut digests = held.digests.lock();
        if digests.contains_key(&digest) {
            return None;
        }
        digests.insert(digest, Use::Removal);
        Some(Self { held: Arc::clone(held), digest })
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.held.digests.lock().remove(&self.digest);
        self.held.removed.notify_waiters();
    }
}

impl Upload {
    /// How much has come, in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::NoSpace`] or [`StoreError::Io`]; drop the upload then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let more = bytes.len() as u64;
        let size = self.size.saturating_add(more);
        if size > self.size_max {
            return Err(StoreError::TooLarge { max: self.size_max });
        }
        let under_way = self.room.take_soon(more).await?;
        self.hasher.update(bytes);
        // It waits for the write before it, and not for its own.
        self.file.write_all(bytes).await.map_err(io_error("write", &self.temporary.0))?;
        self.under_way = under_way;
        self.size = size;
        Ok(())
    }

    /// Verifies the digest when all has come, and opens it for whoever wants to look into it before [`Self::finish`].
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`] or [`StoreError::Io`]; drop the upload then.
    pub async fn look(&mut self) -> Result<fs::File, StoreError> {
        self.verify().await?;
        let opened = tokio::fs::File::open(&self.temporary.0).await;
        Ok(opened.map_err(io_error("open", &self.temporary.0))?.into_std().await)
    }

    async fn verify(&mut self) -> Result<(), StoreError> {
        if self.is_verified {
            return Ok(());
        }
        let actual = Digest(self.hasher.finalize_reset().into());
        if actual != self.expected {
            return Err(StoreError::WrongDigest { expected: self.expected, actual });
        }
        self.file.flush().await.map_err(io_error("write", &self.temporary.0))?;
        self.is_verified = true;
        Ok(())
    }

    /// Verifies the digest and makes the archive durable under it.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`], [`StoreError::NoSpace`] or [`StoreError::Io`]; nothing was stored.
    pub async fn finish(mut self) -> Result<Stored, StoreError> {
        self.verify().await?;
        self.file.sync_all().await.map_err(io_error("make durable", &self.temporary.0))?;
        let Self { temporary, place, size, hold, .. } = self;
        blocking(move || put_in_place(&temporary, &place)).await?;
        Ok(Stored { size_bytes: size, _hold: hold })
    }
}

/// A file that is removed when it is dropped under its temporary name. After a rename there is nothing to remove.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    /// Happens where an upload breaks off, on a thread that must not wait for the disk.
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        match Handle::try_current() {
            // Nobody waits for it.
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove_unfinished(&path))),
            Err(_) => remove_unfinished(&path),
        }
    }
}

fn remove_unfinished(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished upload; the next start will");
        }
        Ok(()) | Err(_) => {}
    }
}

fn put_in_place(temporary: &Temporary, place: &Path) -> Result<(), StoreError> {
    let (Some(shard), Some(stored)) = (place.parent(), place.parent().and_then(Path::parent)) else {
        return Err(io_error("put in place", place)(std::io::ErrorKind::InvalidInput.into()));
    };
    fs::create_dir_all(shard).map_err(io_error("create", shard))?;
    fs::rename(&temporary.0, place).map_err(io_error("put in place", place))?;
    sync_dir(shard)?;
    sync_dir(stored)
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    fs::File::open(dir).and_then(|opened| opened.sync_all()).map_err(io_error("make durable", dir))
}
