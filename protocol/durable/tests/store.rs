//! The store and its flusher on a real directory.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use stella_durable::{Batch, Error, Flusher, QUEUE_MAX, Sequence, Store, StoreConfig, Tree};

const CONFIG: StoreConfig = StoreConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };

fn open(dir: &Path) -> Store {
    Store::open(dir, CONFIG).expect("the directory is usable")
}

fn put(key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.insert(key, value);
    batch
}

fn write(key: &[u8], value: &[u8]) -> Sequence {
    let mut sequence = Sequence::default();
    sequence.insert(key, value);
    sequence
}

#[test]
fn what_was_behind_a_barrier_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    let tree = store.tree("t").unwrap();
    // Two pages that are too large for the log become files of their own.
    let large = vec![7_u8; 1 << 20];
    store.apply(&tree, put(b"a", b"1")).unwrap();
    store.apply(&tree, put(b"b", &large)).unwrap();
    store.barrier().unwrap();
    assert!(path.join("blobs").read_dir().unwrap().next().is_some());
    assert!(store.size_on_disk().unwrap() > 1 << 20);
    drop((tree, store));

    let tree = open(&path).tree("t").unwrap();
    assert_eq!(tree.get(b"a").unwrap().unwrap(), b"1");
    assert_eq!(tree.get(b"b").unwrap().unwrap(), large);
    let keys: Vec<_> = tree.range(b"a".as_slice()..).map(|pair| pair.unwrap().0).collect();
    assert_eq!(keys, [b"a", b"b"]);
}

#[test]
fn a_second_opener_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = Store::open(dir.path(), CONFIG).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_path_that_is_no_directory_and_files_that_are_no_store_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Store::open(&file, CONFIG).unwrap_err(), Error::Io { .. }));

    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("snap.0000000000000000"), "this is not a snapshot of anything").unwrap();
    assert!(!Store::exists(&broken));
    let error = Store::open(&broken, CONFIG).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert!(error.is_fatal());
}

#[test]
fn a_reserve_larger_than_the_disk_is_always_reached() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig { reserve_bytes: u64::MAX, ..CONFIG }).unwrap();
    let error = store.check_reserve().unwrap_err();
    assert!(!error.is_fatal());
    let Error::ReserveReached { available_bytes, reserve_bytes } = error else { panic!("{error:?}") };
    assert!(available_bytes < reserve_bytes);
    drop(store);
    let store = Store::open(dir.path(), StoreConfig { reserve_bytes: 1, ..CONFIG }).unwrap();
    store.check_reserve().unwrap();
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(tree: &Tree) -> Pairs {
    tree.scan_prefix(b"").map(Result::unwrap).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// The log is cut at many places, as by a crash: what is left of it is what was there after one of the writes.
#[test]
fn a_log_that_was_cut_off_has_the_first_writes_of_a_sequence() {
    const ROUNDS: u8 = 60;
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let store = open(&whole);
    let tree = store.tree("t").unwrap();
    store.barrier().unwrap();
    let before = whole.join("db").metadata().unwrap().len();
    let mut now = std::collections::BTreeMap::new();
    let mut states: Vec<Pairs> = vec![Vec::new()];
    for round in 0..ROUNDS {
        let mut sequence = Sequence::default();
        // Enough for pages to be split, and a key that is written every time.
        let added = (vec![2, round], vec![round; 900]);
        let writes = [(vec![1], Some(vec![round])), (added.0, Some(added.1)), (vec![2, round / 2], None)];
        for (key, value) in writes {
            match value {
                Some(value) => {
                    sequence.insert(key.clone(), value.clone());
                    now.insert(key, value);
                }
                None => {
                    sequence.remove(key.clone());
                    now.remove(&key);
                }
            }
            states.push(now.clone().into_iter().collect());
        }
        store.apply_in_order(&tree, sequence).unwrap();
        store.barrier().unwrap();
    }
    let (mut seen, steps) = (std::collections::BTreeSet::new(), 75);
    let after = whole.join("db").metadata().unwrap().len();
    for step in 0..=steps {
        let copy = dir.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        for file in ["db", "conf"] {
            std::fs::copy(whole.join(file), copy.join(file)).unwrap();
        }
        let db = std::fs::OpenOptions::new().write(true).open(copy.join("db")).unwrap();
        db.set_len(before + (after - before) * step / steps).unwrap();
        drop(db);
        let left = pairs(&open(&copy).tree("t").unwrap());
        let place = states.iter().rposition(|state| *state == left);
        seen.insert(place.unwrap_or_else(|| panic!("step {step}: {left:?} was never there")));
        // sled's own threads hold the store for a moment.
        while Store::is_held(&copy).unwrap() {
            std::thread::yield_now();
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(seen.contains(&(states.len() - 1)), "the whole log has all writes");
    assert!(seen.len() > 20, "the cuts were at few places: {seen:?}");
}

#[test]
fn waiting_writers_share_barriers_and_all_are_durable() {
    const WRITERS: usize = 32;
    const WRITES: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    let flusher = Flusher::spawn(store.clone()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (flusher, tree) = (flusher.clone(), &tree);
            scope.spawn(move || {
                for number in 0..WRITES {
                    flusher
                        .commit_blocking(tree, write(format!("{writer}/{number}").as_bytes(), b"x"))
                        .unwrap();
                }
            });
        }
    });
    let barriers = store.barriers();
    assert!(barriers < (WRITERS * WRITES / 2) as u64, "{barriers} barriers for {} writes", WRITERS * WRITES);
    drop((flusher, tree, store));
    let tree = open(dir.path()).tree("t").unwrap();
    assert_eq!(tree.scan_prefix(b"").count(), WRITERS * WRITES);
}

#[test]
fn every_callback_is_called_once_even_when_the_queue_is_full_or_the_handle_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    let flusher = Flusher::spawn(store).unwrap();

    // The first callback holds the flusher's thread, so the queue fills up behind it.
    let (holds, is_held) = mpsc::sync_channel(1);
    let (release, released) = mpsc::sync_channel::<()>(1);
    flusher.commit_then(&tree, write(b"first", b""), move |result| {
        result.unwrap();
        holds.send(()).unwrap();
        released.recv_timeout(Duration::from_secs(30)).unwrap();
    });
    is_held.recv_timeout(Duration::from_secs(30)).unwrap();
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    for number in 0..QUEUE_MAX + 3 {
        let counts = Arc::clone(&counts);
        flusher.commit_then(&tree, write(&number.to_be_bytes(), b""), move |result| match result {
            Ok(()) => _ = counts[0].fetch_add(1, Ordering::SeqCst),
            Err(error) => {
                assert!(matches!(*error, Error::Busy) && !error.is_fatal(), "{error:?}");
                counts[1].fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    assert_eq!(counts[1].load(Ordering::SeqCst), 3);
    release.send(()).unwrap();
    // Dropping the last handle waits for what is queued.
    drop(flusher);
    assert_eq!(counts[0].load(Ordering::SeqCst), QUEUE_MAX);
    assert_eq!(tree.scan_prefix(b"").count(), QUEUE_MAX + 1);
}

#[test]
fn who_looks_sees_whether_a_store_is_held_and_copies_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, to) = (folder.path().join("store"), folder.path().join("copy"));
    assert!(Store::is_held(&dir).is_err());
    let store = Store::open(&dir, CONFIG).unwrap();
    assert!(Store::is_held(&dir).unwrap());
    let tree = store.tree("t").unwrap();
    store.apply(&tree, put(b"k", b"v")).unwrap();
    store.barrier().unwrap();
    drop((store, tree));
    // sled's own threads hold it for a moment.
    while Store::is_held(&dir).unwrap() {
        std::thread::yield_now();
    }
    std::fs::create_dir(&to).unwrap();
    let refused = Store::copy_closed(&dir, &to, 10).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::FileTooLarge);
    std::fs::remove_dir_all(&to).unwrap();
    std::fs::create_dir(&to).unwrap();
    Store::copy_closed(&dir, &to, 100 << 20).unwrap();
    let copy = Store::open(&to, CONFIG).unwrap();
    assert_eq!(copy.tree("t").unwrap().get(b"k").unwrap().unwrap(), b"v");
    assert!(!Store::is_held(&dir).unwrap());
}

#[test]
fn who_looks_follows_no_link_and_waits_for_no_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, to) = (folder.path().join("store"), folder.path().join("copy"));
    for path in [&dir, &to] {
        std::fs::create_dir(path).unwrap();
    }
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, dir.join("db")).unwrap();
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(Store::is_held(&dir).is_err());
    Store::copy_closed(&dir, &to, 100).unwrap();
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    std::fs::rename(dir.join("pipe"), dir.join("db")).unwrap();
    assert!(Store::is_held(&dir).is_err());
}

/// Names the directory in which this process is to fail, if it is the one under the tracer.
const TRACED_DIR: &str = "STELLA_DURABLE_TRACED_DIR";

/// Runs under the tracer, which fails one `fdatasync` of the log, the first after `opened`: the kernel may report success for the next.
#[test]
fn a_barrier_that_failed_is_the_last() {
    let Some(dir) = std::env::var_os(TRACED_DIR) else { return };
    let store = open(Path::new(&dir));
    let tree = store.tree("t").unwrap();
    store.apply(&tree, put(b"a", b"1")).unwrap();
    std::io::stdout().write_all(b"opened;\n").unwrap();
    let failed = store.barrier();
    if std::env::var_os("STELLA_DURABLE_FAILS").is_none() {
        failed.unwrap();
        return;
    }
    let failed = failed.unwrap_err();
    assert!(matches!(failed, Error::Io { .. }) && failed.to_string().contains("fdatasync"), "{failed}");
    let again = store.barrier().unwrap_err();
    assert!(matches!(again, Error::Broken { .. }), "{again}");
    let written = store.apply(&tree, put(b"b", b"2")).unwrap_err();
    assert!(matches!(written, Error::Broken { .. }), "{written}");
    assert_eq!(store.barriers(), 0);
}

fn traced(dir: &Path, output: &Path, inject: Option<String>) -> String {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=write,fdatasync"]);
    strace.args(inject.iter().flat_map(|inject| ["-e", inject.as_str()]));
    strace.arg("-o").arg(output).arg(std::env::current_exe().expect("the kernel knows what runs"));
    strace.args(["--exact", "a_barrier_that_failed_is_the_last", "--test-threads=1", "--nocapture"]);
    strace.env(TRACED_DIR, dir).envs(inject.map(|_| ("STELLA_DURABLE_FAILS", "1")));
    let ended = strace.output().unwrap_or_else(|error| {
        panic!("strace cannot be started ({error}); it is in the Debian package `strace`: apt install strace")
    });
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()));
    std::fs::read_to_string(output).expect("strace has written its output")
}

/// After a failed `fdatasync` the kernel has thrown the pages away, and calls the next one a success.
#[test]
fn nothing_is_durable_any_more_after_a_flush_that_failed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = traced(&dir.path().join("whole"), &dir.path().join("trace"), None);
    let opening = whole.split("opened;").next().unwrap();
    // A call that another thread interrupts takes two lines, of which the first has its arguments.
    let before = opening.lines().filter(|line| line.contains("fdatasync(")).count();
    assert!(before > 0 && whole.matches("fdatasync(").count() > before, "{whole}");
    let inject = format!("inject=fdatasync:error=EIO:when={}", before + 1);
    let failed = traced(&dir.path().join("failed"), &dir.path().join("trace"), Some(inject));
    assert_eq!(failed.matches("(INJECTED)").count(), 1, "{failed}");
}
