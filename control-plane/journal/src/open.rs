//! What is in a directory, before anything is believed of it. The server and the tools look at it with the same eyes.

use std::collections::BTreeMap;
use std::path::Path;

use stella_durable::{Store, StoreConfig, Tree};
use stella_protocol::id::{Epoch, Incarnation, Position};

use crate::acknowledged::acknowledged_events;
use crate::archive::ArchiveStore;
use crate::port::{Damage, Head, OpenError, Problem, ReadError, Stream};
use crate::record::{
    EPOCH_KEY, HEAD_PREFIX, IDENTITY_KEY, RECORD_PREFIX, StoredHead, decode_epoch, decode_head,
    decode_head_key, decode_identity, decode_record, decode_record_key, hash_after, record_key,
};
use crate::snapshot::SnapshotStore;

/// How the offline tools open a store: a journal that is only walked through needs little memory.
pub(crate) const TOOL_CONFIG: StoreConfig = StoreConfig { cache_bytes: 64 << 20, reserve_bytes: 0 };

/// The storage of a journal.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) store: Store,
    pub(crate) tree: Tree,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) archive: ArchiveStore,
}

/// What a journal says about itself, with everything that is wrong with that.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// `None` in a new journal, and if it is damaged.
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) epoch: Epoch,
    /// All streams that have a head or records; `None` if the head is damaged or missing.
    pub(crate) streams: BTreeMap<Stream, Option<StoredHead>>,
    /// The ends of those whose last record a crash has left without its head on the disk.
    pub(crate) behind: Vec<(Stream, StoredHead)>,
    pub(crate) problems: Vec<Damage>,
}

impl Raw {
    pub(crate) fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let store = Store::open(dir, config)?;
        let tree = store.tree("journal")?;
        let snapshots = SnapshotStore::new(store.clone())?;
        let archive = ArchiveStore::new(store.clone())?;
        Ok(Self { store, tree, snapshots, archive })
    }

    /// Opens only what is there already.
    pub(crate) fn open_existing(dir: &Path) -> Result<Self, OpenError> {
        if Store::exists(dir) {
            Self::open(dir, TOOL_CONFIG)
        } else {
            Err(OpenError::NotFound(dir.to_owned()))
        }
    }

    /// Looks at identity, epoch, heads, the last record of each stream and the signs of lost events.
    pub(crate) fn inventory(&self) -> Result<Inventory, OpenError> {
        let mut inventory = Inventory::default();
        if self.tree.is_empty() {
            // New, or everything is gone.
            self.find_lost_events(&mut inventory)?;
            return Ok(inventory);
        }
        let Some(identity) = self.tree.get(IDENTITY_KEY)? else {
            return Err(OpenError::Unfinished(self.store.dir().to_owned()));
        };
        match decode_identity(&identity) {
            Ok(incarnation) => inventory.incarnation = Some(incarnation),
            Err(problem) => inventory.problems.push(Damage::of_journal(problem)),
        }
        match self.tree.get(EPOCH_KEY)? {
            Some(value) => match decode_epoch(&value) {
                Ok(epoch) => inventory.epoch = epoch,
                Err(problem) => inventory.problems.push(Damage::of_journal(problem)),
            },
            None => inventory.problems.push(Damage::of_journal(Problem::Malformed("there is no epoch"))),
        }
        self.read_heads(&mut inventory);
        self.find_headless(&mut inventory);
        for (&stream, stored) in &mut inventory.streams {
            let Some(stored) = stored else { continue };
            match self.find_end(stream, *stored) {
                Ok(end) => {
                    if end != *stored {
                        inventory.behind.push((stream, end));
                    }
                    *stored = end;
                }
                Err(error) => inventory.problems.push(damage_of(stream, stored.head.next, error)),
            }
        }
        self.find_lost_events(&mut inventory)?;
        Ok(inventory)
    }

    fn read_heads(&self, inventory: &mut Inventory) {
        for pair in self.tree.scan_prefix([HEAD_PREFIX]) {
            match pair {
                Ok((key, value)) => match decode_head_key(&key) {
                    Ok(stream) => {
                        let stored = decode_head(&value);
                        if let Err(problem) = &stored {
                            let damage =
                                Damage { stream: Some(stream), position: None, problem: problem.clone() };
                            inventory.problems.push(damage);
                        }
                        inventory.streams.insert(stream, stored.ok());
                    }
                    Err(problem) => inventory.problems.push(Damage::of_journal(problem)),
                },
                Err(error) => return inventory.problems.push(unreadable(&error)),
            }
        }
    }

    /// Finds streams that have records and no head, with one look for each stream.
    fn find_headless(&self, inventory: &mut Inventory) {
        let mut from = vec![RECORD_PREFIX];
        while let Some(pair) = self.tree.range(from.clone()..vec![RECORD_PREFIX + 1]).next() {
            let key = match pair {
                Ok((key, _)) => key,
                Err(error) => return inventory.problems.push(unreadable(&error)),
            };
            let (stream, position) = match decode_record_key(&key) {
                Ok(decoded) => decoded,
                Err(problem) => {
                    inventory.problems.push(Damage::of_journal(problem));
                    // The smallest key after this one.
                    from = key.to_vec();
                    from.push(0);
                    continue;
                }
            };
            inventory.streams.entry(stream).or_insert_with(|| {
                inventory.problems.push(Damage::at(stream, position, Problem::NoHead));
                None
            });
            from = record_key(stream, Position(u64::MAX));
            from.push(0);
        }
    }

    /// Where a stream ends: at its head, or behind the one record that was written after it, when a crash came before the head of that.
    fn find_end(&self, stream: Stream, stored: StoredHead) -> Result<StoredHead, ReadError> {
        let head = stored.head;
        let all = record_key(stream, Position(0))..=record_key(stream, Position(u64::MAX));
        let Some((key, value)) = self.tree.range(all).next_back().transpose()? else {
            return Err(Damage::at(stream, Position(0), Problem::Gap { found: head.next }).into());
        };
        let place = |problem| Damage { stream: Some(stream), position: None, problem };
        let (_, first) = decode_record_key(&key).map_err(place)?;
        let record = decode_record(&value).map_err(|problem| Damage::at(stream, first, problem))?;
        let end = Head { next: record.next(), hash: hash_after(record.previous, &value) };
        let place = (record.stream, record.first, record.previous);
        if first == head.next && place == (stream, head.next, head.hash) {
            return Ok(StoredHead { head: end, at: record.at });
        }
        if end.next != head.next {
            return Err(Damage::at(stream, record.next(), Problem::HeadDisagrees { head: head.next }).into());
        }
        if end.hash != head.hash {
            return Err(Damage::at(stream, first, Problem::BrokenChain).into());
        }
        Ok(stored)
    }

    fn find_lost_events(&self, inventory: &mut Inventory) -> Result<(), OpenError> {
        for (stream, covered) in self.snapshots.newest_heads()? {
            let present = inventory.end_of(stream);
            if present < covered {
                let problem = Problem::BehindSnapshot { covered };
                inventory.problems.push(Damage::at(stream, present, problem));
            }
        }
        let dir = self.store.dir();
        let acknowledged = acknowledged_events(dir).map_err(|source| {
            let path = dir.to_owned();
            stella_durable::Error::Io { action: "read the acknowledged events of", path, source }
        })?;
        let present = inventory.events();
        let are_heads_known = inventory.streams.values().all(Option::is_some);
        if are_heads_known && present < acknowledged {
            let problem = Problem::BehindAcknowledged { acknowledged, present };
            inventory.problems.push(Damage::of_journal(problem));
        }
        Ok(())
    }
}

impl Inventory {
    /// How many events all streams have, by their heads.
    pub(crate) fn events(&self) -> u64 {
        self.streams.values().flatten().map(|stored| stored.head.next.0).sum()
    }

    fn end_of(&self, stream: Stream) -> Position {
        self.streams.get(&stream).copied().flatten().map(|stored| stored.head.next).unwrap_or_default()
    }
}

/// Any failure to read, as damage at a place.
pub(crate) fn damage_of(stream: Stream, position: Position, error: ReadError) -> Damage {
    match error {
        ReadError::Damaged(damage) => damage,
        ReadError::Storage(error) => Damage::at(stream, position, Problem::Unreadable(error.to_string())),
    }
}

fn unreadable(error: &stella_durable::Error) -> Damage {
    Damage::of_journal(Problem::Unreadable(error.to_string()))
}
