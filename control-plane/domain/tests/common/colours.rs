//! Releases with colours, and the invariants about them: INV-18 to INV-20.

use std::collections::{BTreeMap, BTreeSet};

use stella_domain::colour::{Colour, Stage, Steps};
use stella_domain::command::{NewRelease, NewTarget};
use stella_domain::deployment::{Cause, Deployment, Progress, Status};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::group::Part;
use stella_domain::release::{Phase, Step, StepAction};
use stella_domain::state::State;
use stella_domain::strategy::{BlueGreen, Groups, Strategy};
use stella_domain::target::Target;
use stella_domain::task::TaskState;
use stella_domain::tenant::TenantState;

use super::{TENANT, name, new_release, release};

/// Version `n` with an artifact and a check that prepare, a command that switches with a check after it, and one that retires.
pub fn new_coloured(n: u8) -> NewRelease {
    let plain = new_release(n);
    let step = |named: &str, phase, text: &str| {
        let argv = vec![named.to_owned(), text.to_owned()];
        let (environment, working_directory, user) = (BTreeMap::new(), None, None);
        let action = StepAction::Command { argv, environment, working_directory, user };
        Step { name: name(named), action, timeout_ms: 30_000, phase }
    };
    let verify = Step { name: name("verify"), phase: Phase::Switch, ..plain.steps[1].clone() };
    let mut steps = plain.steps.clone();
    steps.extend([
        step("switch", Phase::Switch, "to ${colour} at ${port}"),
        verify,
        step("retire", Phase::Retire, "${colour} of ${version}"),
    ]);
    NewRelease { id: release(n.into()), steps, ..plain }
}

/// All of them prepared, so long to warm up, switched at once, and the old colour kept for so long.
pub fn blue_green(warm_up_ms: Option<u64>, keep_ms: Option<u64>) -> Strategy {
    Strategy::BlueGreen(BlueGreen { warm_up_ms, keep_ms, ..BlueGreen::default() })
}

/// The labels of two groups, and of what leads the traffic.
pub fn groups(live: Option<Colour>) -> Groups {
    let switch = BTreeMap::from([("role".to_owned(), "lb".to_owned())]);
    Groups { label: "colour".to_owned(), switch, live }
}

/// The target `n`, in a group or in front of them.
pub fn in_group(n: u128, part: &str) -> NewTarget {
    let label = if part == "lb" { "role" } else { "colour" };
    let labels = BTreeMap::from([(label.to_owned(), part.to_owned())]);
    NewTarget { labels, ..super::new_target(n) }
}

/// INV-18 in one state.
pub fn check(tenant: &TenantState) {
    for target in tenant.targets.values() {
        let has_colours = |id| tenant.releases[&id].has_colours();
        assert_eq!(
            target.live.is_some(),
            target.current.is_some_and(has_colours),
            "INV-18: the colour of what is on {}",
            target.name
        );
        if let Some(idle) = target.idle {
            assert!(has_colours(idle.release), "INV-18: an idle colour of what has none");
            assert_ne!(Some(idle.colour), target.live, "INV-18: live and idle on {}", target.name);
            assert!(tenant.deployments.contains_key(&idle.by), "INV-18: filled by nothing");
        }
        if target.part == Some(Part::Switch) {
            assert!(target.idle.is_none(), "INV-23: {} holds something", target.name);
        }
        if target.is_torn {
            let last = &tenant.deployments[&target.last.expect("INV-18: torn by nothing")];
            assert!(!last.targets[&target.id].is_spared, "INV-18: torn by what did not switch");
        }
    }
    for deployment in tenant.deployments.values() {
        let ready = deployment.targets.values().any(|part| matches!(part.progress, Progress::Ready { .. }));
        assert!(!ready || deployment.status == Status::Running, "INV-19: an ended one waits to switch");
        group_is_whole(tenant, deployment);
    }
}

/// INV-23, of a deployment to groups that has just succeeded.
fn group_is_whole(tenant: &TenantState, deployment: &Deployment) {
    let Some(groups) = deployment.strategy.groups().filter(|_| deployment.status == Status::Succeeded) else {
        return;
    };
    let mut parts = deployment.targets.values();
    let is_newest = parts.all(|part| {
        tenant
            .targets
            .get(&part.target)
            .is_some_and(|it| it.last == Some(deployment.id) && it.active.is_none())
    });
    let Some(colour) = deployment.leads_to().filter(|_| is_newest) else { return };
    let leads = |it: &Target| groups.leads(it) && it.environment == deployment.environment;
    for target in tenant.targets.values().filter(|it| it.environment == deployment.environment) {
        let is_part = deployment.targets.contains_key(&target.id);
        if is_part {
            assert_eq!(
                target.current,
                Some(deployment.release),
                "INV-23: {} was not brought it",
                target.name
            );
            assert_eq!(target.live, Some(colour), "INV-23: {} has another colour", target.name);
        } else if !leads(target) && groups.group_of(target) == Some(colour.other()) {
            let newer = target.last_visit().and_then(|it| tenant.deployments.get(&it));
            let since = newer.is_some_and(|it| it.created_at >= deployment.created_at);
            assert!(since || target.live.is_none(), "INV-23: {} is live too", target.name);
        }
    }
}

/// INV-7, INV-18 and INV-20, from one state to the next: also what a person has taken back ends on what was there before.
pub fn step(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let brought: BTreeSet<_> = events.iter().filter_map(|(_, event)| succeeded(&event.fact)).collect();
    for (id, target) in &old.targets {
        let Some(now) = new.targets.get(id) else { continue };
        let same = (now.current, now.live) == (target.current, target.live);
        let same = same || group_has_changed(new, now, events);
        assert!(same || brought.iter().any(|(_, it)| it == id), "INV-18: {} has changed", target.name);
    }
    for (deployment, target) in brought {
        let rollback = &new.deployments[&deployment];
        let part = &rollback.targets[&target];
        let Cause::Rollback { of, .. } = &rollback.cause else { continue };
        let Some(place) = new.targets.get(&target).filter(|place| place.last == Some(deployment)) else {
            continue;
        };
        let before = &new.deployments[of].targets[&target];
        if rollback.strategy.groups().is_none() {
            assert_eq!(place.current, before.previous, "INV-7: the release before");
            let known = before.previous_variables.is_some();
            let same = place.brought_with == before.previous_variables;
            assert!(!known || same, "INV-7: the variables before, on {}", place.name);
        }
        let switched = part.legs.len() == 1 && part.legs[0].steps == Steps::Switch;
        if !switched {
            continue;
        }
        // What led nowhere before is led where others go back to.
        let led_along = before.previous.is_none() && rollback.strategy.groups().is_some();
        assert!(led_along || place.current == before.previous, "INV-20: the release before");
        let colour = before.colour().map(Colour::other);
        assert!(before.colour().is_none() || place.live == colour, "INV-20: the colour before");
        assert!(!place.is_torn, "INV-20: decided");
    }
}

/// Whether a deployment to groups has ended there, or prepares what the state has for live without any traffic: then its current
/// release goes, or is what was idle.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts have nothing to do with groups")]
pub fn group_has_changed(tenant: &TenantState, target: &Target, events: &[(StreamId, Event)]) -> bool {
    let of_groups = |id| {
        let deployment: Option<&std::sync::Arc<Deployment>> = tenant.deployments.get(id);
        deployment.is_some_and(|it| it.strategy.groups().is_some() && it.environment == target.environment)
    };
    events.iter().any(|(_, event)| match &event.fact {
        Fact::DeploymentSucceeded { id, .. }
        | Fact::DeploymentFailed { id, .. }
        | Fact::DeploymentCancelled { id, .. } => of_groups(id),
        Fact::TaskQueued { deployment, target: it, .. } => of_groups(deployment) && *it == target.id,
        _ => false,
    })
}

const fn succeeded(
    fact: &Fact,
) -> Option<(stella_protocol::id::DeploymentId, stella_protocol::id::TargetId)> {
    if let Fact::TargetSucceeded { deployment, target } = fact { Some((*deployment, *target)) } else { None }
}

/// INV-19 over a whole history: when a step that switches is queued, the colour there was filled and checked, and in a
/// blue-green deployment all other targets were at least as far.
pub fn switched(events: &[(StreamId, Event)], state: &State) {
    let Some(tenant) = state.tenants.get(&TENANT) else { return };
    let (mut switching, mut waits) = (BTreeSet::new(), BTreeMap::<_, BTreeSet<_>>::new());
    let (mut filled, mut checked) = (BTreeSet::new(), BTreeSet::new());
    for (_, event) in events {
        if let Fact::DeploymentStageBegan { id, stage: Stage::Switch } = event.fact {
            assert!(waits[&id].is_empty(), "INV-19: {id} switches before all are prepared");
            switching.insert(id);
        } else if let Fact::DeploymentCreated { id, targets, strategy, .. } = &event.fact {
            // What leads the traffic to a group is prepared by nothing.
            let has_groups = strategy.groups().is_some();
            let prepares = targets
                .iter()
                .filter(|it| !has_groups || it.legs.iter().any(|leg| leg.steps == Steps::Prepare));
            waits.insert(*id, prepares.map(|planned| planned.target).collect());
        } else if let Fact::TargetReady { deployment, target }
        | Fact::TargetFailed { deployment, target, .. }
        | Fact::TargetSkipped { deployment, target, .. } = &event.fact
        {
            waits.entry(*deployment).or_default().remove(target);
        } else if let Fact::TargetRetried { deployment, target, .. } = &event.fact
            && !switching.contains(deployment)
        {
            waits.entry(*deployment).or_default().insert(*target);
        } else if let Fact::TaskFinished { key, .. } = &event.fact {
            let Some(task) = tenant.tasks.get(&key.task) else { continue };
            let place = (task.deployment, task.target);
            if !matches!(task.state, TaskState::Succeeded(_)) || task.release.is_some() {
                continue;
            }
            match task.step.as_str() {
                "install" => {
                    checked.remove(&place);
                    filled.insert(place);
                }
                "check" => drop(checked.insert(place)),
                _ => {}
            }
        } else if let Fact::TaskQueued { task, deployment, target, .. } = &event.fact {
            // What is in the archive was looked at before it went there.
            let Some(task) = tenant.tasks.get(task) else { continue };
            let of = &tenant.deployments[deployment];
            let prepares = of.targets[target].legs.iter().any(|leg| leg.steps == Steps::Prepare);
            if task.step.as_str() == "switch" && of.strategy.groups().is_some() {
                let only = of.targets[target].legs.len() == 1;
                assert!(!only || switching.contains(deployment), "INV-23: {target} is too early");
            }
            if task.step.as_str() != "switch" || task.release.is_some() || !prepares {
                continue;
            }
            let place = (*deployment, *target);
            assert!(filled.contains(&place) && checked.contains(&place), "INV-19: {target} is not prepared");
            let is_blue_green = of.strategy.blue_green().is_some();
            assert!(!is_blue_green || switching.contains(deployment), "INV-19: {target} is too early");
        }
    }
}
