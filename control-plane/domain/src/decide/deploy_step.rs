//! What the steps `deploy` and `rollback` of a run ask for: a release on its way to targets, with the authority of whoever started the run;
//! and what such a step comes to.

use std::collections::BTreeMap;

use serde_json::Value;
use stella_protocol::id::{DeploymentId, EnvironmentId, PromotionId, ReleaseId, TargetId};

use super::run::{Again, Outputs, variables};
use super::transaction::Transaction;
use super::{job, promotion, rollback};
use crate::access;
use crate::command::{NewDeployment, TenantCommand};
use crate::deployment::{Cause, Deployment, Status, Strategy};
use crate::left::Why;
use crate::name::{Name, Version};
use crate::promotion::PromotionStatus;
use crate::rejection::Rejection;
use crate::run::Run;
use crate::tenant::TenantState;
use crate::workflow::{Action, Deploy, Meter, Step, render};

/// How many of the targets that a rollback has left as they are its outputs name.
const LEFT_NAMED_MAX: usize = 100;

/// Asks for a step's deployment like anybody would, and is refused like anybody would be. With outputs if there is nothing left to ask for.
pub(super) fn ask(
    tx: &mut Transaction<'_>,
    run: &Run,
    step: &Step,
    id: DeploymentId,
) -> Result<Option<Outputs>, Rejection> {
    match step.action() {
        Some(Action::Task(task)) => job::ask(tx, run, step, task, id),
        Some(Action::Deploy(deploy)) => {
            let new = wanted(&tx.tenant, run, deploy, id, tx.meter())?;
            let command = TenantCommand::Deploy(Box::new(new.clone()));
            access::check_authority(tx.system, tx.actor(), tx.tenant.id, &command, tx.now)?;
            promotion::request(tx, &new).map(|_| None)
        }
        Some(Action::Rollback(of)) => {
            let deployed = run.steps.get(&of.of).and_then(|it| it.outputs.get("deployment"));
            let of =
                deployed.and_then(Value::as_str).and_then(|text| text.parse().ok()).ok_or_else(|| {
                    Rejection::conflict(format!("step {} has deployed nothing to roll back", of.of))
                })?;
            let command = TenantCommand::Rollback { id, of, targets: None };
            access::check_authority(tx.system, tx.actor(), tx.tenant.id, &command, tx.now)?;
            rollback::by_hand(tx, id, of, None).map(|_| None)
        }
        _ => Ok(None),
    }
}

/// How a deployment ended, or the promotion that asked for it; `None` if it has not.
pub(super) fn verdict(tenant: &TenantState, id: DeploymentId) -> Option<Result<Outputs, (String, Again)>> {
    if let Some(deployment) = tenant.deployments.get(&id) {
        // A step goes on to name its job when that is over, but not its deployment.
        let what = if deployment.cause.is_job() { "the job".to_owned() } else { format!("deployment {id}") };
        return match &deployment.status {
            Status::Running | Status::Halting { .. } | Status::Cancelling { .. } => None,
            Status::Succeeded if deployment.cause.is_job() => {
                let done = tenant.done_by_job(id).len();
                Some(Ok(job::outputs(id, done, deployment.counts.failed)))
            }
            Status::Succeeded => {
                let outputs = [("deployment", id.to_string()), ("release", deployment.release.to_string())];
                let mut outputs: Outputs =
                    outputs.map(|(name, value)| (name.to_owned(), Value::from(value))).into();
                if matches!(deployment.cause, Cause::Rollback { .. }) {
                    outputs.extend(left_out(tenant, deployment));
                }
                Some(Ok(outputs))
            }
            // Its targets are not free before that is over.
            Status::Failed { .. } if is_being_taken_back(tenant, id) => None,
            Status::Failed { reason } => Some(Err((format!("{what} failed: {reason}"), Again::IfPlanned))),
            Status::Cancelled { reason } => {
                Some(Err((format!("{what} was cancelled: {reason}"), Again::Never)))
            }
        };
    }
    let reason = match &tenant.promotions.get(&PromotionId(id.0))?.status {
        PromotionStatus::Pending | PromotionStatus::Started { .. } => return None,
        PromotionStatus::Rejected { hold, .. } => format!("the promotion was rejected: {}", hold.reason),
        PromotionStatus::Withdrawn { hold } => format!("the promotion was withdrawn: {}", hold.reason),
        // Nobody has said no: what is to be retried asks again.
        PromotionStatus::Expired { .. } => {
            return Some(Err(("the promotion has waited for too long".to_owned(), Again::IfPlanned)));
        }
        PromotionStatus::Invalidated { reason, .. } => {
            let reason = format!("the promotion is not valid any more: {reason}");
            return Some(Err((reason, Again::IfPlanned)));
        }
    };
    Some(Err((reason, Again::Never)))
}

/// Whether nothing of a deployment has begun: its promotion waits.
pub(super) fn is_only_asked_for(tenant: &TenantState, id: DeploymentId) -> bool {
    tenant.open_promotions.contains(&PromotionId(id.0))
}

/// How many of the touched targets a rollback has left without what was there before, and their names.
fn left_out(tenant: &TenantState, rollback: &Deployment) -> [(String, Value); 2] {
    let left = rollback.left.iter().filter(|it| !matches!(it.why, Why::Back { .. }));
    let name =
        |id: TargetId| tenant.targets.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string());
    let mut names: Vec<String> = left.map(|it| name(it.target)).collect();
    names.sort_unstable();
    let count = Value::from(names.len());
    names.truncate(LEFT_NAMED_MAX);
    [("left".to_owned(), count), ("left_targets".to_owned(), Value::from(names))]
}

fn is_being_taken_back(tenant: &TenantState, id: DeploymentId) -> bool {
    let mut active = tenant.active_deployments.iter().filter_map(|it| tenant.deployments.get(it));
    active.any(|it| matches!(it.cause, Cause::Rollback { of, .. } if of == id))
}

pub(super) fn wanted(
    tenant: &TenantState,
    run: &Run,
    deploy: &Deploy,
    id: DeploymentId,
    meter: &Meter,
) -> Result<NewDeployment, Rejection> {
    let variables = variables(run, meter);
    let fill = |field: &str, text: &str| {
        render(text, &variables).map_err(|problem| Rejection::invalid(field, problem))
    };
    let (place, what) = (fill("environment", &deploy.environment)?, fill("release", &deploy.release)?);
    let environment =
        environment(tenant, &place).ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, &place))?;
    let release = release(tenant, &what).ok_or_else(|| Rejection::not_found(ReleaseId::KIND, &what))?;
    let default = || tenant.environments.get(&environment)?.strategy.clone();
    Ok(NewDeployment {
        id,
        environment,
        release,
        strategy: deploy.strategy.clone().or_else(default).unwrap_or(Strategy::usual()),
        on_failure: deploy.on_target_failure,
        targets: chosen(tenant, environment, (&deploy.targets, &deploy.labels), &fill)?,
        timeout_ms: deploy.timeout.0,
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: deploy.replace_application,
        tolerate_failures: deploy.tolerate_failures,
        job: None,
    })
}

/// The targets that a step chooses by name or by labels, filled in; `None` if it does neither.
pub(super) fn chosen(
    tenant: &TenantState,
    environment: EnvironmentId,
    (names, labels): (&[String], &BTreeMap<String, String>),
    fill: &dyn Fn(&str, &str) -> Result<String, Rejection>,
) -> Result<Option<Vec<TargetId>>, Rejection> {
    if labels.is_empty() {
        return targets(tenant, environment, names, fill);
    }
    labelled(tenant, environment, labels, fill).map(Some)
}

/// The targets that a step names, filled in; `None` if it names none.
fn targets(
    tenant: &TenantState,
    environment: EnvironmentId,
    names: &[String],
    fill: &dyn Fn(&str, &str) -> Result<String, Rejection>,
) -> Result<Option<Vec<TargetId>>, Rejection> {
    let known = tenant.index.targets.get(&environment);
    let numbered = names.iter().enumerate();
    let found = numbered.map(|(at, text)| {
        let name = fill(&format!("targets[{at}]"), text)?;
        let id = name.parse::<Name>().ok().and_then(|name| known?.get(&name).copied());
        id.ok_or_else(|| Rejection::not_found(TargetId::KIND, name))
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    Ok((!found.is_empty()).then_some(found))
}

/// The targets that have a step's labels, filled in.
fn labelled(
    tenant: &TenantState,
    environment: EnvironmentId,
    labels: &BTreeMap<String, String>,
    fill: &dyn Fn(&str, &str) -> Result<String, Rejection>,
) -> Result<Vec<TargetId>, Rejection> {
    let filled =
        labels.iter().map(|(label, value)| Ok((label.clone(), fill(&format!("labels.{label}"), value)?)));
    let labels = filled.collect::<Result<BTreeMap<_, _>, Rejection>>()?;
    let found: Vec<TargetId> = tenant.targets_with(environment, &labels).map(|target| target.id).collect();
    if found.is_empty() {
        return Err(Rejection::invalid("labels", "no target there has all of these labels"));
    }
    Ok(found)
}

/// The environment of this id or name.
pub(super) fn environment(tenant: &TenantState, text: &str) -> Option<EnvironmentId> {
    let by_id = text.parse().ok().filter(|id| tenant.environments.contains_key(id));
    let by_name = || tenant.index.environments.get(&text.parse::<Name>().ok()?).copied();
    by_id.or_else(by_name)
}

/// The release of this id, or `application:version`.
pub(super) fn release(tenant: &TenantState, text: &str) -> Option<ReleaseId> {
    if let Some(id) = text.parse().ok().filter(|id| tenant.releases.contains_key(id)) {
        return Some(id);
    }
    let (application, version) = text.split_once(':')?;
    let versions = tenant.index.releases.get(&application.parse::<Name>().ok()?)?;
    versions.get(&version.parse::<Version>().ok()?).copied()
}
