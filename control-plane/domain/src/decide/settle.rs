//! A person says what became of a task that nobody else can tell about.

use stella_protocol::id::TaskId;
use stella_protocol::message::TaskOutcome;

use super::transaction::Transaction;
use super::{fields, rollout};
use crate::command::Outcome;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::task::TaskState;

pub(super) fn settle(
    tx: &mut Transaction<'_>,
    id: TaskId,
    succeeded: bool,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if reason.trim().is_empty() {
        return Err(Rejection::invalid("reason", "is empty; say how you know, others will rely on it"));
    }
    let task = tx.task(id)?;
    if !matches!(task.state, TaskState::Unknown { .. }) {
        let problem =
            format!("task {id} is {}; only a task that is unknown can be settled", task.state.name());
        return Err(Rejection::Conflict { problem });
    }
    let (key, finished_at) = (task.key(), tx.now);
    let outcome = if succeeded {
        TaskOutcome::Succeeded
    } else {
        TaskOutcome::Failed { reason: format!("settled by hand: {reason}"), exit_code: None }
    };
    tx.emit(Fact::TaskFinished {
        key,
        position: None,
        started_at: None,
        finished_at,
        outcome,
        never_began: false,
    })?;
    rollout::ended(tx, id, None)?;
    Ok(Outcome::Done)
}
