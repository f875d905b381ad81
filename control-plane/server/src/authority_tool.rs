//! `stella-orchestrator ca`: asks the running control plane to change its certificate authority.

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use clap::Subcommand;

use crate::authority::{Report, Step};
use crate::config_tool::Output;
use crate::local;

/// What to do with the certificate authority.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Show its certificates, how far a rotation is, and which agents are behind.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca status")]
    Status {
        /// How to show it.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Replace the issuing certificate and its key, under the same root. Needs root.key.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca rotate-issuing")]
    RotateIssuing,
    /// Replace the root, in steps. Agents that are away meanwhile are brought over when they come back, until `finish`.
    #[command(subcommand)]
    Rotate(RotateCommand),
}

/// The steps, in their order.
#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// Make a new root, and tell all agents to trust it beside the old one. Needs root.key.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca rotate start")]
    Start,
    /// Issue everything under the new root from now on. Both are trusted.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca rotate switch")]
    Switch,
    /// Trust the old root no more, and destroy its keys that are here.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca rotate finish")]
    Finish {
        /// Also if agents are cut off by it: they have to enrol again.
        #[arg(long)]
        leave_behind: bool,
    },
    /// Give the new root up, before the switch.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca rotate cancel")]
    Cancel,
}

/// Runs one.
pub(crate) fn run(command: &CaCommand, state_dir: &Path) -> anyhow::Result<bool> {
    let (step, output) = match command {
        CaCommand::Status { output } => (Step::Status, *output),
        CaCommand::RotateIssuing => (Step::RotateIssuing, Output::Text),
        CaCommand::Rotate(RotateCommand::Start) => (Step::Start, Output::Text),
        CaCommand::Rotate(RotateCommand::Switch) => (Step::Switch, Output::Text),
        CaCommand::Rotate(RotateCommand::Finish { leave_behind }) => {
            (Step::Finish { leave_behind: *leave_behind }, Output::Text)
        }
        CaCommand::Rotate(RotateCommand::Cancel) => (Step::Cancel, Output::Text),
    };
    let mut answer = local::call(state_dir, &local::Request::Ca(step))?.with_context(|| {
        format!(
            "no control plane runs on {}; start it: the authority is changed while it runs, for agents to hear of it",
            state_dir.display()
        )
    })?;
    let mut said = Vec::new();
    answer.read_to_end(&mut said)?;
    let report: Report = serde_json::from_slice(&said).context("the control plane's answer was cut short")?;
    let mut out = io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        Output::Text => describe(&mut out, &report)?,
    }
    Ok(true)
}

fn describe(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "root     {}  until {}", report.root.fingerprint, report.root.not_after)?;
    writeln!(out, "issuing  {}  until {}", report.issuing.fingerprint, report.issuing.not_after)?;
    if let Some(other) = &report.other_root {
        let which = if report.phase.as_deref() == Some("switched") { "old root" } else { "new root" };
        writeln!(out, "{which} {}  until {}", other.fingerprint, other.not_after)?;
    }
    let behind = report.behind;
    match report.phase.as_deref() {
        Some("distributing") => {
            writeln!(
                out,
                "rotation: distributing, {} of {} agents trust the new root",
                report.agents - behind,
                report.agents
            )?;
            writeln!(out, "next: stella-orchestrator ca rotate switch")?;
        }
        Some(_) => {
            writeln!(
                out,
                "rotation: switched, {} of {} agents are of the new root",
                report.agents - behind,
                report.agents
            )?;
            writeln!(out, "next: stella-orchestrator ca rotate finish")?;
        }
        None if behind > 0 => {
            writeln!(out, "{behind} agents were left behind by a rotation and have to enrol again")?
        }
        None => {}
    }
    for it in &report.behind_agents {
        writeln!(out, "behind: {}/{} ({})", it.tenant, it.agent, it.connectivity)?;
    }
    if behind > report.behind_agents.len() {
        writeln!(out, "behind: and {} more", behind - report.behind_agents.len())?;
    }
    Ok(())
}
