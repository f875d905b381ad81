//! The names of fields where lines are written: most lines are never seen in a test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// What a line says about something with an id is under the overview's name for that id, and under no other.
const WRONG: [(&str, &str); 5] = [
    ("agent", "agentId"),
    ("task", "taskId"),
    ("tenant", "tenantId"),
    ("deployment", "deploymentJobId"),
    ("promotion", "promotionId"),
];

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("tests") {
            sources(&path, found)?;
        } else if is_source {
            found.push(path);
        }
    }
    Ok(())
}

/// What stands before the sentence in each call that writes a line.
fn fields(source: &str) -> impl Iterator<Item = &str> {
    let calls = LEVELS.iter().flat_map(|level| {
        let call = format!("tracing::{level}!(");
        source.match_indices(&call).map(|(at, found)| at + found.len()).collect::<Vec<_>>()
    });
    calls.map(|start| {
        let rest = &source[start..];
        // A field's value is no literal that has a quotation mark in it.
        let sentence = rest.find('"').unwrap_or(rest.len());
        &rest[..sentence.min(rest.find(");").unwrap_or(rest.len()))]
    })
}

fn wrong_names(fields: &str) -> impl Iterator<Item = String> {
    let names = fields.split(',').filter_map(|field| Some(field.split_once('=')?.0.trim()));
    names.filter_map(|name| {
        let (_, right) = WRONG.into_iter().find(|(wrong, _)| *wrong == name)?;
        Some(format!("{name} is {right}"))
    })
}

#[test]
fn what_has_an_id_is_called_the_same_in_each_line() -> Result<()> {
    let seen = wrong_names("tenantId = %tenant, agent = %agent, %error, ").collect::<Vec<_>>();
    assert_eq!(seen, ["agent is agentId"]);

    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for room in ["agent", "certs", "control-plane", "protocol"] {
        sources(&repository.join(room), &mut files)?;
    }
    let (mut calls, mut wrong) = (0, Vec::new());
    for file in files {
        let source = fs::read_to_string(&file)?;
        for fields in fields(&source) {
            calls += 1;
            wrong.extend(wrong_names(fields).map(|name| format!("{}: {name}", file.display())));
        }
    }
    ensure!(calls > 100, "only {calls} calls were found");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
