//! What can be said of the configuration by flags and by variables: every key of the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde::de::DeserializeOwned;
use stella_otlp::{Compression, Protocol};
use stella_telemetry::Format;

use super::variables::{self, ALLOW, ALLOW_BY_RULE};
use crate::config::{
    Error, LogSettings, MetricsSettings, PolicySettings, Settings, TaskSettings, TracesSettings,
};
use crate::policy::Kind;

#[derive(Debug, Args)]
pub(super) struct Common {
    /// The configuration file [default: /etc/stella/agent.toml, if it is there]
    #[arg(long, env = "STELLA_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where identity, journal and attempts are kept [default: /var/lib/stella-agent]
    #[arg(long, env = "STELLA_AGENT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The control plane [default: where the agent was enrolled]
    #[arg(long, env = "STELLA_AGENT_SERVER", value_name = "HOST:PORT")]
    server: Option<String>,
    /// The folder that tasks may change [default: /]
    #[arg(long, env = "STELLA_AGENT_HOST_ROOT", value_name = "DIR")]
    host_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// How many tasks may run side by side, 1 to 64 [default: 4]
    #[arg(long, env = "STELLA_AGENT_CONCURRENCY", value_name = "TASKS")]
    concurrency: Option<usize>,
    /// How long running tasks may go on when the agent stops [default: 10]
    #[arg(long, env = "STELLA_AGENT_DRAIN_SECONDS", value_name = "SECONDS")]
    drain_seconds: Option<u64>,
    /// How much of the disk has to stay free, or commands are refused and artifacts not fetched [default: 67108864]
    #[arg(long, env = "STELLA_AGENT_RESERVE_BYTES", value_name = "BYTES")]
    reserve_bytes: Option<u64>,
    /// The kinds of tasks that may run here: artifact, command, check, systemd [default: all]
    #[arg(
        long = "policy-allow",
        visible_alias = "allow",
        env = "STELLA_AGENT_POLICY_ALLOW",
        value_name = "KINDS",
        value_delimiter = ','
    )]
    allow: Option<Vec<Kind>>,
    /// The units that systemd tasks may act on, such as web.service,web@*.service [default: all]
    #[arg(long, env = "STELLA_AGENT_POLICY_UNITS", value_name = "UNITS", value_delimiter = ',')]
    policy_units: Option<Vec<String>>,
    /// A log level or filter, such as info or info,stella_agent=debug [default: info]
    #[arg(long, env = "STELLA_AGENT_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look: auto, json or human [default: auto]
    #[arg(long, env = "STELLA_AGENT_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<Format>,
    /// A file to log to as well
    #[arg(long, env = "STELLA_AGENT_LOG_FILE", value_name = "FILE")]
    log_file: Option<PathBuf>,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    traces: TracesArgs,
    #[command(flatten)]
    tasks: TasksArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The agent's own figures")]
struct MetricsArgs {
    /// Serve /metrics here; off a loopback address a certificate is needed [default: nowhere]
    #[arg(long = "metrics-listen", env = "STELLA_AGENT_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The certificate of that listener (PEM)
    #[arg(long = "metrics-certificate", env = "STELLA_AGENT_METRICS_CERTIFICATE", value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long = "metrics-key", env = "STELLA_AGENT_METRICS_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Whose certificates scrapers have to show (PEM) [default: those of Stella's own authority]
    #[arg(long = "metrics-client-ca", env = "STELLA_AGENT_METRICS_CLIENT_CA", value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Where scrapers on other hosts reach that listener, for Prometheus to find it through the control plane
    #[arg(long = "metrics-advertise", env = "STELLA_AGENT_METRICS_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Traces")]
struct TracesArgs {
    /// A collector that takes OTLP, for the agent's own spans [default: the control plane sends them]
    #[arg(long = "traces-endpoint", env = "STELLA_AGENT_TRACES_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,
    /// What it takes them in: grpc or http/protobuf [default: http/protobuf]
    #[arg(long = "traces-protocol", env = "STELLA_AGENT_TRACES_PROTOCOL", value_name = "PROTOCOL", value_parser = named::<Protocol>)]
    protocol: Option<Protocol>,
    /// Whether what is sent is compressed: none or gzip [default: none]
    #[arg(long = "traces-compression", env = "STELLA_AGENT_TRACES_COMPRESSION", value_name = "COMPRESSION", value_parser = named::<Compression>)]
    compression: Option<Compression>,
    /// The authorities that its certificate may be under (PEM) [default: the system's]
    #[arg(long = "traces-ca", env = "STELLA_AGENT_TRACES_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with headers for it, one Name: value a line
    #[arg(long = "traces-headers-file", env = "STELLA_AGENT_TRACES_HEADERS_FILE", value_name = "FILE")]
    headers_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of each command")]
struct TasksArgs {
    /// How much memory it may have, with all that it starts [default: as much as there is]
    #[arg(
        long = "tasks-memory-max-bytes",
        env = "STELLA_AGENT_TASKS_MEMORY_MAX_BYTES",
        value_name = "BYTES"
    )]
    memory_max_bytes: Option<u64>,
    /// How many processes and threads it may have [default: as many as the unit may]
    #[arg(long = "tasks-processes-max", env = "STELLA_AGENT_TASKS_PROCESSES_MAX", value_name = "NUMBER")]
    processes_max: Option<u32>,
    /// How much of the processors it may use, in percent of one [default: all]
    #[arg(
        long = "tasks-cpu-percent-max",
        env = "STELLA_AGENT_TASKS_CPU_PERCENT_MAX",
        value_name = "PERCENT"
    )]
    cpu_percent_max: Option<u32>,
}

/// Reads one of the names that the file has for something.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(text.into())
}

impl Common {
    pub(super) fn into_settings(self) -> (Option<PathBuf>, Settings) {
        let Self { config, state_dir, server, host_root } = self;
        (config, Settings { server, state_dir, host_root, ..Settings::default() })
    }
}

impl RunArgs {
    /// # Errors
    /// If a variable is there that nothing reads, or one for the policy that is not understood.
    pub(super) fn into_settings(self) -> Result<(Option<PathBuf>, Settings), Error> {
        variables::refuse_unknown(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let var = |name| std::env::var(name).ok();
        // A flag stands above both.
        let of_variables = if is_given(&["--policy-allow", "--allow"]) {
            None
        } else {
            variables::allowed(var(ALLOW).as_deref(), var(ALLOW_BY_RULE).as_deref())?
        };
        let allow = of_variables.or_else(|| self.allow.clone());
        Ok(self.with_policy(allow))
    }

    fn with_policy(self, allow: Option<Vec<Kind>>) -> (Option<PathBuf>, Settings) {
        let (file, common) = self.common.into_settings();
        let settings = Settings {
            concurrency: self.concurrency,
            drain_seconds: self.drain_seconds,
            reserve_bytes: self.reserve_bytes,
            log: LogSettings { level: self.log_level, format: self.log_format, file: self.log_file },
            policy: PolicySettings { allow, units: self.policy_units },
            metrics: self.metrics.into_settings(),
            traces: self.traces.into_settings(),
            tasks: self.tasks.into_settings(),
            ..common
        };
        (file, settings)
    }
}

impl MetricsArgs {
    fn into_settings(self) -> MetricsSettings {
        let Self { listen, certificate, key, client_ca, advertise } = self;
        MetricsSettings { listen, certificate, key, client_ca, advertise }
    }
}

impl TracesArgs {
    fn into_settings(self) -> TracesSettings {
        let Self { endpoint, protocol, compression, ca, headers_file } = self;
        TracesSettings { endpoint, protocol, compression, ca, headers_file }
    }
}

impl TasksArgs {
    fn into_settings(self) -> TaskSettings {
        let Self { memory_max_bytes, processes_max, cpu_percent_max } = self;
        TaskSettings { memory_max_bytes, processes_max, cpu_percent_max }
    }
}

/// Where a key has its value from, if it is not from a file.
pub(super) fn origin(key: &str) -> String {
    let flag = format!("--{}", word(key));
    if is_given(&[&flag]) || key == "policy.allow" && is_given(&["--allow"]) {
        return format!("flag {flag}");
    }
    let variable = match variables::of_key(key) {
        by_rule if by_rule == ALLOW_BY_RULE && std::env::var_os(&by_rule).is_none() => ALLOW.to_owned(),
        by_rule => by_rule,
    };
    format!("environment {variable}")
}

/// Whether one of these flags is on the command line.
fn is_given(flags: &[&str]) -> bool {
    std::env::args_os().any(|argument| {
        let argument = argument.to_string_lossy();
        let is_it = |flag: &&str| {
            argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        flags.iter().any(is_it)
    })
}

/// A key as its flag has it, without the dashes.
fn word(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;
    use crate::config::KEYS;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn every_key_has_a_flag_and_a_variable() {
        let line = Line::command();
        for key in KEYS {
            let word = word(key.name);
            let flag = line.get_arguments().find(|it| it.get_long() == Some(&word));
            let flag = flag.unwrap_or_else(|| panic!("{} has no flag --{word}", key.name));
            let variable = variables::of_key(key.name);
            assert_eq!(flag.get_env().map(|it| it.to_string_lossy().into_owned()), Some(variable));
        }
    }

    #[test]
    fn a_flag_says_what_the_file_would() {
        let line = [
            "stella-agent",
            "--metrics-listen=127.0.0.1:9091",
            "--traces-endpoint=http://127.0.0.1:4317",
            "--traces-protocol=grpc",
            "--traces-compression=gzip",
            "--tasks-processes-max=512",
            "--allow=artifact,check",
            "--policy-units=web.service,web@*.service",
        ];
        let (_, said) = Line::parse_from(line).run.into_settings().unwrap();
        let file = "[metrics]\nlisten = \"127.0.0.1:9091\"\n[traces]\nendpoint = \"http://127.0.0.1:4317\"\nprotocol = \"grpc\"\n\
                    compression = \"gzip\"\n[tasks]\nprocesses_max = 512\n[policy]\nallow = [\"artifact\", \"check\"]\n\
                    units = [\"web.service\", \"web@*.service\"]\n";
        let written: Settings = toml::from_str(file).unwrap();
        assert_eq!(serde_json::to_value(said).unwrap(), serde_json::to_value(written).unwrap());
        let wrong = Line::try_parse_from(["stella-agent", "--traces-protocol=udp"]).unwrap_err();
        assert!(wrong.to_string().contains("http/protobuf"), "{wrong}");
    }
}
