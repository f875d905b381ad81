//! `stella`: the command line of the release orchestrator.

mod account;
mod agent;
mod args;
mod ca;
mod catalogue;
mod channel;
mod client;
mod doctor;
#[cfg(test)]
mod double;
mod enrol;
mod environment;
mod events;
mod failure;
mod feed;
mod follow;
mod gate;
mod guide;
mod hold;
mod hook;
mod observability;
mod pace;
mod print;
mod promotion;
mod promotion_proof;
mod release;
mod release_key;
mod rollout;
mod settings;
mod simulate;
mod support;
mod target;
mod task;
mod token;
mod upload;
mod watch;
mod when;
mod window;
mod workflow;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Output, Promotion, Release, ReleaseKey, Workflow};
use crate::client::{Client, Error};
use crate::settings::Settings;

/// What a command needs.
struct Context {
    client: Client,
    settings: Settings,
    output: Output,
}

impl Context {
    /// A path of the chosen tenant; `rest` fills what comes after the tenant.
    fn path(&self, template: &str, rest: &[&str]) -> Result<String, Error> {
        let mut values = vec![self.settings.tenant()?];
        values.extend_from_slice(rest);
        Ok(stella_api_types::paths::fill(template, &values))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            writeln!(std::io::stderr(), "stella: {}", print::harmless(&error.to_string())).ok();
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints the manual page, or writes one for each command.
fn man(folder: Option<&Path>) -> Result<(), Error> {
    let written = match folder {
        Some(folder) => std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
            .map_err(|error| format!("{}: {error}", folder.display())),
        None => clap_mangen::Man::new(Cli::command())
            .render(&mut std::io::stdout())
            .map_err(|error| error.to_string()),
    };
    written.map_err(Error::Usage)
}

/// Whether it went well: `false` is a deployment that did not succeed.
async fn run(cli: Cli) -> Result<bool, Error> {
    if let Command::Completion { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "stella", &mut script);
        // Whoever reads only the start of it has seen enough.
        std::io::stdout().write_all(&script).ok();
        return Ok(true);
    }
    if let Command::Man { folder } = &cli.command {
        man(folder.as_deref())?;
        return Ok(true);
    }
    if let Command::Simulate(command) = &cli.command {
        return simulate::simulate(cli.global.output, command);
    }
    if matches!(cli.command, Command::Doctor) {
        return doctor::doctor(&cli.global).await;
    }
    if let Command::SupportBundle { file } = cli.command {
        support::write(&cli.global, file).await?;
        return Ok(true);
    }
    let settings = Settings::load(&cli.global)?;
    if let Command::Observability(command) = cli.command {
        observability::run(&settings, cli.global.output, command).await?;
        return Ok(true);
    }
    if let Command::Workflow(Workflow::Check { file }) = &cli.command {
        return workflow::check(cli.global.output, file);
    }
    if let Command::Promotion(Promotion::Verify { proof, plan }) = &cli.command {
        return promotion_proof::verify(cli.global.output, proof, plan.as_deref());
    }
    if let Command::Release(Release::Key(ReleaseKey::Create { file })) = &cli.command {
        release_key::create(cli.global.output, file)?;
        return Ok(true);
    }
    let context = Context { client: settings.client()?, settings, output: cli.global.output };
    match cli.command {
        Command::Account(command) => account::account(&context, command).await?,
        Command::LogLevel { level } => account::log_level(&context, level).await?,
        Command::Whoami => account::whoami(&context).await?,
        Command::Token(command) => token::token(&context, command).await?,
        Command::Tenant(command) => catalogue::tenant(&context, command).await?,
        Command::Env(command) => catalogue::environment(&context, command).await?,
        Command::Gate(command) => gate::gate(&context, command).await?,
        Command::Findings(command) => gate::findings(&context, command).await?,
        Command::Target(command) => target::target(&context, command).await?,
        Command::Agent(command) => agent::agent(&context, command).await?,
        Command::Release(command) => return release::release(&context, command).await,
        Command::Channel(command) => channel::channel(&context, command).await?,
        Command::Deploy(command) => return rollout::deploy(&context, *command).await,
        Command::Deployment(command) => return rollout::deployment(&context, command).await,
        Command::Promotion(command) => return promotion::promotion(&context, command).await,
        Command::Hook(command) => hook::hook(&context, command).await?,
        Command::Workflow(command) => return workflow::workflow(&context, command).await,
        Command::Rollback(command) => return rollout::rollback(&context, command).await,
        Command::Task(command) => task::task(&context, command).await?,
        Command::Events(command) => events::events(&context, command).await?,
        Command::Journal { system } => task::journal(&context, system).await?,
        Command::Ca(command) => ca::ca(&context, &command).await?,
        Command::Status => catalogue::status(&context).await?,
        Command::Observability(_)
        | Command::Doctor
        | Command::SupportBundle { .. }
        | Command::Completion { .. }
        | Command::Man { .. }
        | Command::Simulate(_) => {}
    }
    Ok(true)
}
