//! Archives by the digest of their content: `<dir>/sha256/<2 hex digits>/<64 hex digits>`.
//!
//! A file under its digest is whole, verified and durable, always: it is written under another name in
//! `<dir>/incoming`, hashed on the way, and moved only after its `fsync`. Because the name is the content, storing the
//! same archive twice is the same as storing it once, and nothing here has to be locked.

use std::fs;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use crate::error::{StoreError, io_error};
use crate::space;

/// The free space is measured again after this many bytes of an upload: often enough to keep the reserve nearly whole.
const SPACE_CHECK_BYTES: u64 = 8 * 1024 * 1024;

/// The archives.
#[derive(Debug)]
pub struct ArtifactStore {
    dir: PathBuf,
    reserve_bytes: u64,
    uploads: AtomicU64,
}

impl ArtifactStore {
    /// Opens the store in a directory, which is created if need be, and removes what interrupted uploads left there.
    /// `reserve_bytes` of its disk are never used for archives. Only one process may have it open.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a directory cannot be created or cleaned.
    pub fn open(dir: impl Into<PathBuf>, reserve_bytes: u64) -> Result<Self, StoreError> {
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
        Ok(Self { dir, reserve_bytes, uploads: AtomicU64::new(0) })
    }

    /// Begins to store an archive of at most `size_max` bytes.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] or [`StoreError::Io`]; nothing was stored.
    pub async fn upload(&self, expected: Digest, size_max: u64) -> Result<Upload, StoreError> {
        space::check(&self.dir, 0, self.reserve_bytes)?;
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
            reserve_bytes: self.reserve_bytes,
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
    reserve_bytes: u64,
}

impl Upload {
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
        if size / SPACE_CHECK_BYTES > self.size / SPACE_CHECK_BYTES {
            space::check(&self.temporary.0, more, self.reserve_bytes)?;
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await.map_err(io_error("write", &self.temporary.0))?;
        self.size = size;
        Ok(())
    }

    /// Verifies the digest and makes the archive durable under it. Returns its size in bytes.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`], [`StoreError::NoSpace`] or [`StoreError::Io`]; nothing was stored.
    pub async fn finish(mut self) -> Result<u64, StoreError> {
        let actual = Digest(self.hasher.finalize_reset().into());
        if actual != self.expected {
            return Err(StoreError::WrongDigest { expected: self.expected, actual });
        }
        self.file.flush().await.map_err(io_error("write", &self.temporary.0))?;
        self.file.sync_all().await.map_err(io_error("make durable", &self.temporary.0))?;
        let Self { temporary, place, size, .. } = self;
        let moved = tokio::task::spawn_blocking(move || put_in_place(&temporary, &place)).await;
        // The blocking task is never cancelled once it runs, and it cannot panic.
        moved.unwrap_or_else(|error| {
            Err(io_error("finish an upload", Path::new(""))(std::io::Error::other(error)))
        })?;
        Ok(size)
    }
}

/// A file that is removed when it is dropped under its temporary name. After a rename there is nothing to remove.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "cannot remove an unfinished upload; the next start will");
            }
            Ok(()) | Err(_) => {}
        }
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
