//! `stella-orchestrator ca`: asks the running control plane to change its certificate authority. For a stopped one it makes one where the old one is
//! lost, and replaces an issuing certificate that has ended.

use std::fs;
use std::io::{self, Read, Write};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use stella_certs::Authority;
use stella_durable::Store;

use crate::authority::{Report, Step, written};
use crate::config::Config;
use crate::config_tool::Output;
use crate::doctor::BOOK;
use crate::local;
use crate::owner::become_owner;
use crate::written_by;

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
    /// Make a new authority where there is none any more, while the control plane is stopped: the old one is lost, and so is every backup of
    /// it. All agents have to enrol again.
    #[command(after_help = "Example:\n  sudo stella-orchestrator ca create")]
    Create,
    /// Replace the issuing certificate and its key, under the same root. Needs root.key. If no control plane runs, because that certificate
    /// has ended say, it is replaced for the next start.
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
pub(crate) fn run(command: &CaCommand, config: &Config) -> anyhow::Result<bool> {
    let state_dir = &config.state_dir;
    let (step, output) = match command {
        CaCommand::Create => return create(config).map(|()| true),
        CaCommand::Status { output } => (Step::Status, *output),
        CaCommand::RotateIssuing => (Step::RotateIssuing, Output::Text),
        CaCommand::Rotate(RotateCommand::Start) => (Step::Start, Output::Text),
        CaCommand::Rotate(RotateCommand::Switch) => (Step::Switch, Output::Text),
        CaCommand::Rotate(RotateCommand::Finish { leave_behind }) => {
            (Step::Finish { leave_behind: *leave_behind }, Output::Text)
        }
        CaCommand::Rotate(RotateCommand::Cancel) => (Step::Cancel, Output::Text),
    };
    let Some(mut answer) = local::call(state_dir, &local::Request::Ca(step))? else {
        ensure!(
            step == Step::RotateIssuing,
            "no control plane runs on {}; start it: the authority is changed while it runs, for agents to hear of it",
            state_dir.display()
        );
        return replace_issuing(config).map(|()| true);
    };
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

/// Replaces it where no control plane runs: one does not start once it has ended. No agent has to hear of it.
fn replace_issuing(config: &Config) -> anyhow::Result<()> {
    let (state_dir, journal) = (&config.state_dir, config.journal_dir());
    let _as_owner = become_owner(state_dir)?;
    ensure!(
        written_by::has_authority(state_dir)?,
        "there is no certificate authority in {}: {BOOK}/disaster-recovery.md, The authority is lost",
        state_dir.join("pki").display()
    );
    ensure!(
        !Store::exists(&journal) || !Store::is_held(&journal)?,
        "a control plane runs on {}, but nobody listens at {}: is it just starting, or are you another user?",
        state_dir.display(),
        local::path(state_dir).display()
    );
    let authority = Authority::open_with_new_issuing(&state_dir.join("pki"), SystemTime::now())?;
    let now = authority.status().active;
    let mut out = io::stdout().lock();
    writeln!(out, "root     {}  until {}", now.root, written(now.root_not_after))?;
    writeln!(out, "issuing  {}  until {}", now.issuing, written(now.issuing_not_after))?;
    writeln!(
        out,
        "next: start the control plane; agents whose certificates have ended, as they do with what issued them, have to enrol again"
    )?;
    Ok(())
}

/// What may be in the folder of an authority that is lost: hooks keep their secrets, and a file system has a folder of its own.
const NO_AUTHORITYS: [&str; 2] = ["hooks.key", "lost+found"];

/// Makes one where there was one and is none. The first start of all makes it itself.
fn create(config: &Config) -> anyhow::Result<()> {
    let (state_dir, journal) = (&config.state_dir, config.journal_dir());
    let _as_owner = become_owner(state_dir)?;
    ensure!(
        Store::exists(&journal),
        "there is no journal in {}: the first start of a control plane makes the authority itself",
        journal.display()
    );
    ensure!(
        !Store::is_held(&journal)?,
        "a control plane runs on {}: it has an authority; stella-orchestrator ca rotate start replaces its root",
        state_dir.display()
    );
    let pki = state_dir.join("pki");
    let wrong = || format!("{} cannot be read", pki.display());
    let left = match fs::read_dir(&pki) {
        Ok(items) => {
            items.map(|item| Ok(item?.file_name())).collect::<io::Result<Vec<_>>>().with_context(wrong)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(wrong),
    };
    if let Some(left) = left.iter().find(|left| NO_AUTHORITYS.iter().all(|none| *left != *none)) {
        bail!(
            "{} is there, of an authority that may be whole: start the control plane, which says what is wrong with it; only if it is lost for good, move it away first",
            pki.join(left).display()
        );
    }
    let authority = Authority::open_or_create(&pki, SystemTime::now())?;
    let mut out = io::stdout().lock();
    writeln!(out, "root     {}", authority.root_fingerprint())?;
    writeln!(
        out,
        "next: start the control plane, give everybody {}, and enrol every host again ({BOOK}/disaster-recovery.md, The authority is lost)",
        pki.join("roots.crt").display()
    )?;
    Ok(())
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
        None if behind > 0 => writeln!(
            out,
            "{behind} agents do not trust this root: revoke them, and enrol those again that are to stay"
        )?,
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
