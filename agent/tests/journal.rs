//! The agent's journal: what is promised survives a crash at any point, and nothing else is believed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

mod control_plane;

use std::path::Path;

use control_plane::{SECRET, dispatch, key, on, soon};
use stella_agent::inbox::{Inbox, Verdict};
use stella_agent::journal::{Ending, Error, Journal, Known, LeftOpen, TARGETS_MAX, TOMBSTONES_MAX};
use stella_agent::policy::{Kind, Policy};
use stella_durable::{Batch, Store, StoreConfig};
use stella_protocol::id::{Generation, Incarnation, Position, TargetId};
use stella_protocol::limits::OPEN_ATTEMPTS_MAX;
use stella_protocol::message::{JournalMark, OpenAttempt, Phase, TaskOutcome};
use stella_protocol::time::Timestamp;

fn open(dir: &Path) -> (Journal, Vec<LeftOpen>) {
    Journal::open(dir, 0).unwrap()
}

fn success() -> Ending {
    Ending { started_at: Some(Timestamp(1)), finished_at: Timestamp(2), outcome: TaskOutcome::Succeeded }
}

async fn settle(journal: &mut Journal) {
    soon("a commit", journal.settle()).await.unwrap();
}

#[tokio::test]
async fn what_is_durable_is_there_after_a_crash_at_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, left) = open(dir.path());
    assert!(left.is_empty());
    let born = journal.mark();

    // Accepted, and gone before the commit: nobody was told that it is safe, and it is not there.
    journal.accept(&dispatch(1, "true"));
    let listed = [OpenAttempt { key: key(1), phase: Phase::Accepted }];
    assert_eq!(journal.open_attempts(), listed, "it is not durable, and may still run");
    assert!(matches!(journal.get(key(1)).unwrap(), Some(Known::Open { durable: false, .. })));
    assert_eq!(journal.mark(), born, "its position is told once it is durable");
    drop(journal);
    let (mut journal, left) = open(dir.path());
    assert!(left.is_empty());
    assert_eq!(journal.mark(), born);

    // Accepted, durable.
    let accepted = journal.accept(&dispatch(1, "true"));
    assert_eq!(soon("a commit", journal.durable()).await.unwrap(), accepted);
    let mark = journal.mark();
    assert!(mark.position > born.position);
    drop(journal);
    let (mut journal, left) = open(dir.path());
    assert_eq!(journal.mark(), mark);
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].dispatch.key(), left[0].started_at), (key(1), None));
    assert_eq!(journal.generation(left[0].dispatch.target), Some(Generation(1)));

    // Started: lazily, so it takes a commit of something else, or a hurry.
    journal.started(key(1), Timestamp(9));
    assert!(journal.has_lazy_writes());
    settle(&mut journal).await;
    drop(journal);
    let (mut journal, left) = open(dir.path());
    assert_eq!(left[0].started_at, Some(Timestamp(9)));

    // Finished, and gone before the commit: open as before.
    assert!(journal.finish(key(1), success()).is_some());
    assert_eq!(
        journal.open_attempts()[0].phase,
        Phase::Running,
        "a result that is not durable is not in a hello"
    );
    drop(journal);
    let (mut journal, left) = open(dir.path());
    assert_eq!(left.len(), 1);

    // Finished, durable; it is kept until it is acknowledged.
    let report = journal.finish(key(1), success()).unwrap();
    assert!(journal.finish(key(1), success()).is_none(), "an attempt ends once");
    assert!(journal.acknowledge(&[key(1)]).is_empty(), "nobody can have seen a result that is not durable");
    settle(&mut journal).await;
    drop(journal);
    let (mut journal, left) = open(dir.path());
    assert!(left.is_empty());
    assert_eq!(journal.open_attempts()[0].phase, Phase::Finished);
    assert_eq!(journal.get(key(1)).unwrap(), Some(Known::Finished { report: report.clone(), durable: true }));

    // Acknowledged; a tombstone stays. It is there in every moment of the write.
    assert_eq!(journal.acknowledge(&[key(1), key(2)]), [key(1)]);
    assert_eq!(journal.get(key(1)).unwrap(), Some(Known::Forgotten(report.clone())));
    settle(&mut journal).await;
    assert_eq!(journal.get(key(1)).unwrap(), Some(Known::Forgotten(report.clone())));
    drop(journal);
    let (journal, left) = open(dir.path());
    assert!(left.is_empty() && journal.open_attempts().is_empty());
    assert_eq!(journal.get(key(1)).unwrap(), Some(Known::Forgotten(report)));
    assert_eq!(journal.mark().incarnation, born.incarnation);
}

/// A copy of a journal that is in use, with its log cut off as by a crash.
fn cut(dir: &Path, copy: &Path, bytes: u64) {
    std::fs::create_dir_all(copy).unwrap();
    for file in ["db", "conf", "begun"] {
        std::fs::copy(dir.join(file), copy.join(file)).unwrap();
    }
    let log = std::fs::OpenOptions::new().write(true).open(copy.join("db")).unwrap();
    log.set_len(bytes).unwrap();
}

#[tokio::test]
async fn a_commit_that_a_crash_cut_off_leaves_a_journal_that_makes_sense() {
    let dir = tempfile::tempdir().unwrap();
    let (place, copy) = (dir.path().join("journal"), dir.path().join("copy"));
    let (mut journal, _) = open(&place);
    let length = || place.join("db").metadata().unwrap().len();
    let mut marks = vec![(length(), journal.mark().position)];
    journal.accept(&dispatch(1, "true"));
    settle(&mut journal).await;
    marks.push((length(), journal.mark().position));
    let report = journal.finish(key(1), success()).unwrap();
    settle(&mut journal).await;
    marks.push((length(), journal.mark().position));
    journal.acknowledge(&[key(1)]);
    settle(&mut journal).await;
    marks.push((length(), journal.mark().position));

    let mut doubles = 0;
    for bytes in (marks[0].0..=marks[3].0).step_by(3) {
        cut(&place, &copy, bytes);
        let (mut cut_off, _) = open(&copy);
        let said = marks.iter().rfind(|(length, _)| *length <= bytes).unwrap().1;
        assert!(cut_off.mark().position >= said, "{bytes}: its position went back");
        let known = cut_off.get(key(1)).unwrap();
        let is_open = !cut_off.open_attempts().is_empty();
        match &known {
            None => {
                assert!(bytes < marks[1].0 && !is_open, "{bytes}: an attempt that was accepted is new again")
            }
            Some(Known::Open { .. }) => assert!(bytes < marks[2].0, "{bytes}: a result is lost"),
            Some(Known::Finished { report: kept, .. }) => {
                assert_eq!(*kept, report);
                // As the control plane does at the next welcome.
                assert_eq!(cut_off.acknowledge(&[key(1)]), [key(1)]);
                settle(&mut cut_off).await;
                assert_eq!(cut_off.get(key(1)).unwrap(), Some(Known::Forgotten(report.clone())));
                doubles += usize::from(bytes > marks[2].0);
            }
            Some(Known::Forgotten(kept)) => assert!(*kept == report && bytes > marks[2].0),
        }
        drop(cut_off);
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(doubles > 0, "no cut was between a tombstone and the removal of its attempt");
}

#[tokio::test]
async fn a_tombstone_is_seen_while_its_commit_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    journal.accept(&dispatch(1, "true"));
    journal.finish(key(1), success()).unwrap();
    settle(&mut journal).await;
    journal.acknowledge(&[key(1)]);
    journal.hurry();
    // One look begins the commit, and does not wait for it.
    let _begun = tokio::time::timeout(std::time::Duration::ZERO, journal.durable()).await;
    assert!(matches!(journal.get(key(1)).unwrap(), Some(Known::Forgotten(_))));
}

#[tokio::test]
async fn tombstones_are_bounded_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    let last = u128::try_from(TOMBSTONES_MAX).unwrap() + 1;
    for task in 1..=last {
        journal.accept(&dispatch(task, "true"));
        journal.finish(key(task), success()).unwrap();
        if task % 100 == 0 || task == last {
            settle(&mut journal).await;
            let keys: Vec<_> = journal.open_attempts().iter().map(|attempt| attempt.key).collect();
            journal.acknowledge(&keys);
        }
    }
    settle(&mut journal).await;
    drop(journal);
    let (journal, _) = open(dir.path());
    assert_eq!(journal.get(key(1)).unwrap(), None);
    assert!(matches!(journal.get(key(2)).unwrap(), Some(Known::Forgotten(_))));
    assert!(matches!(journal.get(key(last)).unwrap(), Some(Known::Forgotten(_))));
}

#[tokio::test]
async fn a_target_that_was_deployed_to_long_ago_makes_room_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    let target = |n: u128| TargetId(uuid::Uuid::from_u128(n));
    let to = |n: u128| on(dispatch(n, "true"), n, u64::try_from(n).unwrap());
    let max = u128::try_from(TARGETS_MAX).unwrap();
    for n in 1..=max {
        journal.accept(&to(n));
        // The first stays open.
        if n > 1 {
            journal.finish(key(n), success()).unwrap();
        }
        if n % 100 == 0 || n == max {
            settle(&mut journal).await;
            let keys: Vec<_> = journal.open_attempts().iter().map(|attempt| attempt.key).collect();
            journal.acknowledge(&keys);
        }
    }
    let mut inbox = Inbox::new(Policy::default());
    assert_eq!(inbox.judge(&journal, &to(max + 1)).unwrap(), Verdict::Accept);
    journal.accept(&to(max + 1));
    settle(&mut journal).await;
    drop(journal);
    let (journal, _) = open(dir.path());
    let known = [1, 2, 3, max + 1].map(|n| journal.generation(target(n)).map(|it| u128::from(it.0)));
    assert_eq!(known, [Some(1), None, Some(3), Some(max + 1)], "the oldest without an open attempt is gone");
}

#[tokio::test]
async fn secrets_of_a_task_do_not_reach_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    journal.accept(&dispatch(1, "echo secret-argument"));
    settle(&mut journal).await;
    drop(journal);
    let log = std::fs::read(dir.path().join("db")).unwrap();
    let contains = |needle: &str| log.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(contains("/bin/sh"), "the record is there and readable");
    assert!(!contains(SECRET) && !contains("secret-argument"));
}

#[tokio::test]
async fn a_control_plane_that_went_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    let at = |incarnation, position| JournalMark {
        incarnation: Incarnation(uuid::Uuid::from_u128(incarnation)),
        position: Position(position),
    };
    assert!(!journal.note_control_plane(at(1, 5)), "the first one cannot have gone back");
    assert!(!journal.note_control_plane(at(1, 6)));
    settle(&mut journal).await;
    drop(journal);
    let (mut journal, _) = open(dir.path());
    assert_eq!(journal.control_plane(), Some(at(1, 6)));
    assert!(journal.note_control_plane(at(1, 5)), "a smaller position");
    assert!(journal.note_control_plane(at(2, 500)), "another life");
}

#[tokio::test]
async fn a_damaged_record_is_refused_with_a_remedy() {
    let good = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(good.path());
    journal.accept(&dispatch(1, "true"));
    settle(&mut journal).await;
    drop(journal);

    let config = StoreConfig { cache_bytes: 1024 * 1024, reserve_bytes: 0 };
    let store = Store::open(good.path(), config).unwrap();
    let tree = store.tree("journal").unwrap();
    let (record_key, value) = tree.scan_prefix([3]).next().unwrap().unwrap();
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    let mut batch = Batch::default();
    batch.insert(&record_key, value);
    store.apply(&tree, batch).unwrap();
    store.barrier().unwrap();
    drop((store, tree));

    let error = Journal::open(good.path(), 0).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("checksum") && text.contains("move it away"), "{text}");
}

#[tokio::test]
async fn a_journal_whose_files_are_overwritten_or_gone_is_no_new_one() {
    for spoil in [
        |file: &Path| std::fs::write(file, vec![0x5a; 512 * 1024]).unwrap(),
        |file: &Path| std::fs::write(file, vec![0; 512 * 1024]).unwrap(),
        |file: &Path| std::fs::write(file, "").unwrap(),
        |file: &Path| std::fs::remove_file(file).unwrap(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        journal.accept(&dispatch(1, "true"));
        settle(&mut journal).await;
        drop(journal);
        for file in ["db", "begun"] {
            assert!(dir.path().join(file).is_file(), "{file} is what this test is about");
        }
        spoil(&dir.path().join("db"));
        // What sled has written meanwhile makes it no better.
        for _ in 0..2 {
            let error = Journal::open(dir.path(), 0).unwrap_err().to_string();
            assert!(error.contains("is damaged") && error.contains("move it away"), "{error}");
        }
        std::fs::remove_dir_all(dir.path()).unwrap();
        let (journal, left_open) = open(dir.path());
        assert!(
            left_open.is_empty() && journal.open_attempts().is_empty(),
            "what was moved away is a new life"
        );
    }
}

#[tokio::test]
async fn a_journal_of_an_earlier_version_has_begun_too() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let mark = journal.mark();
    drop(journal);
    std::fs::remove_file(dir.path().join("begun")).unwrap();
    let (journal, _) = open(dir.path());
    assert_eq!(journal.mark(), mark);
    drop(journal);
    assert!(dir.path().join("begun").is_file());
    std::fs::write(dir.path().join("db"), "").unwrap();
    assert!(matches!(Journal::open(dir.path(), 0), Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn a_journal_without_its_life_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    journal.accept(&dispatch(1, "true"));
    settle(&mut journal).await;
    drop(journal);
    let store = Store::open(dir.path(), StoreConfig { cache_bytes: 1024 * 1024, reserve_bytes: 0 }).unwrap();
    let tree = store.tree("journal").unwrap();
    let mut batch = Batch::default();
    batch.remove(&[1, 1]);
    store.apply(&tree, batch).unwrap();
    store.barrier().unwrap();
    drop((store, tree));
    assert!(matches!(Journal::open(dir.path(), 0), Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn below_the_reserve_dispatches_are_refused_and_results_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    journal.accept(&dispatch(1, "true"));
    settle(&mut journal).await;
    drop(journal);

    let (mut journal, _) = Journal::open(dir.path(), u64::MAX).unwrap();
    let mut inbox = Inbox::new(Policy::default());
    let Verdict::Refuse(reason) = inbox.judge(&journal, &dispatch(2, "true")).unwrap() else {
        panic!("accepted on a full disk")
    };
    assert!(reason.contains("no room") && reason.contains("free"), "{reason}");
    let report = journal.finish(key(1), success()).unwrap();
    settle(&mut journal).await;
    assert_eq!(journal.get(key(1)).unwrap(), Some(Known::Finished { report, durable: true }));
}

#[tokio::test]
async fn the_inbox_answers_duplicates_and_fences_what_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    let mut inbox = Inbox::new(Policy::default());
    let first = on(dispatch(1, "true"), 1, 5);
    assert_eq!(inbox.judge(&journal, &first).unwrap(), Verdict::Accept);
    journal.accept(&first);
    assert!(matches!(
        inbox.judge(&journal, &first).unwrap(),
        Verdict::Again(Known::Open { durable: false, .. })
    ));
    settle(&mut journal).await;
    assert!(matches!(
        inbox.judge(&journal, &first).unwrap(),
        Verdict::Again(Known::Open { durable: true, .. })
    ));

    let old = on(dispatch(2, "true"), 1, 4);
    let Verdict::Refuse(reason) = inbox.judge(&journal, &old).unwrap() else {
        panic!("an old generation was accepted")
    };
    assert!(reason.contains("superseded by a newer deployment"), "{reason}");
    assert_eq!(
        inbox.judge(&journal, &on(dispatch(3, "true"), 1, 5)).unwrap(),
        Verdict::Accept,
        "the same generation"
    );
    assert_eq!(
        inbox.judge(&journal, &on(dispatch(4, "true"), 2, 1)).unwrap(),
        Verdict::Accept,
        "another target"
    );

    let mut later = on(dispatch(1, "true"), 1, 5);
    later.attempt = later.attempt.next();
    journal.accept(&later);
    let mut between = later;
    between.attempt = stella_protocol::id::Attempt(0);
    assert!(
        matches!(inbox.judge(&journal, &between).unwrap(), Verdict::Refuse(_)),
        "an older attempt of the same task"
    );
}

#[tokio::test]
async fn the_inbox_has_a_bound_and_a_refusal_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    let mut inbox = Inbox::new(Policy::default());
    let max = u128::try_from(OPEN_ATTEMPTS_MAX).unwrap();
    for task in 1..=max {
        assert_eq!(inbox.judge(&journal, &dispatch(task, "true")).unwrap(), Verdict::Accept);
        journal.accept(&dispatch(task, "true"));
    }
    let over = dispatch(max + 1, "true");
    let refused = inbox.judge(&journal, &over).unwrap();
    assert!(
        matches!(&refused, Verdict::Refuse(reason) if reason.contains("too many attempts")),
        "{refused:?}"
    );
    journal.finish(key(1), success()).unwrap();
    settle(&mut journal).await;
    journal.acknowledge(&[key(1)]);
    assert_eq!(inbox.judge(&journal, &over).unwrap(), refused, "the control plane has acted on the refusal");
    assert_eq!(inbox.judge(&journal, &dispatch(max + 2, "true")).unwrap(), Verdict::Accept);
}

#[tokio::test]
async fn the_policy_has_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let mut inbox = Inbox::new(Policy::allowing(&[Kind::Check]));
    let Verdict::Refuse(reason) = inbox.judge(&journal, &dispatch(1, "true")).unwrap() else {
        panic!("accepted")
    };
    assert!(reason.contains("policy does not allow command tasks"), "{reason}");
    assert_eq!(journal.mark().position, Position(0), "a refusal changes nothing");
}
