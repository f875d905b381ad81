//! What is on disk. Ordinals are never reused, and a change of a record is a new version of its value.
//!
//! | key | value | changes |
//! |---|---|---|
//! | `01 01` | [`Life`]: the journal's incarnation and position | with every write |
//! | `01 02` | the control plane's journal mark, as it was seen last | at a welcome |
//! | `02`, target (16 bytes) | the newest generation that was accepted for the target | grows |
//! | `03`, task (16 bytes), attempt (u32 big endian) | [`Attempt`] | accepted, running, finished; removed when acknowledged |
//! | `04`, task (16 bytes), attempt (u32 big endian) | [`Tombstone`] | never; the oldest are removed |
//!
//! A value is `version: u8, crc32c of key and body: u32 little endian, body: bincode`. The key is part of the checksum, so
//! that a value under another's key is noticed.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stella_protocol::id::{AttemptKey, Incarnation, Position, TargetId};
use stella_protocol::limits::FRAME_BYTES_MAX;
use stella_protocol::message::{Dispatch, Finished};
use stella_protocol::time::Timestamp;

/// The version of every value that is written now.
const VERSION: u8 = 1;

const HEAD_BYTES: usize = 5;

/// The largest body: a dispatch comes in a frame, and nothing else is larger.
const BODY_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// The first byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    /// One value each: see [`LIFE_KEY`] and [`CONTROL_PLANE_KEY`].
    Meta = 1,
    /// By target.
    Generation = 2,
    /// By attempt.
    Attempt = 3,
    /// By attempt.
    Tombstone = 4,
}

pub(super) const LIFE_KEY: [u8; 2] = [Table::Meta as u8, 1];
pub(super) const CONTROL_PLANE_KEY: [u8; 2] = [Table::Meta as u8, 2];

/// Which life of the journal this is, and how far it has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    pub(super) position: Position,
}

/// An attempt that the control plane has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Attempt {
    /// Accepted; it may have started.
    Open {
        /// Without what may be secret: see [`super::without_secrets`].
        dispatch: Box<Dispatch>,
        /// Written some time after the start: it tells when, and its absence proves nothing.
        started_at: Option<Timestamp>,
    },
    /// Over.
    Finished(Finished),
}

/// An acknowledged attempt, to answer a late duplicate of its dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tombstone {
    /// When it was written: the smallest are removed first.
    pub(super) position: Position,
    pub(super) report: Finished,
}

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("a record is too short")]
    Short,
    #[error("a record has the unknown version {0}; was a newer agent here?")]
    Version(u8),
    #[error("a record's checksum is wrong")]
    Checksum,
    #[error("a record's body is not understood")]
    Body,
    #[error("a key is not understood")]
    Key,
}

pub(super) fn generation_key(target: TargetId) -> Vec<u8> {
    let mut key = vec![Table::Generation as u8];
    key.extend_from_slice(target.0.as_bytes());
    key
}

pub(super) fn attempt_key(table: Table, key: AttemptKey) -> Vec<u8> {
    let mut bytes = vec![table as u8];
    bytes.extend_from_slice(key.task.0.as_bytes());
    bytes.extend_from_slice(&key.attempt.0.to_be_bytes());
    bytes
}

pub(super) fn encode<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    let body = bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("records are plain data, which bincode always encodes");
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&checksum(key, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, Broken> {
    let (head, body) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(Broken::Short)?;
    let [version, sum @ ..] = *head;
    if version != VERSION {
        return Err(Broken::Version(version));
    }
    if u32::from_le_bytes(sum) != checksum(key, body) {
        return Err(Broken::Checksum);
    }
    let config = bincode::config::standard().with_limit::<BODY_BYTES_MAX>();
    match bincode::serde::decode_from_slice(body, config) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok(_) | Err(_) => Err(Broken::Body),
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let value = Life { incarnation: Incarnation(uuid::Uuid::from_u128(7)), position: Position(300) };
        let bytes = encode(&LIFE_KEY, &value);
        assert_eq!(decode::<Life>(&LIFE_KEY, &bytes), Ok(value));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Life>(&LIFE_KEY, &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_value_belongs_to_its_key() {
        let bytes = encode(&LIFE_KEY, &Position(1));
        assert_eq!(decode::<Position>(&CONTROL_PLANE_KEY, &bytes), Err(Broken::Checksum));
        assert_eq!(decode::<Position>(&LIFE_KEY, &bytes[..4]), Err(Broken::Short));
    }

    /// Bytes that nobody has written; the same for each number.
    fn noise(number: u64, length: usize) -> Vec<u8> {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn sealed(body: &[u8]) -> Vec<u8> {
        [&[VERSION][..], &checksum(&LIFE_KEY, body).to_le_bytes(), body].concat()
    }

    fn is_read_as_it_was_written<T>(bytes: &[u8])
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        match decode::<T>(&LIFE_KEY, bytes) {
            Ok(value) => assert_eq!(decode(&LIFE_KEY, &encode(&LIFE_KEY, &value)), Ok(value)),
            Err(broken) => assert_eq!(broken, Broken::Body),
        }
    }

    #[test]
    fn any_bytes_with_a_right_checksum_are_safe_to_read() {
        for number in 0..4_000 {
            let mut body = noise(number, usize::try_from(number % 200).unwrap());
            // Most begin as something that there is.
            if let Some(first) = body.first_mut() {
                *first %= 4;
            }
            let bytes = sealed(&body);
            is_read_as_it_was_written::<Life>(&bytes);
            is_read_as_it_was_written::<Attempt>(&bytes);
            is_read_as_it_was_written::<Tombstone>(&bytes);
        }
        // A text that is said to be longer than memory.
        let endless = [&[253][..], &[255; 8]].concat();
        assert_eq!(decode::<String>(&LIFE_KEY, &sealed(&endless)), Err(Broken::Body));
    }

    #[test]
    fn the_bytes_of_a_record_stay_as_they_are() {
        let value = Life { incarnation: Incarnation(uuid::Uuid::from_u128(1)), position: Position(2) };
        assert_eq!(hex::encode(encode(&LIFE_KEY, &value)), GOLDEN_LIFE);
    }

    /// Version, checksum, then length and bytes of the UUID, then the position.
    const GOLDEN_LIFE: &str = "015427b436100000000000000000000000000000000102";
}
