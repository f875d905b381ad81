//! Steps that look at gates that the state decides, and steps that run other workflows: once, or for each of several items.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, World, add_key, agent, checked_run, failed, name, new_target, release, security, target,
};
use serde_json::{Value, json};
use stella_domain::archive::{Rule, due};
use stella_domain::command::{Command, NewRun, NewTarget, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::{Deployment, RollbackReason, Status};
use stella_domain::environment::SilenceRule;
use stella_domain::hold::PauseCause;
use stella_domain::listening::Listening;
use stella_domain::name::Identifier;
use stella_domain::rejection::Rejection;
use stella_domain::run::{Run, RunStatus};
use stella_domain::way_back::ProofRule;
use stella_domain::workflow::{DEPTH_MAX, FAN_OUT_MAX, Template, check};
use stella_protocol::id::{DeploymentId, EnvironmentId, RunId};
use stella_protocol::message::{Phase, TaskOutcome};
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

fn template(named: &str, inputs: Value, steps: Value) -> Template {
    serde_json::from_value(json!({ "name": named, "inputs": inputs, "steps": steps })).unwrap()
}

/// Two targets with release 1, three people, and the workflow `part`, which waits for a minute.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    let inputs =
        json!({ "where": { "type": "text", "max_length": 20 }, "n": { "type": "number", "default": 1 } });
    apply(&mut world, template("part", inputs, json!([{ "id": "wait", "wait": "1m" }]))).unwrap();
    world
}

fn apply(world: &mut World, template: Template) -> Result<Decision, Rejection> {
    world.tell(TenantCommand::ApplyWorkflow(Box::new(template)))
}

/// Person 1 runs these steps.
fn run(world: &mut World, steps: Value) {
    apply(world, template("whole", json!({}), steps)).unwrap();
    let new = NewRun { id: RUN, workflow: name("whole"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
}

fn now(world: &World) -> &Run {
    checked_run(world, RUN)
}

fn step<'w>(world: &'w World, step: &str) -> (&'static str, &'w BTreeMap<String, Value>) {
    let step = &now(world).steps[&id(step)];
    (step.state.name(), &step.outputs)
}

/// The runs that are part of the one that the tests are about, by what they are done for.
fn children(world: &World) -> Vec<&Run> {
    world.tenant().runs.values().filter(|it| it.parent.is_some()).map(AsRef::as_ref).collect()
}

fn reason(world: &World) -> String {
    match &now(world).status {
        RunStatus::Failed { reason } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_step_runs_another_workflow_at_its_version_and_with_what_was_given() {
    let mut world = world();
    run(
        &mut world,
        json!([
            { "id": "sub", "workflow": { "name": "part", "version": 1, "inputs": { "where": "at ${run.workflow}", "n": "${1 + 2}" } } },
            { "id": "after", "needs": ["sub"], "when": "steps.sub.outputs.run != ''", "wait": "1m" },
        ]),
    );
    // A newer version of it is nothing to this run.
    apply(&mut world, template("part", json!({}), json!([{ "id": "other", "wait": "1m" }]))).unwrap();
    let [child] = children(&world)[..] else { panic!() };
    assert_eq!(
        (child.version, &child.inputs[&id("where")], &child.inputs[&id("n")]),
        (1, &json!("at whole"), &json!(3))
    );
    assert_eq!(child.started_by, common::person(1), "with the authority of whoever has started the whole");
    let child = child.id;
    world.wait_ms(60_000);
    let (state, outputs) = step(&world, "sub");
    assert_eq!((state, &outputs["run"]), ("succeeded", &json!(child)));
    assert_eq!(step(&world, "after").0, "running");
    world.wait_ms(60_000);
    assert_eq!(now(&world).status, RunStatus::Succeeded);
}

#[test]
fn a_step_is_done_for_each_item_at_the_same_time_and_fails_if_one_fails() {
    let mut world = world();
    let ask = json!([{ "id": "go", "approval": { "message": "${inputs.place}?" } }]);
    let inputs = json!({ "place": { "type": "choice", "options": ["eu", "us"] } });
    apply(&mut world, template("ask", inputs, ask)).unwrap();
    run(
        &mut world,
        json!([{ "id": "all", "for_each": ["eu", "us"],
                 "workflow": { "name": "ask", "version": 1, "inputs": { "place": "${item}" } } }]),
    );
    let parts = now(&world).steps[&id("all")].state.children().to_vec();
    let place = |run: RunId| world.tenant().runs[&run].inputs[&id("place")].clone();
    let asked: Vec<(RunId, Value)> = parts.iter().map(|it| (it.run, place(it.run))).collect();
    assert_eq!(asked.iter().map(|it| it.1.clone()).collect::<Vec<_>>(), ["eu", "us"]);
    let decide = |world: &mut World, run: RunId, approve: bool| {
        let decide = TenantCommand::DecideStep { run, step: id("go"), approve, reason: "no".to_owned() };
        world.tell_as(2, decide).unwrap();
    };
    decide(&mut world, asked[1].0, false);
    // Whether it failed is asked when the others have ended too: it does not leave memory before.
    let old = Rule { never_within_ms: 0, after_ms: Some(0), newer_max: None };
    world.wait_ms(60_000);
    assert!(due(world.tenant(), old, world.now).runs.is_empty());
    decide(&mut world, asked[0].0, true);
    let said = reason(&world);
    assert!(said.contains(&format!("run {} for us failed", asked[1].0)), "{said}");
    world.wait_ms(60_000);
    assert_eq!(due(world.tenant(), old, world.now).runs.len(), 3);
}

#[test]
fn targets_are_chosen_by_their_labels_when_the_step_begins() {
    let mut world = World::with_targets(1);
    world.person(1);
    for (n, role) in [(2, "db"), (3, "web"), (4, "db")] {
        let labels = BTreeMap::from([("role".to_owned(), role.to_owned())]);
        world.enrol(n);
        let new = NewTarget { labels, agent: agent(n), ..new_target(n) };
        world.ok(TenantCommand::CreateTarget(Box::new(new)));
        world.connect(n, vec![]);
    }
    let inputs = json!({ "host": { "type": "text" } });
    let deploy = json!([{ "id": "out", "deploy": { "release": "shop:1.0", "environment": "staging", "targets": ["${inputs.host}"] } }]);
    apply(&mut world, template("one", inputs, deploy)).unwrap();
    run(
        &mut world,
        json!([{ "id": "all", "for_each": { "environment": "staging", "labels": { "role": "db" } },
                 "workflow": { "name": "one", "version": 1, "inputs": { "host": "${item}" } } }]),
    );
    let worked_on = |world: &World, n: u128| world.tenant().targets[&target(n)].active.is_some();
    assert_eq!((1..=4).map(|n| worked_on(&world, n)).collect::<Vec<_>>(), [false, true, false, true]);
    world.complete(2);
    world.complete(4);
    assert_eq!(now(&world).status, RunStatus::Succeeded);
    // Where no target is, nothing is done and that is a failure.
    let mut world = self::world();
    run(
        &mut world,
        json!([{ "id": "all", "for_each": { "environment": "staging", "labels": { "role": "none" } },
                 "workflow": { "name": "part", "version": 1, "inputs": { "where": "${item}" } } }]),
    );
    assert!(reason(&world).contains("no target has these labels"));
}

#[test]
fn who_cancels_the_whole_cancels_its_parts_and_a_time_that_is_up_does_too() {
    let mut world = world();
    let steps = |extra: Value| {
        let mut step =
            json!({ "id": "sub", "workflow": { "name": "part", "version": 1, "inputs": { "where": "x" } } });
        step.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([step])
    };
    run(&mut world, steps(json!({})));
    world.tell_as(1, TenantCommand::CancelRun { run: RUN, reason: "enough".to_owned() }).unwrap();
    assert!(matches!(now(&world).status, RunStatus::Cancelled { .. }));
    assert!(matches!(children(&world)[0].status, RunStatus::Cancelled { .. }));

    let mut world = self::world();
    run(&mut world, steps(json!({ "timeout": "10s" })));
    world.wait_ms(10_000);
    assert!(matches!(children(&world)[0].status, RunStatus::Cancelled { .. }));
    assert!(reason(&world).contains("longer than it may"), "{}", reason(&world));

    // One that somebody cancels by itself fails the step, and is not tried again.
    let mut world = self::world();
    run(&mut world, steps(json!({ "retry": { "attempts": 3 } })));
    let part = children(&world)[0].id;
    world.tell_as(1, TenantCommand::CancelRun { run: part, reason: "not this".to_owned() }).unwrap();
    assert!(reason(&world).contains("was cancelled: not this"), "{}", reason(&world));
}

#[test]
fn workflows_lie_in_one_another_only_so_deep_and_never_in_themselves() {
    let mut world = world();
    let sub = |named: &str| json!([{ "id": "sub", "workflow": { "name": named, "version": 1 } }]);
    let itself = apply(&mut world, template("loop", json!({}), sub("loop"))).unwrap_err();
    assert_eq!(
        itself.to_string(),
        "steps[0].workflow: there is no version 1 of workflow loop; apply that first"
    );
    apply(&mut world, template("d1", json!({}), json!([{ "id": "wait", "wait": "1m" }]))).unwrap();
    for n in 1..DEPTH_MAX {
        apply(&mut world, template(&format!("d{}", n + 1), json!({}), sub(&format!("d{n}")))).unwrap();
    }
    let deeper = apply(&mut world, template("deep", json!({}), sub(&format!("d{DEPTH_MAX}")))).unwrap_err();
    assert!(deeper.to_string().contains("deep"), "{deeper}");
    let new =
        NewRun { id: RUN, workflow: name(&format!("d{DEPTH_MAX}")), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world.wait_ms(60_000);
    assert_eq!(now(&world).status, RunStatus::Succeeded);
}

#[test]
fn a_step_looks_at_a_gate_of_an_environment_and_asks_again_as_often_as_it_is_to() {
    let mut world = world();
    world.set_gate(security("scan", &[]));
    run(
        &mut world,
        json!([{ "id": "look", "gate": { "release": "shop:2.0", "environment": "staging", "name": "scan" },
                 "retry": { "attempts": 3, "backoff": "1m" } }]),
    );
    assert_eq!(step(&world, "look").0, "backing_off");
    world.scan(2, &[]);
    world.wait_ms(60_000);
    let (state, outputs) = step(&world, "look");
    assert_eq!((state, &outputs["reason"]), ("succeeded", &json!("findings: 0 critical")));
    assert_eq!(now(&world).status, RunStatus::Succeeded);
}

#[test]
fn a_gate_that_is_written_in_the_template_says_why_it_does_not_let_through() {
    let look = |more: Value| {
        let mut gate = json!({ "release": "shop:2.0", "environment": "staging" });
        gate.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([{ "id": "look", "gate": gate }])
    };
    for (more, why) in [
        (json!({ "expression": "release.version == '3.0'" }), "the expression is false"),
        (json!({ "signatures": 1 }), "no signature that counts"),
        (json!({ "findings": { "critical": 0 } }), "no scanner has reported"),
        (json!({ "name": "scan" }), "environment staging has no gate scan"),
    ] {
        let mut world = world();
        run(&mut world, look(more));
        assert!(reason(&world).contains(why), "{}", reason(&world));
    }
    let mut world = world();
    world.ok(add_key(1));
    world.sign(1, 2).unwrap();
    run(&mut world, look(json!({ "signatures": 1 })));
    assert_eq!(step(&world, "look").1["reason"], "signed by ci");
}

#[test]
fn templates_that_mean_nothing_are_refused_by_field() {
    let gate = |more: Value| json!({ "id": "a", "gate": more });
    let sub = |more: Value| {
        let mut step = json!({ "id": "a", "workflow": { "name": "part", "version": 1 } });
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        step
    };
    let many: Vec<String> = (0..=FAN_OUT_MAX).map(|n| n.to_string()).collect();
    for (step, wanted) in [
        (gate(json!({ "release": "x", "environment": "y" })), "steps[0].gate: must have exactly one of"),
        (
            gate(json!({ "release": "x", "environment": "y", "name": "a", "signatures": 1 })),
            "steps[0].gate: must have exactly one of",
        ),
        (
            gate(json!({ "release": "x", "environment": "y", "signatures": 0 })),
            "steps[0].gate.signatures: must be",
        ),
        (
            gate(json!({ "release": "x", "environment": "y", "expression": "secrets.x" })),
            "steps[0].gate.expression: ",
        ),
        (
            gate(json!({ "release": "${item}", "environment": "y", "name": "a" })),
            "only in the inputs of a step",
        ),
        (sub(json!({ "workflow": { "name": "part", "version": 0 } })), "steps[0].workflow.version: is 0"),
        (
            sub(json!({ "workflow": { "name": "part", "version": 1, "inputs": { "x": "${item}" } } })),
            "only in the inputs",
        ),
        (sub(json!({ "for_each": [] })), "steps[0].for_each: there are 0"),
        (sub(json!({ "for_each": many })), "steps[0].for_each: there are 33"),
        (
            json!({ "id": "a", "wait": "1m", "for_each": ["x"] }),
            "steps[0].for_each: is for steps that run another",
        ),
    ] {
        let problems = check(&template("x", json!({}), json!([step.clone()])));
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|it| it.contains(wanted)), "{step}: {said:?}");
    }
}

#[test]
fn a_part_that_has_succeeded_is_not_run_again() {
    let mut world = world();
    let ask = template("ask", json!({}), json!([{ "id": "ask", "approval": {} }]));
    apply(&mut world, ask).unwrap();
    let parts = json!({ "name": "ask", "version": 1 });
    run(
        &mut world,
        json!([{ "id": "parts", "for_each": ["a", "b"], "retry": { "attempts": 2, "backoff": "10s" }, "workflow": parts }]),
    );
    let children = |world: &World| now(world).steps[&id("parts")].state.children().to_vec();
    let decide = |world: &mut World, run: RunId, approve: bool| {
        let (step, reason) = (id("ask"), String::new());
        world.tell_as(2, TenantCommand::DecideStep { run, step, approve, reason }).unwrap();
    };
    let first = children(&world);
    decide(&mut world, first[0].run, true);
    decide(&mut world, first[1].run, false);
    world.wait_ms(10_000);
    let second = children(&world);
    assert_eq!(second[0], first[0], "it is done");
    assert_eq!(second[1].item, first[1].item);
    assert_ne!(second[1].run, first[1].run);
    decide(&mut world, second[1].run, true);
    assert_eq!(now(&world).status, RunStatus::Succeeded);
}

#[test]
fn what_much_is_to_be_computed_for_begins_one_after_the_other() {
    // Four of these are most of what one step may be.
    let heavy = format!(
        "${{{}true{}}}",
        ('a'..='d').map(|it| format!("[1,1,1,1,1,1,1,1,1,1].all({it},")).collect::<String>(),
        ")".repeat(4)
    );
    let mut world = world();
    let call = json!([{ "id": "call", "http": { "url": "https://hooks.example.com/", "body": vec![heavy.clone(); 4] } }]);
    apply(&mut world, template("leaf", json!({}), call)).unwrap();
    run(
        &mut world,
        json!([{ "id": "all", "for_each": ["a", "b", "c", "d"], "workflow": { "name": "leaf", "version": 1 } }]),
    );
    let begun = |world: &World| {
        children(world).iter().filter(|it| it.steps[&id("call")].state.name() == "running").count()
    };
    assert_eq!((children(&world).len(), begun(&world)), (4, 1));
    // The time does not go on: they are due at once.
    let tick = World::request(Command::Tick(Listening::Always));
    for expected in 2..=4 {
        world.send(&tick).unwrap();
        assert_eq!(begun(&world), expected);
    }
    common::invariants::replay(&world.events, &world.state);

    // One that was put off may turn out not to be done at all, or not to be computable.
    let steps = json!([
        { "id": "call", "http": { "url": "https://hooks.example.com/", "body": vec![heavy.clone(); 4] } },
        { "id": "no", "when": "1 > 2", "wait": "1m" },
        { "id": "broken", "when": "1 / 0 == 1", "wait": "1m", "on_failure": "continue" },
    ]);
    apply(&mut world, template("late", json!({}), steps)).unwrap();
    let late = RunId(Uuid::from_u128(8));
    let new = NewRun { id: late, workflow: name("late"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    let states =
        |world: &World| ["no", "broken"].map(|step| checked_run(world, late).steps[&id(step)].state.name());
    assert_eq!(states(&world), ["backing_off", "backing_off"]);
    // Somebody is too impatient for that: the condition is looked at all the same.
    world.ok(TenantCommand::RetryStep { run: late, step: id("no") });
    assert_eq!(states(&world), ["skipped", "backing_off"]);
    world.send(&tick).unwrap();
    assert_eq!(states(&world), ["skipped", "failed"]);

    let too_much =
        json!([{ "id": "call", "http": { "url": "https://hooks.example.com/", "body": vec![heavy; 9] } }]);
    apply(&mut world, template("leaf", json!({}), too_much)).unwrap();
    let new = NewRun {
        id: RunId(Uuid::from_u128(7)),
        workflow: name("leaf"),
        version: None,
        inputs: BTreeMap::new(),
    };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    let RunStatus::Failed { reason } = &checked_run(&world, RunId(Uuid::from_u128(7))).status else {
        panic!()
    };
    assert!(reason.contains("has more to compute than one step may"), "{reason}");
}

#[test]
fn items_that_become_too_large_are_a_failure_of_their_step() {
    let mut world = world();
    let steps = json!([
        { "id": "all", "for_each": vec!["${inputs.x}".repeat(16); 32], "workflow": { "name": "part", "version": 1, "inputs": { "where": "here" } } },
    ]);
    apply(&mut world, template("large", json!({ "x": { "type": "text", "max_length": 4096 } }), steps))
        .unwrap();
    let inputs = BTreeMap::from([(id("x"), json!("\u{1}".repeat(4_096)))]);
    let new = NewRun { id: RUN, workflow: name("large"), version: None, inputs };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    assert!(reason(&world).contains("for_each becomes"), "{}", reason(&world));
}

/// The smoke test hangs after the release has come: its host has to have let go of it before the release can be taken back.
#[test]
fn what_makes_up_for_a_step_whose_time_was_up_waits_for_its_end_on_the_hosts() {
    let mut world = world();
    let task = json!({ "environment": "staging", "steps": [{ "name": "smoke", "command": { "argv": ["/smoke"] } }] });
    run(
        &mut world,
        json!([
            { "id": "up", "deploy": { "release": "shop:2.0", "environment": "staging" } },
            { "id": "smoke", "needs": ["up"], "task": task, "timeout": "2m", "on_failure": "compensate" },
            { "id": "undo", "compensates": "up", "rollback": { "of": "up" } },
        ]),
    );
    (1..=2).for_each(|n| world.complete(n));
    for n in 1..=2 {
        world.run(n);
    }
    world.wait_ms(120_000);
    assert_eq!((step(&world, "smoke").0, step(&world, "undo").0), ("running", "waiting"));
    for n in 1..=2 {
        world.finish(n, TaskOutcome::Cancelled);
    }
    assert_eq!((step(&world, "smoke").0, step(&world, "undo").0), ("failed", "running"));
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!(step(&world, "undo").0, "succeeded");
    assert!(reason(&world).contains("longer than it may"), "{}", reason(&world));
    for n in 1..=2 {
        assert_eq!(world.tenant().targets[&target(n)].current, Some(release(1)));
    }
}

/// What it has brought is taken back as its step says, and what comes after waits for that.
#[test]
fn a_deployment_whose_step_is_out_of_time_is_taken_back_as_one_that_is_late_itself() {
    let mut world = world();
    run(
        &mut world,
        json!([
            { "id": "first", "wait": "1s" },
            { "id": "up", "needs": ["first"], "timeout": "2m", "on_failure": "compensate", "deploy": {
                "release": "shop:2.0", "environment": "staging", "strategy": { "type": "rolling", "batch": 1 } } },
            { "id": "undo", "compensates": "first", "task": { "environment": "staging",
                "steps": [{ "name": "tell", "command": { "argv": ["/tell"] } }] } },
        ]),
    );
    world.wait_ms(1_000);
    world.complete(1);
    world.run(2);
    world.wait_ms(120_000);
    world.finish(2, TaskOutcome::Cancelled);
    assert_eq!(
        (step(&world, "up").0, step(&world, "undo").0),
        ("running", "waiting"),
        "it is being taken back"
    );
    for n in 1..=2 {
        if world.tenant().targets[&target(n)].active.is_some() {
            world.complete(n);
        }
    }
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(1)));
    assert_eq!((step(&world, "up").0, step(&world, "undo").0), ("failed", "running"));
    for n in 1..=2 {
        world.finish(n, TaskOutcome::Succeeded);
    }
    assert!(reason(&world).contains("longer than it may"), "{}", reason(&world));
}

/// The deployment that the step `up` waits for.
fn awaited(world: &World) -> DeploymentId {
    now(world).steps[&id("up")].state.deployment().unwrap()
}

fn is_back(world: &World) {
    assert!(reason(world).contains("longer than it may"), "{}", reason(world));
    for n in 1..=2 {
        assert_eq!(world.tenant().targets[&target(n)].current, Some(release(1)));
    }
}

/// A canary that soaks has proven nothing when the time of its step is up.
#[test]
fn a_deployment_that_holds_when_its_step_is_out_of_time_is_taken_back() {
    let mut world = world();
    let strategy = json!({ "type": "canary", "steps": [{ "percent": 50, "soak_ms": 3_600_000 }] });
    run(
        &mut world,
        json!([{ "id": "up", "timeout": "10m",
                 "deploy": { "release": "shop:2.0", "environment": "staging", "strategy": strategy } }]),
    );
    let up = awaited(&world);
    world.complete(1);
    assert_eq!(world.deployment(up).paused_for, PauseCause::CanaryStep);
    world.wait_ms(600_000);
    assert!(
        matches!(world.deployment(up).status, Status::Failed { .. }),
        "{:?}",
        world.deployment(up).status
    );
    assert_eq!(world.deployment(up).halted_for, RollbackReason::TimeOut);
    assert_eq!(step(&world, "up").0, "running", "it is being taken back");
    world.complete(1);
    assert_eq!(step(&world, "up").0, "failed");
    is_back(&world);
}

/// One has failed, and the other is at work when the time is up: both go back, and what has failed stays the reason.
#[test]
fn a_deployment_that_has_failed_when_its_step_is_out_of_time_is_taken_back() {
    let mut world = world();
    run(
        &mut world,
        json!([{ "id": "up", "timeout": "10m",
                 "deploy": { "release": "shop:2.0", "environment": "staging", "strategy": { "type": "all_at_once" } } }]),
    );
    let up = awaited(&world);
    world.run(2);
    world.finish(1, failed("exit 1"));
    world.wait_ms(600_000);
    assert!(
        matches!(world.deployment(up).status, Status::Halting { .. }),
        "{:?}",
        world.deployment(up).status
    );
    world.finish(2, TaskOutcome::Cancelled);
    let Status::Failed { reason } = &world.deployment(up).status else { panic!() };
    assert!(reason.contains("exit 1"), "{reason}");
    (1..=2).for_each(|n| world.complete(n));
    is_back(&world);
}

/// Half of the agents are silent: that is a network event, and no time passes there, neither for a step that deploys nor for one that waits
/// for its run.
#[test]
fn the_time_of_a_step_stands_still_while_the_agents_are_silent_that_it_deploys_to() {
    let world_with_rule = || {
        let mut world = world();
        let rule = Some(SilenceRule { percent: 40, within_ms: 60_000 });
        world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
        let up = json!([{ "id": "up", "timeout": "10m",
            "deploy": { "release": "shop:2.0", "environment": "staging", "strategy": { "type": "all_at_once" } } }]);
        apply(&mut world, template("out", json!({}), up)).unwrap();
        world
    };
    let steps = json!([{ "id": "sub", "timeout": "20m", "workflow": { "name": "out", "version": 1 } }]);
    let of_part = |world: &World| children(world)[0].steps[&id("up")].state.name();
    let mut world = world_with_rule();
    run(&mut world, steps.clone());
    for n in 1..=2 {
        world.run(n);
    }
    world.wait_ms(60_000);
    let listed = vec![world.listed(1, Phase::Running)];
    world.disconnect(1);
    world.wait_ms(24 * 3_600_000);
    assert_eq!((of_part(&world), step(&world, "sub").0), ("running", "running"));
    world.connect(1, listed);
    // Nine of ten minutes are left.
    world.wait_ms(539_999);
    assert_eq!(children(&world)[0].steps[&id("up")].overdue, None);
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!(now(&world).status, RunStatus::Succeeded);

    // One that begins in the silence has all of its time when that is over, and no more.
    let mut world = world_with_rule();
    world.disconnect(1);
    run(&mut world, steps);
    world.wait_ms(24 * 3_600_000);
    assert_eq!((of_part(&world), step(&world, "sub").0), ("running", "running"));
    world.connect(1, vec![]);
    for n in 1..=2 {
        world.run(n);
    }
    world.wait_ms(599_999);
    assert_eq!(children(&world)[0].steps[&id("up")].overdue, None);
    world.wait_ms(1);
    assert!(children(&world)[0].steps[&id("up")].overdue.is_some());
    for n in 1..=2 {
        world.finish(n, TaskOutcome::Cancelled);
    }
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!((of_part(&world), step(&world, "sub").0), ("failed", "failed"));
}

/// One of two parts of a step waits where agents are silent. When somebody cancels what it waits for, the time of the step goes on.
#[test]
fn a_step_stands_still_for_no_longer_than_some_part_of_it_waits_in_a_silence() {
    let mut world = world();
    let elsewhere = EnvironmentId(Uuid::from_u128(0x77));
    let create = TenantCommand::CreateEnvironment {
        id: elsewhere,
        name: name("elsewhere"),
        order: None,
        way_back_proof: ProofRule::Off,
    };
    world.ok(create);
    world.enrol(9);
    let there = NewTarget { environment: elsewhere, agent: agent(9), ..new_target(9) };
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(9, vec![]);
    let rule = Some(SilenceRule { percent: 40, within_ms: 60_000 });
    world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
    let up = json!([{ "id": "up", "deploy": { "release": "shop:2.0", "environment": "${inputs.where}" } }]);
    let inputs = json!({ "where": { "type": "text", "max_length": 20 } });
    apply(&mut world, template("out", inputs, up)).unwrap();
    world.disconnect(1);
    let each = json!(["staging", "elsewhere"]);
    let out = json!({ "name": "out", "version": 1, "inputs": { "where": "${item}" } });
    run(&mut world, json!([{ "id": "sub", "timeout": "20m", "for_each": each, "workflow": out }]));
    let left_ms = |world: &World| now(world).steps[&id("sub")].time_left_ms;
    assert_eq!(left_ms(&world), Some(20 * 60_000));
    world.wait_ms(600_000);
    let of_staging = |it: &&std::sync::Arc<Deployment>| it.environment == STAGING && it.release == release(2);
    let silent = world.tenant().deployments.values().find(of_staging).unwrap().id;
    world.ok(TenantCommand::CancelDeployment { deployment: silent, reason: "not now".to_owned() });
    assert_eq!((left_ms(&world), step(&world, "sub").0), (None, "running"));
    world.wait_ms(20 * 60_000);
    assert!(now(&world).steps[&id("sub")].overdue.is_some(), "{:?}", now(&world).steps[&id("sub")]);
}
