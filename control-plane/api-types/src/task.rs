//! Tasks and their output.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::Named;

/// One step on one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// The id of the deployment that it belongs to.
    pub deployment: String,
    /// The target that it changes.
    pub target: Named,
    /// The agent that runs it.
    pub agent: Named,
    /// The step's name.
    pub step: String,
    /// `artifact`, `command`, `check` or `systemd`.
    pub kind: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// The target's generation.
    pub generation: u64,
    /// `queued`, `dispatched`, `accepted`, `running`, `unknown`, or one of the final `succeeded`, `failed`, `timed_out`,
    /// `cancelled` and `interrupted`.
    pub state: String,
    /// Whether nothing can change any more.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Why it did not succeed, or why nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command's exit code, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether its cancellation was asked for.
    pub cancel_requested: bool,
    /// How far its cancellation has got; absent if nobody has asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<Cancellation>,
    /// What its host was asked, and has said, since nobody knew what had become of it; absent if it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<TaskProbe>,
    /// How long it may take on the agent, in milliseconds.
    pub timeout_ms: u64,
    /// When it was queued.
    pub queued_at: String,
    /// When it started, by the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// The trace that it belongs to, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// How far the cancellation of a task has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cancellation {
    /// `requested`, `delivered` (its agent has it), `ending` (TERM was sent to the process tree), `killed` (KILL was sent), `confirmed`
    /// (it has ended, and that is known) or `unconfirmed` (nobody knows: the target is quarantined until somebody does).
    pub state: String,
    /// Since when it is so, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it is unconfirmed unless it gets further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
}

/// A look at the host of a task of which nobody knew what had become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskProbe {
    /// `asked` (the answer is waited for), `done` (the host shows that it was done: it has succeeded), `not_done` (the host shows that it was
    /// not) or `unclear` (nobody knows still).
    pub state: String,
    /// Since when it is so.
    pub since: String,
    /// Until when the answer is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What was found, or why nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// A person's word about a task that is `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleTask {
    /// Whether it did what it was asked to do.
    pub succeeded: bool,
    /// How the person knows.
    pub reason: String,
}

/// One line of `application/x-ndjson`: a piece of a task's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputLine {
    /// Its number, from 0; `from` is the number of the first one that is wanted.
    pub record: u64,
    /// `stdout`, `stderr`, or `agent` for the agent's own words.
    pub source: String,
    /// When the agent read it, by its clock.
    pub at: String,
    /// The output, if it is UTF-8. A piece may end in the middle of a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The output in base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}
