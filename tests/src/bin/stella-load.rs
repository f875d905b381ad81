//! `stella-load`: measures the product beside the limits of this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use stella_tests::load::figure::{Figure, table};
use stella_tests::load::fleet::Fleet;
use stella_tests::load::site::Site;
use stella_tests::load::tasks::Load;
use stella_tests::load::{dispatch, heartbeats, idle, raw, real, reconnect, replay, tasks};

// As the control plane has it, so that the memory of the bare server can be compared with its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  stella-load all                              everything, in about five minutes
  stella-load idle --sizes 1,100,1000,5000     memory of idle agents
  stella-load tasks --agents 1000 --seconds 30 durable task life cycles
  stella-load replay --events 1000000          start on a long journal

It starts the control plane that was built beside it, in a temporary folder. Build with --release: figures of a debug
build say nothing.";

/// Measures what the product does, beside what this machine can do at all.
#[derive(Debug, Parser)]
#[command(name = "stella-load", version, after_help = EXAMPLES)]
struct Cli {
    /// Where to keep journals meanwhile: choose a folder on the disk that is to be measured.
    #[arg(long, global = true, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// How to print figures.
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one array of figures.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Memory that an idle agent costs the control plane.
    Idle {
        /// Numbers of agents, growing.
        #[arg(long, value_delimiter = ',', default_value = "1,100,1000,5000")]
        sizes: Vec<usize>,
    },
    /// Latency from a request to its task accepted by a real agent.
    Dispatch {
        /// How many requests, one after the other.
        #[arg(long, default_value_t = 500)]
        samples: u32,
    },
    /// Durable task life cycles a second, with simulated agents.
    Tasks(TasksArgs),
    /// Processor time that heartbeating agents cost the control plane.
    Heartbeats {
        /// How many agents.
        #[arg(long, default_value_t = 5_000)]
        agents: usize,
        /// How long to measure, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Tasks a second through real agents.
    Real {
        /// How many agents.
        #[arg(long, default_value_t = 10)]
        agents: usize,
        /// How often each of an agent's targets runs /bin/true.
        #[arg(long, default_value_t = 25)]
        steps: usize,
    },
    /// Time until all agents are back after kill -9 of the control plane.
    Reconnect {
        /// How many agents.
        #[arg(long, default_value_t = 5_000)]
        agents: usize,
    },
    /// Time to start on a long journal.
    Replay {
        /// How many events it has, about.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
    },
    /// Everything, in about five minutes.
    All,
    #[command(name = raw::SERVER_COMMAND, hide = true)]
    RawServer { pki: PathBuf },
}

#[derive(Args, Debug)]
struct TasksArgs {
    /// How many agents.
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Tasks for each target of a deployment.
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// For how long deployments are started, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// What fills a journal for the replay.
const FILLING: Load = Load { agents: 500, steps: 16, duration: Duration::ZERO };

fn main() -> ExitCode {
    stella_certs::install_provider();
    let cli = Cli::parse();
    let outcome =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            writeln!(std::io::stderr(), "stella-load: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    if let Command::RawServer { pki } = &cli.command {
        return raw::serve(pki).await;
    }
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut site = Site::start(&cli.folder).await?;
    let mut fleet = Fleet::new(site.server())?;
    let measured = measure(&cli.command, &mut site, &mut fleet, &program).await;
    if measured.is_err() {
        site.control_plane.show_log();
    }
    let figures = measured?;
    fleet.leave().await;
    let text = match cli.output {
        Output::Text => format!("{}{}", header(&cli.folder), table(&figures)),
        Output::Json => serde_json::to_string_pretty(&figures)?,
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Figures without their circumstances say nothing.
fn header(folder: &Path) -> String {
    let profile = if cfg!(debug_assertions) { "DEBUG BUILD, figures say nothing" } else { "release build" };
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let disk = nix::sys::statfs::statfs(folder).map_or_else(
        |_| "unknown".to_owned(),
        |figures| {
            let kind = figures.filesystem_type();
            let volatile = kind == nix::sys::statfs::TMPFS_MAGIC;
            if volatile {
                "tmpfs: NOTHING IS DURABLE, use --folder".to_owned()
            } else {
                format!("{:#x}", kind.0)
            }
        },
    );
    format!(
        "{profile}; {processors} processors, shared with the load tool; file system of {} {disk}\n\n",
        folder.display()
    )
}

async fn measure(
    command: &Command,
    site: &mut Site,
    fleet: &mut Fleet,
    program: &Path,
) -> Result<Vec<Figure>> {
    match command {
        Command::Idle { sizes } => idle::measure(site, fleet, sizes, program).await,
        Command::Dispatch { samples } => dispatch::measure(site, *samples, program).await,
        Command::Tasks(arguments) => {
            let TasksArgs { agents, steps, seconds } = *arguments;
            tasks::measure(site, fleet, Load { agents, steps, duration: Duration::from_secs(seconds) }).await
        }
        Command::Heartbeats { agents, seconds } => {
            heartbeats::measure(site, fleet, *agents, Duration::from_secs(*seconds), program).await
        }
        Command::Real { agents, steps } => real::measure(site, *agents, *steps).await,
        Command::Reconnect { agents } => reconnect::measure(site, fleet, *agents).await,
        Command::Replay { events } => {
            tasks::fill_journal(site, fleet, FILLING, *events).await?;
            replay::measure(site).await
        }
        Command::All => all(site, fleet, program).await,
        Command::RawServer { .. } => Ok(Vec::new()),
    }
}

/// One control plane and one fleet go through everything, the undisturbed measurements first.
async fn all(site: &mut Site, fleet: &mut Fleet, program: &Path) -> Result<Vec<Figure>> {
    let start = Instant::now();
    let said = |what: &str| {
        // Progress is not worth failing for.
        writeln!(std::io::stderr(), "{:>4} s  {what}", start.elapsed().as_secs()).ok();
    };
    let mut figures = Vec::new();
    said("dispatch: latency to one real agent");
    figures.extend(dispatch::measure(site, 300, program).await?);
    said("real: ten real agents");
    figures.extend(real::measure(site, 10, 10).await?);
    said("idle: 1, 100 and 1,000 agents");
    figures.extend(idle::measure(site, fleet, &[1, 100, 1_000], program).await?);
    said("tasks: 1,000 agents");
    let load = Load { agents: 1_000, steps: 8, duration: Duration::from_secs(20) };
    figures.extend(tasks::measure(site, fleet, load).await?);
    said("heartbeats: 5,000 agents");
    figures.extend(heartbeats::measure(site, fleet, 5_000, Duration::from_secs(20), program).await?);
    said("reconnect: 5,000 agents");
    figures.extend(reconnect::measure(site, fleet, 5_000).await?);
    said("replay: the journal of all of this");
    figures.extend(replay::measure(site).await?);
    said("done");
    Ok(figures)
}
