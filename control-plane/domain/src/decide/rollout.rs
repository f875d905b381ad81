//! How a deployment goes on: which target and which step is next, and what the end of a task means.
//!
//! Every function leaves the deployment with something to wait for, or ended. Ending is asked for more than once on the way
//! out of nested calls, and happens once.

use std::sync::Arc;

use stella_protocol::id::{
    AgentId, AttemptKey, DeploymentId, Generation, Position, PromotionId, TargetId, TaskId,
};
use stella_protocol::message::TaskOutcome;

use super::gate::{self, Asking, Ruling};
use super::transaction::Transaction;
use super::{brake, colour, drain, ending, group, path, probe, proof, put_off, rollback, verification};
use crate::agent::{Connectivity, OPEN_TASKS_MAX};
use crate::colour::Stage;
use crate::deployment::{CanaryStep, Deployment, OnFailure, Progress, RollbackReason, Status, TargetRollout};
use crate::event::Fact;
use crate::hold::PauseCause;
use crate::ids;
use crate::rejection::Rejection;
use crate::task::{Task, TaskState};

/// What the end of a task has left to do.
pub(super) enum Next {
    Nothing,
    /// The target's next step.
    Queue(u16),
    /// There may be room for others.
    Advance,
    EndIfQuiet,
    Halt(String),
}

/// Starts targets as long as there is room and the gates let it, and ends the deployment if there is nothing left to wait for.
///
/// Nothing that this calls may call it again: as many targets as there are may end at once, because their agents were revoked.
pub(super) fn advance(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    while !is_settled(tx, id)? {}
    Ok(())
}

/// One pass; whether it has left the deployment with something to wait for, or ended.
fn is_settled(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<bool, Rejection> {
    ask_about_failures(tx, id)?;
    brake::hold_back(tx, id)?;
    // Where something outside has held it back until now, nobody was asked about what failed meanwhile.
    ask_about_failures(tx, id)?;
    if !proof::before_the_first(tx, id)? {
        // The answers go on from here, or the time, or somebody who waives them.
        end_if_quiet(tx, id)?;
        return Ok(true);
    }
    match before_wave(tx, id)? {
        Ruling::Open => {}
        Ruling::Waits => {
            // An answer, or the time, goes on from here.
            end_if_quiet(tx, id)?;
            return Ok(true);
        }
        Ruling::Closed(reason) => {
            halt_for_gate(tx, id, &reason)?;
            return Ok(true);
        }
    }
    loop {
        let deployment = tx.deployment(id)?;
        let may_start = matches!(deployment.status, Status::Running)
            && deployment.has_room()
            && tx.tenant.has_budget(deployment);
        let Some(target) = deployment.next_waiting().filter(|_| may_start) else { break };
        let part = deployment.targets.get(&target).map(|part| &part.progress);
        let over = if let Some(&Progress::Ready { leg, .. }) = part {
            colour::go_on(tx, id, leg)?
        } else {
            let generation = next_generation(tx, target)?;
            tx.emit(Fact::TargetStarted { deployment: id, target, generation })?;
            try_queue(tx, id, target, 0)?
        };
        match over {
            None => {}
            Some(Next::Advance) => return Ok(false),
            Some(next) => {
                go_on(tx, (id, target), next)?;
                return Ok(true);
            }
        }
    }
    if colour::next_stage(tx, id)? {
        return Ok(false);
    }
    group::settle(tx, id)?;
    hold_at_step(tx, id)?;
    pause_after_batch(tx, id)?;
    brake::wait_for_budget(tx, id)?;
    gate::watch(tx, id)?;
    end_if_quiet(tx, id)?;
    Ok(true)
}

/// What the path and the gates say before more targets are started, if any can be. Rollbacks go through none.
fn before_wave(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<Ruling, Rejection> {
    let deployment = tx.deployment(id)?;
    let starts = deployment.cause.is_asked_for()
        && matches!(deployment.status, Status::Running)
        && deployment.stage != Stage::Check
        && deployment.has_room()
        && deployment.next_waiting().is_some();
    if !starts {
        return Ok(Ruling::Open);
    }
    match path::lost(&tx.tenant, deployment, tx.now) {
        Some(reason) => Ok(Ruling::Closed(reason)),
        None => gate::rule(tx, PromotionId(id.0), Asking::Now),
    }
}

/// Never one that the target's agent has seen, also if this journal was restored from a backup meanwhile: the time has gone on.
pub(super) fn next_generation(tx: &Transaction<'_>, target: TargetId) -> Result<Generation, Rejection> {
    Ok(tx.target(target)?.generation.next().max(Generation(tx.now.0)))
}

/// A deployment whose failures people decide about waits for them, and goes on once few enough are left.
fn ask_about_failures(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running || deployment.on_failure != OnFailure::Ask {
        return Ok(());
    }
    let too_often = deployment.has_failed_too_often();
    let (failed, tolerated) = (deployment.counts.failed, deployment.failures_max());
    let asks = deployment.paused.is_some() && deployment.paused_for == PauseCause::Failure;
    if too_often && deployment.paused.is_none() {
        let reason = match failed {
            1 => format!("1 target has failed, {tolerated} tolerated"),
            failed => format!("{failed} targets have failed, {tolerated} tolerated"),
        };
        let cause = PauseCause::Failure;
        return tx.emit(Fact::DeploymentPaused { id, reason, until: None, canary_step: None, cause });
    }
    // One that is tried again has to succeed first.
    if asks && !too_often && deployment.counts.active == 0 {
        return tx.emit(Fact::DeploymentResumed { id });
    }
    Ok(())
}

/// A canary holds where one of its steps is complete.
fn hold_at_step(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let Some((number, CanaryStep { soak_ms, .. })) = deployment.step_reached() else { return Ok(()) };
    let reason = format!("canary step {number}: {}", deployment.counts.have_it());
    let until = soak_ms.map(|soak_ms| tx.now.plus_ms(soak_ms));
    let cause = PauseCause::CanaryStep;
    tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: Some(number), cause })
}

/// A rolling deployment pauses after each batch, if it is to.
fn pause_after_batch(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let Some(pause_ms) = deployment.batch_reached() else { return Ok(()) };
    let reason = format!("a batch is complete: {}", deployment.counts.have_it());
    let (until, cause) = (Some(tx.now.plus_ms(pause_ms)), PauseCause::Batch);
    tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause })
}

/// Queues one step of a target that is worked on, and does what follows if that is its end.
pub(super) fn queue(
    tx: &mut Transaction<'_>,
    deployment: DeploymentId,
    target: TargetId,
    step: u16,
) -> Result<(), Rejection> {
    match try_queue(tx, deployment, target, step)? {
        None => Ok(()),
        Some(next) => go_on(tx, (deployment, target), next),
    }
}

/// Queues one step of a target that is worked on. If its agent was revoked, that is the target's end, and what follows is left to
/// the caller.
pub(super) fn try_queue(
    tx: &mut Transaction<'_>,
    deployment: DeploymentId,
    target: TargetId,
    step: u16,
) -> Result<Option<Next>, Rejection> {
    let part = tx.deployment(deployment)?.targets.get(&target);
    let task = ids::task(deployment, target, step, part.map_or(0, |part| part.round));
    tx.emit(Fact::TaskQueued { task, deployment, target, step })?;
    let agent = tx.task(task)?.agent;
    let holder = tx.agent(agent)?;
    if holder.revoked.is_none() {
        dispatch(tx, agent)?;
        return Ok(None);
    }
    let why = format!("its agent {} was revoked", holder.name);
    finish_unsent(tx, task)?;
    let task = Arc::clone(tx.task(task)?);
    note_end(tx, &task, Some(&why)).map(Some)
}

/// Does what the end of a task has left to do.
fn go_on(
    tx: &mut Transaction<'_>,
    (id, target): (DeploymentId, TargetId),
    next: Next,
) -> Result<(), Rejection> {
    match next {
        Next::Nothing => Ok(()),
        Next::Queue(step) => queue(tx, id, target, step),
        Next::Advance => advance(tx, id),
        Next::EndIfQuiet => end_if_quiet(tx, id),
        Next::Halt(reason) => halt(tx, id, &reason),
    }
}

/// Sends an agent what waits for it, as far as its window allows. To one that is draining, only what goes on with what was begun there.
pub(super) fn dispatch(tx: &mut Transaction<'_>, id: AgentId) -> Result<(), Rejection> {
    if tx.held == Some(id) {
        return Ok(());
    }
    loop {
        let Some(work) = tx.tenant.work.get(&id).filter(|work| work.open < OPEN_TASKS_MAX) else {
            return Ok(());
        };
        let agent = tx.agent(id)?;
        let mut queued = work.queued.iter().filter(|(_, task)| tx.tenant.is_wanted(*task));
        let next = match agent.draining {
            None => queued.next(),
            Some(_) => queued.find(|(_, task)| tx.tenant.goes_on_with(*task)),
        };
        let Some(&(_, task)) = next else { return Ok(()) };
        if !matches!(agent.connectivity, Connectivity::Online { .. }) {
            return Ok(());
        }
        let session = agent.session;
        let key = tx.task(task)?.key();
        tx.emit(Fact::TaskDispatched { key, session })?;
    }
}

/// Whether a target's turn has come, and nothing was ever sent there.
pub(super) fn never_came(tx: &Transaction<'_>, id: DeploymentId, target: TargetId) -> bool {
    let part = tx.tenant.deployments.get(&id).and_then(|it| it.targets.get(&target));
    part.is_some_and(|part| {
        let task = part.progress.task().and_then(|task| tx.tenant.tasks.get(&task));
        task.is_some_and(|task| part.is_untouched(&task.state))
    })
}

/// Ends a task that was never sent.
pub(super) fn take_back(tx: &mut Transaction<'_>, id: TaskId, why: &str) -> Result<(), Rejection> {
    finish_unsent(tx, id)?;
    ended(tx, id, Some(why))
}

/// The end of a task that was never sent, without what follows from it.
pub(super) fn finish_unsent(tx: &mut Transaction<'_>, id: TaskId) -> Result<(), Rejection> {
    let key = tx.task(id)?.key();
    let (finished_at, outcome) = (tx.now, TaskOutcome::Cancelled);
    tx.emit(Fact::TaskFinished {
        key,
        position: None,
        started_at: None,
        finished_at,
        outcome,
        never_began: false,
    })
}

/// A task is back that its agent has not begun and will not begin: it waits for the agent as at first, or is not wanted any more.
pub(super) fn handed_back(
    tx: &mut Transaction<'_>,
    key: AttemptKey,
    position: Position,
) -> Result<(), Rejection> {
    tx.emit(Fact::TaskHandedBack { key, position })?;
    let task = Arc::clone(tx.task(key.task)?);
    if !matches!(tx.deployment(task.deployment)?.status, Status::Running) {
        return take_back(tx, task.id, "its deployment was halted");
    }
    if tx.agent(task.agent)?.draining.is_some() && drain::leave_out(tx, task.deployment)? {
        advance(tx, task.deployment)?;
    }
    dispatch(tx, task.agent)
}

/// What follows from a task's end. `why` replaces the task's own reason if it is better known here.
pub(super) fn ended(tx: &mut Transaction<'_>, id: TaskId, why: Option<&str>) -> Result<(), Rejection> {
    let task = Arc::clone(tx.task(id)?);
    follow(tx, &task, why)?;
    // The agent has room for one more.
    dispatch(tx, task.agent)
}

fn follow(tx: &mut Transaction<'_>, task: &Task, why: Option<&str>) -> Result<(), Rejection> {
    let next = note_end(tx, task, why)?;
    go_on(tx, (task.deployment, task.target), next)
}

/// What a task's end is for its target.
fn note_end(tx: &mut Transaction<'_>, task: &Task, why: Option<&str>) -> Result<Next, Rejection> {
    let (id, target) = (task.deployment, task.target);
    let deployment = tx.deployment(id)?;
    // A task that was unknown may have been left behind by its deployment.
    let Some(part) = deployment.targets.get(&target) else { return Ok(Next::Nothing) };
    let Progress::Active { step, task: current, .. } = part.progress else { return Ok(Next::Nothing) };
    if current != task.id {
        return Ok(Next::Nothing);
    }
    let running = matches!(deployment.status, Status::Running);
    if matches!(task.state, TaskState::Succeeded(_)) {
        match step.checked_add(1).filter(|next| *next < tx.tenant.steps_on(part)) {
            Some(next) if running && waits_for_others(tx, deployment, part, next) => {
                tx.emit(Fact::TargetReady { deployment: id, target })?;
            }
            Some(next) if running => return Ok(Next::Queue(next)),
            None if running && deployment.is_member(part) => {
                tx.emit(Fact::TargetReady { deployment: id, target })?;
            }
            Some(_) => tx.emit(Fact::TargetAbandoned { deployment: id, target })?,
            None if deployment.is_member(part) => {
                tx.emit(Fact::TargetAbandoned { deployment: id, target })?
            }
            None => tx.emit(Fact::TargetSucceeded { deployment: id, target })?,
        }
        return Ok(Next::Advance);
    }
    let is_our_own = !running && matches!(task.state, TaskState::Cancelled(_));
    if is_our_own {
        // What was never touched has nothing to be taken back, and does not keep the way back waiting for its agent.
        let untouched = part.is_untouched(&task.state);
        tx.emit(match untouched {
            true => Fact::TargetSkipped { deployment: id, target, reason: None, never_came: true },
            false => Fact::TargetAbandoned { deployment: id, target },
        })?;
        return Ok(Next::EndIfQuiet);
    }
    let reason = failure(tx, task, why)?;
    tx.emit(Fact::TargetFailed { deployment: id, target, task: task.id, reason: reason.clone() })?;
    if !running {
        return Ok(Next::EndIfQuiet);
    }
    let deployment = tx.deployment(id)?;
    if !deployment.has_failed_too_often() || deployment.on_failure == OnFailure::Ask {
        return Ok(Next::Advance);
    }
    let (failed, tolerated) = (deployment.counts.failed, deployment.failures_max());
    let reason =
        if tolerated > 0 { format!("{reason} ({failed} failed, {tolerated} tolerated)") } else { reason };
    Ok(Next::Halt(reason))
}

/// Whether the next step of a target is one of a stage that has not begun.
fn waits_for_others(tx: &Transaction<'_>, deployment: &Deployment, part: &TargetRollout, next: u16) -> bool {
    let begins = tx.tenant.place(part, next).filter(|place| place.is_first);
    deployment.is_beside() && begins.is_some_and(|place| part.stage_of(place.number) > deployment.stage)
}

/// Starts nothing more of a running deployment: it has failed, and ends when what is under way has.
pub(super) fn halt(tx: &mut Transaction<'_>, id: DeploymentId, reason: &str) -> Result<(), Rejection> {
    halt_with(tx, id, reason, (None, RollbackReason::DeploymentFailed))
}

/// The same, because a gate does not let it go on, or does not find it good in the end.
pub(super) fn halt_for_gate(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    reason: &str,
) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let cause = match deployment.baked || deployment.is_through() {
        true => RollbackReason::Verification,
        false => RollbackReason::Gate,
    };
    halt_with(tx, id, reason, (None, cause))
}

/// The same for any cause, and somebody may have decided what to do about it.
pub(super) fn halt_with(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    reason: &str,
    (on_failure, cause): (Option<OnFailure>, RollbackReason),
) -> Result<(), Rejection> {
    tx.emit(Fact::DeploymentHalted { id, reason: reason.to_owned(), on_failure, cause })?;
    if put_off::put_off(tx, id)? { Ok(()) } else { come_to_the_end(tx, id) }
}

/// What follows from a halt: nothing more is started, and it ends as soon as what is under way has.
pub(super) fn come_to_the_end(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    skip_waiting(tx, id)?;
    take_back_queued(tx, id)?;
    end_if_quiet(tx, id)
}

/// Why a target failed, for a person.
fn failure(tx: &Transaction<'_>, task: &Task, why: Option<&str>) -> Result<String, Rejection> {
    let own = match &task.state {
        TaskState::Failed(end)
        | TaskState::TimedOut(end)
        | TaskState::Cancelled(end)
        | TaskState::Interrupted(end) => end.reason.as_str(),
        TaskState::Queued
        | TaskState::Dispatched { .. }
        | TaskState::Accepted { .. }
        | TaskState::Running { .. }
        | TaskState::Succeeded(_)
        | TaskState::Unknown { .. } => "",
    };
    let target = &tx.target(task.target)?.name;
    Ok(format!("step {} on {target} {}: {}", task.step, task.state.name(), why.unwrap_or(own)))
}

/// What follows from nobody knowing any more what becomes of a task: the target waits, unless its end was wanted anyway.
pub(super) fn became_unknown(tx: &mut Transaction<'_>, id: TaskId, reason: &str) -> Result<(), Rejection> {
    let task = Arc::clone(tx.task(id)?);
    tx.emit(Fact::TaskBecameUnknown { key: task.key(), reason: reason.to_owned() })?;
    let deployment = tx.deployment(task.deployment)?;
    let given_up = match deployment.status {
        Status::Cancelling { .. } => true,
        Status::Halting { .. } => task.cancel_requested,
        Status::Running | Status::Succeeded | Status::Failed { .. } | Status::Cancelled { .. } => false,
    };
    if given_up {
        tx.emit(Fact::TargetAbandoned { deployment: task.deployment, target: task.target })?;
        end_if_quiet(tx, task.deployment)?;
    }
    probe::ask(tx, id)?;
    dispatch(tx, task.agent)
}

/// Ends whatever a deployment still has in hand: what waits is skipped, what was not sent is taken back, what runs is told to
/// end (and has some time for each stage of that), what nobody knows is left behind.
pub(super) fn end_what_is_open(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    skip_waiting(tx, id)?;
    for (target, task) in current_tasks(tx, id)? {
        let task = Arc::clone(tx.task(task)?);
        match task.state {
            TaskState::Queued => take_back(tx, task.id, "its deployment was ended")?,
            TaskState::Dispatched { .. } | TaskState::Accepted { .. } | TaskState::Running { .. } => {
                ending::ask_for(tx, &task)?;
            }
            TaskState::Unknown { .. } => tx.emit(Fact::TargetAbandoned { deployment: id, target })?,
            TaskState::Succeeded(_)
            | TaskState::Failed(_)
            | TaskState::TimedOut(_)
            | TaskState::Cancelled(_)
            | TaskState::Interrupted(_) => {}
        }
    }
    end_if_quiet(tx, id)
}

fn skip_waiting(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    while let Some(target) = tx.deployment(id)?.next_waiting() {
        tx.emit(Fact::TargetSkipped { deployment: id, target, reason: None, never_came: false })?;
    }
    let deployment = tx.deployment(id)?;
    if deployment.left() == 0 {
        return Ok(());
    }
    let parts = deployment.targets.values();
    let left = parts.filter(|part| matches!(part.progress, Progress::Waiting | Progress::Ready { .. }));
    for target in left.map(|part| part.target).collect::<Vec<_>>() {
        tx.emit(Fact::TargetSkipped { deployment: id, target, reason: None, never_came: false })?;
    }
    Ok(())
}

/// A deployment that has failed starts nothing more: not even a step that only waits for its agent to come back.
fn take_back_queued(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    for (_, task) in current_tasks(tx, id)? {
        if matches!(tx.task(task)?.state, TaskState::Queued) {
            take_back(tx, task, "its deployment was halted")?;
        }
    }
    Ok(())
}

/// The targets that are worked on, with their tasks. A search, for the few moments when a deployment turns.
fn current_tasks(tx: &Transaction<'_>, id: DeploymentId) -> Result<Vec<(TargetId, TaskId)>, Rejection> {
    let parts = tx.deployment(id)?.targets.values();
    let active = parts.filter_map(|part| part.progress.task().map(|task| (part.target, task)));
    Ok(active.collect())
}

/// Ends a deployment that has nothing left to wait for.
fn end_if_quiet(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if !deployment.is_through() {
        return Ok(());
    }
    match deployment.status.clone() {
        // Somebody has to decide first.
        Status::Running if deployment.has_failed_too_often() => Ok(()),
        Status::Running => verification::before_the_end(tx, id),
        Status::Halting { reason } => rollback::after_failure(tx, id, &reason),
        Status::Cancelling { reason } => tx.emit(Fact::DeploymentCancelled { id, reason }),
        Status::Succeeded | Status::Failed { .. } | Status::Cancelled { .. } => Ok(()),
    }
}
