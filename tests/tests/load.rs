//! The load tool works. Its figures are judged by people, in release builds.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

#[test]
fn a_few_agents_finish_their_tasks_and_the_figures_are_json() -> Result<()> {
    let arguments = ["--output", "json", "tasks", "--agents", "5", "--steps", "3", "--seconds", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_stella-load")).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let first = figures.first().context("there are no figures")?;
    ensure!(first["phase"] == "tasks" && first["unit"] == "a second", "{first}");
    ensure!(first["value"].as_f64().is_some_and(|value| value > 0.0), "{first}");
    ensure!(first["raw"]["ratio"].is_number(), "{first}");
    Ok(())
}
