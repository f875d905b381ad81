//! Releases: immutable, versioned sets of components, each pinned by digest, and the steps that bring them to a target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::ReleaseId;
use stella_protocol::spec::UnitAction;
use stella_protocol::time::Timestamp;

use crate::hold::Standing;
use crate::name::{Name, Version};
use crate::provenance::Provenance;
use crate::size;

/// How many components a release may have.
pub const COMPONENTS_MAX: usize = 64;
/// How many steps a release may have.
pub const STEPS_MAX: usize = 64;
/// The shortest and the longest time that a step may take on the agent, in milliseconds: a second and a day.
pub const STEP_TIMEOUT_MS_RANGE: (u64, u64) = (1_000, 24 * 3_600_000);
/// How many releases a host may keep: enough to go back, and a bound for its disk.
pub const KEEP_RELEASES_MAX: u8 = 50;
/// How many releases a host keeps if a release has no steps of its own.
pub const KEEP_RELEASES_DEFAULT: u8 = 5;
/// How long an artifact step may take if a release has no steps of its own, in milliseconds.
pub const ARTIFACT_TIMEOUT_MS_DEFAULT: u64 = 600_000;

/// A release. Never edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its id.
    pub id: ReleaseId,
    /// What it is a release of: versions are unique within it.
    pub application: Name,
    /// Its version.
    pub version: Version,
    /// What it is made of.
    pub components: Vec<Component>,
    /// What to do on a target, in this order. Never empty.
    pub steps: Vec<Step>,
    /// For selecting, and for people.
    pub labels: BTreeMap<String, String>,
    /// Where it comes from, if somebody has said so.
    #[serde(default)]
    pub provenance: Option<Provenance>,
    /// The channels that it was in when it was registered.
    #[serde(default)]
    pub channels: Vec<Name>,
    /// What people think of it.
    #[serde(default)]
    pub standing: Standing,
    /// When it was created.
    pub created_at: Timestamp,
}

/// How much the releases of a tenant may be together. They stay for ever, and all of them are in memory; what is absent has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReleaseBounds {
    /// How many there may be.
    pub count_max: Option<u64>,
    /// How large what they say may be, with what scanners say of them, in bytes of JSON.
    pub bytes_max: Option<u64>,
}

impl Release {
    /// How large what it says is, in bytes of JSON: what whoever created it has chosen.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_of(&self.components, &self.steps, &self.labels, self.provenance.as_ref())
    }
}

/// As [`Release::bytes`], of one that is to be.
pub(crate) fn bytes_of(
    components: &[Component],
    steps: &[Step],
    labels: &BTreeMap<String, String>,
    provenance: Option<&Provenance>,
) -> u64 {
    u64::try_from(size::of(&(components, steps, labels, provenance))).unwrap_or(u64::MAX)
}

/// A part of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its name: a folder on the host.
    pub name: Name,
    /// What its archive hashes to.
    pub digest: Digest,
    /// The archive's size in bytes.
    pub size_bytes: u64,
}

/// One step on a target. Texts may refer to `${name}`, or `${name:default}`: a target's variables and `target`, `slot` and `colour`
/// (empty without one), `version`, `environment`, `application`. In a release with colours `${port}` is the variable `port_blue`
/// or `port_green`, if the target has it. Nothing else is special, so that shell scripts stay as they are; `$${` is a literal `${`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, unique in the release.
    pub name: Name,
    /// What to do.
    pub action: StepAction,
    /// How long it may take on the agent, in milliseconds.
    pub timeout_ms: u64,
    /// What it is a part of.
    #[serde(default, skip_serializing_if = "Phase::is_default")]
    pub phase: Phase,
}

/// What a step is a part of. The steps of a release come in the order of their phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It brings the release to the target. In a release with a switch: into the colour that is not live.
    #[default]
    Prepare,
    /// It leads the traffic to the colour. Also what verifies that.
    Switch,
    /// It ends the colour when the traffic has been led away from it.
    Retire,
}

impl Phase {
    /// Whether this is what a step is a part of unless said otherwise.
    #[must_use]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Switch => "switch",
            Self::Retire => "retire",
        }
    }
}

impl Release {
    /// Whether it has two colours on each target, and steps that switch between them.
    #[must_use]
    pub fn has_colours(&self) -> bool {
        self.steps.iter().any(|step| step.phase == Phase::Switch)
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// Bring a component to the host and switch `current` to it.
    Artifact {
        /// Which component.
        component: Name,
        /// How many releases to keep on the host, this one included.
        keep_releases: u8,
    },
    /// Run a command.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment.
        environment: BTreeMap<String, String>,
        /// Where to run it, relative to the target's folder.
        working_directory: Option<String>,
        /// As whom.
        user: Option<String>,
    },
    /// Ask an HTTP server on the host until it answers as wanted.
    CheckHttp {
        /// The URL.
        url: String,
        /// The wanted status.
        status: u16,
        /// The pause between tries, in milliseconds.
        interval_ms: u64,
        /// Good answers in a row that are needed.
        successes: u32,
    },
    /// Connect to a TCP port until it accepts.
    CheckTcp {
        /// `host:port`.
        address: String,
        /// The pause between tries, in milliseconds.
        interval_ms: u64,
        /// Good answers in a row that are needed.
        successes: u32,
    },
    /// Run a command until it exits with 0.
    CheckCommand {
        /// Program and arguments.
        argv: Vec<String>,
        /// The pause between tries, in milliseconds.
        interval_ms: u64,
        /// Good answers in a row that are needed.
        successes: u32,
    },
    /// Act on a systemd unit.
    Systemd {
        /// The unit's name.
        unit: String,
        /// What to do.
        action: UnitAction,
    },
}
