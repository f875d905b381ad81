//! The command line.

mod agents;
mod event_types;
mod gates;
mod hook;
mod pace;
mod people;
mod places;
mod release;
mod rollout;
mod simulate;
mod workflow;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::observability::Observability;

pub(crate) use agents::{Agent, EnrolCommand, EnrolmentTokens, Form, NewToken, Profile};
pub(crate) use gates::{Findings, Gate, Place, SetGate, Severity, Word};
pub(crate) use hook::{CreateHook, Hook};
pub(crate) use pace::{ColourName, Pace, StrategyName};
pub(crate) use people::{Account, Token};
pub(crate) use places::{ChangeTarget, Environment, NewTarget, ProofRule, Repeat, Target, Tenant};
pub(crate) use release::{Channel, Judged, NewRelease, Provenance, Release, ReleaseKey};
pub(crate) use rollout::{Deploy, Deployment, Objection, OnFailure, PlanPart, Promotion, Rollback, Wait};
pub(crate) use simulate::Simulate;
pub(crate) use workflow::{Format, Workflow};

/// Deploys releases to fleets of hosts.
///
/// The control plane's address, a token and its CA come from flags, from the environment, or from ~/.config/stella/config.toml
/// (keys: url, token_file, ca, tenant).
#[derive(Debug, Parser)]
#[command(name = "stella", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "Examples:
  stella tenant create acme
  stella env create staging
  stella agent token --name web-1
  stella target create web-1 --env staging --agent web-1 --var port=8080
  stella release create web 1.4.0 --component web=./web.tar.gz --steps steps.json
  stella deploy web:1.4.0 staging --batch 1 --wait
  stella rollback DEPLOYMENT --wait
  stella promotion approve PROMOTION --reason 'tested by QA'
  stella env lock production --reason 'inventory'
  stella doctor

Every command has examples of its own: stella COMMAND --help.

Exit codes: 0 done; 1 the deployment or run did not succeed, or a check found something; 2 wrong use; 3 refused by the control plane;
4 control plane not reachable; 130 Ctrl-C while watching.";

/// Flags that every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "For every command")]
pub(crate) struct Global {
    /// The control plane's address (or STELLA_URL).
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) url: Option<String>,
    /// A file that holds the API token (or STELLA_TOKEN_FILE).
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// The CA that signed the control plane's certificate (PEM; or STELLA_CA); the system's if it is not given.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) ca: Option<PathBuf>,
    /// The tenant to work in (or STELLA_TENANT).
    #[arg(long, short = 't', global = true, hide_short_help = true)]
    pub(crate) tenant: Option<String>,
    /// How to print results.
    #[arg(long, short = 'o', global = true, hide_short_help = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How to print results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs: the API's JSON.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the state of the control plane: version, agents, deployments.
    #[command(after_help = "Example:\n  stella status")]
    Status,
    /// Deploy a release to an environment.
    Deploy(Box<Deploy>),
    /// Roll a deployment back: each target returns to what it had before.
    Rollback(Rollback),
    /// Deployments: list, follow, pause, retry or cancel them.
    #[command(subcommand)]
    Deployment(Deployment),
    /// Promotions: requests that wait for approvals or gates, and decisions on them.
    #[command(subcommand)]
    Promotion(Promotion),
    /// Releases: immutable, versioned, pinned by digest.
    #[command(subcommand)]
    Release(Release),
    /// Channels: named streams of an application's releases.
    #[command(subcommand)]
    Channel(Channel),
    /// Environments: the stages that releases pass through.
    #[command(subcommand, visible_alias = "environment")]
    Env(Environment),
    /// Targets: hosts, or slots on them.
    #[command(subcommand)]
    Target(Target),
    /// Agents and their enrolment.
    #[command(subcommand)]
    Agent(Agent),
    /// Gates: conditions that a release must meet before it may go to an environment.
    #[command(subcommand)]
    Gate(Gate),
    /// What scanners have found in releases.
    #[command(subcommand)]
    Findings(Findings),
    /// Workflows: templates of several steps, and their runs.
    #[command(subcommand)]
    Workflow(Workflow),
    /// Incoming webhooks: let another system start something with a signed message.
    #[command(subcommand)]
    Hook(Hook),
    /// Look at tasks.
    #[command(subcommand)]
    Task(Task),
    /// Show past events, and with --follow new ones as they happen.
    Events(Events),
    /// Show the end of the tenant's journal: its position, and the hash over everything before it.
    #[command(after_help = "Examples:\n  stella journal\n  stella journal --system --output json")]
    Journal {
        /// Show the system's journal stream (tenants, accounts, tokens) instead of the tenant's.
        #[arg(long)]
        system: bool,
    },
    /// Simulate a deployment with a virtual clock: how long it takes, what it puts at risk and what stops it.
    Simulate(Simulate),
    /// Tenants: the boundary of isolation.
    #[command(subcommand)]
    Tenant(Tenant),
    /// Accounts: who uses the API, and what they may do.
    #[command(subcommand)]
    Account(Account),
    /// API tokens: how accounts authenticate.
    #[command(subcommand)]
    Token(Token),
    /// Show whose token this is, and what it may do.
    #[command(after_help = "Example:\n  stella whoami")]
    Whoami,
    /// The root certificates of the control plane, for --ca.
    #[command(subcommand)]
    Ca(Ca),
    /// Diagnose this command line: configuration, certificates, clock, token, versions. Exits with 1 if it finds a fault.
    #[command(after_help = "Examples:\n  stella doctor\n  stella doctor --output json")]
    Doctor,
    /// Write a support bundle without secrets: findings, versions, agents, deployments. The file is readable by its owner only.
    /// The control plane and the agents have support bundles of their own.
    #[command(after_help = "Example:\n  stella support-bundle stella.tar.gz")]
    SupportBundle {
        /// The file to write; it must not exist [default: stella-support-SECONDS.tar.gz]
        file: Option<PathBuf>,
    },
    /// Show how much the control plane logs, or change it until its next start.
    #[command(after_help = "Examples:\n  stella log-level\n  stella log-level info,stella_fleet=debug")]
    LogLevel {
        /// error, warn, info, debug, trace, off, or a filter such as info,stella_fleet=debug.
        level: Option<String>,
    },
    /// Configuration for Prometheus, Alertmanager and Grafana.
    #[command(subcommand)]
    Observability(Observability),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Examples:\n  stella completion bash > /etc/bash_completion.d/stella\n  stella completion fish > ~/.config/fish/completions/stella.fish"
    )]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command into a folder.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Print the root certificates to trust, in PEM: two while one is being replaced by the other.
    #[command(after_help = "Example:\n  stella ca bundle > roots.pem")]
    Bundle,
    /// Update the file given with --ca, if the root certificates have changed.
    #[command(after_help = "Example:\n  stella ca update --ca roots.pem")]
    Update,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// List the tasks of a deployment, target by target in the order in which they were run.
    #[command(after_help = "Example:\n  stella task list DEPLOYMENT")]
    List {
        /// The deployment's id.
        deployment: String,
    },
    /// Show a task.
    #[command(after_help = "Example:\n  stella task show TASK")]
    Show {
        /// Its id.
        task: String,
    },
    /// Print a task's output.
    #[command(after_help = "Example:\n  stella task logs TASK --follow")]
    Logs {
        /// Its id.
        task: String,
        /// Go on until the task has ended.
        #[arg(long, short)]
        follow: bool,
    },
    /// Settle an unknown task: say how it ended.
    #[command(
        after_help = "Example:\n  stella task settle TASK --as succeeded --reason 'web-1 answers with 1.4.0'"
    )]
    Settle {
        /// Its id.
        task: String,
        /// Whether it did what it was asked to do.
        #[arg(long = "as", value_enum)]
        outcome: Settled,
        /// How you know; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Settled {
    Succeeded,
    Failed,
}

const EVENTS_EXAMPLES: &str = "Examples:
  stella events --type deployment_created --since 7d
  stella events --type deployment_created --env production --since 2026-11-24 --until 2026-11-25
  stella events --about production --limit 200
  stella events --by alice --since 30d
  stella events --follow";

#[derive(Args, Debug)]
#[command(after_help = EVENTS_EXAMPLES)]
pub(crate) struct Events {
    /// From this position of the journal on, all of them.
    #[arg(long, value_name = "POSITION", conflicts_with_all = ["limit", "all", "since", "until"])]
    pub(crate) after: Option<u64>,
    #[command(flatten)]
    pub(crate) window: Window,
    /// Only those of this type, such as deployment_created (can be given more than once).
    #[arg(long = "type", value_name = "TYPE", hide_possible_values = true,
        value_parser = PossibleValuesParser::new(event_types::EVENT_TYPES))]
    pub(crate) kinds: Vec<String>,
    /// Only those about this: the name or the id of an environment, a target, an agent or a release, or a deployment's id.
    #[arg(long, value_name = "NAME|ID")]
    pub(crate) about: Option<String>,
    /// Only those in this environment.
    #[arg(long = "env", value_name = "NAME")]
    pub(crate) environment: Option<String>,
    /// Only what this account has done, by its name; or an agent, by its name.
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Then go on with what happens from now on. Without --limit, --since or --all only the last 10,000 events are searched for what is
    /// shown first.
    #[arg(long, short, conflicts_with = "until")]
    pub(crate) follow: bool,
    /// What belongs to no tenant: tenants, accounts and tokens.
    #[arg(long)]
    pub(crate) system: bool,
}

/// Which part of a list.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Window {
    /// How many to show, the newest first; if not given 20 (of events 50, the newest last), and as JSON all.
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = count)]
    pub(crate) limit: Option<usize>,
    /// Show all of them.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Only those since then: 2026-12-18, 2026-12-18T18:00:00Z, or how long ago, such as 7d.
    #[arg(long, value_name = "TIME", value_parser = crate::when::since)]
    pub(crate) since: Option<String>,
    /// Only those before then, in the same form; a day is its start, in UTC.
    #[arg(long, value_name = "TIME", value_parser = crate::when::since)]
    pub(crate) until: Option<String>,
}

/// Reads a number from 1 on.
fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| format!("{text:?} is no number from 1 on"))
}

/// Reads `KEY=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write a name and a value with = between them, as in tier=gold".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_and_groups_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_the_book_shows_none_that_would_be_refused() -> std::io::Result<()> {
        assert_eq!(stella_help::wrong_in_help(&Cli::command()), Vec::<String>::new());
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let (commands, wrong) = stella_help::wrong_in_book(&Cli::command(), &book)?;
        assert_eq!(wrong, Vec::<String>::new());
        assert!(commands > 100, "{commands} commands");
        Ok(())
    }

    #[test]
    fn the_tables_of_the_page_show_commands_as_they_are_written() -> std::io::Result<()> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
        let (commands, wrong) =
            stella_help::wrong_in_tables(&Cli::command(), &std::fs::read_to_string(page)?);
        assert_eq!(wrong, Vec::<String>::new());
        assert!(commands > 100, "{commands} commands");
        Ok(())
    }

    #[test]
    fn examples_are_in_the_manual_pages_and_every_shell_has_its_completions() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        clap_mangen::generate_to(Cli::command(), folder.path())?;
        let page = std::fs::read_to_string(folder.path().join("stella-env-path.1"))?;
        assert!(page.contains("stella env path production \\-\\-after staging"), "{page}");
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "stella", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("way-back-proof"), "{shell}");
        }
        Ok(())
    }
}
