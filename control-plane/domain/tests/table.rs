//! Every state and every fact about it: what follows, or that it is refused. The table is committed; a change of the state
//! machines is a change of that file. `UPDATE_GOLDEN=1 cargo test` writes it anew.

use std::fmt::Write as _;

use crate::common::colours::{blue_green, groups, in_group, new_coloured};
use crate::common::golden;
use crate::common::{
    self, STAGING, TENANT, TOKEN, World, agent, canary, deployment, digest, failed, hello, mark, name,
    new_deployment, new_release, promotion, release, rule, target,
};
use stella_domain::agent::Connectivity;
use stella_domain::amount::Amount;
use stella_domain::colour::Stage;
use stella_domain::command::{NewDeployment, Report, TenantCommand};
use stella_domain::deployment::{Cause, OnFailure, RollbackReason};
use stella_domain::environment::Verification;
use stella_domain::event::{Event, Fact, PlannedTarget, StreamId};
use stella_domain::gate::{Gate, Outcome};
use stella_domain::hold::PauseCause;
use stella_domain::probe::ProbeAnswer;
use stella_domain::promotion::Objection;
use stella_domain::signature::statement;
use stella_domain::state::State;
use stella_domain::strategy::{BlueGreen, Rolling, Strategy};
use stella_domain::task::EndingStage;
use stella_domain::way_back::{ProofAnswer, ProofRule};
use stella_protocol::id::{Attempt, AttemptKey, DeploymentId, Generation, Position, SessionEpoch, TaskId};
use stella_protocol::message::{Effect, Ending, Hello, Holding, TaskOutcome, capability};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

fn outcomes() -> [(&'static str, TaskOutcome); 7] {
    [
        ("succeeded", TaskOutcome::Succeeded),
        ("failed", failed("x")),
        ("timed_out", TaskOutcome::TimedOut),
        ("cancelled", TaskOutcome::Cancelled),
        ("interrupted", TaskOutcome::Interrupted),
        ("unknown", TaskOutcome::Unknown { reason: "x".to_owned() }),
        ("refused", TaskOutcome::Refused { reason: "x".to_owned() }),
    ]
}

/// The tenant's state just before the first fact of this name, or at the end.
fn before(world: &World, fact: &str) -> State {
    let mut state = State::default();
    apply_until(&mut state, world, fact);
    state
}

/// Applies what has happened, up to the first fact of this name.
fn apply_until(state: &mut State, world: &World, fact: &str) {
    for (stream, event) in world.events.iter().take_while(|(_, event)| event.fact.name() != fact) {
        state.apply(*stream, event).unwrap();
    }
}

/// One line for each fact: what it makes of the state.
fn rows(
    table: &mut String,
    label: &str,
    state: &State,
    facts: &[(String, Fact)],
    seen: impl Fn(&State) -> String,
) {
    writeln!(table, "{label}").unwrap();
    for (name, fact) in facts {
        let mut after = state.clone();
        let event = Event {
            at: Timestamp(2_000_000),
            actor: common::person(2),
            trace: TraceContext::default(),
            fact: fact.clone(),
        };
        let result = match after.apply(StreamId::Tenant(TENANT), &event) {
            Ok(()) => format!("-> {}", seen(&after)),
            Err(_) => "refused".to_owned(),
        };
        writeln!(table, "    {name:<40} {result}").unwrap();
    }
}

fn task_facts(key: AttemptKey, session: SessionEpoch) -> Vec<(String, Fact)> {
    let at = Timestamp(1_500_000);
    let wrong = AttemptKey { attempt: Attempt(2), ..key };
    let mut facts = vec![
        Fact::TaskQueued { task: key.task, deployment: deployment(2), target: target(1), step: 0 },
        Fact::TaskAccepted { key, position: Position(9) },
        Fact::TaskStarted { key, started_at: at },
        Fact::TaskBecameUnknown { key, reason: "x".to_owned() },
        Fact::TaskCancelRequested { key },
    ]
    .into_iter()
    .map(|fact| (fact.name().to_owned(), fact))
    .collect::<Vec<_>>();
    facts.push(("task_dispatched, same session".to_owned(), Fact::TaskDispatched { key, session }));
    facts.push((
        "task_dispatched, newer session".to_owned(),
        Fact::TaskDispatched { key, session: session.next() },
    ));
    facts.push((
        "task_accepted, other attempt".to_owned(),
        Fact::TaskAccepted { key: wrong, position: Position(9) },
    ));
    for (name, stage) in [
        ("delivered", EndingStage::Delivered),
        ("terminated", EndingStage::Terminated),
        ("killed", EndingStage::Killed),
    ] {
        facts.push((format!("task_ending, {name}"), Fact::TaskEnding { key, stage }));
    }
    for number in [1, 2] {
        let fact = Fact::TaskProbeAsked { key, number, until: Timestamp(2_500_000) };
        facts.push((format!("task_probe_asked, number {number}"), fact));
    }
    for answer in [
        ProbeAnswer::Done { what: "x".to_owned() },
        ProbeAnswer::NotDone { what: "x".to_owned() },
        ProbeAnswer::Unclear { reason: "x".to_owned() },
    ] {
        facts.push((format!("task_probed, {}", answer.name()), Fact::TaskProbed { key, answer }));
    }
    for (name, outcome) in outcomes() {
        let fact = Fact::TaskFinished { key, position: None, started_at: None, finished_at: at, outcome };
        facts.push((format!("task_finished, {name}"), fact));
    }
    facts
}

fn tasks(table: &mut String) {
    let fresh = || {
        let mut world = World::with_release_1(1);
        world.disconnect(1);
        world.deploy(2, 2, None);
        world
    };
    let mut situations: Vec<(String, World)> = vec![("queued".to_owned(), fresh())];
    let mut reached = |label: &str, steps: &dyn Fn(&mut World)| {
        let mut world = fresh();
        world.connect(1, vec![]);
        steps(&mut world);
        situations.push((label.to_owned(), world));
    };
    reached("dispatched", &|_| ());
    reached("accepted", &|world| {
        world.accept(1);
    });
    reached("running", &|world| {
        world.run(1);
    });
    reached("running, told to end", &|world| {
        world.run(1);
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
    });
    reached("running, TERM sent", &|world| {
        world.run(1);
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
        let key = world.task_on(1).key();
        let stage = stella_protocol::message::EndingStage::Terminated;
        world.report(1, Report::Ending(Ending { key, stage }));
    });
    reached("unknown, its host is not asked", &|world| {
        let journal = world.tenant().work[&agent(1)].journal.unwrap();
        let hello = hello(journal, vec![]);
        let capabilities = hello.capabilities & !capability::PROBES;
        world.connect_with(1, Hello { capabilities, ..hello }, false);
        world.finish(1, TaskOutcome::Unknown { reason: "x".to_owned() });
    });
    reached("unknown, its host cannot tell", &|world| {
        world.finish(1, TaskOutcome::Unknown { reason: "x".to_owned() });
        world.probe(1, Effect::Unclear { reason: "x".to_owned() });
    });
    for (name, outcome) in outcomes() {
        reached(&format!("finished as {name}"), &|world| {
            world.finish(1, outcome.clone());
        });
    }
    for (label, world) in situations {
        let deployment = world.deployment(deployment(2));
        let first = world
            .tenant()
            .tasks
            .values()
            .find(|task| task.deployment == deployment.id && task.step.as_str() == "install");
        let (key, session) = (first.unwrap().key(), world.session(1));
        rows(table, &format!("task {label}"), &world.state, &task_facts(key, session), |state| {
            let task = &state.tenants[&TENANT].tasks[&key.task];
            let asked = task.cancellation().map(|it| format!(", its cancellation {}", it.name()));
            let probed = task.unprobed().map(|it| format!(", {it}"));
            format!("{}{}{}", task.state.name(), asked.unwrap_or_default(), probed.unwrap_or_default())
        });
    }
}

/// A deployment to one target.
fn created(id: DeploymentId, n: u128) -> Fact {
    Fact::DeploymentCreated {
        id,
        environment: STAGING,
        release: release(2),
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::Stop,
        cause: Cause::Requested,
        targets: vec![PlannedTarget {
            target: target(n),
            release: release(2),
            previous: None,
            domain: None,
            legs: vec![],
        }],
        deadline: Timestamp(9_000_000),
        tolerate_failures: None,
        verification: None,
        left: Vec::new(),
    }
}

fn proof_facts(world: &World) -> Vec<(String, Fact)> {
    let id = deployment(2);
    let number = world.deployment(id).way_back.asked;
    let asked = |number, targets: &[u128]| Fact::WayBackAsked {
        deployment: id,
        number,
        targets: targets.iter().map(|n| target(*n)).collect(),
        until: Timestamp(9_000_000),
    };
    let answered = |answer| Fact::WayBackAnswered { deployment: id, target: target(1), answer };
    let reason = || "x".to_owned();
    [
        ("way_back_asked", asked(number + 1, &[1, 2])),
        ("way_back_asked, nobody", asked(number + 1, &[])),
        ("way_back_asked, the same again", asked(number, &[1])),
        ("way_back_answered, proven", answered(ProofAnswer::Proven { files: 1, bytes: 2 })),
        ("way_back_answered, refuted", answered(ProofAnswer::Refuted { reason: reason() })),
        ("way_back_unanswered", Fact::WayBackUnanswered { deployment: id }),
        ("way_back_waived", Fact::WayBackWaived { deployment: id, reason: reason() }),
    ]
    .map(|(name, fact)| (name.to_owned(), fact))
    .into()
}

fn deployment_facts(world: &World) -> Vec<(String, Fact)> {
    let (id, reason) = (deployment(2), "x".to_owned());
    let part = &world.deployment(id).targets[&target(1)].progress;
    let task = part.task().unwrap_or(TaskId(uuid::Uuid::nil()));
    let pause = |until, canary_step, cause| Fact::DeploymentPaused {
        id,
        reason: reason.clone(),
        until,
        canary_step,
        cause,
    };
    let paused = |until, canary_step| pause(until, canary_step, PauseCause::Person);
    let mut facts: Vec<(String, Fact)> = vec![
        paused(None, None),
        Fact::DeploymentResumed { id },
        Fact::DeploymentHalted {
            id,
            reason: reason.clone(),
            on_failure: None,
            cause: RollbackReason::DeploymentFailed,
        },
        Fact::DeploymentCancelRequested { id, reason: reason.clone() },
        Fact::DeploymentOverdue { id, reason: reason.clone() },
        Fact::DeploymentSucceeded { id, proves: None },
        Fact::DeploymentFailed { id, reason: reason.clone(), keeps_proof: false },
        Fact::DeploymentCancelled { id, reason: reason.clone() },
        Fact::DeploymentArchived { id },
    ]
    .into_iter()
    .map(|fact| (fact.name().to_owned(), fact))
    .collect();
    facts.push(("deployment_paused, canary step 1".to_owned(), paused(Some(Timestamp(9_000_000)), Some(1))));
    facts.push(("deployment_paused, canary step 2".to_owned(), paused(None, Some(2))));
    facts.push((
        "deployment_paused, batch".to_owned(),
        pause(Some(Timestamp(9_000_000)), None, PauseCause::Batch),
    ));
    facts.push((
        "deployment_paused, verification".to_owned(),
        pause(Some(Timestamp(9_000_000)), None, PauseCause::Verification),
    ));
    facts.push(("deployment_paused, warm-up".to_owned(), pause(None, None, PauseCause::WarmUp)));
    for stage in [Stage::Check, Stage::Switch] {
        let name = format!("deployment_stage_began, {}", stage.name());
        facts.push((name, Fact::DeploymentStageBegan { id, stage }));
    }
    facts.push(("deployment_paused, way back".to_owned(), pause(None, None, PauseCause::WayBack)));
    facts.extend(proof_facts(world));
    facts.push(("deployment_keep_ended".to_owned(), Fact::DeploymentKeepEnded { id }));
    facts.push(("deployment_created, again".to_owned(), created(id, 1)));
    facts.push(("deployment_created, another on web-1".to_owned(), created(deployment(9), 1)));
    facts.extend(target_facts(id, task));
    facts
}

fn target_facts(id: DeploymentId, task: TaskId) -> Vec<(String, Fact)> {
    let (mut facts, reason) = (Vec::new(), "x".to_owned());
    for n in [1, 2] {
        let started = Fact::TargetStarted { deployment: id, target: target(n), generation: Generation(2) };
        let mut more = vec![
            started,
            Fact::TargetSkipped { deployment: id, target: target(n), reason: None, never_came: false },
            Fact::TargetSucceeded { deployment: id, target: target(n) },
            Fact::TargetAbandoned { deployment: id, target: target(n) },
            Fact::TargetReady { deployment: id, target: target(n) },
            Fact::TargetWentOn { deployment: id, target: target(n) },
        ];
        more.push(Fact::TargetRetried {
            deployment: id,
            target: target(n),
            generation: Generation(u64::MAX),
        });
        if n == 1 {
            more.push(Fact::TargetFailed { deployment: id, target: target(n), task, reason: reason.clone() });
        }
        facts.extend(more.into_iter().map(|fact| (format!("{}, web-{n}", fact.name()), fact)));
        let skipped = Fact::TargetSkipped {
            deployment: id,
            target: target(n),
            reason: Some(reason.clone()),
            never_came: false,
        };
        facts.push((format!("target_skipped, web-{n}, by somebody"), skipped));
    }
    facts
}

/// A deployment of two targets, one at a time: `web-1` is worked on and `web-2` waits.
fn deployments(table: &mut String) {
    let fresh = || {
        let mut world = World::with_release_1(2);
        world.events.clear();
        world
    };
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: &dyn Fn(&mut World)| {
        let mut world = fresh();
        let mut state = world.state.clone();
        world.deploy(2, 2, Some(1));
        steps(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    let cancel = |world: &mut World| {
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
    };
    reached("running, a task is open", "", &|_| ());
    reached("running, paused", "", &|world| {
        world.ok(TenantCommand::PauseDeployment { deployment: deployment(2), reason: String::new() });
    });
    reached("running, a task is unknown", "", &|world| {
        world.finish(1, TaskOutcome::Unknown { reason: String::new() });
    });
    reached("running, the last task has failed", "target_failed", &|world| {
        world.finish(1, failed("x"));
    });
    reached("running, the last task has succeeded", "target_succeeded", &|world| world.complete(1));
    reached("running, all have succeeded", "deployment_succeeded", &|world| {
        world.complete(1);
        world.complete(2);
    });
    reached("halting, web-2 not skipped yet", "target_skipped", &|world| {
        world.finish(1, failed("x"));
    });
    reached("halting, all have ended", "deployment_failed", &|world| {
        world.finish(1, failed("x"));
    });
    reached("halting, overdue", "task_became_unknown", &|world| world.wait_ms(3_660_000));
    reached("cancelling, a task is open", "", &|world| cancel(world));
    reached("cancelling, the last task is unknown", "target_abandoned", &|world| {
        cancel(world);
        world.wait_ms(60_000);
    });
    reached("cancelling, all have ended", "deployment_cancelled", &|world| {
        cancel(world);
        world.finish(1, TaskOutcome::Cancelled);
    });
    reached("cancelled", "", &|world| {
        cancel(world);
        world.finish(1, TaskOutcome::Cancelled);
    });
    reached("cancelled, web-1 is blocked", "", &|world| {
        cancel(world);
        world.wait_ms(60_000);
    });
    reached("failed", "", &|world| {
        world.finish(1, failed("x"));
    });
    reached("succeeded", "", &|world| {
        world.complete(1);
        world.complete(2);
    });
    deployment_rows(table, situations);
}

/// Two targets that have the release, which bakes in there for a minute before the deployment has succeeded.
fn bakes(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: &dyn Fn(&mut World)| {
        let mut world = World::with_release_1(2);
        let verification = Some(Verification { bake_ms: 60_000 });
        world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
        world.set_gate(Gate { verifies: true, ttl_ms: 7_200_000, ..common::gate("errors", common::http()) });
        let mut state = world.state.clone();
        world.events.clear();
        world.deploy(2, 2, Some(2));
        world.complete(1);
        steps(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    let all = |world: &mut World| world.complete(2);
    let over = |world: &mut World| {
        world.complete(2);
        world.answer(2, "errors", Outcome::Passed);
        world.wait_ms(60_000);
    };
    reached("to be verified, web-2 is worked on", "", &|_| ());
    reached("to be verified, all are through", "deployment_paused", &all);
    reached("it bakes", "", &all);
    reached("it has baked, and its gate is asked", "", &over);
    reached("it has baked, and its gate lets through", "deployment_succeeded", &|world| {
        over(world);
        world.answer(2, "errors", Outcome::Passed);
    });
    deployment_rows(table, situations);
}

/// Two targets that are prepared, warm up, are checked once more and switched; the old colour is kept for a minute.
fn blue_greens(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: [usize; 2], warm_up_ms| {
        let mut world = World::with_release_1(2);
        world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(4))));
        let mut state = world.state.clone();
        world.events.clear();
        let strategy = blue_green(warm_up_ms, Some(60_000));
        world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
        for (n, count) in (1..).zip(steps) {
            for _ in 0..count {
                world.finish(n, TaskOutcome::Succeeded);
            }
        }
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    reached("blue-green, web-1 has its last task that prepares", "target_ready", [2, 0], None);
    reached("blue-green, web-1 is prepared", "", [2, 1], None);
    reached("blue-green, both are prepared", "deployment_stage_began", [2, 2], None);
    reached("blue-green, both are prepared and have to warm up", "deployment_paused", [2, 2], Some(60_000));
    reached("blue-green, it warms up", "", [2, 2], Some(60_000));
    reached("blue-green, its switch begins", "target_went_on", [2, 2], None);
    deployment_rows(table, situations);
    let mut world = World::with_release_1(2);
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(4))));
    let strategy = blue_green(None, Some(60_000));
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
    (1..=2).for_each(|n| world.complete(n));
    (1..=2).for_each(|n| world.complete(n));
    let state = world.state.clone();
    deployment_rows(table, vec![("blue-green, succeeded, and the old colour is kept", world, state)]);
}

/// A group of one target, and one that leads the traffic there; `web-3` is the group without a release.
fn grouped(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: [usize; 2]| {
        let mut world = World::new();
        for (n, part) in [(1, "blue"), (2, "lb"), (3, "green")] {
            world.enrol(n);
            world.connect(n, vec![]);
            world.ok(TenantCommand::CreateTarget(Box::new(in_group(n, part))));
        }
        world.ok(TenantCommand::StoreArtifact { digest: digest(2), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
        for new in [new_release(2), new_coloured(4)] {
            world.ok(TenantCommand::CreateRelease(Box::new(new)));
        }
        let mut state = world.state.clone();
        world.events.clear();
        let how = BlueGreen { groups: Some(groups(None)), ..BlueGreen::default() };
        let strategy = Strategy::BlueGreen(how);
        world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
        for (n, count) in (1..).zip(steps) {
            for _ in 0..count {
                world.finish(n, TaskOutcome::Succeeded);
            }
        }
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    reached("groups, web-1 has its last task that prepares", "target_ready", [2, 0]);
    reached("groups, web-1 is prepared", "deployment_stage_began", [2, 0]);
    reached("groups, web-2 leads the traffic away", "", [2, 0]);
    reached("groups, web-2 has led the traffic away", "target_succeeded", [2, 2]);
    reached("groups, succeeded", "", [2, 2]);
    deployment_rows(table, situations);
}

/// Two targets that have to prove that they could go back.
fn proofs(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: &dyn Fn(&mut World)| {
        let mut world = World::with_release_1(2);
        let rule = ProofRule::Required;
        world.ok(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
        let mut state = world.state.clone();
        world.events.clear();
        world.deploy(2, 2, None);
        steps(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    let present = Holding::Present { files: 1, bytes: 2 };
    reached("that nobody was asked about", "way_back_asked", &|_| ());
    reached("that waits for its proof", "", &|_| ());
    reached("of which one could not go back", "deployment_paused", &|world| {
        world.prove(1, &present);
        world.prove(2, &Holding::Absent);
    });
    reached("that is paused because one could not go back", "", &|world| {
        world.prove(1, &present);
        world.prove(2, &Holding::Absent);
    });
    reached("that is proven to have a way back", "target_started", &|world| {
        world.prove(1, &present);
        world.prove(2, &present);
    });
    deployment_rows(table, situations);
}

/// Another deployment has come to the targets since.
fn overtaken(table: &mut String) {
    let mut world = World::with_release_1(2);
    for n in 2..=3 {
        world.deploy(n, n, None);
        (1..=2).for_each(|target| world.complete(target));
    }
    let state = world.state.clone();
    deployment_rows(table, vec![("succeeded, and another one has come since", world, state)]);
}

/// Two targets, one at a time, with a pause in between and one failure that is tolerated.
fn batches(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, outcome: &dyn Fn(&mut World)| {
        let mut world = World::with_release_1(2);
        let mut state = world.state.clone();
        world.events.clear();
        let strategy = Strategy::Rolling(Rolling { pause_ms: Some(60_000), ..Rolling::of(1) });
        let tolerate_failures = Some(Amount::Count(1));
        let new = NewDeployment { strategy, tolerate_failures, ..new_deployment(2, 2, None) };
        world.ok(TenantCommand::Deploy(Box::new(new)));
        outcome(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    reached("rolling, its first batch is complete", "deployment_paused", &|world| world.complete(1));
    reached("rolling, it pauses after its first batch", "", &|world| world.complete(1));
    reached("rolling, its first batch has failed and that is tolerated", "deployment_paused", &|world| {
        world.finish(1, failed("x"));
    });
    reached(
        "rolling, all have ended, one with a failure that is tolerated",
        "deployment_succeeded",
        &|world| {
            world.finish(1, failed("x"));
            world.wait_ms(60_000);
            world.complete(2);
        },
    );
    deployment_rows(table, situations);
}

/// A canary of two targets with two steps, the first of which is complete or holds.
fn canaries(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    for (label, until) in [
        ("canary, its first step is complete", "deployment_paused"),
        ("canary, it holds at its first step", ""),
    ] {
        let mut world = World::with_release_1(2);
        let mut state = world.state.clone();
        world.events.clear();
        let strategy = canary(&[(50, Some(60_000)), (60, None)], None);
        let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
        world.ok(TenantCommand::Deploy(Box::new(new)));
        world.complete(1);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    }
    deployment_rows(table, situations);
}

fn deployment_rows(table: &mut String, situations: Vec<(&str, World, State)>) {
    for (label, world, state) in situations {
        rows(table, &format!("deployment {label}"), &state, &deployment_facts(&world), |state| {
            let Some(deployment) = state.tenants[&TENANT].deployments.get(&deployment(2)) else {
                return "gone".to_owned();
            };
            let part = |n| deployment.targets[&target(n)].progress.name();
            let paused = match (&deployment.paused, deployment.resumes_at) {
                (None, _) => "",
                (Some(_), None) => ", paused",
                (Some(_), Some(_)) => ", paused for a time",
            };
            let stage = deployment.strategy.blue_green().map(|_| format!(" ({})", deployment.stage.name()));
            let stage = stage.unwrap_or_default();
            let proof = match deployment.way_back.open {
                0 => String::new(),
                open => format!(", {open} asked"),
            };
            let proof = if deployment.way_back.waived.is_some() { ", proof waived" } else { &proof };
            let status = deployment.status.name();
            format!("{status}{stage}{paused}{proof}: web-1 {}, web-2 {}", part(1), part(2))
        });
    }
}

fn agents(table: &mut String) {
    let mut world = World::new();
    world.enrol(1);
    let mut situations = vec![("never seen", world.state.clone(), 0)];
    world.connect(1, vec![]);
    situations.push(("online", world.state.clone(), 1));
    world.disconnect(1);
    situations.push(("suspect", world.state.clone(), 1));
    world.wait_ms(30_000);
    situations.push(("offline", world.state.clone(), 1));
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: String::new() });
    situations.push(("revoked", world.state.clone(), 1));
    let id = agent(1);
    for (label, state, session) in situations {
        let (reason, journal, version) = (String::new(), mark(1, 0), String::new());
        let connected = |session| Fact::AgentConnected {
            agent: id,
            session,
            journal,
            version: version.clone(),
            capabilities: 0,
        };
        let gone = |session| Fact::AgentDisconnected { agent: id, session, reason: reason.clone() };
        let enrolled = |agent, key| Fact::AgentEnrolled {
            agent,
            name: name("other"),
            token: TOKEN,
            key_fingerprint: digest(key),
            hostname: String::new(),
            profile_untold: false,
        };
        let facts = [
            ("agent_connected, next session", connected(SessionEpoch(session + 1))),
            ("agent_connected, same session", connected(SessionEpoch(session))),
            ("agent_disconnected, its session", gone(SessionEpoch(session))),
            ("agent_disconnected, other session", gone(SessionEpoch(session + 7))),
            ("agent_offline", Fact::AgentOffline { agent: id }),
            ("agent_revoked", Fact::AgentRevoked { agent: id, reason: reason.clone() }),
            ("agent_enrolled, again", enrolled(id, 9)),
            ("agent_enrolled, another", enrolled(agent(2), 9)),
        ]
        .map(|(name, fact)| (name.to_owned(), fact));
        rows(table, &format!("agent {label}"), &state, &facts, |state| {
            let agent = &state.tenants[&TENANT].agents[&id];
            let connectivity = match agent.connectivity {
                Connectivity::Never => "never seen",
                Connectivity::Online { .. } => "online",
                Connectivity::Suspect { .. } => "suspect",
                Connectivity::Offline { .. } => "offline",
            };
            format!("{connectivity}{}", if agent.revoked.is_some() { ", revoked" } else { "" })
        });
    }
}

/// A promotion that needs two approvals, of which the table's person gives one.
fn promotions(table: &mut String) {
    let id = promotion(2);
    let fresh = || {
        let mut world = World::with_release_1(1);
        (1..=3).for_each(|n| world.person(n));
        let rule = Some(rule(2, &[]));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
        world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "x".to_owned() });
        let new = TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)));
        world.tell_as(1, new).unwrap();
        world
    };
    let reason = || "x".to_owned();
    let objection = Objection::Other;
    let both = |world: &mut World| {
        world.approve(2, 2).unwrap();
        world.approve(3, 2).unwrap();
    };
    type Steps<'s> = &'s dyn Fn(&mut World);
    let situations: [(&str, Steps<'_>); 9] = [
        ("pending", &|_| ()),
        ("pending, approved by another", &|world| drop(world.approve(3, 2).unwrap())),
        ("pending, approved by the same", &|world| drop(world.approve(2, 2).unwrap())),
        ("approved", &both),
        ("started", &|world| {
            both(world);
            world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
        }),
        ("rejected", &|world| {
            let reject = TenantCommand::RejectPromotion { promotion: id, objection, reason: reason() };
            world.tell_as(2, reject).unwrap();
        }),
        ("withdrawn", &|world| {
            world.ok(TenantCommand::WithdrawPromotion { promotion: id, reason: reason() });
        }),
        ("expired", &|world| world.wait_ms(86_400_000)),
        ("invalidated", &|world| {
            world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: None });
        }),
    ];
    for (label, steps) in situations {
        let mut world = fresh();
        steps(&mut world);
        let (wanted, plan) = (Box::new(new_deployment(2, 2, None)), world.promotion(2).plan);
        let rule = world.promotion(2).rule.clone();
        let facts = [
            Fact::PromotionRequested { id, wanted, plan, rule, expires_at: None, chosen_by: Vec::new() },
            Fact::ApprovalGranted { id, plan: plan.root, reason: reason(), signature: None },
            Fact::ApprovalLapsed { id, account: common::account(2), reason: reason() },
            Fact::PromotionRejected { id, objection, reason: reason() },
            Fact::PromotionWithdrawn { id, reason: reason() },
            Fact::PromotionExpired { id },
            Fact::PromotionAskedAgain { id, expires_at: Timestamp(u64::MAX) },
            Fact::PromotionInvalidated { id, reason: reason() },
            Fact::PromotionArchived { id },
            created(deployment(2), 1),
        ];
        let mut facts = facts.map(|fact| (fact.name().to_owned(), fact)).to_vec();
        let other = Fact::ApprovalGranted { id, plan: digest(9), reason: reason(), signature: None };
        facts.push(("approval_granted, of another plan".to_owned(), other));
        rows(table, &format!("promotion {label}"), &world.state, &facts, |state| {
            let Some(promotion) = state.tenants[&TENANT].promotions.get(&id) else {
                return "gone".to_owned();
            };
            format!("{}, {} of 2 approvals", promotion.status_name(), promotion.approvals.len())
        });
    }
}

/// A gate that asks something outside, for one promotion.
fn gates(table: &mut String) {
    let id = promotion(2);
    let fresh = || {
        let mut world = World::with_release_1(2);
        (1..=2).for_each(|n| world.person(n));
        world.set_gate(common::gate("change", common::http()));
        world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, Some(1))))).unwrap();
        world
    };
    type Steps<'s> = &'s dyn Fn(&mut World);
    let locked = |world: &mut World| {
        world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "x".to_owned() });
    };
    let situations: [(&str, Steps<'_>); 8] = [
        ("asked", &|_| ()),
        ("passed, and its promotion waits", &|world| {
            locked(world);
            world.answer(2, "change", Outcome::Passed);
        }),
        ("failed", &|world| drop(world.answer(2, "change", Outcome::Failed))),
        ("overridden, and its promotion waits", &|world| {
            locked(world);
            let (gate, reason) = (name("change"), "x".to_owned());
            world.tell_as(2, TenantCommand::OverrideGate { promotion: id, gate, reason }).unwrap();
        }),
        ("passed, and its deployment runs", &|world| drop(world.answer(2, "change", Outcome::Passed))),
        ("asked before the next wave", &|world| {
            world.answer(2, "change", Outcome::Passed);
            world.wait_ms(60_000);
            world.complete(1);
        }),
        ("closed before the next wave", &|world| {
            world.answer(2, "change", Outcome::Passed);
            world.wait_ms(60_000);
            world.complete(1);
            world.answer(2, "change", Outcome::Failed);
        }),
        ("of a promotion that was withdrawn", &|world| {
            world.ok(TenantCommand::WithdrawPromotion { promotion: id, reason: "x".to_owned() });
        }),
    ];
    for (label, steps) in situations {
        let mut world = fresh();
        steps(&mut world);
        let facts = gate_facts(&world);
        rows(table, &format!("gate {label}"), &world.state, &facts, |state| {
            let tenant = &state.tenants[&TENANT];
            let record = &tenant.gates[&id][&name("change")];
            let verdict = record.verdict.as_ref().map_or("no verdict", |it| it.outcome.name());
            let asked = if record.asked.is_some() { ", asked" } else { "" };
            let again = if record.again_at.is_some() { ", again later" } else { "" };
            let overridden = if record.overridden.is_some() { ", overridden" } else { "" };
            let started = tenant.deployments.get(&deployment(2)).map_or(0, |it| it.counts.active);
            format!("{verdict}{asked}{again}{overridden}, {started} targets worked on")
        });
    }
}

fn gate_facts(world: &World) -> Vec<(String, Fact)> {
    let (promotion, gate) = (promotion(2), name("change"));
    let record = world.gate(2, "change");
    let policy = common::gate("change", common::http()).policy();
    let next = record.evaluations + 1;
    let asked = |number| Fact::GateAsked { promotion, gate: gate.clone(), number, policy };
    let evaluated = |number, outcome, expires_at| Fact::GateEvaluated {
        promotion,
        gate: gate.clone(),
        kind: "http".to_owned(),
        number,
        policy,
        outcome,
        reason: "x".to_owned(),
        inputs: None,
        expires_at,
        again_at: None,
    };
    let started = |target_number| Fact::TargetStarted {
        deployment: deployment(2),
        target: target(target_number),
        generation: Generation(9_000_000),
    };
    let facts = [
        ("gate_asked", asked(next)),
        ("gate_asked, another number", asked(next + 1)),
        ("gate_evaluated, passed", evaluated(next, Outcome::Passed, None)),
        ("gate_evaluated, failed", evaluated(next, Outcome::Failed, None)),
        ("gate_evaluated, another number", evaluated(next + 1, Outcome::Passed, None)),
        (
            "gate_overridden",
            Fact::GateOverridden { promotion, gate: gate.clone(), policy, reason: "x".to_owned() },
        ),
        ("target_started, the second one", started(2)),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
}

/// A key that signs releases, and the release 2 that it may have signed.
fn signatures(table: &mut String) {
    type Steps<'s> = &'s dyn Fn(&mut World);
    let add = |world: &mut World| drop(world.ok(common::add_key(1)));
    let revoke = TenantCommand::RevokeReleaseKey { key: common::key_id(1), reason: "x".to_owned() };
    let situations: [(&str, Steps<'_>); 5] = [
        ("unknown", &|_| ()),
        ("registered", &add),
        ("that has signed", &|world| {
            add(world);
            world.sign(1, 2).unwrap();
        }),
        ("that was revoked", &|world| {
            add(world);
            world.ok(revoke.clone());
        }),
        ("that has signed and was revoked", &|world| {
            add(world);
            world.sign(1, 2).unwrap();
            world.ok(revoke.clone());
        }),
    ];
    for (label, steps) in situations {
        let mut world = World::with_release_1(1);
        steps(&mut world);
        let (id, key) = (common::key_id(1), common::signing_key(1));
        let statement = |n| statement(&world.tenant().releases[&release(n)]);
        let signed =
            |n, of| Fact::ReleaseSigned { release: release(n), key: id, signature: key.sign(&statement(of)) };
        let added = |id| Fact::ReleaseKeyAdded { id, name: name("ci"), public_key: key.public() };
        let facts = [
            ("release_key_added", added(id)),
            ("release_key_added, of another fingerprint", added(digest(1))),
            ("release_key_revoked", Fact::ReleaseKeyRevoked { id, reason: "x".to_owned() }),
            ("release_signed", signed(2, 2)),
            ("release_signed, another statement", signed(2, 1)),
        ]
        .map(|(name, fact)| (name.to_owned(), fact));
        rows(table, &format!("release key {label}"), &world.state, &facts, |state| {
            let tenant = &state.tenants[&TENANT];
            let counted = common::signed(1, &[]).counted(tenant, release(2)).count();
            let revoked = tenant.release_keys.get(&id).is_some_and(|key| key.revoked.is_some());
            let signatures = tenant.signatures.get(&release(2)).map_or(0, |it| it.len());
            format!(
                "{}, {counted} of {signatures} signatures count",
                if revoked { "revoked" } else { "good" }
            )
        });
    }
}

#[test]
fn the_table_of_transitions_is_as_committed() {
    let mut table = String::new();
    tasks(&mut table);
    deployments(&mut table);
    proofs(&mut table);
    overtaken(&mut table);
    canaries(&mut table);
    batches(&mut table);
    bakes(&mut table);
    blue_greens(&mut table);
    grouped(&mut table);
    agents(&mut table);
    promotions(&mut table);
    gates(&mut table);
    signatures(&mut table);
    golden::compare("transitions.txt", &table);
}

#[test]
fn a_stream_takes_only_its_own_facts() {
    let world = World::with_release_1(1);
    assert!(before(&world, "") == world.state);
    for (stream, event) in &world.events {
        let other = if *stream == StreamId::System { StreamId::Tenant(TENANT) } else { StreamId::System };
        let error = world.state.clone().apply(other, event).unwrap_err();
        assert_eq!(error.fact, event.fact.name(), "both sides are named");
        assert!(!error.state.is_empty() && !error.subject.is_empty());
    }
}
