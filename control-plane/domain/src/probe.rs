//! What settles an attempt whose outcome nobody knows: a look at its host.
//!
//! Its agent is asked whether anything of the attempt is left, and whether its effect is there. An answer that is certain ends the
//! task; any other leaves it unknown, for the agent's late word or a person. It is asked for once when the outcome became unknown, and
//! again when the agent has connected anew. An answer is waited for as long as [`window_ms`] says, and nothing else waits for it.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{AgentId, QuestionId, TaskId};
use stella_protocol::limits::INSPECT_TIME_MS_MAX;
use stella_protocol::message::{AttemptProbe, Effect};
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;

use crate::ids;
use crate::task::{Task, TaskState};
use crate::tenant::TenantState;

/// How long an answer is waited for, in milliseconds; about a check, which is asked again, for as long as that may take in addition.
pub const WINDOW_MS: u64 = 120_000;
/// How long before the end of that a host ends its look, in milliseconds: its answer has to be here in time.
pub const WAY_MS: u64 = 10_000;
/// How long after a question an agent that connects anew is asked no other about the same task, in milliseconds: one whose sessions
/// are short does not fill the journal.
pub const PAUSE_MS: u64 = 60_000;
/// How much of what a host says is kept, in characters.
pub const WORDS_MAX: usize = 256;

/// How long an answer about such work is waited for, in milliseconds. A check is not healthy only if it was not for as long as it may take,
/// and there is something to end before it is asked again.
#[must_use]
pub fn window_ms(spec: &TaskSpec) -> u64 {
    match spec {
        TaskSpec::Check(check) => WINDOW_MS.saturating_add(check.timeout_ms).min(INSPECT_TIME_MS_MAX),
        TaskSpec::Artifact(_) | TaskSpec::Systemd(_) | TaskSpec::Command(_) => WINDOW_MS,
    }
}

/// What is known from the host of a task of which nobody knew what had become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The number of the last question: an answer to an earlier one means nothing any more.
    pub number: u32,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// What has come of it.
    pub standing: Standing,
}

/// What has come of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "standing")]
pub enum Standing {
    /// The answer is waited for.
    Asked {
        /// Until then.
        until: Timestamp,
    },
    /// It has come, or nobody waits for it any more.
    Answered {
        /// When.
        at: Timestamp,
        /// What.
        answer: ProbeAnswer,
    },
}

/// What a host says of an attempt, nothing of which runs any more unless that is unclear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum ProbeAnswer {
    /// What it was to bring about is there.
    Done {
        /// What was found, for a person.
        what: String,
    },
    /// What it was to bring about is certainly not there.
    NotDone {
        /// What was found, for a person.
        what: String,
    },
    /// It cannot be told.
    Unclear {
        /// Why, for a person.
        reason: String,
    },
}

impl ProbeAnswer {
    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::NotDone { .. } => "not_done",
            Self::Unclear { .. } => "unclear",
        }
    }

    /// What the host says, for a person.
    #[must_use]
    pub fn words(&self) -> &str {
        let (Self::Done { what: words } | Self::NotDone { what: words } | Self::Unclear { reason: words }) =
            self;
        words
    }

    /// Whether it says how the attempt has ended.
    #[must_use]
    pub const fn settles(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::NotDone { .. })
    }
}

impl From<&Effect> for ProbeAnswer {
    fn from(effect: &Effect) -> Self {
        let cut = |words: &str| words.chars().take(WORDS_MAX).collect();
        match effect {
            Effect::There { what } => Self::Done { what: cut(what) },
            Effect::Absent { what } => Self::NotDone { what: cut(what) },
            Effect::Unclear { reason } => Self::Unclear { reason: cut(reason) },
        }
    }
}

impl Task {
    /// Until when its host's answer is waited for, if it is.
    #[must_use]
    pub fn probed_until(&self) -> Option<Timestamp> {
        match self.probe.as_ref()?.standing {
            Standing::Asked { until } => Some(until),
            Standing::Answered { .. } => None,
        }
    }

    /// What its host has said that settles it.
    #[must_use]
    pub fn settled_by_probe(&self) -> Option<&ProbeAnswer> {
        match &self.probe.as_ref()?.standing {
            Standing::Answered { answer, .. } if answer.settles() => Some(answer),
            Standing::Asked { .. } | Standing::Answered { .. } => None,
        }
    }

    /// The question about it that is open.
    fn question(&self) -> Option<QuestionId> {
        let probe = self.probe.as_ref()?;
        self.probed_until()?;
        Some(ids::probe(self.key(), probe.number))
    }

    /// Why its host has not said yet, or cannot say, how it ended, if nobody knows that.
    #[must_use]
    pub fn unprobed(&self) -> Option<String> {
        if !matches!(self.state, TaskState::Unknown { .. }) {
            return None;
        }
        Some(match &self.probe.as_ref()?.standing {
            Standing::Asked { .. } => "its host is asked what is left of it".to_owned(),
            Standing::Answered { answer, .. } => format!("its host cannot tell: {}", answer.words()),
        })
    }
}

impl TenantState {
    /// What an agent is to be asked about its attempts, as long as the answers are waited for: its host may look until shortly before that.
    pub fn probes(&self, agent: AgentId, now: Timestamp) -> impl Iterator<Item = AttemptProbe> {
        self.unsettled_tasks(agent).filter_map(move |task| {
            let question = task.question()?;
            let left_ms = task.probed_until()?.0.saturating_sub(now.0);
            let place = self.targets.get(&task.target)?;
            Some(AttemptProbe {
                question,
                key: task.key(),
                slot: place.slot.as_ref().map(|slot| slot.as_str().to_owned()),
                spec: task.spec.clone(),
                since: task.queued_at,
                timeout_ms: left_ms.saturating_sub(WAY_MS).clamp(1, INSPECT_TIME_MS_MAX),
            })
        })
    }

    /// The task that an agent's answer belongs to, if it is still waited for.
    pub(crate) fn probed(&self, agent: AgentId, question: QuestionId) -> Option<TaskId> {
        self.unsettled_tasks(agent).find(|task| task.question() == Some(question)).map(|task| task.id)
    }
}
