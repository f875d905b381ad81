//! Results on standard output: a table for people, the API's JSON for programs.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::args::Output;
use crate::client::Error;

/// As a shell tells that SIGPIPE has ended a program.
const EXIT_NOBODY_READS: i32 = 141;

/// One line. Ends the program if it cannot be written: quietly if the reader has seen enough, as `head` has.
pub(crate) fn line(text: &str) {
    let Err(error) = writeln!(std::io::stdout(), "{text}") else { return };
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
    writeln!(std::io::stderr(), "warning: {text}").ok();
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
    line(&text);
    Ok(())
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all: Vec<Vec<String>> = vec![head.iter().map(|&cell| cell.to_owned()).collect()];
    all.extend(rows);
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
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text =
            table(&["NAME", "ID"], vec![vec!["staging".into(), "1".into()], vec!["é".into(), "22".into()]]);
        assert_eq!(text, "NAME     ID\nstaging  1\né        22");
    }
}
