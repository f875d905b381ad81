//! Incoming webhooks.

use clap::{Args, Subcommand};

use super::pair;

#[derive(Debug, Subcommand)]
pub(crate) enum Hook {
    /// Create a hook. Its secret is shown once.
    #[command(
        after_help = "Examples:\n  stella hook create shipped --account ci --workflow ship --input 'version=body.release.tag_name' --when 'event == \"release\" && body.action == \"published\"'\n  stella hook create main --account ci --environment staging --release '\"web:\" + body.after' --when 'event == \"push\"'"
    )]
    Create(CreateHook),
    /// List hooks.
    #[command(after_help = "Example:\n  stella hook list")]
    List,
    /// Show a hook, without its secret.
    #[command(after_help = "Example:\n  stella hook show shipped")]
    Show {
        /// Its name or id.
        hook: String,
    },
    /// Give a hook's sender another secret. It is shown once.
    #[command(
        after_help = "Examples:\n  stella hook rotate shipped\n  stella hook rotate shipped --overlap 1h"
    )]
    Rotate {
        /// Its name or id.
        hook: String,
        /// For how long the secret before it is still good, 7d at most; no longer if not given.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
        overlap: Option<u64>,
        /// Print the secret alone, for a file or a pipe.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove a hook: what is sent to it is refused. What it has started goes on.
    #[command(after_help = "Example:\n  stella hook remove shipped")]
    Remove {
        /// Its name or id.
        hook: String,
    },
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["workflow", "environment"]))]
pub(crate) struct CreateHook {
    /// Its name.
    pub(crate) name: String,
    /// The service account whose authority it has.
    #[arg(long)]
    pub(crate) account: String,
    /// Run this workflow.
    #[arg(long)]
    pub(crate) workflow: Option<String>,
    /// What the workflow is given, as NAME=EXPRESSION (CEL, over body, event and delivery).
    #[arg(long = "input", value_parser = pair, value_name = "NAME=EXPRESSION", requires = "workflow")]
    pub(crate) inputs: Vec<(String, String)>,
    /// Bring a release to this environment.
    #[arg(long, requires = "release")]
    pub(crate) environment: Option<String>,
    /// Which: an expression that comes to APPLICATION:VERSION, or to a release's id.
    #[arg(long, value_name = "EXPRESSION", requires = "environment")]
    pub(crate) release: Option<String>,
    /// An expression: what it does not hold for is taken and starts nothing.
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) when: Option<String>,
    /// Print the secret alone, for a file or a pipe.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}
