//! A real journal whose disk can be full: that cannot be had on demand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stella_journal::{
    Append, AppendError, Archive, Entry, Head, Journal, JournalConfig, ReadError, SledJournal, Snapshot,
    SnapshotError, Stream,
};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position};
use stella_protocol::time::Timestamp;

#[derive(Debug)]
pub struct Disk {
    inner: SledJournal,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    pub fn open(dir: &Path, is_full: Arc<AtomicBool>) -> Self {
        let config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        Self { inner: SledJournal::open(dir, config).unwrap(), is_full }
    }
}

impl Journal for Disk {
    fn incarnation(&self) -> Incarnation {
        self.inner.incarnation()
    }
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }
    fn begin_epoch(&self) -> Result<Epoch, AppendError> {
        self.inner.begin_epoch()
    }
    fn heads(&self) -> BTreeMap<Stream, Head> {
        self.inner.heads()
    }
    fn last_time(&self) -> Timestamp {
        self.inner.last_time()
    }
    fn append(&self, epoch: Epoch, at: Timestamp, appends: &[Append]) -> Result<Vec<Head>, AppendError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(AppendError::NoSpace { available_bytes: 1, reserve_bytes: 2 });
        }
        self.inner.append(epoch, at, appends)
    }
    fn read(&self, stream: Stream, from: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
        self.inner.read(stream, from, limit)
    }
    fn hash_at(&self, stream: Stream, position: Position) -> Result<Option<Digest>, ReadError> {
        self.inner.hash_at(stream, position)
    }
    fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        self.inner.save_snapshot(snapshot)
    }
    fn load_snapshot(&self) -> Result<Option<Snapshot>, ReadError> {
        self.inner.load_snapshot()
    }
    fn archive(&self) -> &dyn Archive {
        self.inner.archive()
    }
}
