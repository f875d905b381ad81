//! What a control plane may do on this host, whoever it is: the host has the last word.
//!
//! It is a list of what is allowed. A kind of task that this agent does not know cannot be on it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stella_protocol::message::capability;
use stella_protocol::spec::TaskSpec;

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Brings an archive to the host root and switches to it.
    Artifact,
    /// Runs a command. A check by a command needs this as well.
    Command,
    /// Asks whether something is healthy.
    Check,
    /// Acts on a systemd unit.
    Systemd,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Artifact, Self::Command, Self::Check, Self::Systemd];

    /// The word for it, in the configuration and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Artifact => "artifact",
            Self::Command => "command",
            Self::Check => "check",
            Self::Systemd => "systemd",
        }
    }

    const fn capability(self) -> u64 {
        match self {
            Self::Artifact => capability::ARTIFACT,
            Self::Command => capability::COMMAND,
            Self::Check => capability::CHECK,
            Self::Systemd => capability::SYSTEMD,
        }
    }

    const fn of(spec: &TaskSpec) -> Self {
        match spec {
            TaskSpec::Artifact(_) => Self::Artifact,
            TaskSpec::Command(_) => Self::Command,
            TaskSpec::Check(_) => Self::Check,
            TaskSpec::Systemd(_) => Self::Systemd,
        }
    }
}

/// A word that is no kind of task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of task; use artifact, command, check or systemd")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// The local policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    allowed: Vec<Kind>,
    /// Why nothing may run here at all.
    objection: Option<String>,
}

impl Default for Policy {
    /// Every kind is allowed: what an agent without a policy file is installed for.
    fn default() -> Self {
        Self::allowing(&Kind::ALL)
    }
}

impl Policy {
    /// Allows these kinds and nothing else.
    #[must_use]
    pub fn allowing(kinds: &[Kind]) -> Self {
        Self { allowed: kinds.to_vec(), objection: None }
    }

    /// The same, unless there is a reason that nothing at all may run here.
    #[must_use]
    pub fn unless(self, objection: Option<String>) -> Self {
        Self { objection, ..self }
    }

    /// Whether tasks of this kind may run here.
    #[must_use]
    pub fn allows(&self, kind: Kind) -> bool {
        self.allowed.contains(&kind)
    }

    /// The allowed kinds as capability bits of a hello.
    #[must_use]
    pub fn capabilities(&self) -> u64 {
        self.allowed.iter().fold(0, |bits, kind| bits | kind.capability())
    }

    /// Why a task may not run here; `None` if it may.
    #[must_use]
    pub fn objection(&self, spec: &TaskSpec) -> Option<String> {
        if let Some(reason) = &self.objection {
            return Some(reason.clone());
        }
        let runs_a_command = match spec {
            TaskSpec::Check(check) => matches!(check.probe, stella_protocol::spec::Probe::Command(_)),
            TaskSpec::Artifact(_) | TaskSpec::Command(_) | TaskSpec::Systemd(_) => false,
        };
        let needed = [Some(Kind::of(spec)), runs_a_command.then_some(Kind::Command)];
        let missing = needed.into_iter().flatten().find(|kind| !self.allowed.contains(kind))?;
        let kind = missing.name();
        Some(format!(
            "the host's policy does not allow {kind} tasks; its agent.toml says so under policy.allow"
        ))
    }
}
