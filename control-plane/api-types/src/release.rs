//! Releases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hold::Hold;
use crate::signing::{ReleaseSignature, Sign};

/// How many releases a host keeps by the step that a component gets if a release has no steps of its own.
pub const KEEP_RELEASES_WITHOUT_STEPS: u8 = 5;
/// How long that step may take, in milliseconds.
pub const TIMEOUT_MS_WITHOUT_STEPS: u64 = 600_000;

/// A new release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRelease {
    /// What it is a release of.
    pub application: String,
    /// Its version, unique in the application.
    pub version: String,
    /// What it is made of. The artifacts have to be uploaded already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ComponentInput>,
    /// What to do on a target, in this order; an artifact step for each component if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// For selecting, and for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// Signatures that it comes with. More may follow later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Sign>,
}

/// Where a release comes from, as whoever registers it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The revision of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where the source is: a URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The page of the build: a URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_url: Option<String>,
    /// What built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// Software bills of materials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sboms: Vec<Reference>,
    /// Attestations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<Reference>,
}

/// A document that lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Where.
    pub uri: String,
    /// What it hashes to: `sha256:<hex>`.
    pub digest: String,
}

/// A part of a new release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ComponentInput {
    /// Its name: a folder on the host.
    pub name: String,
    /// Its archive: `sha256:<hex>`.
    pub digest: String,
}

/// A part of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its archive.
    pub digest: String,
    /// The archive's size in bytes.
    pub size_bytes: u64,
    /// Whether the archive was removed because it was old and nothing needed it: the release cannot be deployed until it is uploaded
    /// again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// One step on a target. Texts may refer to `${name}`: the target's variables and `target`, `slot`, `colour`, `version`,
/// `environment`, `application`. In a release with a switch `${port}` is `port_blue` or `port_green`, if the target has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique in the release.
    pub name: String,
    /// How long it may take on the agent, in milliseconds.
    #[serde(default = "timeout_ms_default")]
    #[schema(default = 300_000)]
    pub timeout_ms: u64,
    /// What it is a part of. The steps of a release come in the order of their phases.
    #[serde(default, skip_serializing_if = "Phase::is_prepare")]
    pub phase: Phase,
    /// What to do.
    pub action: StepAction,
}

/// What a step is a part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It brings the release to the target; in a release with a switch, into the colour that is not live.
    #[default]
    Prepare,
    /// It leads the traffic to the colour, or verifies that.
    Switch,
    /// It ends the colour when the traffic has been led away from it.
    Retire,
}

impl Phase {
    /// Whether this is what a step is a part of unless said otherwise.
    #[must_use]
    pub const fn is_prepare(&self) -> bool {
        matches!(self, Self::Prepare)
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum StepAction {
    /// Bring a component to the host and switch `current` to it.
    Artifact {
        /// Which component.
        component: String,
        /// How many releases to keep on the host, this one included.
        #[serde(default = "keep_releases_default")]
        #[schema(default = 3)]
        keep_releases: u8,
    },
    /// Run a command.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment variables.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        environment: BTreeMap<String, String>,
        /// Where to run it, relative to the target's folder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        working_directory: Option<String>,
        /// As whom; the agent's own user if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// Ask an HTTP server on the host until it answers as wanted.
    CheckHttp {
        /// An `http://` URL.
        url: String,
        /// The wanted status.
        #[serde(default = "status_default")]
        #[schema(default = 200)]
        status: u16,
        /// The pause between tries, in milliseconds.
        #[serde(default = "interval_ms_default")]
        #[schema(default = 1_000)]
        interval_ms: u64,
        /// Good answers in a row that are needed.
        #[serde(default = "successes_default")]
        #[schema(default = 1)]
        successes: u32,
    },
    /// Connect to a TCP port until it accepts.
    CheckTcp {
        /// `host:port`.
        address: String,
        /// The pause between tries, in milliseconds.
        #[serde(default = "interval_ms_default")]
        #[schema(default = 1_000)]
        interval_ms: u64,
        /// Good answers in a row that are needed.
        #[serde(default = "successes_default")]
        #[schema(default = 1)]
        successes: u32,
    },
    /// Run a command until it exits with 0.
    CheckCommand {
        /// Program and arguments.
        argv: Vec<String>,
        /// The pause between tries, in milliseconds.
        #[serde(default = "interval_ms_default")]
        #[schema(default = 1_000)]
        interval_ms: u64,
        /// Good answers in a row that are needed.
        #[serde(default = "successes_default")]
        #[schema(default = 1)]
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

/// What can be done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

const fn timeout_ms_default() -> u64 {
    300_000
}

const fn keep_releases_default() -> u8 {
    3
}

const fn status_default() -> u16 {
    200
}

const fn interval_ms_default() -> u64 {
    1_000
}

const fn successes_default() -> u32 {
    1
}

/// A release. Never edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Its id.
    pub id: String,
    /// What it is a release of.
    pub application: String,
    /// Its version.
    pub version: String,
    /// What it is made of.
    pub components: Vec<Component>,
    /// What to do on a target.
    pub steps: Vec<Step>,
    /// For selecting, and for people.
    pub labels: BTreeMap<String, String>,
    /// Where it comes from, if somebody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// The channels that it was in when it was registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// The digest of its statement: of what is signed.
    #[serde(default)]
    pub statement: String,
    /// Its signatures, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<ReleaseSignature>,
    /// What people think of it.
    #[serde(default)]
    pub standing: Standing,
    /// Who said so and why; absent for `good`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Hold>,
    /// When it was created.
    pub created_at: String,
}

/// What people think of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing is known against it.
    #[default]
    Good,
    /// It may be deployed, and whoever does is told not to.
    Deprecated,
    /// It is never deployed, and nothing is rolled back to it.
    Blocked,
}

/// Says what to think of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeRelease {
    /// What.
    pub standing: Standing,
    /// Why, for people.
    pub reason: String,
}

/// A release that is referred to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseRef {
    /// Its id.
    pub id: String,
    /// What it is a release of.
    pub application: String,
    /// Its version.
    pub version: String,
}
