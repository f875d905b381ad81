//! Once more: a new deployment to the targets that an ended one did not bring its release to.

use std::collections::BTreeSet;

use stella_protocol::id::{DeploymentId, PromotionId, TargetId};

use super::promotion;
use super::transaction::Transaction;
use crate::amount::Amount;
use crate::command::{NewDeployment, Outcome};
use crate::deployment::{Cause, Deployment, Progress, TargetRollout};
use crate::rejection::Rejection;

/// Deploys again, with all the checks of a new deployment; the one that ended stays as it is.
pub(super) fn retry(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    of: DeploymentId,
    only: Option<&[TargetId]>,
) -> Result<Outcome, Rejection> {
    let before = tx.deployment(of)?.clone();
    if !before.status.is_final() {
        return Err(Rejection::conflict(format!("deployment {of} has not ended; wait for it or cancel it")));
    }
    let kind = match &before.cause {
        Cause::Requested => None,
        Cause::Rollback { .. } => Some("rollback"),
        Cause::Retirement { .. } => Some("retirement"),
        Cause::Job { run, step, .. } => {
            let problem =
                format!("deployment {of} is a job of step {step} of run {run}; retry that step instead");
            return Err(Rejection::Conflict { problem });
        }
    };
    if let Some(kind) = kind {
        let problem = format!("deployment {of} is a {kind}; deploy the release that is wanted instead");
        return Err(Rejection::Conflict { problem });
    }
    let only = only.map(|targets| targets.iter().copied().collect::<BTreeSet<_>>());
    if let Some(stranger) = only.iter().flatten().find(|target| !before.targets.contains_key(*target)) {
        let problem = format!("target {stranger} was no part of deployment {of}");
        return Err(Rejection::invalid("targets", problem));
    }
    let mut targets = Vec::new();
    for part in before.order.iter().filter_map(|target| before.targets.get(target)) {
        let wanted = only.as_ref().is_none_or(|only| only.contains(&part.target));
        if wanted && is_left(tx, part) {
            is_not_overtaken(tx, &before, part)?;
            targets.push(part.target);
        }
    }
    if targets.is_empty() {
        let problem = format!("no target that is wanted lacks the release of deployment {of}");
        return Err(Rejection::conflict(problem));
    }
    let total = before.counts.total();
    // A group gets the release as a whole.
    let has_groups = before.strategy.groups().is_some();
    let left = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let asked = tx.tenant.promotions.get(&PromotionId(before.id.0));
    let new = NewDeployment {
        id,
        environment: before.environment,
        release: before.release,
        strategy: before.strategy.counted(total),
        on_failure: before.on_failure,
        tolerate_failures: before
            .tolerate_failures
            .map(|amount| Amount::Count(amount.at_most(total).min(left.saturating_sub(1)))),
        targets: Some(targets).filter(|_| !has_groups || only.is_some()),
        timeout_ms: before.timeout_ms(),
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: asked.is_some_and(|asked| asked.wanted.replace_application),
        job: None,
    };
    promotion::request_again(tx, &new, of)
}

/// Whether the target does not have the release: it never got it, or it was taken back. A removed target needs nothing.
fn is_left(tx: &Transaction<'_>, part: &TargetRollout) -> bool {
    let Some(target) = tx.tenant.targets.get(&part.target) else { return false };
    let broken = matches!(part.progress, Progress::Failed { .. } | Progress::Abandoned { .. });
    broken || target.current != Some(part.release)
}

/// What a newer deployment brought must not be replaced by something older without anybody noticing.
fn is_not_overtaken(tx: &Transaction<'_>, of: &Deployment, part: &TargetRollout) -> Result<(), Rejection> {
    let target = tx.target(part.target)?;
    let last = target.last.and_then(|last| tx.tenant.deployments.get(&last));
    let Some(newer) =
        last.filter(|last| last.id != of.id && (part.is_touched() || last.created_at > of.created_at))
    else {
        return Ok(());
    };
    let takes_it_back = matches!(newer.cause, Cause::Rollback { of: taken_back, .. } if taken_back == of.id);
    if takes_it_back {
        return Ok(());
    }
    let problem = format!("deployment {} has come to target {} since; deploy anew", newer.id, target.name);
    Err(Rejection::conflict(problem))
}
