//! Tasks: one step on one target.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{
    AgentId, Attempt, AttemptKey, DeploymentId, Generation, ReleaseId, SessionEpoch, TargetId, TaskId,
};
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceParent;

use crate::name::Name;

/// How long an agent has to confirm the end of a task whose cancellation was asked for, in milliseconds. After it the task is
/// `unknown`: longer than any sensible pause between TERM and KILL.
pub const CANCEL_WINDOW_MS: u64 = 60_000;

/// One step on one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The deployment that it belongs to.
    pub deployment: DeploymentId,
    /// The target that it changes.
    pub target: TargetId,
    /// The agent that runs it.
    pub agent: AgentId,
    /// The target's generation.
    pub generation: Generation,
    /// The step's name.
    pub step: Name,
    /// The release that the step is of; `None` if it is the one that its deployment brings there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// The work, with variables filled in.
    pub spec: TaskSpec,
    /// The current attempt, from 1.
    pub attempt: Attempt,
    /// How far it has got.
    pub state: TaskState,
    /// Whether its cancellation was asked for.
    pub cancel_requested: bool,
    /// When its end should have been confirmed; set once its cancellation was asked for. There is a timer for it as long as
    /// the task is open.
    pub overdue_at: Option<Timestamp>,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// What caused it. What travels with the trace is in its deployment.
    pub trace: TraceParent,
}

impl Task {
    /// The current attempt's key.
    #[must_use]
    pub const fn key(&self) -> AttemptKey {
        AttemptKey { task: self.id, attempt: self.attempt }
    }
}

/// How far a task has got. `Unknown` is not final: the agent's late word or an operator settles it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TaskState {
    /// It waits for its agent.
    Queued,
    /// It is on its way to the agent, in this session.
    Dispatched {
        /// The session.
        session: SessionEpoch,
        /// Since when.
        at: Timestamp,
    },
    /// It is in the agent's journal.
    Accepted {
        /// Since when.
        at: Timestamp,
    },
    /// The agent has started it.
    Running {
        /// Since when, by the agent's clock.
        started_at: Timestamp,
    },
    /// It did what it was asked to do.
    Succeeded(Ended),
    /// It did not.
    Failed(Ended),
    /// It took too long; its process tree is gone.
    TimedOut(Ended),
    /// It was ended on request, or never started.
    Cancelled(Ended),
    /// Its agent restarted in the middle; its process tree is gone.
    Interrupted(Ended),
    /// Nobody can tell what became of it.
    Unknown {
        /// Since when.
        since: Timestamp,
        /// Why, for a person.
        reason: String,
    },
}

/// What is known of an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it started, by the agent's clock; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended: by the agent's clock, or the control plane's if the agent did not say.
    pub at: Timestamp,
    /// For a person; empty on success.
    pub reason: String,
    /// A command's exit code, if there was one.
    pub exit_code: Option<i32>,
}

impl TaskState {
    /// What its ends are called.
    pub const ENDS: [&'static str; 5] = ["succeeded", "failed", "timed_out", "cancelled", "interrupted"];

    /// The name in metrics, messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched { .. } => "dispatched",
            Self::Accepted { .. } => "accepted",
            Self::Running { .. } => "running",
            Self::Succeeded(_) => "succeeded",
            Self::Failed(_) => "failed",
            Self::TimedOut(_) => "timed_out",
            Self::Cancelled(_) => "cancelled",
            Self::Interrupted(_) => "interrupted",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether nothing can change any more in this attempt.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Succeeded(_)
                | Self::Failed(_)
                | Self::TimedOut(_)
                | Self::Cancelled(_)
                | Self::Interrupted(_)
        )
    }

    /// Whether the agent may have it and may be at it.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Dispatched { .. } | Self::Accepted { .. } | Self::Running { .. })
    }
}
