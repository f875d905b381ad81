//! Deployments to two groups of targets: which targets they go to, and how they end and go back.

use std::collections::BTreeSet;
use std::sync::Arc;

use stella_protocol::id::{DeploymentId, ReleaseId, TargetId};

use super::deployment::{Routed, fills_in};
use super::transaction::Transaction;
use super::{fields, hold, rollout};
use crate::amount::Amount;
use crate::colour::{self, Colour, Leg, Steps};
use crate::command::NewDeployment;
use crate::deployment::{Cause, Deployment, Progress, Strategy};
use crate::environment::Environment;
use crate::event::{Fact, PlannedTarget};
use crate::group::{Doubt, Part};
use crate::left::{LeftOut, Why};
use crate::rejection::Rejection;
use crate::release::{Release, Step};
use crate::render;
use crate::strategy::{BlueGreen, Groups};
use crate::target::Target;
use crate::tenant::TenantState;

/// Whether the values are such as they can be, whatever the targets are.
pub(super) fn is_well_formed(how: &BlueGreen, groups: &Groups) -> Result<(), Rejection> {
    fields::label_name("strategy.groups.label", &groups.label)?;
    if groups.switch.is_empty() {
        let problem = "is empty; give the labels of the targets that lead the traffic";
        return Err(Rejection::invalid("strategy.groups.switch", problem));
    }
    for label in groups.switch.keys() {
        fields::label_name("strategy.groups.switch", label)?;
        if *label == groups.label {
            let problem = format!(
                "has the label {label}, which says what group a target is in; what leads the traffic is in none"
            );
            return Err(Rejection::invalid("strategy.groups.switch", problem));
        }
    }
    if let Some(Amount::Percent(percent)) = how.batch {
        let problem = format!("is {percent}%; with groups give a count of the targets that lead the traffic");
        return Err(Rejection::invalid("strategy.batch", problem));
    }
    Ok(())
}

/// The targets that a deployment goes to, in the order in which they are started, and what is run on each: the group without
/// traffic, then all that lead it.
pub(super) fn arranged(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    new: &NewDeployment,
    groups: &Groups,
) -> Result<Vec<Routed>, Rejection> {
    if new.targets.is_some() {
        let problem = "a group gets the release as a whole; choose no targets, and skip what must be left alone with a reason";
        return Err(Rejection::invalid("targets", problem));
    }
    belong_somewhere(tenant, environment, groups)?;
    let live = tenant.live_group(environment.id, groups).map_err(|doubt| in_doubt(tenant, &doubt))?;
    let colour = live.map_or(Colour::Blue, Colour::other);
    let checks = super::colour::checks_again(&new.strategy);
    let members = tenant.members(environment.id, groups, colour);
    let mut found: Vec<_> = members
        .map(|target| (Arc::clone(target), tenant.way_into_group(target, release, colour, checks)))
        .collect();
    let members = u32::try_from(found.len()).unwrap_or(u32::MAX);
    tolerates_less_than(new, members)?;
    let switch = Leg { release: release.id, colour: Some(colour), steps: Steps::Switch };
    let leaders = tenant.leaders(environment.id, groups);
    found.extend(leaders.map(|target| (Arc::clone(target), vec![switch])));
    for (target, legs) in &found {
        fills_in_parts(environment, release, target, legs)?;
    }
    Ok(found)
}

fn tolerates_less_than(new: &NewDeployment, members: u32) -> Result<(), Rejection> {
    let Some(amount) = new.tolerate_failures else { return Ok(()) };
    if amount.at_most(members) >= members {
        let problem = format!(
            "is {amount}, and the group has {members} targets: the traffic would be led to it although all have failed"
        );
        return Err(Rejection::invalid("tolerate_failures", problem));
    }
    Ok(())
}

/// Whether each target is in one group or leads the traffic, and there are such and such.
fn belong_somewhere(
    tenant: &TenantState,
    environment: &Environment,
    groups: &Groups,
) -> Result<(), Rejection> {
    let (name, label) = (&environment.name, &groups.label);
    let wanted: Vec<String> = groups.switch.iter().map(|(label, value)| format!("{label}={value}")).collect();
    let wanted = wanted.join(",");
    let everywhere = std::collections::BTreeMap::new();
    for target in tenant.targets_with(environment.id, &everywhere) {
        let field = || format!("targets[{}].labels.{label}", target.name);
        match (target.labels.get(label), groups.group_of(target), groups.leads(target)) {
            (Some(_), _, true) => {
                let problem = format!(
                    "is there, and the target leads the traffic ({wanted}); it cannot be in a group too"
                );
                return Err(Rejection::invalid(field(), problem));
            }
            (None, _, false) => {
                let problem = format!(
                    "is missing: the target is in no group, and does not lead the traffic ({wanted})"
                );
                return Err(Rejection::invalid(field(), problem));
            }
            (Some(value), None, false) => {
                let problem = format!("is {value}; the groups are blue and green");
                return Err(Rejection::invalid(field(), problem));
            }
            (Some(_), Some(_), false) | (None, _, true) => {}
        }
    }
    if tenant.leaders(environment.id, groups).next().is_none() {
        let problem = format!(
            "no target of environment {name} has the labels {wanted}: nothing would lead the traffic"
        );
        return Err(Rejection::invalid("strategy.groups.switch", problem));
    }
    for colour in [Colour::Blue, Colour::Green] {
        if tenant.members(environment.id, groups, colour).next().is_none() {
            let problem = format!(
                "no target of environment {name} has {label}={}; there must be two groups",
                colour.name()
            );
            return Err(Rejection::invalid("strategy.groups.label", problem));
        }
    }
    Ok(())
}

fn in_doubt(tenant: &TenantState, doubt: &Doubt<'_>) -> Rejection {
    let back = |target: &Target| {
        let last = target.last.and_then(|last| tenant.deployments.get(&last));
        let of = last.map(|last| match last.cause {
            Cause::Rollback { of, .. } => of,
            Cause::Requested | Cause::Retirement { .. } | Cause::Job { .. } => last.id,
        });
        of.map_or_else(|| "roll that back first".to_owned(), |of| format!("roll deployment {of} back first"))
    };
    let problem = match doubt {
        Doubt::Torn(target) => format!(
            "nobody knows which group is live: the switch of target {} was left halfway; {}",
            target.name,
            back(target)
        ),
        Doubt::Both(blue, green) => {
            let newer = if blue.generation > green.generation { blue } else { green };
            format!(
                "both groups are live: target {} leads to blue and target {} to green; {}",
                blue.name,
                green.name,
                back(newer)
            )
        }
    };
    Rejection::invalid("strategy.groups.live", problem)
}

/// Whether the steps that are run on a target can be filled in there: each part has only its own.
fn fills_in_parts(
    environment: &Environment,
    release: &Release,
    target: &Target,
    legs: &[Leg],
) -> Result<(), Rejection> {
    let colour = legs.last().and_then(|leg| leg.colour);
    let phases: &[Steps] = match Part::of(legs) {
        Part::Member => &[Steps::Prepare, Steps::Retire],
        Part::Switch => &[Steps::Switch],
    };
    let steps = phases.iter().flat_map(|which| colour::steps(release, *which));
    let varying: Vec<&Step> = steps.filter(|step| render::references(step) > 0).collect();
    fills_in(environment, release, target, colour, &varying)
}

/// Whether a deployment that knows nothing of groups leaves them alone: one with colours would lead traffic by itself on each target.
pub(super) fn are_left_alone(
    strategy: &Strategy,
    release: &Release,
    targets: &[Arc<Target>],
) -> Result<(), Rejection> {
    if strategy.groups().is_some() || !release.has_colours() {
        return Ok(());
    }
    let Some(target) = targets.iter().find(|target| target.part.is_some()) else { return Ok(()) };
    let problem = format!(
        "is missing, and target {} is part of two groups that a deployment before went to; give them, or remove the target and create it anew",
        target.name
    );
    Err(Rejection::invalid("strategy.groups", problem))
}

/// Why a target of a deployment to groups could not go back, if it could not. The group that is live stays as it is, so that only
/// what leads the traffic has to.
pub(super) fn no_way_back(
    tenant: &TenantState,
    environment: &Environment,
    target: &Target,
    legs: &[Leg],
) -> Option<String> {
    if Part::of(legs) == Part::Member {
        return None;
    }
    let Some(current) = target.current else {
        return Some("no traffic was led from it before".to_owned());
    };
    let Some(previous) = tenant.releases.get(&current) else { return Some("its release is gone".to_owned()) };
    if hold::is_usable(previous).is_err() {
        let why = previous.standing.hold().map_or("", |hold| hold.reason.as_str());
        return Some(format!("the release there is blocked ({why})"));
    }
    let steps: Vec<&Step> = colour::steps(previous, Steps::Switch).collect();
    fills_in(environment, previous, &target.as_it_was_brought(), target.live, &steps)
        .err()
        .map(|rejection| format!("its switch cannot be filled in any more: {rejection}"))
}

/// Whether the traffic may be led to the group now; the deployment is halted if there is nothing that could take it.
pub(super) fn may_switch(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<bool, Rejection> {
    let deployment = tx.deployment(id)?;
    if tx.tenant.has_somewhere_to_lead(deployment) {
        return Ok(true);
    }
    let colour = deployment.leads_to().map_or("", Colour::name);
    rollout::halt(tx, id, &format!("no target of the group {colour} is prepared, so nothing was switched"))?;
    Ok(false)
}

/// Once all that leads the traffic has been switched, the group has the release.
pub(super) fn settle(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    if !deployment.is_settled() || !matches!(deployment.status, crate::deployment::Status::Running) {
        return Ok(());
    }
    if !deployment.leading().any(|part| matches!(part.progress, Progress::Succeeded { .. })) {
        return rollout::halt(tx, id, "no target that leads the traffic was switched");
    }
    let parts = deployment.order.iter().filter_map(|target| deployment.targets.get(target));
    let members: Vec<_> =
        parts.filter(|part| deployment.waits_for_traffic(part)).map(|part| part.target).collect();
    for target in members {
        tx.emit(Fact::TargetSucceeded { deployment: id, target })?;
    }
    Ok(())
}

/// Has what led nowhere before a deployment, and leads to its group now or halfway, lead where all others go back to: left as it is, it
/// would send traffic to a group that counts as idle.
pub(super) fn lead_along(
    tx: &Transaction<'_>,
    of: &Deployment,
    (planned, left): (&mut Vec<PlannedTarget>, &mut Vec<LeftOut>),
) {
    let ways = planned.iter().filter_map(|it| Some((it.release, it.legs.last()?.colour?)));
    let ways: BTreeSet<(ReleaseId, Colour)> = ways.filter(|_| of.strategy.groups().is_some()).collect();
    let (Some(&(release, colour)), 1) = (ways.first(), ways.len()) else { return };
    let led_nowhere = |target| of.leading().any(|part| part.target == target && part.previous.is_none());
    for it in std::mem::take(left) {
        if it.why != Why::NoEarlier || !led_nowhere(it.target) {
            left.push(it);
            continue;
        }
        match led_back(tx, of, it.target, (release, colour)) {
            Ok(part) => planned.push(part),
            Err(why) => left.push(LeftOut { why, ..it }),
        }
    }
}

/// What leads a target to a group, or why nothing can.
fn led_back(
    tx: &Transaction<'_>,
    of: &Deployment,
    target: TargetId,
    (release, colour): (ReleaseId, Colour),
) -> Result<PlannedTarget, Why> {
    let tenant = &tx.tenant;
    let place = tenant.targets.get(&target).ok_or(Why::NoEarlier)?;
    if let Some(why) = not_free(tenant, place) {
        return Err(why);
    }
    let leg = Leg { release, colour: Some(colour), steps: Steps::Switch };
    let there = tenant.releases.get(&release).zip(tenant.environments.get(&of.environment));
    let fills_in = there.is_some_and(|(release, environment)| {
        let steps: Vec<&Step> = colour::steps(release, Steps::Switch).collect();
        fills_in(environment, release, place, Some(colour), &steps).is_ok()
    });
    if !fills_in {
        return Err(Why::NotFilledIn { release });
    }
    Ok(PlannedTarget { target, release, previous: place.current, domain: None, legs: vec![leg] })
}

/// The targets of groups that have to be prepared anew before the traffic is led back, and those that cannot be.
pub(super) fn to_prepare(
    tx: &Transaction<'_>,
    of: &Deployment,
    leaders: &[PlannedTarget],
) -> (Vec<PlannedTarget>, Vec<LeftOut>) {
    let (mut planned, mut busy) = (Vec::new(), Vec::new());
    let Some(groups) = of.strategy.groups() else { return (planned, busy) };
    let ways = leaders.iter().filter_map(|it| Some((it.release, it.legs.last()?.colour?)));
    for (release, colour) in ways.collect::<BTreeSet<(ReleaseId, Colour)>>() {
        let Some(previous) = tx.tenant.releases.get(&release) else { continue };
        let members: Vec<_> = tx.tenant.members(of.environment, groups, colour).collect();
        let any_is_kept = members.iter().any(|it| it.can_take(release, colour));
        for target in members {
            // As long as the group is kept, the way back does not wait for who never had the release, or failed to get it.
            let never_had_it =
                target.last_visit().is_none() || target.idle.is_some_and(|idle| idle.release == release);
            if target.can_take(release, colour) || (any_is_kept && never_had_it) {
                continue;
            }
            if let Some(why) = not_free(&tx.tenant, target) {
                busy.push(LeftOut { target: target.id, why });
                continue;
            }
            planned.push(PlannedTarget {
                target: target.id,
                release,
                previous: None,
                domain: None,
                legs: tx.tenant.way_into_group(target, previous, colour, false),
            });
        }
    }
    (planned, busy)
}

/// Why a target of a group cannot be prepared now, if it cannot.
fn not_free(tenant: &TenantState, target: &Target) -> Option<Why> {
    let is_revoked = tenant.agents.get(&target.agent).is_none_or(|agent| agent.revoked.is_some());
    let busy = target.active.map(|by| Why::Busy { by });
    let quarantined = target.blocked_by.map(|task| Why::Quarantined { task });
    busy.or(quarantined).or_else(|| is_revoked.then_some(Why::Revoked { agent: target.agent }))
}

/// How the traffic is led back: at once where the group is kept, otherwise when it is prepared again.
pub(super) fn strategy_back(of: &Deployment) -> Strategy {
    let Some(how) = of.strategy.blue_green() else { return Strategy::AllAtOnce };
    let Some(groups) = how.groups.clone() else { return Strategy::AllAtOnce };
    let how = BlueGreen { keep_ms: how.keep_ms, groups: Some(groups), ..BlueGreen::default() };
    Strategy::BlueGreen(how)
}
