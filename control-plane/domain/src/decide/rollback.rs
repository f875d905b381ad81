//! The way back: what last succeeded on each target before a deployment touched it.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{DeploymentId, ReleaseId, TargetId, TenantId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use super::deployment::{Opening, fills_in, is_free, is_idle, open};
use super::transaction::Transaction;
use super::{group, hold};
use crate::access;
use crate::colour::{self, Leg, Steps};
use crate::command::{Actor, Command, Outcome, Request, TenantCommand};
use crate::deployment::{Cause, Deployment, OnFailure, Progress, RollbackReason, Status, TargetRollout};
use crate::event::{Fact, PlannedTarget};
use crate::ids;
use crate::left::{LeftOut, Why};
use crate::rejection::Rejection;
use crate::release::Step;
use crate::state::State;
use crate::target::Target;
use crate::task::{Task, TaskState};
use crate::tenant::TenantState;

/// How many targets a message names before it only counts them.
const NAMED_MAX: usize = 5;
/// How many reasons, each with the names that it is about, before it only counts those. Each newer deployment is one.
const REASONS_MAX: usize = 10;

/// Ends a deployment that failed, and takes its targets back if that is its policy.
pub(super) fn after_failure(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    reason: &str,
) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?.clone();
    // A rollback that fails is not rolled back: it would go to and fro for ever.
    let goes_back = deployment.on_failure == OnFailure::Rollback && deployment.cause == Cause::Requested;
    let keeps_proof = has_done_nothing(tx, &deployment);
    if !goes_back {
        return tx.emit(Fact::DeploymentFailed { id, reason: reason.to_owned(), keeps_proof });
    }
    let plan = plan(tx, &deployment, None)?;
    let reason = format!("{reason}{}", message(tx, &plan.left));
    tx.emit(Fact::DeploymentFailed { id, reason, keeps_proof })?;
    if plan.targets.is_empty() {
        return Ok(());
    }
    let why = deployment.halted_for;
    open(tx, opening(&deployment, ids::rollback(id, tx.now), why, plan))
}

/// Whether a deployment ends with no target touched, and nothing prepared beside what is live either: that says nothing of its release.
fn has_done_nothing(tx: &Transaction<'_>, deployment: &Deployment) -> bool {
    let never_began =
        |task: &&Arc<Task>| matches!(&task.state, TaskState::Cancelled(end) if end.started_at.is_none());
    deployment.cause == Cause::Requested
        && !deployment.targets.values().any(|part| part.has_ended_started())
        && tx.tenant.tasks_of(deployment).iter().all(never_began)
}

/// Rolls back what has ended, because a person wants it.
pub(super) fn by_hand(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    of: DeploymentId,
    targets: Option<&[TargetId]>,
) -> Result<Outcome, Rejection> {
    if tx.tenant.deployments.contains_key(&id) {
        return Err(Rejection::exists(DeploymentId::KIND, id));
    }
    let (deployment, plan) = checked(tx, of, targets)?;
    let (environment, release) = (deployment.environment, deployment.release);
    let is_proven =
        tx.tenant.environments.get(&environment).is_some_and(|it| it.proven.contains_key(&release));
    // Going back to the same release says nothing against it.
    let takes_it_away = plan.targets.iter().any(|planned| planned.release != release);
    if is_proven && takes_it_away && deployment.cause == Cause::Requested {
        tx.emit(Fact::ReleaseDisproven { environment, release, deployment: of })?;
    }
    open(tx, opening(&deployment, id, RollbackReason::Manual, plan))?;
    Ok(Outcome::Deployment(id))
}

/// The rollback that would come if `actor` asked for it, for these of the targets or for all; `id` is one that there is not. Nothing
/// follows from asking.
///
/// # Errors
/// If it would be refused, for the same reason.
pub fn plan_rollback(
    state: &State,
    actor: Actor,
    (tenant, id): (TenantId, DeploymentId),
    of: DeploymentId,
    targets: Option<Vec<TargetId>>,
    now: Timestamp,
) -> Result<Deployment, Rejection> {
    let only = targets.clone();
    let command = Command::Tenant(tenant, TenantCommand::Rollback { id, of, targets });
    let request = Request { actor, trace: TraceContext::default(), idempotency: None, command };
    access::check(state, &request, now)?;
    let found = state.tenants.get(&tenant).ok_or_else(|| Rejection::not_found(TenantId::KIND, tenant))?;
    // What is begun here is thrown away.
    let mut tx = Transaction::new(state, found, &request, now);
    by_hand(&mut tx, id, of, only.as_deref())?;
    Ok(tx.deployment(id)?.as_ref().clone())
}

/// The deployment to take back, and what becomes of its targets; refused if it cannot be taken back.
fn checked(
    tx: &Transaction<'_>,
    of: DeploymentId,
    targets: Option<&[TargetId]>,
) -> Result<(Arc<Deployment>, Plan), Rejection> {
    let deployment = Arc::clone(tx.deployment(of)?);
    if !deployment.status.is_final() {
        return Err(Rejection::conflict(format!("deployment {of} has not ended; cancel it first")));
    }
    // It would bring forward what was taken back, past all that is asked of what comes.
    if let Cause::Rollback { of: first, .. } = deployment.cause {
        let problem = format!(
            "deployment {of} is a rollback; deploy the release that is wanted instead, or roll {first} back again if this has failed"
        );
        return Err(Rejection::Conflict { problem });
    }
    let chosen = targets.map(|targets| chosen(tx, &deployment, targets)).transpose()?;
    if deployment.strategy.groups().is_some() {
        can_all_go_back(tx, &deployment)?;
    }
    let plan = plan(tx, &deployment, chosen.as_ref())?;
    if plan.targets.is_empty() {
        let is_left = |why: fn(&Why) -> bool| plan.left.iter().any(|it| why(&it.why));
        let instead = if is_left(|why| matches!(why, Why::Overtaken { .. })) {
            "; roll back what is newer instead"
        } else if is_left(|why| matches!(why, Why::Unchanged { by: Some(_) })) {
            "; roll back what brought that instead"
        } else {
            ""
        };
        let stay: Vec<LeftOut> = plan.left.into_iter().filter(|it| it.why != Why::NotChosen).collect();
        let message = message(tx, &stay);
        let problem = format!("there is nothing to roll back in deployment {of}{message}{instead}");
        return Err(Rejection::Conflict { problem });
    }
    if deployment.strategy.groups().is_some() {
        leads_to_one(tx, &deployment, &plan)?;
    }
    Ok((deployment, plan))
}

/// The targets that somebody wants to go back. Whoever names one that the deployment has not touched means something else.
fn chosen(
    tx: &Transaction<'_>,
    deployment: &Deployment,
    targets: &[TargetId],
) -> Result<BTreeSet<TargetId>, Rejection> {
    if deployment.strategy.groups().is_some() {
        let problem = "where the traffic of two groups goes is one thing, which goes back as a whole; choose no targets";
        return Err(Rejection::invalid("targets", problem));
    }
    if targets.is_empty() {
        return Err(Rejection::invalid("targets", "there is none; leave it out to take all of them back"));
    }
    for (at, id) in targets.iter().enumerate() {
        let name = &tx.target(*id)?.name;
        let is = match deployment.targets.get(id) {
            None => "it is no part of it",
            Some(part) if part.is_touched() => continue,
            Some(part) if part.is_left_alone() => "somebody wanted it left alone",
            Some(_) => "its turn did not come, or nothing was changed there",
        };
        let problem = format!("deployment {} has not touched target {name}: {is}", deployment.id);
        return Err(Rejection::invalid(format!("targets[{at}]"), problem));
    }
    Ok(targets.iter().copied().collect())
}

/// What leads the traffic and stays where this has led it keeps the rest of it from going back. What was skipped was never led there.
fn leads_to_one(tx: &Transaction<'_>, deployment: &Deployment, plan: &Plan) -> Result<(), Rejection> {
    let leads = |target| deployment.leading().any(|part| part.target == target);
    let stays = |it: &&LeftOut| !matches!(it.why, Why::Back { .. } | Why::Skipped) && leads(it.target);
    let stay: Vec<LeftOut> = plan.left.iter().filter(stays).cloned().collect();
    if stay.is_empty() {
        return Ok(());
    }
    let why = message(tx, &stay);
    let problem = format!(
        "what leads the traffic goes back together or not at all, and not all of it can{why}; deploy the release that is wanted instead"
    );
    Err(Rejection::Conflict { problem })
}

/// Where the traffic goes is one thing: what leads it goes back together or not at all.
fn can_all_go_back(tx: &Transaction<'_>, deployment: &Deployment) -> Result<(), Rejection> {
    let of = deployment.id;
    for part in touched(deployment) {
        let Some(target) = tx.tenant.targets.get(&part.target) else { continue };
        if let Some(newer) = target.last.filter(|last| *last != of && !has_failed_to_go_back(tx, *last, of)) {
            is_idle(target)?;
            return Err(Rejection::Conflict { problem: come_since(tx, of, target, newer) });
        }
        if part.has_way_back() {
            is_free(&tx.tenant, target)?;
        }
    }
    Ok(())
}

/// What has come to a target since, and what to do about it. A rollback is not taken back.
fn come_since(tx: &Transaction<'_>, of: DeploymentId, target: &Target, newer: DeploymentId) -> String {
    let (newer, name) = (not_undone(tx, target.id, newer), &target.name);
    match tx.tenant.deployments.get(&newer).map(|it| &it.cause) {
        Some(Cause::Rollback { of: back, .. }) if *back == of => {
            format!("deployment {newer} has taken it back on target {name} already")
        }
        Some(Cause::Rollback { .. }) => format!(
            "deployment {newer} has taken a newer one back on target {name} since; deploy the release that is wanted instead"
        ),
        Some(Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. }) | None => {
            format!("deployment {newer} has come to target {name} since; roll that one back instead")
        }
    }
}

/// Whether a deployment was to take another one back, and has ended before it had: then that can be tried once more.
fn has_failed_to_go_back(tx: &Transaction<'_>, id: DeploymentId, of: DeploymentId) -> bool {
    let deployment = tx.tenant.deployments.get(&id);
    deployment.is_some_and(|it| {
        let takes_it_back = matches!(it.cause, Cause::Rollback { of: taken_back, .. } if taken_back == of);
        takes_it_back && matches!(it.status, Status::Failed { .. } | Status::Cancelled { .. })
    })
}

/// All at once, for every minute counts now; and within the time that the way there was given. Two groups are switched back when
/// the one that was live before is there.
fn opening(
    of: &Deployment,
    id: DeploymentId,
    reason: RollbackReason,
    Plan { targets, left }: Plan,
) -> Opening {
    Opening {
        id,
        environment: of.environment,
        strategy: group::strategy_back(of),
        on_failure: OnFailure::Stop,
        tolerate_failures: of.tolerate_failures.filter(|_| of.strategy.groups().is_some()),
        cause: Cause::Rollback { of: of.id, reason },
        targets,
        left,
        timeout_ms: of.timeout_ms(),
        verification: None,
    }
}

/// Where each touched target goes, and which are left as they are.
struct Plan {
    targets: Vec<PlannedTarget>,
    left: Vec<LeftOut>,
}

/// What is left as it is, by reason and with names, as the end of a sentence.
fn message(tx: &Transaction<'_>, left: &[LeftOut]) -> String {
    let name =
        |id: &TargetId| tx.tenant.targets.get(id).map_or_else(|| id.to_string(), |it| it.name.to_string());
    let mut sorted: Vec<(&Why, String)> = left.iter().map(|it| (&it.why, name(&it.target))).collect();
    sorted.sort();
    // What is said in the same way is side by side now.
    let mut by_reason: Vec<(String, Vec<String>)> = Vec::new();
    for (why, name) in sorted {
        let what = why.before_names();
        match by_reason.last_mut().filter(|(before, _)| *before == what) {
            Some((_, names)) => names.push(name),
            None => by_reason.push((what, vec![name])),
        }
    }
    let others = by_reason.len().saturating_sub(REASONS_MAX);
    by_reason.truncate(REASONS_MAX);
    let mut told: Vec<String> = by_reason.into_iter().map(|(what, names)| named(&what, names)).collect();
    if others > 0 {
        told.push(format!("and {others} more reasons"));
    }
    if told.is_empty() { String::new() } else { format!(" ({})", told.join("; ")) }
}

fn named(what: &str, mut names: Vec<String>) -> String {
    names.sort();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{what} {}{more}", names.join(", "))
}

fn plan(
    tx: &Transaction<'_>,
    deployment: &Deployment,
    chosen: Option<&BTreeSet<TargetId>>,
) -> Result<Plan, Rejection> {
    let mut plan = Plan { targets: Vec::new(), left: Vec::new() };
    let parts = deployment.order.iter().filter_map(|target| deployment.targets.get(target));
    for part in parts.filter(|part| part.is_touched() || part.is_left_alone()) {
        // A target that was removed since has nothing to go back.
        let Some(target) = tx.tenant.targets.get(&part.target) else { continue };
        let why = match part.previous {
            _ if part.is_left_alone() => Some(Why::Skipped),
            _ if chosen.is_some_and(|chosen| !chosen.contains(&part.target)) => Some(Why::NotChosen),
            None => Some(newer(tx, deployment, target).unwrap_or(Why::NoEarlier)),
            Some(_) if !part.has_way_back() => {
                Some(newer(tx, deployment, target).unwrap_or_else(|| unchanged(tx, part)))
            }
            Some(previous) => stays(tx, (deployment, part), target, previous)?,
        };
        match (why, part.previous) {
            (None, Some(previous)) => plan.targets.push(PlannedTarget {
                target: target.id,
                release: previous,
                previous: target.current,
                domain: None,
                legs: way_back(tx, (deployment, part), target, previous),
            }),
            (why, _) => plan.left.extend(why.map(|why| LeftOut { target: target.id, why })),
        }
    }
    group::lead_along(tx, deployment, (&mut plan.targets, &mut plan.left));
    let (members, busy) = group::to_prepare(tx, deployment, &plan.targets);
    plan.left.extend(busy);
    plan.targets.splice(0..0, members);
    Ok(plan)
}

/// Why a target that has somewhere to go back to stays as it is, if it does.
fn stays(
    tx: &Transaction<'_>,
    (deployment, part): (&Deployment, &TargetRollout),
    target: &Target,
    previous: ReleaseId,
) -> Result<Option<Why>, Rejection> {
    if target.active.is_none()
        && let Some(last) = target.last
        && is_back(tx, last, (deployment, part), target)
    {
        return Ok(Some(Why::Back { by: last }));
    }
    if let Some(why) = newer(tx, deployment, target) {
        return Ok(Some(why));
    }
    if target.last.is_none() {
        // It has moved to another host since, where nothing has come yet.
        return Ok(Some(Why::NoEarlier));
    }
    stuck(tx, (deployment, part), target, previous)
}

/// What has come to a target since, or is to: it is free as soon as its own part is over, and somebody may have deployed to it.
fn newer(tx: &Transaction<'_>, deployment: &Deployment, target: &Target) -> Option<Why> {
    if let Some(by) = target.active {
        return Some(works_there(tx, by));
    }
    let last = target.last?;
    let mut newest = last;
    for id in standing(&tx.tenant, target.id, last) {
        if id == deployment.id {
            return None;
        }
        newest = id;
    }
    if has_failed_to_go_back(tx, last, deployment.id) {
        return None;
    }
    // Then it was taken back itself, and what came before it is what stands again.
    let part = deployment.targets.get(&target.id);
    if part.is_some_and(|part| history(&tx.tenant, part).any(|id| id == newest)) {
        return Some(Why::Back { by: last });
    }
    Some(Why::Overtaken { by: not_undone(tx, target.id, newest) })
}

/// What a part means that has brought the release which was there before: what brought that is to be taken back instead.
fn unchanged(tx: &Transaction<'_>, part: &TargetRollout) -> Why {
    let by = took_over(&tx.tenant, part).and_then(|id| standing(&tx.tenant, part.target, id).last());
    Why::Unchanged { by: by.filter(|id| tx.tenant.deployments.contains_key(id)) }
}

/// Whether the last to come to a target has brought what was there before the deployment.
fn is_back(
    tx: &Transaction<'_>,
    last: DeploymentId,
    (deployment, part): (&Deployment, &TargetRollout),
    target: &Target,
) -> bool {
    let Some(by) = tx.tenant.deployments.get(&last).filter(|it| it.id != deployment.id) else { return false };
    let there = by.targets.get(&target.id);
    let takes_it_back = matches!(by.cause, Cause::Rollback { of, .. } if of == deployment.id);
    there.is_some_and(|there| has_come(there))
        && (takes_it_back || (target.current == part.previous && part.previous != Some(part.release)))
}

/// What a target has, if `last` was the last to come there: the last of these is the deployment that brought it. What has been taken back
/// there since does not count, nor does what took it back, nor what has brought the same once more: those come before.
fn standing(
    tenant: &TenantState,
    target: TargetId,
    last: DeploymentId,
) -> impl Iterator<Item = DeploymentId> {
    // Each was there before the one that follows from it, so that this ends.
    std::iter::successors(Some(last), move |id| {
        let by = tenant.deployments.get(id)?;
        let part = by.targets.get(&target)?;
        match by.cause {
            Cause::Rollback { of, .. } => {
                let taken_back = tenant.deployments.get(&of)?.targets.get(&target)?;
                has_come(part).then(|| came_before(tenant, taken_back))?
            }
            Cause::Requested => took_over(tenant, part),
            Cause::Retirement { .. } | Cause::Job { .. } => None,
        }
    })
}

/// What a target has after the same release was brought there once more: what it had. What has failed to bring it has put nothing right.
fn took_over(tenant: &TenantState, part: &TargetRollout) -> Option<DeploymentId> {
    let is_same = part.is_touched() && part.previous.is_some() && !part.has_way_back();
    match is_same {
        true if has_come(part) => came_before(tenant, part),
        true => history(tenant, part).next(),
        false => None,
    }
}

/// What had come to a target before a deployment: what failed there has brought nothing.
fn came_before(tenant: &TenantState, part: &TargetRollout) -> Option<DeploymentId> {
    history(tenant, part).find(|id| {
        let by = tenant.deployments.get(id).and_then(|it| it.targets.get(&part.target));
        by.is_none_or(|by| has_come(by))
    })
}

/// All that was the last to come to a target before a deployment, the newest first.
fn history(tenant: &TenantState, part: &TargetRollout) -> impl Iterator<Item = DeploymentId> {
    let target = part.target;
    std::iter::successors(part.before.and_then(|it| it.last), move |id| {
        tenant.deployments.get(id)?.targets.get(&target)?.before?.last
    })
}

const fn has_come(part: &TargetRollout) -> bool {
    matches!(part.progress, Progress::Succeeded { .. })
}

/// What can be rolled back in place of a newer deployment: if that was to take back another one, and did not there, this one.
fn not_undone(tx: &Transaction<'_>, target: TargetId, newer: DeploymentId) -> DeploymentId {
    let Some(it) = tx.tenant.deployments.get(&newer) else { return newer };
    let is_there = it.targets.get(&target).is_some_and(|part| has_come(part));
    match it.cause {
        Cause::Rollback { of, .. } if !is_there => of,
        Cause::Requested | Cause::Rollback { .. } | Cause::Retirement { .. } | Cause::Job { .. } => newer,
    }
}

/// What a deployment that is at a target, or is to come there, means for taking another one back.
fn works_there(tx: &Transaction<'_>, by: DeploymentId) -> Why {
    let cause = tx.tenant.deployments.get(&by).map(|it| &it.cause);
    if cause == Some(&Cause::Requested) { Why::Overtaken { by } } else { Why::Busy { by } }
}

/// What keeps a target that nothing newer has come to from going back, if anything does.
fn stuck(
    tx: &Transaction<'_>,
    (deployment, part): (&Deployment, &TargetRollout),
    target: &Target,
    previous: ReleaseId,
) -> Result<Option<Why>, Rejection> {
    if let Some(task) = target.blocked_by {
        return Ok(Some(Why::Quarantined { task }));
    }
    if tx.tenant.releases.get(&previous).is_some_and(|release| hold::is_usable(release).is_err()) {
        return Ok(Some(Why::Blocked { release: previous }));
    }
    if tx.agent(target.agent)?.revoked.is_some() {
        return Ok(Some(Why::Revoked { agent: target.agent }));
    }
    let fills_in = can_fill_in(tx, deployment, target, part);
    Ok((!fills_in).then_some(Why::NotFilledIn { release: previous }))
}

/// The targets that a deployment changed or may have changed, in the order of their names.
fn touched(deployment: &Deployment) -> impl Iterator<Item = &TargetRollout> {
    let parts = deployment.order.iter().filter_map(|target| deployment.targets.get(target));
    parts.map(AsRef::as_ref).filter(|part| part.is_touched())
}

fn way_back(
    tx: &Transaction<'_>,
    (deployment, part): (&Deployment, &TargetRollout),
    target: &Target,
    previous: ReleaseId,
) -> Vec<Leg> {
    let Some(release) = tx.tenant.releases.get(&previous) else { return Vec::new() };
    match deployment.strategy.groups() {
        Some(_) => tx.tenant.way_back_of_leader(target, part.colour(), release),
        None => tx.tenant.way_back(target, release),
    }
}

fn can_fill_in(tx: &Transaction<'_>, deployment: &Deployment, target: &Target, part: &TargetRollout) -> bool {
    let release = part.previous.and_then(|previous| tx.tenant.releases.get(&previous));
    let (Some(release), Some(environment)) = (release, tx.tenant.environments.get(&deployment.environment))
    else {
        return false;
    };
    let then = target.with(part.previous_variables.as_deref());
    let mut legs = way_back(tx, (deployment, part), target, release.id);
    if legs.is_empty() {
        legs.push(Leg { release: release.id, colour: None, steps: Steps::All });
    }
    legs.iter().all(|leg| {
        // What is led away from first has what the target has now.
        let (release, target) = match leg.release == release.id {
            true => (Some(release), then.as_ref()),
            false => (tx.tenant.releases.get(&leg.release), target),
        };
        release.is_some_and(|release| {
            let steps: Vec<&Step> = colour::steps(release, leg.steps).collect();
            fills_in(environment, release, target, leg.colour, &steps).is_ok()
        })
    })
}
