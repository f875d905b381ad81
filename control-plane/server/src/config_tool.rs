//! `stella-orchestrator config` and `reload`.

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use stella_settings::Shown;

use crate::config::{KEYS, Loaded};
use crate::local;

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration and say what is wrong with it.
    #[command(
        after_help = "Example:\n  sudo stella-orchestrator config check --config /etc/stella/orchestrator.toml"
    )]
    Check,
    /// Show what is set, and where it came from. Secrets are masked.
    #[command(after_help = "Example:\n  sudo stella-orchestrator config show --effective --output json")]
    Show {
        /// Show all keys, with their defaults.
        #[arg(long)]
        effective: bool,
        /// How to show it.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the table of all keys for the reference page.
    #[command(hide = true)]
    Reference,
}

/// For whom something is shown.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Runs one.
pub(crate) fn run(command: &ConfigCommand, loaded: &Loaded) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match command {
        ConfigCommand::Check => {
            loaded.config.api.given_now()?;
            writeln!(out, "the configuration is good: {}", loaded.files_told())?;
        }
        ConfigCommand::Show { effective, output } => {
            let mut shown = loaded.effective()?;
            shown.retain(|it| *effective || it.origin != "default");
            show(&mut out, &shown, *output)?;
        }
        ConfigCommand::Reference => write!(out, "{}", stella_settings::reference(KEYS))?,
    }
    Ok(true)
}

fn show(out: &mut impl Write, shown: &[Shown], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(shown)?)?,
        Output::Text => {
            for it in shown {
                writeln!(out, "{} = {}  # {}", it.key, it.value, it.origin)?;
            }
        }
    }
    Ok(())
}

/// Has the running control plane read its configuration again; says what it took over.
pub(crate) fn reload(state_dir: &Path) -> anyhow::Result<bool> {
    let mut answer = local::call(state_dir, &local::Request::Reload)?
        .with_context(|| format!("no control plane runs on {}", state_dir.display()))?;
    let mut said = String::new();
    answer.read_to_string(&mut said)?;
    write!(io::stdout(), "{said}")?;
    Ok(true)
}
