//! `stella-orchestrator`: the control plane.

mod admin_token;
mod authority;
mod authority_tool;
mod backup;
mod boot;
mod calls;
mod config;
mod config_tool;
mod current;
mod described;
mod doctor;
mod durations;
mod first_start;
mod followed;
mod gates;
mod itself;
mod journal_tool;
mod local;
mod logs;
mod look;
mod measured;
mod metrics;
mod notify_tool;
mod owner;
mod pki;
mod reload;
mod retention;
mod spans;
mod stores;
mod support;
mod systemd;
mod traces;
mod written_by;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::Loaded;

// Many small, short-lived allocations on several threads: measured smaller per idle agent than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The control plane of the Stella release orchestrator.
#[derive(Debug, Parser)]
#[command(name = "stella-orchestrator", version, after_help = EXAMPLES)]
struct Cli {
    /// The configuration file [default: /etc/stella/orchestrator.toml, if it exists].
    #[arg(long, short, env = "STELLA_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  stella-orchestrator run --config /etc/stella/orchestrator.toml
  stella-orchestrator backup /var/backups/stella.backup
  stella-orchestrator backup --into /var/lib/stella-backup --keep 7
  stella-orchestrator restore /var/backups/stella.backup
  stella-orchestrator ca status
  sudo stella-orchestrator admin-token --file /root/stella-token
  stella-orchestrator journal verify
  stella-orchestrator notifications test pager
  stella-orchestrator journal export /var/backups/journal.jsonl
  sudo stella-orchestrator doctor
  sudo stella-orchestrator support-bundle --output /root/stella.tar.gz

Every key of the file can be set by an environment variable: STELLA_ORCHESTRATOR__API__LISTEN is api.listen.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane until SIGTERM or SIGINT.
    #[command(after_help = "Example:\n  stella-orchestrator run --config /etc/stella/orchestrator.toml")]
    Run,
    /// Check the configuration, or show it with where each value came from.
    #[command(subcommand)]
    Config(config_tool::ConfigCommand),
    /// The same as `config check`.
    #[command(hide = true)]
    CheckConfig,
    /// Have the running control plane read its configuration again; says what it took over and what needs a restart.
    #[command(after_help = "Example:\n  sudo stella-orchestrator reload")]
    Reload,
    /// Write everything that this control plane is into one file, while it runs.
    Backup(backup::BackupArgs),
    /// Fill an empty state folder from a backup, on this or another host.
    Restore(backup::RestoreArgs),
    /// The certificate authority: show it, and rotate its certificates while the control plane runs.
    #[command(subcommand)]
    Ca(authority_tool::CaCommand),
    /// Make a token that administers the installation, on the control plane's own host and while it runs: for who has lost the last one.
    AdminToken(admin_token::AdminTokenArgs),
    /// Verify, export or import the journal of a stopped control plane.
    #[command(subcommand)]
    Journal(journal_tool::JournalCommand),
    /// Try the receivers of notifications.
    #[command(subcommand)]
    Notifications(notify_tool::NotificationsCommand),
    /// Look for what keeps the control plane from working, and say what to do about it. Changes nothing, also while it runs;
    /// exit code 1 if something fails.
    #[command(after_help = "Example:\n  sudo stella-orchestrator doctor --output json")]
    Doctor(doctor::DoctorArgs),
    /// Write what somebody who helps wants to see into a file: findings, configuration, logs, figures; no secrets.
    #[command(
        after_help = "Example:\n  sudo stella-orchestrator support-bundle --output /root/stella.tar.gz"
    )]
    SupportBundle(support::SupportArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  stella-orchestrator completion bash > /etc/bash_completion.d/stella-orchestrator"
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

fn main() -> ExitCode {
    // What is in the configuration is tried when it is read, and every command reads it.
    stella_certs::install_provider();
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            stella_telemetry::last_words("stella-orchestrator", &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<bool> {
    if let Command::Completion { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "stella-orchestrator", &mut script);
        // Whoever reads only the start of it has seen enough.
        std::io::stdout().write_all(&script).ok();
        return Ok(true);
    }
    if let Command::Man { folder } = &cli.command {
        match folder {
            Some(folder) => clap_mangen::generate_to(Cli::command(), folder)?,
            None => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?,
        }
        return Ok(true);
    }
    // A configuration that is not good is a finding of theirs.
    match &cli.command {
        Command::Doctor(args) => return doctor::run(args, cli.config.as_deref()),
        Command::SupportBundle(args) => return support::run(args, cli.config.as_deref()),
        Command::Run
        | Command::Config(_)
        | Command::CheckConfig
        | Command::Reload
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Ca(_)
        | Command::AdminToken(_)
        | Command::Journal(_)
        | Command::Notifications(_)
        | Command::Completion { .. }
        | Command::Man { .. } => {}
    }
    let loaded = Loaded::load(cli.config.as_deref())?;
    let config = &loaded.config;
    match &cli.command {
        Command::Run => boot::run(&loaded).map(|()| true),
        Command::Config(command) => config_tool::run(command, &loaded),
        Command::CheckConfig => config_tool::run(&config_tool::ConfigCommand::Check, &loaded),
        Command::Reload => config_tool::reload(&config.state_dir),
        Command::Backup(args) => {
            backup::backup(args, &config.state_dir, config.journal.files_reserve_bytes())
        }
        Command::Restore(args) => backup::restore(args, &config.state_dir),
        Command::Ca(command) => authority_tool::run(command, config),
        Command::AdminToken(args) => admin_token::run(args, &config.state_dir),
        Command::Notifications(command) => notify_tool::run(command, config),
        Command::Journal(command) => journal_tool::run(command, &config.state_dir, &config.journal_dir()),
        Command::Doctor(_) | Command::SupportBundle(_) | Command::Completion { .. } | Command::Man { .. } => {
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_command_has_an_example_and_the_book_shows_none_that_would_be_refused() -> std::io::Result<()> {
        assert_eq!(stella_help::wrong_in_help(&Cli::command()), Vec::<String>::new());
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let (commands, wrong) = stella_help::wrong_in_book(&Cli::command(), &book)?;
        assert_eq!(wrong, Vec::<String>::new());
        assert!(commands > 10, "{commands} commands");
        Ok(())
    }
}
