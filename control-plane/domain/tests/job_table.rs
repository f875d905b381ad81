//! Every state of a job and every fact about it: what follows, or that it is refused. The table is committed; `UPDATE_GOLDEN=1 cargo test`
//! writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::common::golden;
use crate::common::{self, STAGING, TENANT, World, failed, name, rule, target};
use serde_json::json;
use stella_domain::command::{NewRun, TenantCommand};
use stella_domain::deployment::{Cause, OnFailure, RollbackReason};
use stella_domain::event::{Event, Fact, PlannedTarget, StreamId};
use stella_domain::name::Identifier;
use stella_domain::run::{StepEnd, Work};
use stella_domain::state::State;
use stella_domain::strategy::Strategy;
use stella_protocol::id::{DeploymentId, Generation, PromotionId, RunId};
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// A run whose step `work` does one thing on web-1 and then on web-2; both have release 1 by deployment 1.
fn fresh(needs_approval: bool) -> World {
    let mut world = World::with_release_1(2);
    (1..=2).for_each(|n| world.person(n));
    if needs_approval {
        let rule = Some(rule(1, &[]));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    }
    let argv = json!({ "argv": ["/bin/true"] });
    let task = json!({ "environment": "staging", "max_parallel": 1, "steps": [{ "name": "once", "command": argv }] });
    let template = json!({ "name": "ops", "steps": [
        { "id": "work", "retry": { "attempts": 2 }, "task": task }, { "id": "idle", "wait": "30d" },
    ]});
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let new = NewRun { id: RUN, workflow: name("ops"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

/// The job that the table is about.
fn job(world: &World) -> DeploymentId {
    let promotions = world.tenant().promotions.values();
    promotions.filter(|it| it.wanted.job.is_some()).map(|it| it.wanted.id).min().unwrap()
}

fn situations() -> Vec<(&'static str, World)> {
    let mut situations = vec![("that waits for an approval", fresh(true))];
    let mut reached = |label, steps: &dyn Fn(&mut World)| {
        let mut world = fresh(false);
        steps(&mut world);
        situations.push((label, world));
    };
    reached("with an open task", &|_| ());
    reached("that is paused", &|world| {
        let deployment = job(world);
        world.ok(TenantCommand::PauseDeployment { deployment, reason: "x".to_owned() });
    });
    reached("that is done on web-1", &|world| {
        world.finish(1, TaskOutcome::Succeeded);
    });
    reached("that is done", &|world| {
        world.finish(1, TaskOutcome::Succeeded);
        world.finish(2, TaskOutcome::Succeeded);
    });
    reached("that has failed on web-1, and another attempt follows", &|world| {
        world.finish(1, failed("x"));
    });
    reached("whose task is unknown", &|world| {
        world.finish(1, TaskOutcome::Unknown { reason: "x".to_owned() });
    });
    reached("whose run is being cancelled", &|world| {
        world.run(1);
        world.ok(TenantCommand::CancelRun { run: RUN, reason: "x".to_owned() });
    });
    reached("whose run was cancelled", &|world| {
        world.run(1);
        world.ok(TenantCommand::CancelRun { run: RUN, reason: "x".to_owned() });
        world.finish(1, TaskOutcome::Cancelled);
    });
    situations
}

/// A deployment to web-2 that says that it is a job of this step.
fn created(id: DeploymentId, step: &str) -> Fact {
    let release = stella_domain::job::own_release(id);
    let planned = PlannedTarget { target: target(2), release, previous: None, domain: None, legs: vec![] };
    Fact::DeploymentCreated {
        id,
        environment: STAGING,
        release,
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::Stop,
        cause: Cause::Job { workflow: name("ops"), run: RUN, step: self::id(step) },
        targets: vec![planned],
        deadline: Timestamp(9_000_000),
        tolerate_failures: None,
        verification: None,
        left: Vec::new(),
    }
}

fn facts(world: &World) -> Vec<(String, Fact)> {
    let (id, other) = (job(world), common::deployment(7));
    let reason = || "x".to_owned();
    let mut facts = vec![
        ("deployment_created".to_owned(), created(id, "work")),
        ("deployment_created, of another step".to_owned(), created(id, "idle")),
        ("deployment_created, that nobody asked for".to_owned(), created(other, "work")),
    ];
    let more = [
        Fact::DeploymentHalted {
            id,
            reason: reason(),
            on_failure: None,
            cause: RollbackReason::DeploymentFailed,
        },
        Fact::DeploymentCancelRequested { id, reason: reason() },
        Fact::DeploymentOverdue { id, reason: reason() },
        Fact::DeploymentSucceeded { id, proves: None },
        Fact::DeploymentFailed { id, reason: reason(), keeps_proof: false },
        Fact::DeploymentCancelled { id, reason: reason() },
        Fact::DeploymentResumed { id },
        Fact::DeploymentArchived { id },
        Fact::PromotionArchived { id: PromotionId(id.0) },
        Fact::PromotionWithdrawn { id: PromotionId(id.0), reason: reason() },
    ];
    facts.extend(more.map(|fact| (fact.name().to_owned(), fact)));
    for n in [1, 2] {
        let (deployment, target) = (id, target(n));
        let generation = Generation(u64::MAX);
        let more = [
            Fact::TargetStarted { deployment, target, generation },
            Fact::TargetRetried { deployment, target, generation },
            Fact::TargetSucceeded { deployment, target },
            Fact::TargetAbandoned { deployment, target },
            Fact::TargetReady { deployment, target },
            Fact::TargetSkipped { deployment, target, reason: None, never_came: false },
            Fact::TargetSkipped { deployment, target, reason: Some(reason()), never_came: false },
        ];
        for (at, fact) in more.into_iter().enumerate() {
            let by = if at == 6 { ", by somebody" } else { "" };
            facts.push((format!("{}, web-{n}{by}", fact.name()), fact));
        }
    }
    let (run, step) = (RUN, self::id("work"));
    let work = Work::Deployment { deployment: other };
    let outputs = BTreeMap::new();
    facts.push((
        "step_started, with another job".to_owned(),
        Fact::StepStarted { run, step: step.clone(), work, deadline: None },
    ));
    facts.push((
        "step_ended, succeeded".to_owned(),
        Fact::StepEnded { run, step, end: StepEnd::Succeeded { outputs } },
    ));
    facts
}

/// How far the job and its step are, and what is known of the targets beside that.
fn seen(state: &State, id: DeploymentId) -> String {
    let tenant = &state.tenants[&TENANT];
    let step = tenant.runs[&RUN].steps[&self::id("work")].state.name();
    let mut text = match tenant.deployments.get(&id) {
        None if tenant.promotions.contains_key(&PromotionId(id.0)) => "asked for".to_owned(),
        None => "gone".to_owned(),
        Some(job) => {
            let part = |n| job.targets.get(&target(n)).map_or("-", |part| part.progress.name());
            let paused = if job.paused.is_some() { ", paused" } else { "" };
            format!("{}{paused}: web-1 {}, web-2 {}", job.status.name(), part(1), part(2))
        }
    };
    let untouched = tenant.targets.values().all(|it| {
        let first = Some(common::deployment(1));
        it.current == Some(common::release(1)) && (it.last, it.last_visit()) == (first, first)
    });
    assert!(untouched, "INV-22: {text}");
    write!(text, "; step {step}").unwrap();
    text
}

#[test]
fn the_table_of_transitions_is_as_committed() {
    let mut table = String::new();
    for (label, world) in situations() {
        writeln!(table, "job {label}").unwrap();
        for (name, fact) in facts(&world) {
            let mut after = world.state.clone();
            let (actor, trace) = (common::person(2), TraceContext::default());
            let event = Event { at: Timestamp(2_000_000), actor, trace, fact };
            let result = match after.apply(StreamId::Tenant(TENANT), &event) {
                Ok(()) => format!("-> {}", seen(&after, job(&world))),
                Err(_) => "refused".to_owned(),
            };
            writeln!(table, "    {name:<42} {result}").unwrap();
        }
    }
    golden::compare("jobs.txt", &table);
}
