//! The book: it builds, every page is in its table of contents, and every link within it leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use stella_tests::daemon;

/// All files below a folder with this ending.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut files(&path, ending)?);
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The values of an attribute in a page, as mdBook writes it.
fn attributes<'p>(page: &'p str, name: &str) -> impl Iterator<Item = &'p str> {
    let start = format!(" {name}=\"");
    page.match_indices(&start)
        .filter_map(|(at, found)| page.get(at + found.len()..)?.split('"').next())
        .collect::<Vec<_>>()
        .into_iter()
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normal.push(part),
        }
    }
    normal
}

fn docs() -> PathBuf {
    normal(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs"))
}

#[test]
fn every_link_of_the_built_book_leads_somewhere() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (from, to) = (docs().display().to_string(), folder.path().display().to_string());
    daemon::run(Path::new("mdbook"), &["build", &from, "--dest-dir", &to])
        .context("mdbook is needed; `make tools` installs it")?;
    let mut pages = BTreeMap::new();
    for path in files(folder.path(), "html")? {
        pages.insert(path.clone(), fs::read_to_string(&path)?);
    }
    ensure!(pages.len() > 40, "only {} pages", pages.len());
    let anchors: BTreeMap<_, BTreeSet<_>> =
        pages.iter().map(|(path, page)| (path, attributes(page, "id").collect())).collect();
    let mut broken = Vec::new();
    // These two have the same links as the pages that they are made of, from another folder.
    let made = |path: &Path| path.file_name().is_some_and(|name| name == "print.html" || name == "404.html");
    for (path, page) in pages.iter().filter(|(path, _)| !made(path)) {
        for link in
            attributes(page, "href").filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let base = path.parent().context("a page has a folder")?;
            let target = if file.is_empty() { path.clone() } else { normal(&base.join(file)) };
            let is_there = match anchors.get(&target) {
                Some(anchors) => anchor.is_empty() || anchors.contains(anchor),
                None => target.is_file(),
            };
            if !is_there {
                broken.push(format!("{}: {link}", path.strip_prefix(folder.path())?.display()));
            }
        }
    }
    ensure!(broken.is_empty(), "{broken:#?}");
    // Where alerts lead to.
    let rules = fs::read_to_string(docs().join("../packaging/observability/rules.yml"))?;
    let linked: Vec<_> =
        rules.split("runbook_url: \"").skip(1).filter_map(|it| it.split('"').next()).collect();
    ensure!(!linked.is_empty(), "no alert has a runbook");
    for page in linked {
        ensure!(folder.path().join(page).is_file(), "{page} is not in the built book");
    }
    Ok(())
}

#[test]
fn every_page_is_in_the_table_of_contents() -> Result<()> {
    let docs = docs();
    let contents = fs::read_to_string(docs.join("SUMMARY.md"))?;
    for page in files(&docs, "md")? {
        let name = page.strip_prefix(&docs)?.display().to_string();
        ensure!(
            name == "SUMMARY.md" || contents.contains(&format!("({name})")),
            "{name} is not in SUMMARY.md"
        );
    }
    Ok(())
}

/// The rows of the threat table name the tests that show them.
#[test]
fn the_tests_that_the_security_page_names_are_there() -> Result<()> {
    let page = fs::read_to_string(docs().join("security.md"))?;
    let is_test = |word: &&str| {
        word.matches('_').count() >= 2
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    ensure!(named.len() > 50, "only {} tests are named", named.len());
    let mut sources = String::new();
    for room in ["agent", "certs", "control-plane", "protocol", "tests"] {
        for file in files(&docs().join("..").join(room), "rs")? {
            sources.push_str(&fs::read_to_string(file)?);
        }
    }
    let is_there = |name: &&&str| {
        let at = sources.find(&format!("fn {name}("));
        // Its attribute is a few lines above at most.
        at.is_some_and(|at| sources[sources.floor_char_boundary(at.saturating_sub(300))..at].contains("test"))
    };
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    ensure!(missing.is_empty(), "{missing:?}");
    Ok(())
}
