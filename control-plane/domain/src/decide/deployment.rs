//! Deployments: how they begin, and how a person ends them.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, ReleaseId, TargetId};
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{
    artifact, channel, colour, drain, fields, group, hold, job, path, put_off, rollout, signature, strategy,
    way_back,
};
use crate::amount::Amount;
use crate::colour::{Colour, Leg, Steps};
use crate::command::{NewDeployment, Outcome};
use crate::deployment::{Cause, Deployment, OnFailure, Status, Strategy, TARGETS_MAX, TIMEOUT_MS_RANGE};
use crate::environment::{Environment, Verification};
use crate::event::{Fact, PlannedTarget};
use crate::group::Part;
use crate::left::LeftOut;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::release::{Release, Step};
use crate::render::{self, Names, RenderError};
use crate::target::Target;
use crate::template::TemplateError;
use crate::tenant::TenantState;

/// A deployment that makes sense: whether it may start now is another question.
pub(super) struct Prepared {
    pub(super) environment: Arc<Environment>,
    pub(super) release: Arc<Release>,
    pub(super) strategy: Strategy,
    /// In the order in which they are started.
    pub(super) targets: Vec<Arc<Target>>,
    /// What is run on each of them.
    pub(super) legs: Vec<Vec<Leg>>,
    /// Whether it leaves what is there as it is.
    pub(super) is_job: bool,
}

/// A target, and what is run on it.
pub(super) type Routed = (Arc<Target>, Vec<Leg>);

impl Prepared {
    /// What it brings to each target, and what is there before.
    pub(super) fn planned(&self) -> Vec<PlannedTarget> {
        let release = self.release.id;
        let label = self.strategy.order().map(|order| order.label.as_str());
        // What is in a group without traffic is not gone back to.
        let stays = |legs: &[Leg]| {
            self.is_job || (self.strategy.groups().is_some() && Part::of(legs) == Part::Member)
        };
        let planned = |(target, legs): (&Arc<Target>, &Vec<Leg>)| PlannedTarget {
            target: target.id,
            release,
            previous: target.current.filter(|_| !stays(legs)),
            domain: label.and_then(|label| target.labels.get(label)).cloned(),
            legs: legs.clone(),
        };
        self.targets.iter().zip(&self.legs).map(planned).collect()
    }
}

/// Checks what does not pass with time: that all is there, that the release may come here, and that each step can be filled in.
pub(super) fn prepare(
    tenant: &TenantState,
    new: &NewDeployment,
    now: Timestamp,
) -> Result<Prepared, Rejection> {
    let environment = tenant.environments.get(&new.environment).map(Arc::clone);
    let environment =
        environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, new.environment))?;
    let release = brought(tenant, new, now)?;
    if new.job.is_some() {
        job::may_run(tenant, &environment, &release)?;
    } else {
        may_come(tenant, (&environment, &release), new, now)?;
        artifact::are_there(tenant, &release)?;
    }
    strategy::is_well_formed(&new.strategy)?;
    colour::can_switch(&new.strategy, &release)?;
    fields::range("timeout_ms", new.timeout_ms, TIMEOUT_MS_RANGE, " (a second to a week)")?;
    let found = match new.strategy.groups() {
        Some(groups) => group::arranged(tenant, &environment, &release, new, groups)?,
        None => each_by_itself(tenant, &environment, &release, new)?,
    };
    if found.len() > TARGETS_MAX {
        return Err(too_many());
    }
    let (targets, legs): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    if new.job.is_none() && !new.replace_application {
        targets.iter().try_for_each(|target| keeps_its_application(tenant, target, &release))?;
    }
    let at_risk_max = tenant.at_risk_max(environment.id);
    strategy::can_be_met(&new.strategy, new.tolerate_failures, targets.len(), at_risk_max)?;
    targets.iter().try_for_each(|target| is_served(tenant, target))?;
    if new.job.is_none() {
        let there = targets.iter().map(AsRef::as_ref).zip(legs.iter().map(Vec::as_slice));
        way_back::is_there(tenant, &environment, &release, new, there)?;
    }
    let (strategy, is_job) = (new.strategy.clone(), new.job.is_some());
    Ok(Prepared { environment, release, strategy, targets, legs, is_job })
}

/// The targets in their order, and what is run on each, where none needs another one.
fn each_by_itself(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    new: &NewDeployment,
) -> Result<Vec<Routed>, Rejection> {
    let targets = strategy::arranged(&new.strategy, chosen(tenant, new, environment)?)?;
    if new.job.is_none() {
        group::are_left_alone(&new.strategy, release, &targets)?;
    }
    // Only steps that refer to something can differ between targets; the others were checked with the release.
    let varying: Vec<&Step> = release.steps.iter().filter(|step| render::references(step) > 0).collect();
    let checks = colour::checks_again(&new.strategy);
    let mut ways = Vec::with_capacity(targets.len());
    for target in targets {
        let legs = match &new.job {
            Some(_) => in_place(&target, release),
            None => tenant.way_there(&target, release, checks),
        };
        let colour = legs.last().and_then(|leg| leg.colour);
        fills_in(environment, release, &target, colour, &varying)?;
        ways.push((target, legs));
    }
    Ok(ways)
}

fn too_many() -> Rejection {
    let problem = format!("there are more than {TARGETS_MAX}; deploy to a part of them at a time");
    Rejection::invalid("targets", problem)
}

/// What is run on the targets: a release, or what a job has of its own.
fn brought(tenant: &TenantState, new: &NewDeployment, now: Timestamp) -> Result<Arc<Release>, Rejection> {
    if let Some(own) = new.job.as_ref().and_then(|job| job.release(new.id, now)) {
        return Ok(Arc::new(own));
    }
    let release = tenant.releases.get(&new.release).map(Arc::clone);
    release.ok_or_else(|| Rejection::not_found(ReleaseId::KIND, new.release))
}

/// Whether a release may come to an environment.
fn may_come(
    tenant: &TenantState,
    (environment, release): (&Environment, &Release),
    new: &NewDeployment,
    now: Timestamp,
) -> Result<(), Rejection> {
    hold::is_usable(release)?;
    signature::is_signed(tenant, release)?;
    channel::is_taken(environment, release)?;
    if new.override_path.is_some() {
        return Ok(());
    }
    path::is_reached(tenant, environment, release, now)
}

/// A target has one application. Another one would take its place without a word, and nobody would look after the first any more.
fn keeps_its_application(tenant: &TenantState, target: &Target, release: &Release) -> Result<(), Rejection> {
    let there = target.current.and_then(|there| tenant.releases.get(&there));
    let Some(there) = there.filter(|there| there.application != release.application) else { return Ok(()) };
    Err(Rejection::conflict(format!(
        "target {} has {}:{}, and {} is another application: choose targets that are for it, by their names or labels (each \
         application of a host has a target and a slot of its own), or say that it replaces the one that is there",
        target.name, there.application, there.version, release.application
    )))
}

/// What a job runs on a target: for the colour that is live there, if one is.
fn in_place(target: &Target, release: &Release) -> Vec<Leg> {
    let leg = |colour| Leg { release: release.id, colour: Some(colour), steps: Steps::All };
    target.live.map(leg).into_iter().collect()
}

/// A checked plan.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) id: DeploymentId,
    pub(super) environment: EnvironmentId,
    pub(super) strategy: Strategy,
    pub(super) on_failure: OnFailure,
    pub(super) tolerate_failures: Option<Amount>,
    pub(super) cause: Cause,
    pub(super) targets: Vec<PlannedTarget>,
    /// If it takes another one back: what of that it leaves as it is.
    pub(super) left: Vec<LeftOut>,
    pub(super) timeout_ms: u64,
    /// What comes after the last wave.
    pub(super) verification: Option<Verification>,
}

/// Creates the deployment and starts what may start at once.
pub(super) fn open(tx: &mut Transaction<'_>, opening: Opening) -> Result<(), Rejection> {
    let Opening { id, environment, strategy, on_failure, tolerate_failures, cause, targets, .. } = opening;
    let Some(release) = targets.first().map(|first| first.release) else {
        return Err(Rejection::invalid("targets", "there is none"));
    };
    let deadline = tx.now.plus_ms(opening.timeout_ms);
    tx.emit(Fact::DeploymentCreated {
        id,
        environment,
        release,
        strategy,
        on_failure,
        cause,
        targets,
        deadline,
        tolerate_failures,
        verification: opening.verification,
        left: opening.left,
    })?;
    drain::leave_out(tx, id)?;
    put_off::advance(tx, id)
}

/// The wanted targets in the order of their names.
fn chosen(
    tenant: &TenantState,
    new: &NewDeployment,
    environment: &Environment,
) -> Result<Vec<Arc<Target>>, Rejection> {
    let mut targets = Vec::new();
    match &new.targets {
        None => targets.extend(tenant.meant_by(new).into_iter().cloned()),
        Some(ids) => {
            let mut seen = BTreeSet::new();
            for (index, id) in ids.iter().enumerate().take(TARGETS_MAX + 1) {
                let target =
                    tenant.targets.get(id).ok_or_else(|| Rejection::not_found(TargetId::KIND, id))?;
                if target.environment != environment.id {
                    let problem = format!("{} is not in environment {}", target.name, environment.name);
                    return Err(Rejection::invalid(format!("targets[{index}]"), problem));
                }
                if !seen.insert(TargetId::clone(id)) {
                    return Err(Rejection::invalid(
                        format!("targets[{index}]"),
                        format!("{} is there twice", target.name),
                    ));
                }
                targets.push(Arc::clone(target));
            }
            targets.sort_by(|one, other| one.name.cmp(&other.name));
        }
    }
    if targets.is_empty() {
        let problem =
            format!("environment {} has none, or none was chosen; create one first", environment.name);
        return Err(Rejection::invalid("targets", problem));
    }
    if targets.len() > TARGETS_MAX {
        return Err(too_many());
    }
    Ok(targets)
}

/// Whether a new deployment may take the target.
pub(super) fn is_free(tenant: &TenantState, target: &Target) -> Result<(), Rejection> {
    is_idle(target)?;
    is_served(tenant, target)
}

/// Whether a new deployment may come to the target now: nothing is going on there, and what is there has come to the end of its deployment,
/// which would be judged by what takes its place. A job leaves what is there as it is.
pub(super) fn is_open_to(
    tenant: &TenantState,
    new: &NewDeployment,
    target: &Target,
) -> Result<(), Rejection> {
    is_idle(target)?;
    match tenant.proving_on(target).filter(|_| new.job.is_none()) {
        None => Ok(()),
        Some(first) => Err(proves_itself(tenant, first, &target.name)),
    }
}

/// That a release proves itself on a target, and how something else comes there all the same.
fn proves_itself(tenant: &TenantState, first: &Deployment, target: &Name) -> Rejection {
    let id = first.id;
    let release = tenant.releases.get(&first.release);
    let release =
        release.map_or_else(|| "a release".to_owned(), |it| format!("{}:{}", it.application, it.version));
    let state = first
        .paused
        .as_ref()
        .map_or_else(|| first.status.name().to_owned(), |it| format!("paused: {}", it.reason));
    let way_on = match first.status {
        Status::Running => format!(
            "wait for its end; or end it and deploy again: stella deployment cancel {id} --reason R leaves on the targets what is there, \
             stella deployment fail {id} --rollback --reason R takes it back first"
        ),
        Status::Halting { .. }
        | Status::Cancelling { .. }
        | Status::Succeeded
        | Status::Failed { .. }
        | Status::Cancelled { .. } => "it is about to end; wait for that".to_owned(),
    };
    Rejection::conflict(format!(
        "deployment {id} has brought {release} to target {target} and has not ended ({state}): it would be judged by what comes there now; \
         {way_on}"
    ))
}

/// Whether nothing is going on at the target.
pub(super) fn is_idle(target: &Target) -> Result<(), Rejection> {
    let name = &target.name;
    if let Some(other) = target.active {
        let problem = format!("deployment {other} works on target {name}; wait for its end or cancel it");
        return Err(Rejection::Conflict { problem });
    }
    if let Some(task) = target.blocked_by {
        let problem =
            format!("quarantined: nobody knows what became of task {task} on target {name}; settle it first");
        return Err(Rejection::Conflict { problem });
    }
    Ok(())
}

/// Whether the target's agent is still believed.
fn is_served(tenant: &TenantState, target: &Target) -> Result<(), Rejection> {
    let agent = tenant.agents.get(&target.agent);
    let agent = agent.ok_or_else(|| Rejection::not_found(AgentId::KIND, target.agent))?;
    if agent.revoked.is_some() {
        let problem = format!(
            "agent {} of target {} was revoked; remove the target, or leave it out of the deployment",
            agent.name, target.name
        );
        return Err(Rejection::Conflict { problem });
    }
    Ok(())
}

/// Whether every step can be filled in for the target: better to know before anything was started.
pub(super) fn fills_in(
    environment: &Environment,
    release: &Release,
    target: &Target,
    colour: Option<Colour>,
    steps: &[&Step],
) -> Result<(), Rejection> {
    let names = Names::new(environment.name.as_str(), release, target, colour, &target.variables);
    for step in steps {
        if let Err(error) = render::on_target(release, step, &names) {
            let (step, target) = (&step.name, &target.name);
            let (field, problem) = if let RenderError::Template(TemplateError::Missing { name }) = &error {
                let remedy = format!("set it on the target, or give it a default: ${{{name}:...}}");
                (
                    format!("targets[{target}].variables.{name}"),
                    format!("step {step} needs ${{{name}}}; {remedy}"),
                )
            } else {
                (format!("targets[{target}].steps[{step}]"), error.to_string())
            };
            return Err(Rejection::Invalid { field, problem });
        }
    }
    Ok(())
}

pub(super) fn cancel(tx: &mut Transaction<'_>, id: DeploymentId, reason: &str) -> Result<Outcome, Rejection> {
    fields::reason(reason)?;
    let deployment: &Deployment = tx.deployment(id)?;
    match &deployment.status {
        Status::Cancelling { .. } => return Ok(Outcome::Done),
        status @ (Status::Succeeded | Status::Failed { .. } | Status::Cancelled { .. }) => {
            let problem = format!("deployment {id} has {} already; roll it back to undo it", status.name());
            return Err(Rejection::Conflict { problem });
        }
        Status::Running | Status::Halting { .. } => {}
    }
    tx.emit(Fact::DeploymentCancelRequested { id, reason: reason.to_owned() })?;
    if !put_off::put_off(tx, id)? {
        rollout::end_what_is_open(tx, id)?;
    }
    Ok(Outcome::Done)
}
