//! How much of the disk is free.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

use crate::error::Error;

/// How old a figure may be. The reserve must be larger than what is written in this time.
const FIGURE_AGE_MAX: Duration = Duration::from_secs(1);

/// The free space below which nothing new is written, so that a full disk is a refusal and not a failed flush.
#[derive(Debug)]
pub(crate) struct Reserve {
    dir: PathBuf,
    bytes: u64,
    last: Mutex<Option<(Instant, u64)>>,
}

impl Reserve {
    pub(crate) const fn new(dir: PathBuf, bytes: u64) -> Self {
        Self { dir, bytes, last: Mutex::new(None) }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.bytes == 0 {
            return Ok(());
        }
        let available_bytes = self.available_bytes()?;
        if available_bytes < self.bytes {
            return Err(Error::ReserveReached { available_bytes, reserve_bytes: self.bytes });
        }
        Ok(())
    }

    fn available_bytes(&self) -> Result<u64, Error> {
        let mut last = self.last.lock();
        if let Some((at, bytes)) = *last
            && at.elapsed() < FIGURE_AGE_MAX
        {
            return Ok(bytes);
        }
        let figures = statvfs(&self.dir)
            .map_err(|errno| Error::from_io(&self.dir, "read the free space of", errno.into()))?;
        let bytes = figures.blocks_available().saturating_mul(figures.fragment_size());
        *last = Some((Instant::now(), bytes));
        Ok(bytes)
    }
}
