//! Agents come, go, and are believed no more.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{AgentId, AttemptKey, SessionEpoch};
use stella_protocol::message::{Hello, JournalMark, TaskOutcome, capability};
use stella_protocol::validate::is_host;

use super::transaction::Transaction;
use super::{fields, probe, proof, rollout};
use crate::agent::{Connectivity, FiguresAddress, lost_its_end};
use crate::command::Outcome;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::task::{Task, TaskState};

/// How long the reason of a lost session is kept, in characters.
const REASON_MAX: usize = 256;

/// A new session, and what it means for every task of the agent that is not final.
pub(super) fn connect(
    tx: &mut Transaction<'_>,
    id: AgentId,
    hello: &Hello,
    rolled_back: bool,
) -> Result<Outcome, Rejection> {
    let agent = tx.agent(id)?;
    if agent.revoked.is_some() {
        return Err(Rejection::Revoked { name: agent.name.clone() });
    }
    let session = agent.session.next();
    let known = tx.tenant.work.get(&id).and_then(|work| work.journal);
    let renewed = known.is_some_and(|known| is_renewed(known, hello.journal));
    tx.emit(Fact::AgentConnected {
        agent: id,
        session,
        journal: hello.journal,
        version: hello.agent_version.clone(),
        capabilities: hello.capabilities,
    })?;
    // Where they are, if they are anywhere, it says once it is asked.
    if hello.capabilities & capability::FIGURES == 0 && tx.agent(id)?.figures.is_some() {
        tx.emit(Fact::AgentFiguresMoved { agent: id, at: None })?;
    }
    let listed: BTreeSet<AttemptKey> = hello.open.iter().map(|open| open.key).collect();
    let lists_all = hello.capabilities & capability::LISTS_ALL != 0;
    let memory = Memory { renewed, rolled_back, lists_all };
    let tasks: Vec<Arc<Task>> = tx.tenant.unsettled_tasks(id).map(Arc::clone).collect();
    // Nothing is sent before all are compared: what is queued may turn out to be unknown.
    tx.held = Some(id);
    for task in tasks {
        // What happened to the tasks before may have ended this one: taken back with its deployment, say.
        let task = Arc::clone(tx.task(task.id)?);
        compare(tx, &task, session, memory, listed.contains(&task.key()))?;
    }
    tx.held = None;
    probe::agent_is_back(tx, id)?;
    rollout::dispatch(tx, id)?;
    proof::agent_is_back(tx, id)?;
    Ok(Outcome::Session(session))
}

/// Whether the journal is not the one that was seen before, or has lost its end.
fn is_renewed(known: JournalMark, now: JournalMark) -> bool {
    known.incarnation != now.incarnation || lost_its_end(known, now)
}

/// Which side has forgotten something, and whether the agent lists all that it has not.
#[derive(Clone, Copy)]
struct Memory {
    renewed: bool,
    rolled_back: bool,
    lists_all: bool,
}

/// Compares one task with what the agent says. An attempt that the agent lists stays what it is: its word follows. One that it
/// does not list was never accepted, or is forgotten.
fn compare(
    tx: &mut Transaction<'_>,
    task: &Task,
    session: SessionEpoch,
    memory: Memory,
    listed: bool,
) -> Result<(), Rejection> {
    let forgot = if memory.renewed {
        Some("its agent's journal was wiped or rolled back")
    } else if memory.rolled_back {
        Some("the control plane's journal was rolled back")
    } else {
        None
    };
    match &task.state {
        // The agent has it, so its journal answers the dispatch instead of a second run: even if the window is full.
        TaskState::Queued if listed => tx.emit(Fact::TaskDispatched { key: task.key(), session }),
        // It may have been sent in the time that the control plane has forgotten.
        TaskState::Queued if memory.rolled_back => {
            rollout::became_unknown(tx, task.id, forgot.unwrap_or_default())
        }
        TaskState::Dispatched { session: before, .. } if !listed && *before < session => match forgot {
            Some(reason) => rollout::became_unknown(tx, task.id, reason),
            None if task.cancel_requested && memory.lists_all => never_accepted(tx, task),
            // It may be on its way to the agent's disk, and run once it is there.
            None if task.cancel_requested => rollout::became_unknown(
                tx,
                task.id,
                "it was cancelled while its agent was away, and an agent of this version does not say whether it has it",
            ),
            None => tx.emit(Fact::TaskDispatched { key: task.key(), session }),
        },
        TaskState::Accepted { .. } | TaskState::Running { .. } if !listed => {
            rollout::became_unknown(tx, task.id, forgot.unwrap_or("its agent does not know it any more"))
        }
        TaskState::Queued
        | TaskState::Dispatched { .. }
        | TaskState::Accepted { .. }
        | TaskState::Running { .. }
        | TaskState::Succeeded(_)
        | TaskState::Failed(_)
        | TaskState::TimedOut(_)
        | TaskState::Cancelled(_)
        | TaskState::Interrupted(_)
        | TaskState::Unknown { .. } => Ok(()),
    }
}

/// A task that was to be ended and has not even begun: the agent has taken all that the old session has brought, and does not have it.
fn never_accepted(tx: &mut Transaction<'_>, task: &Task) -> Result<(), Rejection> {
    let (key, finished_at) = (task.key(), tx.now);
    tx.emit(Fact::TaskFinished {
        key,
        position: None,
        started_at: None,
        finished_at,
        outcome: TaskOutcome::Cancelled,
        never_began: false,
    })?;
    rollout::ended(tx, task.id, None)
}

/// Whether an agent may say something in this session: it was not revoked, and has begun no newer one.
pub(super) fn is_heard(tx: &Transaction<'_>, id: AgentId, session: SessionEpoch) -> Result<(), Rejection> {
    let agent = tx.agent(id)?;
    if agent.revoked.is_some() {
        return Err(Rejection::Revoked { name: agent.name.clone() });
    }
    if agent.session != session {
        return Err(Rejection::SessionSuperseded);
    }
    Ok(())
}

/// Its own figures are where it says, or where it was seen.
pub(super) fn figures_at(
    tx: &mut Transaction<'_>,
    id: AgentId,
    session: SessionEpoch,
    at: &FiguresAddress,
) -> Result<Outcome, Rejection> {
    is_heard(tx, id, session)?;
    if !is_host(&at.host) || at.port == 0 {
        return Err(Rejection::invalid("at", "must be a host and a port"));
    }
    let may_note = tx.tenant.work.get(&id).is_some_and(|work| work.may_note(tx.now));
    if may_note && tx.agent(id)?.figures.as_ref() != Some(at) {
        tx.emit(Fact::AgentFiguresMoved { agent: id, at: Some(at.clone()) })?;
    }
    Ok(Outcome::Done)
}

/// Silence is not failure: what is open stays open.
pub(super) fn disconnect(
    tx: &mut Transaction<'_>,
    id: AgentId,
    session: SessionEpoch,
    reason: &str,
) -> Result<Outcome, Rejection> {
    let agent = tx.agent(id)?;
    if agent.session != session {
        return Err(Rejection::SessionSuperseded);
    }
    if matches!(agent.connectivity, Connectivity::Online { .. }) {
        let reason = reason.chars().take(REASON_MAX).collect();
        tx.emit(Fact::AgentDisconnected { agent: id, session, reason })?;
    }
    Ok(Outcome::Done)
}

pub(super) fn revoke(tx: &mut Transaction<'_>, id: AgentId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let agent = tx.agent(id)?;
    if agent.revoked.is_some() {
        return Ok(Outcome::Done);
    }
    let why = format!("its agent {} was revoked", agent.name);
    tx.emit(Fact::AgentRevoked { agent: id, reason: reason.to_owned() })?;
    let tasks: Vec<Arc<Task>> = tx.tenant.unsettled_tasks(id).map(Arc::clone).collect();
    for task in tasks {
        let task = Arc::clone(tx.task(task.id)?);
        if matches!(task.state, TaskState::Queued) {
            rollout::take_back(tx, task.id, &why)?;
        } else if task.state.is_open() {
            rollout::became_unknown(tx, task.id, &why)?;
        }
    }
    proof::agent_is_gone(tx, id)?;
    Ok(Outcome::Done)
}
