//! Deployments: a release on its way to the targets of an environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, Generation, ReleaseId, TargetId, TaskId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use crate::command::Actor;
use crate::hold::Hold;

/// How long a deployment may take in all, in milliseconds, unless its creator says otherwise.
pub const TIMEOUT_MS_DEFAULT: u64 = 3_600_000;
/// The shortest and the longest time that a deployment may take, in milliseconds: a second and a week.
pub const TIMEOUT_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);
/// How many steps a canary may have.
pub const CANARY_STEPS_MAX: usize = 16;
/// The shortest and the longest time that a canary step may hold by itself, in milliseconds: a second and a week.
pub const CANARY_SOAK_MS_RANGE: (u64, u64) = (1_000, 7 * 24 * 3_600_000);
/// How many targets one deployment may have: its creation and its end are each one atomic append, which must stay bounded.
pub const TARGETS_MAX: usize = 10_000;

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
    /// Why it starts no further target for now. Only while it is running.
    #[serde(default)]
    pub paused: Option<Hold>,
    /// When the pause ends by itself; `None` if it does not, or if there is none.
    #[serde(default)]
    pub resumes_at: Option<Timestamp>,
    /// How many steps of its canary are behind it: their targets have the release.
    #[serde(default)]
    pub steps_passed: u32,
    /// Each target's part, by target id.
    pub targets: OrdMap<TargetId, Arc<TargetRollout>>,
    /// The targets in the order of their names: the order in which they are started.
    pub order: Arc<[TargetId]>,
    /// How many of `order` are not waiting any more: the waiting ones are exactly `order[next..]`.
    pub next: u32,
    /// How many targets have got how far. Always the same as counting `targets`.
    pub counts: Counts,
    /// When it was created.
    pub created_at: Timestamp,
    /// Who asked for it; for a rollback that started by itself, whose word it followed from. `None` in snapshots of before
    /// this was kept.
    #[serde(default)]
    pub created_by: Option<Actor>,
    /// The trace that it belongs to, and the span that asked for it; all of its tasks belong there. None in snapshots of before this
    /// was kept.
    #[serde(default)]
    pub trace: TraceContext,
    /// When it must have ended; what is still open then is cancelled. Moves by the length of each pause, and does not
    /// count during one.
    pub deadline: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Deployment {
    /// The target whose turn is next, if any waits.
    #[must_use]
    pub fn next_waiting(&self) -> Option<TargetId> {
        usize::try_from(self.next).ok().and_then(|next| self.order.get(next)).copied()
    }

    /// Whether another target may be started now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.paused.is_none()
            && self.counts.active < self.strategy.active_max()
            && self.next < self.strategy.started_max(self.counts.total(), self.steps_passed)
    }

    /// The canary step that is complete and not behind it yet: its number, from 1, and how it holds there.
    #[must_use]
    pub fn step_reached(&self) -> Option<(u32, CanaryStep)> {
        let step = self.strategy.step(self.steps_passed)?;
        let reached = matches!(self.status, Status::Running)
            && self.paused.is_none()
            && self.counts.active == 0
            && self.counts.waiting > 0
            && self.next >= self.strategy.started_max(self.counts.total(), self.steps_passed);
        reached.then(|| (self.steps_passed.saturating_add(1), step))
    }

    /// How long it may take in all, in milliseconds.
    #[must_use]
    pub const fn timeout_ms(&self) -> u64 {
        self.deadline.0.saturating_sub(self.created_at.0)
    }
}

/// How many targets of a deployment have got how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Their turn has not come.
    pub waiting: u32,
    /// They are worked on.
    pub active: u32,
    /// They have the release.
    pub succeeded: u32,
    /// A step did not succeed.
    pub failed: u32,
    /// Their turn never came.
    pub skipped: u32,
    /// They were left between two steps.
    pub abandoned: u32,
}

impl Counts {
    /// All targets.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.waiting + self.active + self.succeeded + self.failed + self.skipped + self.abandoned
    }

    /// The count that a target with this progress is part of.
    pub(crate) const fn of(&mut self, progress: &Progress) -> &mut u32 {
        match progress {
            Progress::Waiting => &mut self.waiting,
            Progress::Active { .. } => &mut self.active,
            Progress::Succeeded { .. } => &mut self.succeeded,
            Progress::Failed { .. } => &mut self.failed,
            Progress::Skipped => &mut self.skipped,
            Progress::Abandoned { .. } => &mut self.abandoned,
        }
    }
}

/// How targets follow one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Strategy {
    /// All targets at the same time.
    AllAtOnce,
    /// A number of targets at a time, in the order of their names.
    Rolling {
        /// How many targets may be worked on at the same time. At least 1.
        batch: u32,
    },
    /// Some targets first; the others when the release has proven itself there.
    Canary {
        /// Where to hold, with growing percents. At least one; after the last come all other targets.
        steps: Arc<[CanaryStep]>,
        /// How many targets may be worked on at the same time; `None` is all that the step lets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch: Option<u32>,
    },
}

/// A share of the targets, after which a canary holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// How many of all targets, 1 to 99, rounded up.
    pub percent: u32,
    /// For how long the release proves itself then, in milliseconds; `None` is until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_ms: Option<u64>,
}

impl Strategy {
    /// How many targets may be worked on at the same time.
    #[must_use]
    pub fn active_max(&self) -> u32 {
        match self {
            Self::AllAtOnce => u32::MAX,
            Self::Rolling { batch } => *batch,
            Self::Canary { batch, .. } => batch.unwrap_or(u32::MAX),
        }
    }

    /// How many of `total` targets may have been started, when so many steps of a canary are behind it.
    #[must_use]
    pub fn started_max(&self, total: u32, steps_passed: u32) -> u32 {
        let share = |step: CanaryStep| (u64::from(total) * u64::from(step.percent)).div_ceil(100);
        self.step(steps_passed).map_or(total, |step| u32::try_from(share(step)).unwrap_or(total).min(total))
    }

    /// The step of a canary after so many others.
    fn step(&self, passed: u32) -> Option<CanaryStep> {
        match self {
            Self::AllAtOnce | Self::Rolling { .. } => None,
            Self::Canary { steps, .. } => usize::try_from(passed).ok().and_then(|at| steps.get(at)).copied(),
        }
    }

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AllAtOnce => "all_at_once",
            Self::Rolling { .. } => "rolling",
            Self::Canary { .. } => "canary",
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
    /// A target failed, or the time is up: no further target is started, and what is open comes to its end.
    Halting {
        /// What failed, for a person.
        reason: String,
    },
    /// Somebody cancelled it: open tasks are being ended.
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
    /// The target's variables, frozen: what its steps are filled in with, whatever becomes of the target meanwhile.
    pub variables: Arc<BTreeMap<String, String>>,
    /// How far it has got.
    pub progress: Progress,
}

impl TargetRollout {
    /// Whether something was, or may have been, changed there and nothing is going on any more.
    #[must_use]
    pub const fn is_touched(&self) -> bool {
        matches!(
            self.progress,
            Progress::Succeeded { .. } | Progress::Failed { .. } | Progress::Abandoned { .. }
        )
    }
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
    /// It was worked on when the deployment was halted or cancelled, and was left between two steps. If its last task was
    /// `unknown` then, the target is blocked by it: see [`crate::target::Target::blocked_by`].
    Abandoned {
        /// When.
        at: Timestamp,
    },
}

impl Progress {
    /// The task that the target waits for, while it is worked on.
    #[must_use]
    pub const fn task(&self) -> Option<TaskId> {
        if let Self::Active { task, .. } = self { Some(*task) } else { None }
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active { .. } => "active",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Skipped => "skipped",
            Self::Abandoned { .. } => "abandoned",
        }
    }
}
