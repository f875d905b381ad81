//! Archives and output on a real file system.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Attempt, AttemptKey, TaskId, TenantId};
use stella_protocol::message::{OutputChunk, OutputHeader, OutputSource};
use stella_protocol::time::Timestamp;
use stella_store::{ArtifactStore, OutputPage, OutputStore, Room, StoreError};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found
}

#[tokio::test]
async fn an_archive_is_found_under_its_digest_and_read_from_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path(), room()).unwrap();
    let content = b"some archive".repeat(1000);
    let digest = digest(&content);
    for _ in 0..2 {
        let mut upload = store.upload(digest, content.len() as u64).await.unwrap();
        for piece in content.chunks(777) {
            upload.write(piece).await.unwrap();
        }
        assert_eq!(upload.finish().await.unwrap().size_bytes, content.len() as u64);
    }
    assert!(store.contains(digest).await.unwrap());
    assert_eq!(files(dir.path()).len(), 1);

    let (mut file, size) = store.open_at(digest, 5000).await.unwrap().unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).await.unwrap();
    assert_eq!((size, rest.as_slice()), (content.len() as u64, &content[5000..]));
    let behind = store.open_at(digest, size + 1).await;
    assert!(matches!(behind, Err(StoreError::BehindTheEnd { size_bytes, .. }) if size_bytes == size));
    assert!(store.open_at(Digest([7; 32]), 0).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_wrong_or_too_large_or_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path(), room()).unwrap();
    let mut upload = store.upload(digest(b"right"), 100).await.unwrap();
    upload.write(b"wrong").await.unwrap();
    let refused = upload.finish().await;
    assert!(
        matches!(refused, Err(StoreError::WrongDigest { expected, actual }) if expected == digest(b"right") && actual == digest(b"wrong"))
    );

    let mut upload = store.upload(digest(b"right"), 4).await.unwrap();
    assert!(matches!(upload.write(b"right").await, Err(StoreError::TooLarge { max: 4 })));
    drop(upload);
    let mut upload = store.upload(digest(b"right"), 100).await.unwrap();
    upload.write(b"ri").await.unwrap();
    drop(upload);
    // Whoever drops it does not wait for the disk.
    let until = Instant::now() + PATIENCE;
    while !files(dir.path()).is_empty() {
        assert!(Instant::now() < until, "{:?} stay", files(dir.path()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fs::write(dir.path().join("incoming/17"), b"left by a crash").unwrap();
    let store = ArtifactStore::open(dir.path(), room()).unwrap();
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    assert!(!store.contains(digest(b"right")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_until_its_archive_is_removed_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(ArtifactStore::open(dir.path(), room()).unwrap());
    let put = async |content: &'static [u8]| {
        let mut upload = store.upload(digest(content), 100).await.unwrap();
        upload.write(content).await.unwrap();
        drop(upload.finish().await.unwrap());
    };
    put(b"one").await;
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (answer, answered) = std::sync::mpsc::channel();
    let is_needed = move || {
        asked.send(()).unwrap();
        answered.recv().unwrap()
    };
    let removal = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.remove(digest(b"one"), is_needed).await }
    });
    tokio::task::block_in_place(|| is_asked.recv_timeout(PATIENCE)).unwrap();
    put(b"two").await;
    let mut again = Box::pin(store.upload(digest(b"one"), 100));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut again).await.is_err());
    answer.send(false).unwrap();
    assert!(removal.await.unwrap().unwrap());
    let mut upload = tokio::time::timeout(PATIENCE, again).await.unwrap().unwrap();
    upload.write(b"one").await.unwrap();
    drop(upload.finish().await.unwrap());
    assert!(store.contains(digest(b"one")).await.unwrap());
}

/// As much as anybody wants.
fn room() -> Arc<Room> {
    Room::new("/", 0)
}

const MIB: u64 = 1024 * 1024;

/// A disk on which `free` bytes are free as long as nothing is in a folder.
fn disk(folder: &std::path::Path, free: u64, reserve_bytes: u64) -> Arc<Room> {
    Room::measured_by(folder, reserve_bytes, move |folder| Ok(free.saturating_sub(used(folder))))
}

fn used(folder: &std::path::Path) -> u64 {
    files(folder).iter().map(|path| fs::metadata(path).map_or(0, |it| it.len())).sum()
}

/// How much of an upload is written at once.
const PIECE: usize = 64 * 1024;

#[tokio::test]
async fn uploads_that_began_while_there_was_room_do_not_take_the_reserve_together() {
    let dir = tempfile::tempdir().unwrap();
    let (free, reserve) = (40 * MIB, 24 * MIB);
    let store = ArtifactStore::open(dir.path(), disk(dir.path(), free, reserve)).unwrap();
    let content = |n: u8| vec![n; 4 << 20];
    let mut uploads = Vec::new();
    for n in 0..10 {
        let mut upload = store.upload(digest(&content(n)), 4 * MIB).await.unwrap();
        upload.write(&content(n)[..10]).await.unwrap();
        uploads.push((n, upload));
    }
    let mut taken = 0;
    let mut refused = Vec::new();
    for (n, mut upload) in uploads {
        let mut went_in = Ok(());
        for piece in content(n)[10..].chunks(PIECE) {
            went_in = upload.write(piece).await;
            if went_in.is_err() {
                break;
            }
        }
        match went_in {
            Ok(()) => taken += u64::from(upload.finish().await.unwrap().size_bytes == 4 * MIB),
            Err(StoreError::NoSpace { available_bytes, reserve_bytes, .. }) => {
                // The last piece of each upload may be on the disk already and still be counted as under way.
                let counted_twice = 10 * PIECE as u64;
                let is_told = available_bytes + counted_twice >= reserve_bytes && reserve_bytes == reserve;
                assert!(is_told, "{available_bytes}");
                refused.push(upload);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(used(dir.path()) <= free - reserve, "{} bytes are used", used(dir.path()));
    }
    assert_eq!((taken, refused.len()), (3, 7));
    // What is given up makes room for others.
    drop(refused);
    let mut upload = store.upload(digest(&content(0)), 4 * MIB).await.unwrap();
    upload.write(&content(0)[..1 << 20]).await.unwrap();
}

#[tokio::test]
async fn output_that_began_while_there_was_room_is_cut_off_at_the_reserve_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (free, reserve) = (3 * MIB, 2 * MIB);
    let room = disk(dir.path(), free, reserve);
    let store = OutputStore::open(dir.path().join("output"), Arc::clone(&room)).unwrap();
    let key = |n: u128| AttemptKey { task: TaskId(Uuid::from_u128(n)), attempt: Attempt(1) };
    let mut writers = Vec::new();
    for n in 0..8 {
        writers.push(store.writer(tenant(), OutputHeader { key: key(n), offset: 0 }).await.unwrap());
    }
    let long = "x".repeat(16 * 1024);
    for _ in 0..32 {
        for writer in &mut writers {
            writer.append(vec![chunk(&long)]).await.unwrap();
        }
    }
    // The notes come out of the reserve: a line each.
    assert!(used(dir.path()) <= free - reserve + 8 * 512, "{} bytes are used", used(dir.path()));
    assert!(used(dir.path()) > MIB / 2, "there was room for something: {}", used(dir.path()));
    for n in 0..8 {
        let mut all = String::new();
        let mut from = 0;
        loop {
            let page = store.read(tenant(), key(n), from, 1000).await.unwrap();
            if page.next == from {
                break;
            }
            (from, all) = (page.next, all + &text(&page));
        }
        let note = "[the rest of the output is not kept: the control plane's disk is nearly full]\n";
        assert!(all.ends_with(note), "{:?}", &all[all.len().saturating_sub(200)..]);
        assert_eq!(all.matches(note).count(), 1);
    }
    // Archives and output share the disk, and so the room.
    let archives = ArtifactStore::open(dir.path().join("archives"), room).unwrap();
    let content = [7; 64 * 1024];
    let refused = match archives.upload(digest(&content), MIB).await {
        Ok(mut upload) => upload.write(&content).await,
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_is_not_needed_is_removed_and_what_is_being_stored_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path(), room()).unwrap();
    let upload = async || {
        let mut upload = store.upload(digest(b"one"), 3).await.unwrap();
        upload.write(b"one").await.unwrap();
        upload.finish().await.unwrap()
    };
    let stored = upload().await;
    let listed = store.list().await.unwrap();
    assert_eq!(listed.iter().map(|it| (it.digest, it.size_bytes)).collect::<Vec<_>>(), [(digest(b"one"), 3)]);
    let shard = dir.path().join("sha256").join(&digest(b"one").to_hex()[..2]);
    fs::write(shard.join("README"), "not ours").unwrap();
    assert_eq!(store.list().await.unwrap(), listed);
    assert!(!store.remove(digest(b"one"), || false).await.unwrap(), "nobody knows of it yet");
    drop(stored);
    assert!(!store.remove(digest(b"one"), || true).await.unwrap());
    let again = store.upload(digest(b"one"), 3).await.unwrap();
    assert!(!store.remove(digest(b"one"), || false).await.unwrap(), "it is on its way in again");
    drop(again);
    let (mut reading, _) = store.open_at(digest(b"one"), 0).await.unwrap().unwrap();
    assert!(store.remove(digest(b"one"), || false).await.unwrap());
    assert!(!store.contains(digest(b"one")).await.unwrap());
    assert!(!store.remove(digest(b"one"), || false).await.unwrap());
    let mut content = String::new();
    reading.read_to_string(&mut content).await.unwrap();
    assert_eq!(content, "one", "who reads it reads it to its end");
    assert_eq!(upload().await.size_bytes, 3);
    assert!(store.contains(digest(b"one")).await.unwrap());
}

fn tenant() -> TenantId {
    TenantId(Uuid::from_u128(1))
}

fn key() -> AttemptKey {
    AttemptKey { task: TaskId(Uuid::from_u128(2)), attempt: Attempt(1) }
}

fn header(offset: u64) -> OutputHeader {
    OutputHeader { key: key(), offset }
}

fn chunk(text: &str) -> OutputChunk {
    OutputChunk { source: OutputSource::Stdout, at: Timestamp(1), bytes: text.as_bytes().to_vec() }
}

async fn write(store: &Arc<OutputStore>, offset: u64, texts: &[&str]) {
    let mut writer = store.writer(tenant(), header(offset)).await.unwrap();
    writer.append(texts.iter().map(|text| chunk(text)).collect()).await.unwrap();
}

/// As a stream does that has brought everything, up to there.
async fn complete(store: &Arc<OutputStore>, end: u64) {
    store.writer(tenant(), header(end)).await.unwrap().complete().await.unwrap();
}

async fn read(store: &Arc<OutputStore>, from: u64) -> OutputPage {
    store.read(tenant(), key(), from, 100).await.unwrap()
}

fn text(page: &OutputPage) -> String {
    page.chunks.iter().map(|chunk| String::from_utf8(chunk.bytes.clone()).unwrap()).collect()
}

#[tokio::test]
async fn output_that_is_sent_again_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    assert_eq!(read(&store, 0).await, OutputPage { chunks: vec![], next: 0, complete: false });
    write(&store, 0, &["one ", "two "]).await;
    write(&store, 0, &["one ", "two ", "three "]).await;
    // Cut differently, and begun in the middle of a chunk.
    write(&store, 2, &["e two thr", "ee four"]).await;
    let page = read(&store, 0).await;
    assert_eq!(text(&page), "one two three four");
    assert!(!page.complete);

    // Also by another process, and by two streams at once.
    let store = OutputStore::open(dir.path(), room()).unwrap();
    let mut first = store.writer(tenant(), header(0)).await.unwrap();
    let mut second = store.writer(tenant(), header(14)).await.unwrap();
    second.append(vec![chunk("four five")]).await.unwrap();
    first.append(vec![chunk("one two three four five six")]).await.unwrap();
    assert_eq!(text(&read(&store, 0).await), "one two three four five six");
    assert_eq!(text(&read(&store, page.next).await), " five six");
}

#[tokio::test]
async fn a_note_has_a_line_of_its_own_also_in_a_file_that_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let note = "[some output was lost on its way]\n";
    for (offset, said) in [(0, "half a line"), (20, "whole\n"), (40, "end")] {
        // Opened anew each time.
        let store = OutputStore::open(dir.path(), room()).unwrap();
        write(&store, offset, &[said]).await;
    }
    let store = OutputStore::open(dir.path(), room()).unwrap();
    assert_eq!(text(&read(&store, 0).await), format!("half a line\n{note}whole\n{note}end"));
}

#[tokio::test]
async fn a_gap_and_the_limit_are_told_in_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::with_limit(dir.path(), room(), 400).unwrap();
    write(&store, 10, &["after the gap"]).await;
    let page = read(&store, 0).await;
    assert_eq!(text(&page), "[some output was lost on its way]\nafter the gap");
    assert_eq!(page.chunks[0].source, OutputSource::Agent);

    let long = "x".repeat(200);
    write(&store, 23, &[&long, &long, &long]).await;
    write(&store, 623, &[&long]).await;
    let page = read(&store, page.next).await;
    assert_eq!(
        text(&page),
        format!("{long}\n[the rest of the output is not kept: there is too much of it]\n")
    );
    let store = OutputStore::with_limit(dir.path(), room(), 400).unwrap();
    write(&store, 0, &[&long, &long, &long, &long]).await;
    assert_eq!(read(&store, page.next).await.chunks, vec![]);
}

#[tokio::test]
async fn a_torn_record_is_cut_off_before_more_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    write(&store, 0, &["one ", "two "]).await;
    drop(store);
    let path = files(dir.path()).remove(0);
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();

    let store = OutputStore::open(dir.path(), room()).unwrap();
    assert_eq!(text(&read(&store, 0).await), "one ");
    write(&store, 0, &["one ", "two ", "three"]).await;
    assert_eq!(text(&read(&store, 0).await), "one two three");
}

#[tokio::test]
async fn pages_follow_one_another_and_the_last_one_stays_complete() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    let texts: Vec<_> = (0..10).map(|n| format!("{n} ")).collect();
    write(&store, 0, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    complete(&store, 20).await;
    complete(&store, 20).await;

    let mut from = 0;
    let mut all = String::new();
    loop {
        let page = store.read(tenant(), key(), from, 3).await.unwrap();
        all.push_str(&text(&page));
        from = page.next;
        if page.complete {
            break;
        }
        assert_eq!(page.chunks.len(), 3);
    }
    assert_eq!(all, texts.concat());
    for again in [from, 0] {
        assert!(store.read(tenant(), key(), again, 100).await.unwrap().complete);
    }
    write(&store, 20, &["late"]).await;
    let page = read(&store, from).await;
    assert_eq!((text(&page).as_str(), page.complete), ("late", false));
}

#[tokio::test]
async fn a_slow_file_keeps_nobody_waiting_but_who_writes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    complete(&store, 0).await;
    // So many records that reading them takes seconds.
    let slow = files(dir.path()).remove(0);
    let record = fs::read(&slow).unwrap();
    fs::write(&slow, record.repeat((64 << 20) / record.len())).unwrap();
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.writer(tenant(), header(0)).await.map(drop) }
    });
    // It has begun by the time that somebody else has written a few times.
    let other = AttemptKey { task: TaskId(Uuid::from_u128(77)), attempt: Attempt(1) };
    for n in 0..5 {
        let mut writer = store.writer(tenant(), OutputHeader { key: other, offset: n }).await.unwrap();
        writer.append(vec![chunk("x")]).await.unwrap();
        drop(writer);
    }
    assert!(!waiting.is_finished(), "the others have waited for the slow one");
    // Nobody wants it any more: what is read is not worth the wait.
    fs::write(&slow, []).unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn output_is_complete_with_the_stream_that_has_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    let mut first = store.writer(tenant(), header(0)).await.unwrap();
    first.append(vec![chunk("one ")]).await.unwrap();
    let mut second = store.writer(tenant(), header(10)).await.unwrap();
    first.complete().await.unwrap();
    assert!(!read(&store, 0).await.complete, "another stream goes on behind it");
    second.append(vec![chunk("two")]).await.unwrap();
    complete(&store, 4).await;
    assert!(!read(&store, 0).await.complete, "more is here");
    // One that has begun before and breaks off keeps nobody from saying it.
    let broken = store.writer(tenant(), header(0)).await.unwrap();
    second.complete().await.unwrap();
    drop(broken);
    let page = read(&store, 0).await;
    assert_eq!((text(&page).as_str(), page.complete), ("one \n[some output was lost on its way]\ntwo", true));
}

#[tokio::test]
async fn followers_wake_up_and_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    let mut changes = store.subscribe(key()).unwrap();
    let waiting = tokio::spawn(async move { changes.changed().await });
    write(&store, 0, &["news"]).await;
    waiting.await.unwrap().unwrap();
    // Nobody listens any more: the place is free again after the next write.
    write(&store, 4, &["more"]).await;
    let changes = store.subscribe(key()).unwrap();
    assert_eq!(*changes.borrow(), 0);
}

#[tokio::test]
async fn old_output_is_removed_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = OutputStore::open(dir.path(), room()).unwrap();
    write(&store, 0, &["old"]).await;
    let other = AttemptKey { task: TaskId(Uuid::from_u128(77)), attempt: Attempt(1) };
    let mut writer = store.writer(tenant(), OutputHeader { key: other, offset: 0 }).await.unwrap();
    writer.append(vec![chunk("new")]).await.unwrap();
    let day = Duration::from_secs(86_400);
    assert_eq!(store.remove_older(day).await.unwrap(), 0);
    // As if it had been written two days ago.
    let past = std::time::SystemTime::now() - 2 * day;
    let old = dir.path().join(tenant().to_string()).join(key().task.to_string());
    for path in files(&old).into_iter().chain([old.clone()]) {
        fs::File::open(path).unwrap().set_modified(past).unwrap();
    }
    assert_eq!(store.remove_older(day).await.unwrap(), 1);
    assert!(!old.exists());
    assert_eq!(text(&read(&store, 0).await), "");
    writer.append(vec![chunk("er")]).await.unwrap();
    let page = store.read(tenant(), other, 0, 10).await.unwrap();
    assert_eq!(text(&page), "newer");
    assert_eq!(store.remove_older(day).await.unwrap(), 0);
}
