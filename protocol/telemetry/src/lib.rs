//! Logs, the same for both ends: JSON lines with the fields that operators query, or a short form for a terminal.
//!
//! This crate knows none of the others. It writes what `tracing` gives it: the event's message becomes `message`, the
//! fields `traceId`, `spanId`, `tenantId` and `correlationId` (of the event or of a span around it) come to the top, and
//! everything else goes into `context`. Values of secret-sounding keys are masked before a byte is written.
//!
//! And the formats in which both ends write their figures: [`exposition`], with [`exemplars`], and [`families`] of what is kept elsewhere.

pub mod exemplars;
pub mod exposition;
pub mod families;
mod format;
mod level;
mod redact;

use std::io::{IsTerminal, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use logroller::{LogRollerBuilder, Rotation, RotationSize};
use serde::{Deserialize, Serialize};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

pub use level::LogLevel;
pub use redact::{SECRET_KEYS, TooManySecrets, hide, redact_text, redact_values};

/// A log file is rotated when it reaches this size, in megabytes.
pub const FILE_SIZE_MAX_MB: u64 = 100;
/// How many files a log is at most, with the one that is written.
pub const FILES_MAX: u64 = 10;
/// How many lines may wait for a slow disk or terminal. Beyond it lines are dropped and counted ([`dropped_lines`]), work is not delayed.
const WAITING_LINES_MAX: usize = 16_384;

/// Standard output, as the kernel numbers what is open.
const STDOUT: u8 = 1;
/// Standard error.
const STDERR: u8 = 2;

/// The tenant that the whole process belongs to.
static TENANT: OnceLock<String> = OnceLock::new();

/// What counts the dropped lines of each output of the process.
static DROPPED: OnceLock<Vec<(&'static str, ErrorCounter)>> = OnceLock::new();

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    level: LogLevel,
    _stdout: WorkerGuard,
    _file: Option<WorkerGuard>,
}

impl Guard {
    /// The level of the process, to look at and to change.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }
}

/// Sets up logging for the process.
///
/// # Errors
/// If the level is not understood, the file cannot be written, or it was called before.
pub fn init(config: &Config) -> Result<Guard, Error> {
    let (filter, filter_handle) = reload::Layer::new(level::parse(&config.level)?);
    let level = LogLevel::new(&config.level, move |filter| filter_handle.reload(filter).is_ok());
    let human = match config.format {
        Format::Auto => std::io::stdout().is_terminal(),
        Format::Json => false,
        Format::Human => true,
    };
    let (stdout, stdout_guard) = non_blocking(std::io::stdout());
    let mut dropped = vec![("stdout", stdout.error_counter())];
    let json = |to_journal| format::Json {
        service: config.service,
        version: config.version,
        to_journal,
        tenant: &TENANT,
    };
    let console = if human {
        fmt::layer().event_format(format::Human).fmt_fields(format::JsonFields).with_writer(stdout).boxed()
    } else {
        fmt::layer()
            .event_format(json(is_journal(STDOUT)))
            .fmt_fields(format::JsonFields)
            .with_writer(stdout)
            .boxed()
    };
    let (file_layer, file_guard) = match &config.file {
        None => (None, None),
        Some(path) => {
            let (writer, guard) = non_blocking(rolling_file(path, RotationSize::MB(FILE_SIZE_MAX_MB))?);
            dropped.push(("file", writer.error_counter()));
            let layer =
                fmt::layer().event_format(json(false)).fmt_fields(format::JsonFields).with_writer(writer);
            (Some(layer), Some(guard))
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(console)
        .with(file_layer)
        .try_init()
        .map_err(|_| Error::Twice)?;
    // There is one subscriber, so this was empty.
    DROPPED.get_or_init(|| dropped);
    std::panic::set_hook(Box::new(say_panic));
    Ok(Guard { level, _stdout: stdout_guard, _file: file_guard })
}

/// From now on each JSON line has this tenant that has no other. For a process that belongs to one; only the first call counts.
pub fn set_tenant(tenant: String) {
    // It is the same one.
    drop(TENANT.set(tenant));
}

/// How many lines of the process were dropped so far, for each output (`stdout`, `file`), because it was too slow for them. Nothing before
/// [`init`].
pub fn dropped_lines() -> impl Iterator<Item = (&'static str, u64)> {
    let outputs = DROPPED.get().into_iter().flatten();
    outputs.map(|(output, counter)| (*output, u64::try_from(counter.dropped_lines()).unwrap_or(u64::MAX)))
}

/// Says on standard error why a program ends, with what is secret in it masked. It is all that is said where there is no log yet, because
/// the configuration is not good say; so systemd's journal is told that it is an error, as it is of lines of the log.
pub fn last_words(program: &str, why: &str) {
    let before = if is_journal(STDERR) {
        format!("<{}>", format::priority(tracing::Level::ERROR))
    } else {
        String::new()
    };
    let told = redact_text(&format!("{program}: {why}"));
    let lines: String = told.lines().map(|line| format!("{before}{line}\n")).collect();
    // Nobody is left to tell when it is closed; the exit code still does.
    std::io::stderr().write_all(lines.as_bytes()).ok();
}

/// A panic is a line of the log like others, with where it happened; not a text of many lines on standard error.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let problem = panic.payload_as_str().unwrap_or("without a message");
    tracing::error!(place, thread, problem, "a panic; this is a defect, please report it");
}

/// Whether one of the standard outputs is systemd's journal, as systemd says it: by the device and the inode of the socket.
fn is_journal(descriptor: u8) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata(format!("/proc/self/fd/{descriptor}"))
        .is_ok_and(|it| stream == format!("{}:{}", it.dev(), it.ino()))
}

fn non_blocking<W: std::io::Write + Send + 'static>(writer: W) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES_MAX).finish(writer)
}

fn rolling_file(path: &Path, size: RotationSize) -> Result<impl std::io::Write + Send + 'static, Error> {
    let failed = |problem: String| Error::File { path: path.to_owned(), problem };
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().ok_or_else(|| failed("it names no file".into()))?;
    LogRollerBuilder::new(directory, Path::new(name))
        .rotation(Rotation::SizeBased(size))
        .max_keep_files(FILES_MAX - 1)
        .file_mode(0o640)
        .build()
        .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A disk that hangs until it is let go.
    struct Hanging(Receiver<()>);

    impl Write for Hanging {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // It goes on for good when the other end is gone.
            self.0.recv().ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_hanging_disk_does_not_take_are_dropped_and_counted() {
        let (release, hangs) = channel();
        let (mut writer, guard) = non_blocking(Hanging(hangs));
        let counter = writer.error_counter();
        let more = 100;
        // One may be in the hands of the thread that writes.
        for _ in 0..=WAITING_LINES_MAX + more {
            writer.write_all(b"a line\n").unwrap();
        }
        let dropped = counter.dropped_lines();
        assert!(dropped == more || dropped == more + 1, "{dropped}");
        drop(release);
        drop(guard);
    }

    /// The files when those that are full have got their names: another thread gives them.
    fn settled(folder: &Path) -> Vec<PathBuf> {
        let files =
            || -> Vec<_> { std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect() };
        let is_pending = |path: &PathBuf| path.display().to_string().contains(".pending");
        for _ in 0..3_000 {
            if files().len() <= 10 && !files().iter().any(is_pending) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        files()
    }

    #[test]
    fn a_log_is_ten_files_and_the_newest_lines_are_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = rolling_file(&folder.path().join("orchestrator.log"), RotationSize::KB(1)).unwrap();
        for number in 0..1_000 {
            file.write_all(format!("line {number:04} of a log that is rotated\n").as_bytes()).unwrap();
        }
        file.flush().unwrap();
        let files = settled(folder.path());
        assert_eq!(files.len(), 10, "{files:?}");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let lines: Vec<usize> = files
            .iter()
            .flat_map(|path| text(path).lines().map(|line| line[5..9].parse().unwrap()).collect::<Vec<_>>())
            .collect();
        let (newest, oldest) = (*lines.iter().max().unwrap(), *lines.iter().min().unwrap());
        assert_eq!((newest, newest - oldest + 1), (999, lines.len()), "no line is lost or there twice");
        assert!(text(&folder.path().join("orchestrator.log")).contains("line 0999"));
        for path in files {
            let metadata = std::fs::metadata(&path).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
            assert_eq!(mode & 0o007, 0, "others may read {}", path.display());
            assert!(metadata.len() <= 1_100, "{} has {} bytes", path.display(), metadata.len());
        }
    }
}
