//! INV-5: what is kept for speed is what a search through everything would find.

use std::collections::{BTreeMap, BTreeSet};

use stella_domain::agent::{Connectivity, OPEN_TASKS_MAX, RECONNECT_WINDOW_MS};
use stella_domain::deployment::{Counts, Progress, Status};
use stella_domain::task::TaskState;
use stella_domain::tenant::{TenantState, Timer};
use stella_domain::way_back::Proof;

/// INV-5 in one state.
pub fn check(tenant: &TenantState) {
    tasks(tenant);
    deployments(tenant);
    names(tenant);
    questions(tenant);
    timers(tenant);
    let reports = tenant.findings.values().flat_map(|reports| reports.values());
    let bytes = tenant.releases.values().map(|it| it.bytes()).chain(reports.map(|it| it.bytes()));
    assert_eq!(tenant.index.release_bytes, bytes.sum::<u64>(), "INV-5: the size of releases");
}

fn questions(tenant: &TenantState) {
    let mut asked: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for deployment in tenant.deployments.values() {
        let open = deployment.targets.values().filter(|it| matches!(it.way_back, Some(Proof::Asked { .. })));
        let open: Vec<_> = open.collect();
        let count = open.len();
        assert_eq!(usize::try_from(deployment.way_back.open).unwrap(), count, "INV-5: open questions");
        assert_eq!(deployment.way_back.until.is_some(), count > 0, "INV-5: a question has an end");
        assert!(count == 0 || !deployment.status.is_final(), "INV-2: an ended deployment asks");
        for part in open {
            asked.entry(part.agent).or_default().insert((deployment.id, part.target));
            let question = tenant.inspection(deployment.id, part.target).expect("what was asked can be said");
            assert!(!question.wanted.is_empty(), "INV-5: a question about nothing");
        }
    }
    let indexed: BTreeMap<_, BTreeSet<_>> =
        tenant.inspections.iter().map(|(agent, open)| (*agent, open.iter().copied().collect())).collect();
    assert_eq!(asked, indexed, "INV-5: questions of agents");
}

fn tasks(tenant: &TenantState) {
    let mut unsettled: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for task in tenant.tasks.values().filter(|task| !task.state.is_final()) {
        unsettled.entry(task.agent).or_default().insert(task.id);
    }
    let indexed: BTreeMap<_, BTreeSet<_>> =
        tenant.unsettled.iter().map(|(agent, tasks)| (*agent, tasks.iter().copied().collect())).collect();
    assert_eq!(unsettled, indexed, "INV-5: unsettled");
    for (agent, work) in &tenant.work {
        let mine = || tenant.tasks.values().filter(|task| task.agent == *agent);
        let open = u32::try_from(mine().filter(|task| task.state.is_open()).count()).unwrap();
        assert_eq!(work.open, open, "INV-5: open");
        let queued: BTreeSet<_> = mine()
            .filter(|task| matches!(task.state, TaskState::Queued))
            .map(|task| (task.queued_at, task.id))
            .collect();
        assert_eq!(work.queued.iter().copied().collect::<BTreeSet<_>>(), queued, "INV-5: queued");
        let online = matches!(tenant.agents[agent].connectivity, Connectivity::Online { .. });
        // INV-26: what is new to a host that is out of rotation waits.
        let drains = tenant.agents[agent].draining.is_some();
        let goes = |task| tenant.is_wanted(task) && (!drains || tenant.goes_on_with(task));
        let waits = queued.iter().any(|(_, task)| goes(*task));
        assert!(!online || !waits || open >= OPEN_TASKS_MAX, "INV-8: a queued task of an online agent");
    }
}

fn deployments(tenant: &TenantState) {
    for deployment in tenant.deployments.values() {
        let mut counts = Counts::default();
        for part in deployment.targets.values() {
            *match part.progress {
                Progress::Waiting => &mut counts.waiting,
                Progress::Active { .. } => &mut counts.active,
                Progress::Ready { .. } => &mut counts.ready,
                Progress::Succeeded { .. } => &mut counts.succeeded,
                Progress::Failed { .. } => &mut counts.failed,
                Progress::Skipped { .. } => &mut counts.skipped,
                Progress::Abandoned { .. } => &mut counts.abandoned,
            } += 1;
        }
        assert_eq!(deployment.counts, counts, "INV-5: counts");
        for (place, target) in deployment.order.iter().enumerate() {
            let waits = deployment.is_due(&deployment.targets[target]);
            let next = usize::try_from(deployment.next).unwrap();
            assert!(if place == next { waits } else { !waits || place > next }, "INV-5: waiting targets");
        }
        assert_eq!(
            !deployment.status.is_final(),
            tenant.active_deployments.contains(&deployment.id),
            "INV-5: active"
        );
    }
}

fn names(tenant: &TenantState) {
    let mut believed = BTreeMap::new();
    for agent in tenant.agents.values() {
        assert!(tenant.index.agents.contains_key(&agent.name), "INV-5: agents");
        if agent.revoked.is_none() {
            let other = believed.insert(agent.name.clone(), agent.id);
            assert_eq!(other, None, "INV-5: names of agents that are not revoked are unique");
            assert_eq!(tenant.index.agents[&agent.name], agent.id, "INV-5: agents");
        }
    }
    for (name, id) in &tenant.index.agents {
        assert_eq!(tenant.agents[id].name, *name, "INV-5: agents");
    }
    let indexed: usize = tenant.index.targets.values().map(imbl::OrdMap::len).sum();
    assert_eq!(indexed, tenant.targets.len(), "INV-5: targets");
    let slots: usize = tenant.index.slots.values().map(imbl::OrdMap::len).sum();
    assert_eq!(slots, tenant.targets.len(), "INV-5: slots");
    for target in tenant.targets.values() {
        let slot = target.slot.as_ref().map_or("", |slot| slot.as_str());
        assert_eq!(tenant.index.slots[&target.agent][slot], target.id, "INV-5: slots");
        assert_eq!(tenant.index.targets[&target.environment][&target.name], target.id, "INV-5: targets");
    }
}

fn timers(tenant: &TenantState) {
    let mut wanted = BTreeSet::new();
    for agent in tenant.agents.values() {
        if let Connectivity::Suspect { since } = agent.connectivity {
            wanted.insert((since.plus_ms(RECONNECT_WINDOW_MS), Timer::ReconnectWindow(agent.id)));
        }
    }
    for task in tenant.tasks.values().filter(|task| task.state.is_open()) {
        wanted.extend(task.overdue_at.map(|at| (at, Timer::TaskOverdue(task.id))));
    }
    for task in tenant.tasks.values() {
        let probed = task.probed_until();
        wanted.extend(probed.map(|at| (at, Timer::ProbeOverdue(task.id))));
        assert!(probed.is_none() || super::is_unknown(task), "INV-28: what is known is asked about");
    }
    for token in tenant.enrolment_tokens.values() {
        wanted.insert((token.forgotten_at(), Timer::EnrolmentTokenEnded(token.id)));
    }
    for (key, request) in &tenant.requests {
        wanted.insert((request.forgotten_at, Timer::RequestForgotten(key.clone())));
    }
    for promotion in tenant.promotions.values().filter(|it| it.is_open()) {
        wanted.extend(promotion.held_until.map(|at| (at, Timer::PromotionHeld(promotion.id))));
        wanted.extend(promotion.expires_at.map(|at| (at, Timer::PromotionExpires(promotion.id))));
    }
    for (promotion, records) in &tenant.gates {
        for (gate, record) in &**records {
            wanted.extend(
                record.asked.map(|it| (it.overdue_at(), Timer::GateOverdue(*promotion, gate.clone()))),
            );
            wanted.extend(record.again_at.map(|at| (at, Timer::GateAgain(*promotion, gate.clone()))));
        }
    }
    for (id, place) in &tenant.environments {
        let soaking = place.automatic.iter().filter(|(_, it)| !it.is_due);
        wanted.extend(soaking.map(|(release, it)| (it.due_at, Timer::AutoPromotion(*id, *release))));
    }
    for run in tenant.runs.values() {
        for (step, state) in &run.steps {
            wanted.extend(state.state.due().map(|at| (at, Timer::StepDue(run.id, step.clone()))));
        }
    }
    let mut found: BTreeSet<_> = tenant.timers.iter().cloned().collect();
    for deployment in tenant.deployments.values() {
        let deadline = found.remove(&(deployment.deadline, Timer::DeploymentDeadline(deployment.id)));
        wanted.extend(deployment.way_back.until.map(|at| (at, Timer::WayBackOverdue(deployment.id))));
        wanted.extend(deployment.put_off.map(|at| (at, Timer::DeploymentPutOff(deployment.id))));
        wanted.extend(deployment.resumes_at.map(|at| (at, Timer::DeploymentResumes(deployment.id))));
        wanted.extend(tenant.kept.get(&deployment.id).map(|at| (*at, Timer::KeepEnds(deployment.id))));
        assert!(deployment.resumes_at.is_none() || deployment.paused.is_some(), "INV-9: no pause to end");
        let paused = deployment.paused.is_some();
        let may = !paused && matches!(deployment.status, Status::Running | Status::Halting { .. });
        let must = !paused && matches!(deployment.status, Status::Running);
        assert!(!paused || matches!(deployment.status, Status::Running), "INV-9: paused and not running");
        let place = tenant.environments.get(&deployment.environment);
        let silent = place.is_some_and(|it| it.silent_since.is_some());
        let may_stand = !deadline && silent && matches!(deployment.status, Status::Halting { .. });
        assert!(deployment.stands_since.is_none() || may_stand, "INV-11: {} stands still", deployment.id);
        assert!(
            if deadline { may } else { !must },
            "INV-5: deadline of a deployment that is {}",
            deployment.status.name()
        );
    }
    assert_eq!(found, wanted, "INV-5: timers");
    let silent: BTreeSet<_> =
        tenant.agents.values().filter_map(|agent| Some((agent.silent_since?, agent.id))).collect();
    assert_eq!(tenant.silent.iter().copied().collect::<BTreeSet<_>>(), silent, "INV-5: silent agents");
}
