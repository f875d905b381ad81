//! Damage of every kind is refused with its place and the way out, and is found by `verify`.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{CONFIG, append_bytes, append_one, lead, read_all, record_key, tamper, tenant};
use stella_journal::record::{HEAD_PREFIX, RECORD_PREFIX, decode_record, encode_record};
use stella_journal::{
    Damage, Head, Journal, OpenError, Problem, ReadError, SledJournal, Snapshot, Stream, verify,
};
use stella_protocol::digest::Digest;
use stella_protocol::id::Position;

/// Three records in a tenant's stream, at the positions 0, 2 and 4, and one in the system's.
fn journal_in(dir: &Path) {
    let journal = lead(dir);
    for events in [["a", "b"], ["c", "d"], ["e", "f"]] {
        append_one(&journal, tenant(1), &events);
    }
    append_one(&journal, Stream::System, &["s"]);
}

/// Changes the record of the tenant's stream at a position.
fn tamper_record(dir: &Path, first: u64, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) {
    let place = record_key(tenant(1), first);
    tamper(
        dir,
        "journal",
        |key, value| if key == place { change(value.to_vec()) } else { Some(value.to_vec()) },
    );
}

fn problems(dir: &Path) -> Vec<(Option<u64>, Problem)> {
    let report = verify(dir).expect("the journal can be looked at");
    report.problems.into_iter().map(|damage| (damage.position.map(|at| at.0), damage.problem)).collect()
}

fn read_damage(dir: &Path, from: u64) -> Damage {
    let journal = SledJournal::open(dir, CONFIG).expect("heads and last records are whole");
    assert_eq!(read_all(&journal, Stream::System).len(), 1, "other streams are still readable");
    let error = journal.read(tenant(1), Position(from), 100).expect_err("the stream is damaged");
    let ReadError::Damaged(damage) = error else { panic!("{error:?}") };
    damage
}

fn open_damage(dir: &Path) -> Damage {
    let error = SledJournal::open(dir, CONFIG).expect_err("the journal is damaged");
    let OpenError::Damaged(damage) = error else { panic!("{error:?}") };
    damage
}

#[test]
fn a_whole_journal_has_no_problems() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let report = verify(dir.path()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let counts: Vec<_> = report.streams.iter().map(|stream| (stream.stream, stream.events)).collect();
    assert_eq!(counts, [(Stream::System, 1), (tenant(1), 6)]);
    assert!(matches!(verify(&dir.path().join("nothing")).unwrap_err(), OpenError::NotFound(_)));
    assert!(!dir.path().join("nothing").exists());
}

#[test]
fn a_changed_bit_in_a_record_is_refused_with_its_place_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    tamper_record(dir.path(), 2, |mut value| {
        value[60] ^= 4;
        Some(value)
    });
    let damage = read_damage(dir.path(), 0);
    assert_eq!(
        damage,
        Damage { stream: Some(tenant(1)), position: Some(Position(2)), problem: Problem::Checksum }
    );
    let text = damage.to_string();
    for part in
        ["tenant/", "position 2", "checksum", "journal verify", "journal export --salvage", "journal import"]
    {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    // What comes after it is still readable on its own, and what comes before is not returned half checked.
    assert_eq!(problems(dir.path()), [(Some(2), Problem::Checksum)]);
}

#[test]
fn a_truncated_and_a_missing_record_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    tamper_record(dir.path(), 2, |value| Some(value[..20].to_vec()));
    assert_eq!(read_damage(dir.path(), 2).problem, Problem::Checksum);
    tamper_record(dir.path(), 2, |_| None);
    let gap = Problem::Gap { found: Position(4) };
    assert_eq!(read_damage(dir.path(), 0).problem, gap);
    assert_eq!(problems(dir.path()), [(Some(2), gap)]);
    tamper_record(dir.path(), 0, |_| None);
    assert_eq!(read_damage(dir.path(), 0).problem, Problem::Gap { found: Position(4) });
}

#[test]
fn a_forged_record_with_a_right_checksum_breaks_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let forge = |value: Vec<u8>| {
        let record = decode_record(&value).unwrap();
        let head = Head { next: record.first, hash: record.previous };
        Some(encode_record(record.stream, head, record.at, record.epoch, &[b"X".to_vec(), b"d".to_vec()]))
    };
    tamper_record(dir.path(), 2, forge);
    // Even a reader that wants only the forged events is told.
    assert_eq!(read_damage(dir.path(), 2).problem, Problem::BrokenChain);
    assert_eq!(problems(dir.path()), [(Some(4), Problem::BrokenChain)]);

    let other = tempfile::tempdir().unwrap();
    journal_in(other.path());
    tamper_record(other.path(), 4, forge);
    assert_eq!(open_damage(other.path()).problem, Problem::BrokenChain);
}

#[test]
fn a_record_in_the_place_of_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let system = record_key(Stream::System, 0);
    let of_tenant = record_key(tenant(1), 0);
    let store = stella_durable::Store::open(dir.path(), CONFIG).unwrap();
    let value = store.tree("journal").unwrap().get(of_tenant).unwrap().unwrap().to_vec();
    drop(store);
    tamper(dir.path(), "journal", |key, old| Some(if key == system { value.clone() } else { old.to_vec() }));
    assert!(SledJournal::open(dir.path(), CONFIG).is_err());
    assert!(problems(dir.path()).contains(&(Some(0), Problem::Misplaced)));
}

#[test]
fn lost_heads_and_lost_ends_stop_the_opening() {
    let start = || {
        let dir = tempfile::tempdir().unwrap();
        journal_in(dir.path());
        dir
    };
    let dir = start();
    tamper(dir.path(), "journal", |key, value| (key[..2] != [HEAD_PREFIX, 1]).then(|| value.to_vec()));
    assert_eq!(open_damage(dir.path()).problem, Problem::NoHead);
    assert_eq!(problems(dir.path()), [(Some(0), Problem::NoHead)]);

    let dir = start();
    tamper(dir.path(), "journal", |key, value| {
        let mut value = value.to_vec();
        value[3] ^= u8::from(key[..2] == [HEAD_PREFIX, 1]);
        Some(value)
    });
    assert_eq!(open_damage(dir.path()).problem, Problem::Checksum);

    let dir = start();
    tamper_record(dir.path(), 4, |_| None);
    assert_eq!(open_damage(dir.path()).problem, Problem::HeadDisagrees { head: Position(6) });

    // Records and the identity: only a name tells a journal from an import that was cut off.
    let dir = start();
    tamper(dir.path(), "journal", |key, value| (key != [0, 0]).then(|| value.to_vec()));
    assert!(matches!(SledJournal::open(dir.path(), CONFIG).unwrap_err(), OpenError::Unfinished(_)));
}

/// The heads as they are on the disk now.
fn heads_of(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    pairs_of(dir).into_iter().filter(|(key, _)| key[0] == HEAD_PREFIX).collect()
}

/// Takes the heads back to earlier ones, as a crash does that comes before a head is written.
fn put_back(dir: &Path, old: &BTreeMap<Vec<u8>, Vec<u8>>) {
    tamper(dir, "journal", |key, value| Some(old.get(key).cloned().unwrap_or_else(|| value.to_vec())));
}

#[test]
fn a_record_whose_head_a_crash_has_taken_counts_and_a_second_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let old = heads_of(dir.path());
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    append_one(&journal, tenant(1), &["late", "later"]);
    let (ends, at) = (journal.heads(), journal.last_time());
    drop(journal);
    put_back(dir.path(), &old);
    assert_eq!(problems(dir.path()), []);
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    assert_eq!((journal.heads(), journal.last_time()), (ends, at));
    assert_eq!(read_all(&journal, tenant(1)).len(), 8);
    journal.begin_epoch().unwrap();
    append_one(&journal, tenant(1), &["next"]);
    assert_eq!(read_all(&journal, tenant(1)).len(), 9);
    drop(journal);

    // Two records are no crash: the second one was begun after the first had its head.
    put_back(dir.path(), &old);
    let behind = Problem::HeadDisagrees { head: Position(6) };
    assert_eq!(open_damage(dir.path()).problem, behind);
    assert!(problems(dir.path()).contains(&(Some(9), behind)));
}

#[test]
fn a_crash_may_take_a_head_again_after_each_start() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    for crash in 1..=3 {
        // What a start leaves is all that the next crash finds.
        drop(lead(dir.path()));
        let heads = heads_of(dir.path());
        let journal = lead(dir.path());
        append_one(&journal, tenant(1), &["late"]);
        drop(journal);
        put_back(dir.path(), &heads);
        assert_eq!(problems(dir.path()), [], "after crash {crash}");
    }
    let journal = lead(dir.path());
    assert_eq!(read_all(&journal, tenant(1)).len(), 9);
}

#[test]
fn a_record_behind_the_head_that_does_not_follow_from_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    let (epoch, at) = (journal.epoch(), journal.last_time());
    drop(journal);
    let place = record_key(tenant(1), 6);
    let head = Head { next: Position(6), hash: Digest([7; 32]) };
    let forged = encode_record(tenant(1), head, at, epoch, &[b"forged".to_vec()]);
    let store = stella_durable::Store::open(dir.path(), CONFIG).unwrap();
    let tree = store.tree("journal").unwrap();
    let mut batch = stella_durable::Batch::default();
    batch.insert(place, forged);
    store.apply(&tree, batch).unwrap();
    store.barrier().unwrap();
    drop((tree, store));
    assert_eq!(open_damage(dir.path()).problem, Problem::HeadDisagrees { head: Position(6) });
}

/// Takes the journal back to an earlier state in which everything fits together, as a storage engine does that drops
/// the end of its log.
fn roll_back_to(dir: &Path, old: &BTreeMap<Vec<u8>, Vec<u8>>) {
    tamper(dir, "journal", |key, _| old.get(key).cloned());
}

fn pairs_of(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let store = stella_durable::Store::open(dir, CONFIG).expect("nobody has it open");
    let tree = store.tree("journal").expect("the tree is there");
    let pairs = tree.scan_prefix([]).map(|pair| pair.expect("it is readable"));
    pairs.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[test]
fn events_that_were_acknowledged_and_have_gone_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let old = pairs_of(dir.path());
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    append_one(&journal, tenant(1), &["late"]);
    drop(journal);
    roll_back_to(dir.path(), &old);
    let lost = Problem::BehindAcknowledged { acknowledged: 8, present: 7 };
    assert_eq!(open_damage(dir.path()).problem, lost);
    assert_eq!(problems(dir.path()), [(None, lost)]);
}

#[test]
fn events_that_a_snapshot_covers_and_that_have_gone_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let old = pairs_of(dir.path());
    let journal = SledJournal::open(dir.path(), CONFIG).unwrap();
    append_one(&journal, tenant(1), &["late"]);
    let heads = journal.heads();
    journal.save_snapshot(&Snapshot { heads, at: journal.last_time(), payload: b"state".to_vec() }).unwrap();
    drop(journal);
    roll_back_to(dir.path(), &old);
    std::fs::remove_file(dir.path().join("acknowledged")).unwrap();
    assert_eq!(open_damage(dir.path()).problem, Problem::BehindSnapshot { covered: Position(7) });
}

#[test]
fn damage_of_the_storage_files_never_loses_events_silently() {
    const EVENTS: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let journal = lead(&source);
    for number in 0..EVENTS / 4 {
        append_bytes(
            &journal,
            tenant(1),
            (0..4).map(|n| vec![u8::try_from(number + n).unwrap(); 300]).collect(),
        );
    }
    let intact = read_all(&journal, tenant(1));
    drop(journal);
    let size = source.join("db").metadata().unwrap().len();
    let (mut refused, mut unharmed) = (0, 0);
    for step in 0..24 {
        let copy = dir.path().join(format!("copy-{step}"));
        copy_dir(&source, &copy);
        let db = std::fs::OpenOptions::new().read(true).write(true).open(copy.join("db")).unwrap();
        if step % 3 == 0 {
            db.set_len(size * step / 24).unwrap();
        } else {
            let at = size * step / 24 + 17;
            let mut byte = [0];
            db.read_exact_at(&mut byte, at).unwrap();
            db.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
        drop(db);
        let found = SledJournal::open(&copy, CONFIG)
            .ok()
            .and_then(|journal| journal.read(tenant(1), Position(0), usize::MAX).ok());
        match found {
            None => refused += 1,
            Some(events) => {
                assert!(events == intact, "step {step}: the journal was opened with {} events", events.len());
                unharmed += 1;
            }
        }
    }
    assert!(refused >= 3, "{refused} refused, {unharmed} unharmed: the damage did not hit anything");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("the disk works");
    for item in from.read_dir().expect("it is a directory") {
        let item = item.expect("the disk works");
        let (path, copy) = (item.path(), to.join(item.file_name()));
        if path.is_dir() {
            copy_dir(&path, &copy);
        } else {
            std::fs::copy(path, copy).expect("the disk works");
        }
    }
}

#[test]
fn the_layout_of_keys_is_the_documented_one() {
    let dir = tempfile::tempdir().unwrap();
    journal_in(dir.path());
    let keys: Vec<_> = pairs_of(dir.path()).into_keys().collect();
    let mut head = record_key(tenant(1), 0);
    head[0] = HEAD_PREFIX;
    head.truncate(18);
    let records = [0, 2, 4].map(|first| record_key(tenant(1), first));
    let system = record_key(Stream::System, 0);
    let mut expected = vec![vec![0, 0], vec![0, 1], vec![HEAD_PREFIX, 0], head, system];
    expected.extend(records);
    assert_eq!(keys, expected);
    assert_eq!(keys.last().map(|key| key[0]), Some(RECORD_PREFIX));
    assert_ne!(Digest([0; 32]), lead(dir.path()).heads()[&tenant(1)].hash);
}
