//! What expressions say, and what is said about wrong ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stella_expression::{Error, Expression, FUNCTIONS};

fn variables() -> BTreeMap<String, Value> {
    let inputs = json!({ "size": 3, "ratio": 0.5, "name": "straße", "dry": false, "hosts": ["a1", "a2", "b1"],
        "labels": { "tier": "web", "a.b": "dotted" }, "none": null });
    BTreeMap::from([("inputs".to_owned(), inputs), ("unused".to_owned(), json!("x".repeat(100_000)))])
}

fn value(source: &str) -> Result<Value, Error> {
    Expression::compile(source)?.evaluate(&variables())
}

#[test]
fn an_expression_computes_with_what_it_is_given() {
    for (source, expected) in [
        ("inputs.size + 1", json!(4)),
        ("inputs.size > 2 && !inputs.dry", json!(true)),
        ("inputs.ratio * 2.0", json!(1.0)),
        ("size(inputs.name)", json!(6)),
        ("inputs.name.startsWith('str') ? 'yes' : 'no'", json!("yes")),
        ("inputs.hosts.filter(it, it.startsWith('a'))", json!(["a1", "a2"])),
        ("inputs.hosts.map(it, it + '!')", json!(["a1!", "a2!", "b1!"])),
        ("inputs.hosts.exists(it, it == 'b1') && inputs.hosts.all(it, size(it) == 2)", json!(true)),
        ("inputs.labels['a.b']", json!("dotted")),
        ("has(inputs.labels.tier) && !has(inputs.labels.other)", json!(true)),
        ("'b1' in inputs.hosts", json!(true)),
        ("{'a': [1, 2u], 'b': inputs.none}", json!({ "a": [1, 2], "b": null })),
        ("int('4') + int(1.9) + int(2u)", json!(7)),
        ("string(1) + string(true)", json!("1true")),
        ("'größe'.contains('ö') && 'a'.endsWith('a') && bool('true')", json!(true)),
        ("double('1.5') > 1.0 && uint(1) == 1u", json!(true)),
    ] {
        assert_eq!(value(source), Ok(expected), "{source}");
    }
}

#[test]
fn every_function_that_is_offered_is_there() {
    for function in FUNCTIONS {
        let source = match function {
            "contains" | "startsWith" | "endsWith" => format!("'a'.{function}('a')"),
            "size" => "size('a')".to_owned(),
            "bool" => "bool('true')".to_owned(),
            _ => format!("{function}('1')"),
        };
        assert!(value(&source).is_ok(), "{source}: {:?}", value(&source));
    }
}

#[test]
fn the_names_that_are_used_are_known_with_their_places() {
    let source = "inputs.size > 1 &&\n  steps.smoke.outputs['code'].exists(x, x == inputs.n && has(y.z))";
    let expression = Expression::compile(source).unwrap();
    let seen: Vec<(String, usize, usize)> = expression
        .references()
        .iter()
        .map(|it| {
            let path = std::iter::once(&it.name).chain(&it.fields).cloned().collect::<Vec<_>>().join("/");
            (path, it.at.line, it.at.column)
        })
        .collect();
    let expected =
        [("inputs/size", 1, 1), ("steps/smoke/outputs/code", 2, 3), ("inputs/n", 2, 46), ("y/z", 2, 62)];
    assert_eq!(seen, expected.map(|(path, line, column)| (path.to_owned(), line, column)));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (source, expected) in [
        ("  ", "is empty; leave it out, or write an expression such as inputs.size > 3"),
        ("inputs.size >", "at character 14: "),
        ("1 +\n* 2", "at line 2, character 1: "),
        ("inputs.name.matches('a')", "at character 20: there is no function matches; there are size, "),
        ("Message{a: 1}", "at character 8: a message cannot be used here"),
        ("b'abc'", "at character 1: a literal of bytes cannot be used here"),
        ("optional.of(1)", "at character 12: there is no function of; "),
        ("inputs.?size", "at character "),
    ] {
        let message = Expression::compile(source).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{source}: {message}");
    }
}

#[test]
fn a_part_without_a_value_is_an_error_and_no_default() {
    for (source, expected) in [
        ("inputs.nothing == 1", "has no value: No such key: nothing"),
        ("1 / (inputs.size - 3)", "has no value: Division by zero"),
        ("inputs.size < 'a'", "has no value: "),
        ("other.x", "has no value: Undeclared reference to 'other'"),
        ("9223372036854775807 + inputs.size", "has no value: "),
        ("-(-9223372036854775807 - 1)", "has no value: "),
        ("1.0 / 0.0", "has a value of a kind that cannot be kept: a number that is infinite or none"),
        ("{1: 2}", "has a value of a kind that cannot be kept: a map with keys that are not texts"),
    ] {
        let message = value(source).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{source}: {message}");
    }
    let number = Expression::compile("inputs.size").unwrap().holds(&variables());
    assert_eq!(number.unwrap_err().to_string(), "must be true or false, and is a number");
    // Quoted values are cut.
    let long = BTreeMap::from([("x".to_owned(), json!("y".repeat(5_000)))]);
    let quoted = Expression::compile("x < 1").unwrap().evaluate(&long).unwrap_err().to_string();
    assert!(quoted.chars().count() < 250, "{quoted}");
}
