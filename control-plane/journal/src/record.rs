//! The journal's bytes: keys and values in the tree `journal`. Numbers are big-endian.
//!
//! Ordinals and layouts are never reused or changed; a new layout gets a new version. Every value ends with the
//! CRC-32C of all the bytes before it, in every version.
//!
//! | key | value | changes |
//! |---|---|---|
//! | `00 00` | identity: version, incarnation (16) | never |
//! | `00 01` | epoch: version, epoch (8) | at each start of a leader |
//! | `01` stream | head: version, next position (8), hash (32), time of the newest event (8) | with each append, after its record |
//! | `02` stream, first position (8) | record, see below | never |
//!
//! A stream is `00` for the system's, `01` and the 16 bytes of its id for a tenant's.
//!
//! A record is a run of events of one stream from one append: version, epoch (8), time (8), stream, first position (8),
//! count (4), hash of the stream before it (32), and for each event its length (4) and bytes.
//!
//! The hash of a stream after a record is SHA-256 of the hash before it and the record's bytes. The hash of an empty
//! stream is SHA-256 of `stella-journal`, the incarnation and the stream, so records cannot move between journals.

use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position, TenantId};
use stella_protocol::time::Timestamp;
use uuid::Uuid;

use crate::port::{Head, Problem, Stream};

/// The version of all layouts in this file.
pub const VERSION: u8 = 1;
/// How large a record gets unless a single event is larger, in bytes. sled keeps up to 17 pairs in a page and moves
/// pages of more than 127 KiB to files of their own, which would cost each append a second barrier.
pub const RECORD_BYTES_MAX: usize = 7 << 10;

/// The key of the identity.
pub const IDENTITY_KEY: [u8; 2] = [0, 0];
/// The key of the epoch.
pub const EPOCH_KEY: [u8; 2] = [0, 1];
/// The first byte of every head's key.
pub const HEAD_PREFIX: u8 = 1;
/// The first byte of every record's key.
pub const RECORD_PREFIX: u8 = 2;

const CRC_BYTES: usize = 4;

/// A decoded record. It is consistent in itself; whether it is in its place is the reader's to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its stream.
    pub stream: Stream,
    /// The position of its first event.
    pub first: Position,
    /// When its events were decided.
    pub at: Timestamp,
    /// The leader's term that wrote it.
    pub epoch: Epoch,
    /// The hash of the stream before it.
    pub previous: Digest,
    /// The events' bytes; at least one.
    pub events: Vec<Vec<u8>>,
}

/// A head as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredHead {
    /// The end of the stream.
    pub head: Head,
    /// The time of its newest event.
    pub at: Timestamp,
}

impl Record {
    /// The position after its last event.
    #[must_use]
    pub fn next(&self) -> Position {
        Position(self.first.0.saturating_add(self.events.len() as u64))
    }
}

/// How many bytes an event takes in a record.
#[must_use]
pub const fn event_size(event: &[u8]) -> usize {
    4 + event.len()
}

/// How many bytes of a record are not events, at most.
pub const RECORD_OVERHEAD: usize = 1 + 8 + 8 + 17 + 8 + 4 + 32 + CRC_BYTES;

/// The bytes of a record. The caller keeps the number of events and their sizes below 2^32.
#[must_use]
pub fn encode_record(stream: Stream, head: Head, at: Timestamp, epoch: Epoch, events: &[Vec<u8>]) -> Vec<u8> {
    let size = RECORD_OVERHEAD + events.iter().map(|event| event_size(event)).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    bytes.push(VERSION);
    bytes.extend(epoch.0.to_be_bytes());
    bytes.extend(at.0.to_be_bytes());
    put_stream(&mut bytes, stream);
    bytes.extend(head.next.0.to_be_bytes());
    put_length(&mut bytes, events.len());
    bytes.extend(head.hash.0);
    for event in events {
        put_length(&mut bytes, event.len());
        bytes.extend(event);
    }
    seal(bytes)
}

/// Reads a record.
pub fn decode_record(value: &[u8]) -> Result<Record, Problem> {
    let mut fields = Fields::open(value)?;
    let (epoch, at) = (Epoch(fields.u64()?), Timestamp(fields.u64()?));
    let stream = fields.stream()?;
    let first = Position(fields.u64()?);
    let count = fields.u32()?;
    let previous = Digest(fields.array()?);
    // The position after the last event must exist too.
    if count == 0 || first.0.checked_add(u64::from(count)).is_none_or(|next| next == u64::MAX) {
        return Err(Problem::Malformed("impossible number of events"));
    }
    // The count is not trusted with an allocation: each event takes at least its length's four bytes.
    let mut events = Vec::with_capacity(fields.rest.len().min(count as usize * 4) / 4);
    for _ in 0..count {
        let length = fields.u32()? as usize;
        events.push(fields.take(length)?.to_vec());
    }
    fields.end()?;
    Ok(Record { stream, first, at, epoch, previous, events })
}

/// The bytes of a head.
#[must_use]
pub fn encode_head(stored: StoredHead) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(53);
    bytes.push(VERSION);
    bytes.extend(stored.head.next.0.to_be_bytes());
    bytes.extend(stored.head.hash.0);
    bytes.extend(stored.at.0.to_be_bytes());
    seal(bytes)
}

/// Reads a head.
pub fn decode_head(value: &[u8]) -> Result<StoredHead, Problem> {
    let mut fields = Fields::open(value)?;
    let next = Position(fields.u64()?);
    let hash = Digest(fields.array()?);
    let at = Timestamp(fields.u64()?);
    fields.end()?;
    Ok(StoredHead { head: Head { next, hash }, at })
}

pub(crate) fn encode_identity(incarnation: Incarnation) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(incarnation.0.as_bytes());
    seal(bytes)
}

pub(crate) fn decode_identity(value: &[u8]) -> Result<Incarnation, Problem> {
    let mut fields = Fields::open(value)?;
    let incarnation = Incarnation(Uuid::from_bytes(fields.array()?));
    fields.end()?;
    Ok(incarnation)
}

pub(crate) fn encode_epoch(epoch: Epoch) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(epoch.0.to_be_bytes());
    seal(bytes)
}

pub(crate) fn decode_epoch(value: &[u8]) -> Result<Epoch, Problem> {
    let mut fields = Fields::open(value)?;
    let epoch = Epoch(fields.u64()?);
    fields.end()?;
    Ok(epoch)
}

pub(crate) fn head_key(stream: Stream) -> Vec<u8> {
    let mut key = vec![HEAD_PREFIX];
    put_stream(&mut key, stream);
    key
}

pub(crate) fn decode_head_key(key: &[u8]) -> Result<Stream, Problem> {
    let mut fields = Fields { rest: key.strip_prefix(&[HEAD_PREFIX]).ok_or(Problem::Misplaced)? };
    let stream = fields.stream()?;
    fields.end()?;
    Ok(stream)
}

pub(crate) fn record_key(stream: Stream, first: Position) -> Vec<u8> {
    let mut key = vec![RECORD_PREFIX];
    put_stream(&mut key, stream);
    key.extend(first.0.to_be_bytes());
    key
}

pub(crate) fn decode_record_key(key: &[u8]) -> Result<(Stream, Position), Problem> {
    let mut fields = Fields { rest: key.strip_prefix(&[RECORD_PREFIX]).ok_or(Problem::Misplaced)? };
    let (stream, first) = (fields.stream()?, Position(fields.u64()?));
    fields.end()?;
    Ok((stream, first))
}

/// The hash of a stream that has no events.
pub(crate) fn hash_of_nothing(incarnation: Incarnation, stream: Stream) -> Digest {
    let mut bytes = b"stella-journal".to_vec();
    bytes.extend(incarnation.0.as_bytes());
    put_stream(&mut bytes, stream);
    Digest(Sha256::digest(&bytes).into())
}

/// The hash of a stream after a record.
pub(crate) fn hash_after(previous: Digest, record: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update(previous.0).chain_update(record).finalize().into())
}

/// Ends a value with its checksum.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

/// A value without its checksum, if that is right.
pub(crate) fn unseal(value: &[u8]) -> Result<&[u8], Problem> {
    let (body, crc) = value.split_last_chunk::<CRC_BYTES>().ok_or(Problem::Checksum)?;
    if crc32c::crc32c(body) == u32::from_be_bytes(*crc) { Ok(body) } else { Err(Problem::Checksum) }
}

pub(crate) fn put_stream(bytes: &mut Vec<u8>, stream: Stream) {
    match stream {
        Stream::System => bytes.push(0),
        Stream::Tenant(tenant) => {
            bytes.push(1);
            bytes.extend(tenant.0.as_bytes());
        }
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("appends are limited to much less than 2^32 bytes");
    bytes.extend(length.to_be_bytes());
}

/// What is still to be read of a value.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Checks the checksum and the version.
    pub(crate) fn open(value: &'a [u8]) -> Result<Self, Problem> {
        match unseal(value)?.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest }),
            Some((&other, _)) => Err(Problem::Version(other)),
            None => Err(Problem::Malformed("nothing there")),
        }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Problem::Malformed("too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Problem::Malformed("too short"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn stream(&mut self) -> Result<Stream, Problem> {
        match self.array::<1>()? {
            [0] => Ok(Stream::System),
            [1] => Ok(Stream::Tenant(TenantId(Uuid::from_bytes(self.array()?)))),
            [_] => Err(Problem::Malformed("unknown kind of stream")),
        }
    }

    pub(crate) fn end(&self) -> Result<(), Problem> {
        if self.rest.is_empty() { Ok(()) } else { Err(Problem::Malformed("too long")) }
    }
}
