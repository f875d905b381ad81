//! What holds deployments back from outside: silence, freezes, and the budget that all that runs in an environment shares.
//!
//! A deployment that cannot go on for one of these is paused with the reason, so that its time stands still and people see why;
//! and it goes on by itself when the reason is gone.

use std::collections::BTreeSet;

use stella_protocol::id::{DeploymentId, EnvironmentId};
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{put_off, silence};
use crate::amount::Amount;
use crate::command::Outcome;
use crate::deployment::{Deployment, Status};
use crate::environment::Environment;
use crate::event::Fact;
use crate::freeze::Freeze;
use crate::hold::PauseCause;
use crate::rejection::Rejection;
use crate::tenant::TenantState;

/// How many deployments a reason names before it only counts them.
const NAMED_MAX: usize = 5;

/// Sets how many targets of an environment may be at risk at once. What is under way meets it before its next target.
pub(super) fn set_budget(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    budget: Option<Amount>,
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    match budget {
        Some(Amount::Count(0)) => {
            let problem = "is 0, and nothing could be deployed; lock the environment for that";
            return Err(Rejection::invalid("at_risk_max", problem));
        }
        Some(Amount::Percent(percent)) => {
            super::fields::range("at_risk_max", percent.into(), (1, 100), "%")?;
        }
        Some(Amount::Count(_)) | None => {}
    }
    if environment.budget != budget {
        tx.emit(Fact::EnvironmentBudgetSet { id, budget })?;
    }
    Ok(Outcome::Done)
}

/// Pauses a running deployment that something outside holds back, or ends such a pause.
pub(super) fn hold_back(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.status != Status::Running {
        return Ok(());
    }
    let held = outside(tx, deployment);
    if deployment.paused.is_none() {
        let Some((cause, reason, until)) = held else { return Ok(()) };
        return tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause });
    }
    // Another freeze lasts than the one that it was paused for, or for another time.
    if let Some((PauseCause::Freeze, reason, until)) = &held
        && deployment.paused_for == PauseCause::Freeze
        && (deployment.resumes_at != *until
            || deployment.paused.as_ref().is_some_and(|it| it.reason != *reason))
    {
        let (reason, until, cause) = (reason.clone(), *until, PauseCause::Freeze);
        return tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause });
    }
    // By now nothing but failures may be at risk, or something else again.
    if deployment.paused_for == PauseCause::Budget && !tx.tenant.has_budget(deployment) {
        let reason = budget_reason(tx, deployment);
        if deployment.paused.as_ref().is_some_and(|it| it.reason == reason) {
            return Ok(());
        }
        let cause = PauseCause::Budget;
        return tx.emit(Fact::DeploymentPaused { id, reason, until: None, canary_step: None, cause });
    }
    let is_over = match deployment.paused_for {
        PauseCause::Silence | PauseCause::Freeze => {
            held.is_none_or(|(cause, ..)| cause != deployment.paused_for)
        }
        PauseCause::Budget => tx.tenant.has_budget(deployment),
        PauseCause::WayBack => tx.tenant.may_begin(deployment),
        PauseCause::Person
        | PauseCause::CanaryStep
        | PauseCause::Batch
        | PauseCause::Failure
        | PauseCause::WarmUp
        | PauseCause::Verification => false,
    };
    if !is_over {
        return Ok(());
    }
    tx.emit(Fact::DeploymentResumed { id })?;
    hold_back(tx, id)
}

type Held = (PauseCause, String, Option<Timestamp>);

fn outside(tx: &Transaction<'_>, deployment: &Deployment) -> Option<Held> {
    let environment = tx.tenant.environments.get(&deployment.environment)?;
    if environment.silent_since.is_some() {
        let reason = format!("too many agents of {} have gone silent at once", environment.name);
        return Some((PauseCause::Silence, reason, None));
    }
    let (freeze, until) = freeze_on(tx, deployment).filter(|_| deployment.left() > 0)?;
    let reason = format!("{} is frozen ({}: {})", environment.name, freeze.name, freeze.reason);
    Some((PauseCause::Freeze, reason, Some(until)))
}

/// The freeze that keeps a deployment from starting anything now, and until when. Rollbacks go through all of them, and so does what
/// somebody has overridden them for.
pub(super) fn freeze_on<'t>(
    tx: &'t Transaction<'_>,
    deployment: &Deployment,
) -> Option<(&'t Freeze, Timestamp)> {
    let environment = tx.tenant.environments.get(&deployment.environment)?;
    if !deployment.cause.is_asked_for() || overrides_freezes(&tx.tenant, deployment.id) {
        return None;
    }
    environment.lasting_freeze(tx.now)
}

fn overrides_freezes(tenant: &TenantState, id: DeploymentId) -> bool {
    let promotion = tenant.promotions.get(&stella_protocol::id::PromotionId(id.0));
    promotion.is_some_and(|promotion| promotion.wanted.override_freeze.is_some())
}

/// Pauses a deployment that works on nothing and could, if its environment had budget left.
pub(super) fn wait_for_budget(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let stands = deployment.status == Status::Running
        && deployment.counts.active == 0
        && deployment.next_waiting().is_some()
        && deployment.has_room()
        && !tx.tenant.has_budget(deployment);
    if !stands {
        return Ok(());
    }
    if let Some((cause, hold_ms)) = deployment.cut_short() {
        // It would wait for itself: what it has brought puts nothing at risk any more once that is proven.
        let proving = deployment.unproven;
        let name = environment_name(tx, deployment);
        let reason = format!(
            "the budget of {name} lets it start no more than the {proving} targets that prove the release"
        );
        let until = hold_ms.map(|hold_ms| tx.now.plus_ms(hold_ms));
        return tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause });
    }
    let reason = budget_reason(tx, deployment);
    let cause = PauseCause::Budget;
    tx.emit(Fact::DeploymentPaused { id, reason, until: None, canary_step: None, cause })
}

fn environment_name(tx: &Transaction<'_>, deployment: &Deployment) -> String {
    tx.tenant.environments.get(&deployment.environment).map_or_else(String::new, |it| it.name.to_string())
}

/// Why a deployment waits for its environment's budget, and what people have to do if it would wait for ever.
fn budget_reason(tx: &Transaction<'_>, deployment: &Deployment) -> String {
    let (name, place) = (environment_name(tx, deployment), deployment.environment);
    let (now, max) = (tx.tenant.at_risk(place), tx.tenant.at_risk_max(place).unwrap_or(0));
    let used_up_by = tx.tenant.budget_used_up_by(deployment);
    let waits = format!("waits for the budget of {name}: {now} targets are at risk, at most {max} may be");
    if used_up_by.is_empty() {
        return waits;
    }
    let more = used_up_by.len().saturating_sub(NAMED_MAX);
    let named: Vec<String> = used_up_by.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{waits}, and all of them have failed, in {}{more}: try these again or skip them",
        named.join(", ")
    )
}

/// Looks again at the deployments that something outside holds back, or now may, if anything has happened that matters for that.
pub(super) fn reconsider(tx: &mut Transaction<'_>) -> Result<(), Rejection> {
    silence::listen(tx)?;
    let mut seen = 0;
    loop {
        let places: BTreeSet<EnvironmentId> =
            tx.facts_from(seen).filter_map(|fact| concerned(&tx.tenant, fact)).collect();
        if places.is_empty() {
            return Ok(());
        }
        seen = tx.facts_from(0).count();
        let active = tx.tenant.active_deployments.iter().filter_map(|id| tx.tenant.deployments.get(id));
        let candidates: Vec<DeploymentId> = active
            .filter(|it| it.status == Status::Running && places.contains(&it.environment))
            .map(|it| it.id)
            .collect();
        for id in candidates {
            put_off::advance(tx, id)?;
        }
    }
}

/// The environment whose deployments may have to stop, or may go on, since this happened.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts let nothing go on")]
fn concerned(tenant: &TenantState, fact: &Fact) -> Option<EnvironmentId> {
    let shares = |id: &DeploymentId| {
        let place = tenant.deployments.get(id)?.environment;
        tenant.environments.get(&place).filter(|it| has_budget(it)).map(|it| it.id)
    };
    match fact {
        Fact::EnvironmentBudgetSet { id, .. }
        | Fact::EnvironmentWentSilent { id, .. }
        | Fact::EnvironmentHeardAgain { id }
        | Fact::EnvironmentFreezeSet { id, .. }
        | Fact::EnvironmentFreezeRemoved { id, .. }
        | Fact::EnvironmentWayBackProofSet { id, .. } => Some(*id),
        Fact::TargetCreated { environment: id, .. } => {
            tenant.environments.get(id).filter(|it| has_budget(it)).map(|it| it.id)
        }
        Fact::TargetSucceeded { deployment: id, .. }
        | Fact::TargetSkipped { deployment: id, .. }
        | Fact::TargetRetried { deployment: id, .. }
        | Fact::DeploymentPaused { id, .. }
        | Fact::DeploymentResumed { id }
        | Fact::DeploymentSucceeded { id, .. }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. } => shares(id),
        _ => None,
    }
}

const fn has_budget(environment: &Environment) -> bool {
    environment.budget.is_some()
}
