//! Tasks: one step on one target.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{
    AgentId, Attempt, AttemptKey, DeploymentId, Generation, ReleaseId, SessionEpoch, TargetId, TaskId,
};
use stella_protocol::message;
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceParent;

use crate::name::Name;
use crate::probe::Probe;

/// How long an agent that does not tell how far the end of a task has got has to confirm it, in milliseconds. After it the task is
/// `unknown`: longer than any sensible pause between TERM and KILL.
pub const CANCEL_WINDOW_MS: u64 = 60_000;
/// How long an agent that does has to take the cancellation, in milliseconds: one that has gone is known to be offline by then, and is
/// not waited for.
pub const DELIVERY_WINDOW_MS: u64 = crate::agent::RECONNECT_WINDOW_MS + 15_000;
/// How long it has from there to have begun with the end, in milliseconds. What runs in the agent itself stops at its next step.
pub const BEGIN_WINDOW_MS: u64 = 30_000;
/// The pause between TERM and KILL, in milliseconds.
pub const CANCEL_GRACE_MS: u64 = 10_000;
/// How long the process tree has after TERM to be gone or killed, in milliseconds.
pub const TERM_WINDOW_MS: u64 = CANCEL_GRACE_MS + 20_000;
/// How long it has after KILL to be gone, in milliseconds: the agent tries for 10 s.
pub const KILL_WINDOW_MS: u64 = 20_000;

/// How many attempts a task may have. Each restart of its agent before the task has begun there takes one: an agent that is restarted
/// for ever must not be sent the same for ever.
pub const ATTEMPTS_MAX: Attempt = Attempt(10);

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
    /// How far its end has got, as its agent says; `None` if nothing is known of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// When its end should have got further; set once its cancellation was asked for. There is a timer for it as long as
    /// the task is open.
    pub overdue_at: Option<Timestamp>,
    /// What its host was asked, and has said, since nobody knows what became of it; `None` if it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
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

    /// How far its cancellation has got; `None` if nobody has asked for it.
    #[must_use]
    pub const fn cancellation(&self) -> Option<Cancellation> {
        if !self.cancel_requested {
            return None;
        }
        Some(match (&self.state, self.ending) {
            (TaskState::Unknown { since, .. }, _) => Cancellation::Unconfirmed { since: *since },
            (state, _) if state.is_final() => Cancellation::Confirmed,
            (_, Some(ending)) => Cancellation::Under(ending),
            (_, None) => Cancellation::Requested,
        })
    }

    /// Why its end is overdue, for a person.
    #[must_use]
    pub fn overdue(&self, tells: bool) -> String {
        let seconds = |ms: u64| ms / 1_000;
        match self.ending.map(|ending| ending.stage) {
            None if tells => {
                format!("its agent has not taken the cancellation within {} s", seconds(DELIVERY_WINDOW_MS))
            }
            None => {
                format!("its end was not confirmed within {} s of asking for it", seconds(CANCEL_WINDOW_MS))
            }
            Some(stage) => {
                let what = match stage {
                    EndingStage::Delivered => {
                        "its agent took the cancellation, and has not begun with the end"
                    }
                    EndingStage::Terminated => {
                        "TERM was sent to its processes, and they were neither gone nor killed"
                    }
                    EndingStage::Killed => {
                        "KILL was sent to its processes, and nobody has said that they are gone"
                    }
                };
                format!("{what} within {} s", seconds(stage.window_ms()))
            }
        }
    }
}

/// How far the end of a task has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The stage.
    pub stage: EndingStage,
    /// Since when.
    pub at: Timestamp,
}

/// How far the end of a task has got that was cancelled. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndingStage {
    /// Its agent has the cancellation.
    Delivered,
    /// TERM was sent to its process tree.
    Terminated,
    /// KILL was sent to what was left of that.
    Killed,
}

impl EndingStage {
    /// How long the next stage, or the end, may take, in milliseconds.
    #[must_use]
    pub const fn window_ms(self) -> u64 {
        match self {
            Self::Delivered => BEGIN_WINDOW_MS,
            Self::Terminated => TERM_WINDOW_MS,
            Self::Killed => KILL_WINDOW_MS,
        }
    }
}

impl From<message::EndingStage> for EndingStage {
    fn from(stage: message::EndingStage) -> Self {
        match stage {
            message::EndingStage::Delivered => Self::Delivered,
            message::EndingStage::Terminated => Self::Terminated,
            message::EndingStage::Killed => Self::Killed,
        }
    }
}

/// How far the cancellation of a task has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// It was asked for.
    Requested,
    /// Its agent has it, and more if it says so.
    Under(Ending),
    /// The task has come to an end, and that is known.
    Confirmed,
    /// Nobody knows whether it has: its target is quarantined until somebody does.
    Unconfirmed {
        /// Since when.
        since: Timestamp,
    },
}

impl Cancellation {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Under(ending) => match ending.stage {
                EndingStage::Delivered => "delivered",
                EndingStage::Terminated => "ending",
                EndingStage::Killed => "killed",
            },
            Self::Confirmed => "confirmed",
            Self::Unconfirmed { .. } => "unconfirmed",
        }
    }
}

/// How far a task has got. `Unknown` is not final: the agent's late word, a proof of its host or an operator settles it.
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
    /// Its agent restarted in the middle, or too often before it began; its process tree is gone.
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
