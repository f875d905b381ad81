//! Results on standard output: a table for people, the API's JSON for programs.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::args::Output;
use crate::client::Error;

/// As a shell tells that SIGPIPE has ended a program.
const EXIT_NOBODY_READS: i32 = 141;

/// Whether a character may move the cursor, change what is shown already, or turn the order of what follows. What hosts and people have
/// said is not believed to be free of them.
fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) && !stays(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A text as it may be written to a terminal; its lines stay lines.
pub(crate) fn harmless(text: &str) -> String {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

/// The same for what is a part of a line: it cannot begin another one, which would look like ours.
pub(crate) fn one_line(text: &str) -> String {
    escaped(text, |_| false)
}

/// Output of a task as it may be written to a terminal. Bytes that are no text stay as they are: a terminal makes nothing of them, and the
/// rest of a character may be in the next piece.
pub(crate) fn harmless_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown.extend_from_slice(harmless(chunk.valid()).replace("\\r\n", "\n").as_bytes());
        shown.extend_from_slice(chunk.invalid());
    }
    shown
}

/// A reason at the end of a sentence, if there is one.
pub(crate) fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {}", one_line(reason))).unwrap_or_default()
}

/// Whether lines on standard output can be taken back: it is a terminal, and one that can do more than print.
pub(crate) fn can_take_back() -> bool {
    !indicatif::ProgressDrawTarget::stdout().is_hidden()
}

/// Takes back so many lines of a terminal: what comes next is written over them.
pub(crate) fn take_back(lines: usize) {
    write_or_end(&format!("\x1b[{lines}A\x1b[J"));
}

/// One line, or several; nothing in it is taken for a command by a terminal. Ends the program if it cannot be written: quietly if the reader has seen enough, as `head` has.
pub(crate) fn line(text: &str) {
    write_or_end(&format!("{}\n", harmless(text)));
}

fn write_or_end(text: &str) {
    let mut out = std::io::stdout();
    let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(EXIT_NOBODY_READS);
    }
    let error = Error::Usage(format!("the output cannot be written: {error}"));
    writeln!(std::io::stderr(), "stella: {error}").ok();
    std::process::exit(error.exit_code().into());
}

/// One line that is no part of the result.
pub(crate) fn warning(text: &str) {
    // Nobody is left to be told when standard error is gone.
    writeln!(std::io::stderr(), "warning: {}", harmless(text)).ok();
}

/// One line about the result, on standard error.
pub(crate) fn note(text: &str) {
    writeln!(std::io::stderr(), "({})", harmless(text)).ok();
}

/// The JSON of a result, or the line for people.
pub(crate) fn result<T: Serialize>(
    output: Output,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Error> {
    match output {
        Output::Json => json(value),
        Output::Text => {
            line(&text(value));
            Ok(())
        }
    }
}

/// Many results: a JSON array, or a table.
pub(crate) fn list<T: Serialize>(
    output: Output,
    items: &[T],
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Error> {
    match output {
        Output::Json => json(&items),
        Output::Text => {
            line(&table(head, items.iter().map(row).collect()));
            Ok(())
        }
    }
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Usage(error.to_string()))?;
    json_line(&text);
    Ok(())
}

/// A line of JSON as it is, but for what a terminal would act on: only texts have that in them, where it can be written as an escape.
pub(crate) fn json_line(text: &str) {
    write_or_end(&format!("{}\n", safe_json(text)));
}

fn safe_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) && !matches!(character, '\n' | '\r' | '\t') {
            // Writing to a text cannot fail. All of them have four digits.
            let _written = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// So many of something: `1 target`, `2 targets`.
pub(crate) fn count(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all: Vec<Vec<String>> = vec![head.iter().map(|&cell| cell.to_owned()).collect()];
    all.extend(rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()));
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let lines: Vec<String> = all
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text =
            table(&["NAME", "ID"], vec![vec!["staging".into(), "1".into()], vec!["é".into(), "22".into()]]);
        assert_eq!(text, "NAME     ID\nstaging  1\né        22");
    }

    #[test]
    fn what_hosts_say_is_no_command_to_a_terminal_and_no_line_of_ours() {
        let hostile = "web\u{1b}[2K\r\n\u{9b}31m\u{202e}\u{7}";
        let shown = r"web\u{1b}[2K\r\n\u{9b}31m\u{202e}\u{7}";
        assert_eq!(one_line(hostile), shown);
        assert_eq!(because(Some(hostile)), format!(": {shown}"));
        assert_eq!(table(&["NAME"], vec![vec![hostile.into()]]), format!("NAME\n{shown}"));
        assert_eq!(harmless("two\n\tlines \u{1b}c"), "two\n\tlines \\u{1b}c");
    }

    #[test]
    fn output_keeps_its_lines_and_what_is_no_text() {
        assert_eq!(harmless_bytes(b"a\r\n\tb\x1b[31m \xe2\x82"), b"a\n\tb\\u{1b}[31m \xe2\x82");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "host": "\u{1b}]52;c;\u{9b}\u{202e}\n", "é": 1 });
        let text = safe_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|character| character == '\n' || !is_harmful(character)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
