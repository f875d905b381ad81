//! Appending, reading, fencing, snapshots.

mod common;

use std::collections::BTreeMap;

use common::{CONFIG, append_bytes, append_one, entry, lead, read_all, tamper, tenant};
use stella_journal::port::{APPEND_BYTES_MAX, EVENT_BYTES_MAX};
use stella_journal::{
    Append, AppendError, Head, Journal, JournalConfig, Mark, OpenError, SledJournal, Snapshot, SnapshotError,
    Stream,
};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Position};
use stella_protocol::time::Timestamp;

fn append(stream: Stream, expected: u64, events: &[&str]) -> Append {
    let events = events.iter().map(|event| event.as_bytes().to_vec()).collect();
    Append { stream, expected: Position(expected), events }
}

#[test]
fn events_of_several_streams_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    let before = journal.barriers();
    let heads = journal
        .append(
            Epoch(1),
            Timestamp(10),
            &[
                append(Stream::System, 0, &["a", "b"]),
                append(tenant(1), 0, &["c"]),
                append(Stream::System, 2, &["d"]),
            ],
        )
        .unwrap();
    assert_eq!(journal.barriers(), before + 1);
    assert_eq!(heads.iter().map(|head| head.next.0).collect::<Vec<_>>(), [2, 1, 3]);
    append_one(&journal, Stream::System, &["e"]);
    let (heads, incarnation) = (journal.heads(), journal.incarnation());
    drop(journal);

    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    assert_eq!((journal.heads(), journal.incarnation()), (heads, incarnation));
    assert_eq!((journal.epoch(), journal.last_time()), (Epoch(1), Timestamp(11)));
    let expected = [entry(0, 10, b"a"), entry(1, 10, b"b"), entry(2, 10, b"d"), entry(3, 11, b"e")];
    assert_eq!(read_all(&journal, Stream::System), expected);
    assert_eq!(read_all(&journal, tenant(1)), [entry(0, 10, b"c")]);
    assert_eq!(read_all(&journal, tenant(2)), []);
    assert_eq!(journal.read(Stream::System, Position(1), 2).unwrap(), expected[1..3]);
    assert_eq!(journal.read(Stream::System, Position(4), 2).unwrap(), []);
}

#[test]
fn a_refused_append_changes_no_stream() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    append_one(&journal, tenant(1), &["a"]);
    let heads = journal.heads();
    let refusal =
        |epoch, at, appends: &[Append]| journal.append(Epoch(epoch), Timestamp(at), appends).unwrap_err();

    let both = [append(Stream::System, 0, &["x"]), append(tenant(1), 0, &["y"])];
    let error = refusal(1, 5, &both);
    let AppendError::PositionConflict { stream, expected, actual } = error else { panic!("{error:?}") };
    assert_eq!((stream, expected, actual), (tenant(1), Position(0), Position(1)));

    let fine = [append(tenant(1), 1, &["y"])];
    assert!(matches!(refusal(0, 5, &fine), AppendError::StaleEpoch { given: Epoch(0), current: Epoch(1) }));
    assert!(matches!(refusal(2, 5, &fine), AppendError::StaleEpoch { .. }));
    assert!(matches!(refusal(1, 0, &fine), AppendError::TimeWentBack { .. }));
    let large = Append { events: vec![vec![0; EVENT_BYTES_MAX + 1]], ..fine[0].clone() };
    assert!(matches!(refusal(1, 5, &[large]), AppendError::TooLarge { what: "an event", .. }));
    let many = vec![vec![0; EVENT_BYTES_MAX]; APPEND_BYTES_MAX / EVENT_BYTES_MAX + 1];
    let large = Append { events: many, ..fine[0].clone() };
    assert!(matches!(refusal(1, 5, &[large]), AppendError::TooLarge { what: "an append", .. }));

    assert_eq!(journal.heads(), heads);
    assert_eq!(read_all(&journal, Stream::System), []);
    journal.append(Epoch(1), Timestamp(5), &fine).unwrap();
}

#[test]
fn a_deposed_leader_stays_fenced_off_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    assert_eq!(journal.begin_epoch().unwrap(), Epoch(2));
    drop(journal);
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    let error = journal.append(Epoch(1), Timestamp(1), &[append(Stream::System, 0, &["a"])]).unwrap_err();
    assert!(matches!(error, AppendError::StaleEpoch { current: Epoch(2), .. }), "{error:?}");
}

#[test]
fn large_batches_and_large_events_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    let small: Vec<_> = (0..1000_u32).map(|number| format!("event {number:0>300}").into_bytes()).collect();
    append_bytes(&journal, tenant(1), small.clone());
    let large = vec![vec![1; EVENT_BYTES_MAX], Vec::new(), vec![3; 100_000]];
    append_bytes(&journal, tenant(1), large.clone());
    drop(journal);
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    let payloads: Vec<_> = read_all(&journal, tenant(1)).into_iter().map(|entry| entry.payload).collect();
    assert_eq!(payloads, [small, large].concat());
    // A read of one event in the middle of a record.
    assert_eq!(journal.read(tenant(1), Position(777), 1).unwrap()[0].payload, payloads[777]);
}

#[test]
fn a_read_stops_when_it_has_gathered_enough() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    append_bytes(&journal, tenant(1), vec![vec![1; EVENT_BYTES_MAX]; 6]);
    let first = journal.read(tenant(1), Position(0), 100).unwrap();
    assert_eq!(first.len(), 4);
    assert_eq!(journal.read(tenant(1), Position(4), 100).unwrap().len(), 2);
}

#[test]
fn a_remembered_head_is_recognised_and_a_foreign_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    let old = append_one(&journal, tenant(1), &["a", "b"]);
    let new = append_one(&journal, tenant(1), &["c"]);
    for head in [old, new] {
        assert_eq!(journal.compare(tenant(1), head).unwrap(), Mark::Matches);
        assert_eq!(journal.hash_at(tenant(1), head.next).unwrap(), Some(head.hash));
    }
    assert_eq!(journal.compare(tenant(1), Head { next: Position(9), ..new }).unwrap(), Mark::Differs);
    assert_eq!(journal.compare(tenant(1), Head { hash: Digest([0; 32]), ..old }).unwrap(), Mark::Differs);
    assert_eq!(journal.hash_at(tenant(1), Position(1)).unwrap(), None);

    // The same events in another journal are another history.
    let other_dir = tempfile::tempdir().unwrap();
    let other = lead(other_dir.path());
    append_one(&other, tenant(1), &["a", "b"]);
    assert_ne!(other.incarnation(), journal.incarnation());
    assert_eq!(other.compare(tenant(1), old).unwrap(), Mark::Differs);
}

#[test]
fn below_the_reserve_writes_are_refused_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    append_one(&journal, tenant(1), &["a"]);
    drop(journal);
    let journal = SledJournal::open(dir.path(), JournalConfig { reserve_bytes: u64::MAX, ..CONFIG }).unwrap();
    let heads = journal.heads();
    let error = journal.append(Epoch(1), Timestamp(9), &[append(tenant(1), 1, &["b"])]).unwrap_err();
    assert!(matches!(error, AppendError::NoSpace { .. }) && !error.is_fatal(), "{error:?}");
    // A control plane on a full disk still starts, so that it can be read.
    assert_eq!(journal.begin_epoch().unwrap(), Epoch(2));
    let snapshot = Snapshot { heads: BTreeMap::new(), at: Timestamp(1), payload: Vec::new() };
    let error = journal.save_snapshot(&snapshot).unwrap_err();
    assert!(matches!(error, SnapshotError::Write(AppendError::NoSpace { .. })), "{error:?}");
    assert_eq!(journal.heads(), heads);
    assert_eq!(read_all(&journal, tenant(1)), [entry(0, 1, b"a")]);
}

#[test]
fn a_second_process_is_told_that_the_control_plane_is_running() {
    let dir = tempfile::tempdir().unwrap();
    let _journal = lead(dir.path());
    let error = SledJournal::open(dir.path(), CONFIG).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("the control plane is running"), "{error}");
    assert!(matches!(stella_journal::verify(dir.path()).unwrap_err(), OpenError::InUse(_)));
}

fn snapshot_of(journal: &SledJournal, payload: Vec<u8>) -> Snapshot {
    Snapshot { heads: journal.heads(), at: journal.last_time(), payload }
}

#[test]
fn the_newest_snapshot_comes_back_and_a_damaged_one_falls_back_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    assert_eq!(journal.load_snapshot().unwrap(), None);
    let mut snapshots = Vec::new();
    for fill in 1..=4_u8 {
        append_one(&journal, tenant(1), &["a"]);
        let snapshot = snapshot_of(&journal, vec![fill; 3_000_000]);
        journal.save_snapshot(&snapshot).unwrap();
        assert_eq!(journal.load_snapshot().unwrap().as_ref(), Some(&snapshot));
        snapshots.push(snapshot);
    }
    drop(journal);
    // Chunks of only two snapshots are left; damage one chunk of the newest.
    let (newest, oldest) = (4_u64.to_be_bytes(), 3_u64.to_be_bytes());
    tamper(dir.path(), "snapshots", |key, value| {
        assert!(key[1..9] == newest || key[1..9] == oldest, "{key:?}");
        let mut value = value.to_vec();
        if key[0] == 1 && key[1..9] == newest && key.ends_with(&[7]) {
            value[100] ^= 1;
        }
        Some(value)
    });
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    assert_eq!(journal.load_snapshot().unwrap().as_ref(), Some(&snapshots[2]));
    drop(journal);
    assert_eq!(stella_journal::verify(dir.path()).unwrap().snapshots, 1);

    // Without its manifest the newest is not there at all, and its chunks go with the next save.
    tamper(dir.path(), "snapshots", |key, value| {
        (!(key[0] == 0 && key[1..9] == newest)).then(|| value.to_vec())
    });
    let journal = lead(dir.path());
    assert_eq!(journal.load_snapshot().unwrap().as_ref(), Some(&snapshots[2]));
    let last = snapshot_of(&journal, b"small".to_vec());
    journal.save_snapshot(&last).unwrap();
    assert_eq!(journal.load_snapshot().unwrap(), Some(last));
    drop(journal);
    tamper(dir.path(), "snapshots", |key, value| {
        assert_ne!(key[1..9], newest, "chunks of a snapshot without manifest were left behind");
        Some(value.to_vec())
    });
}

#[test]
fn a_snapshot_of_another_history_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    let head = append_one(&journal, tenant(1), &["a"]);
    let heads = BTreeMap::from([(tenant(1), Head { hash: Digest([9; 32]), ..head })]);
    let error = journal.save_snapshot(&Snapshot { heads, ..snapshot_of(&journal, Vec::new()) }).unwrap_err();
    assert!(matches!(error, SnapshotError::NotOurHistory { .. }), "{error:?}");
    assert_eq!(journal.load_snapshot().unwrap(), None);
}
