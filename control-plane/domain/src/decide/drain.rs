//! Hosts that are taken out of rotation, to be patched say, and come back.

use std::collections::BTreeSet;

use stella_protocol::id::{AgentId, DeploymentId, TargetId, TaskId};

use super::transaction::Transaction;
use super::{fields, rollout};
use crate::command::Outcome;
use crate::deployment::{Deployment, Progress, Status, TargetRollout};
use crate::event::Fact;
use crate::group::Part;
use crate::rejection::Rejection;
use crate::task::TaskState;

/// Begins nothing new on a host. Deployments that are under way leave those of its targets out that they have not begun, so that
/// none of them waits for the host; what they have begun there comes to its end.
pub(super) fn drain(tx: &mut Transaction<'_>, id: AgentId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if reason.trim().is_empty() {
        return Err(Rejection::invalid("reason", "is empty; say why, people will wonder"));
    }
    let agent = tx.agent(id)?;
    if agent.revoked.is_some() {
        return Err(Rejection::Revoked { name: agent.name.clone() });
    }
    if agent.draining.as_ref().is_some_and(|hold| hold.reason == reason) {
        return Ok(Outcome::Done);
    }
    tx.emit(Fact::AgentDraining { agent: id, reason: reason.to_owned() })?;
    let slots = tx.tenant.index.slots.get(&id).into_iter().flat_map(|slots| slots.values());
    let targets = slots.filter_map(|target| tx.tenant.targets.get(target));
    let deployments: BTreeSet<DeploymentId> = targets.filter_map(|target| target.active).collect();
    for deployment in deployments {
        if leave_out(tx, deployment)? {
            rollout::advance(tx, deployment)?;
        }
    }
    Ok(Outcome::Done)
}

/// Lets work come to a host again: also what has waited for it.
pub(super) fn undrain(tx: &mut Transaction<'_>, id: AgentId) -> Result<Outcome, Rejection> {
    if tx.agent(id)?.draining.is_some() {
        tx.emit(Fact::AgentUndrained { agent: id })?;
        rollout::dispatch(tx, id)?;
    }
    Ok(Outcome::Done)
}

/// Leaves out of a running deployment what it has not begun on hosts that are draining; whether there was anything.
///
/// What takes something back, or ends what nobody uses, waits for its hosts instead: nothing is left half done. So does what leads the
/// traffic to a group, and a deployment that would have no target left.
pub(super) fn leave_out(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<bool, Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running || !deployment.cause.is_asked_for() {
        return Ok(false);
    }
    let mut left: Vec<(TargetId, Option<TaskId>, String)> = Vec::new();
    for part in deployment.targets.values() {
        let Some(target) = tx.tenant.targets.get(&part.target) else { continue };
        let Some((agent, hold)) = tx.tenant.draining(target) else { continue };
        if is_led(deployment, part) {
            continue;
        }
        let reason = || format!("its agent {agent} is draining: {}", hold.reason);
        match &part.progress {
            Progress::Waiting => left.push((part.target, None, reason())),
            Progress::Active { task, .. } if !tx.tenant.goes_on_with(*task) => {
                if matches!(tx.task(*task)?.state, TaskState::Queued) {
                    left.push((part.target, Some(*task), reason()));
                }
            }
            Progress::Active { .. }
            | Progress::Ready { .. }
            | Progress::Failed { .. }
            | Progress::Succeeded { .. }
            | Progress::Skipped { .. }
            | Progress::Abandoned { .. } => {}
        }
    }
    if left.is_empty() || others(deployment) <= left.len() {
        return Ok(false);
    }
    for (target, task, reason) in left {
        if let Some(task) = task {
            rollout::finish_unsent(tx, task)?;
        }
        let never_came = rollout::never_came(tx, id, target);
        tx.emit(Fact::TargetSkipped { deployment: id, target, reason: Some(reason), never_came })?;
    }
    Ok(true)
}

/// Whether the part leads the traffic to a group.
fn is_led(deployment: &Deployment, part: &TargetRollout) -> bool {
    deployment.strategy.groups().is_some() && Part::of(&part.legs) == Part::Switch
}

/// How many targets have the release or may still get it, those that lead the traffic to them aside.
fn others(deployment: &Deployment) -> usize {
    let may_get_it = |part: &TargetRollout| match part.progress {
        Progress::Waiting | Progress::Ready { .. } | Progress::Active { .. } | Progress::Succeeded { .. } => {
            !is_led(deployment, part)
        }
        Progress::Failed { .. } | Progress::Skipped { .. } | Progress::Abandoned { .. } => false,
    };
    deployment.targets.values().filter(|part| may_get_it(part)).count()
}
