//! `stella-load`: measures the product beside the limits of this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use stella_protocol::limits::HEARTBEAT_INTERVAL_MS;
use stella_tests::load::figure::{Figure, table};
use stella_tests::load::fleet::Fleet;
use stella_tests::load::site::Site;
use stella_tests::load::tasks::Load;
use stella_tests::load::{
    archive, core, day, dispatch, heartbeats, idle, raw, real, reconnect, replay, scrape, tasks,
};

// As the control plane has it, so that the memory of the bare server can be compared with its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  stella-load all                              everything, in about nine minutes
  stella-load day --beats 17280                what a day of heartbeats leaves behind, in half an hour
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
    /// What the pure core costs, without journal and network, as a tenant grows.
    Core {
        /// Numbers of targets, growing.
        #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
        sizes: Vec<u32>,
    },
    /// Latency from a request to its task accepted by a real agent.
    Dispatch {
        /// How many requests, one after the other.
        #[arg(long, default_value_t = 500)]
        samples: u32,
        /// Beside how many other agents, which do nothing but heartbeat; growing.
        #[arg(long, value_delimiter = ',', default_value = "0")]
        sizes: Vec<usize>,
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
    /// Time of a scrape of the metrics, and what it takes from writers.
    Scrape {
        /// How many agents.
        #[arg(long, default_value_t = 10_000)]
        agents: usize,
    },
    /// What ended deployments cost, in memory and when they have left it.
    Archive {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        deployments: u32,
    },
    /// What heartbeats leave behind: memory and disk of both sides.
    Day {
        /// How many simulated agents beside the real one.
        #[arg(long, default_value_t = 500)]
        agents: usize,
        /// How often each beats, ten times a second. 17,280 are those of a day.
        #[arg(long, default_value_t = 1_728)]
        beats: u32,
    },
    /// Everything, in about nine minutes.
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

/// What fills a journal for the replay: at most so many agents, and of each so many events, about.
const FILLING_AGENTS_MAX: u64 = 500;
const FILLING_EVENTS_EACH: u64 = 100;

/// A load that a journal of so many events comes from.
fn filling(events: u64) -> Result<Load> {
    let agents = (events / FILLING_EVENTS_EACH).clamp(1, FILLING_AGENTS_MAX);
    Ok(Load { agents: usize::try_from(agents)?, steps: 16, duration: Duration::ZERO })
}

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
    let lists = if matches!(cli.command, Command::All) { everything() } else { vec![vec![cli.command]] };
    let (figures, failures) = measure(&cli.folder, &lists).await;
    let text = match cli.output {
        Output::Text => format!("{}{}", header(&cli.folder), table(&figures)),
        Output::Json => serde_json::to_string_pretty(&figures)?,
    };
    writeln!(std::io::stdout(), "{text}")?;
    // What was measured before is shown all the same.
    failures.into_iter().next().map_or(Ok(()), Err)
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

/// What `all` is, each list on a control plane of its own: memory is measured on one that has done nothing else.
fn everything() -> Vec<Vec<Command>> {
    vec![
        vec![
            Command::Core { sizes: vec![100, 1_000, 10_000] },
            Command::Dispatch { samples: 300, sizes: vec![0, 1_000] },
            Command::Real { agents: 10, steps: 10 },
            Command::Tasks(TasksArgs { agents: 1_000, steps: 8, seconds: 20 }),
            Command::Replay { events: 1_000_000 },
        ],
        vec![
            Command::Idle { sizes: vec![1, 100, 1_000, 5_000] },
            Command::Heartbeats { agents: 5_000, seconds: 30 },
            Command::Reconnect { agents: 5_000 },
            Command::Scrape { agents: 10_000 },
        ],
        vec![Command::Day { agents: 500, beats: 1_728 }],
    ]
}

/// Goes through the lists. What fails ends its list only.
async fn measure(folder: &Path, lists: &[Vec<Command>]) -> (Vec<Figure>, Vec<anyhow::Error>) {
    let start = Instant::now();
    let (mut figures, mut failures) = (Vec::new(), Vec::new());
    for list in lists {
        if let Err(error) = measure_list(folder, list, start, &mut figures).await {
            failures.push(error);
        }
    }
    (figures, failures)
}

async fn measure_list(
    folder: &Path,
    list: &[Command],
    start: Instant,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    // A list is for one or the other.
    let is_day = list.iter().any(|command| matches!(command, Command::Day { .. }));
    let interval_ms = if is_day { day::HEARTBEAT_INTERVAL_MS } else { HEARTBEAT_INTERVAL_MS };
    let mut site = Site::start(folder, interval_ms).await?;
    let mut fleet = Fleet::new(site.server())?;
    for command in list {
        // Progress is not worth failing for.
        writeln!(std::io::stderr(), "{:>4} s  {command:?}", start.elapsed().as_secs()).ok();
        match measure_one(command, &mut site, &mut fleet, &program).await {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                site.control_plane.show_log();
                return Err(error.context(format!("{command:?} has no figures")));
            }
        }
    }
    fleet.leave().await;
    Ok(())
}

async fn measure_one(
    command: &Command,
    site: &mut Site,
    fleet: &mut Fleet,
    program: &Path,
) -> Result<Vec<Figure>> {
    match command {
        Command::Core { sizes } => {
            let sizes = sizes.clone();
            tokio::task::spawn_blocking(move || core::measure(&sizes)).await?
        }
        Command::Idle { sizes } => idle::measure(site, fleet, sizes, program).await,
        Command::Dispatch { samples, sizes } => {
            dispatch::measure(site, fleet, *samples, sizes, program).await
        }
        Command::Tasks(arguments) => {
            let TasksArgs { agents, steps, seconds } = *arguments;
            tasks::measure(site, fleet, Load { agents, steps, duration: Duration::from_secs(seconds) }).await
        }
        Command::Heartbeats { agents, seconds } => {
            heartbeats::measure(site, fleet, *agents, Duration::from_secs(*seconds), program).await
        }
        Command::Real { agents, steps } => real::measure(site, *agents, *steps).await,
        Command::Reconnect { agents } => reconnect::measure(site, fleet, *agents, program).await,
        Command::Day { agents, beats } => day::measure(site, fleet, *agents, *beats).await,
        Command::Scrape { agents } => scrape::measure(site, fleet, *agents).await,
        Command::Replay { events } => {
            tasks::fill_journal(site, fleet, filling(*events)?, *events).await?;
            replay::measure(site).await
        }
        Command::Archive { deployments } => archive::measure(site.folder(), *deployments).await,
        // These are no measurements: they are handled before it comes to one.
        Command::All | Command::RawServer { .. } => Ok(Vec::new()),
    }
}
