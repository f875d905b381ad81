//! What people hold back, and let go.

use std::sync::Arc;

use stella_protocol::id::{DeploymentId, EnvironmentId, ReleaseId};

use super::transaction::Transaction;
use super::{fields, rollout};
use crate::command::Outcome;
use crate::deployment::{Deployment, RollbackReason, Status};
use crate::environment::Environment;
use crate::event::Fact;
use crate::hold::{PauseCause, Standing, Verdict};
use crate::rejection::Rejection;
use crate::release::Release;

fn environment<'t>(tx: &'t Transaction<'_>, id: EnvironmentId) -> Result<&'t Arc<Environment>, Rejection> {
    tx.tenant.environments.get(&id).ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))
}

/// Locks an environment. Somebody else's lock is not replaced: then two reasons would hang on one lock.
pub(super) fn lock(tx: &mut Transaction<'_>, id: EnvironmentId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let environment = environment(tx, id)?;
    match &environment.lock {
        Some(lock) if lock.reason == reason => {}
        Some(lock) => {
            let problem = format!(
                "environment {} is locked already ({}); unlock it first",
                environment.name, lock.reason
            );
            return Err(Rejection::Conflict { problem });
        }
        None => tx.emit(Fact::EnvironmentLocked { id, reason: reason.to_owned() })?,
    }
    Ok(Outcome::Done)
}

pub(super) fn unlock(tx: &mut Transaction<'_>, id: EnvironmentId) -> Result<Outcome, Rejection> {
    if environment(tx, id)?.lock.is_some() {
        tx.emit(Fact::EnvironmentUnlocked { id })?;
    }
    Ok(Outcome::Done)
}

/// Says something about a release. A deployment that is bringing a release which is blocked now goes on to no further
/// target; what it has touched goes back, if that is its policy.
pub(super) fn judge(
    tx: &mut Transaction<'_>,
    id: ReleaseId,
    verdict: Verdict,
    reason: &str,
) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let release = tx.tenant.releases.get(&id).ok_or_else(|| Rejection::not_found(ReleaseId::KIND, id))?;
    let name = format!("{}:{}", release.application, release.version);
    let same_reason = release.standing.hold().is_some_and(|hold| hold.reason == reason);
    let reason = reason.to_owned();
    match (verdict, &release.standing) {
        (Verdict::Clear, Standing::Good) => {}
        (Verdict::Deprecate, Standing::Deprecated(_)) | (Verdict::Block, Standing::Blocked(_))
            if same_reason => {}
        // What is milder would let through what somebody has stopped.
        (Verdict::Deprecate, Standing::Blocked(hold)) => {
            let problem = format!("release {name} is blocked ({}); clear it first", hold.reason);
            return Err(Rejection::Conflict { problem });
        }
        (Verdict::Clear, _) => tx.emit(Fact::ReleaseCleared { id, reason })?,
        (Verdict::Deprecate, _) => tx.emit(Fact::ReleaseDeprecated { id, reason })?,
        (Verdict::Block, _) => {
            let halted = format!("release {name} was blocked: {reason}");
            tx.emit(Fact::ReleaseBlocked { id, reason })?;
            for deployment in bringing(tx, id) {
                rollout::halt_with(tx, deployment, &halted, (None, RollbackReason::Blocked))?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// The deployments that are bringing a release somewhere. A rollback is not among them: half of a way back is worse than
/// either end of it, and a rollback begins only to releases that are not blocked.
fn bringing(tx: &Transaction<'_>, id: ReleaseId) -> Vec<DeploymentId> {
    let active = tx.tenant.active_deployments.iter().filter_map(|active| tx.tenant.deployments.get(active));
    active
        .filter(|it| it.release == id && it.cause.is_asked_for() && it.status == Status::Running)
        .map(|it| it.id)
        .collect()
}

/// Whether new deployments may come to an environment.
pub(super) fn is_open(environment: &Environment) -> Result<(), Rejection> {
    let Some(lock) = &environment.lock else { return Ok(()) };
    let problem = format!(
        "environment {} is locked ({}); wait, or unlock it if you may. A rollback is let through",
        environment.name, lock.reason
    );
    Err(Rejection::Conflict { problem })
}

/// Whether a release may be brought anywhere.
pub(super) fn is_usable(release: &Release) -> Result<(), Rejection> {
    let Standing::Blocked(hold) = &release.standing else { return Ok(()) };
    let problem = format!(
        "release {}:{} is blocked ({}); deploy another one, or clear it first",
        release.application, release.version, hold.reason
    );
    Err(Rejection::Conflict { problem })
}

/// Starts no further target until somebody resumes it. Targets that are worked on come to their end.
pub(super) fn pause(tx: &mut Transaction<'_>, id: DeploymentId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running {
        let problem =
            format!("deployment {id} is {}; only a running one can be paused", deployment.status.name());
        return Err(Rejection::Conflict { problem });
    }
    if deployment.can_be_paused() {
        let reason = reason.to_owned();
        let cause = PauseCause::Person;
        tx.emit(Fact::DeploymentPaused { id, reason, until: None, canary_step: None, cause })?;
    } else if let Some(hold) = deployment.paused.as_ref().filter(|hold| hold.reason != reason) {
        // Whoever resumes it ends one pause, and not that of somebody else who has not been told.
        let problem = format!("deployment {id} is paused already ({})", hold.reason);
        return Err(Rejection::Conflict { problem });
    }
    Ok(Outcome::Done)
}

pub(super) fn resume(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<Outcome, Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running {
        let problem = format!("deployment {id} is {}; there is nothing to resume", deployment.status.name());
        return Err(Rejection::Conflict { problem });
    }
    if deployment.paused.is_some() {
        ends_by_itself(tx, deployment)?;
        go_on(tx, id)?;
    }
    Ok(Outcome::Done)
}

/// Refuses to resume what would be paused again at once, and says what to do instead.
fn ends_by_itself(tx: &Transaction<'_>, deployment: &Deployment) -> Result<(), Rejection> {
    let id = deployment.id;
    let reason = deployment.paused.as_ref().map_or("", |hold| hold.reason.as_str());
    let remedy = match deployment.paused_for {
        PauseCause::Verification if deployment.waits_for_a_word() => {
            "say it (stella gate pass, or stella gate fail), or fail the deployment"
        }
        PauseCause::Person
        | PauseCause::CanaryStep
        | PauseCause::Batch
        | PauseCause::WarmUp
        | PauseCause::Verification => return Ok(()),
        PauseCause::Failure => "retry or skip the failed targets one by one, or fail the deployment",
        PauseCause::WayBack => "ask again (prove), skip these targets, or waive it with a reason if you may",
        PauseCause::Budget if !tx.tenant.budget_used_up_by(deployment).is_empty() => {
            "try the failed targets again (retry-target) or skip them, one by one; or raise the budget"
        }
        PauseCause::Budget => "it goes on by itself when fewer targets are at risk; or raise the budget",
        PauseCause::Silence => {
            "it goes on by itself when they are heard again; or change the environment's rule"
        }
        PauseCause::Freeze => "it goes on by itself when the freeze ends; or take the freeze back",
    };
    Err(Rejection::Conflict { problem: format!("deployment {id} is paused ({reason}); {remedy}") })
}

/// Ends a pause, whoever wants it.
pub(super) fn go_on(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    tx.emit(Fact::DeploymentResumed { id })?;
    rollout::advance(tx, id)
}
