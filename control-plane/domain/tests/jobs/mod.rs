//! Jobs: steps of a run that do something on targets without bringing them a release.

mod rules;
mod template;

use std::collections::BTreeMap;

use crate::common::colours::{blue_green, new_coloured};
use crate::common::{
    self, STAGING, World, add_key, checked_run, conflict, digest, end, facts, failed, freeze, gate, http,
    name, new_deployment, new_release, new_target, release, rule, security, signed, states_of, target,
};
use serde_json::{Value, json};
use stella_domain::access::{Grant, Role};
use stella_domain::amount::Amount;
use stella_domain::archive::{Rule, due};
use stella_domain::command::{NewDeployment, NewRelease, NewRun, SystemCommand, TenantCommand};
use stella_domain::decide::{Decision, PlannedStep, plan_run};
use stella_domain::deployment::{Cause, Deployment, Status};
use stella_domain::gate::{Check, Outcome};
use stella_domain::job::own_release;
use stella_domain::name::Identifier;
use stella_domain::rejection::Rejection;
use stella_domain::run::{Run, RunStatus, StepState};
use stella_domain::target::Target;
use stella_domain::way_back::ProofRule;
use stella_domain::workflow::{Template, check};
use stella_protocol::id::{DeploymentId, PromotionId, RunId, TaskId};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::TaskSpec;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// Three targets with release 1, two of which have the role `db`; and three people.
fn world() -> World {
    let mut world = World::with_targets(0);
    for n in 1..=3 {
        let mut new = new_target(n);
        if n > 1 {
            new.labels = BTreeMap::from([("role".to_owned(), "db".to_owned())]);
        }
        world.enrol(n);
        world.connect(n, vec![]);
        world.ok(TenantCommand::CreateTarget(Box::new(new)));
    }
    world.deploy(1, 1, None);
    (1..=3).for_each(|n| world.complete(n));
    (1..=3).for_each(|n| world.person(n));
    world
}

/// `migrate` on what has the role `db`: a command, then a check.
fn migrate(more: Value) -> Value {
    let mut task = json!({
        "environment": "staging", "labels": { "role": "db" },
        "steps": [
            { "name": "migrate", "timeout": "10m", "command": {
                "argv": ["/opt/migrate", "--to", "${inputs.to}", "--on", "${target}", "--literal", "$${HOME}"],
                "environment": { "PORT": "${port}" }, "working_directory": "${slot:none}", "user": "app" } },
            { "name": "check", "check_http": { "url": "http://localhost:${port}/${inputs.to}", "successes": 2 } },
        ],
    });
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    task
}

fn template(steps: Value) -> Template {
    let inputs = json!({ "to": { "type": "text", "default": "2.0" } });
    serde_json::from_value(json!({ "name": "ops", "inputs": inputs, "steps": steps })).unwrap()
}

fn apply(world: &mut World, steps: Value) {
    world.ok(TenantCommand::ApplyWorkflow(Box::new(template(steps))));
}

/// Person 1 starts the workflow.
fn start(world: &mut World, to: &str) -> Result<Decision, Rejection> {
    let inputs = BTreeMap::from([(id("to"), json!(to))]);
    let new = NewRun { id: RUN, workflow: name("ops"), version: None, inputs };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new)))
}

/// Person 1 runs these steps.
fn run_in(world: &mut World, steps: Value) {
    apply(world, steps);
    start(world, "2.0").unwrap();
}

fn run(steps: Value) -> World {
    let mut world = world();
    run_in(&mut world, steps);
    world
}

fn now(world: &World) -> &Run {
    checked_run(world, RUN)
}

fn states(world: &World) -> String {
    states_of(now(world))
}

fn reason(world: &World) -> String {
    match &now(world).status {
        RunStatus::Failed { reason } | RunStatus::Failing { reason } | RunStatus::Compensating { reason } => {
            reason.clone()
        }
        other => panic!("{other:?}"),
    }
}

/// The job that a step has begun last.
fn job<'w>(world: &'w World, step: &str) -> &'w Deployment {
    world.deployment(now(world).steps[&id(step)].job.expect("a job"))
}

/// The targets that a step's job works on now.
fn active(world: &World, step: &str) -> Vec<u128> {
    let job = job(world, step);
    (1..=3).filter(|n| job.targets.get(&target(*n)).is_some_and(|it| it.progress.task().is_some())).collect()
}

/// What is known of a target beside who works on it.
fn known(target: &Target) -> Target {
    Target { generation: stella_protocol::id::Generation(0), active: None, ..target.clone() }
}

fn all_known(world: &World) -> Vec<Target> {
    world.tenant().targets.values().map(|it| known(it)).collect()
}

#[test]
fn a_step_runs_something_on_the_targets_that_have_its_labels_and_leaves_them_as_they_are() {
    let mut world = world();
    let (before, totals) = (all_known(&world), world.tenant().totals.deployments.clone());
    let generation = world.tenant().targets[&target(2)].generation;
    run_in(
        &mut world,
        json!([
            { "id": "schema", "task": migrate(json!({ "max_parallel": 1 })) },
            { "id": "tell", "needs": ["schema"], "http": { "url": "https://example.com/",
              "body": "${steps.schema.outputs.succeeded} of ${steps.schema.outputs.succeeded + steps.schema.outputs.failed}" } },
        ]),
    );
    assert_eq!(active(&world, "schema"), [2], "one at a time, in the order of their names");
    let task = world.task_on(2);
    let TaskSpec::Command(command) = &task.spec else { panic!() };
    assert_eq!(
        command.argv,
        ["/opt/migrate", "--to", "2.0", "--on", "web-2", "--literal", "${HOME}"],
        "what the run says and what the target says"
    );
    assert_eq!(command.environment["PORT"], "802");
    assert_eq!((command.working_directory.as_deref(), command.user.as_deref()), (Some(""), Some("app")));
    assert_eq!(command.timeout_ms, 600_000);
    assert!(task.generation > generation, "what comes later is fenced off from what came before");
    assert_eq!(world.tenant().targets[&target(2)].active, Some(job(&world, "schema").id));
    world.finish(2, TaskOutcome::Succeeded);
    let TaskSpec::Check(probe) = &world.task_on(2).spec else { panic!() };
    assert_eq!((probe.successes, probe.interval_ms, probe.timeout_ms), (2, 1_000, 300_000));
    world.finish(2, TaskOutcome::Succeeded);
    assert_eq!(active(&world, "schema"), [3]);
    world.complete(3);
    assert_eq!(states(&world), "running: schema succeeded, tell running");
    let outputs = &now(&world).steps[&id("schema")].outputs;
    let job = job(&world, "schema");
    assert_eq!(outputs["deployment"], json!(job.id));
    assert_eq!(job.cause, Cause::Job { workflow: name("ops"), run: RUN, step: id("schema") });
    assert_eq!(job.created_by, Some(common::person(1)), "with the authority of whoever started the run");
    let StepState::Running { work: stella_domain::run::Work::Http(call), .. } =
        &now(&world).steps[&id("tell")].state
    else {
        panic!()
    };
    assert_eq!(call.body, Some(json!("2 of 2")));
    assert_eq!(all_known(&world), before, "neither what is there nor what came last has changed");
    assert_eq!(world.tenant().totals.deployments, totals, "and nothing was deployed");
    let (own, tenant) = (own_release(job.id), world.tenant());
    assert!(!tenant.releases.contains_key(&own), "nobody else can name what it ran");
    assert_eq!(tenant.recipe(own).unwrap().steps.len(), 2);
    end(&world);
}

#[test]
fn a_job_holds_its_targets_like_a_deployment_and_is_no_obstacle_to_a_way_back() {
    let mut world = world();
    world.deploy(2, 2, None);
    apply(&mut world, json!([{ "id": "schema", "retry": { "attempts": 3 }, "task": migrate(json!({})) }]));
    start(&mut world, "2.0").unwrap();
    assert_eq!(states(&world), "running: schema backing_off", "a deployment works on its targets");
    (1..=3).for_each(|n| world.complete(n));
    world.wait_ms(5_000);
    assert_eq!(active(&world, "schema"), [2, 3]);
    let busy = conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(3, 3, None)))));
    assert!(busy.contains("works on target web-2"), "{busy}");
    let busy = conflict(world.tell(TenantCommand::RemoveTarget { id: target(2) }));
    assert!(busy.contains("web-2"), "{busy}");
    (2..=3).for_each(|n| world.complete(n));
    assert_eq!(states(&world), "succeeded: schema succeeded");
    let ran = job(&world, "schema").id;
    // There is nothing to take back, and no attempt beside those of the step.
    let nothing =
        conflict(world.tell(TenantCommand::Rollback { id: common::deployment(8), of: ran, targets: None }));
    assert!(nothing.starts_with("there is nothing to roll back"), "{nothing}");
    let again = TenantCommand::RetryDeployment { id: common::deployment(8), of: ran, targets: None };
    assert!(conflict(world.tell(again)).contains("retry that step instead"));
    // What it came after can still be taken back to what was before that.
    world.ok(TenantCommand::Rollback { id: common::deployment(9), of: common::deployment(2), targets: None });
    (1..=3).for_each(|n| world.complete(n));
    assert!(world.tenant().targets.values().all(|it| it.current == Some(release(1))));
    end(&world);
}

#[test]
fn so_many_failures_as_are_tolerated_are_no_failure() {
    let mut world = run(
        json!([{ "id": "schema", "task": migrate(json!({ "labels": {}, "tolerate_failures": 1, "max_parallel": 2 })) }]),
    );
    assert_eq!(active(&world, "schema"), [1, 2], "all targets of the environment, two at a time");
    world.finish(1, failed("no space"));
    assert_eq!(active(&world, "schema"), [2, 3]);
    (2..=3).for_each(|n| world.complete(n));
    assert_eq!(states(&world), "succeeded: schema succeeded");
    let outputs = &now(&world).steps[&id("schema")].outputs;
    assert_eq!((&outputs["succeeded"], &outputs["failed"]), (&json!(2), &json!(1)));
    end(&world);
    let mut world = run(json!([
        { "id": "prepare", "task": migrate(json!({ "targets": ["web-${1}"], "labels": {} })) },
        { "id": "schema", "needs": ["prepare"], "on_failure": "compensate", "task": migrate(json!({ "max_parallel": "50%" })) },
        { "id": "undo", "compensates": "prepare", "task": migrate(json!({ "targets": ["web-1"], "labels": {} })) },
    ]));
    world.complete(1);
    world.finish(2, failed("no space"));
    assert_eq!(reason(&world), "step schema: the job failed: step migrate on web-2 failed: no space");
    assert_eq!(active(&world, "undo"), [1], "what was done is made up for by another job");
    world.complete(1);
    assert_eq!(states(&world), "failed: prepare succeeded, schema failed, undo succeeded");
    assert!(
        world.tenant().targets.values().all(|it| it.current == Some(release(1))),
        "and nothing is rolled back"
    );
    end(&world);
}

#[test]
fn another_attempt_leaves_out_where_it_was_done() {
    let mut world = run(json!([{ "id": "schema", "retry": { "attempts": 2, "backoff": "10s" }, "hold": "1h",
        "task": migrate(json!({ "labels": {}, "tolerate_failures": "34%", "max_parallel": "50%" })) }]));
    world.complete(1);
    world.finish(2, failed("no space"));
    world.finish(3, failed("no space"));
    let first = job(&world, "schema").id;
    assert_eq!(states(&world), "running: schema backing_off");
    world.wait_ms(10_000);
    let second = job(&world, "schema");
    assert_ne!(second.id, first);
    assert_eq!(second.order.to_vec(), [target(2), target(3)], "web-1 is done");
    assert_eq!(active(&world, "schema"), [2, 3], "half of three, rounded up, stays two");
    assert_eq!(second.tolerate_failures, Some(Amount::Count(1)));
    assert_eq!(
        world.tenant().promotions[&PromotionId(second.id.0)].wanted.job.as_ref().unwrap().done,
        [target(1)]
    );
    world.complete(2);
    world.finish(3, failed("no space"));
    let outputs = &now(&world).steps[&id("schema")].outputs;
    assert_eq!((&outputs["succeeded"], &outputs["failed"]), (&json!(2), &json!(1)), "over all attempts");
    end(&world);
}

#[test]
fn what_nobody_knows_is_not_done_again_before_somebody_knows() {
    for (succeeded, done) in [(true, [2].as_slice()), (false, &[])] {
        let mut world = run(
            json!([{ "id": "schema", "timeout": "1h", "retry": { "attempts": 20, "backoff": "10s", "backoff_max": "10s" },
            "task": migrate(json!({ "steps": [{ "name": "once", "command": { "argv": ["/opt/once"] } }] })) }]),
        );
        let lost: TaskId = world.run(2);
        world.finish(3, TaskOutcome::Succeeded);
        world.disconnect(2);
        world.connect_with(2, common::hello(common::mark(77, 0), vec![]), false);
        assert!(common::is_unknown(world.task(lost)));
        assert_eq!(states(&world), "running: schema running", "nobody has given it up");
        world.wait_ms(3_600_000);
        assert_eq!(world.tenant().targets[&target(2)].blocked_by, Some(lost), "its time was up");
        let first = job(&world, "schema").id;
        // However often it is tried, and even where a promotion could wait for the target.
        world.set_gate(gate("manual", Check::Manual));
        world.wait_ms(30_000);
        assert!(now(&world).steps[&id("schema")].attempts > 2);
        assert_eq!(job(&world, "schema").id, first);
        assert!(world.tenant().open_promotions.is_empty());
        let StepState::BackingOff { reason, .. } = &now(&world).steps[&id("schema")].state else { panic!() };
        assert!(reason.starts_with("nobody knows what became of task"), "{reason}");
        world.ok(TenantCommand::RemoveGate { environment: STAGING, gate: name("manual") });
        world.ok(TenantCommand::SettleTask { task: lost, succeeded, reason: "looked".to_owned() });
        world.wait_ms(10_000);
        if done.is_empty() {
            assert_ne!(job(&world, "schema").id, first);
            assert_eq!(active(&world, "schema"), [2], "a person has said that it was not done");
            world.finish(2, TaskOutcome::Succeeded);
        }
        assert_eq!(states(&world), "succeeded: schema succeeded");
        assert_eq!(now(&world).steps[&id("schema")].outputs["succeeded"], json!(2));
        end(&world);
    }
}

#[test]
fn a_job_that_is_still_being_ended_is_not_begun_again() {
    let mut world = run(
        json!([{ "id": "schema", "timeout": "1m", "retry": { "attempts": 4, "backoff": "10s", "backoff_max": "10s" },
        "task": migrate(json!({ "labels": {}, "targets": ["web-2"] })) }]),
    );
    let first = job(&world, "schema").id;
    world.run(2);
    world.set_gate(gate("manual", Check::Manual));
    world.wait_ms(71_000);
    assert_eq!(*world.deployment(first).status.name(), *"cancelling");
    assert_eq!(states(&world), "running: schema running", "its host has not let go of it");
    world.ok(TenantCommand::RemoveGate { environment: STAGING, gate: name("manual") });
    world.finish(2, TaskOutcome::Cancelled);
    let StepState::BackingOff { reason, .. } = &now(&world).steps[&id("schema")].state else { panic!() };
    assert!(reason.contains("longer than it may"), "{reason}");
    world.wait_ms(10_000);
    assert_ne!(job(&world, "schema").id, first);
    world.complete(2);
    assert_eq!(states(&world), "succeeded: schema succeeded");
    end(&world);
}

#[test]
fn cancelling_a_run_ends_what_it_does_on_hosts() {
    let mut world = run(json!([{ "id": "schema", "task": migrate(json!({})) }]));
    world.run(2);
    world.tell_as(1, TenantCommand::CancelRun { run: RUN, reason: "wrong host".to_owned() }).unwrap();
    assert!(world.task_on(2).cancel_requested);
    assert_eq!(states(&world), "cancelling: schema running", "it waits for the hosts");
    world.finish(2, TaskOutcome::Cancelled);
    world.finish(3, TaskOutcome::Cancelled);
    assert_eq!(states(&world), "cancelled: schema cancelled");
    assert!(matches!(job(&world, "schema").status, Status::Cancelled { .. }));
    end(&world);
}

#[test]
fn on_a_target_with_colours_a_job_is_for_the_one_that_is_live() {
    let mut world = World::with_targets(1);
    world.person(1);
    let mut new = new_target(2);
    new.variables = [("port_blue", "1"), ("port_green", "2"), ("port", "0")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    world.ok(TenantCommand::RemoveTarget { id: target(1) });
    world.enrol(2);
    world.connect(2, vec![]);
    world.ok(TenantCommand::CreateTarget(Box::new(new)));
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(4))));
    let strategy = blue_green(None, None);
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
    for _ in 0..4 {
        world.finish(2, TaskOutcome::Succeeded);
    }
    assert!(world.tenant().targets[&target(2)].live.is_some());
    let before = all_known(&world);
    let argv = json!({ "argv": ["/warm", "${port}", "${colour}"] });
    run_in(
        &mut world,
        json!([{ "id": "warm", "task": { "environment": "staging", "steps": [{ "name": "warm", "command": argv }] } }]),
    );
    let TaskSpec::Command(command) = &world.task_on(2).spec else { panic!() };
    assert_eq!(command.argv, ["/warm", "1", "blue"]);
    world.finish(2, TaskOutcome::Succeeded);
    assert_eq!(states(&world), "succeeded: warm succeeded");
    assert_eq!(all_known(&world), before);
    end(&world);
}

#[test]
fn a_job_leaves_memory_with_what_it_ran_but_not_before_its_run_has_ended() {
    let mut world = run(json!([
        { "id": "schema", "task": migrate(json!({})), "hold": "30d" },
        { "id": "go", "needs": ["schema"], "approval": {}, "timeout": "2d" },
    ]));
    for n in 2..=3 {
        world.finish(n, failed("no space"));
    }
    let ran = job(&world, "schema").id;
    let rule = Rule { never_within_ms: 1_000, after_ms: Some(1_000), newer_max: None };
    world.wait_ms(3_600_000);
    assert!(!due(world.tenant(), rule, world.now).deployments.contains(&ran), "it may be tried again");
    world.tell_as(1, TenantCommand::CancelRun { run: RUN, reason: String::new() }).unwrap();
    let ended = due(world.tenant(), rule, world.now);
    assert!(ended.deployments.contains(&ran));
    let decision = world.ok(TenantCommand::Archive(Box::new(ended)));
    assert!(facts(&decision).contains(&"deployment_archived"));
    assert!(world.tenant().jobs.is_empty() && !world.tenant().deployments.contains_key(&ran));
    end(&world);
}
