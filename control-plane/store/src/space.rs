//! How much room the files beside the journal have on the disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::blocking;
use crate::error::{StoreError, io_error};

/// How many bytes may be written before the disk is looked at again.
const GRANT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How old a look may be: others write to the disk as well.
const LOOK_AGE_MAX: Duration = Duration::from_secs(1);

/// The room on one disk, shared by all who write there: what one of them takes is not there for the others, also before it is
/// written. Below the reserve nothing is given out.
pub struct Room {
    dir: PathBuf,
    reserve_bytes: u64,
    free_bytes: Box<Measure>,
    last: Mutex<Look>,
}

/// How many bytes are free on the disk of a directory.
type Measure = dyn Fn(&Path) -> io::Result<u64> + Send + Sync;

/// What came of the last look at the disk.
#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    /// How much may still be taken by it, in bytes.
    left: u64,
    /// What was taken and may not be on the disk yet, in bytes.
    under_way: u64,
}

impl Room {
    /// The room on the disk of a directory, of which `reserve_bytes` are left alone.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, reserve_bytes: u64) -> Arc<Self> {
        Self::measured_by(dir, reserve_bytes, |dir| {
            let figures = nix::sys::statvfs::statvfs(dir).map_err(io::Error::from)?;
            Ok(figures.blocks_available().saturating_mul(figures.fragment_size()))
        })
    }

    /// As [`Self::new`], by a measure of one's own for how many bytes are free.
    #[must_use]
    pub fn measured_by(
        dir: impl Into<PathBuf>,
        reserve_bytes: u64,
        free_bytes: impl Fn(&Path) -> io::Result<u64> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let free_bytes = Box::new(free_bytes);
        Arc::new(Self { dir: dir.into(), reserve_bytes, free_bytes, last: Mutex::default() })
    }

    /// Takes room for something that is written next. May have to look at the disk, which can hang: for threads that may block.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], or [`StoreError::Io`] if the disk cannot be looked at; nothing was taken.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Result<Taken, StoreError> {
        if let Some(taken) = self.take_of_last(bytes) {
            return Ok(taken);
        }
        // Nobody waits for the disk who wants what is left of the look before. What is written meanwhile is seen by one of both.
        let before = self.last.lock().under_way;
        let measured = (self.free_bytes)(&self.dir);
        let available_bytes = measured.map_err(io_error("measure the free space of", &self.dir))?;
        let mut look = self.last.lock();
        let free = available_bytes.saturating_sub(look.under_way.max(before));
        if free.saturating_sub(bytes) < self.reserve_bytes {
            look.at = None;
            let (path, reserve_bytes) = (self.dir.clone(), self.reserve_bytes);
            return Err(StoreError::NoSpace { path, available_bytes: free, reserve_bytes });
        }
        look.at = Some(Instant::now());
        look.left = (free - self.reserve_bytes).min(GRANT_BYTES_MAX.max(bytes));
        Ok(self.taken(&mut look, bytes))
    }

    /// As [`Self::take`]; only a thread that may block looks at the disk.
    pub(crate) async fn take_soon(self: &Arc<Self>, bytes: u64) -> Result<Taken, StoreError> {
        match self.take_of_last(bytes) {
            Some(taken) => Ok(taken),
            None => {
                let room = Arc::clone(self);
                blocking(move || room.take(bytes)).await
            }
        }
    }

    /// By the last look, if that is fresh and has left enough.
    fn take_of_last(self: &Arc<Self>, bytes: u64) -> Option<Taken> {
        let mut look = self.last.lock();
        let is_fresh = look.at.is_some_and(|at| at.elapsed() < LOOK_AGE_MAX);
        (is_fresh && look.left >= bytes).then(|| self.taken(&mut look, bytes))
    }

    fn taken(self: &Arc<Self>, look: &mut Look, bytes: u64) -> Taken {
        look.left -= bytes;
        look.under_way += bytes;
        Taken { room: Arc::clone(self), bytes }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = formatter.debug_struct("Room");
        text.field("dir", &self.dir).field("reserve_bytes", &self.reserve_bytes).finish_non_exhaustive()
    }
}

/// Room for what is being written. Drop it when that is on the disk, where the next look finds it.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut look = self.room.last.lock();
        look.under_way = look.under_way.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_under_way_counts_until_the_disk_shows_it() {
        let free = Arc::new(AtomicU64::new(1_000));
        let shown = Arc::clone(&free);
        let room = Room::measured_by("/", 400, move |_| Ok(shown.load(Ordering::Relaxed)));
        let one = room.take(300).unwrap();
        let two = room.take(300).unwrap();
        assert!(matches!(room.take(1), Err(StoreError::NoSpace { available_bytes: 400, .. })));
        // It is written, and the file system says so.
        free.fetch_sub(300, Ordering::Relaxed);
        drop(one);
        assert!(room.take(1).is_err());
        // It was given up.
        drop(two);
        let _three = room.take(300).unwrap();
        assert!(room.take(1).is_err());
    }

    #[test]
    fn who_waits_for_the_disk_keeps_nobody_waiting_who_needs_not_look_at_it() {
        let (looks, begun) = std::sync::mpsc::channel();
        let (answer, answers) = std::sync::mpsc::channel();
        let answers = Mutex::new(answers);
        let room = Room::measured_by("/", 0, move |_| {
            looks.send(()).unwrap();
            Ok(answers.lock().recv().unwrap())
        });
        answer.send(2 * GRANT_BYTES_MAX).unwrap();
        let taken = room.take(1).unwrap();
        begun.recv().unwrap();
        let hanging = std::thread::spawn({
            let room = Arc::clone(&room);
            move || room.take(GRANT_BYTES_MAX).map(drop)
        });
        begun.recv().unwrap();
        // It looks at the disk now, and there is no answer yet. Nothing is asked of a lock that it holds.
        drop(taken);
        assert!(room.last.try_lock().is_some());
        answer.send(2 * GRANT_BYTES_MAX).unwrap();
        hanging.join().unwrap().unwrap();
    }
}
