//! What a run hands on to the step that has started it.

use std::collections::BTreeMap;

use crate::common::{World, checked_run, name, states_of};
use serde_json::{Value, json};
use stella_domain::command::{NewRun, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::name::Identifier;
use stella_domain::rejection::Rejection;
use stella_domain::run::{CallOutcome, Run, RunStatus, StepState, Work};
use stella_domain::workflow::{OUTPUTS_BYTES_MAX, Template, check};
use stella_protocol::id::RunId;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// Asks for `n`, maybe calls something, and hands on what these outputs say.
fn part(outputs: Value) -> Template {
    let steps = json!([
        { "id": "ask", "input": { "n": { "type": "number" } } },
        { "id": "call", "needs": ["ask"], "when": "steps.ask.outputs.n > 0",
          "http": { "url": "https://example.com", "keep_body": true } },
        { "id": "undo", "compensates": "call", "wait": "1s" },
    ]);
    let inputs = json!({ "place": { "type": "text", "default": "eu" } });
    serde_json::from_value(json!({ "name": "part", "inputs": inputs, "steps": steps, "outputs": outputs }))
        .unwrap()
}

fn apply(world: &mut World, template: Template) -> Result<Decision, Rejection> {
    world.tell(TenantCommand::ApplyWorkflow(Box::new(template)))
}

fn whole(steps: Value) -> Template {
    serde_json::from_value(json!({ "name": "whole", "steps": steps })).unwrap()
}

/// Person 1 runs these steps, of which one runs the part.
fn world(outputs: Value, steps: Value) -> World {
    let mut world = World::with_release_1(1);
    world.person(1);
    apply(&mut world, part(outputs)).unwrap();
    apply(&mut world, whole(steps)).unwrap();
    let new = NewRun { id: RUN, workflow: name("whole"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

fn sub() -> Value {
    json!({ "id": "sub", "workflow": { "name": "part", "version": 1 } })
}

/// The runs that the step has started.
fn parts(world: &World) -> Vec<RunId> {
    let step = &world.tenant().runs[&RUN].steps[&id("sub")];
    step.parts.iter().map(|child| child.run).collect()
}

/// Somebody says what `n` is.
fn say(world: &mut World, run: RunId, n: i64) {
    let answers = BTreeMap::from([(id("n"), json!(n))]);
    world.tell_as(1, TenantCommand::AnswerStep { run, step: id("ask"), answers }).unwrap();
}

fn answer(world: &mut World, run: RunId, body: Value) {
    let outcome = CallOutcome::Answered { status: 200, body: Some(body) };
    world.ok(TenantCommand::AnswerCall { run, step: id("call"), attempt: 1, outcome });
}

fn outputs(run: &Run) -> Value {
    json!(run.outputs)
}

#[test]
fn a_step_has_the_outputs_of_the_workflow_that_it_runs() {
    let declared = json!({
        "number": "steps.ask.outputs.n * 2",
        "ticket": "steps.call.outputs.body.ticket",
        "where": "inputs.place + '-1'",
        "all": "[steps.ask.status, steps.call.status]",
    });
    let after = json!({ "id": "after", "needs": ["sub"], "when": "steps.sub.outputs.number == 42",
        "http": { "url": "https://example.com/${steps.sub.outputs.where}/${steps.sub.outputs.ticket}" } });
    let mut world = world(declared, json!([sub(), after]));
    let [part] = parts(&world)[..] else { panic!() };
    say(&mut world, part, 21);
    assert_eq!(outputs(checked_run(&world, part)), json!({}), "it has not ended");
    answer(&mut world, part, json!({ "ticket": 7 }));
    let told = json!({ "number": 42, "ticket": 7, "where": "eu-1", "all": ["succeeded", "succeeded"] });
    assert_eq!(outputs(checked_run(&world, part)), told);
    let run = checked_run(&world, RUN);
    let of_step = &run.steps[&id("sub")].outputs;
    assert_eq!((&of_step["run"], &of_step["number"]), (&json!(part), &json!(42)));
    let StepState::Running { work: Work::Http(call), .. } = &run.steps[&id("after")].state else { panic!() };
    assert_eq!(call.url, "https://example.com/eu-1/7");
}

#[test]
fn what_is_done_for_several_items_has_a_list_of_each_output_in_their_order() {
    let declared = json!({ "place": "inputs.place", "n": "steps.ask.outputs.n" });
    let step = json!({ "id": "sub", "for_each": ["eu", "us"],
        "workflow": { "name": "part", "version": 1, "inputs": { "place": "${item}" } } });
    let mut world = world(declared, json!([step]));
    let [eu, us] = parts(&world)[..] else { panic!() };
    say(&mut world, us, -1);
    say(&mut world, eu, -2);
    let step = &checked_run(&world, RUN).steps[&id("sub")];
    assert_eq!(json!(step.outputs), json!({ "runs": [eu, us], "place": ["eu", "us"], "n": [-2, -1] }));
}

#[test]
fn a_run_whose_outputs_cannot_be_told_has_failed() {
    let mut world = world(json!({ "ticket": "steps.call.outputs.body.ticket" }), json!([sub()]));
    let [part] = parts(&world)[..] else { panic!() };
    // The call is skipped, and so it has no outputs.
    say(&mut world, part, 0);
    let run = checked_run(&world, part);
    let RunStatus::Failed { reason } = &run.status else { panic!("{run:?}") };
    assert!(reason.starts_with("output ticket: "), "{reason}");
    assert_eq!(states_of(run), "failed: ask succeeded, call skipped, undo skipped");
    assert_eq!(outputs(run), json!({}));
    let RunStatus::Failed { reason } = &checked_run(&world, RUN).status else { panic!() };
    assert!(reason.contains("output ticket: "), "{reason}");
    // Nothing asks for them where it has failed or was cancelled anyway.
    let mut world = self::world(json!({ "ticket": "steps.call.outputs.body.ticket" }), json!([sub()]));
    let [part] = parts(&world)[..] else { panic!() };
    world.tell_as(1, TenantCommand::CancelRun { run: part, reason: "enough".to_owned() }).unwrap();
    assert!(matches!(checked_run(&world, part).status, RunStatus::Cancelled { .. }));
}

#[test]
fn outputs_are_bounded_together_in_length_and_in_work() {
    for (declared, expected) in [
        (
            json!({ "one": "steps.call.outputs.body", "two": "steps.call.outputs.body" }),
            "its outputs have 20",
        ),
        (
            json!({ "slow": "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, \
                     [1,2,3,4,5,6,7,8,9].all(d, true))))" }),
            "output slow: ",
        ),
    ] {
        let mut world = world(declared, json!([sub()]));
        let [part] = parts(&world)[..] else { panic!() };
        say(&mut world, part, 1);
        let body = "x".repeat(10 << 10);
        assert!(2 * body.len() > OUTPUTS_BYTES_MAX);
        answer(&mut world, part, json!(body));
        let RunStatus::Failed { reason } = &checked_run(&world, part).status else { panic!() };
        assert!(reason.starts_with(expected), "{reason}");
    }
}

#[test]
fn what_is_wrong_with_outputs_is_said_where_it_is() {
    let said =
        |outputs: Value| -> Vec<String> { check(&part(outputs)).iter().map(ToString::to_string).collect() };
    for (outputs, expected) in [
        (json!({ "x": "steps.other.status" }), "outputs.x: at character 1: there is no step other"),
        (json!({ "x": "1 + inputs.none" }), "outputs.x: at character 5: there is no input none"),
        (
            json!({ "x": "steps.undo.status" }),
            "outputs.x: at character 1: step undo makes up for another one",
        ),
        (json!({ "x": "(1" }), "outputs.x: "),
        (json!({ "x": "item" }), "outputs.x: at character 1: there is an item only in"),
        (json!({ "run": "1" }), "outputs.run: is the name of what each step that runs a workflow has"),
    ] {
        let found = said(outputs);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
    let many: BTreeMap<String, &str> = (0..33).map(|n| (format!("o{n}"), "1")).collect();
    assert_eq!(said(json!(many)), ["outputs: there are 33; at most 32 are allowed"]);
}

#[test]
fn an_output_that_an_inner_workflow_does_not_declare_is_refused() {
    let mut world = World::with_release_1(1);
    apply(&mut world, part(json!({ "n": "1", "url": "'x'" }))).unwrap();
    let with = |when: &str, for_each: bool| {
        let mut first = sub();
        if for_each {
            first["for_each"] = json!(["a"]);
        }
        whole(json!([first, { "id": "after", "needs": ["sub"], "when": when, "wait": "1s" }]))
    };
    let refused = |world: &mut World, template| apply(world, template).unwrap_err().to_string();
    let why = refused(&mut world, with("steps.sub.outputs.nn == 1", false));
    assert_eq!(
        why,
        "steps[1].when: at character 1: step sub has no output nn: version 1 of workflow part declares none of that \
         name; there are run, runs, n, url"
    );
    let why = refused(&mut world, with("steps.sub.outputs.run == ''", true));
    assert!(why.ends_with("there are runs, n, url"), "{why}");
    apply(&mut world, with("steps.sub.outputs.n == 1 && steps.sub.outputs.run != ''", false)).unwrap();
    apply(&mut world, with("steps.sub.outputs.n[0] == 1 && steps['sub'].outputs['runs'].size() == 1", true))
        .unwrap();
}
