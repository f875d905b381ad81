//! Records of what has left memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{CONFIG, lead, tamper, tenant};
use stella_journal::{ArchiveRecord, Journal, JournalConfig, Shelf, SledJournal, Stream, verify};
use stella_protocol::id::TenantId;
use uuid::Uuid;

const fn shelf(tenant: u128, kind: u8, within: u128) -> Shelf {
    Shelf { tenant: TenantId(Uuid::from_u128(tenant)), kind, within: Uuid::from_u128(within) }
}

fn record(shelf: Shelf, id: u128, value: &[u8]) -> ArchiveRecord {
    ArchiveRecord { shelf, id: Uuid::from_u128(id), value: value.to_vec() }
}

fn ids(journal: &SledJournal, shelf: Shelf, after: Option<u128>, limit: usize) -> Vec<u128> {
    let found = journal.archive().list(shelf, after.map(Uuid::from_u128), limit).unwrap();
    found.into_iter().map(|(id, _)| id.as_u128()).collect()
}

fn ids_back(journal: &SledJournal, shelf: Shelf, before: Option<u128>, limit: usize) -> Vec<u128> {
    let found = journal.archive().list_back(shelf, before.map(Uuid::from_u128), limit).unwrap();
    found.into_iter().map(|(id, _)| id.as_u128()).collect()
}

/// Larger than a chunk, and than what is written between two barriers.
fn large() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect()
}

#[test]
fn records_are_there_after_reopening_in_order_and_on_their_shelves() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    let before = journal.barriers();
    journal.archive().store(&[]).unwrap();
    assert_eq!(journal.barriers(), before, "nothing needs no barrier");
    let records = [
        record(shelf(1, 1, 0), 3, b"three"),
        record(shelf(1, 1, 0), 1, b"one"),
        record(shelf(1, 1, 0), 2, &large()),
        record(shelf(1, 1, 7), 9, b""),
        record(shelf(1, 2, 0), 5, b"of another kind"),
        record(shelf(2, 1, 0), 4, b"of another tenant"),
    ];
    journal.archive().store(&records).unwrap();
    assert!(journal.barriers() > before);
    drop(journal);

    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    for record in &records {
        let found = journal.archive().load(record.shelf, record.id).unwrap();
        assert!(found.as_ref() == Some(&record.value), "{}", record.id);
    }
    assert_eq!(journal.archive().load(shelf(1, 1, 0), Uuid::from_u128(9)).unwrap(), None);
    assert_eq!(ids(&journal, shelf(1, 1, 0), None, 10), [1, 2, 3]);
    assert_eq!(ids(&journal, shelf(1, 1, 0), None, 2), [1, 2]);
    assert_eq!(ids(&journal, shelf(1, 1, 0), Some(1), 10), [2, 3]);
    assert_eq!(ids(&journal, shelf(1, 1, 0), Some(2), 10), [3], "nothing of 2 is behind 2");
    assert_eq!(ids(&journal, shelf(1, 1, 7), None, 10), [9]);
    assert_eq!(ids_back(&journal, shelf(1, 1, 0), None, 10), [3, 2, 1]);
    assert_eq!(ids_back(&journal, shelf(1, 1, 0), None, 2), [3, 2], "all chunks of 2, and none of 1");
    assert_eq!(ids_back(&journal, shelf(1, 1, 0), Some(3), 1), [2]);
    assert_eq!(ids_back(&journal, shelf(1, 1, 0), Some(2), 10), [1]);
    assert_eq!(ids_back(&journal, shelf(1, 1, 0), Some(1), 10), []);
    assert_eq!(ids_back(&journal, shelf(3, 1, 0), None, 10), []);
    let newest = journal.archive().list_back(shelf(1, 1, 0), Some(Uuid::from_u128(3)), 1).unwrap();
    assert!(newest[0].1 == large(), "chunks are put together in their order");
    assert_eq!(ids(&journal, shelf(3, 1, 0), None, 10), []);
    assert!(!journal.heads().contains_key(&tenant(1)) && !journal.heads().contains_key(&Stream::System));
}

#[test]
fn a_record_that_is_written_again_has_nothing_of_the_longer_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    let place = shelf(1, 1, 0);
    journal.archive().store(&[record(place, 1, &large()), record(place, 2, b"next")]).unwrap();
    journal.archive().store(&[record(place, 1, b"short")]).unwrap();
    assert_eq!(journal.archive().load(place, Uuid::from_u128(1)).unwrap(), Some(b"short".to_vec()));
    let all = journal.archive().list(place, None, 10).unwrap();
    assert_eq!(all.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), [5, 4]);
    drop(journal);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.archived, report.is_whole()), (2, true), "{report:?}");
}

#[test]
fn a_damaged_record_is_told_and_never_read() {
    for (name, expected) in [("changed", "checksum"), ("cut", "missing"), ("version", "newer software")] {
        let dir = tempfile::tempdir().unwrap();
        let journal = lead(dir.path());
        let place = shelf(1, 1, 0);
        journal.archive().store(&[record(place, 1, &large()), record(place, 2, b"next")]).unwrap();
        drop(journal);
        // The second chunk of the first record.
        tamper(dir.path(), "archive", |key, value| {
            let is_it = key[48] == 1 && key[52] == 1;
            match name {
                "cut" if is_it => None,
                "changed" if is_it => Some([&[value[0], value[1], !value[2]], &value[3..]].concat()),
                "version" if is_it => {
                    let newer = [&[9], &value[1..value.len() - 4]].concat();
                    let crc = crc32c::crc32c(&newer).to_be_bytes();
                    Some([newer, crc.to_vec()].concat())
                }
                _ => Some(value.to_vec()),
            }
        });
        let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
        let error = journal.archive().load(place, Uuid::from_u128(1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(journal.archive().load(place, Uuid::from_u128(2)).unwrap(), Some(b"next".to_vec()));
        assert!(journal.archive().list(place, None, 10).is_err());
        drop(journal);
        let report = verify(dir.path()).unwrap();
        assert_eq!((report.archived, report.problems.len()), (1, 1), "{name}: {report:?}");
    }
}

#[test]
fn a_full_disk_refuses_records_and_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig { reserve_bytes: u64::MAX, ..CONFIG };
    let journal = SledJournal::open(dir.path(), config).unwrap();
    let error = journal.archive().store(&[record(shelf(1, 1, 0), 1, b"x")]).unwrap_err();
    assert!(!error.is_fatal(), "{error}");
    assert_eq!(ids(&journal, shelf(1, 1, 0), None, 10), []);
}
