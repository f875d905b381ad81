//! The command line.

use std::error::Error as StdError;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use stella_certs::EnrolmentToken;
use stella_protocol::message::Profile;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::config::{self, Config, Loaded, checked_server};
use crate::enrol::{Enrolled, Options, enrol};
use crate::executor::reason_of;
use crate::identity::Identity;
use crate::reload::Reloader;
use crate::service::{Service, stop_on_signals};
use crate::supervisor::Supervisor;
use crate::{doctor, profile, reload, support};

use self::flags::{Common, RunArgs, origin};

mod flags;
mod variables;

/// The largest token file: a token has about 130 characters.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Threads for work that blocks, beside one for each running task. Those that look at the host root may hang with its file system: one
/// measures its disk, one sweeps it, one answers questions about it, and some prepare folders for commands. The rest is for the agent's own
/// state.
const BLOCKING_THREADS: usize = 3 + crate::host::PREPARED_MAX + 4;

const EXAMPLES: &str = "\
Examples:
  # Make this host an agent (the token comes from `stella agent token`)
  stella-agent enrol --server stella.example.com:7443 --token @/root/token

  # Run it; systemd does this on an installed host
  stella-agent run

  # An agent without root rights, for trying out
  stella-agent enrol --state-dir /tmp/agent --server 127.0.0.1:7443 --token -
  stella-agent run --state-dir /tmp/agent --host-root /tmp/host

  # Who am I, and until when is the certificate valid?
  stella-agent status --output json

  # Why does it not work, and what is there to do? Safe beside the running agent
  sudo stella-agent doctor

  # What to send to who helps: no secrets, for you to look through first
  sudo stella-agent support-bundle --output agent.tar.gz";

/// The agent of a host: runs what its control plane deploys.
#[derive(Debug, Parser)]
#[command(name = "stella-agent", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    #[command(
        after_help = "Examples:\n  sudo stella-agent run\n  stella-agent run --state-dir /tmp/agent --host-root /tmp/host --allow artifact,check"
    )]
    Run(Box<RunArgs>),
    /// Make this host an agent with a one-time token. Does nothing if it is one.
    #[command(
        after_help = "Example:\n  sudo stella-agent enrol --server stella.example.com:7443 --token @/root/token"
    )]
    Enrol(EnrolArgs),
    /// Check the configuration, or show it with where each value came from.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show who this agent is and until when its certificate is valid.
    #[command(after_help = "Example:\n  sudo stella-agent status --output json")]
    Status(StatusArgs),
    /// Look for what keeps the agent from working, and say what to do about it. Changes nothing; exit code 1 if something
    /// fails.
    #[command(after_help = "Example:\n  sudo stella-agent doctor --output json")]
    Doctor(Box<DoctorArgs>),
    /// Write what somebody who helps wants to see into a file: findings, configuration, logs, versions; no secrets.
    #[command(after_help = "Example:\n  sudo stella-agent support-bundle --output /root/agent.tar.gz")]
    SupportBundle(Box<SupportArgs>),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  stella-agent completion bash > /etc/bash_completion.d/stella-agent")]
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
enum ConfigCommand {
    /// Check the configuration and say what is wrong with it.
    #[command(after_help = "Example:\n  sudo stella-agent config check --config /etc/stella/agent.toml")]
    Check(Box<RunArgs>),
    /// Show what is set, and where it came from.
    #[command(after_help = "Example:\n  sudo stella-agent config show --effective")]
    Show(Box<ShowArgs>),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Show all keys, with their defaults
    #[arg(long)]
    effective: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct EnrolArgs {
    #[command(flatten)]
    common: Common,
    /// The one-time token; @FILE reads it from a file, - from standard input, where other users cannot see it
    #[arg(long, env = "STELLA_AGENT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: String,
    /// Enrol only if the token is for this profile: confined or full [default: whatever it is for]
    #[arg(long, env = "STELLA_AGENT_PROFILE", value_name = "PROFILE", value_parser = profile)]
    profile: Option<Profile>,
    /// Replace an identity that is there; its journal is set aside
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    common: Common,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    run: RunArgs,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct SupportArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The file to write; it must not exist [default: stella-agent-support-SECONDS.tar.gz]
    #[arg(long, value_name = "FILE.tar.gz")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

type Outcome = Result<(), Box<dyn StdError>>;

/// The agent's `main`, without the supervisor's fast path.
#[must_use]
pub fn main() -> ExitCode {
    stella_certs::install_provider();
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => run(*arguments),
        Command::Enrol(arguments) => enrol_host(arguments),
        Command::Config(ConfigCommand::Check(arguments)) => check_config(*arguments),
        Command::Config(ConfigCommand::Show(arguments)) => show_config(*arguments),
        Command::Status(arguments) => status(arguments),
        Command::Doctor(arguments) => match examine(*arguments) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::SupportBundle(arguments) => bundle(*arguments),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stella-agent", &mut script);
            // Whoever reads only the start of it has seen enough.
            let _closed = io::stdout().write_all(&script);
            Ok(())
        }
        Command::Man { folder } => match folder {
            Some(folder) => clap_mangen::generate_to(Cli::command(), folder),
            None => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout()),
        }
        .map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stella_telemetry::last_words("stella-agent", &reason_of(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn load(arguments: RunArgs) -> Result<Loaded, config::Error> {
    let (file, settings) = arguments.into_settings()?;
    Loaded::load(file.as_deref(), &settings, origin)
}

fn check_config(arguments: RunArgs) -> Outcome {
    let loaded = load(arguments)?;
    loaded.config.traces.check()?;
    writeln!(io::stdout(), "the configuration is good: {}", loaded.files_told())?;
    Ok(())
}

fn show_config(arguments: ShowArgs) -> Outcome {
    let mut shown = load(arguments.run)?.effective();
    shown.retain(|it| arguments.effective || it.origin != "default");
    let mut out = io::stdout().lock();
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?,
        Output::Text => {
            for it in shown {
                writeln!(out, "{} = {}  # {}", it.key, it.value, it.origin)?;
            }
        }
    }
    Ok(())
}

/// Whether nothing fails.
fn examine(arguments: DoctorArgs) -> Result<bool, Box<dyn StdError>> {
    let loaded = load(arguments.run);
    let findings = runtime(1)?.block_on(doctor::examine(&loaded));
    let mut out = io::stdout().lock();
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
        Output::Text => write!(out, "{}", findings.text())?,
    }
    Ok(findings.is_well())
}

fn bundle(arguments: SupportArgs) -> Outcome {
    let loaded = load(arguments.run);
    let path = arguments
        .output
        .unwrap_or_else(|| format!("stella-agent-support-{}.tar.gz", unix_s(SystemTime::now())).into());
    let written = runtime(1)?.block_on(support::write(&loaded, &path));
    let manifest = written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    Ok(write!(io::stdout(), "{}", manifest.text(&path))?)
}

fn run(arguments: RunArgs) -> Outcome {
    let (file, settings) = arguments.into_settings()?;
    let loaded = Loaded::load(file.as_deref(), &settings, origin)?;
    let config = loaded.config.clone();
    let guard = stella_telemetry::init(&stella_telemetry::Config {
        service: "stella-agent",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log_level.clone(),
        format: config.log_format,
        file: config.log_file.clone(),
    })?;
    let reloader = Reloader::new(file, settings, &loaded, guard.level());
    let runtime = runtime(config.concurrency.get())?;
    let result: Outcome = runtime.block_on(async {
        let mut signals = JoinSet::new();
        let stop = stop_on_signals(&mut signals)?;
        let hangups = reload::hangups()?;
        let service = Service::open(config, Supervisor::current())?;
        reloader.at_hangups(hangups, service.tuner(), &mut signals);
        let (tenant, agent) = service.who();
        stella_telemetry::set_tenant(tenant.to_string());
        tracing::info!(agentId = %agent, version = env!("CARGO_PKG_VERSION"), "the agent starts");
        service.run(stop).await?;
        Ok(())
    });
    match &result {
        Ok(()) => tracing::info!("the agent has stopped"),
        Err(error) => tracing::error!(reason = reason_of(error.as_ref()), "the agent has stopped"),
    }
    // Work that still blocks must not hold up the end: everything that matters is on disk.
    runtime.shutdown_background();
    drop(guard);
    result
}

fn enrol_host(arguments: EnrolArgs) -> Outcome {
    let (file, settings) = arguments.common.into_settings();
    let config = Config::load(file.as_deref(), &settings)?;
    // One that is enrolled already knows its control plane.
    let known = || Identity::load(&config.state_dir).ok().filter(|_| !arguments.force).map(|it| it.server);
    let server = config.server.clone().or_else(known);
    let server = server.ok_or("the control plane is missing; add --server host:port")?;
    let options = Options {
        token: read_token(&arguments.token)?,
        server: checked_server(server)?,
        state_dir: config.state_dir,
        profile: arguments.profile,
        force: arguments.force,
    };
    let line = match runtime(1)?.block_on(enrol(&options))? {
        Enrolled::New(identity, profile) => {
            if let Some(wanted) = options.profile.filter(|_| profile.is_none()) {
                writeln!(
                    io::stderr(),
                    "warning: {} was asked for, and the token or the control plane is of before there were profiles: this host is held to none",
                    wanted.name()
                )?;
            }
            let profile = profile.map(|it| format!(", {}", it.name())).unwrap_or_default();
            format!("enrolled as agent {} of tenant {}{profile}", identity.agent, identity.tenant)
        }
        Enrolled::Already(identity) => format!(
            "already enrolled as agent {} of tenant {}; nothing was changed (--force makes a new identity)",
            identity.agent, identity.tenant
        ),
    };
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

fn profile(text: &str) -> Result<Profile, &'static str> {
    let found = [Profile::Confined, Profile::Full].into_iter().find(|profile| profile.name() == text);
    found.ok_or("use confined or full")
}

fn status(arguments: StatusArgs) -> Outcome {
    let (file, settings) = arguments.common.into_settings();
    let config = Config::load(file.as_deref(), &settings)?;
    let identity = Identity::load(&config.state_dir)?;
    let profile = profile::enrolled_for(&config.state_dir, &identity)?;
    let (not_before, not_after) = identity.validity();
    let renew_at = stella_certs::renew_at(not_before, not_after);
    let now = SystemTime::now();
    let server = config.server.as_ref().unwrap_or(&identity.server);
    let mut out = io::stdout();
    match arguments.output {
        Output::Json => {
            let value = serde_json::json!({
                "tenant_id": identity.tenant,
                "agent_id": identity.agent,
                "server": server,
                "state_dir": config.state_dir,
                "profile": profile,
                "certificate": {
                    "not_before_unix_s": unix_s(not_before),
                    "not_after_unix_s": unix_s(not_after),
                    "renewal_due_unix_s": unix_s(renew_at),
                    "expired": now >= not_after,
                },
            });
            writeln!(out, "{value:#}")?;
        }
        Output::Text => {
            writeln!(out, "agent        {}", identity.agent)?;
            writeln!(out, "tenant       {}", identity.tenant)?;
            writeln!(out, "server       {server}")?;
            writeln!(out, "state        {}", config.state_dir.display())?;
            let profile = profile.map_or("not named by its token", Profile::name);
            writeln!(out, "profile      {profile}")?;
            writeln!(out, "certificate  {}", validity_in_words(not_after, now))?;
        }
    }
    Ok(())
}

fn validity_in_words(not_after: SystemTime, now: SystemTime) -> String {
    match not_after.duration_since(now) {
        Ok(left) => {
            let minutes = left.as_secs() / 60;
            format!("valid for another {} h {} min", minutes / 60, minutes % 60)
        }
        Err(_) => "expired; enrol again with --force if the agent cannot renew it".to_owned(),
    }
}

pub(crate) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The token itself, or where it says that it is.
fn read_token(text: &str) -> Result<EnrolmentToken, Box<dyn StdError>> {
    let mut read = String::new();
    let text = match text.strip_prefix('@') {
        Some(path) => {
            let file = fs::File::open(path)
                .map_err(|error| format!("the token file {path} cannot be read: {error}"))?;
            file.take(TOKEN_BYTES_MAX).read_to_string(&mut read)?;
            &read
        }
        None if text == "-" => {
            io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut read)?;
            &read
        }
        None => text,
    };
    Ok(text.parse()?)
}

/// One thread for everything that waits: an idle agent is to be small.
fn runtime(tasks: usize) -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS + tasks)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .build()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_command_has_an_example_and_the_book_shows_none_that_would_be_refused() -> io::Result<()> {
        assert_eq!(stella_help::wrong_in_help(&Cli::command()), Vec::<String>::new());
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let (commands, wrong) = stella_help::wrong_in_book(&Cli::command(), &book)?;
        assert_eq!(wrong, Vec::<String>::new());
        assert!(commands > 5, "{commands} commands");
        Ok(())
    }
}
