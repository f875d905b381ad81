//! The archive, in a tree of its own, `archive`. Every value ends with its CRC-32C.
//!
//! | key | value | changes |
//! |---|---|---|
//! | tenant (16), kind, within (16), id (16), number (4) | a chunk of a record: version, whether it is the last (0 or 1), bytes | when the record is written again |
//!
//! Why chunks: as with snapshots, sled handles large values badly. What follows a last chunk is of an earlier, longer
//! record of the same id and is not looked at.

use stella_durable::{Batch, Error, Pairs, Store, Tree};
use uuid::Uuid;

use crate::port::{AppendError, Archive, ArchiveRecord, Damage, Problem, ReadError, Shelf};
use crate::record::{RECORD_BYTES_MAX, VERSION, seal, unseal};

/// As large as records, for the same reason.
const CHUNK_BYTES: usize = RECORD_BYTES_MAX;
/// How much is written between two barriers, in bytes, so that an append never waits for more than that.
const GROUP_BYTES: usize = 1 << 20;
/// A key without the number of the chunk.
const PLACE_BYTES: usize = 16 + 1 + 16 + 16;

/// The tree of the archive. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveStore {
    store: Store,
    tree: Tree,
}

impl ArchiveStore {
    pub(crate) fn new(store: Store) -> Result<Self, Error> {
        let tree = store.tree("archive")?;
        Ok(Self { store, tree })
    }

    fn write(&self, records: &[ArchiveRecord]) -> Result<(), Error> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        for record in records {
            let count = record.value.len().div_ceil(CHUNK_BYTES).max(1);
            for index in 0..count {
                let rest = &record.value[index * CHUNK_BYTES..];
                let chunk = &rest[..rest.len().min(CHUNK_BYTES)];
                let value = [&[VERSION, u8::from(index + 1 == count)][..], chunk].concat();
                bytes += PLACE_BYTES + value.len();
                batch.insert(key(record.shelf, record.id, index), seal(value));
            }
            if bytes >= GROUP_BYTES {
                self.store.apply(&self.tree, std::mem::take(&mut batch))?;
                self.store.barrier()?;
                bytes = 0;
            }
        }
        if bytes > 0 {
            self.store.apply(&self.tree, batch)?;
            self.store.barrier()?;
        }
        Ok(())
    }

    /// Walks over all records and tells how many are whole, and what is wrong with the others.
    pub(crate) fn verify(&self, mut note: impl FnMut(Damage)) -> u64 {
        let mut whole = 0;
        for record in (Records { pairs: self.tree.range::<Vec<u8>>(..), next: None }) {
            match record {
                Ok(_) => whole += 1,
                Err(ReadError::Damaged(damage)) => note(damage),
                Err(ReadError::Storage(error)) => {
                    note(Damage::of_journal(Problem::Unreadable(error.to_string())));
                    break;
                }
            }
        }
        whole
    }
}

impl Archive for ArchiveStore {
    fn store(&self, records: &[ArchiveRecord]) -> Result<(), AppendError> {
        if records.is_empty() {
            return Ok(());
        }
        self.store.check_reserve()?;
        Ok(self.write(records)?)
    }

    fn load(&self, shelf: Shelf, id: Uuid) -> Result<Option<Vec<u8>>, ReadError> {
        let pairs = self.tree.range(key(shelf, id, 0)..=key(shelf, id, usize::MAX));
        let found = Records { pairs, next: None }.next().transpose()?;
        Ok(found.map(|(_, value)| value))
    }

    fn list(
        &self,
        shelf: Shelf,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(Uuid, Vec<u8>)>, ReadError> {
        let from = match after {
            None => key(shelf, Uuid::nil(), 0),
            // The smallest key behind all chunks of that one.
            Some(after) => [key(shelf, after, usize::MAX), vec![0]].concat(),
        };
        let pairs = self.tree.range(from..=key(shelf, Uuid::max(), usize::MAX));
        Records { pairs, next: None }.take(limit).collect()
    }

    fn list_back(
        &self,
        shelf: Shelf,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<(Uuid, Vec<u8>)>, ReadError> {
        let (start, end) = (
            key(shelf, Uuid::nil(), 0),
            match before {
                None => key(shelf, Uuid::max(), usize::MAX),
                // Not a chunk of that one itself; no id has a number behind its own chunks.
                Some(before) => key(shelf, before, 0),
            },
        );
        // Where the records begin: chunks can only be put together forwards.
        let (mut from, mut last, mut seen) = (None, None, 0);
        for pair in self.tree.range(start..end.clone()).rev() {
            let (key, _) = pair?;
            let (place, _) = split(&key);
            if last != Some(place) {
                if seen == limit {
                    break;
                }
                (last, seen) = (Some(place), seen + 1);
            }
            from = Some(key.to_vec());
        }
        let Some(from) = from else { return Ok(Vec::new()) };
        let pairs = self.tree.range(from..end);
        let mut found = Records { pairs, next: None }.collect::<Result<Vec<_>, _>>()?;
        found.reverse();
        Ok(found)
    }
}

/// Puts chunks together. A record that is damaged is told once, and the next one follows.
struct Records {
    pairs: Pairs,
    /// The first chunk of the next record, which was read to find the end of the one before.
    next: Option<Pair>,
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

impl Iterator for Records {
    type Item = Result<(Uuid, Vec<u8>), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.next.take().map(Ok).or_else(|| self.pair())? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let (place, mut number) = split(&first.0);
        let id = place[PLACE_BYTES - 16..].try_into().map(Uuid::from_bytes).unwrap_or_default();
        let damaged = |what| Err(Damage::of_journal(Problem::Archive(id, what)).into());
        let (mut value, mut result) = (Vec::new(), None);
        let mut wanted = 0;
        let mut chunk = first.1;
        loop {
            if result.is_none() {
                match decode(&chunk) {
                    Err(what) => result = Some(damaged(what)),
                    Ok(_) if number != wanted => result = Some(damaged("a part of it is missing")),
                    Ok((is_last, bytes)) => {
                        value.extend_from_slice(bytes);
                        wanted += 1;
                        if is_last {
                            result = Some(Ok((id, std::mem::take(&mut value))));
                        }
                    }
                }
            }
            match self.pair() {
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok((key, bytes))) if split(&key).0 == place => {
                    number = split(&key).1;
                    chunk = bytes;
                }
                other => {
                    self.next = other.and_then(Result::ok);
                    return Some(result.unwrap_or_else(|| damaged("its end is missing")));
                }
            }
        }
    }
}

impl Records {
    fn pair(&mut self) -> Option<Result<Pair, ReadError>> {
        let pair = self.pairs.next()?;
        Some(pair.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(ReadError::from))
    }
}

fn key(shelf: Shelf, id: Uuid, number: usize) -> Vec<u8> {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let mut key = Vec::with_capacity(PLACE_BYTES + 4);
    key.extend(shelf.tenant.0.as_bytes());
    key.push(shelf.kind);
    key.extend(shelf.within.as_bytes());
    key.extend(id.as_bytes());
    key.extend(number.to_be_bytes());
    key
}

/// Whose chunk it is, and the number of it. A key of another length is nobody's: its number is none that is looked for.
fn split(key: &[u8]) -> ([u8; PLACE_BYTES], u32) {
    let mut place = [0; PLACE_BYTES];
    let Some((start, number)) = key.split_last_chunk::<4>().filter(|(start, _)| start.len() == PLACE_BYTES)
    else {
        return (place, u32::MAX);
    };
    place.copy_from_slice(start);
    (place, u32::from_be_bytes(*number))
}

fn decode(value: &[u8]) -> Result<(bool, &[u8]), &'static str> {
    match unseal(value).map_err(|_| "its checksum is wrong")? {
        [VERSION, last @ (0 | 1), bytes @ ..] => Ok((*last == 1, bytes)),
        [VERSION, ..] | [] => Err("it makes no sense"),
        _ => Err("a newer software wrote it"),
    }
}
