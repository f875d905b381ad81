//! Whether a deployment could go back: known before it changes anything.

use stella_protocol::id::EnvironmentId;

use super::deployment::fills_in;
use super::transaction::Transaction;
use super::{group, hold};
use crate::colour::Leg;
use crate::command::{NewDeployment, Outcome};
use crate::environment::Environment;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::release::{Release, Step, StepAction};
use crate::target::Target;
use crate::tenant::TenantState;

/// How many targets a refusal names before it only counts them.
const NAMED_MAX: usize = 5;

/// Sets whether deployments to an environment must be able to go back on every target.
pub(super) fn set(tx: &mut Transaction<'_>, id: EnvironmentId, required: bool) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    if environment.requires_way_back != required {
        tx.emit(Fact::EnvironmentWayBackSet { id, required })?;
    }
    Ok(Outcome::Done)
}

/// Whether a deployment can go back on each of its targets, where its environment wants that and nobody waives it.
pub(super) fn is_there<'t>(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    new: &NewDeployment,
    targets: impl Iterator<Item = (&'t Target, &'t [Leg])>,
) -> Result<(), Rejection> {
    if !environment.requires_way_back || new.waive_way_back.is_some() {
        return Ok(());
    }
    let stuck = targets.filter_map(|(target, legs)| {
        let why = match new.strategy.groups() {
            Some(_) => group::no_way_back(tenant, environment, target, legs)?,
            None => missing(tenant, environment, release, target)?,
        };
        Some(format!("{} ({why})", target.name))
    });
    let stuck: Vec<String> = stuck.collect();
    if stuck.is_empty() {
        return Ok(());
    }
    let named = stuck[..stuck.len().min(NAMED_MAX)].join(", ");
    let more = match stuck.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let problem = format!(
        "it could not go back on {named}{more}, and environment {} wants that; leave these out, or waive it with a reason if you may",
        environment.name
    );
    Err(Rejection::Conflict { problem })
}

/// Why a target could not go back to what is there now, if it could not. What has the release already needs no way back.
pub(super) fn missing(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    target: &Target,
) -> Option<String> {
    let Some(current) = target.current else { return Some("nothing was deployed to it before".to_owned()) };
    if current == release.id {
        return None;
    }
    let Some(previous) = tenant.releases.get(&current) else { return Some("its release is gone".to_owned()) };
    if hold::is_usable(previous).is_err() {
        let why = previous.standing.hold().map_or("", |hold| hold.reason.as_str());
        return Some(format!("the release there is blocked ({why})"));
    }
    let steps: Vec<&Step> = previous.steps.iter().collect();
    if let Err(rejection) = fills_in(environment, previous, &target.as_it_was_brought(), target.live, &steps)
    {
        return Some(format!("its steps cannot be filled in any more: {rejection}"));
    }
    // A colour has folders of its own.
    if previous.has_colours() || release.has_colours() {
        return None;
    }
    dropped(previous, release).map(|component| {
        format!("the new release keeps only itself of component {component} on the host; let its step keep 2")
    })
}

/// A component of `previous` that bringing `release` would delete from the host: then going back would need the network.
fn dropped<'r>(previous: &'r Release, release: &Release) -> Option<&'r str> {
    let keeps = |name| {
        let artifacts = release.steps.iter().filter_map(|step| match &step.action {
            StepAction::Artifact { component, keep_releases } => Some((component, *keep_releases)),
            StepAction::Command { .. }
            | StepAction::CheckHttp { .. }
            | StepAction::CheckTcp { .. }
            | StepAction::CheckCommand { .. }
            | StepAction::Systemd { .. } => None,
        });
        artifacts.filter(|(component, _)| *component == name).map(|(_, keep)| keep).min()
    };
    let gone = previous.components.iter().find(|before| {
        let same = release.components.iter().any(|it| it.name == before.name && it.digest == before.digest);
        !same && keeps(&before.name).is_some_and(|keep| keep < 2)
    });
    gone.map(|component| component.name.as_str())
}
