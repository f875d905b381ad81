//! How a blue-green deployment goes from one stage to the next, and what becomes of the colours that are left idle.

use std::sync::Arc;

use stella_protocol::id::DeploymentId;

use super::deployment::{Opening, is_free, open};
use super::transaction::Transaction;
use super::{group, rollout};
use crate::agent::Connectivity;
use crate::colour::{Idle, Stage};
use crate::command::Outcome;
use crate::deployment::{Cause, Deployment, OnFailure, Progress, Strategy};
use crate::event::{Fact, PlannedTarget};
use crate::hold::PauseCause;
use crate::ids;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::strategy::BlueGreen;
use crate::target::Target;

/// A blue-green deployment needs something to switch.
pub(super) fn can_switch(strategy: &Strategy, release: &Release) -> Result<(), Rejection> {
    if strategy.blue_green().is_none() || release.has_colours() {
        return Ok(());
    }
    let problem = format!(
        "is blue_green, but release {}:{} has no step of the phase switch; give it one, or choose another strategy",
        release.application, release.version
    );
    Err(Rejection::invalid("strategy.type", problem))
}

/// Whether what was prepared is checked once more before the switch.
pub(super) fn checks_again(strategy: &Strategy) -> bool {
    strategy.blue_green().is_some_and(BlueGreen::warms_up)
}

/// Begins the next stage if every target is through this one; whether it has. It may hold for the warm-up first.
pub(super) fn next_stage(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<bool, Rejection> {
    let deployment = tx.deployment(id)?;
    if deployment.paused.is_some() || !deployment.is_stage_done() {
        return Ok(false);
    }
    if deployment.may_warm_up() {
        warm_up(tx, id)?;
        return Ok(false);
    }
    let next = deployment.targets.values().filter_map(|part| match part.progress {
        Progress::Ready { .. } if deployment.waits_for_traffic(part) => None,
        Progress::Ready { leg, .. } => Some(part.stage_of(leg.into())),
        Progress::Waiting => Some(part.stage_of(0)),
        Progress::Active { .. }
        | Progress::Succeeded { .. }
        | Progress::Failed { .. }
        | Progress::Skipped { .. }
        | Progress::Abandoned { .. } => None,
    });
    let stage = next.min().unwrap_or(Stage::Switch);
    if stage == Stage::Switch && !group::may_switch(tx, id)? {
        return Ok(false);
    }
    tx.emit(Fact::DeploymentStageBegan { id, stage })?;
    Ok(true)
}

fn warm_up(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let warm_up_ms = deployment.strategy.blue_green().and_then(|how| how.warm_up_ms);
    let (ready, all) = (deployment.counts.ready, deployment.counts.total());
    let total = all - u32::try_from(deployment.leading().count()).unwrap_or_default();
    let reason = match warm_up_ms {
        Some(_) => format!("{ready} of {total} targets are prepared and warm up"),
        None => format!("{ready} of {total} targets are prepared; resume it to switch them"),
    };
    let (until, cause) = (warm_up_ms.map(|warm_up_ms| tx.now.plus_ms(warm_up_ms)), PauseCause::WarmUp);
    tx.emit(Fact::DeploymentPaused { id, reason, until, canary_step: None, cause })
}

/// Goes on with the target whose turn it is. If that is its end, what follows is left to the caller.
pub(super) fn go_on(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    leg: u16,
) -> Result<Option<rollout::Next>, Rejection> {
    let deployment = tx.deployment(id)?;
    let Some(target) = deployment.next_waiting() else { return Ok(None) };
    let Some(part) = deployment.targets.get(&target).map(Arc::clone) else { return Ok(None) };
    let step = tx.tenant.first_step_of(&part, leg.into());
    tx.emit(Fact::TargetWentOn { deployment: id, target })?;
    rollout::try_queue(tx, id, target, step)
}

/// The time is over for which what a deployment has left idle is kept. An agent that is away keeps it until the next deployment.
pub(super) fn keep_ended(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    tx.emit(Fact::DeploymentKeepEnded { id })?;
    let deployment = tx.deployment(id)?.clone();
    let mut targets = left_idle(tx, &deployment, |_| false);
    targets.retain(|planned| {
        let target = tx.tenant.targets.get(&planned.target);
        let agent = target.and_then(|target| tx.tenant.agents.get(&target.agent));
        agent.is_some_and(|agent| matches!(agent.connectivity, Connectivity::Online { .. }))
    });
    if targets.is_empty() {
        return Ok(());
    }
    open(tx, opening(&deployment, ids::retirement(id, tx.now), targets))
}

/// Ends what a deployment has left idle, because a person wants it.
pub(super) fn retire(
    tx: &mut Transaction<'_>,
    id: DeploymentId,
    of: DeploymentId,
) -> Result<Outcome, Rejection> {
    if tx.tenant.deployments.contains_key(&id) {
        return Err(Rejection::exists(DeploymentId::KIND, id));
    }
    let deployment = tx.deployment(of)?.clone();
    if !deployment.status.is_final() {
        let problem = format!("deployment {of} has not ended; what it leaves idle is retired afterwards");
        return Err(Rejection::conflict(problem));
    }
    // Also what has taken it back has left its colours idle.
    let takes_it_back = |by| {
        let cause = tx.tenant.deployments.get(&by).map(|it| &it.cause);
        matches!(cause, Some(Cause::Rollback { of: it, .. }) if *it == of)
    };
    let targets = left_idle(tx, &deployment, takes_it_back);
    if targets.is_empty() {
        let problem = format!(
            "deployment {of} has left nothing idle that could be retired now: no colour, or a target is busy"
        );
        return Err(Rejection::conflict(problem));
    }
    open(tx, opening(&deployment, id, targets))?;
    Ok(Outcome::Deployment(id))
}

fn opening(of: &Deployment, id: DeploymentId, targets: Vec<PlannedTarget>) -> Opening {
    Opening {
        id,
        environment: of.environment,
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::Stop,
        tolerate_failures: None,
        cause: Cause::Retirement { of: of.id },
        targets,
        left: Vec::new(),
        timeout_ms: of.timeout_ms(),
        verification: None,
    }
}

/// The colours that a deployment has left idle and that can be ended now; those of what it took back, too.
fn left_idle(
    tx: &Transaction<'_>,
    of: &Deployment,
    also: impl Fn(DeploymentId) -> bool,
) -> Vec<PlannedTarget> {
    let taken_back = match of.cause {
        Cause::Rollback { of, .. } => Some(of),
        Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. } => None,
    };
    let is_its_own = |idle: &Idle| idle.by == of.id || Some(idle.by) == taken_back || also(idle.by);
    // What two groups have left idle is not on the targets that the deployment went to.
    let groups = of.strategy.groups().or_else(|| {
        taken_back.and_then(|of| tx.tenant.deployments.get(&of)).and_then(|of| of.strategy.groups())
    });
    let live = match groups.map(|groups| tx.tenant.live_group(of.environment, groups)) {
        Some(Err(_)) => return Vec::new(),
        Some(Ok(live)) => live,
        None => None,
    };
    let everywhere = std::collections::BTreeMap::new();
    let places: Vec<&Target> = match groups {
        Some(_) => tx.tenant.targets_with(of.environment, &everywhere).collect(),
        None => {
            of.order.iter().filter_map(|target| tx.tenant.targets.get(target)).map(AsRef::as_ref).collect()
        }
    };
    let has_no_traffic = |idle: &Idle| groups.is_none() || Some(idle.colour) != live;
    let places = places.into_iter().filter(|it| groups.is_none() || it.is_member());
    let idle =
        places.filter_map(|target| Some((target, target.idle.filter(is_its_own).filter(has_no_traffic)?)));
    idle.filter(|(target, idle)| is_unused(tx, target, *idle))
        .map(|(target, idle)| PlannedTarget {
            target: target.id,
            release: idle.release,
            previous: None,
            domain: None,
            legs: vec![idle.retirement()],
        })
        .collect()
}

/// Whether nothing leads there, and nothing goes on at the target. After a switch that was left halfway the traffic may be there.
fn is_unused(tx: &Transaction<'_>, target: &Target, idle: Idle) -> bool {
    !target.is_torn && is_free(&tx.tenant, target).is_ok() && tx.tenant.can_retire(idle)
}
