//! Tables of states and facts that are committed: a change of a state machine is a change of such a file.

use std::fmt::Write as _;
use std::path::Path;

use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::state::State;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

/// Applies a fact to a state, long after everything before.
pub fn applied(state: &State, stream: StreamId, fact: &Fact) -> Option<State> {
    let (at, actor, trace) = (Timestamp(2_000_000), super::person(2), TraceContext::default());
    let mut after = state.clone();
    after.apply(stream, &Event { at, actor, trace, fact: fact.clone() }).ok()?;
    Some(after)
}

/// One line for each fact: what it makes of the state, or that it is refused.
pub fn rows(
    table: &mut String,
    label: &str,
    state: &State,
    stream: StreamId,
    facts: &[(&str, Fact)],
    seen: &dyn Fn(&State) -> String,
) {
    writeln!(table, "{label}: {}", seen(state)).unwrap();
    for (name, fact) in facts {
        assert!(name.starts_with(fact.name()), "{name} is {}", fact.name());
        let result = applied(state, stream, fact);
        let result = result.map_or_else(|| "refused".to_owned(), |after| format!("-> {}", seen(&after)));
        writeln!(table, "    {name:<46} {result}").unwrap();
    }
}

/// Compares a table with the committed one; `UPDATE_GOLDEN=1` writes it anew.
pub fn compare(file: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, table).unwrap();
    }
    let committed = std::fs::read_to_string(&path).expect("a committed table; UPDATE_GOLDEN=1 writes it");
    for (line, (want, got)) in committed.lines().zip(table.lines()).enumerate() {
        assert_eq!(want, got, "line {}; if it is meant, UPDATE_GOLDEN=1 writes the table anew", line + 1);
    }
    assert_eq!(committed.len(), table.len(), "the table has grown or shrunk");
}
