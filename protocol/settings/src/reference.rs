//! The reference page's tables, made from the keys.

use std::fmt::Write as _;

use crate::Key;

/// One table of all keys, in Markdown.
#[must_use]
pub fn reference(keys: &[Key]) -> String {
    let mut text = String::from("| key | default | unit, bounds | reload | |\n|---|---|---|---|---|\n");
    for Key { name, default, unit, about, reloads } in keys {
        let reload = if *reloads { "yes" } else { "restart" };
        // Writing to a string does not fail.
        writeln!(text, "| `{name}` | {default} | {unit} | {reload} | {about} |").ok();
    }
    text
}

/// A page with the table of this name in it, between `<!-- keys: NAME -->` and `<!-- end -->`; `None` if it has no such place.
#[must_use]
pub fn with_reference(page: &str, name: &str, keys: &[Key]) -> Option<String> {
    let (before, rest) = page.split_once(&format!("<!-- keys: {name} -->\n"))?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}<!-- keys: {name} -->\n{}<!-- end -->{after}", reference(keys)))
}
