//! Expressions of somebody who means harm: each is refused or evaluated within its bounds, and none ends the process. A stack that
//! overflows, or work without end, would end this test.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use stella_expression::{DEPTH_MAX, Error, Expression, NESTING_MAX, SOURCE_BYTES_MAX};

/// The stack that evaluation gets here: a quarter of what a thread of the control plane has.
const STACK_BYTES: usize = 512 << 10;

/// Compiles and evaluates on a small stack.
fn tried(source: String, variables: BTreeMap<String, Value>) -> Result<Value, Error> {
    let work = move || Expression::compile(&source)?.evaluate(&variables);
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(work)
        .expect("a thread")
        .join()
        .expect("no panic")
}

/// Texts that nest or go on `times` times.
fn shapes(times: usize) -> Vec<(&'static str, String)> {
    let around = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    vec![
        ("brackets", around("(", "1", ")")),
        ("lists", around("[", "1", "]")),
        ("maps", around("{'a':", "1", "}")),
        ("calls", around("size(", "'a'", ")")),
        ("macros", around("[1].map(a, ", "1", ")")),
        ("conditions in one another", around("true ? (", "1", ") : 2")),
        ("conditions", format!("{}1", "true ? 1 : ".repeat(times))),
        ("signs", format!("{}1", "-".repeat(times))),
        ("negations", format!("{}true", "!".repeat(times))),
        ("sums", format!("1{}", "+1".repeat(times))),
        ("conjunctions", format!("true{}", "&&true".repeat(times))),
        ("comparisons", format!("1{}", "<1".repeat(times))),
        ("selections", format!("a{}", ".b".repeat(times))),
        ("indexes", format!("a{}", "[0]".repeat(times))),
        ("methods", format!("'a'{}", ".size()".repeat(times))),
        ("membership", format!("1{}", " in [1]".repeat(times))),
        ("open brackets", "(".repeat(times)),
        ("closed brackets", ")".repeat(times)),
        ("quotes", "'".repeat(times)),
        ("question marks", "?".repeat(times)),
        ("dots", ".".repeat(times)),
        ("backslashes", format!("'{}", "\\".repeat(times))),
        ("ideographs", "語".repeat(times)),
        ("zeros", "\0".repeat(times)),
        ("digits", "9".repeat(times)),
        ("mixed", "([{a?-!".repeat(times)),
    ]
}

#[test]
fn no_shape_overflows_a_stack_at_any_length() {
    for times in
        [1, 8, NESTING_MAX - 1, NESTING_MAX, DEPTH_MAX - 2, DEPTH_MAX, 100, 400, 1_300, SOURCE_BYTES_MAX]
    {
        for (shape, source) in shapes(times) {
            let long = source.len() > SOURCE_BYTES_MAX;
            let result = tried(source, BTreeMap::from([("a".to_owned(), json!([[[1]]]))]));
            assert!(!long || matches!(result, Err(Error::TooLong { .. })), "{shape} {times}: {result:?}");
            assert!(!matches!(result, Err(Error::Defect)), "{shape} {times}");
        }
    }
}

#[test]
fn what_is_within_the_bounds_works() {
    for (shape, source) in shapes(NESTING_MAX - 2).into_iter().filter(|(shape, _)| {
        ["brackets", "lists", "conditions", "signs", "sums", "conjunctions"].contains(shape)
    }) {
        let result = tried(source, BTreeMap::new());
        assert!(result.is_ok(), "{shape}: {result:?}");
    }
}

#[test]
fn work_that_could_grow_without_bound_is_refused_before_it_begins() {
    let hosts: Vec<Value> = (0..1_000).map(|n| json!(format!("host-{n}"))).collect();
    let variables = || BTreeMap::from([("hosts".to_owned(), json!(hosts))]);
    let once = "hosts.all(a, a.startsWith('host'))";
    assert_eq!(tried(once.to_owned(), variables()), Ok(json!(true)));
    let gathered = tried("hosts.filter(a, a != 'host-1').map(a, a + '!')".to_owned(), variables()).unwrap();
    assert_eq!(gathered.as_array().map(Vec::len), Some(999));
    for source in [
        "hosts.all(a, hosts.all(b, hosts.all(c, a != b || b != c)))",
        "hosts.map(a, hosts.map(b, hosts))",
        "hosts.map(a, hosts).map(b, b.map(c, c + c))",
        "hosts.exists(a, hosts.map(b, a + b) == hosts)",
    ] {
        let result = tried(source.to_owned(), variables());
        assert!(matches!(result, Err(Error::TooCostly { .. })), "{source}: {result:?}");
    }
    // Lists that are written, and made longer from macro to macro.
    let tens = format!("[{}]", ["'x'"; 10].join(","));
    let nested =
        format!("{tens}.map(a, {tens}.map(b, {tens}.map(c, {tens}.map(d, {tens}.map(e, a + b + c + d)))))");
    assert!(matches!(tried(nested, BTreeMap::new()), Err(Error::TooCostly { .. })));
}

#[test]
fn looking_at_macros_in_one_another_is_no_work_by_itself() {
    let deep = NESTING_MAX - 1;
    let source = format!("{}1{}", "[].map(a, ".repeat(deep), ")".repeat(deep));
    let result = tried(source, BTreeMap::new());
    assert!(matches!(result, Ok(_) | Err(Error::TooCostly { .. } | Error::TooDeep { .. })), "{result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any text is refused or has a value or none; nothing else happens.
    #[test]
    fn any_text_is_an_expression_or_an_error(source in "[ -~]{0,60}|\\PC{0,40}") {
        let result = Expression::compile(&source).and_then(|it| it.evaluate(&BTreeMap::new()));
        prop_assert!(!matches!(result, Err(Error::Defect)), "{source}");
    }

    /// So is any row of what expressions are made of.
    #[test]
    fn any_row_of_tokens_is_an_expression_or_an_error(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "a", ".", "b", "(", ")", "[", "]", "{", "}", ",", ":", "?", "1", "-", "2u", "1.5", "'x'", "+", "*", "/", "%",
            "&&", "||", "!", "==", "<", " in ", "size", "map", "filter", "all", "has", "true", "null", "\"", "r'", "\\", "\n", "//",
        ]), 0..40)
    ) {
        let source = tokens.concat();
        let variables = BTreeMap::from([("a".to_owned(), json!({ "b": [1, "x", { "b": 2 }] }))]);
        let result = Expression::compile(&source).and_then(|it| it.evaluate(&variables));
        prop_assert!(!matches!(result, Err(Error::Defect)), "{source}");
    }
}
