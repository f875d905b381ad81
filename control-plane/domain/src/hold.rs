//! What people hold back, and why: a locked environment, a paused deployment, a release that must not be used.

use serde::{Deserialize, Serialize};
use stella_protocol::time::Timestamp;

use crate::command::Actor;

/// Who held something back, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why, for a person.
    pub reason: String,
    /// Who.
    pub by: Actor,
    /// Since when.
    pub since: Timestamp,
}

/// What a deployment is paused for, and so what ends the pause. Who resumes it ends any pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    /// Somebody wants it.
    #[default]
    Person,
    /// A step of a canary is complete. In journals of before this was kept, it is told by the number of the step alone.
    CanaryStep,
    /// A batch is complete.
    Batch,
    /// More targets have failed than are tolerated, and somebody has to decide what becomes of them.
    Failure,
    /// As many targets of the environment are at risk as its budget lets.
    Budget,
    /// Too many of the environment's agents have gone silent for a coincidence.
    Silence,
    /// The environment is frozen.
    Freeze,
    /// The colours that were filled warm up, or somebody has to say that they may be switched to.
    WarmUp,
    /// It is not proven that it could go back on every target.
    WayBack,
    /// All targets have the release, and it proves itself there.
    Verification,
}

impl PauseCause {
    /// Whether a hold of this kind is recorded by default.
    #[must_use]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::CanaryStep => "canary_step",
            Self::Batch => "batch",
            Self::Failure => "failure",
            Self::Budget => "budget",
            Self::Silence => "silence",
            Self::Freeze => "freeze",
            Self::WarmUp => "warm_up",
            Self::WayBack => "way_back",
            Self::Verification => "verification",
        }
    }
}

/// What people think of a release. A release is never edited; this is beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "standing")]
pub enum Standing {
    /// Nothing is known against it.
    #[default]
    Good,
    /// It may be deployed, and whoever does is told not to.
    Deprecated(Hold),
    /// It is never deployed, and nothing is rolled back to it.
    Blocked(Hold),
}

impl Standing {
    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Deprecated(_) => "deprecated",
            Self::Blocked(_) => "blocked",
        }
    }

    /// Who said so and why; nobody has to say that a release is good.
    #[must_use]
    pub const fn hold(&self) -> Option<&Hold> {
        match self {
            Self::Good => None,
            Self::Deprecated(hold) | Self::Blocked(hold) => Some(hold),
        }
    }
}

/// What a person says about a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better not use it any more.
    Deprecate,
    /// Never use it.
    Block,
    /// Nothing is wrong with it after all.
    Clear,
}
