//! Workflows and their runs.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{Window, pair};

#[derive(Debug, Subcommand)]
pub(crate) enum Workflow {
    /// Check a workflow file and report faults with line and column. Needs no control plane.
    #[command(after_help = "Example:\n  stella workflow check ship.yaml")]
    Check {
        /// YAML or JSON.
        file: PathBuf,
    },
    /// Make a file the newest version of the workflow that it names.
    #[command(after_help = "Example:\n  stella workflow apply ship.yaml")]
    Apply {
        /// YAML or JSON.
        file: PathBuf,
    },
    /// List workflows.
    #[command(after_help = "Example:\n  stella workflow list")]
    List,
    /// Show a workflow.
    #[command(
        after_help = "Examples:\n  stella workflow show ship\n  stella workflow show ship --version 3 --output json"
    )]
    Show {
        /// Its name.
        workflow: String,
        /// Which version; the newest if not given.
        #[arg(long)]
        version: Option<u32>,
    },
    /// Remove a workflow: nobody can start it any more. Runs in progress continue.
    #[command(after_help = "Example:\n  stella workflow remove ship --reason 'replaced by release'")]
    Remove {
        /// Its name.
        workflow: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Run a workflow.
    #[command(
        after_help = "Examples:\n  stella workflow run ship --input version=1.4.0 --wait\n  stella workflow run ship --input version=1.4.0 --plan"
    )]
    Run {
        /// Its name.
        workflow: String,
        /// Which version; the newest if not given.
        #[arg(long)]
        version: Option<u32>,
        /// What it is given, as NAME=VALUE. true, false and whole numbers are those; anything else is a text.
        #[arg(long = "input", value_parser = pair, value_name = "NAME=VALUE")]
        inputs: Vec<(String, String)>,
        /// Show what its steps would do on which targets, as things are now, and change nothing.
        #[arg(long, conflicts_with = "wait")]
        plan: bool,
        /// Show how it goes until it has ended; exit with 1 if it did not succeed.
        #[arg(long, short)]
        wait: bool,
    },
    /// List runs, the newest first.
    #[command(after_help = "Example:\n  stella workflow runs --workflow ship --status running")]
    Runs {
        /// Only those of this workflow.
        #[arg(long)]
        workflow: Option<String>,
        /// Only those with this status: running, failing, compensating, cancelling, succeeded, failed or cancelled.
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        window: Window,
    },
    /// Show a run and its steps.
    #[command(after_help = "Example:\n  stella workflow status RUN")]
    Status {
        /// The run's id.
        run: String,
    },
    /// Follow a run until it has ended; exit with 1 if it did not succeed.
    #[command(after_help = "Example:\n  stella workflow watch RUN")]
    Watch {
        /// The run's id.
        run: String,
    },
    /// End a run, with what is under way in it.
    #[command(after_help = "Example:\n  stella workflow cancel RUN --reason 'it is the wrong version'")]
    Cancel {
        /// The run's id.
        run: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Retry a failed step now: one that is held, or that would be retried later.
    #[command(after_help = "Example:\n  stella workflow retry RUN migrate")]
    Retry {
        /// The run's id.
        run: String,
        /// The step's id.
        step: String,
    },
    /// Give a step what it asks for.
    #[command(after_help = "Example:\n  stella workflow answer RUN window --set at=22 --set confirmed=true")]
    Answer {
        /// The run's id.
        run: String,
        /// The step's id.
        step: String,
        /// What, as NAME=VALUE. true, false and whole numbers are those; anything else is a text.
        #[arg(long = "set", value_parser = pair, value_name = "NAME=VALUE")]
        answers: Vec<(String, String)>,
    },
    /// Agree to a step.
    #[command(after_help = "Example:\n  stella workflow approve RUN sign-off --reason 'tested by QA'")]
    Approve {
        /// The run's id.
        run: String,
        /// The step's id.
        step: String,
        /// Why; it is recorded.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Do not agree to a step: it fails.
    #[command(
        after_help = "Example:\n  stella workflow reject RUN sign-off --reason 'the smoke test was red'"
    )]
    Reject {
        /// The run's id.
        run: String,
        /// The step's id.
        step: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Draw the steps of a workflow, or of a run with the state of each.
    #[command(
        after_help = "Examples:\n  stella workflow graph ship --format svg > ship.svg\n  stella workflow graph --run RUN --watch"
    )]
    Graph {
        /// The workflow's name.
        #[arg(required_unless_present = "run")]
        workflow: Option<String>,
        /// Draw this run instead.
        #[arg(long, conflicts_with = "workflow")]
        run: Option<String>,
        /// How to draw.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Draw the run anew with each change until it has ended; exit with 1 if it did not succeed.
        #[arg(long, requires = "run")]
        watch: bool,
    },
}

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for a terminal.
    Text,
    /// A picture.
    Svg,
}
