//! Runs every fuzz target on stable: over its committed corpus, over the golden messages, and over a bounded number of
//! seeded mutations of both. `FUZZ_SEED=<n>` repeats a failure.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use common::{Choices, undump};
use stella_protocol::frame::HEADER_BYTES;
use stella_protocol::fuzzing::{Body, TARGETS};

/// Enough to reach every variant many times, few enough for a test.
const MUTATIONS: u64 = 20_000;

const SEED: u64 = 0x5eed;

/// Numbers that are the edge of something: of a varint's kind, of a length, of a limit.
const EDGES: [&[u8]; 8] = [
    &[0],
    &[250],
    &[251, 0xff, 0xff],
    &[252, 0xff, 0xff, 0xff, 0xff],
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0, 4, 0, 0],
    &[0, 4, 0, 1],
    &[0xff; 16],
];

#[test]
fn decode_to_agent_holds() {
    run("decode_to_agent");
}

#[test]
fn decode_to_control_plane_holds() {
    run("decode_to_control_plane");
}

#[test]
fn decode_enrol_holds() {
    run("decode_enrol");
}

#[test]
fn decode_output_holds() {
    run("decode_output");
}

#[test]
fn decode_artifact_holds() {
    run("decode_artifact");
}

#[test]
fn decoder_holds() {
    run("decoder");
}

#[test]
fn session_holds() {
    run("session");
}

#[test]
fn trace_headers_holds() {
    run("trace_headers");
}

/// `UPDATE_GOLDEN=1` adds what is missing: `cargo fuzz` knows the corpus only, not the golden files.
#[test]
fn every_golden_message_is_in_the_corpus_of_its_target() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let mut missing = Vec::new();
    for golden in entries("tests/golden") {
        let name = file_name(&golden).replace(".hex", "");
        let kind = name.split('.').next().unwrap();
        let place = crate_path(&format!("fuzz/corpus/decode_{kind}")).join(&name);
        let body = undump(&std::fs::read_to_string(&golden).unwrap())[HEADER_BYTES..].to_vec();
        if update {
            std::fs::write(&place, &body).unwrap();
        }
        if std::fs::read(&place).ok() != Some(body) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "not there, or other bytes: {missing:?}");
}

#[test]
fn targets_corpora_and_the_fuzz_manifest_name_the_same() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders: BTreeSet<String> = entries("fuzz/corpus").iter().map(|path| file_name(path)).collect();
    assert_eq!(names, folders);
    let sources: BTreeSet<String> =
        entries("fuzz/fuzz_targets").iter().map(|path| file_name(path).replace(".rs", "")).collect();
    assert_eq!(names, sources);
    let manifest = std::fs::read_to_string(crate_path("fuzz/Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
    }
}

fn run(target: &str) {
    let (_, body) = TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    let mut corpus: Vec<Vec<u8>> =
        entries(&format!("fuzz/corpus/{target}")).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!corpus.is_empty(), "the corpus of {target} is empty");
    corpus.extend(golden_inputs(target));
    for input in &corpus {
        hold(target, body, input, "the corpus");
    }
    let seed = std::env::var("FUZZ_SEED").map_or(SEED, |seed| seed.parse().expect("FUZZ_SEED is a number"));
    for number in 0..MUTATIONS {
        let input = mutate(&corpus, &mut Choices::new(seed.wrapping_add(number)));
        hold(target, body, &input, &format!("FUZZ_SEED={}", seed.wrapping_add(number)));
    }
}

fn hold(target: &str, body: Body, input: &[u8], origin: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| body(input)));
    assert!(outcome.is_ok(), "{target} broke a promise ({origin}) on {input:02x?}");
}

/// The golden messages that this target decodes; streams get all of them, one after the other, under their headers.
fn golden_inputs(target: &str) -> Vec<Vec<u8>> {
    let golden = |prefix: &str| -> Vec<Vec<u8>> {
        let files = entries("tests/golden").into_iter().filter(|path| file_name(path).starts_with(prefix));
        files.map(|path| undump(&std::fs::read_to_string(path).unwrap())).collect()
    };
    match target.strip_prefix("decode_") {
        Some(kind) => {
            golden(&format!("{kind}.")).into_iter().map(|frame| frame[HEADER_BYTES..].to_vec()).collect()
        }
        None => {
            let hello = golden("to_control_plane.hello.first").concat();
            let welcome = golden("to_agent.welcome").concat();
            let up = [
                hello,
                golden("to_control_plane.").into_iter().filter(|f| f[HEADER_BYTES] != 0).flatten().collect(),
            ];
            let down = [
                welcome,
                golden("to_agent.").into_iter().filter(|f| f[HEADER_BYTES] != 0).flatten().collect(),
            ];
            [up.concat(), down.concat()].into_iter().map(|stream| [vec![7], stream].concat()).collect()
        }
    }
}

/// One input, changed in one to four places.
fn mutate(corpus: &[Vec<u8>], choices: &mut Choices) -> Vec<u8> {
    let mut input = corpus[choices.below(corpus.len())].clone();
    for _ in 0..=choices.below(4) {
        let at = choices.below(input.len() + 1);
        let byte = choices.next().to_le_bytes()[0];
        match choices.below(6) {
            0 => input.truncate(at),
            1 => input.insert(at, byte),
            2 if at < input.len() => drop(input.remove(at)),
            3 if at < input.len() => input[at] ^= 1 << (byte % 8),
            4 => {
                let edge = EDGES[choices.below(EDGES.len())];
                let end = (at + edge.len()).min(input.len());
                drop(input.splice(at..end, edge.iter().copied()));
            }
            _ => {
                let other = &corpus[choices.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[choices.below(other.len() + 1)..]);
            }
        }
    }
    input
}

fn crate_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// In the order of their names, so that a seed means the same everywhere.
fn entries(path: &str) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(crate_path(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut paths: Vec<PathBuf> = directory.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
