//! What an agent is asked to do. The agent knows these kinds and nothing of releases or deployments.
//!
//! Enums here are append-only: a variant's number is on the wire and in journals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The work of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskSpec {
    /// Fetch an archive by digest, verify and unpack it, and switch `current` to it.
    Artifact(ArtifactSpec),
    /// Run a command to its end.
    Command(CommandSpec),
    /// Ask until healthy, or until a deadline.
    Check(CheckSpec),
    /// Act on a systemd unit.
    Systemd(SystemdSpec),
}

impl TaskSpec {
    /// The names of all kinds.
    pub const KINDS: [&'static str; 4] = ["artifact", "command", "check", "systemd"];

    /// The kind's name as it is in metrics, spans and the API.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Artifact(_) => "artifact",
            Self::Command(_) => "command",
            Self::Check(_) => "check",
            Self::Systemd(_) => "systemd",
        }
    }

    /// How long the task may take on the agent, in milliseconds, from its start.
    #[must_use]
    pub const fn timeout_ms(&self) -> u64 {
        match self {
            Self::Artifact(spec) => spec.timeout_ms,
            Self::Command(spec) => spec.timeout_ms,
            Self::Check(spec) => spec.timeout_ms,
            Self::Systemd(spec) => spec.timeout_ms,
        }
    }
}

/// An archive (`.tar`, `.tar.gz`) to bring to the host.
///
/// On the host: `<host root>/[<slot>/]<component>/releases/<version>-<short digest>/`, and the link `current` beside `releases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactSpec {
    /// The component's name: a directory under the host root.
    pub component: String,
    /// The release's version, for the directory's name.
    pub version: String,
    /// What the archive must hash to.
    pub digest: Digest,
    /// The archive's size in bytes.
    pub size_bytes: u64,
    /// How many unpacked releases to keep, the current one included. At least 1.
    pub keep_releases: u8,
    /// From the start to the switched link, in milliseconds.
    pub timeout_ms: u64,
}

/// A command to run under a supervisor of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments. A relative program with a slash is relative to the working directory.
    pub argv: Vec<String>,
    /// Environment beside the agent's own few variables (`PATH`, `STELLA_*`, `TRACEPARENT`).
    pub environment: BTreeMap<String, String>,
    /// Relative to the host root (or the slot's folder in it), unless absolute. `None` is that root itself.
    pub working_directory: Option<String>,
    /// The user to run as, by name; `None` is the agent's own.
    pub user: Option<String>,
    /// From the start until the whole process tree is told to end, in milliseconds.
    pub timeout_ms: u64,
}

/// A question to ask until the answer is yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// What to ask.
    pub probe: Probe,
    /// The pause between two tries, in milliseconds.
    pub interval_ms: u64,
    /// How many good answers in a row count as healthy. At least 1.
    pub successes: u32,
    /// How long to go on asking, in milliseconds.
    pub timeout_ms: u64,
}

/// How to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A GET that must answer with this status.
    Http {
        /// An `http://` URL.
        url: String,
        /// The wanted status code.
        status: u16,
    },
    /// A TCP connection that must be accepted.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A command that must exit with 0.
    Command(CommandSpec),
}

/// An action on a systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemdSpec {
    /// The unit's full name, for example `web.service`.
    pub unit: String,
    /// What to do.
    pub action: UnitAction,
    /// From the request until the unit is in the wanted state, in milliseconds.
    pub timeout_ms: u64,
}

/// What can be done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
