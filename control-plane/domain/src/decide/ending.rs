//! How tasks are ended whose deployment does not want them any more: asked for, delivered, ending, killed, and then confirmed or not.

use std::sync::Arc;

use stella_protocol::id::{AgentId, TaskId};

use super::rollout;
use super::transaction::Transaction;
use crate::agent::Connectivity;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::task::Task;

/// Why what an agent has in hand that is away is given up as soon as somebody wants it ended.
const NOBODY_TO_TELL: &str =
    "its agent is offline, so nobody could be told to end it; its word settles this when it is back";

/// Asks for the end of a task that its agent has, or may have. An agent that is known to be offline is not waited for.
pub(super) fn ask_for(tx: &mut Transaction<'_>, task: &Task) -> Result<(), Rejection> {
    if !task.cancel_requested {
        tx.emit(Fact::TaskCancelRequested { key: task.key() })?;
    }
    let is_away = matches!(tx.agent(task.agent)?.connectivity, Connectivity::Offline { .. });
    if is_away { rollout::became_unknown(tx, task.id, NOBODY_TO_TELL) } else { Ok(()) }
}

/// An agent has been away for so long that it is not waited for any more where something of it is to end.
pub(super) fn agent_is_gone(tx: &mut Transaction<'_>, id: AgentId) -> Result<(), Rejection> {
    let to_end = |task: &&Arc<Task>| task.state.is_open() && task.cancel_requested;
    let tasks: Vec<TaskId> = tx.tenant.unsettled_tasks(id).filter(to_end).map(|task| task.id).collect();
    for task in tasks {
        // What happened to the tasks before may have ended this one.
        if tx.task(task)?.state.is_open() {
            rollout::became_unknown(tx, task, NOBODY_TO_TELL)?;
        }
    }
    Ok(())
}

/// Its time is over for the next stage of its end, or for the end.
pub(super) fn overdue(tx: &mut Transaction<'_>, id: TaskId) -> Result<(), Rejection> {
    let task = Arc::clone(tx.task(id)?);
    let tells = tx.agent(task.agent)?.tells_endings();
    rollout::became_unknown(tx, id, &task.overdue(tells))
}
