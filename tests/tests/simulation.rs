//! Deployments that only happen in the mind of the command line.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{release, shell};

/// What the command line ended with and said. Nothing of this machine's is known to it.
fn stella(folder: &Path, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(arguments).current_dir(folder).env("HOME", folder).stdin(Stdio::null());
    let ended = stella.output()?;
    Ok((ended.status.code(), String::from_utf8([ended.stdout, ended.stderr].concat())?))
}

/// A scenario of the book.
fn of_the_book(number: usize) -> Result<String> {
    let scenarios = stella_tests::guide::blocks("simulation", "yaml")?;
    scenarios.into_iter().nth(number).context("no scenario")
}

#[test]
fn the_scenario_of_the_book_says_what_the_book_says_and_the_same_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("scenario.yaml"), of_the_book(0)?)?;
    let page = include_str!("../../docs/simulation.md");
    let (code, one) = stella(folder.path(), &["simulate", "scenario.yaml", "--events", "one.jsonl"])?;
    ensure!(code == Some(0), "{one}");
    // But for the digest of the events, which say more with each version.
    let (result, _) = one.rsplit_once("\n  log ").context("no line about the log")?;
    ensure!(page.contains(result), "the book does not have: {one}");
    let (code, many) = stella(folder.path(), &["simulate", "scenario.yaml", "--runs", "20"])?;
    ensure!(code == Some(1), "{many}");
    ensure!(page.contains(many.trim_end()), "the book does not have: {many}");

    let (_, again) = stella(folder.path(), &["simulate", "scenario.yaml", "--events", "again.jsonl"])?;
    assert_eq!(one, again);
    let events = std::fs::read(folder.path().join("one.jsonl"))?;
    assert_eq!(events, std::fs::read(folder.path().join("again.jsonl"))?);
    let digest = one.rsplit(' ').next().unwrap_or_default().trim();
    assert_eq!(stella_tests::recipe::digest(&events), digest);
    Ok(())
}

#[test]
fn the_way_of_the_book_takes_as_long_as_the_book_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("scenario.yaml"), of_the_book(1)?)?;
    let (code, said) = stella(folder.path(), &["simulate", "scenario.yaml"])?;
    let (result, _) = said.rsplit_once("\n  log ").context("no line about the log")?;
    let page = include_str!("../../docs/simulation.md");
    ensure!(code == Some(0) && page.contains(result), "the book does not have: {said}");
    Ok(())
}

#[test]
fn what_is_wrong_with_a_scenario_is_said_with_its_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(
        folder.path().join("s.yaml"),
        "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s, fail: 1%}]\n",
    )?;
    let (code, said) = stella(folder.path(), &["simulate", "s.yaml"])?;
    assert_eq!(code, Some(2));
    ensure!(said.contains("s.yaml: line 2, column 30: steps[0].fail: unknown field"), "{said}");
    let (code, said) = stella(folder.path(), &["simulate", "s.yaml", "--runs", "0"])?;
    ensure!(code == Some(2) && said.contains("1..=10000"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_described_with_what_its_steps_took_and_can_be_simulated() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let folder = tempfile::tempdir()?;
    let flags = cluster.control_plane.stella_flags();
    let asked = |arguments: &[&str]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["-t", TENANT]).collect();
        stella(folder.path(), &[flags.as_slice(), arguments].concat())
    };
    let (code, said) = asked(&["env", "scenario", ENVIRONMENT])?;
    ensure!(code == Some(2) && said.contains("nothing was deployed"), "{said}");
    cluster.release(&release("1.0.0", &[], vec![shell("work", "sleep 1")])).await?;
    let (_, said) = asked(&["env", "scenario", ENVIRONMENT, "--release", "app:1.0.0"])?;
    ensure!(said.contains("nobody knows yet how long it takes: work"), "{said}");
    for rule in
        [["env", "budget", ENVIRONMENT, "--at-most", "50%"], ["env", "silence", ENVIRONMENT, "--share", "40"]]
    {
        let (code, said) = asked(&rule)?;
        ensure!(code == Some(0), "{said}");
    }
    let (code, said) = asked(&["deploy", "app:1.0.0", ENVIRONMENT, "--wait"])?;
    ensure!(code == Some(0), "{said}");

    let (code, scenario) = asked(&["env", "scenario", ENVIRONMENT])?;
    ensure!(code == Some(0) && scenario.contains("budget: 50%"), "{scenario}");
    std::fs::write(folder.path().join("scenario.yaml"), &scenario)?;
    let (code, said) = stella(folder.path(), &["simulate", "scenario.yaml", "-o", "json"])?;
    ensure!(code == Some(0), "{scenario}\n{said}");
    let outcome: Value = serde_json::from_str(&said)?;
    assert_eq!((&outcome["status"], &outcome["targets"]["have_it"]), (&"succeeded".into(), &2.into()));
    // One after the other, a second each at least: it was measured.
    ensure!(outcome["duration_ms"].as_u64() >= Some(2_000), "{outcome}");

    // What comes before is a part of it.
    let _never_there = cluster.enrolled("early", &[]).await?;
    for more in [
        &["env", "create", "before"][..],
        &["target", "create", "early", "--env", "before", "--agent", "early"],
        &["env", "path", ENVIRONMENT, "--after", "before", "--soak", "2h"],
    ] {
        let (code, said) = asked(more)?;
        ensure!(code == Some(0), "{said}");
    }
    let (_, scenario) = asked(&["env", "scenario", ENVIRONMENT])?;
    std::fs::write(folder.path().join("scenario.yaml"), &scenario)?;
    let (code, said) = stella(folder.path(), &["simulate", "scenario.yaml"])?;
    ensure!(
        code == Some(0) && said.contains("it has to succeed in before for 2h first"),
        "{scenario}\n{said}"
    );
    Ok(())
}
