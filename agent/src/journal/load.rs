//! Opening a journal: everything in it is read and checked before anything is written.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use serde::de::DeserializeOwned;
use stella_durable::{Flusher, Store, StoreConfig};
use stella_protocol::id::{Attempt as AttemptNumber, AttemptKey, Incarnation, Position, TargetId, TaskId};
use uuid::Uuid;

use super::codec::{self, Attempt, Broken, CONTROL_PLANE_KEY, LIFE_KEY, Life, Table, Tombstone};
use super::{Entry, Error, Journal, LeftOpen, State};
use crate::executor::reason_of;
use crate::identity::write_private;

/// The page cache: a journal has a few hundred small records, and an idle agent is to be small.
const CACHE_BYTES: u64 = 1024 * 1024;

const TREE: &str = "journal";

/// Beside the database, from its first durable write on. A database whose file is overwritten or cut off opens as an empty one, and an
/// empty one is a new life, in which nobody knows any more what has run: with this file there it is damage instead.
const BEGUN_FILE: &str = "begun";

pub(super) fn open(dir: &Path, reserve_bytes: u64) -> Result<(Journal, Vec<LeftOpen>), Error> {
    let store = Store::open(dir, StoreConfig { cache_bytes: CACHE_BYTES, reserve_bytes }).map_err(refused)?;
    let tree = store.tree(TREE).map_err(refused)?;
    let flusher = Flusher::spawn(store.clone())?;
    let mut journal = Journal {
        incarnation: Incarnation(Uuid::new_v4()),
        control_plane: None,
        generations: HashMap::new(),
        attempts: HashMap::new(),
        tombstones: VecDeque::new(),
        position: Position(0),
        durable: Position(0),
        staged: Vec::new(),
        is_urgent: false,
        under_way: None,
        store,
        tree,
        flusher,
    };
    let begun = dir.join(BEGUN_FILE);
    let has_begun = begun.symlink_metadata().is_ok();
    if journal.tree.is_empty() {
        if has_begun {
            let what = "it was written to before, and its database is empty now".to_owned();
            return Err(Error::Damaged { dir: dir.to_owned(), what });
        }
        // Nothing that is said refers to this life before it is on disk.
        let sequence = journal.take_staged();
        journal.flusher.commit_blocking(&journal.tree, sequence).map_err(Error::Store)?;
        mark(&begun)?;
        return Ok((journal, Vec::new()));
    }
    let left_open = read(&mut journal)?;
    if !has_begun {
        // A crash came between, or an earlier version has written it. If the disk is full, it is as good as it was without.
        if let Err(error) = mark(&begun) {
            tracing::warn!(reason = reason_of(&error), "a loss of the journal would not be noticed");
        }
    }
    Ok((journal, left_open))
}

fn mark(begun: &Path) -> Result<(), Error> {
    write_private(begun, b"").map_err(|source| Error::Begun { path: begun.to_owned(), source })
}

fn read(journal: &mut Journal) -> Result<Vec<LeftOpen>, Error> {
    let mut life = None;
    let mut left_open = Vec::new();
    let mut tombstones: Vec<(Position, AttemptKey)> = Vec::new();
    for pair in journal.tree.clone().range::<&[u8]>(..) {
        let (key, value) = pair.map_err(refused)?;
        let place = Place::of(&key).map_err(|broken| journal.damaged(&key, broken))?;
        match place {
            Place::Life => life = Some(value_of::<Life>(journal, &key, &value)?),
            Place::ControlPlane => journal.control_plane = Some(value_of(journal, &key, &value)?),
            Place::Generation(target) => {
                let generation = value_of(journal, &key, &value)?;
                journal.generations.insert(target, generation);
            }
            Place::Attempt(attempt) => {
                let state = match value_of::<Attempt>(journal, &key, &value)? {
                    Attempt::Open { dispatch, started_at } => {
                        left_open.push(LeftOpen { dispatch: (*dispatch).clone(), started_at });
                        State::Open { dispatch, started_at }
                    }
                    Attempt::Finished(report) => State::Finished(report),
                };
                // All that was read is durable; the exact position does not matter any more.
                journal.attempts.insert(attempt, Entry { accepted: Position(0), state });
            }
            Place::Tombstone(attempt) => {
                let tombstone: Tombstone = value_of(journal, &key, &value)?;
                tombstones.push((tombstone.position, attempt));
            }
        }
    }
    let Some(life) = life else { return Err(journal.damaged(&LIFE_KEY, Broken::Key)) };
    tombstones.sort_unstable();
    // One beside its attempt is of an acknowledgement that a crash cut off. The control plane gives it again.
    let forgotten =
        tombstones.into_iter().map(|(_, key)| key).filter(|key| !journal.attempts.contains_key(key));
    journal.tombstones = forgotten.collect();
    journal.incarnation = life.incarnation;
    (journal.position, journal.durable) = (life.position, life.position);
    for entry in journal.attempts.values_mut() {
        entry.accepted = life.position;
    }
    Ok(left_open)
}

fn value_of<T: DeserializeOwned>(journal: &Journal, key: &[u8], value: &[u8]) -> Result<T, Error> {
    codec::decode(key, value).map_err(|broken| journal.damaged(key, broken))
}

/// A store that says that it is damaged gets the journal's remedy.
fn refused(error: stella_durable::Error) -> Error {
    if let stella_durable::Error::Corrupt { dir, detail } = error {
        Error::Damaged { dir, what: detail }
    } else {
        error.into()
    }
}

/// What a key stands for.
enum Place {
    Life,
    ControlPlane,
    Generation(TargetId),
    Attempt(AttemptKey),
    Tombstone(AttemptKey),
}

impl Place {
    fn of(key: &[u8]) -> Result<Self, Broken> {
        if key == LIFE_KEY {
            return Ok(Self::Life);
        }
        if key == CONTROL_PLANE_KEY {
            return Ok(Self::ControlPlane);
        }
        let (&table, rest) = key.split_first().ok_or(Broken::Key)?;
        let (id, rest) = rest.split_first_chunk::<16>().ok_or(Broken::Key)?;
        let id = Uuid::from_bytes(*id);
        if table == Table::Generation as u8 && rest.is_empty() {
            return Ok(Self::Generation(TargetId(id)));
        }
        let attempt = AttemptNumber(u32::from_be_bytes(rest.try_into().map_err(|_| Broken::Key)?));
        let key = AttemptKey { task: TaskId(id), attempt };
        if table == Table::Attempt as u8 {
            Ok(Self::Attempt(key))
        } else if table == Table::Tombstone as u8 {
            Ok(Self::Tombstone(key))
        } else {
            Err(Broken::Key)
        }
    }
}
