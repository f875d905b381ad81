//! The load tool works, each of its measurements on the smallest sizes. Its figures are judged by people, in release builds.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Runs a measurement and gives its figures, which are all finite numbers with a unit.
fn figures(arguments: &[&str]) -> Result<Vec<Value>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stella-load"));
    let output = command.args(["--output", "json"]).args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    ensure!(!figures.is_empty(), "{arguments:?} has no figures");
    for figure in &figures {
        ensure!(figure["phase"] == arguments[0], "{figure}");
        ensure!(figure["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{figure}");
        ensure!(figure["value"].as_f64().is_some_and(|value| value.is_finite() && value >= 0.0), "{figure}");
    }
    Ok(figures)
}

/// Whether one of the figures stands beside what the machine can do at all.
fn have_a_ratio(figures: &[Value]) -> Result<()> {
    let ratio = |figure: &Value| figure["raw"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0);
    ensure!(figures.iter().any(ratio), "no figure is a ratio: {figures:?}");
    Ok(())
}

/// Wants a figure above zero whose description begins like this.
fn has(figures: &[Value], what: &str) -> Result<()> {
    let named = |figure: &&Value| figure["what"].as_str().is_some_and(|it| it.starts_with(what));
    let found = figures.iter().find(named).with_context(|| format!("no figure {what:?} in {figures:#?}"))?;
    ensure!(found["value"].as_f64().is_some_and(|value| value > 0.0), "{found}");
    Ok(())
}

#[test]
fn a_few_agents_finish_their_tasks() -> Result<()> {
    let figures = figures(&["tasks", "--agents", "5", "--steps", "3", "--seconds", "1"])?;
    has(&figures, "durable life cycles, 5 simulated agents")?;
    has(&figures, "control plane processor time")?;
    have_a_ratio(&figures)
}

#[test]
fn idle_agents_are_weighed() -> Result<()> {
    let figures = figures(&["idle", "--sizes", "1,10"])?;
    // A single agent may fit into what is there already.
    ensure!(figures.iter().any(|it| it["what"].as_str().is_some_and(|it| it.contains("(1 in all)"))));
    has(&figures, "control plane memory with 10 agents")
}

#[test]
fn the_core_is_timed_and_weighed_at_each_size() -> Result<()> {
    let figures = figures(&["core", "--sizes", "10,20"])?;
    for size in ["10", "20"] {
        let of_size = |figure: &&Value| figure["what"].as_str().is_some_and(|it| it.contains(size));
        ensure!(
            figures.iter().filter(of_size).any(|it| it["value"].as_f64() > Some(0.0)),
            "{size}: {figures:#?}"
        );
    }
    Ok(())
}

#[test]
fn a_request_is_timed_up_to_a_real_agent() -> Result<()> {
    let figures = figures(&["dispatch", "--samples", "5", "--sizes", "0,3"])?;
    has(&figures, "request -> accepted (journal time), beside 0 agents, p50 of 5")?;
    has(&figures, "request -> accepted (journal time), beside 3 agents, p99 of 5")?;
    has(&figures, "memory of the real agent")?;
    have_a_ratio(&figures)
}

#[test]
fn heartbeats_are_compared_with_bare_quinn() -> Result<()> {
    let figures = figures(&["heartbeats", "--agents", "5", "--seconds", "12"])?;
    has(&figures, "control plane processor time of a heartbeat, 5 agents")?;
    have_a_ratio(&figures)
}

#[test]
fn commands_of_real_agents_are_compared_with_bare_ones() -> Result<()> {
    have_a_ratio(&figures(&["real", "--agents", "1", "--steps", "2"])?)
}

/// In five seconds what one beat in a thousand leaves is not seen in memory, but a byte on the disk or an event is.
#[test]
fn heartbeats_leave_nothing_behind() -> Result<()> {
    let figures = figures(&["day", "--agents", "5", "--beats", "50"])?;
    for figure in figures.iter().filter(|figure| figure["unit"] != "MiB") {
        ensure!(figure["value"].as_f64() == Some(0.0), "{figure}");
    }
    // A megabyte is what fifty beats of 20 KiB each would be.
    let of_agent =
        figures.iter().find(|figure| figure["what"].to_string().contains("a real agent has grown"));
    ensure!(of_agent.is_some_and(|figure| figure["goal"]["met"] == true), "{of_agent:?}");
    Ok(())
}

#[test]
fn agents_come_back_after_a_kill() -> Result<()> {
    let figures = figures(&["reconnect", "--agents", "5"])?;
    ensure!(figures.iter().all(|it| it["value"].as_f64() > Some(0.0)), "{figures:#?}");
    Ok(())
}

#[test]
fn a_journal_is_replayed() -> Result<()> {
    have_a_ratio(&figures(&["replay", "--events", "500"])?)
}

#[test]
fn scrapes_are_timed_while_something_is_written() -> Result<()> {
    let figures = figures(&["scrape", "--agents", "5"])?;
    // Three types of steps, each with 12 buckets, sum, count and 5 ends, for each agent: a fleet that has worked.
    let series = figures.iter().find_map(|it| {
        it["what"].as_str()?.strip_prefix("a scrape, p50, 5 agents, ")?.strip_suffix(" series")
    });
    let series: usize = series.with_context(|| format!("{figures:#?}"))?.parse()?;
    ensure!(series > 5 * 3 * (12 + 2 + 5), "{series} series");
    has(&figures, "a durable write while scrapes follow each other")?;
    have_a_ratio(&figures)
}

#[test]
fn the_archive_is_filled() -> Result<()> {
    let figures = figures(&["archive", "--deployments", "50"])?;
    ensure!(figures.iter().any(|it| it["value"].as_f64() > Some(0.0)), "{figures:#?}");
    Ok(())
}
