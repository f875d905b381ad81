//! The way back: what last succeeded on each target before a deployment touched it.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, ReleaseId, TenantId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use super::deployment::{Opening, fills_in, is_free, open};
use super::transaction::Transaction;
use super::{group, hold};
use crate::access;
use crate::colour::{self, Leg, Steps};
use crate::command::{Actor, Command, Outcome, Request, TenantCommand};
use crate::deployment::{Cause, Deployment, OnFailure, Progress, RollbackReason, Status, TargetRollout};
use crate::event::{Fact, PlannedTarget};
use crate::ids;
use crate::rejection::Rejection;
use crate::release::Step;
use crate::state::State;
use crate::target::Target;
use crate::task::{Task, TaskState};

/// How many targets a message names before it only counts them.
const NAMED_MAX: usize = 5;

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
    let Plan { targets, left } = plan(tx, &deployment)?;
    let reason = format!("{reason}{}", left.message());
    tx.emit(Fact::DeploymentFailed { id, reason, keeps_proof })?;
    if targets.is_empty() {
        return Ok(());
    }
    let why = deployment.halted_for;
    open(tx, opening(&deployment, ids::rollback(id, tx.now), why, targets))
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
) -> Result<Outcome, Rejection> {
    if tx.tenant.deployments.contains_key(&id) {
        return Err(Rejection::exists(DeploymentId::KIND, id));
    }
    let (deployment, targets, _) = checked(tx, of)?;
    let (environment, release) = (deployment.environment, deployment.release);
    let is_proven =
        tx.tenant.environments.get(&environment).is_some_and(|it| it.proven.contains_key(&release));
    // Going back to the same release says nothing against it.
    let takes_it_away = targets.iter().any(|planned| planned.release != release);
    if is_proven && takes_it_away && deployment.cause == Cause::Requested {
        tx.emit(Fact::ReleaseDisproven { environment, release, deployment: of })?;
    }
    open(tx, opening(&deployment, id, RollbackReason::Manual, targets))?;
    Ok(Outcome::Deployment(id))
}

/// What taking a deployment back would do.
#[derive(Clone, Debug)]
pub struct PlannedRollback {
    /// The deployment that would take it back.
    pub deployment: Deployment,
    /// Which of the targets that were touched would be left as they are, and why, for people.
    pub left: Vec<String>,
}

/// What taking a deployment back by hand would do if `actor` asked for it; `id` is one that there is not. Nothing follows from asking.
///
/// # Errors
/// If it would be refused, for the same reason.
pub fn plan_rollback(
    state: &State,
    actor: Actor,
    tenant: TenantId,
    id: DeploymentId,
    of: DeploymentId,
    now: Timestamp,
) -> Result<PlannedRollback, Rejection> {
    let command = Command::Tenant(tenant, TenantCommand::Rollback { id, of });
    let request = Request { actor, trace: TraceContext::default(), idempotency: None, command };
    access::check(state, &request, now)?;
    let found = state.tenants.get(&tenant).ok_or_else(|| Rejection::not_found(TenantId::KIND, tenant))?;
    // What is begun here is thrown away.
    let mut tx = Transaction::new(state, found, &request, now);
    let (_, _, left) = checked(&tx, of)?;
    by_hand(&mut tx, id, of)?;
    Ok(PlannedRollback { deployment: tx.deployment(id)?.as_ref().clone(), left: left.told() })
}

/// The deployment to take back, where its targets go, and which are left as they are; refused if it cannot be taken back.
fn checked(
    tx: &Transaction<'_>,
    of: DeploymentId,
) -> Result<(Arc<Deployment>, Vec<PlannedTarget>, Left), Rejection> {
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
    for part in touched(&deployment) {
        let Some(target) = tx.tenant.targets.get(&part.target) else { continue };
        if let Some(newer) = target.last.filter(|last| *last != of && !has_failed_to_go_back(tx, *last, of)) {
            let problem = format!(
                "deployment {newer} has come to target {} since; roll that one back instead",
                target.name
            );
            return Err(Rejection::Conflict { problem });
        }
        if part.has_way_back() {
            is_free(&tx.tenant, target)?;
        }
    }
    let Plan { targets, left } = plan(tx, &deployment)?;
    if targets.is_empty() {
        let problem = format!("there is nothing to roll back in deployment {of}{}", left.message());
        return Err(Rejection::Conflict { problem });
    }
    Ok((deployment, targets, left))
}

/// Whether a deployment was to take another one back, and has ended before it had: then that can be tried once more.
fn has_failed_to_go_back(tx: &Transaction<'_>, id: DeploymentId, of: DeploymentId) -> bool {
    let deployment = tx.tenant.deployments.get(&id);
    deployment.is_some_and(|it| {
        let takes_it_back = matches!(it.cause, Cause::Rollback { of: taken_back, .. } if taken_back == of);
        takes_it_back && matches!(it.status, Status::Failed { .. } | Status::Cancelled { .. })
    })
}

/// Whether an earlier attempt has taken the target back already.
fn is_back(tx: &Transaction<'_>, target: &Target, of: DeploymentId) -> bool {
    let last = target.last.filter(|last| *last != of);
    let part = last.and_then(|last| tx.tenant.deployments.get(&last)?.targets.get(&target.id));
    part.is_some_and(|part| matches!(part.progress, Progress::Succeeded { .. }))
}

/// All at once, for every minute counts now; and within the time that the way there was given. Two groups are switched back when
/// the one that was live before is there.
fn opening(
    of: &Deployment,
    id: DeploymentId,
    reason: RollbackReason,
    targets: Vec<PlannedTarget>,
) -> Opening {
    Opening {
        id,
        environment: of.environment,
        strategy: group::strategy_back(of),
        on_failure: OnFailure::Stop,
        tolerate_failures: of.tolerate_failures.filter(|_| of.strategy.groups().is_some()),
        cause: Cause::Rollback { of: of.id, reason },
        targets,
        timeout_ms: of.timeout_ms(),
        verification: None,
    }
}

/// Where each touched target goes, and which are left as they are.
struct Plan {
    targets: Vec<PlannedTarget>,
    left: Left,
}

/// Targets that are left as they are, by reason.
#[derive(Default)]
struct Left {
    no_earlier: Vec<String>,
    unknown: Vec<String>,
    unreachable: Vec<String>,
    blocked: Vec<String>,
    overtaken: Vec<String>,
    skipped: Vec<String>,
}

impl Left {
    fn message(&self) -> String {
        let told = self.told();
        if told.is_empty() { String::new() } else { format!(" ({})", told.join("; ")) }
    }

    /// The same as a list.
    fn told(&self) -> Vec<String> {
        let kinds = [
            (&self.no_earlier, "no earlier release to go back to on"),
            (&self.unknown, "a task of unknown end keeps from going back"),
            (&self.unreachable, "no way back for"),
            (&self.blocked, "the release to go back to is blocked for"),
            (&self.overtaken, "a newer deployment has come to"),
            (&self.skipped, "somebody wants left alone"),
        ];
        kinds
            .into_iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, what)| {
                let more = if names.len() > NAMED_MAX {
                    format!(" and {} more", names.len() - NAMED_MAX)
                } else {
                    String::new()
                };
                format!("{what} {}{more}", names[..names.len().min(NAMED_MAX)].join(", "))
            })
            .collect()
    }
}

fn plan(tx: &Transaction<'_>, deployment: &Deployment) -> Result<Plan, Rejection> {
    let mut plan = Plan { targets: Vec::new(), left: Left::default() };
    let skipped = deployment.targets.values().filter(|part| part.is_left_alone());
    let names = skipped.filter_map(|part| tx.tenant.targets.get(&part.target));
    plan.left.skipped = names.map(|target| target.name.to_string()).collect();
    plan.left.skipped.sort();
    for part in touched(deployment) {
        // A target that was removed since has nothing to go back.
        let Some(target) = tx.tenant.targets.get(&part.target) else { continue };
        let name = target.name.to_string();
        let Some(previous) = part.previous else {
            plan.left.no_earlier.push(name);
            continue;
        };
        if !part.has_way_back() {
            continue;
        }
        // A target is free as soon as its own part is over, and somebody may have deployed to it since.
        let is_newest = target
            .last
            .is_some_and(|last| last == deployment.id || has_failed_to_go_back(tx, last, deployment.id));
        if target.active.is_none() && is_newest && is_back(tx, target, deployment.id) {
            continue;
        }
        if target.active.is_some() || !is_newest {
            plan.left.overtaken.push(name);
        } else if target.blocked_by.is_some() {
            plan.left.unknown.push(name);
        } else if tx.tenant.releases.get(&previous).is_some_and(|release| hold::is_usable(release).is_err()) {
            plan.left.blocked.push(name);
        } else if tx.agent(target.agent)?.revoked.is_some() || !can_fill_in(tx, deployment, target, part) {
            plan.left.unreachable.push(name);
        } else {
            plan.targets.push(PlannedTarget {
                target: target.id,
                release: previous,
                previous: target.current,
                domain: None,
                legs: way_back(tx, (deployment, part), target, previous),
            });
        }
    }
    let (members, busy) = group::to_prepare(tx, deployment, &plan.targets);
    plan.left.overtaken.extend(busy);
    plan.targets.splice(0..0, members);
    Ok(plan)
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
