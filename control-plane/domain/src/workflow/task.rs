//! Steps that run something on targets, without bringing them a release: see [`crate::job`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stella_protocol::spec;

use super::Span;
use crate::amount::Amount;
use crate::deployment;
use crate::name::Name;
use crate::release::{Phase, Step, StepAction};

/// Run something on targets of an environment. Texts may hold `${expressions}`; those in `steps` also what a target fills in, as in a
/// release: `${port}`, `${port:80}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskStep {
    /// The environment's name or id.
    pub environment: String,
    /// Only these targets, by name; all of the environment if there are none, and no labels either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Only targets that have all of these labels, as they are when the step begins.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is run on each of them, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<TargetStep>,
    /// Instead: the release whose steps are run, its id or `application:version`. It brings no artifacts, and may be signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// How many targets are worked on at the same time, a number or a share such as `25%`; all if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<Amount>,
    /// How many targets may fail before that counts: a number or a share such as `10%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate_failures: Option<Amount>,
    /// How long all of it may take, once it has started.
    #[serde(default = "TaskStep::timeout_default")]
    pub timeout: Span,
}

impl TaskStep {
    const fn timeout_default() -> Span {
        Span(deployment::TIMEOUT_MS_DEFAULT)
    }
}

/// One thing to do on each target. Exactly one of the fields behind `timeout` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetStep {
    /// Its name, unique in the list.
    pub name: Name,
    /// How long it may take on the host.
    #[serde(default = "TargetStep::timeout_default")]
    pub timeout: Span,
    /// Run a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// Ask an HTTP server on the host until it answers as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_http: Option<CheckHttp>,
    /// Connect to a TCP port until it accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_tcp: Option<CheckTcp>,
    /// Run a command until it exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_command: Option<CheckCommand>,
    /// Act on a systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Systemd>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Where to run it, relative to the target's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// As whom; the agent's own user if nobody is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A question to an HTTP server on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckHttp {
    /// An `http://` URL.
    pub url: String,
    /// The wanted status.
    #[serde(default = "status_default")]
    pub status: u16,
    /// The pause between tries.
    #[serde(default = "interval_default")]
    pub interval: Span,
    /// Good answers in a row that are needed.
    #[serde(default = "successes_default")]
    pub successes: u32,
}

/// A TCP port on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckTcp {
    /// `host:port`.
    pub address: String,
    /// The pause between tries.
    #[serde(default = "interval_default")]
    pub interval: Span,
    /// Good answers in a row that are needed.
    #[serde(default = "successes_default")]
    pub successes: u32,
}

/// A command that is run until it exits with 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The pause between tries.
    #[serde(default = "interval_default")]
    pub interval: Span,
    /// Good answers in a row that are needed.
    #[serde(default = "successes_default")]
    pub successes: u32,
}

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Systemd {
    /// The unit's name.
    pub unit: String,
    /// What to do.
    pub action: UnitAction,
}

/// What can be done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitAction {
    /// Start it and wait until it is active.
    Start,
    /// Stop it and wait until it is inactive.
    Stop,
    /// Restart it and wait until it is active.
    Restart,
    /// Ask it to reload, or restart it if it cannot.
    ReloadOrRestart,
}

const fn status_default() -> u16 {
    200
}

const fn interval_default() -> Span {
    Span(1_000)
}

const fn successes_default() -> u32 {
    1
}

impl TargetStep {
    const fn timeout_default() -> Span {
        Span(300_000)
    }

    /// The names of what it does: a checked one has exactly one.
    pub(super) fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("command", self.command.is_some()),
            ("check_http", self.check_http.is_some()),
            ("check_tcp", self.check_tcp.is_some()),
            ("check_command", self.check_command.is_some()),
            ("systemd", self.systemd.is_some()),
        ];
        all.into_iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| kind).collect()
    }

    /// The same as a release has it, its texts passed through `fill`, which is told the field that each of them is in. `None` if it does
    /// nothing, which no checked one does.
    pub(crate) fn filled<E>(
        &self,
        fill: &mut dyn FnMut(&str, &str) -> Result<String, E>,
    ) -> Result<Option<Step>, E> {
        let action = if let Some(command) = &self.command {
            Some(command.filled(fill)?)
        } else if let Some(check) = &self.check_http {
            let (status, interval_ms, successes) = (check.status, check.interval.0, check.successes);
            Some(StepAction::CheckHttp {
                url: fill("check_http.url", &check.url)?,
                status,
                interval_ms,
                successes,
            })
        } else if let Some(check) = &self.check_tcp {
            let (interval_ms, successes) = (check.interval.0, check.successes);
            let address = fill("check_tcp.address", &check.address)?;
            Some(StepAction::CheckTcp { address, interval_ms, successes })
        } else if let Some(check) = &self.check_command {
            let (interval_ms, successes) = (check.interval.0, check.successes);
            let argv = all("check_command.argv", &check.argv, fill)?;
            Some(StepAction::CheckCommand { argv, interval_ms, successes })
        } else if let Some(systemd) = &self.systemd {
            let action = match systemd.action {
                UnitAction::Start => spec::UnitAction::Start,
                UnitAction::Stop => spec::UnitAction::Stop,
                UnitAction::Restart => spec::UnitAction::Restart,
                UnitAction::ReloadOrRestart => spec::UnitAction::ReloadOrRestart,
            };
            Some(StepAction::Systemd { unit: fill("systemd.unit", &systemd.unit)?, action })
        } else {
            None
        };
        let (name, timeout_ms) = (self.name.clone(), self.timeout.0);
        Ok(action.map(|action| Step { name, action, timeout_ms, phase: Phase::Prepare }))
    }
}

impl Command {
    fn filled<E>(&self, fill: &mut dyn FnMut(&str, &str) -> Result<String, E>) -> Result<StepAction, E> {
        let mut environment = BTreeMap::new();
        for (name, value) in &self.environment {
            environment.insert(name.clone(), fill(&format!("command.environment.{name}"), value)?);
        }
        let mut maybe =
            |field: &str, text: &Option<String>| text.as_deref().map(|text| fill(field, text)).transpose();
        Ok(StepAction::Command {
            working_directory: maybe("command.working_directory", &self.working_directory)?,
            user: maybe("command.user", &self.user)?,
            argv: all("command.argv", &self.argv, fill)?,
            environment,
        })
    }
}

fn all<E>(
    field: &str,
    texts: &[String],
    fill: &mut dyn FnMut(&str, &str) -> Result<String, E>,
) -> Result<Vec<String>, E> {
    texts.iter().enumerate().map(|(at, text)| fill(&format!("{field}[{at}]"), text)).collect()
}
