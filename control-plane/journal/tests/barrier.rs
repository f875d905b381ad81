//! No answer leaves before its event is on the disk: shown by the system calls of a real process.

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{append_bytes, append_one, lead};
use stella_journal::Stream;
use stella_protocol::id::Position;

const BATCHES: usize = 12;
/// Batches that do not fit into the log.
const LARGE_BATCHES: usize = 3;
const LARGE_BYTES: usize = 2 << 20;

/// A system call of the trace, between the lines on which it started and ended.
#[derive(Debug)]
struct Call {
    name: String,
    text: String,
    start: usize,
    end: usize,
}

/// Reads the output of `strace -f`, joining calls that were interrupted by lines of other threads. Calls that did not
/// succeed are left out.
fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    for (line, content) in trace.lines().enumerate() {
        let Some((thread, rest)) = content.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (start, text) = if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (line, head.trim_end().to_owned()));
            continue;
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((start, head)) = unfinished.remove(thread) else { continue };
            let tail = resumed.split_once("resumed>").map_or("", |(_, tail)| tail);
            (start, head + tail)
        } else {
            (line, rest.to_owned())
        };
        let Some((name, _)) = text.split_once('(') else { continue };
        // Short calls are padded: `fdatasync(4</db>)      = 0`.
        let has_succeeded = text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-'));
        if has_succeeded {
            calls.push(Call { name: name.to_owned(), start, end: line, text });
        }
    }
    calls
}

/// Whether each answer came after its event was written, and then both flushed and synced, in the log of the store.
fn check(trace: &str, log: &Path) -> Result<(), String> {
    let calls = parse(trace);
    let on_log = format!("<{}>", log.display());
    for batch in 0..BATCHES {
        let answer = calls
            .iter()
            .find(|call| call.name == "write" && call.text.contains(&format!("answered-{batch};")))
            .ok_or_else(|| format!("there is no answer {batch}"))?;
        let written = calls
            .iter()
            .find(|call| {
                call.name == "pwrite64"
                    && call.text.contains(&on_log)
                    && call.text.contains(&format!("<event-{batch}>"))
            })
            .ok_or_else(|| format!("event {batch} was never written"))?;
        let offset =
            written.text.rsplit_once(", ").and_then(|(_, last)| last.split(')').next()).unwrap_or("?");
        for (name, what) in
            [("sync_file_range", format!("{on_log}, {offset}, ")), ("fdatasync", on_log.clone())]
        {
            let is_barrier = |call: &Call| {
                call.name == name
                    && call.text.contains(&what)
                    && call.start > written.end
                    && call.end < answer.start
            };
            if !calls.iter().any(is_barrier) {
                return Err(format!("answer {batch} left without {name}"));
            }
        }
    }
    Ok(())
}

/// Whether each answer to a large batch came after the files that it is in were synced, and then the folder in which they are new.
fn check_blobs(trace: &str, blobs: &Path) -> Result<(), String> {
    let calls = parse(trace);
    let within = |call: &Call| call.text.contains(&format!("<{}/", blobs.display()));
    let (mut from, mut large) = (0, 0);
    for batch in 0..LARGE_BATCHES {
        let answer = calls
            .iter()
            .find(|call| call.name == "write" && call.text.contains(&format!("answered-large-{batch};")))
            .ok_or_else(|| format!("there is no answer {batch}"))?;
        let since = |call: &&Call| call.start >= from && call.end < answer.start;
        let before = || calls.iter().filter(since);
        for written in before().filter(|call| call.name == "write" && within(call)) {
            let file = written.text.split(['<', '>']).nth(1).unwrap_or("?");
            let is_synced = |call: &&Call| {
                call.name == "fdatasync"
                    && call.text.contains(&format!("<{file}>"))
                    && call.start > written.end
            };
            let synced =
                before().find(is_synced).ok_or_else(|| format!("answer {batch} left without {file}"))?;
            let is_listed = |call: &Call| {
                call.name == "fsync"
                    && call.text.contains(&format!("<{}>", blobs.display()))
                    && call.start > synced.end
            };
            if !before().any(is_listed) {
                return Err(format!("answer {batch} left without its folder"));
            }
            large += 1;
        }
        from = answer.end;
    }
    // Each has its head, its kind and its content.
    if large < LARGE_BATCHES { Err("nothing was too large for the log".to_owned()) } else { Ok(()) }
}

/// Names the directory in which this process is to append, if it is the one under the tracer.
const TRACED_DIR: &str = "STELLA_JOURNAL_TRACED_DIR";

/// The process under the tracer runs only this: it appends and writes an answer after each append has returned. It is
/// in the same binary as the proof, so that the proof is always about the code that was just built.
#[test]
fn appends_are_answered_in_order() {
    let own_dir = tempfile::tempdir().unwrap();
    let traced_dir = std::env::var_os(TRACED_DIR).map(PathBuf::from);
    let dir = traced_dir.as_deref().unwrap_or_else(|| own_dir.path());
    let journal = lead(dir);
    for batch in 0..BATCHES {
        let head = append_one(&journal, Stream::System, &[&format!("<event-{batch}>")]);
        assert_eq!(head.next, Position(batch as u64 + 1));
        if traced_dir.is_some() {
            std::io::stdout().write_all(format!("answered-{batch};\n").as_bytes()).unwrap();
        }
    }
    for batch in 0..LARGE_BATCHES {
        append_bytes(&journal, Stream::System, vec![vec![b'x'; LARGE_BYTES]]);
        if traced_dir.is_some() {
            std::io::stdout().write_all(format!("answered-large-{batch};\n").as_bytes()).unwrap();
        }
    }
}

fn trace_of_appends(store: &Path, output: &Path) -> String {
    let result = Command::new("strace")
        .args(["-f", "-y", "-s", "65536", "-e", "trace=write,pwrite64,fdatasync,fsync,sync_file_range", "-o"])
        .arg(output)
        .arg(std::env::current_exe().expect("the kernel knows what runs"))
        .args(["--exact", "appends_are_answered_in_order", "--test-threads=1"])
        .env(TRACED_DIR, store)
        .output();
    let result = result.unwrap_or_else(|error| {
        panic!("strace cannot be started ({error}); it is in the Debian package `strace`: apt install strace")
    });
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    std::fs::read_to_string(output).expect("strace has written its output")
}

#[test]
fn no_answer_leaves_before_flush_and_fdatasync_of_its_event() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let store = root.join("journal");
    let log = store.join("db");
    let trace = trace_of_appends(&store, &root.join("trace"));
    check(&trace, &log).unwrap();

    // The same trace without either call, or with an answer that came too early, does not pass.
    for name in ["sync_file_range", "fdatasync"] {
        let filtered: String =
            trace.lines().filter(|line| !line.contains(name)).map(|line| format!("{line}\n")).collect();
        assert_ne!(filtered, trace);
        let error = check(&filtered, &log).unwrap_err();
        assert_eq!(error, format!("answer 0 left without {name}"));
    }
    let mut lines: Vec<_> = trace.lines().collect();
    let answer = lines.iter().position(|line| line.contains("answered-5;")).unwrap();
    let sync = lines[..answer].iter().rposition(|line| line.contains("fdatasync")).unwrap();
    let early = lines.remove(answer);
    lines.insert(sync, early);
    assert_eq!(check(&lines.join("\n"), &log).unwrap_err(), "answer 5 left without fdatasync");
    let elsewhere = trace.replace(&format!("<{}>", log.display()), "</elsewhere>");
    assert!(check(&elsewhere, &log).is_err());
}

/// What is too large for the log is in files of its own: the file has to be on the disk, and its name in the folder.
#[test]
fn no_answer_leaves_before_large_events_and_their_folder_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let blobs = root.join("journal/blobs");
    let trace = trace_of_appends(&root.join("journal"), &root.join("trace"));
    check_blobs(&trace, &blobs).unwrap();

    // The same trace without the one call, or without the other, does not pass.
    let without = |name: &str, what: &str| -> String {
        let kept = trace.lines().filter(|line| !line.contains(name) || !line.contains(what));
        kept.map(|line| format!("{line}\n")).collect()
    };
    let error = check_blobs(&without("fdatasync(", &format!("<{}/", blobs.display())), &blobs).unwrap_err();
    assert!(error.starts_with("answer 0 left without /"), "{error}");
    let error = check_blobs(&without("fsync(", &format!("<{}>", blobs.display())), &blobs).unwrap_err();
    assert_eq!(error, "answer 0 left without its folder");
    assert!(check_blobs(&trace, Path::new("/elsewhere")).is_err());
}

#[test]
fn calls_that_were_interrupted_or_failed_are_understood() {
    let trace = "1 fdatasync(3</x/db> <unfinished ...>\n2 write(1</o>, \"a\", 1) = 1\n1 <... fdatasync resumed>)     = 0\n\
                 1 fdatasync(3</x/db>) = -1 EIO (Input/output error)\n1 +++ exited with 0 +++\n";
    let calls: Vec<_> = parse(trace).into_iter().map(|call| (call.name, call.start, call.end)).collect();
    assert_eq!(calls, [("write".to_owned(), 1, 1), ("fdatasync".to_owned(), 0, 2)]);
}
