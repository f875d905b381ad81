//! Workflows and their runs.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{Window, pair};

#[derive(Debug, Subcommand)]
pub(crate) enum Workflow {
    /// Say what is wrong with a file, with line and column, without a control plane.
    Check {
        /// YAML or JSON.
        file: PathBuf,
    },
    /// Make a file the newest version of the workflow that it names.
    Apply {
        /// YAML or JSON.
        file: PathBuf,
    },
    /// List workflows.
    List,
    /// Show a workflow.
    Show {
        /// Its name.
        workflow: String,
        /// Which version; the newest if not given.
        #[arg(long)]
        version: Option<u32>,
    },
    /// Let nobody start a workflow any more. What runs goes on.
    Remove {
        /// Its name.
        workflow: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Run a workflow.
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
    Status {
        /// The run's id.
        run: String,
    },
    /// Follow a run until it has ended; exit with 1 if it did not succeed.
    Watch {
        /// The run's id.
        run: String,
    },
    /// End a run, with what is under way in it.
    Cancel {
        /// The run's id.
        run: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Try a step again that failed and is held, or that will be tried again anyway.
    Retry {
        /// The run's id.
        run: String,
        /// The step's id.
        step: String,
    },
    /// Give a step what it asks for.
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
