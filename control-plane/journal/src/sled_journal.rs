//! The embedded backend: a directory, no other server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use stella_durable::{Batch, Sequence, Store, StoreConfig, Tree};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

use crate::acknowledged::AcknowledgedFile;
use crate::archive::ArchiveStore;
use crate::open::{Inventory, Raw};
use crate::port::{
    APPEND_BYTES_MAX, Append, AppendError, Archive, Damage, EVENT_BYTES_MAX, Entry, Head, Journal, Mark,
    OpenError, Problem, READ_BYTES_MAX, ReadError, SNAPSHOT_BYTES_MAX, Snapshot, SnapshotError, Stream,
};
use crate::record::{
    EPOCH_KEY, IDENTITY_KEY, RECORD_BYTES_MAX, RECORD_OVERHEAD, StoredHead, decode_record, encode_epoch,
    encode_head, encode_identity, encode_record, event_size, hash_after, hash_of_nothing, head_key,
    record_key,
};
use crate::scan::Scan;
use crate::snapshot::SnapshotStore;

/// A journal in a directory. One process at a time has it open.
#[derive(Debug)]
pub struct SledJournal {
    store: Store,
    tree: Tree,
    snapshots: SnapshotStore,
    archive: ArchiveStore,
    incarnation: Incarnation,
    /// What is durable. Written only by the holder of `writer`, after the barrier, so readers never wait for the disk
    /// and never see what may still be lost.
    durable: RwLock<Durable>,
    /// One append at a time; its holder also notes what was acknowledged.
    writer: Mutex<AcknowledgedFile>,
}

#[derive(Debug)]
struct Durable {
    epoch: Epoch,
    last_time: Timestamp,
    heads: BTreeMap<Stream, Head>,
}

/// What an append writes.
#[derive(Debug, Default)]
struct Planned {
    /// With their keys, in the order of their positions.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where each stream ends after them.
    heads: BTreeMap<Stream, Head>,
}

impl SledJournal {
    /// Opens the journal in the directory, or starts a new one there with a new incarnation.
    ///
    /// Heads, last records and the signs of lost events are checked here; the other records when they are read.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let raw = Raw::open(dir, config)?;
        let inventory = raw.inventory()?;
        if let Some(first) = inventory.problems.first() {
            return Err(first.clone().into());
        }
        let incarnation = match inventory.incarnation {
            Some(incarnation) => incarnation,
            None => found(&raw)?,
        };
        catch_up(&raw, &inventory)?;
        let acknowledged = AcknowledgedFile::open(dir, incarnation).map_err(|source| {
            let path = dir.to_owned();
            stella_durable::Error::Io { action: "open the acknowledged events of", path, source }
        })?;
        acknowledged.remember(inventory.events());
        let stored =
            || inventory.streams.iter().filter_map(|(stream, stored)| stored.map(|stored| (*stream, stored)));
        let durable = Durable {
            epoch: inventory.epoch,
            last_time: stored().map(|(_, stored)| stored.at).max().unwrap_or_default(),
            heads: stored().map(|(stream, stored)| (stream, stored.head)).collect(),
        };
        let Raw { store, tree, snapshots, archive } = raw;
        Ok(Self {
            store,
            tree,
            snapshots,
            archive,
            incarnation,
            durable: RwLock::new(durable),
            writer: Mutex::new(acknowledged),
        })
    }

    /// How much of the disk the journal takes, in bytes.
    pub fn size_on_disk(&self) -> Result<u64, stella_durable::Error> {
        self.store.size_on_disk()
    }

    /// How many barriers were made since it was opened.
    #[must_use]
    pub fn barriers(&self) -> u64 {
        self.store.barriers()
    }

    fn end(&self, stream: Stream) -> Head {
        let head = self.durable.read().heads.get(&stream).copied();
        head.unwrap_or_else(|| Head { next: Position(0), hash: hash_of_nothing(self.incarnation, stream) })
    }

    fn check(&self, epoch: Epoch, at: Timestamp, appends: &[Append]) -> Result<(), AppendError> {
        let durable = self.durable.read();
        if epoch != durable.epoch {
            return Err(AppendError::StaleEpoch { given: epoch, current: durable.epoch });
        }
        if at < durable.last_time {
            return Err(AppendError::TimeWentBack { given: at, last: durable.last_time });
        }
        let mut total = 0_usize;
        for event in appends.iter().flat_map(|append| &append.events) {
            total = total.saturating_add(event.len());
            if event.len() > EVENT_BYTES_MAX {
                return Err(AppendError::TooLarge {
                    what: "an event",
                    bytes: event.len(),
                    max: EVENT_BYTES_MAX,
                });
            }
        }
        if total > APPEND_BYTES_MAX {
            return Err(AppendError::TooLarge { what: "an append", bytes: total, max: APPEND_BYTES_MAX });
        }
        Ok(())
    }

    /// What the appends write. Returns the head after each too.
    fn plan(
        &self,
        epoch: Epoch,
        at: Timestamp,
        appends: &[Append],
    ) -> Result<(Vec<Head>, Planned), AppendError> {
        let mut planned = Planned::default();
        let mut heads = Vec::with_capacity(appends.len());
        for Append { stream, expected, events } in appends {
            let head = planned.heads.get(stream).copied().unwrap_or_else(|| self.end(*stream));
            if head.next != *expected {
                let (stream, expected, actual) = (*stream, *expected, head.next);
                return Err(AppendError::PositionConflict { stream, expected, actual });
            }
            let head = pack(*stream, head, at, epoch, events, |key, record| {
                planned.records.push((key, record));
            });
            if !events.is_empty() {
                planned.heads.insert(*stream, head);
            }
            heads.push(head);
        }
        Ok((heads, planned))
    }

    /// Has it written with the next barrier, all or nothing of it.
    ///
    /// A single record is whole without its head: whoever opens the journal finds it behind the head that was there before, and takes it
    /// for what it is. The first one of a stream is not told from one whose head is lost, so it is written in one batch with its head, as
    /// several records are.
    fn write(&self, at: Timestamp, planned: &Planned) -> Result<(), stella_durable::Error> {
        let goes_on = |stream| self.durable.read().heads.contains_key(stream);
        let is_whole_by_itself = planned.records.len() == 1 && planned.heads.keys().all(goes_on);
        let records = planned.records.iter().map(|(key, record)| (key.as_slice(), record.as_slice()));
        let heads = planned
            .heads
            .iter()
            .map(|(&stream, &head)| (head_key(stream), encode_head(StoredHead { head, at })));
        if is_whole_by_itself {
            let mut sequence = Sequence::default();
            records.for_each(|(key, record)| sequence.insert(key, record));
            heads.for_each(|(key, head)| sequence.insert(key, head));
            self.store.apply_in_order(&self.tree, sequence)
        } else {
            let mut batch = Batch::default();
            records.for_each(|(key, record)| batch.insert(key, record));
            heads.for_each(|(key, head)| batch.insert(key, head));
            self.store.apply(&self.tree, batch)
        }
    }
}

impl Journal for SledJournal {
    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn epoch(&self) -> Epoch {
        self.durable.read().epoch
    }

    fn begin_epoch(&self) -> Result<Epoch, AppendError> {
        // Small enough to come out of the reserve: a control plane on a full disk must still start, to be read.
        let _writer = self.writer.lock();
        let epoch = self.epoch().next();
        let mut batch = Batch::default();
        batch.insert(&EPOCH_KEY, encode_epoch(epoch));
        self.store.apply(&self.tree, batch)?;
        self.store.barrier()?;
        self.durable.write().epoch = epoch;
        Ok(epoch)
    }

    fn heads(&self) -> BTreeMap<Stream, Head> {
        self.durable.read().heads.clone()
    }

    fn head(&self, stream: Stream) -> Position {
        self.durable.read().heads.get(&stream).map(|head| head.next).unwrap_or_default()
    }

    fn last_time(&self) -> Timestamp {
        self.durable.read().last_time
    }

    fn append(&self, epoch: Epoch, at: Timestamp, appends: &[Append]) -> Result<Vec<Head>, AppendError> {
        let acknowledged = self.writer.lock();
        self.check(epoch, at, appends)?;
        let (heads, planned) = self.plan(epoch, at, appends)?;
        if planned.heads.is_empty() {
            return Ok(heads);
        }
        self.store.check_reserve()?;
        self.write(at, &planned)?;
        let flushing = Instant::now();
        self.store.barrier()?;
        metrics::histogram!("stella_journal_flush_duration_seconds").record(flushing.elapsed());
        let events = {
            let mut durable = self.durable.write();
            durable.last_time = at;
            durable.heads.extend(planned.heads);
            durable.heads.values().map(|head| head.next.0).sum()
        };
        acknowledged.remember(events);
        Ok(heads)
    }

    fn read(&self, stream: Stream, from: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
        let end = self.end(stream);
        if from >= end.next || limit == 0 {
            return Ok(Vec::new());
        }
        let mut scan = Scan::holding(&self.tree, self.incarnation, stream, from, end.next)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut last_hash = None;
        for checked in &mut scan {
            let checked = checked?;
            let record = checked.record;
            last_hash = Some(checked.hash);
            for (position, payload) in (record.first.0..).map(Position).zip(record.events) {
                if position >= from && entries.len() < limit && (bytes < READ_BYTES_MAX || entries.is_empty())
                {
                    bytes += payload.len();
                    entries.push(Entry { position, at: record.at, epoch: record.epoch, payload });
                }
            }
            if entries.len() >= limit || bytes >= READ_BYTES_MAX {
                break;
            }
        }
        // A record is only known to be the one that was written by what was written after it: the next record (whose
        // check compares the two), or the head.
        if scan.next().transpose()?.is_none() && last_hash != Some(end.hash) {
            return Err(Damage::at(stream, end.next, Problem::BrokenChain).into());
        }
        Ok(entries)
    }

    fn hash_at(&self, stream: Stream, position: Position) -> Result<Option<Digest>, ReadError> {
        let head = self.end(stream);
        if position == Position(0) {
            return Ok(Some(hash_of_nothing(self.incarnation, stream)));
        }
        if position >= head.next {
            return Ok((position == head.next).then_some(head.hash));
        }
        let Some(value) = self.tree.get(record_key(stream, position))? else { return Ok(None) };
        let record = decode_record(&value).map_err(|problem| Damage::at(stream, position, problem))?;
        if (record.stream, record.first) != (stream, position) {
            return Err(Damage::at(stream, position, Problem::Misplaced).into());
        }
        Ok(Some(record.previous))
    }

    fn size_bytes(&self) -> Option<u64> {
        self.size_on_disk().ok()
    }

    fn is_short_of_space(&self) -> Option<bool> {
        match self.store.check_reserve() {
            Ok(()) => Some(false),
            Err(stella_durable::Error::ReserveReached { .. }) => Some(true),
            Err(_) => None,
        }
    }

    fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let bytes = snapshot.payload.len();
        if bytes > SNAPSHOT_BYTES_MAX {
            return Err(AppendError::TooLarge { what: "a snapshot", bytes, max: SNAPSHOT_BYTES_MAX }.into());
        }
        self.store.check_reserve().map_err(AppendError::from)?;
        for (&stream, &head) in &snapshot.heads {
            if self.compare(stream, head)? == Mark::Differs {
                return Err(SnapshotError::NotOurHistory { stream, position: head.next });
            }
        }
        Ok(self.snapshots.save(snapshot).map_err(AppendError::from)?)
    }

    fn load_snapshot(&self) -> Result<Option<Snapshot>, ReadError> {
        for id in self.snapshots.manifests()?.into_iter().rev() {
            let problem = match self.snapshots.load(id)? {
                Ok(snapshot) if self.has_history_of(&snapshot)? => return Ok(Some(snapshot)),
                Ok(_) => Problem::Snapshot(id, "it is of another history than the events"),
                Err(problem) => problem,
            };
            tracing::warn!(snapshot = id, problem = %problem, "a snapshot is skipped; an older one or a replay takes its place");
        }
        Ok(None)
    }

    fn archive(&self) -> &dyn Archive {
        &self.archive
    }
}

impl SledJournal {
    fn has_history_of(&self, snapshot: &Snapshot) -> Result<bool, ReadError> {
        for (&stream, &head) in &snapshot.heads {
            if self.compare(stream, head)? == Mark::Differs {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Gives a new journal its name.
fn found(raw: &Raw) -> Result<Incarnation, stella_durable::Error> {
    let incarnation = Incarnation(Uuid::new_v4());
    let mut batch = Batch::default();
    batch.insert(&IDENTITY_KEY, encode_identity(incarnation));
    batch.insert(&EPOCH_KEY, encode_epoch(Epoch(0)));
    raw.store.apply(&raw.tree, batch)?;
    raw.store.barrier()?;
    Ok(incarnation)
}

/// Writes the heads that a crash has cut off. The next record follows from its head on the disk, so that the next crash leaves one record
/// without a head too, and not a second one.
fn catch_up(raw: &Raw, inventory: &Inventory) -> Result<(), stella_durable::Error> {
    if inventory.behind.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    for (stream, stored) in &inventory.behind {
        batch.insert(head_key(*stream), encode_head(*stored));
    }
    raw.store.apply(&raw.tree, batch)?;
    raw.store.barrier()
}

/// Packs events into as few records as their size allows, and gives each with its key. Returns the stream's head after them.
pub(crate) fn pack(
    stream: Stream,
    mut head: Head,
    at: Timestamp,
    epoch: Epoch,
    events: &[Vec<u8>],
    mut put: impl FnMut(Vec<u8>, Vec<u8>),
) -> Head {
    let mut rest = events;
    while !rest.is_empty() {
        let mut size = RECORD_OVERHEAD;
        let fitting = rest.iter().take_while(|event| {
            size = size.saturating_add(event_size(event));
            size <= RECORD_BYTES_MAX
        });
        let (run, after) = rest.split_at(fitting.count().max(1));
        let record = encode_record(stream, head, at, epoch, run);
        let hash = hash_after(head.hash, &record);
        put(record_key(stream, head.next), record);
        head = Head { next: Position(head.next.0 + run.len() as u64), hash };
        rest = after;
    }
    head
}
