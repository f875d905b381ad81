//! Deployments: a release on its way to the targets of an environment.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, Generation, ReleaseId, TargetId, TaskId};
use stella_protocol::time::Timestamp;

/// How long a deployment may take in all, in milliseconds, unless its creator says otherwise.
pub const TIMEOUT_MS_DEFAULT: u64 = 3_600_000;

/// A release on its way to the targets of an environment.
///
/// Its targets, their variables and what to go back to are frozen when it is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Where to.
    pub environment: EnvironmentId,
    /// What. For a rollback, the release of its first target; each target has its own in [`TargetRollout::release`].
    pub release: ReleaseId,
    /// How.
    pub strategy: Strategy,
    /// What to do when a target fails.
    pub on_failure: OnFailure,
    /// Why it exists.
    pub cause: Cause,
    /// How far it has got.
    pub status: Status,
    /// Each target's part, by target id.
    pub targets: OrdMap<TargetId, Arc<TargetRollout>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it must have ended; what is still open then is cancelled.
    pub deadline: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How targets follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Strategy {
    /// All targets at the same time.
    AllAtOnce,
    /// A number of targets at a time, in the order of their names.
    Rolling {
        /// How many targets may be worked on at the same time. At least 1.
        batch: u32,
    },
}

impl Strategy {
    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllAtOnce => "all_at_once",
            Self::Rolling { .. } => "rolling",
        }
    }
}

/// What to do when a target fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Start no further target, and bring the targets that were touched back to what last succeeded on them.
    #[default]
    Rollback,
    /// Start no further target and leave everything as it is.
    Stop,
}

/// Why a deployment exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Cause {
    /// Somebody asked for it.
    Requested,
    /// It takes back another one.
    Rollback {
        /// Which one.
        of: DeploymentId,
        /// Why.
        reason: RollbackReason,
    },
}

/// Why a rollback was started; the label `reason` of `stella_rollbacks_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackReason {
    /// A target failed.
    DeploymentFailed,
    /// A person asked for it.
    Manual,
}

impl RollbackReason {
    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeploymentFailed => "deployment_failed",
            Self::Manual => "manual",
        }
    }
}

/// How far a deployment has got. The last three are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// Targets are worked on.
    Running,
    /// A target failed: no further one is started, open tasks run to their end.
    Halting {
        /// What failed, for a person.
        reason: String,
    },
    /// Somebody (or its deadline) cancelled it: open tasks are being ended.
    Cancelling {
        /// Why, for a person.
        reason: String,
    },
    /// All targets have the release.
    Succeeded,
    /// At least one target failed.
    Failed {
        /// What failed, for a person.
        reason: String,
    },
    /// It was cancelled.
    Cancelled {
        /// Why, for a person.
        reason: String,
    },
}

impl Status {
    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Cancelled { .. })
    }

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Halting { .. } => "halting",
            Self::Cancelling { .. } => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// One target's part in a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRollout {
    /// The target.
    pub target: TargetId,
    /// The agent that serves it, frozen.
    pub agent: AgentId,
    /// What to bring there.
    pub release: ReleaseId,
    /// What is there before, and so where a rollback goes; `None` if nothing ever succeeded there.
    pub previous: Option<ReleaseId>,
    /// How far it has got.
    pub progress: Progress,
}

/// How far one target has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Progress {
    /// Its turn has not come.
    Waiting,
    /// Its steps are run.
    Active {
        /// The target's generation of this deployment.
        generation: Generation,
        /// Which step, from 0.
        step: u16,
        /// The task of that step.
        task: TaskId,
        /// Since when this target is worked on.
        since: Timestamp,
    },
    /// It has the release.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// A step did not succeed.
    Failed {
        /// When.
        at: Timestamp,
        /// The task that did not.
        task: TaskId,
        /// Why, for a person.
        reason: String,
    },
    /// Its turn never came.
    Skipped,
    /// It was worked on when the deployment was halted or cancelled, and was left between two steps.
    Abandoned {
        /// When.
        at: Timestamp,
    },
}
