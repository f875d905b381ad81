//! How the agent is set up: a file, the environment and flags, the later ones first.
//!
//! Everything is read and judged before anything is opened. A key that is not known is refused by its name: a typing error
//! in a policy must not become a permission.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use stella_telemetry::Format;

use crate::policy::{Kind, Policy};

/// The file that is read if it is there and none is named.
pub const FILE_DEFAULT: &str = "/etc/stella/agent.toml";

/// The largest file: far more than all keys with comments, and no mistake (a device, an image) is read whole.
const FILE_BYTES_MAX: u64 = 256 * 1024;

const STATE_DIR_DEFAULT: &str = "/var/lib/stella-agent";
const CONCURRENCY_DEFAULT: usize = 4;
/// Each running task has a supervisor process and threads of this one.
const CONCURRENCY_MAX: usize = 64;
const DRAIN_S_DEFAULT: u64 = 10;
const DRAIN_S_MAX: u64 = 3600;
const RESERVE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not understood.
    #[error("the configuration file {} is not understood: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Where and what.
        problem: String,
    },
    /// A value is out of bounds.
    #[error("{key} is {value:?}; {expected}")]
    Value {
        /// The key's name in the file.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// A judged configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the control plane is; `None`: where the agent was enrolled.
    pub server: Option<String>,
    /// Where the identity, the journal and the attempts are kept.
    pub state_dir: PathBuf,
    /// The folder that tasks may change.
    pub host_root: PathBuf,
    /// How many tasks may run side by side.
    pub concurrency: NonZeroUsize,
    /// How long running tasks may go on when the agent stops.
    pub drain: Duration,
    /// How much of the disk has to stay free for new tasks to be accepted, in bytes.
    pub reserve_bytes: u64,
    /// A log level or filter.
    pub log_level: String,
    /// How log lines look.
    pub log_format: Format,
    /// A file to log to as well.
    pub log_file: Option<PathBuf>,
    /// What tasks may be.
    pub policy: Policy,
}

/// What a file, the environment or the flags say; what they do not say is `None`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `host:port` of the control plane.
    pub server: Option<String>,
    /// Where state is kept.
    pub state_dir: Option<PathBuf>,
    /// The folder that tasks may change.
    pub host_root: Option<PathBuf>,
    /// Tasks side by side.
    pub concurrency: Option<usize>,
    /// Seconds for running tasks when the agent stops.
    pub drain_seconds: Option<u64>,
    /// Bytes that have to stay free.
    pub reserve_bytes: Option<u64>,
    /// The section `log`.
    #[serde(default)]
    pub log: LogSettings,
    /// The section `policy`.
    #[serde(default)]
    pub policy: PolicySettings,
}

/// The section `log`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// A level or filter.
    pub level: Option<String>,
    /// `auto`, `json` or `human`.
    pub format: Option<Format>,
    /// A file to log to as well.
    pub file: Option<PathBuf>,
}

/// The section `policy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// The kinds of tasks that may run here.
    pub allow: Option<Vec<Kind>>,
}

impl Config {
    /// Reads the file and puts `over` (environment and flags) on top. Without `file`, [`FILE_DEFAULT`] is read if it is
    /// there.
    ///
    /// # Errors
    /// If the file is not there or not understood, or a value is out of bounds.
    pub fn load(file: Option<&Path>, over: Settings) -> Result<Self, Error> {
        let path = file.unwrap_or_else(|| Path::new(FILE_DEFAULT));
        let below = match read(path) {
            Ok(text) => parse(path, &text)?,
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => Settings::default(),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        Self::judge(below, over)
    }

    fn judge(below: Settings, over: Settings) -> Result<Self, Error> {
        let server = over.server.or(below.server).map(checked_server).transpose()?;
        let state_dir = over.state_dir.or(below.state_dir).unwrap_or_else(|| STATE_DIR_DEFAULT.into());
        let host_root = over.host_root.or(below.host_root).unwrap_or_else(|| "/".into());
        let concurrency = over.concurrency.or(below.concurrency).unwrap_or(CONCURRENCY_DEFAULT);
        let drain_s = over.drain_seconds.or(below.drain_seconds).unwrap_or(DRAIN_S_DEFAULT);
        if drain_s > DRAIN_S_MAX {
            return Err(out_of_bounds("drain_seconds", drain_s, "at most 3600 seconds make sense"));
        }
        let concurrency = NonZeroUsize::new(concurrency)
            .filter(|tasks| tasks.get() <= CONCURRENCY_MAX)
            .ok_or_else(|| out_of_bounds("concurrency", concurrency, "it has to be between 1 and 64"))?;
        let (log, policy) = (over.log, over.policy);
        Ok(Self {
            server,
            state_dir: absolute("state_dir", state_dir)?,
            host_root: absolute("host_root", host_root)?,
            concurrency,
            drain: Duration::from_secs(drain_s),
            reserve_bytes: over.reserve_bytes.or(below.reserve_bytes).unwrap_or(RESERVE_BYTES_DEFAULT),
            log_level: log.level.or(below.log.level).unwrap_or_else(|| "info".to_owned()),
            log_format: log.format.or(below.log.format).unwrap_or_default(),
            log_file: log.file.or(below.log.file),
            policy: policy
                .allow
                .or(below.policy.allow)
                .map_or_else(Policy::default, |kinds| Policy::allowing(&kinds)),
        })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let read = io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX + 1), &mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 256 KiB"));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Settings, Error> {
    toml::from_str(text).map_err(|error| Error::File { path: path.to_owned(), problem: error.to_string() })
}

/// Checks that a text is `host:port`.
///
/// # Errors
/// If it is not.
pub fn checked_server(server: String) -> Result<String, Error> {
    let is_name_and_port = server.rsplit_once(':').is_some_and(|(host, port)| {
        let is_name = !host.is_empty() && !host.contains([':', '/', '@', ' ']);
        is_name && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_name_and_port || server.parse::<SocketAddr>().is_ok() {
        Ok(server)
    } else {
        Err(out_of_bounds("server", server, "write host:port, for example stella.example.com:7443"))
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(out_of_bounds(key, path.display(), "it has to be an absolute path"))
    }
}

fn out_of_bounds(key: &'static str, value: impl ToString, expected: &'static str) -> Error {
    Error::Value { key, value: value.to_string(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, over: Settings) -> Result<Config, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), over)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let over = Settings { concurrency: Some(7), ..Settings::default() };
        let text = "server = \"cp:7443\"\nconcurrency = 2\n[policy]\nallow = [\"check\"]\n[log]\nformat = \"json\"\n";
        let config = load(text, over).unwrap();
        assert_eq!(config.server.as_deref(), Some("cp:7443"));
        assert_eq!(config.concurrency.get(), 7);
        assert_eq!(config.policy, Policy::allowing(&[Kind::Check]));
        assert_eq!(config.log_format, Format::Json);
        assert_eq!(config.state_dir, Path::new(STATE_DIR_DEFAULT));
        assert_eq!(config.drain, Duration::from_secs(10));
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_by_its_name() {
        for text in ["sever = \"cp:1\"", "[policy]\nalow = []", "[log]\nlvl = \"info\"", "[polcy]\n"] {
            let word = text.trim_start_matches("[policy]\n").trim_start_matches("[log]\n");
            let word: String = word.chars().filter(|c| *c != '[').take_while(|c| c.is_alphabetic()).collect();
            let error = load(text, Settings::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("unknown field `{word}`")), "{error}");
        }
        let error = load("[policy]\nallow = [\"root_shell\"]", Settings::default()).unwrap_err().to_string();
        assert!(error.contains("root_shell"), "{error}");
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_their_key() {
        for (text, key) in [
            ("concurrency = 0", "concurrency"),
            ("concurrency = 65", "concurrency"),
            ("drain_seconds = 4000", "drain_seconds"),
            ("server = \"cp\"", "server"),
            ("server = \"cp:0\"", "server"),
            ("server = \"https://cp:1\"", "server"),
            ("state_dir = \"here\"", "state_dir"),
            ("host_root = \"\"", "host_root"),
        ] {
            let error = load(text, Settings::default()).unwrap_err();
            assert!(matches!(error, Error::Value { key: named, .. } if named == key), "{text}: {error}");
        }
        for server in ["cp:1", "127.0.0.1:1", "[::1]:7443"] {
            assert!(checked_server(server.to_owned()).is_ok(), "{server}");
        }
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let error = Config::load(Some(Path::new("/nowhere/agent.toml")), Settings::default()).unwrap_err();
        assert!(matches!(error, Error::Read { .. }));
    }
}
