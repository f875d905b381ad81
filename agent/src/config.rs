//! How the agent is set up: a file, a folder of more files, the environment and flags; the later ones win.
//!
//! Everything is read and judged before anything is opened. A key that is not known is refused by its name: a typing error
//! in a policy must not become a permission.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stella_otlp::{Compression, Protocol};
use stella_protocol::message::FiguresAt;
use stella_protocol::validate::is_host;
use stella_settings::{Key, Layers, Shown};
use stella_telemetry::{Format, LogLevel};

use crate::metrics;
use crate::policy::{Kind, Policy, UnitRule};
use crate::supervisor::Limits;

/// The file that is read if it is there and none is named.
pub const FILE_DEFAULT: &str = "/etc/stella/agent.toml";

const STATE_DIR_DEFAULT: &str = "/var/lib/stella-agent";
const CONCURRENCY_DEFAULT: usize = 4;
/// Each running task has a supervisor process and threads of this one.
const CONCURRENCY_MAX: usize = 64;
const DRAIN_S_DEFAULT: u64 = 10;
const DRAIN_S_MAX: u64 = 3600;
/// With less, the supervisor itself would be what is killed.
const TASK_MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// A thousand processors.
const TASK_CPU_PERCENT_MAX: u32 = 100_000;
const RESERVE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Set to 1 by a unit for whose host a list of units must not get lost. Not a key: a file could take that away as well.
const UNITS_REQUIRED: &str = "STELLA_AGENT_POLICY_UNITS_REQUIRED";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, a variable or a flag is not understood.
    #[error(transparent)]
    Settings(#[from] stella_settings::Error),
    /// The log's level is not understood.
    #[error(transparent)]
    Log(#[from] stella_telemetry::Error),
    /// The section `traces` makes no sense.
    #[error(transparent)]
    Traces(#[from] stella_otlp::Error),
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
    /// The profile of named units without the units: nothing would be named, so every unit would be allowed.
    #[error(
        "policy.units is not set, and the profile of this host needs it ({UNITS_REQUIRED}=1): name the units that tasks may act on, or write \
         `units = []` for none"
    )]
    UnitsMissing,
    /// A variable that looks like one of the agent's, and that nothing reads.
    #[error("there is no variable {name}{}", meant.as_ref().map(|it| format!("; did you mean {it}?")).unwrap_or_default())]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The one that may have been meant.
        meant: Option<String>,
    },
    /// Two variables for one key, with different values.
    #[error("{one} and {other} are two names of one variable, and have different values; set one of them")]
    TwoVariables {
        /// One of them.
        one: &'static str,
        /// The other one.
        other: &'static str,
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
    /// What the tasks of one supervisor may use.
    pub limits: Limits,
    /// What tasks may be.
    pub policy: Policy,
    /// Where figures are served, if they are.
    pub metrics: Option<metrics::Config>,
    /// Where spans are sent, if the agent does that itself.
    pub traces: stella_otlp::Config,
}

/// What a file, the environment or the flags say; what they do not say is `None`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// The section `metrics`.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// The section `traces`.
    #[serde(default)]
    pub traces: TracesSettings,
    /// The section `policy`.
    #[serde(default)]
    pub policy: PolicySettings,
    /// The section `tasks`.
    #[serde(default)]
    pub tasks: TaskSettings,
}

/// The section `metrics`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// The listener's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whose certificates scrapers have to show.
    pub client_ca: Option<PathBuf>,
    /// `host:port` where scrapers on other hosts reach the listener.
    pub advertise: Option<String>,
}

/// The section `traces`, as the control plane has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesSettings {
    /// Where a collector takes OTLP.
    pub endpoint: Option<String>,
    /// How it takes it.
    pub protocol: Option<Protocol>,
    /// Whether what is sent is compressed.
    pub compression: Option<Compression>,
    /// The authorities that its certificate may be under.
    pub ca: Option<PathBuf>,
    /// Headers for it.
    pub headers_file: Option<PathBuf>,
}

/// The section `log`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// The kinds of tasks that may run here.
    pub allow: Option<Vec<Kind>>,
    /// The units that systemd tasks may act on.
    pub units: Option<Vec<String>>,
}

/// The section `tasks`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSettings {
    /// Bytes of memory.
    pub memory_max_bytes: Option<u64>,
    /// Processes and threads.
    pub processes_max: Option<u32>,
    /// Percent of one processor.
    pub cpu_percent_max: Option<u32>,
}

/// Every key, in the order of the reference page.
pub const KEYS: &[Key] = &[
    key("server", "none", "`host:port`", "the control plane; where the agent was enrolled without it"),
    key("state_dir", "`/var/lib/stella-agent`", "absolute path", "identity, journal and attempts"),
    key("host_root", "`/`", "absolute path", "what tasks may change"),
    key("concurrency", "4", "tasks, 1 to 64", "how many run side by side"),
    live(
        "drain_seconds",
        "10",
        "seconds, at most 3600",
        "how long tasks may go on when the agent stops; a unit's `TimeoutStopSec` (90 s in the package) has to be longer, or systemd cuts it short",
    ),
    key(
        "reserve_bytes",
        "67108864",
        "bytes",
        "free on the disk, or commands are refused and artifacts not fetched",
    ),
    live("log.level", "`info`", "level or filter", "such as `info,stella_agent=debug`"),
    key("log.format", "`auto`", "`auto`, `json`, `human`", "`auto` is `human` on a terminal"),
    key("log.file", "none", "path", "JSON lines as well, rotated at 100 MB, ten files in all"),
    key(
        "metrics.listen",
        "none",
        "address, TCP",
        "serves [the agent's own figures](observability.md#the-agents-own-figures) at `/metrics`: plain HTTP on a loopback address; on others a certificate is needed",
    ),
    key(
        "metrics.certificate",
        "none",
        "path, PEM",
        "the listener's certificate; scrapers have to show one as well then",
    ),
    key("metrics.key", "none", "path, PEM", "its key"),
    key(
        "metrics.client_ca",
        "none",
        "path, PEM",
        "under whose authority scrapers' certificates have to be; Stella's without it, under which every agent has one",
    ),
    key(
        "metrics.advertise",
        "none",
        "`host:port`",
        "where scrapers on other hosts reach the listener, for [discovery](observability.md#finding-agents); without it the address that it listens on, or where the control plane sees this host",
    ),
    key(
        "traces.endpoint",
        "none",
        "URL",
        "where a collector takes OTLP, as in the control plane's `traces.endpoint`: the agent sends [its spans](observability.md#directly-from-the-hosts) there itself; without it the control plane does",
    ),
    key("traces.protocol", "`http/protobuf`", "`grpc`, `http/protobuf`", "what the collector takes it in"),
    key("traces.compression", "`none`", "`none`, `gzip`", "whether what is sent is compressed"),
    key(
        "traces.ca",
        "none",
        "absolute path, PEM",
        "authorities that the collector's certificate may be under; the system's without it",
    ),
    key(
        "traces.headers_file",
        "none",
        "absolute path",
        "headers for the collector, one `Name: value` a line; a file, because they are secrets",
    ),
    live(
        "policy.allow",
        "[\"artifact\",\"command\",\"check\",\"systemd\"]",
        "list of kinds of tasks",
        "what may run on this host, whatever the control plane says",
    ),
    live(
        "policy.units",
        "none",
        "list of unit names",
        "what `systemd` tasks may act on: `web.service`, or `web@*.service` for all instances; every unit without it. It does not bind `command`",
    ),
    live(
        "tasks.memory_max_bytes",
        "none",
        "bytes, at least 16777216",
        "how much memory a command may have with all that it starts; the kernel kills what goes beyond. [Limits](install.md#limits-of-tasks) need a unit that delegates",
    ),
    live("tasks.processes_max", "none", "processes and threads, at least 1", "how many it may have"),
    live(
        "tasks.cpu_percent_max",
        "none",
        "percent of one processor, 1 to 100000",
        "how much of the processors it may use",
    ),
];

const fn key(name: &'static str, default: &'static str, unit: &'static str, about: &'static str) -> Key {
    Key { name, default, unit, about, reloads: false }
}

const fn live(name: &'static str, default: &'static str, unit: &'static str, about: &'static str) -> Key {
    Key { name, default, unit, about, reloads: true }
}

/// A judged configuration with where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was judged.
    pub config: Config,
    settings: Settings,
    layers: Layers,
}

impl Loaded {
    /// Reads the files and puts `over` (environment and flags) on top; `origin` says of a key where that is from.
    ///
    /// # Errors
    /// If a file is not there or not understood, or a value is out of bounds.
    pub fn load(
        file: Option<&Path>,
        over: &Settings,
        origin: impl Fn(&str) -> String,
    ) -> Result<Self, Error> {
        let mut layers = Layers::new(KEYS);
        layers.add_files(file.unwrap_or_else(|| Path::new(FILE_DEFAULT)), file.is_some())?;
        for (name, value) in stella_settings::leaves(&json(over)) {
            // What is not said is `null` there, and no value of TOML.
            if let Ok(value) = toml::Value::try_from(&value)
                && !matches!(&value, toml::Value::Table(_))
            {
                layers.set(&name, value, &origin(&name))?;
            }
        }
        let settings: Settings = layers.read()?;
        let needs_units = std::env::var_os(UNITS_REQUIRED).is_some_and(|value| value == "1");
        Ok(Self { config: Config::judge(settings.clone(), needs_units)?, settings, layers })
    }

    /// Which files were read, for people.
    #[must_use]
    pub fn files_told(&self) -> String {
        self.layers.files_told()
    }

    /// All keys with their values, secrets masked.
    #[must_use]
    pub fn effective(&self) -> Vec<Shown> {
        self.layers.effective(&json(&self.settings.clone().with_defaults()))
    }

    /// All keys with their values as they are: to compare them, and not to show them.
    #[must_use]
    pub fn in_effect(&self) -> Vec<Shown> {
        self.layers.in_effect(&json(&self.settings.clone().with_defaults()))
    }
}

fn json(settings: &Settings) -> serde_json::Value {
    serde_json::to_value(settings).expect("settings are texts, numbers and lists of them")
}

impl Settings {
    fn with_defaults(self) -> Self {
        let text = |value: &str| Some(value.into());
        Self {
            server: self.server,
            state_dir: self.state_dir.or_else(|| text(STATE_DIR_DEFAULT)),
            host_root: self.host_root.or_else(|| text("/")),
            concurrency: self.concurrency.or(Some(CONCURRENCY_DEFAULT)),
            drain_seconds: self.drain_seconds.or(Some(DRAIN_S_DEFAULT)),
            reserve_bytes: self.reserve_bytes.or(Some(RESERVE_BYTES_DEFAULT)),
            log: LogSettings {
                level: self.log.level.or_else(|| Some("info".to_owned())),
                format: self.log.format.or_else(|| Some(Format::default())),
                file: self.log.file,
            },
            metrics: self.metrics,
            traces: TracesSettings {
                protocol: self.traces.protocol.or_else(|| Some(Protocol::default())),
                compression: self.traces.compression.or_else(|| Some(Compression::default())),
                ..self.traces
            },
            policy: PolicySettings {
                allow: self.policy.allow.or_else(|| Some(Kind::ALL.to_vec())),
                units: self.policy.units,
            },
            tasks: self.tasks,
        }
    }
}

impl Config {
    /// Reads the files and puts `over` (environment and flags) on top. Without `file`, [`FILE_DEFAULT`] is read if it is
    /// there.
    ///
    /// # Errors
    /// As [`Loaded::load`].
    pub fn load(file: Option<&Path>, over: &Settings) -> Result<Self, Error> {
        Ok(Loaded::load(file, over, |_| "environment or flag".to_owned())?.config)
    }

    fn judge(given: Settings, needs_units: bool) -> Result<Self, Error> {
        let given = given.with_defaults();
        if needs_units && given.policy.units.is_none() {
            return Err(Error::UnitsMissing);
        }
        let server = given.server.map(checked_server).transpose()?;
        let concurrency = given.concurrency.unwrap_or(CONCURRENCY_DEFAULT);
        let drain_s = given.drain_seconds.unwrap_or(DRAIN_S_DEFAULT);
        if drain_s > DRAIN_S_MAX {
            return Err(out_of_bounds("drain_seconds", drain_s, "at most 3600 seconds make sense"));
        }
        let concurrency = NonZeroUsize::new(concurrency)
            .filter(|tasks| tasks.get() <= CONCURRENCY_MAX)
            .ok_or_else(|| out_of_bounds("concurrency", concurrency, "it has to be between 1 and 64"))?;
        let log_level = given.log.level.unwrap_or_default();
        LogLevel::check(&log_level)?;
        Ok(Self {
            server,
            state_dir: absolute("state_dir", given.state_dir.unwrap_or_default())?,
            host_root: absolute("host_root", given.host_root.unwrap_or_default())?,
            concurrency,
            drain: Duration::from_secs(drain_s),
            reserve_bytes: given.reserve_bytes.unwrap_or(RESERVE_BYTES_DEFAULT),
            log_level,
            log_format: given.log.format.unwrap_or_default(),
            log_file: given.log.file,
            limits: limits(&given.tasks)?,
            policy: Policy::allowing(&given.policy.allow.unwrap_or_default())
                .on_units(given.policy.units.map(units).transpose()?),
            metrics: listener(given.metrics)?,
            traces: collector(given.traces)?,
        })
    }
}

fn units(given: Vec<String>) -> Result<Vec<UnitRule>, Error> {
    let rule = |text: String| {
        let expected = "write units in full, such as web.service, or web@*.service for all instances";
        text.parse().map_err(|_| out_of_bounds("policy.units", text, expected))
    };
    given.into_iter().map(rule).collect()
}

fn limits(given: &TaskSettings) -> Result<Limits, Error> {
    let TaskSettings {
        memory_max_bytes: memory_bytes,
        processes_max: processes,
        cpu_percent_max: cpu_percent,
    } = *given;
    if let Some(bytes) = memory_bytes.filter(|bytes| *bytes < TASK_MEMORY_BYTES_MIN) {
        let expected = "a supervisor and a shell need 16777216 bytes (16 MiB) at least";
        return Err(out_of_bounds("tasks.memory_max_bytes", bytes, expected));
    }
    if let Some(none) = processes.filter(|count| *count == 0) {
        return Err(out_of_bounds("tasks.processes_max", none, "a command is one process at least"));
    }
    if let Some(percent) = cpu_percent.filter(|percent| !(1..=TASK_CPU_PERCENT_MAX).contains(percent)) {
        return Err(out_of_bounds("tasks.cpu_percent_max", percent, "it has to be between 1 and 100000"));
    }
    Ok(Limits { memory_bytes, processes, cpu_percent })
}

fn listener(given: MetricsSettings) -> Result<Option<metrics::Config>, Error> {
    let MetricsSettings { listen, certificate, key, client_ca, advertise } = given;
    let missing = |key, expected| Err(out_of_bounds(key, "", expected));
    let Some(listen) = listen else {
        let is_off = certificate.is_none() && key.is_none() && client_ca.is_none() && advertise.is_none();
        return if is_off {
            Ok(None)
        } else {
            missing("metrics.listen", "say where to listen, such as 0.0.0.0:9091")
        };
    };
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(metrics::Tls {
            certificate: absolute("metrics.certificate", certificate)?,
            key: absolute("metrics.key", key)?,
            client_ca: client_ca.map(|path| absolute("metrics.client_ca", path)).transpose()?,
        }),
        (Some(_), None) => return missing("metrics.key", "a certificate needs its key"),
        (None, Some(_)) => return missing("metrics.certificate", "a key needs its certificate"),
        (None, None) if client_ca.is_some() => {
            return missing(
                "metrics.certificate",
                "scrapers can show a certificate only to a listener that has one",
            );
        }
        (None, None) if !listen.ip().is_loopback() => {
            let expected = "only a loopback address goes without metrics.certificate and metrics.key";
            return Err(out_of_bounds("metrics.listen", listen, expected));
        }
        (None, None) => None,
    };
    let advertise = advertise.map(|text| advertised(&text)).transpose()?;
    Ok(Some(metrics::Config { listen, tls, advertise }))
}

fn advertised(text: &str) -> Result<FiguresAt, Error> {
    let read = || {
        let (host, port) = text.rsplit_once(':')?;
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = inner.unwrap_or(host);
        let is_in_its_place = is_host(host) && inner.is_some() == host.contains(':');
        let port = port.parse().ok().filter(|port| *port > 0)?;
        is_in_its_place.then(|| FiguresAt { host: Some(host.to_owned()), port })
    };
    read().ok_or_else(|| {
        out_of_bounds("metrics.advertise", text, "write host:port, for example web-1.example.com:9091")
    })
}

fn collector(given: TracesSettings) -> Result<stella_otlp::Config, Error> {
    let path = |key, path: Option<PathBuf>| path.map(|path| absolute(key, path)).transpose();
    let config = stella_otlp::Config {
        endpoint: given.endpoint,
        protocol: given.protocol.unwrap_or_default(),
        compression: given.compression.unwrap_or_default(),
        ca: path("traces.ca", given.ca)?,
        headers_file: path("traces.headers_file", given.headers_file)?,
    };
    // Its files are looked at where they are needed: they may be there only while the service runs.
    config.address()?;
    Ok(config)
}

/// Checks that a text is `host:port`.
///
/// # Errors
/// If it is not.
pub fn checked_server(server: String) -> Result<String, Error> {
    if stella_settings::is_host_and_port(&server) {
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
        Config::load(Some(file.path()), &over)
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
    fn a_key_that_is_not_known_is_refused_with_the_one_that_was_meant() {
        for (text, name, meant) in [
            ("sever = \"cp:1\"", "sever", "server"),
            ("[policy]\nallw = []", "policy.allw", "policy.allow"),
            ("[log]\nlvl = \"info\"", "log.lvl", "log.level"),
            ("[polcy]\nallow = []", "polcy.allow", "policy.allow"),
        ] {
            let error = load(text, Settings::default()).unwrap_err().to_string();
            let wanted = format!("there is no key {name}; did you mean {meant}?");
            assert!(error.contains(&wanted), "{error}");
        }
        let error = load("[policy]\nallow = [\"root_shell\"]", Settings::default()).unwrap_err().to_string();
        assert!(error.contains("root_shell"), "{error}");
        let error = load("[log]\nlevel = \"loud=yes\"", Settings::default()).unwrap_err().to_string();
        assert!(error.contains("log level"), "{error}");
    }

    #[test]
    fn every_key_is_in_the_table_with_its_default_and_on_the_page() {
        let defaults = json(&Settings::default().with_defaults());
        let leaves = stella_settings::leaves(&defaults);
        assert_eq!(leaves.len(), KEYS.len());
        for (name, value) in leaves {
            let key = KEYS.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{name}"));
            let told = key.default.trim_matches('`');
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let shown = if value.is_null() { "none".to_owned() } else { shown };
            assert_eq!(told, shown, "{name}");
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = stella_settings::with_reference(&page, "stella-agent", KEYS).unwrap();
        if std::env::var_os("STELLA_UPDATE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        assert!(page == wanted, "run the test again with STELLA_UPDATE_DOCS=1 and look at what has changed");
    }

    #[test]
    fn a_list_of_units_that_is_needed_may_be_empty_and_not_missing() {
        let judge = |text| Config::judge(toml::from_str(text).unwrap(), true);
        assert!(matches!(judge("[policy]\nallow = [\"systemd\"]\n"), Err(Error::UnitsMissing)));
        assert_eq!(judge("[policy]\nunits = []\n").unwrap().policy.units().map(<[_]>::len), Some(0));
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
            ("[tasks]\nmemory_max_bytes = 16777215", "tasks.memory_max_bytes"),
            ("[tasks]\nprocesses_max = 0", "tasks.processes_max"),
            ("[policy]\nunits = [\"web.service\", \"*.service\"]", "policy.units"),
            ("[tasks]\ncpu_percent_max = 0", "tasks.cpu_percent_max"),
            ("[tasks]\ncpu_percent_max = 100001", "tasks.cpu_percent_max"),
            ("[metrics]\nlisten = \"0.0.0.0:9091\"", "metrics.listen"),
            ("[metrics]\nkey = \"/k\"", "metrics.listen"),
            ("[metrics]\nadvertise = \"web-1:9091\"", "metrics.listen"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nadvertise = \"web-1\"", "metrics.advertise"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nadvertise = \"web-1:0\"", "metrics.advertise"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nadvertise = \"a/b:1\"", "metrics.advertise"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nadvertise = \"::1:1\"", "metrics.advertise"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nadvertise = \"[web]:1\"", "metrics.advertise"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\ncertificate = \"/c\"", "metrics.key"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nkey = \"/k\"", "metrics.certificate"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\nclient_ca = \"/a\"", "metrics.certificate"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"\ncertificate = \"c\"\nkey = \"/k\"", "metrics.certificate"),
        ] {
            let error = load(text, Settings::default()).unwrap_err();
            assert!(matches!(error, Error::Value { key: named, .. } if named == key), "{text}: {error}");
        }
        let named = load("[policy]\nunits = [\"web@*.service\"]", Settings::default()).unwrap().policy;
        assert_eq!(named, Policy::default().on_units(Some(vec!["web@*.service".parse().unwrap()])));
        assert_eq!(load("", Settings::default()).unwrap().policy.units(), None);
        let plain = load("[metrics]\nlisten = \"127.0.0.1:9091\"", Settings::default()).unwrap();
        assert_eq!(plain.metrics.unwrap().tls, None);
        assert_eq!(load("", Settings::default()).unwrap().metrics, None);
        for server in ["cp:1", "127.0.0.1:1", "[::1]:7443"] {
            assert!(checked_server(server.to_owned()).is_ok(), "{server}");
        }
    }

    #[test]
    fn scrapers_are_sent_where_the_listener_is_reached() {
        let at = |listen: &str, advertise: &str| {
            let text = format!(
                "[metrics]\nlisten = \"{listen}\"\ncertificate = \"/c\"\nkey = \"/k\"\n{advertise}\n"
            );
            let metrics = load(&text, Settings::default()).unwrap().metrics.unwrap();
            metrics.figures_at().map(|at| (at.host, at.port))
        };
        let named = |host: &str, port| Some((Some(host.to_owned()), port));
        assert_eq!(at("127.0.0.1:9091", ""), None, "nobody else reaches it");
        assert_eq!(at("[::1]:9091", ""), None);
        assert_eq!(at("0.0.0.0:9091", ""), Some((None, 9091)), "where it is seen");
        assert_eq!(at("[::]:9091", ""), Some((None, 9091)));
        assert_eq!(at("10.0.0.5:9091", ""), named("10.0.0.5", 9091));
        assert_eq!(at("[::ffff:10.0.0.5]:9091", ""), named("10.0.0.5", 9091));
        assert_eq!(
            at("0.0.0.0:9091", "advertise = \"web-1.example.com:443\""),
            named("web-1.example.com", 443)
        );
        assert_eq!(at("127.0.0.1:9091", "advertise = \"[2001:db8::1]:1\""), named("2001:db8::1", 1));
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let error = Config::load(Some(Path::new("/nowhere/agent.toml")), &Settings::default()).unwrap_err();
        assert!(matches!(error, Error::Settings(stella_settings::Error::Read { .. })));
    }
}
