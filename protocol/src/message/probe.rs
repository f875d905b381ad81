//! Questions about an attempt whose outcome nobody knows. They change nothing on the host, and need no room in the agent's journal: who
//! asks in vain asks again.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptKey, QuestionId};
use crate::spec::TaskSpec;
use crate::time::Timestamp;

/// Which attempt is asked about, and what it was to do: the agent may have forgotten it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptProbe {
    /// Comes back in the answer.
    pub question: QuestionId,
    /// Which attempt.
    pub key: AttemptKey,
    /// The folder under the host root that its target owns; `None` is the host root itself.
    pub slot: Option<String>,
    /// The work.
    pub spec: TaskSpec,
    /// When it was queued, by the control plane's clock: what happened before was not its doing.
    pub since: Timestamp,
    /// How long looking may take, in milliseconds, from when the question came.
    pub timeout_ms: u64,
}

/// The answer to an [`AttemptProbe`]. There is none if the agent's journal knows how the attempt ended: then a
/// [`crate::message::ToControlPlane::Finished`] says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptProbed {
    /// Which question.
    pub question: QuestionId,
    /// What was found.
    pub effect: Effect,
}

/// What is left of an attempt, and of its effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Nothing of the attempt runs any more, and what it was to bring about is there.
    There {
        /// For a person: what was found.
        what: String,
    },
    /// Nothing of the attempt runs any more, and what it was to bring about is certainly not there.
    Absent {
        /// For a person: what was found instead.
        what: String,
    },
    /// Something of it may still run, or it cannot be told whether its effect is there.
    Unclear {
        /// For a person: why.
        reason: String,
    },
}
