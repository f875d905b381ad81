//! Snapshots in a tree of their own, `snapshots`. Numbers are big-endian, every value ends with its CRC-32C.
//!
//! | key | value | changes |
//! |---|---|---|
//! | `00` id (8) | manifest: version, time (8), length (8), SHA-256 of the payload (32), count of streams (4), and for each the stream, position (8) and hash (32) | never |
//! | `01` id (8), number (4) | a chunk of the payload | never |
//!
//! A snapshot exists when its manifest does, and that is written after a barrier behind the chunks. Ids ascend.
//!
//! Why chunks: sled handles large values badly, and an append that comes in between must not wait for all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use stella_durable::{Batch, Error, Store, Tree};
use stella_protocol::digest::Digest;
use stella_protocol::id::Position;
use stella_protocol::time::Timestamp;

use crate::port::{Head, Problem, SNAPSHOT_BYTES_MAX, Snapshot, Stream};
use crate::record::{Fields, RECORD_BYTES_MAX, VERSION, put_stream, seal, unseal};

const MANIFEST_PREFIX: u8 = 0;
const CHUNK_PREFIX: u8 = 1;
/// As large as records, for the same reason.
const CHUNK_BYTES: usize = RECORD_BYTES_MAX;
/// How many chunks share a barrier: about 1 MiB, so an append never waits for more than that.
const CHUNKS_PER_BARRIER: usize = 146;
/// How many snapshots are kept: the newest and one to fall back on.
const KEPT: usize = 2;

/// The tree of snapshots. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    store: Store,
    tree: Tree,
    /// Held while a snapshot is saved.
    saving: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Manifest {
    at: Timestamp,
    length: usize,
    sha256: [u8; 32],
    heads: BTreeMap<Stream, Head>,
}

impl SnapshotStore {
    pub(crate) fn new(store: Store) -> Result<Self, Error> {
        let tree = store.tree("snapshots")?;
        Ok(Self { store, tree, saving: Arc::default() })
    }

    /// Saves a snapshot durably and removes all but the last ones.
    pub(crate) fn save(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let _saving = self.saving.lock();
        let ids = self.ids()?;
        let id = ids.last().map_or(1, |last| last.saturating_add(1));
        for (group, chunks) in snapshot.payload.chunks(CHUNK_BYTES * CHUNKS_PER_BARRIER).enumerate() {
            let mut batch = Batch::default();
            for (index, chunk) in chunks.chunks(CHUNK_BYTES).enumerate() {
                batch.insert(chunk_key(id, group * CHUNKS_PER_BARRIER + index), seal(chunk.to_vec()));
            }
            self.store.apply(&self.tree, batch)?;
            self.store.barrier()?;
        }
        let mut batch = Batch::default();
        batch.insert(manifest_key(id), encode_manifest(snapshot));
        self.store.apply(&self.tree, batch)?;
        self.store.barrier()?;
        self.remove_old()
    }

    /// Where the streams end in the newest snapshot whose manifest is readable.
    pub(crate) fn newest_heads(&self) -> Result<Vec<(Stream, Position)>, Error> {
        for id in self.manifests()?.into_iter().rev() {
            if let Ok(manifest) = self.manifest(id)? {
                return Ok(manifest.heads.into_iter().map(|(stream, head)| (stream, head.next)).collect());
            }
        }
        Ok(Vec::new())
    }

    /// The ids of all snapshots, oldest first.
    pub(crate) fn manifests(&self) -> Result<Vec<u64>, Error> {
        self.tree.scan_prefix([MANIFEST_PREFIX]).map(|pair| pair.map(|(key, _)| id_of(&key))).collect()
    }

    /// A snapshot, if all of it is there.
    pub(crate) fn load(&self, id: u64) -> Result<Result<Snapshot, Problem>, Error> {
        let manifest = match self.manifest(id)? {
            Ok(manifest) => manifest,
            Err(problem) => return Ok(Err(problem)),
        };
        let damaged = |what| Ok(Err(Problem::Snapshot(id, what)));
        let mut payload = Vec::new();
        for index in 0..manifest.length.div_ceil(CHUNK_BYTES) {
            let Some(value) = self.tree.get(chunk_key(id, index))? else {
                return damaged("a chunk is missing");
            };
            let Ok(chunk) = unseal(&value) else { return damaged("the checksum of a chunk is wrong") };
            payload.extend_from_slice(chunk);
        }
        if payload.len() != manifest.length || <[u8; 32]>::from(Sha256::digest(&payload)) != manifest.sha256 {
            return damaged("its content is not what was saved");
        }
        Ok(Ok(Snapshot { heads: manifest.heads, at: manifest.at, payload }))
    }

    fn manifest(&self, id: u64) -> Result<Result<Manifest, Problem>, Error> {
        let value = self.tree.get(manifest_key(id))?;
        let manifest =
            value.ok_or(Problem::Malformed("it is gone")).and_then(|value| decode_manifest(&value));
        Ok(manifest.map_err(|problem| {
            let what = if problem == Problem::Checksum {
                "the checksum of its manifest is wrong"
            } else if matches!(problem, Problem::Version(_)) {
                "a newer software wrote it"
            } else {
                "its manifest makes no sense"
            };
            Problem::Snapshot(id, what)
        }))
    }

    /// All ids that have a manifest or chunks; a save that was cut off leaves chunks without a manifest.
    fn ids(&self) -> Result<BTreeSet<u64>, Error> {
        let mut ids: BTreeSet<u64> = self.manifests()?.into_iter().collect();
        let mut from = chunk_key(0, 0);
        while let Some(pair) = self.tree.range(from..vec![CHUNK_PREFIX + 1]).next() {
            let id = id_of(&pair?.0);
            ids.insert(id);
            let Some(after) = id.checked_add(1) else { break };
            from = chunk_key(after, 0);
        }
        Ok(ids)
    }

    fn remove_old(&self) -> Result<(), Error> {
        let manifests = self.manifests()?;
        let kept = &manifests[manifests.len().saturating_sub(KEPT)..];
        for id in self.ids()?.into_iter().filter(|id| !kept.contains(id)) {
            let mut batch = Batch::default();
            batch.remove(&manifest_key(id)[..]);
            self.store.apply(&self.tree, batch)?;
            let mut keys = Vec::new();
            for pair in self.tree.scan_prefix([&[CHUNK_PREFIX][..], &id.to_be_bytes()].concat()) {
                keys.push(pair?.0);
            }
            for group in keys.chunks(CHUNKS_PER_BARRIER) {
                let mut batch = Batch::default();
                group.iter().for_each(|key| batch.remove(key));
                self.store.apply(&self.tree, batch)?;
            }
        }
        self.store.barrier()
    }
}

fn manifest_key(id: u64) -> Vec<u8> {
    [&[MANIFEST_PREFIX][..], &id.to_be_bytes()].concat()
}

fn chunk_key(id: u64, index: usize) -> Vec<u8> {
    let index = u32::try_from(index).expect("a snapshot of at most 2 GiB has less than 2^32 chunks");
    [&[CHUNK_PREFIX][..], &id.to_be_bytes(), &index.to_be_bytes()].concat()
}

/// The id in a key of either kind; 0, which is never given, if the key is too short to have one.
fn id_of(key: &[u8]) -> u64 {
    key.get(1..9).and_then(|id| id.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn encode_manifest(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(snapshot.at.0.to_be_bytes());
    bytes.extend((snapshot.payload.len() as u64).to_be_bytes());
    bytes.extend(Sha256::digest(&snapshot.payload));
    let count =
        u32::try_from(snapshot.heads.len()).expect("each stream takes memory, so there are less than 2^32");
    bytes.extend(count.to_be_bytes());
    for (&stream, head) in &snapshot.heads {
        put_stream(&mut bytes, stream);
        bytes.extend(head.next.0.to_be_bytes());
        bytes.extend(head.hash.0);
    }
    seal(bytes)
}

fn decode_manifest(value: &[u8]) -> Result<Manifest, Problem> {
    let mut fields = Fields::open(value)?;
    let at = Timestamp(fields.u64()?);
    let length = usize::try_from(fields.u64()?).unwrap_or(usize::MAX);
    if length > SNAPSHOT_BYTES_MAX {
        return Err(Problem::Malformed("too large"));
    }
    let sha256 = fields.array()?;
    let mut heads = BTreeMap::new();
    for _ in 0..fields.u32()? {
        let stream = fields.stream()?;
        heads.insert(stream, Head { next: Position(fields.u64()?), hash: Digest(fields.array()?) });
    }
    fields.end()?;
    Ok(Manifest { at, length, sha256, heads })
}
