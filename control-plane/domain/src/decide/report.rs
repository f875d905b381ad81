//! An agent's word about an attempt.

use stella_protocol::id::{AgentId, SessionEpoch};
use stella_protocol::message::{Finished, TaskOutcome, capability};

use super::transaction::Transaction;
use super::{agent, rollout};
use crate::command::{Outcome, Report};
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::task::{ATTEMPTS_MAX, EndingStage, Task, TaskState};

/// What was said before, or is overtaken, is answered without an event: the agent repeats itself until it is acknowledged.
pub(super) fn report(
    tx: &mut Transaction<'_>,
    agent: AgentId,
    session: SessionEpoch,
    report: &Report,
) -> Result<Outcome, Rejection> {
    agent::is_heard(tx, agent, session)?;
    let key = report.key();
    let task = match tx.tenant.tasks.get(&key.task) {
        None => return ignore(tx, agent, report, "there is no such task"),
        Some(task) if task.agent != agent => {
            return ignore(tx, agent, report, "the task belongs to another agent");
        }
        Some(task) if task.attempt != key.attempt => {
            return ignore(tx, agent, report, "it is not the current attempt");
        }
        Some(task) => task,
    };
    match (&task.state, report) {
        (TaskState::Queued, _) => return ignore(tx, agent, report, "the task was not sent yet"),
        (TaskState::Dispatched { .. }, Report::Accepted(accepted)) => {
            tx.emit(Fact::TaskAccepted { key, position: accepted.position })?;
        }
        (TaskState::Dispatched { .. } | TaskState::Accepted { .. }, Report::Running(running)) => {
            tx.emit(Fact::TaskStarted { key, started_at: running.started_at })?;
        }
        (state, Report::Ending(ending)) => {
            let stage = EndingStage::from(ending.stage);
            let is_further = task.ending.is_none_or(|before| before.stage < stage);
            if state.is_open() && task.cancel_requested && is_further {
                tx.emit(Fact::TaskEnding { key, stage })?;
            }
        }
        (state, Report::Finished(finished))
            if state.is_open() || matches!(state, TaskState::Unknown { .. }) =>
        {
            let known = !matches!(state, TaskState::Unknown { .. });
            end(tx, finished, known)?;
        }
        _ => {}
    }
    Ok(Outcome::Done)
}

fn end(tx: &mut Transaction<'_>, finished: &Finished, known: bool) -> Result<(), Rejection> {
    let Finished { key, position, started_at, finished_at, outcome } = finished;
    if let TaskOutcome::Unknown { reason } = outcome {
        return if known { rollout::became_unknown(tx, key.task, reason) } else { Ok(()) };
    }
    let task = tx.task(key.task)?;
    let never_began = never_began(task, finished);
    let says_so = tx.agent(task.agent)?.capabilities & capability::UNBEGUN != 0;
    if known && never_began && says_so && !task.cancel_requested && task.attempt < ATTEMPTS_MAX {
        return rollout::handed_back(tx, *key, *position);
    }
    tx.emit(Fact::TaskFinished {
        key: *key,
        position: Some(*position),
        started_at: *started_at,
        finished_at: *finished_at,
        outcome: outcome.clone(),
        never_began,
    })?;
    rollout::ended(tx, key.task, None)
}

/// Whether an attempt was interrupted of which nobody has said that it had begun.
fn never_began(task: &Task, finished: &Finished) -> bool {
    let has_begun = finished.started_at.is_some() || matches!(task.state, TaskState::Running { .. });
    matches!(finished.outcome, TaskOutcome::Interrupted) && !has_begun
}

/// Recorded and without effect.
fn ignore(
    tx: &mut Transaction<'_>,
    agent: AgentId,
    report: &Report,
    reason: &str,
) -> Result<Outcome, Rejection> {
    if tx.tenant.work.get(&agent).is_some_and(|work| work.may_note(tx.now)) {
        tx.emit(Fact::ReportIgnored { agent, key: report.key(), reason: reason.to_owned() })?;
    }
    Ok(Outcome::Done)
}
