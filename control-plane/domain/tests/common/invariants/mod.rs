//! The invariants of the crate's documentation, by name, checked the slow way: by searching through everything.

mod allowed;
mod turned;

use std::collections::{BTreeMap, BTreeSet};

use stella_domain::access::{Role, Scope};
use stella_domain::archive::Archived;
use stella_domain::colour::Stage;
use stella_domain::command::{Actor, Command};
use stella_domain::decide::decide;
use stella_domain::deployment::{
    Cause, Deployment, OnFailure, Progress, RollbackReason, Status, TargetRollout,
};
use stella_domain::environment::{Needs, Requirement};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::gate::{Check, Outcome};
use stella_domain::hold::{PauseCause, Standing};
use stella_domain::listening::Listening;
use stella_domain::promotion::{ApprovalRule, PromotionStatus};
use stella_domain::run::{Run, StepEnd, StepRun, StepState};
use stella_domain::signature::ReleaseSignature;
use stella_domain::state::State;
use stella_domain::strategy::Strategy;
use stella_domain::tenant::{TenantState, Timer};
use stella_domain::way_back::{Proof, ProofAnswer, ProofRule};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, DeploymentId, EnvironmentId, PromotionId, TargetId};
use stella_protocol::time::Timestamp;

use super::World;
use allowed::{
    all_go_by_their_paths, approvals, approved_by_the_rule, approved_by_those_who_may,
    asked_for_by_those_who_may, gates, has_proof, is_let_through, is_signed, is_verified,
    nobody_lets_their_own_run_through, waits_for_gate, way_back,
};

/// INV-1: the events alone make the state, and JSON loses nothing of either.
pub fn replay(events: &[(StreamId, Event)], live: &State) {
    let mut replayed = State::default();
    for (stream, event) in events {
        let json = serde_json::to_string(event).unwrap();
        let event: Event = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        replayed.apply(*stream, &event).unwrap_or_else(|error| panic!("INV-1 {event:?}: {error}"));
    }
    assert!(replayed == *live, "INV-1: the replayed state differs");
    let json = serde_json::to_string(live).unwrap();
    let snapshot: State = serde_json::from_str(&json).unwrap_or_else(|error| panic!("INV-1 {error}"));
    assert!(snapshot == *live, "INV-1: the snapshot's state differs");
}

/// Everything that can be seen in one state.
pub fn check(state: &State, now: Timestamp) {
    for tenant in state.tenants.values() {
        one_deployment_a_target(tenant);
        batch(tenant);
        super::indexes::check(tenant);
        way_back(tenant);
        left_out(tenant);
        nothing_stuck(tenant);
        approvals(tenant);
        gates(tenant);
        runs(tenant);
        archive(tenant);
        silence(tenant);
        super::jobs::check(tenant);
        super::colours::check(tenant);
    }
    let tick = World::request(Command::Tick(Listening::Always));
    let mut ticked = state.clone();
    for _ in 0..100 {
        if ticked.next_due().is_none_or(|due| due > now) {
            break;
        }
        ticked = decide(&ticked, &tick, now).expect("INV-8: a tick is never refused").state;
    }
    assert!(ticked.next_due().is_none_or(|due| due > now), "INV-8: something stays due");
}

/// INV-2 and INV-6, from one state to the next.
pub fn step(before: &State, after: &State, events: &[(StreamId, Event)]) {
    let (Some(old), Some(new)) = (before.tenants.get(&super::TENANT), after.tenants.get(&super::TENANT))
    else {
        return;
    };
    archived(old, new, events);
    for task in old.tasks.values().filter(|task| task.state.is_final()) {
        assert!(new.tasks.get(&task.id).is_none_or(|it| it.state == task.state), "INV-2");
    }
    for promotion in old.promotions.values().filter(|promotion| !promotion.is_open()) {
        assert!(new.promotions.get(&promotion.id).is_none_or(|it| it == promotion), "INV-2");
    }
    for run in old.runs.values().filter(|run| run.status.is_final()) {
        assert!(new.runs.get(&run.id).is_none_or(|it| it == run), "INV-2");
    }
    for run in old.runs.values().filter(|run| new.runs.contains_key(&run.id)) {
        let pinned = |tenant: &TenantState| tenant.template_of(run).cloned();
        assert_eq!(pinned(old), pinned(new), "INV-13: a version changed");
        for (id, step) in run.steps.iter().filter(|(_, step)| step.state.is_final()) {
            assert_eq!(step, &new.runs[&run.id].steps[id], "INV-2");
        }
    }
    for deployment in old.deployments.values() {
        let Some(now) = new.deployments.get(&deployment.id) else { continue };
        if deployment.status.is_final() {
            assert_eq!(deployment, now, "INV-2");
        }
        for part in deployment.targets.values() {
            let guided = matches!(part.progress, Progress::Failed { .. })
                && deployment.status == Status::Running
                && events.iter().any(|(_, event)| is_guided(&event.fact, part.target));
            let ended = part.has_ended_started() || matches!(part.progress, Progress::Skipped { .. });
            assert!(!ended || guided || part.progress == now.targets[&part.target].progress, "INV-2");
        }
    }
    budgets(old, new, events);
    nothing_fails_in_silence(old, new, events);
    approved_by_those_who_may(before, new, events);
    asked_for_by_those_who_may(before, new, events);
    approved_by_the_rule(old, new, events);
    nobody_lets_their_own_run_through(new, events);
    turned::begin_nothing(old, new, events);
    all_go_by_their_paths(old, new, events);
    super::colours::step(old, new, events);
    super::jobs::step(old, new, events);
    deployments_by_facts(old, new, events);
    begins_nothing_on_draining_hosts(old, new, events);
    settled_by_a_proof_or_a_person(old, events);
    for (at, (_, event)) in events.iter().enumerate() {
        let switches = |id| new.deployments.get(id).is_some_and(|it| !it.is_beside());
        if let Fact::TargetStarted { deployment, .. } = &event.fact {
            is_let_through(new, &new.deployments[deployment], event.at);
            is_of_its_wave(new, &new.deployments[deployment], &events[at..]);
            is_signed(new, &new.deployments[deployment]);
            has_proof(old, new, *deployment);
        }
        if let Fact::DeploymentSucceeded { id, .. } = &event.fact {
            is_verified(new, *id, event.at);
        }
        if let Fact::TargetWentOn { deployment, .. } = &event.fact
            && switches(deployment)
        {
            is_let_through(new, &new.deployments[deployment], event.at);
            is_signed(new, &new.deployments[deployment]);
        }
        if let Fact::TaskDispatched { key, .. } = &event.fact {
            let was_unknown = old.tasks.get(&key.task).is_some_and(|task| super::is_unknown(task));
            assert!(!was_unknown, "INV-6: {key}");
        }
    }
}

/// What deployments may do, fact by fact.
fn deployments_by_facts(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    starts_nothing_paused(old, new, events);
    canary_steps(old, new, events);
    replaces_nothing_that_proves_itself(old, new, events);
}

/// INV-9, fact by fact: one command may end a pause, start something and begin another pause.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts have nothing to do with pauses")]
fn starts_nothing_paused(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let mut paused: BTreeMap<DeploymentId, PauseCause> =
        old.deployments.values().filter(|it| it.paused.is_some()).map(|it| (it.id, it.paused_for)).collect();
    for (_, event) in events {
        match &event.fact {
            Fact::DeploymentPaused { id, cause, .. } => {
                paused.insert(*id, *cause);
            }
            Fact::TargetRetried { deployment, .. } => {
                let held = matches!(paused.get(deployment), Some(PauseCause::Person | PauseCause::Freeze));
                assert!(!held, "INV-9: a target of {deployment} was tried again");
                let (deployment, promotion) = (&new.deployments[deployment], PromotionId(deployment.0));
                let overridden =
                    new.promotions.get(&promotion).is_some_and(|it| it.wanted.override_freeze.is_some());
                let frozen = new.environments[&deployment.environment].lasting_freeze(event.at).is_some();
                let may = !frozen || overridden || !deployment.cause.is_asked_for();
                assert!(may, "INV-9: a target of {} was tried again in a freeze", deployment.id);
            }
            Fact::DeploymentResumed { id }
            | Fact::DeploymentHalted { id, .. }
            | Fact::DeploymentCancelRequested { id, .. } => {
                paused.remove(id);
            }
            Fact::TargetStarted { deployment, .. } | Fact::TargetWentOn { deployment, .. } => {
                assert!(!paused.contains_key(deployment), "INV-9: {deployment} started a target");
            }
            _ => {}
        }
    }
}

/// INV-16: what has gone had ended, a fact says so, all that belonged to it went with it, and nothing was counted.
fn archived(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let facts: BTreeSet<String> = events
        .iter()
        .filter(|(_, event)| event.fact.name().ends_with("_archived"))
        .map(|(_, event)| serde_json::to_value(&event.fact).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    let gone = old.deployments.values().filter(|it| !new.deployments.contains_key(&it.id));
    for deployment in gone {
        assert!(deployment.status.is_final(), "INV-16: {} had not ended", deployment.id);
        assert!(facts.contains(&deployment.id.to_string()), "INV-16: {} is lost", deployment.id);
    }
    let mut tasks = old.tasks.values().filter(|it| !new.tasks.contains_key(&it.id));
    assert!(tasks.all(|it| it.state.is_final() && facts.contains(&it.deployment.to_string())), "INV-16");
    let mut promotions = old.promotions.values().filter(|it| !new.promotions.contains_key(&it.id));
    assert!(promotions.all(|it| !it.is_open() && facts.contains(&it.id.to_string())), "INV-16");
    let mut runs = old.runs.values().filter(|it| !new.runs.contains_key(&it.id));
    assert!(runs.all(|it| it.status.is_final() && facts.contains(&it.id.to_string())), "INV-16");
    if !facts.is_empty() {
        assert_eq!(old.totals, new.totals, "INV-16: what is archived was counted at its end");
    }
    let all = |it: &TenantState| {
        let Archived { deployments, promotions, runs } = it.archived;
        let gone = deployments + promotions + runs;
        usize::try_from(gone).unwrap() + it.deployments.len() + it.promotions.len() + it.runs.len()
    };
    assert!(all(old) <= all(new), "INV-16: things were lost");
}

/// INV-16, in one state: nothing is left that belongs to what has gone.
fn archive(tenant: &TenantState) {
    for task in tenant.tasks.values() {
        assert!(tenant.deployments.contains_key(&task.deployment), "INV-16: task {}", task.id);
    }
    for deployment in tenant.deployments.values() {
        let tasks: BTreeSet<_> = tenant.tasks_of(deployment).iter().map(|task| task.id).collect();
        let all = tenant.tasks.values().filter(|task| task.deployment == deployment.id);
        assert_eq!(tasks, all.map(|task| task.id).collect(), "INV-16: the tasks of {}", deployment.id);
    }
    for last in tenant.targets.values().filter_map(|target| target.last) {
        assert!(tenant.deployments.contains_key(&last), "INV-16: {last} can not be taken back any more");
    }
    assert!(tenant.gates.keys().all(|id| tenant.promotions.contains_key(id)), "INV-16: gates");
}

fn is_guided(fact: &Fact, target: TargetId) -> bool {
    matches!(fact, Fact::TargetRetried { target: it, .. } | Fact::TargetSkipped { target: it, reason: Some(_), .. } if *it == target)
}

/// INV-11: what was started was within the budget, and nothing was where too many are silent.
fn budgets(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        let (Fact::TargetStarted { deployment, .. }
        | Fact::TargetRetried { deployment, .. }
        | Fact::TargetWentOn { deployment, .. }) = &event.fact
        else {
            continue;
        };
        let deployment = &new.deployments[deployment];
        let place = &new.environments[&deployment.environment];
        let was_silent = old.environments.get(&place.id).is_some_and(|it| it.silent_since.is_some());
        assert!(!was_silent || place.silent_since.is_none(), "INV-11: started in a silent environment");
        let Some(budget) = place.budget.filter(|_| deployment.cause.is_asked_for()) else { continue };
        // What is prepared beside what is live puts nothing at risk, and may be while a budget that has shrunk is exceeded.
        if matches!(event.fact, Fact::TargetRetried { .. }) || deployment.is_beside() {
            continue;
        }
        let targets = new.targets.values().filter(|it| it.environment == place.id).count();
        let max = budget.at_most(u32::try_from(targets).unwrap()).max(1);
        let risky = new.deployments.values().filter(|it| it.environment == place.id).map(|it| at_risk(it));
        let at_risk: usize = risky.sum();
        assert!(at_risk <= usize::try_from(max).unwrap(), "INV-11: {at_risk} at risk, at most {max}");
    }
}

/// INV-11: where too many agents were silent before and after a command, nothing was late, and nothing outside has ended anything.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts end nothing")]
fn nothing_fails_in_silence(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let is_silent = |id: &EnvironmentId| {
        [old, new].iter().all(|it| it.environments.get(id).is_some_and(|it| it.silent_since.is_some()))
    };
    for (_, event) in events {
        match &event.fact {
            Fact::DeploymentOverdue { id, .. } => {
                assert!(!is_silent(&new.deployments[id].environment), "INV-11: {id} was late in a silence");
            }
            Fact::StepOverdue { run, step, .. } => {
                let silent = deployments_below(old, &old.runs[run].steps[step]).any(|id| {
                    old.deployments.get(&id).is_some_and(|deployment| is_silent(&deployment.environment))
                });
                assert!(!silent, "INV-11: step {step} of {run} was late in a silence");
            }
            Fact::StepEnded { run, step, end: StepEnd::Failed { .. } }
            | Fact::StepBackedOff { run, step, .. }
            | Fact::StepHeld { run, step, .. } => {
                let before = old.runs.get(run).map(|run| &run.steps[step].state);
                let asked = before.filter(|it| it.question().is_some()).and_then(StepState::approved_in);
                let silent = asked.is_some_and(|place| is_silent(&place));
                assert!(!silent, "INV-11: the gate of step {step} of {run} has failed it in a silence");
            }
            Fact::DeploymentHalted { id, reason, .. } if is_silent(&new.deployments[id].environment) => {
                let gates = &new.environments[&new.deployments[id].environment].gates;
                let mut outside = gates.iter().filter(|(_, it)| it.gate.check.is_outside());
                let by = outside.find(|(name, _)| reason.starts_with(&format!("gate {name}: ")));
                assert!(by.is_none(), "INV-11: {id} was halted in a silence: {reason}");
            }
            _ => {}
        }
    }
}

/// The deployments that a step waits for, itself or through other runs.
fn deployments_below<'t>(
    tenant: &'t TenantState,
    step: &'t StepRun,
) -> Box<dyn Iterator<Item = DeploymentId> + 't> {
    let parts = step.state.children().iter().filter_map(|child| tenant.runs.get(&child.run));
    let steps = parts.flat_map(|run| run.steps.values());
    let below = steps.flat_map(move |step| deployments_below(tenant, step));
    Box::new(step.state.deployment().into_iter().chain(below))
}

/// The environments of the deployments and gates that a step waits for, itself or through other runs.
fn places_below<'t>(
    tenant: &'t TenantState,
    step: &'t StepRun,
) -> Box<dyn Iterator<Item = EnvironmentId> + 't> {
    let gate = step.state.asked().and_then(|_| step.state.approved_in());
    let deployment = step.state.deployment().and_then(|id| tenant.deployments.get(&id));
    let parts = step.state.children().iter().filter_map(|child| tenant.runs.get(&child.run));
    let below = parts.flat_map(|run| run.steps.values()).flat_map(move |step| places_below(tenant, step));
    Box::new(gate.into_iter().chain(deployment.map(|it| it.environment)).chain(below))
}

/// INV-11, in one state: no deadline can pass where too many agents are silent.
fn silence(tenant: &TenantState) {
    // One that ended may have been to an environment that is gone.
    let is_silent =
        |id: &EnvironmentId| tenant.environments.get(id).is_some_and(|it| it.silent_since.is_some());
    for deployment in tenant.deployments.values().filter(|it| is_silent(&it.environment)) {
        let deadline = (deployment.deadline, Timer::DeploymentDeadline(deployment.id));
        assert!(!tenant.timers.contains(&deadline), "INV-11: the deadline of {} passes", deployment.id);
        let proves = deployment.is_watched() && deployment.resumes_at.is_some();
        assert!(!proves, "INV-11: {} proves itself where nobody is heard", deployment.id);
    }
    for deployment in tenant.deployments.values().filter(|it| it.resumes_in_ms.is_some()) {
        let may_stand = deployment.is_watched() && is_silent(&deployment.environment);
        assert!(may_stand && deployment.resumes_at.is_none(), "INV-11: the hold of {} stands", deployment.id);
    }
    for step in tenant.runs.values().flat_map(|run| run.steps.values()) {
        let is_below = places_below(tenant, step).any(|id| is_silent(&id));
        let StepState::Running { deadline, .. } = &step.state else {
            assert!(step.time_left_ms.is_none(), "INV-5");
            continue;
        };
        assert!(!is_below || deadline.is_none(), "INV-11: the time of a step passes");
        let stands = step.time_left_ms.is_some();
        assert!(!stands || deadline.is_none(), "INV-5");
        assert!(!stands || is_below, "INV-11: the time of a step stands still for nothing");
    }
}

/// The targets of a deployment that are worked on, have failed, or have a release whose hold is not behind it; counted anew.
fn at_risk(deployment: &Deployment) -> usize {
    let beside = deployment.strategy.blue_green().is_some() && deployment.stage != Stage::Switch;
    if deployment.status.is_final() || !deployment.cause.is_asked_for() || beside {
        return 0;
    }
    let down = |part: &&std::sync::Arc<TargetRollout>| {
        matches!(part.progress, Progress::Active { .. } | Progress::Failed { .. })
    };
    let unproven = usize::try_from(deployment.unproven).unwrap();
    assert!(unproven <= usize::try_from(deployment.counts.succeeded).unwrap(), "INV-11: unproven");
    deployment.targets.values().filter(down).count() + unproven
}

/// INV-26. What an agent brings along that this journal has forgotten is not sent.
fn begins_nothing_on_draining_hosts(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let comes_back = |agent| {
        events
            .iter()
            .any(|(_, event)| matches!(event.fact, Fact::AgentConnected { agent: it, .. } if it == agent))
    };
    for (_, event) in events {
        let Fact::TaskDispatched { key, .. } = event.fact else { continue };
        let Some(task) = new.tasks.get(&key.task).filter(|task| !comes_back(task.agent)) else { continue };
        let drains = |tenant: &TenantState| tenant.agents[&task.agent].draining.is_some();
        let Some(part) = new.deployments[&task.deployment].targets.get(&task.target) else { continue };
        let is_first = matches!(part.progress, Progress::Active { step: 0, .. }) && part.round == 0;
        assert!(!(drains(old) && drains(new) && is_first), "INV-26: {} was sent", key.task);
    }
}

/// INV-28.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts are not about attempts that nobody knows of")]
fn settled_by_a_proof_or_a_person(old: &TenantState, events: &[(StreamId, Event)]) {
    let mut unknown: BTreeSet<_> =
        old.tasks.values().filter(|task| super::is_unknown(task)).map(|task| task.key()).collect();
    let mut proven = BTreeSet::new();
    for (_, event) in events {
        match &event.fact {
            Fact::TaskBecameUnknown { key, .. } => drop(unknown.insert(*key)),
            Fact::TaskProbed { key, answer } => {
                assert!(unknown.contains(key), "INV-28: {key} was probed, and is known");
                if answer.settles() {
                    proven.insert(*key);
                }
            }
            Fact::TaskFinished { key, position, .. } if unknown.remove(key) => {
                let by_a_person = matches!(event.actor, Actor::ApiToken { .. });
                assert!(
                    position.is_some() || by_a_person || proven.contains(key),
                    "INV-28: {key} was settled by {:?}",
                    event.actor
                );
            }
            _ => {}
        }
    }
}

/// INV-6 over a whole history.
pub fn never_again(events: &[(StreamId, Event)]) {
    let mut unknown = BTreeSet::new();
    for (_, event) in events {
        if let Fact::TaskBecameUnknown { key, .. } = &event.fact {
            unknown.insert(*key);
        } else if let Fact::TaskDispatched { key, .. } = &event.fact {
            assert!(!unknown.contains(key), "INV-6: {key} was dispatched after it became unknown");
        }
    }
}

fn one_deployment_a_target(tenant: &TenantState) {
    let mut holders = BTreeMap::new();
    for id in &tenant.active_deployments {
        for part in tenant.deployments[id].targets.values() {
            if matches!(part.progress, Progress::Waiting | Progress::Active { .. } | Progress::Ready { .. }) {
                assert!(
                    holders.insert(part.target, *id).is_none(),
                    "INV-3: {} has two deployments",
                    part.target
                );
            }
        }
    }
    for target in tenant.targets.values() {
        assert_eq!(target.active, holders.get(&target.id).copied(), "INV-3: {}", target.name);
        if let Some(task) = target.blocked_by {
            assert!(super::is_unknown(&tenant.tasks[&task]), "INV-3: blocked by a task that is known");
            assert_eq!(target.active, None, "INV-3: blocked and active");
        }
        let open =
            tenant.tasks.values().filter(|task| task.target == target.id && !task.state.is_final()).count();
        assert!(open <= 1, "INV-3: {open} unsettled tasks on {}", target.name);
    }
}

fn batch(tenant: &TenantState) {
    for deployment in tenant.deployments.values() {
        let total = u32::try_from(deployment.targets.len()).unwrap();
        let count = |which: &dyn Fn(&Progress) -> bool| {
            let found = deployment.targets.values().filter(|part| which(&part.progress));
            u32::try_from(found.count()).unwrap()
        };
        let active = count(&|progress| progress.task().is_some());
        match &deployment.strategy {
            Strategy::AllAtOnce => {}
            Strategy::Rolling(rolling) => {
                assert!(active <= rolling.batch.at_least(total), "INV-4: {active} active");
                let failed = count(&|progress| matches!(progress, Progress::Failed { .. }));
                let limit = rolling.unavailable_max(total);
                let running = matches!(deployment.status, Status::Running);
                assert!(!running || active + failed <= limit, "INV-4: {active} active, {failed} failed");
            }
            Strategy::Canary { steps, batch, .. } => {
                let batch = batch.map_or(u32::MAX, |batch| batch.at_least(total));
                assert!(active <= batch, "INV-4: {active} active");
                let passed = usize::try_from(deployment.steps_passed).unwrap();
                let may = steps.get(passed).map_or(total, |step| (total * step.percent).div_ceil(100));
                assert!(proving(deployment) <= may, "INV-4: more than the canary step lets");
            }
            Strategy::BlueGreen(how) => {
                let batch = how.batch.map_or(u32::MAX, |batch| batch.at_least(total));
                assert!(deployment.is_beside() || active <= batch, "INV-4: {active} switched at once");
            }
        }
        if deployment.strategy.is_by_domain() {
            let active = deployment.targets.values().filter(|part| part.progress.task().is_some());
            let domains: BTreeSet<_> = active.map(|part| &part.domain).collect();
            assert!(domains.len() <= 1, "INV-4: two failure domains at the same time: {domains:?}");
        }
    }
}

/// INV-3, fact by fact.
fn replaces_nothing_that_proves_itself(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        let Fact::DeploymentCreated { id, cause: Cause::Requested, targets, .. } = &event.fact else {
            continue;
        };
        // What has ended with the same command has ended before.
        let others = old.deployments.values().filter(|it| new.active_deployments.contains(&it.id));
        for other in others.filter(|it| it.cause == Cause::Requested) {
            for planned in targets {
                let there = other.targets.get(&planned.target).map(|part| &part.progress);
                let proves = matches!(there, Some(Progress::Succeeded { .. }));
                assert!(
                    !proves,
                    "INV-3: {id} comes to {} while {} proves itself there",
                    planned.target, other.id
                );
            }
        }
    }
}

/// How many targets of a canary prove its release, or are to. What has failed does not, and what people have tried again comes on top.
fn proving(deployment: &Deployment) -> u32 {
    let proves = |part: &&std::sync::Arc<TargetRollout>| {
        let out =
            matches!(part.progress, Progress::Waiting | Progress::Skipped { .. } | Progress::Failed { .. });
        !out && part.round == 0
    };
    u32::try_from(deployment.targets.values().filter(proves).count()).unwrap()
}

/// INV-4, fact by fact: a canary starts no more targets than its step lets of those that take part, and no step of it is behind it before
/// as many have the release.
fn canary_steps(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        let (id, number) = match &event.fact {
            Fact::TargetStarted { deployment, .. } => (deployment, None),
            Fact::DeploymentPaused { id, canary_step: Some(number), .. } => (id, Some(*number)),
            _ => continue,
        };
        let deployment = &new.deployments[id];
        let Strategy::Canary { steps, .. } = &deployment.strategy else { continue };
        // With what was left out meanwhile it can only be less.
        let takes_part = |part: &&std::sync::Arc<TargetRollout>| {
            let left_out = |part: &TargetRollout| matches!(part.progress, Progress::Skipped { .. });
            let was = old.deployments.get(id).and_then(|it| it.targets.get(&part.target));
            !left_out(part) && !was.is_some_and(|was| left_out(was))
        };
        let all = u32::try_from(deployment.targets.values().filter(takes_part).count()).unwrap();
        let share = |passed: u32| {
            let step = steps.get(usize::try_from(passed).unwrap());
            step.map_or(all, |step| (all * step.percent).div_ceil(100))
        };
        match number {
            None => {
                let may = share(deployment.steps_passed);
                assert!(proving(deployment) <= may, "INV-4: {id} starts more than its canary step lets");
            }
            Some(number) => {
                let have_it = deployment.counts.succeeded;
                assert!(have_it >= share(number - 1), "INV-4: {id} holds after step {number} with {have_it}");
            }
        }
    }
}

/// A rollback goes to each target that was touched and has something to go back to, or has told why it does not.
fn left_out(tenant: &TenantState) {
    for rollback in tenant.deployments.values() {
        let Cause::Rollback { of, .. } = rollback.cause else { continue };
        let left: BTreeSet<_> = rollback.left.iter().map(|it| it.target).collect();
        assert_eq!(left.len(), rollback.left.len(), "INV-7: {} leaves a target twice", rollback.id);
        assert!(!left.iter().any(|it| rollback.targets.contains_key(it)), "INV-7: left, and not left");
        let Some(taken_back) = tenant.deployments.get(&of) else { continue };
        for part in taken_back.targets.values() {
            if part.is_touched() && tenant.targets.contains_key(&part.target) {
                let is_told = left.contains(&part.target) || rollback.targets.contains_key(&part.target);
                assert!(is_told, "INV-7: {} says nothing of {}", rollback.id, part.target);
            }
        }
    }
}

/// INV-12: what something outside said lets a target be started in the wave in which it was said, and in no other.
fn is_of_its_wave(tenant: &TenantState, deployment: &Deployment, since: &[(StreamId, Event)]) {
    let id = deployment.id;
    let promotion = PromotionId(id.0);
    if !deployment.cause.is_asked_for() || !tenant.gates.contains_key(&promotion) {
        return;
    }
    let ends_wave = |fact: &Fact| {
        matches!(fact, Fact::TargetSucceeded { deployment: of, .. } | Fact::TargetFailed { deployment: of, .. }
            | Fact::DeploymentResumed { id: of } | Fact::DeploymentStageBegan { id: of, .. } if *of == id)
    };
    let over_since = since.iter().filter(|(_, event)| ends_wave(&event.fact)).count();
    let wave = deployment.waves - u32::try_from(over_since).unwrap();
    for (name, standing) in &tenant.environments[&deployment.environment].gates {
        let Some(record) = tenant.gates[&promotion].get(name) else {
            assert!(standing.gate.verifies, "INV-12: {name} was never asked");
            continue;
        };
        let said_since = since.iter().any(|(_, event)| {
            matches!(&event.fact, Fact::GateEvaluated { promotion: of, gate, .. } if *of == promotion && gate == name)
        });
        let is_looked_at = standing.gate.check.is_outside() && !standing.gate.verifies;
        if is_looked_at && !record.is_overridden(standing.policy) && !said_since {
            let said_in = record.verdict.as_ref().map(|it| it.wave);
            assert_eq!(said_in, Some(wave), "INV-12: {name} was not asked before this wave of {id}");
        }
    }
}

fn nothing_stuck(tenant: &TenantState) {
    for id in &tenant.active_deployments {
        let deployment = &tenant.deployments[id];
        let waits = deployment.counts.active > 0
            || deployment.paused.is_some()
            || deployment.way_back.open > 0
            || waits_for_gate(tenant, deployment);
        assert!(waits, "INV-8: {} waits for nothing", deployment.status.name());
        let task_settles = |part: &TargetRollout| {
            part.progress.task().is_none_or(|task| !tenant.tasks[&task].state.is_final())
        };
        assert!(
            deployment.targets.values().all(|part| task_settles(part)),
            "INV-8: an end without consequence"
        );
    }
}

/// INV-13 to INV-15, and the indexes of runs.
fn runs(tenant: &TenantState) {
    let (mut awaited, mut calls, mut questions) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for run in tenant.runs.values() {
        let template = tenant.template_of(run).expect("a run's version is there for ever");
        let open = |step: &StepRun| !step.state.is_final();
        assert_eq!(run.status.is_final(), !tenant.active_runs.contains(&run.id), "INV-5: active runs");
        assert_eq!(run.status.is_final(), run.finished_at.is_some(), "INV-14: an end has a time");
        assert!(!run.status.is_final() || !run.steps.values().any(open), "INV-14: ended with open steps");
        let moves = run.steps.values().any(|step| step.state.is_under_way());
        assert!(run.status.is_final() || moves, "INV-14: nothing would go on: {run:?}");
        for step in &template.steps {
            let state = &run.steps[&step.id];
            let over = step.needs.iter().all(|need| !open(&run.steps[need]));
            assert!(state.started_at.is_none() || over, "INV-13: started before what it needs");
            if let Some(deployment) = state.state.deployment() {
                awaited.insert(deployment, (run.id, step.id.clone()));
                let promotion = tenant.promotions.get(&PromotionId(deployment.0));
                let theirs = promotion.is_none_or(|it| it.requested_by == run.started_by);
                assert!(theirs, "INV-15: asked for by somebody else");
                let asked = promotion.is_some() || tenant.deployments.contains_key(&deployment);
                assert!(asked, "INV-15: waits for what nobody has asked for");
            }
            for child in state.state.children() {
                let part =
                    tenant.runs.get(&child.run).expect("INV-14: waits for a run that was never started");
                assert_eq!(part.parent, Some((run.id, step.id.clone())), "INV-14: part of another run");
                assert_eq!(part.started_by, run.started_by, "INV-15: started by somebody else");
            }
            if state.state.outgoing().is_some() {
                calls.insert((run.id, step.id.clone()));
            }
            if state.state.question().is_some() {
                questions.insert((run.id, step.id.clone()));
            }
        }
    }
    assert_eq!(
        tenant.awaited.iter().map(|(id, it)| (*id, it.clone())).collect::<BTreeMap<_, _>>(),
        awaited,
        "INV-5"
    );
    assert_eq!(tenant.calls.iter().cloned().collect::<BTreeSet<_>>(), calls, "INV-5: calls");
    assert_eq!(
        tenant.gate_steps.iter().cloned().collect::<BTreeSet<_>>(),
        questions,
        "INV-5: gates of steps"
    );
}
