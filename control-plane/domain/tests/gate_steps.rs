//! Steps that ask a gate: something outside of the control plane, or a person.

use std::collections::BTreeMap;

use crate::common::{self, World, checked_run, name};
use serde_json::{Value, json};
use stella_domain::access::Role;
use stella_domain::command::{Command, NewRun, TenantCommand};
use stella_domain::environment::SilenceRule;
use stella_domain::event::Fact;
use stella_domain::gate::{Check, Outcome};
use stella_domain::name::Identifier;
use stella_domain::rejection::Rejection;
use stella_domain::run::{AskedGate, Run, RunStatus};
use stella_domain::workflow::{Template, check};
use stella_protocol::id::RunId;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));
const HOUR_MS: u64 = 3_600_000;

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// Release 2 is `shop:2.0`, and person 1 runs a step `look` with this gate, and what else it has.
fn asked(gate: Value, more: Value) -> World {
    let mut world = World::with_release_1(1);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(common::gate("change", common::http()));
    world.set_gate(common::gate("board", Check::Manual));
    start(&mut world, gate, more);
    world
}

fn start(world: &mut World, gate: Value, more: Value) {
    let mut wanted = json!({ "release": "shop:${inputs.version}", "environment": "staging" });
    wanted.as_object_mut().unwrap().extend(gate.as_object().unwrap().clone());
    let mut step = json!({ "id": "look", "gate": wanted });
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let inputs = json!({ "version": { "type": "text", "default": "2.0" } });
    let template = json!({ "name": "ship", "inputs": inputs, "steps": [step] });
    let template: Template = serde_json::from_value(template).unwrap();
    assert_eq!(check(&template), []);
    world.ok(TenantCommand::ApplyWorkflow(Box::new(template)));
    let new = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
}

fn run(world: &World) -> &Run {
    checked_run(world, RUN)
}

fn question(world: &World) -> &AskedGate {
    run(world).steps[&id("look")].state.asked().expect("it asks")
}

fn state(world: &World) -> &'static str {
    run(world).steps[&id("look")].state.name()
}

fn reason(world: &World) -> String {
    match &run(world).status {
        RunStatus::Failed { reason } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

fn answer(world: &mut World, attempt: u32, outcome: Outcome, why: &str) {
    let (step, reason) = (id("look"), why.to_owned());
    let inputs = Some(common::digest(7));
    world.ok(TenantCommand::AnswerStepGate { run: RUN, step, attempt, outcome, reason, inputs });
}

fn decide(world: &mut World, who: u128, approve: bool) -> Result<(), Rejection> {
    let command =
        TenantCommand::DecideStep { run: RUN, step: id("look"), approve, reason: "seen".to_owned() };
    world.tell_as(who, command).map(drop)
}

fn metric() -> Value {
    json!({ "metric": { "source": "main", "query": "errors{version=\"${inputs.version}\"}", "comparison": "below", "threshold": 0.5 } })
}

#[test]
fn a_metric_is_asked_with_what_the_run_was_given_and_its_answer_ends_the_step() {
    let mut world = asked(metric(), json!({}));
    let Check::Metric { query, .. } = &question(&world).check else { panic!() };
    assert_eq!(query, "errors{version=\"2.0\"}");
    assert!(world.tenant().gate_steps.contains(&(RUN, id("look"))), "whoever asks finds it");
    answer(&mut world, 1, Outcome::Passed, "below 0.5: 0.1");
    let step = &run(&world).steps[&id("look")];
    assert_eq!((step.state.name(), &step.outputs["reason"]), ("succeeded", &json!("below 0.5: 0.1")));
    assert_eq!(run(&world).status, RunStatus::Succeeded);
    assert!(world.tenant().gate_steps.is_empty());
    let said = world.events.iter().find_map(|(_, event)| match &event.fact {
        Fact::StepGateEvaluated { kind, outcome, expires_at, .. } => {
            Some((kind.clone(), *outcome, *expires_at))
        }
        _ => None,
    });
    let until = Some(world.now.plus_ms(stella_domain::gate::TTL_MS_DEFAULT));
    assert_eq!(said, Some(("metric".to_owned(), Outcome::Passed, until)));
    let counted = &world.tenant().totals.gates[&name("staging")]["metric"];
    assert_eq!(counted["passed"], 1);
}

#[test]
fn a_value_in_a_query_asks_for_nothing_else() {
    let of = |query: &str| json!({ "metric": { "source": "main", "query": query, "comparison": "below", "threshold": 0.5 } });
    let world = asked(of("errors{version=\"${inputs.version + '\"} or up #'}\"}"), json!({}));
    let Check::Metric { query, .. } = &question(&world).check else { panic!() };
    assert_eq!(query, "errors{version=\"2.0\\\"} or up #\"}");
    let world = asked(of("rate(errors[${inputs.version + '] or up #'}])"), json!({}));
    assert!(reason(&world).contains("metric.query has a value with ']' in it outside of quotes"));
}

#[test]
fn what_does_not_let_through_is_asked_again_as_often_as_the_step_says_and_late_answers_change_nothing() {
    let mut world =
        asked(json!({ "name": "change" }), json!({ "retry": { "attempts": 3, "backoff": "1m" } }));
    assert_eq!(question(&world).name, Some(name("change")));
    answer(&mut world, 1, Outcome::Failed, "CHG-7 is not approved");
    assert_eq!(state(&world), "backing_off");
    answer(&mut world, 1, Outcome::Passed, "too late");
    assert_eq!(state(&world), "backing_off");
    world.wait_ms(60_000);
    answer(&mut world, 1, Outcome::Passed, "of the attempt before");
    assert_eq!(state(&world), "running");
    answer(&mut world, 2, Outcome::Unavailable, "http://changes cannot be asked");
    world.wait_ms(120_000);
    answer(&mut world, 3, Outcome::Failed, "CHG-7 is not approved");
    assert_eq!(reason(&world), "step look: gate change: CHG-7 is not approved");
}

#[test]
fn a_question_survives_the_gate_and_ends_with_its_time_or_its_run() {
    // What was asked stays what it was, whatever becomes of the environment's gate.
    let mut world = asked(json!({ "name": "change" }), json!({}));
    let before = question(&world).clone();
    world.ok(TenantCommand::RemoveGate { environment: common::STAGING, gate: name("change") });
    assert_eq!(question(&world), &before);
    answer(&mut world, 1, Outcome::Passed, "CHG-7 is approved");
    assert_eq!(run(&world).status, RunStatus::Succeeded);

    let mut world = asked(metric(), json!({ "timeout": "5s" }));
    world.wait_ms(5_000);
    assert_eq!(reason(&world), "step look: there was no answer in time");
    // Without a timeout a control plane may be down for an hour.
    let mut world = asked(metric(), json!({}));
    world.wait_ms(HOUR_MS);
    assert_eq!(state(&world), "running");
    world.wait_ms(60_000);
    assert_eq!(reason(&world), "step look: there was no answer in time");

    let mut world = asked(metric(), json!({}));
    world.tell_as(1, TenantCommand::CancelRun { run: RUN, reason: String::new() }).unwrap();
    assert!(matches!(run(&world).status, RunStatus::Cancelled { .. }));
    assert!(world.tenant().gate_steps.is_empty(), "nobody is asked for it any more");
}

#[test]
fn a_person_decides_a_manual_gate_and_not_the_one_who_asked() {
    for gate in [json!({ "name": "board" }), json!({ "manual": { "message": "ship ${inputs.version}?" } })] {
        let mut world = asked(gate.clone(), json!({}));
        let message = if gate.get("name").is_some() { "" } else { "ship 2.0?" };
        assert_eq!(question(&world).message, message);
        assert!(world.tenant().gate_steps.is_empty(), "nothing outside is asked");
        let own = decide(&mut world, 1, true).unwrap_err().to_string();
        assert!(own.contains("nobody approves in a run that they have started"), "{own}");
        world.give(3, Role::Deployer);
        let role = decide(&mut world, 3, true).unwrap_err().to_string();
        assert!(role.contains("role approver in environment staging"), "{role}");
        let nobody =
            TenantCommand::DecideStep { run: RUN, step: id("look"), approve: true, reason: String::new() };
        let nobody = world.send(&World::request(Command::Tenant(common::TENANT, nobody))).unwrap_err();
        assert!(nobody.to_string().contains("belongs to an account"), "{nobody}");
        decide(&mut world, 2, true).unwrap();
        let outputs = &run(&world).steps[&id("look")].outputs;
        assert_eq!((&outputs["reason"], &outputs["decided_by"]), (&json!("seen"), &json!("person-2")));
    }
    let mut world = asked(json!({ "name": "board" }), json!({ "retry": { "attempts": 3 } }));
    decide(&mut world, 2, false).unwrap();
    assert_eq!(
        reason(&world),
        "step look: gate board: person-2 did not let it through: seen",
        "a no is a no"
    );
    assert_eq!(
        decide(&mut world, 2, true).unwrap_err().to_string(),
        "step look of run 00000000-0000-0000-0000-000000005000 does not wait for an approval (it is failed)"
    );
    // It waits as long as an approval, and a time-out is one like any other.
    let mut world = asked(json!({ "manual": {} }), json!({}));
    world.wait_ms(6 * 24 * HOUR_MS);
    assert_eq!(state(&world), "running");
    world.wait_ms(24 * HOUR_MS);
    assert_eq!(reason(&world), "step look: nobody has decided in time");
}

#[test]
fn what_a_gate_asks_must_make_sense_before_and_after_it_is_filled_in() {
    let problem = |gate: Value| {
        let mut wanted = json!({ "release": "x", "environment": "y" });
        wanted.as_object_mut().unwrap().extend(gate.as_object().unwrap().clone());
        let template = json!({ "name": "x", "steps": [{ "id": "a", "gate": wanted }] });
        match serde_json::from_value::<Template>(template) {
            Ok(template) => check(&template).first().map(ToString::to_string).unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    };
    let metric = |query: &str| json!({ "metric": { "source": "m", "query": query, "comparison": "above", "threshold": 1 } });
    for (gate, wanted) in [
        (metric(" "), "steps[0].gate.metric.query: must have 1 to 4096 bytes"),
        (metric("${inputs.x}"), "steps[0].gate.metric.query: "),
        (json!({ "manual": { "message": "${item}" } }), "steps[0].gate.manual.message: "),
        (json!({ "manual": {}, "http": { "endpoint": "a" } }), "steps[0].gate: must have exactly one of"),
        (json!({ "http": {} }), "missing field `endpoint`"),
        (
            json!({ "metric": { "source": "m", "query": "q", "comparison": "near", "threshold": 1 } }),
            "unknown variant `near`",
        ),
        (json!({ "manual": { "text": "x" } }), "unknown field `text`"),
    ] {
        assert!(problem(gate.clone()).contains(wanted), "{gate}: {}", problem(gate.clone()));
    }
    let query = "${inputs.version == '2.0' ? '' : 'up'}";
    let empty = json!({ "metric": { "source": "m", "query": query, "comparison": "above", "threshold": 1 } });
    let world = asked(empty, json!({}));
    assert!(reason(&world).contains("metric.query has 0 bytes when it is filled in"), "{}", reason(&world));
}

/// An environment of three agents, of which one goes silent: that is more than its rule takes for coincidence.
fn with_a_silence(gate: Value, more: Value) -> World {
    let mut world = World::with_release_1(3);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(common::gate("change", common::http()));
    let rule = Some(SilenceRule { percent: 30, within_ms: 60_000 });
    world.ok(TenantCommand::SetEnvironmentSilence { environment: common::STAGING, rule });
    start(&mut world, gate, more);
    world.disconnect(1);
    world
}

fn attempts(world: &World) -> (u32, u32) {
    let step = &run(world).steps[&id("look")];
    (step.attempts, step.counted())
}

/// A gate that counts agents fails because some cannot be heard. Nothing is made up for because of that.
#[test]
fn what_is_said_while_agents_are_silent_fails_no_step_and_is_asked_again() {
    for retries in [json!({}), json!({ "retry": { "attempts": 2, "backoff": "1m" } })] {
        let mut world = with_a_silence(metric(), retries.clone());
        answer(&mut world, 1, Outcome::Failed, "2 agents are up");
        assert_eq!(state(&world), "running");
        assert!(world.tenant().gate_steps.is_empty(), "nobody is asked for the moment");
        answer(&mut world, 1, Outcome::Failed, "once more");
        assert_eq!(attempts(&world), (1, 1));
        world.wait_ms(15_000);
        assert_eq!(attempts(&world), (2, 1), "it counts as no attempt");
        answer(&mut world, 2, Outcome::Unavailable, "no answer");
        // Each time it takes longer, and its own time does not pass.
        world.wait_ms(29_999);
        assert_eq!(attempts(&world), (2, 1));
        world.wait_ms(24 * HOUR_MS);
        assert_eq!((attempts(&world), state(&world)), ((3, 1), "running"));
        // It was asked in the silence, and answered after it.
        world.connect(1, vec![]);
        answer(&mut world, 3, Outcome::Failed, "2 agents are up");
        assert_eq!(state(&world), "running");
        world.wait_ms(60_000);
        answer(&mut world, 4, Outcome::Failed, "errors");
        let may_again = retries.get("retry").is_some();
        assert_eq!(state(&world), if may_again { "backing_off" } else { "failed" });
        if may_again {
            world.wait_ms(60_000);
            answer(&mut world, 5, Outcome::Failed, "errors");
            assert_eq!(state(&world), "failed", "two attempts count");
        }
        common::end(&world);
    }
    // What lets it go on does at once, as does a person's word; and the time of both stands still.
    let mut world = with_a_silence(metric(), json!({}));
    answer(&mut world, 1, Outcome::Passed, "0");
    assert_eq!(run(&world).status, RunStatus::Succeeded);
    let mut world = with_a_silence(json!({ "manual": {} }), json!({ "timeout": "1h" }));
    world.wait_ms(24 * HOUR_MS);
    decide(&mut world, 2, false).unwrap();
    assert_eq!(state(&world), "failed");
    common::end(&world);
}

#[test]
fn a_question_of_a_silence_that_nobody_answers_is_asked_again_when_agents_are_heard() {
    let mut world = with_a_silence(metric(), json!({ "timeout": "1h" }));
    world.wait_ms(24 * HOUR_MS);
    assert_eq!((attempts(&world), state(&world)), ((1, 1), "running"));
    world.connect(1, vec![]);
    world.wait_ms(HOUR_MS - 1);
    assert_eq!(attempts(&world), (1, 1), "it has all of its time");
    world.wait_ms(15_001);
    assert_eq!((attempts(&world), state(&world)), ((2, 1), "running"));
    world.wait_ms(HOUR_MS);
    assert_eq!(reason(&world), "step look: there was no answer in time");
    common::end(&world);
}
