//! What people decide about the targets of a running deployment: try one again, leave one alone, or give all of it up.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, PromotionId, TargetId};

use super::deployment::is_free;
use super::gate::{self, Asking, Ruling};
use super::transaction::Transaction;
use super::{brake, fields, path, rollout};
use crate::command::Outcome;
use crate::deployment::{Deployment, OnFailure, Progress, RollbackReason, Status, TargetRollout};
use crate::event::Fact;
use crate::hold::PauseCause;
use crate::rejection::Rejection;
use crate::target::Target;
use crate::task::TaskState;

/// Tries a failed target again, from its first step (or that of its switch, once that has begun) and without leaving the deployment.
/// A deployment that waits for the
/// decision goes on only once this has succeeded.
pub(super) fn retry(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    target: TargetId,
) -> Result<Outcome, Rejection> {
    let (deployment, part) = running(tx, id, target)?;
    let place = Arc::clone(tx.target(target)?);
    if !matches!(part.progress, Progress::Failed { .. }) {
        let problem = format!(
            "target {} is {}; only one that has failed is tried again",
            place.name,
            part.progress.name()
        );
        return Err(Rejection::conflict(problem));
    }
    is_free(&tx.tenant, &place)?;
    if let Some((agent, hold)) = tx.tenant.draining(&place) {
        let problem = format!(
            "agent {agent} of target {} is draining ({}); try it again once it is undrained, or skip it",
            place.name, hold.reason
        );
        return Err(Rejection::conflict(problem));
    }
    if tx.tenant.environments.get(&deployment.environment).is_some_and(|it| it.silent_since.is_some()) {
        let problem =
            format!("too many agents have gone silent at once; try {} again when they are heard", place.name);
        return Err(Rejection::conflict(problem));
    }
    is_not_held(tx, &deployment, &place)?;
    if let Some(reason) = path::lost(&tx.tenant, &deployment, tx.now) {
        return Err(Rejection::conflict(format!("target {} is not tried again: {reason}", place.name)));
    }
    if deployment.cause.is_job() && place.live != part.colour() {
        let problem = format!("the colour that is live on {} has changed since; skip it here", place.name);
        return Err(Rejection::conflict(problem));
    }
    if !deployment.cause.is_job() && place.last_visit() != Some(id) {
        let problem = format!("another deployment has come to target {} since; skip it here", place.name);
        return Err(Rejection::conflict(problem));
    }
    if !deployment.has_room_again(part.domain.as_deref()) {
        let problem = format!(
            "deployment {id} works on as many targets as its strategy lets; try {} again when one has ended",
            place.name
        );
        return Err(Rejection::conflict(problem));
    }
    // It stays in the wave that the gates have let start, so nothing outside is asked anew; but no gate may say no by now.
    if let Ruling::Closed(reason) = gate::rule(tx, PromotionId(id.0), Asking::Later)? {
        let problem = format!("{reason}; target {} is not tried again as long as it is so", place.name);
        return Err(Rejection::Conflict { problem });
    }
    let generation = rollout::next_generation(tx, target)?;
    tx.emit(Fact::TargetRetried { deployment: id, target, generation })?;
    let again = tx.deployment(id)?.targets.get(&target).map(|part| &part.progress);
    let step = if let Some(Progress::Active { step, .. }) = again { *step } else { 0 };
    rollout::queue(tx, id, target, step)?;
    Ok(Outcome::Done)
}

/// Whether neither a person nor a freeze keeps a deployment from starting anything. Trying a target again is no way around either.
fn is_not_held(tx: &Transaction<'_>, deployment: &Deployment, place: &Target) -> Result<(), Rejection> {
    let (id, name) = (deployment.id, &place.name);
    if let Some(hold) = deployment.paused.as_ref().filter(|_| deployment.paused_for == PauseCause::Person) {
        let problem =
            format!("deployment {id} is paused ({}); resume it, then try target {name} again", hold.reason);
        return Err(Rejection::Conflict { problem });
    }
    if let Some((freeze, _)) = brake::freeze_on(tx, deployment) {
        let problem = format!(
            "{} is frozen ({}: {}); try target {name} again when the freeze ends, or take the freeze back",
            tx.tenant.environments.get(&deployment.environment).map_or("it", |it| it.name.as_str()),
            freeze.name,
            freeze.reason
        );
        return Err(Rejection::Conflict { problem });
    }
    Ok(())
}

/// Leaves a target alone: neither this deployment nor its rollback touches it any more.
pub(super) fn skip(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    target: TargetId,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    if reason.trim().is_empty() {
        return Err(Rejection::invalid("reason", "is empty; say why, it is shown for ever"));
    }
    let (deployment, part) = running(tx, id, target)?;
    let name = tx.tenant.targets.get(&target).map_or_else(|| target.to_string(), |it| it.name.to_string());
    let conflict = |problem: String| Err(Rejection::Conflict { problem });
    let queued = match &part.progress {
        Progress::Skipped { .. } => return Ok(Outcome::Done),
        Progress::Waiting | Progress::Ready { .. } | Progress::Failed { .. } => None,
        Progress::Active { task, .. } => {
            let task = Arc::clone(tx.task(*task)?);
            match &task.state {
                TaskState::Queued => Some(task),
                TaskState::Unknown { .. } => {
                    return conflict(format!(
                        "nobody knows what became of task {} on {name}; settle it first",
                        task.id
                    ));
                }
                TaskState::Dispatched { .. }
                | TaskState::Accepted { .. }
                | TaskState::Running { .. }
                | TaskState::Succeeded(_)
                | TaskState::Failed(_)
                | TaskState::TimedOut(_)
                | TaskState::Cancelled(_)
                | TaskState::Interrupted(_) => {
                    let state = task.state.name();
                    return conflict(format!(
                        "task {} on {name} is {state}; wait for its end, or cancel the deployment",
                        task.id
                    ));
                }
            }
        }
        Progress::Succeeded { .. } | Progress::Abandoned { .. } => {
            return conflict(format!("target {name} is {}; there is nothing to skip", part.progress.name()));
        }
    };
    let torn = tx.tenant.targets.get(&target).is_some_and(|it| it.is_torn);
    if torn && deployment.leading().any(|it| it.target == target) {
        return conflict(format!(
            "the switch of {name} was left halfway, and nobody knows which group its traffic goes to; try it again, or fail the deployment"
        ));
    }
    if is_the_last(&deployment, &part) {
        return conflict(format!(
            "no other target of deployment {id} could succeed; cancel or fail it instead"
        ));
    }
    if let Some(task) = queued {
        rollout::finish_unsent(tx, task.id)?;
    }
    let (reason, never_came) = (Some(reason.to_owned()), rollout::never_came(tx, id, target));
    tx.emit(Fact::TargetSkipped { deployment: id, target, reason, never_came })?;
    rollout::advance(tx, id)?;
    Ok(Outcome::Done)
}

/// Whether without this one no target has the release or may still get it.
fn is_the_last(deployment: &Deployment, part: &TargetRollout) -> bool {
    let counts = deployment.counts;
    let failed = u32::from(matches!(part.progress, Progress::Failed { .. }));
    deployment.left() + counts.active + counts.succeeded + failed <= 1
}

/// Ends a running deployment as failed.
pub(super) fn give_up(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    roll_back: bool,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running {
        let problem =
            format!("deployment {id} is {}; only a running one is given up", deployment.status.name());
        return Err(Rejection::Conflict { problem });
    }
    let decision = if roll_back { OnFailure::Rollback } else { OnFailure::Stop };
    rollout::halt_with(tx, id, reason, (Some(decision), RollbackReason::DeploymentFailed))?;
    Ok(Outcome::Done)
}

/// A target's part in a deployment that is running.
fn running(
    tx: &Transaction<'_>,
    id: DeploymentId,
    target: TargetId,
) -> Result<(Arc<Deployment>, Arc<TargetRollout>), Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running {
        let problem = format!(
            "deployment {id} is {}; only a running one can be guided, one that has ended can be retried",
            deployment.status.name()
        );
        return Err(Rejection::Conflict { problem });
    }
    let part = deployment.targets.get(&target).ok_or_else(|| {
        Rejection::invalid("target", format!("target {target} is no part of deployment {id}"))
    })?;
    Ok((Arc::clone(deployment), Arc::clone(part)))
}
