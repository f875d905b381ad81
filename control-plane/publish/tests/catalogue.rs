//! The page of events in the book has every event of the journal, with its fields and its stream.
#![allow(clippy::unwrap_used, reason = "a test ends there, with the place")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What the page says of an event, and what the code has.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    stream: String,
    fields: Vec<String>,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The variants of `Fact` as the source has them, by the layout that rustfmt gives it. Comments say which stream the ones below belong to;
/// what may be missing ends with a question mark.
fn in_code() -> BTreeMap<String, Entry> {
    let source = read("control-plane/domain/src/event.rs");
    let body = source.split_once("pub enum Fact {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let (mut found, mut stream, mut current, mut is_optional) = (BTreeMap::new(), "", None, false);
    for line in body.lines() {
        let (indent, text) = (line.len() - line.trim_start().len(), line.trim());
        match (indent, text) {
            (4, comment) if comment.starts_with("// ") => {
                stream = match comment.trim_start_matches("// ").split_whitespace().next().unwrap() {
                    "System" => "system",
                    "Either" => "either",
                    _ => "tenant",
                };
            }
            (4, opening) if opening.ends_with(" {") => {
                let name = snake_case(opening.trim_end_matches(" {"));
                found.insert(name.clone(), Entry { stream: stream.to_owned(), fields: Vec::new() });
                current = Some(name);
            }
            (8, attribute) if attribute.starts_with("#[serde(default") => is_optional = true,
            (8, field) if !field.starts_with(['#', '/']) => {
                let (name, kind) = field.split_once(": ").unwrap();
                let may_miss = std::mem::take(&mut is_optional) || kind.starts_with("Option<");
                let mark = if may_miss { "?" } else { "" };
                let of: &mut Entry = found.get_mut(current.as_ref().unwrap()).unwrap();
                of.fields.push(format!("{name}{mark}"));
            }
            _ => {}
        }
    }
    found
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// The rows of the page's tables: event, stream, fields, meaning.
fn in_page(page: &str) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [event, stream, fields, meaning] = cells.as_slice() else { continue };
        let name = event.split('`').nth(1).unwrap().to_owned();
        let fields = fields.split(", ").filter(|it| !it.is_empty());
        let fields = fields.map(|it| it.replace('`', "")).collect();
        assert!(!meaning.is_empty(), "{name} has no meaning");
        let entry = Entry { stream: (*stream).to_owned(), fields };
        assert!(found.insert(name.clone(), entry).is_none(), "{name} is there twice");
    }
    found
}

#[test]
fn every_event_is_in_the_book_with_its_fields_and_its_stream() {
    let (code, page) = (in_code(), read("docs/events.md"));
    assert!(code.len() > 50, "the source is laid out in another way: {code:?}");
    assert_eq!(code["api_token_created"].fields, ["id", "name", "hash", "account?", "expires_at?"]);
    let written = in_page(&page);
    let row = |(name, entry): (&String, &Entry)| {
        let fields: Vec<_> = entry.fields.iter().map(|it| format!("`{it}`")).collect();
        format!("| `{name}` | {} | {} | what it means |", entry.stream, fields.join(", "))
    };
    let missing = code.iter().filter(|(name, entry)| written.get(*name) != Some(entry));
    let missing: Vec<_> = missing.map(row).collect();
    assert!(missing.is_empty(), "docs/events.md must have rows like these\n{}", missing.join("\n"));
    let unknown: Vec<_> = written.keys().filter(|name| !code.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "docs/events.md has events that there are not: {unknown:?}");
}

#[test]
fn the_command_line_knows_every_type_of_event() {
    let source = read("control-plane/cli/src/args/event_types.rs");
    let names = source.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let (known, all): (Vec<_>, Vec<_>) = (names.collect(), in_code().into_keys().collect());
    assert_eq!(known, all, "event_types.rs must have these");
}
