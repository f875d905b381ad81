//! What an earlier version has written is read by this one, and is written the same: names and fields are in journals for ever.
//!
//! `golden/events.jsonl` has events of all kinds that there are, and `golden/state.json` a state as it is in snapshots. They guard names and
//! fields; that events replay is for INV-1. Lines are only ever added: `UPDATE_GOLDEN=1` adds kinds and shapes that are new to it and that
//! walks come to, and never takes one away. What they do not come to is written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use stella_domain::event::Event;
use stella_domain::state::State;

use super::Walk;
use super::act::act;

/// How many walks are looked at for what is new.
const WALKS: usize = 600;
/// How many shapes of one kind are recorded.
const SHAPES_MAX: usize = 6;
/// Fields whose text decides what else there is.
const TAGS: [&str; 9] =
    ["type", "kind", "state", "status", "outcome", "cause", "strategy", "stage", "progress"];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn is_to_be_updated() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// The walks that are the same each time.
fn walks() -> impl Iterator<Item = Walk> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..WALKS).map(move |_| {
        let mut walk = Walk::new();
        for act in vec(act(), 100..120).new_tree(&mut runner).unwrap().current() {
            walk.act(act);
        }
        walk
    })
}

/// The fields that a value has, and what its tags say.
fn shape(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                match field {
                    Value::String(tag) if TAGS.contains(&name.as_str()) => {
                        found.extend([format!("{path}={tag}")]);
                    }
                    _ => shape(field, &path, found),
                }
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| shape(part, &format!("{path}[]"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.extend([path.to_owned()]);
        }
    }
}

fn known(line: &str) -> (String, BTreeSet<String>) {
    let event: Event = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let mut found = BTreeSet::new();
    shape(&serde_json::from_str(line).unwrap(), "", &mut found);
    (event.fact.name().to_owned(), found)
}

#[test]
fn events_that_were_recorded_are_read_and_written_the_same() {
    let recorded = fs::read_to_string(golden("events.jsonl")).unwrap_or_default();
    let mut lines: Vec<String> = recorded.lines().map(str::to_owned).collect();
    let mut shapes: BTreeMap<String, Vec<BTreeSet<String>>> = BTreeMap::new();
    for line in &lines {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            *line,
            "what is in journals is written in another way"
        );
        let (kind, shape) = known(line);
        shapes.entry(kind).or_default().push(shape);
    }
    if is_to_be_updated() {
        for walk in walks() {
            for (_, event) in &walk.world.events {
                let line = serde_json::to_string(event).unwrap();
                let (kind, shape) = known(&line);
                let of_kind = shapes.entry(kind).or_default();
                if of_kind.len() < SHAPES_MAX && !of_kind.contains(&shape) {
                    of_kind.push(shape);
                    lines.push(line);
                }
            }
        }
        fs::write(golden("events.jsonl"), lines.join("\n") + "\n").unwrap();
    }
    let names =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/event/name.rs")).unwrap();
    let names = names.lines().filter_map(|line| line.split_once("=> \"")?.1.split_once('"'));
    let missing: Vec<&str> = names.map(|(name, _)| name).filter(|name| !shapes.contains_key(*name)).collect();
    let none: [&str; 0] = [];
    assert_eq!(
        missing, none,
        "a kind of event without a recorded line; UPDATE_GOLDEN=1 adds one if walks come to it, else write one by hand"
    );
}

#[test]
fn a_state_that_was_recorded_is_read_and_written_the_same() {
    let path = golden("state.json");
    if is_to_be_updated() && !path.exists() {
        let state =
            walks().map(|walk| walk.world.state).max_by_key(|state| serde_json::to_vec(state).unwrap().len());
        fs::write(&path, serde_json::to_string(&state.unwrap()).unwrap() + "\n").unwrap();
    }
    let recorded = fs::read_to_string(path).unwrap();
    let state: State = serde_json::from_str(&recorded).expect("a snapshot of an earlier version is read");
    is_in(&serde_json::from_str(&recorded).unwrap(), &serde_json::to_value(&state).unwrap(), "");
}

/// Whether all that was recorded is there still. There may be more.
fn is_in(recorded: &Value, now: &Value, path: &str) {
    match (recorded, now) {
        (Value::Object(recorded), Value::Object(now)) => {
            for (name, value) in recorded {
                is_in(value, now.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"));
            }
        }
        (Value::Array(recorded), Value::Array(now)) if recorded.len() == now.len() => {
            recorded.iter().zip(now).for_each(|(recorded, now)| is_in(recorded, now, &format!("{path}[]")));
        }
        _ => assert_eq!(recorded, now, "{path} of a snapshot is lost, or is read as something else"),
    }
}

/// A number that somebody's answer had, and a threshold: what was decided on has to be what a replay finds.
#[test]
fn numbers_are_read_back_as_they_were() {
    for text in
        ["0.97132629798112891", "0.1", "1e-7", "5e-324", "123456789.12345678", "1.7976931348623157e308"]
    {
        let value: Value = serde_json::from_str(text).unwrap();
        let again: Value = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
        assert_eq!(value, again, "{text}");
        assert_eq!(value.as_f64().unwrap(), text.parse::<f64>().unwrap(), "{text}");
    }
}
