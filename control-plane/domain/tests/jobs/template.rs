//! What templates say, and what would follow from it.

use super::*;
use crate::common;

#[test]
fn what_a_run_says_is_nothing_that_a_target_fills_in() {
    let mut world = world();
    apply(&mut world, json!([{ "id": "schema", "task": migrate(json!({})) }]));
    start(&mut world, "${port}").unwrap();
    let TaskSpec::Command(command) = &world.task_on(2).spec else { panic!() };
    assert_eq!(command.argv[2], "${port}");
    // And what has no value there is found before anything is done.
    let mut world = self::world();
    let argv = json!({ "argv": ["/bin/true", "${nowhere}"] });
    run_in(
        &mut world,
        json!([{ "id": "a", "task": { "environment": "staging", "steps": [{ "name": "x", "command": argv }] } }]),
    );
    assert!(reason(&world).contains("step x needs ${nowhere}; set it on the target"), "{}", reason(&world));
    let mut world = self::world();
    run_in(&mut world, json!([{ "id": "a", "task": migrate(json!({ "labels": { "role": "moon" } })) }]));
    assert_eq!(reason(&world), "step a: labels: no target there has all of these labels");
    end(&world);
}

#[test]
fn what_a_text_becomes_is_bounded_and_what_is_escaped_is_no_reference() {
    let mut world = world();
    let argv = json!({ "argv": ["/bin/echo", "${inputs.to}"] });
    apply(
        &mut world,
        json!([{ "id": "a", "task": { "environment": "staging", "steps": [{ "name": "x", "command": argv }] } }]),
    );
    start(&mut world, &"${x}".repeat(100)).unwrap();
    assert_eq!(states(&world), "running: a running", "{:?}", now(&world).status);
    let mut world = self::world();
    let many = "${inputs.to}".repeat(15);
    let argv = json!({ "argv": ["/bin/echo", many] });
    let steps: Vec<Value> = (0..60).map(|n| json!({ "name": format!("s{n}"), "command": argv })).collect();
    apply(&mut world, json!([{ "id": "a", "task": { "environment": "staging", "steps": steps } }]));
    start(&mut world, &"x".repeat(4_000)).unwrap();
    assert!(reason(&world).contains("steps: become 3"), "{}", reason(&world));
    assert!(reason(&world).contains("at most 524288 are possible"), "{}", reason(&world));
    end(&world);
}

#[test]
fn what_a_run_would_do_can_be_seen_before_it_is_started() {
    let mut world = world();
    apply(
        &mut world,
        json!([
            { "id": "schema", "task": migrate(json!({ "max_parallel": 1 })) },
            { "id": "out", "needs": ["schema"], "deploy": { "release": "shop:${inputs.to}", "environment": "staging" } },
            { "id": "after", "needs": ["out"], "task": migrate(json!({ "targets": ["${steps.out.outputs.where}"], "labels": {} })) },
            { "id": "soak", "needs": ["out"], "wait": "1h" },
        ]),
    );
    let inputs = BTreeMap::from([(id("to"), json!("2.0"))]);
    let new = NewRun { id: RUN, workflow: name("ops"), version: None, inputs };
    let plan = |world: &World, who, new: &NewRun| plan_run(&world.state, who, common::TENANT, new, world.now);
    let planned = plan(&world, common::person(1), &new).unwrap();
    let [PlannedStep::Does(schema), PlannedStep::Does(out), PlannedStep::Cannot(later), PlannedStep::Nothing] =
        planned.steps.as_slice()
    else {
        panic!("{:?}", planned.steps)
    };
    let targets: Vec<_> = schema.1.targets.iter().map(|it| (it.target, it.previous)).collect();
    assert_eq!(targets, [(target(2), None), (target(3), None)]);
    assert_eq!((schema.1.plan.version, schema.0.job.as_ref().unwrap().steps.len()), (3, 2));
    assert_eq!((out.0.release, out.1.targets.len()), (release(2), 3));
    assert!(later.to_string().contains("No such key"), "{later}");
    assert!(world.tenant().runs.is_empty() && world.tenant().jobs.is_empty(), "nothing follows from asking");
    // It would be refused for the same reasons.
    let wrong = NewRun { inputs: BTreeMap::from([(id("to"), json!(2))]), ..new.clone() };
    assert_eq!(plan(&world, common::person(1), &wrong).unwrap_err().to_string(), "inputs.to: must be a text");
    world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "audit".to_owned() });
    let PlannedStep::Cannot(locked) = &plan(&world, common::person(1), &new).unwrap().steps[0] else {
        panic!()
    };
    assert!(locked.to_string().contains("locked (audit)"));
    world.give(1, Role::Viewer);
    assert!(plan(&world, common::person(1), &new).is_err());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: each fault has its row")]
fn a_template_that_makes_no_sense_says_where() {
    let command = json!({ "argv": ["/bin/true"] });
    let task = |steps: Value| json!({ "environment": "staging", "steps": steps });
    for (task, expected) in [
        (json!({ "environment": "staging" }), "steps[0].task: must have either steps or the release"),
        (
            json!({ "environment": "staging", "release": "a:1", "steps": [{ "name": "x", "command": command }] }),
            "steps[0].task: must have either",
        ),
        (task(json!([{ "name": "x" }])), "steps[0].task.steps[0]: does nothing; give it one of command"),
        (
            task(json!([{ "name": "x", "command": command, "systemd": { "unit": "a", "action": "start" } }])),
            "steps[0].task.steps[0]: does several things (command, systemd)",
        ),
        (
            task(json!([{ "name": "x", "command": command }, { "name": "x", "command": command }])),
            "steps[0].task.steps[1].name: x is there twice",
        ),
        (
            task(json!([{ "name": "x", "command": { "argv": [] } }])),
            "steps[0].task.steps[0].command.argv: must begin with a program",
        ),
        (
            task(json!([{ "name": "x", "timeout": "10ms", "command": command }])),
            "steps[0].task.steps[0].timeout: is 10ms; it must be between 1s and 1d",
        ),
        (
            task(json!([{ "name": "x", "check_tcp": { "address": "localhost" } }])),
            "steps[0].task.steps[0].check_tcp.address: must be host:port",
        ),
        (
            task(json!([{ "name": "x", "check_http": { "url": "http://x", "interval": "1ms" } }])),
            "steps[0].task.steps[0].check_http.interval: ",
        ),
        (
            task(json!([{ "name": "x", "command": { "argv": ["${inputs.nothing}"] } }])),
            "steps[0].task.steps[0].command.argv[0]: at character 1: there is no input nothing",
        ),
        (
            task(json!([{ "name": "x", "command": { "argv": ["${steps.b.status}"] } }])),
            "steps[0].task.steps[0].command.argv[0]: at character 1: there is no step b",
        ),
        (
            task(json!([{ "name": "x", "command": { "argv": ["${port"] } }])),
            "steps[0].task.steps[0].command.argv[0]: has a ${ without its }",
        ),
        (
            task(json!([{ "name": "x", "command": { "argv": ["${a b}"] } }])),
            "steps[0].task.steps[0].command.argv[0]: ${a b}",
        ),
        (
            json!({ "environment": "staging", "max_parallel": 0, "steps": [{ "name": "x", "command": command }] }),
            "steps[0].task.max_parallel: is 0",
        ),
        (
            json!({ "environment": "staging", "max_parallel": "101%", "steps": [{ "name": "x", "command": command }] }),
            "steps[0].task.max_parallel: is 101%",
        ),
        (
            json!({ "environment": "staging", "tolerate_failures": "100%", "steps": [{ "name": "x", "command": command }] }),
            "steps[0].task.tolerate_failures: is 100%",
        ),
        (
            json!({ "environment": "staging", "timeout": "8d", "steps": [{ "name": "x", "command": command }] }),
            "steps[0].task.timeout: is 8d",
        ),
        (
            json!({ "environment": "staging", "targets": ["a"], "labels": { "b": "c" }, "steps": [{ "name": "x", "command": command }] }),
            "steps[0].task.labels: choose targets by labels or by name",
        ),
    ] {
        let problems = check(&template(json!([{ "id": "a", "task": task }])));
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        assert!(first.starts_with(expected), "{task}: {first:?}");
    }
    let free = json!([{ "name": "x", "check_tcp": { "address": "${inputs.to}" } }, { "name": "y", "check_http": { "url": "${inputs.to}" } }]);
    assert_eq!(check(&template(json!([{ "id": "a", "task": task(free) }]))), []);
    let many: Vec<Value> = (0..65).map(|n| json!({ "name": format!("s{n}"), "command": command })).collect();
    let problems = check(&template(json!([{ "id": "a", "task": task(json!(many)) }])));
    assert_eq!(problems[0].to_string(), "steps[0].task.steps: there are 65; at most 64 are allowed");
    let misspelt = json!({ "environment": "staging", "steps": [{ "name": "x", "kommand": command }] });
    let misspelt = serde_json::from_value::<Template>(
        json!({ "name": "ops", "steps": [{ "id": "a", "task": misspelt }] }),
    );
    assert!(misspelt.unwrap_err().to_string().contains("unknown field `kommand`"));
    let rolled = template(
        json!([{ "id": "a", "task": task(json!([{ "name": "x", "command": command }])) }, { "id": "b", "needs": ["a"], "rollback": { "of": "a" } }]),
    );
    assert_eq!(check(&rolled)[0].to_string(), "steps[1].rollback.of: step a deploys nothing");
    let moon = TenantCommand::ApplyWorkflow(Box::new(template(
        json!([{ "id": "a", "task": { "environment": "moon", "steps": [{ "name": "x", "command": command }] } }]),
    )));
    assert_eq!(
        world().tell(moon).unwrap_err().to_string(),
        "steps[0].task.environment: there is no environment moon"
    );
}
