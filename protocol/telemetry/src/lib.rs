//! Logs, the same for both ends: JSON lines with the fields that operators query, or a short form for a terminal.
//!
//! This crate knows none of the others. It writes what `tracing` gives it: the event's message becomes `message`, the
//! fields `traceId`, `spanId`, `tenantId` and `correlationId` (of the event or of a span around it) come to the top, and
//! everything else goes into `context`. Values of secret-sounding keys are masked before a byte is written.

mod format;
mod redact;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use logroller::{LogRollerBuilder, Rotation, RotationSize};
use serde::Deserialize;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub use redact::redact_text;

/// A log file is rotated when it reaches this size, in megabytes.
const FILE_SIZE_MAX_MB: u64 = 100;
/// How many full files are kept beside the one that is written: ten files in all.
const ROTATED_FILES_MAX: u64 = 9;
/// How many lines may wait for a slow disk or terminal. Beyond it lines are dropped, work is not delayed.
const WAITING_LINES_MAX: usize = 16_384;

/// What and where to log.
#[derive(Clone, Debug)]
pub struct Config {
    /// The field `service`.
    pub service: &'static str,
    /// The field `version`.
    pub version: &'static str,
    /// A level (`info`) or a filter (`info,stella_fleet=debug`).
    pub level: String,
    /// How lines look on standard output.
    pub format: Format,
    /// A file to write JSON lines to as well; rotated at 100 MB, ten files in all.
    pub file: Option<PathBuf>,
}

/// How lines look on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people on a terminal, JSON anywhere else.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Human,
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "human" => Ok(Self::Human),
            other => Err(Error::Format { format: other.to_owned() }),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is not understood.
    #[error(
        "log level {level:?} is not understood; use error, warn, info, debug or trace, or a filter such as info,stella_fleet=debug"
    )]
    Level {
        /// What was given.
        level: String,
    },
    /// The format is not understood.
    #[error("log format {format:?} is not understood; use auto, json or human")]
    Format {
        /// What was given.
        format: String,
    },
    /// The file cannot be written.
    #[error("the log file {path} cannot be written: {problem}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is in the way.
        problem: String,
    },
    /// There is a subscriber already.
    #[error("logging was set up twice")]
    Twice,
}

/// Writes what is left when it is dropped: keep it until the end of `main`.
#[derive(Debug)]
#[must_use = "lines are lost when the guard is dropped early"]
pub struct Guard {
    _stdout: WorkerGuard,
    _file: Option<WorkerGuard>,
}

/// Sets up logging for the process.
///
/// # Errors
/// If the level is not understood, the file cannot be written, or it was called before.
pub fn init(config: &Config) -> Result<Guard, Error> {
    let filter =
        EnvFilter::try_new(&config.level).map_err(|_| Error::Level { level: config.level.clone() })?;
    let human = match config.format {
        Format::Auto => std::io::stdout().is_terminal(),
        Format::Json => false,
        Format::Human => true,
    };
    let (stdout, stdout_guard) = non_blocking(std::io::stdout());
    let json = || format::Json { service: config.service, version: config.version };
    let console = if human {
        fmt::layer().event_format(format::Human).fmt_fields(format::JsonFields).with_writer(stdout).boxed()
    } else {
        fmt::layer().event_format(json()).fmt_fields(format::JsonFields).with_writer(stdout).boxed()
    };
    let (file_layer, file_guard) = match &config.file {
        None => (None, None),
        Some(path) => {
            let (writer, guard) = non_blocking(rolling_file(path)?);
            let layer = fmt::layer().event_format(json()).fmt_fields(format::JsonFields).with_writer(writer);
            (Some(layer), Some(guard))
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(console)
        .with(file_layer)
        .try_init()
        .map_err(|_| Error::Twice)?;
    Ok(Guard { _stdout: stdout_guard, _file: file_guard })
}

fn non_blocking<W: std::io::Write + Send + 'static>(writer: W) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES_MAX).finish(writer)
}

fn rolling_file(path: &Path) -> Result<impl std::io::Write + Send + 'static, Error> {
    let failed = |problem: String| Error::File { path: path.to_owned(), problem };
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().ok_or_else(|| failed("it names no file".into()))?;
    LogRollerBuilder::new(directory, Path::new(name))
        .rotation(Rotation::SizeBased(RotationSize::MB(FILE_SIZE_MAX_MB)))
        .max_keep_files(ROTATED_FILES_MAX)
        .file_mode(0o640)
        .build()
        .map_err(|error| failed(error.to_string()))
}
