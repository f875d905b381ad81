//! The bytes on the disk: they must never change, and any bytes must be safe to read.

mod common;

use common::tenant;
use proptest::prelude::*;
use stella_journal::record::{Record, StoredHead, decode_head, decode_record, encode_head, encode_record};
use stella_journal::{Head, Problem, Stream};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Position};
use stella_protocol::time::Timestamp;

const HEAD: Head = Head { next: Position(7), hash: Digest([0xab; 32]) };

#[test]
fn the_bytes_of_a_record_and_of_a_head_are_fixed() {
    let events = [b"{}".to_vec(), b"xyz".to_vec()];
    let record = encode_record(tenant(0x1122), HEAD, Timestamp(1_700_000_000_000), Epoch(3), &events);
    let expected = concat!(
        "01",                                                               // version
        "0000000000000003",                                                 // epoch
        "0000018bcfe56800",                                                 // time
        "0100000000000000000000000000001122",                               // stream
        "0000000000000007",                                                 // first position
        "00000002",                                                         // count
        "abababababababababababababababababababababababababababababababab", // hash before
        "000000027b7d",
        "0000000378797a",
        "a3cf4b56", // checksum
    );
    assert_eq!(hex::encode(record), expected);
    let stored = StoredHead { head: HEAD, at: Timestamp(1_700_000_000_000) };
    let expected = concat!(
        "01",
        "0000000000000007",
        "abababababababababababababababababababababababababababababababab",
        "0000018bcfe56800",
        "e393f969",
    );
    assert_eq!(hex::encode(encode_head(stored)), expected);
    assert_eq!(decode_head(&encode_head(stored)), Ok(stored));
}

#[test]
fn a_newer_version_and_contradictions_are_named() {
    let reseal = |mut bytes: Vec<u8>| {
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    };
    let mut record = encode_record(Stream::System, HEAD, Timestamp(1), Epoch(1), &[b"a".to_vec()]);
    record.truncate(record.len() - 4);
    let mut newer = record.clone();
    newer[0] = 2;
    assert_eq!(decode_record(&reseal(newer)), Err(Problem::Version(2)));
    let count_at = 1 + 8 + 8 + 1 + 8;
    for (count, problem) in [(0, "impossible number of events"), (u32::MAX, "too short"), (2, "too short")] {
        let mut wrong = record.clone();
        wrong[count_at..count_at + 4].copy_from_slice(&u32::to_be_bytes(count));
        assert_eq!(decode_record(&reseal(wrong)), Err(Problem::Malformed(problem)));
    }
    record.push(0);
    assert_eq!(decode_record(&reseal(record)), Err(Problem::Malformed("too long")));
}

proptest! {
    #[test]
    fn a_record_comes_back_and_any_changed_bit_is_noticed(
        number in any::<Option<u128>>(),
        next in 0..u64::MAX / 2,
        (at, epoch, hash) in any::<(u64, u64, [u8; 32])>(),
        events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20),
        flip in any::<prop::sample::Index>(),
    ) {
        let stream = number.map_or(Stream::System, tenant);
        let head = Head { next: Position(next), hash: Digest(hash) };
        let mut bytes = encode_record(stream, head, Timestamp(at), Epoch(epoch), &events);
        let expected = Record {
            stream, first: head.next, at: Timestamp(at), epoch: Epoch(epoch), previous: head.hash, events,
        };
        prop_assert_eq!(decode_record(&bytes), Ok(expected));
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(decode_record(&bytes), Err(Problem::Checksum));
        bytes.truncate(bit / 8);
        prop_assert!(decode_record(&bytes).is_err());
    }

    #[test]
    fn any_bytes_with_a_right_checksum_are_safe_to_read(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        if let Ok(record) = decode_record(&bytes) {
            prop_assert!(!record.events.is_empty());
        }
        prop_assert!(decode_head(&bytes).is_err() || bytes.len() == 53);
    }
}
