//! What a rollback leaves as it is, and why.
//!
//! One target that cannot go back keeps no other one from it: it is left out, and that is said before, in the answer, and ever after.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, DeploymentId, ReleaseId, TargetId, TaskId};

/// A target that a deployment touched, and that what takes it back leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The target.
    pub target: TargetId,
    /// Why.
    pub why: Why,
}

/// Why a target is left as it is. The order is that in which messages name them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Why {
    /// Nothing ever succeeded there before.
    NoEarlier,
    /// It is quarantined: see [`crate::target::Target::blocked_by`].
    Quarantined {
        /// The task of which nobody knows what became.
        task: TaskId,
    },
    /// Its agent is not believed any more.
    Revoked {
        /// The agent.
        agent: AgentId,
    },
    /// A step of the release to go back to cannot be filled in any more.
    NotFilledIn {
        /// The release.
        release: ReleaseId,
    },
    /// The release to go back to is blocked.
    Blocked {
        /// The release.
        release: ReleaseId,
    },
    /// A newer deployment has come there, or has it reserved.
    Overtaken {
        /// The deployment.
        by: DeploymentId,
    },
    /// Something that nobody has asked for as a deployment works there: a job, a rollback. It can be tried again after that.
    Busy {
        /// The deployment.
        by: DeploymentId,
    },
    /// The same release was there before.
    Unchanged {
        /// What is to be taken back instead; `None` if nobody knows any more.
        by: Option<DeploymentId>,
    },
    /// It has what was there before already.
    Back {
        /// The deployment that brought it.
        by: DeploymentId,
    },
    /// Somebody wants it left alone.
    Skipped,
    /// Whoever wanted the rollback has chosen others.
    NotChosen,
}

impl Why {
    /// The name in the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoEarlier => "no_earlier",
            Self::Quarantined { .. } => "quarantined",
            Self::Revoked { .. } => "revoked",
            Self::NotFilledIn { .. } => "not_filled_in",
            Self::Blocked { .. } => "blocked",
            Self::Overtaken { .. } => "overtaken",
            Self::Busy { .. } => "busy",
            Self::Unchanged { .. } => "unchanged",
            Self::Back { .. } => "back",
            Self::Skipped => "skipped",
            Self::NotChosen => "not_chosen",
        }
    }

    /// What messages say before the names of the targets that it is so for: the same for all that one message names together.
    #[must_use]
    pub fn before_names(&self) -> String {
        match self {
            Self::NoEarlier => "no earlier release to go back to on".to_owned(),
            Self::Quarantined { .. } => "a task of unknown end keeps from going back".to_owned(),
            Self::Revoked { .. } => "the agent was revoked that serves".to_owned(),
            Self::NotFilledIn { .. } => {
                "a step of the release to go back to cannot be filled in on".to_owned()
            }
            Self::Blocked { .. } => "the release to go back to is blocked for".to_owned(),
            Self::Overtaken { by } => format!("a newer deployment ({by}) has come to"),
            Self::Busy { by } => format!("deployment {by} works on"),
            Self::Unchanged { by: Some(by) } => {
                format!("the same release was there before, by deployment {by}, on")
            }
            Self::Unchanged { by: None } => "the same release was there before on".to_owned(),
            Self::Back { .. } => "what was there before is back already on".to_owned(),
            Self::Skipped => "somebody wants left alone".to_owned(),
            Self::NotChosen => "not among those that are chosen".to_owned(),
        }
    }
}
