//! An outcome that nobody knows is settled by what the host shows, where that is certain.
//!
//! INV-28: it is settled by a proof, by the agent's own word or by a person, and never by silence: an answer that does not come, or is
//! not certain, leaves the task as it is.

use std::sync::Arc;

use stella_protocol::id::{AgentId, QuestionId, SessionEpoch, TaskId};
use stella_protocol::message::{Effect, TaskOutcome, capability};
use stella_protocol::spec::{CheckSpec, Probe, TaskSpec, UnitAction};

use super::transaction::Transaction;
use super::{agent, rollout};
use crate::agent::Connectivity;
use crate::command::Outcome;
use crate::deployment::Progress;
use crate::event::Fact;
use crate::probe::{PAUSE_MS, ProbeAnswer, WORDS_MAX, window_ms};
use crate::rejection::Rejection;
use crate::task::{Task, TaskState};

const COMMAND_MAY_BE_LEFT: &str = "nobody can confirm that nothing of the check's command is left";
const DISK_WENT_BACK: &str = "the journal of its agent has lost its end, so the disk may be an older one, without what was done before";
/// It goes by one clock, which may have stood still, or by a time that the control plane does not know any more.
const TOO_OLD: &str = "its agent is too old to be certain; update it, or look at the host";

/// Asks the agent of a task what is left of it, if nobody knows what has become of it and the agent is there to say.
pub(super) fn ask(tx: &mut Transaction<'_>, id: TaskId) -> Result<(), Rejection> {
    let task = Arc::clone(tx.task(id)?);
    let agent = tx.agent(task.agent)?;
    let can_say = agent.revoked.is_none()
        && agent.capabilities & capability::PROBES != 0
        && matches!(agent.connectivity, Connectivity::Online { .. });
    if !can_say || !is_due(&task, tx) {
        return Ok(());
    }
    let number = task.probe.as_ref().map_or(0, |probe| probe.number).saturating_add(1);
    tx.emit(Fact::TaskProbeAsked { key: task.key(), number, until: tx.now.plus_ms(window_ms(&task.spec)) })
}

fn is_due(task: &Task, tx: &Transaction<'_>) -> bool {
    let is_new = task.probe.as_ref().is_none_or(|before| before.asked_at.plus_ms(PAUSE_MS) <= tx.now);
    matches!(task.state, TaskState::Unknown { .. }) && task.probed_until().is_none() && is_new
}

/// An agent is back: it is asked about all of its tasks of which nobody knows what has become.
pub(super) fn agent_is_back(tx: &mut Transaction<'_>, agent: AgentId) -> Result<(), Rejection> {
    let is_unknown = |task: &&Arc<Task>| matches!(task.state, TaskState::Unknown { .. });
    let unknown: Vec<TaskId> =
        tx.tenant.unsettled_tasks(agent).filter(is_unknown).map(|task| task.id).collect();
    unknown.into_iter().try_for_each(|task| ask(tx, task))
}

/// An agent has said what it found. What nobody waits for any more is answered without an event.
pub(super) fn answer(
    tx: &mut Transaction<'_>,
    agent: AgentId,
    session: SessionEpoch,
    question: QuestionId,
    effect: &Effect,
) -> Result<Outcome, Rejection> {
    agent::is_heard(tx, agent, session)?;
    let Some(id) = tx.tenant.probed(agent, question) else { return Ok(Outcome::Done) };
    let task = Arc::clone(tx.task(id)?);
    let (key, finished_at, cancelled) = (task.key(), tx.now, task.cancel_requested);
    let mut answer = ProbeAnswer::from(effect);
    if let Some(why) = doubt(tx, &task, &answer)? {
        let reason = format!("{why}: {}", answer.words()).chars().take(WORDS_MAX).collect();
        answer = ProbeAnswer::Unclear { reason };
    }
    let outcome = match &answer {
        ProbeAnswer::Done { .. } => Some(TaskOutcome::Succeeded),
        ProbeAnswer::NotDone { .. } if cancelled => Some(TaskOutcome::Cancelled),
        ProbeAnswer::NotDone { .. } => Some(TaskOutcome::Interrupted),
        ProbeAnswer::Unclear { .. } => None,
    };
    tx.emit(Fact::TaskProbed { key, answer })?;
    if let Some(outcome) = outcome {
        tx.emit(Fact::TaskFinished {
            key,
            position: None,
            started_at: None,
            finished_at,
            outcome,
            never_began: false,
        })?;
        rollout::ended(tx, id, None)?;
    }
    Ok(Outcome::Done)
}

/// Why what a host takes for certain is not, if so.
fn doubt(tx: &Transaction<'_>, task: &Task, answer: &ProbeAnswer) -> Result<Option<&'static str>, Rejection> {
    let is_done = match answer {
        ProbeAnswer::Done { .. } => true,
        ProbeAnswer::NotDone { .. } => false,
        ProbeAnswer::Unclear { .. } => return Ok(None),
    };
    let is_old = tx.agent(task.agent)?.capabilities & capability::CERTAIN == 0;
    Ok(match &task.spec {
        TaskSpec::Check(CheckSpec { probe: Probe::Command(_), .. }) if !is_done => Some(COMMAND_MAY_BE_LEFT),
        // It may have had less time than the check may take.
        TaskSpec::Check(_) if is_old && !is_done => Some(TOO_OLD),
        TaskSpec::Systemd(spec) if is_old && asks_for_a_restart(spec.action) => Some(TOO_OLD),
        TaskSpec::Artifact(_) | TaskSpec::Command(_) | TaskSpec::Check(_) | TaskSpec::Systemd(_) => {
            (is_done && has_gone_back(tx, task)).then_some(DISK_WENT_BACK)
        }
    })
}

/// Whether a unit that is active says nothing of the action, but when it became so does.
const fn asks_for_a_restart(action: UnitAction) -> bool {
    match action {
        UnitAction::Restart | UnitAction::ReloadOrRestart => true,
        UnitAction::Start | UnitAction::Stop => false,
    }
}

/// Whether the host is, or was, as it had been before its target was worked on: what the steps before have done may be gone, and what
/// this one was to do may be there from earlier. That it is not there is still certain.
fn has_gone_back(tx: &Transaction<'_>, task: &Task) -> bool {
    let deployment = tx.tenant.deployments.get(&task.deployment);
    let part = deployment.and_then(|it| it.targets.get(&task.target));
    let begun = if let Some(Progress::Active { since, .. }) = part.map(|part| &part.progress) {
        *since
    } else {
        deployment.map_or(task.queued_at, |it| it.created_at)
    };
    tx.tenant.work.get(&task.agent).and_then(|work| work.went_back).is_some_and(|at| at >= begun)
}

/// Nobody has answered: that proves nothing.
pub(super) fn overdue(tx: &mut Transaction<'_>, id: TaskId) -> Result<(), Rejection> {
    let key = tx.task(id)?.key();
    let reason = "its host did not answer in time".to_owned();
    tx.emit(Fact::TaskProbed { key, answer: ProbeAnswer::Unclear { reason } })
}
