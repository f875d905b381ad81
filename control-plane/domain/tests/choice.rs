//! Who has chosen what is deployed does not let it through, whoever asks for it: what they answered a run, what they asked for before, and
//! whose reports count.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, World, checked_run, deployment, end, failed, name, new_deployment, promotion, rule,
    security,
};
use serde_json::{Value, json};
use stella_domain::command::{NewRun, TenantCommand};
use stella_domain::gate::{Check, Gate};
use stella_domain::name::Identifier;
use stella_domain::promotion::Promotion;
use stella_domain::rejection::Rejection;
use stella_domain::run::RunStatus;
use stella_protocol::id::{PromotionId, RunId};
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

/// Person 1 runs these steps, in a staging that wants one approval.
fn run(steps: Value) -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    let part = json!({ "name": "part", "inputs": { "release": { "type": "text" } }, "steps": [
        { "id": "go", "deploy": { "release": "${inputs.release}", "environment": "staging" } }] });
    let whole = json!({ "name": "whole", "steps": steps });
    for template in [part, whole] {
        world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    }
    let new = NewRun { id: RUN, workflow: name("whole"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

fn answer(world: &mut World, who: u128, release: &str) {
    let answers = BTreeMap::from([(id("release"), json!(release))]);
    world.tell_as(who, TenantCommand::AnswerStep { run: RUN, step: id("ask"), answers }).unwrap();
}

fn approve_step(world: &mut World, who: u128) -> Result<(), Rejection> {
    let command =
        TenantCommand::DecideStep { run: RUN, step: id("sure"), approve: true, reason: String::new() };
    world.tell_as(who, command).map(drop)
}

fn approve(world: &mut World, who: u128, asked: PromotionId) -> Result<(), Rejection> {
    let plan = world.tenant().promotions[&asked].plan.root;
    let command =
        TenantCommand::ApprovePromotion { promotion: asked, plan, reason: String::new(), signature: None };
    world.tell_as(who, command).map(drop)
}

fn open(world: &World) -> &Promotion {
    let [one] = world.tenant().open_promotions.iter().copied().collect::<Vec<_>>()[..] else { panic!() };
    &world.tenant().promotions[&one]
}

fn ask() -> Value {
    json!({ "id": "ask", "input": { "release": { "type": "text" } } })
}

const CHOSEN: &str = "nobody approves what they have chosen";

#[test]
fn who_answers_what_a_run_asks_for_does_not_approve_what_it_deploys() {
    let deploy = json!({ "id": "go", "needs": ["ask"], "deploy": { "release": "${steps.ask.outputs.release}", "environment": "staging" } });
    let part = json!({ "id": "go", "needs": ["ask"], "workflow": { "name": "part", "version": 1, "inputs": { "release": "${steps.ask.outputs.release}" } } });
    for step in [deploy, part] {
        let mut world = run(json!([ask(), step]));
        answer(&mut world, 2, "shop:2.0");
        assert_eq!(open(&world).requested_by, common::person(1), "with the authority of whoever started it");
        assert_eq!(open(&world).chosen_by, [common::person(2)]);
        let asked = open(&world).id;
        let said = approve(&mut world, 2, asked).unwrap_err().to_string();
        assert!(said.contains(CHOSEN), "{said}");
        let said = approve(&mut world, 1, asked).unwrap_err().to_string();
        assert!(said.contains("nobody approves what they have asked for"), "{said}");
        approve(&mut world, 3, asked).unwrap();
        (1..=2).for_each(|n| world.complete(n));
        assert_eq!(checked_run(&world, RUN).status, RunStatus::Succeeded);
        end(&world);
    }
}

#[test]
fn nor_the_steps_of_the_run_whenever_they_have_answered() {
    let sure = |needed: u32| json!({ "id": "sure", "approval": { "needed": needed } });
    let mut world = run(json!([ask(), sure(1)]));
    answer(&mut world, 2, "shop:2.0");
    let said = approve_step(&mut world, 2).unwrap_err().to_string();
    assert!(said.contains("nobody approves in a run for which they have chosen"), "{said}");
    approve_step(&mut world, 3).unwrap();
    // An approval that was given before the answer counts no more when it is needed.
    let mut world = run(json!([ask(), sure(2)]));
    world.person(4);
    approve_step(&mut world, 2).unwrap();
    answer(&mut world, 2, "shop:2.0");
    approve_step(&mut world, 3).unwrap();
    assert_eq!(checked_run(&world, RUN).status, RunStatus::Running);
    approve_step(&mut world, 4).unwrap();
    let outputs = &checked_run(&world, RUN).steps[&id("sure")].outputs;
    assert_eq!(outputs["approved_by"], json!(["person-3", "person-4"]));
    let gate =
        json!({ "id": "sure", "gate": { "release": "shop:2.0", "environment": "staging", "manual": {} } });
    let mut world = run(json!([ask(), gate]));
    answer(&mut world, 2, "shop:2.0");
    assert!(approve_step(&mut world, 2).is_err());
    approve_step(&mut world, 3).unwrap();
}

#[test]
fn nor_who_has_asked_first_for_what_somebody_else_tries_again() {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world.set_gate(Gate { name: name("board"), check: Check::Manual, ttl_ms: 60_000, verifies: false });
    let pass = |world: &mut World, who: u128, asked: u128| {
        let (gate, reason) = (name("board"), "seen".to_owned());
        let command = TenantCommand::DecideGate { promotion: promotion(asked), gate, passed: true, reason };
        world.tell_as(who, command).map(drop)
    };
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
    pass(&mut world, 3, 2).unwrap();
    world.finish(1, failed("exit 1"));
    world.finish(2, failed("exit 1"));
    let retry = TenantCommand::RetryDeployment { id: deployment(3), of: deployment(2), targets: None };
    world.tell_as(2, retry).unwrap();
    assert_eq!(world.tenant().promotions[&promotion(3)].chosen_by, [common::person(1)]);
    let said = pass(&mut world, 1, 3).unwrap_err().to_string();
    assert!(said.contains("nobody decides on a gate of what they have chosen"), "{said}");
    pass(&mut world, 3, 3).unwrap();
    end(&world);
}

#[test]
fn a_security_gate_may_count_the_reports_of_named_accounts_alone() {
    let mut world = World::with_release_1(1);
    (1..=3).for_each(|n| world.person(n));
    let Gate { check: Check::Security(mut wanted), .. } = security("scan", &[]) else { panic!() };
    let stella_domain::command::Actor::ApiToken { account: Some(ci), .. } = common::person(3) else {
        panic!()
    };
    wanted.reporters = vec![ci];
    world.set_gate(Gate { check: Check::Security(wanted), ..security("scan", &[]) });
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
    let report = |world: &mut World, who: u128, critical: &[&str]| {
        world.tell_as(who, TenantCommand::RecordFindings(Box::new(common::findings(2, critical)))).unwrap();
    };
    let says = |world: &World| world.gate(2, "scan").verdict.unwrap().reason;
    report(&mut world, 1, &[]);
    assert!(says(&world).contains("by person-3 on this release"), "{}", says(&world));
    report(&mut world, 3, &["CVE-1"]);
    assert!(says(&world).contains("1 critical findings"), "{}", says(&world));
    // Taking the place of a report that counts does not open the gate.
    report(&mut world, 1, &[]);
    assert!(!world.tenant().deployments.contains_key(&deployment(2)), "{}", says(&world));
    report(&mut world, 3, &[]);
    assert!(world.tenant().deployments.contains_key(&deployment(2)), "{}", says(&world));
    end(&world);
}

/// Person 2 writes what is deployed, person 3 what runs that, and person 1 starts it.
#[test]
fn nor_who_wrote_what_is_run_with_it_or_has_answered_there() {
    let mut world = World::with_release_1(2);
    (1..=4).for_each(|n| world.person(n));
    let ship = json!({ "name": "ship", "steps": [
        { "id": "which", "input": { "release": { "type": "text" } } },
        { "id": "sure", "needs": ["which"], "approval": {} },
        { "id": "go", "needs": ["sure"], "deploy": { "release": "shop:2.0", "environment": "staging" } }] });
    let whole = json!({ "name": "whole", "steps": [
        { "id": "sure", "approval": {} },
        { "id": "ship", "needs": ["sure"], "workflow": { "name": "ship", "version": 1 } },
        { "id": "then", "needs": ["ship"], "approval": {} }] });
    for (who, template) in [(2, ship), (3, whole)] {
        let apply = TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap()));
        world.tell_as(who, apply).unwrap();
    }
    let new = NewRun { id: RUN, workflow: name("whole"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    let refused = |world: &mut World, who: u128, run: RunId, step: &str| {
        let command = TenantCommand::DecideStep { run, step: id(step), approve: true, reason: String::new() };
        let said = world.tell_as(who, command).unwrap_err().to_string();
        assert!(said.contains("nobody approves in a run for which they have chosen"), "{said}");
    };
    for chooser in [2, 3] {
        refused(&mut world, chooser, RUN, "sure");
    }
    approve_step(&mut world, 4).unwrap();
    // The part asks before it goes on, and person 4 answers: they have chosen in all of it.
    let part = world.tenant().runs.values().find(|it| it.parent.is_some()).unwrap().id;
    let answers = BTreeMap::from([(id("release"), json!("shop:2.0"))]);
    world.tell_as(4, TenantCommand::AnswerStep { run: part, step: id("which"), answers }).unwrap();
    for chooser in [2, 3, 4] {
        refused(&mut world, chooser, part, "sure");
    }
    world.person(5);
    let sure =
        TenantCommand::DecideStep { run: part, step: id("sure"), approve: true, reason: String::new() };
    world.tell_as(5, sure).unwrap();
    (1..=2).for_each(|n| world.complete(n));
    for chooser in [2, 3, 4] {
        refused(&mut world, chooser, RUN, "then");
    }
    let then = TenantCommand::DecideStep { run: RUN, step: id("then"), approve: true, reason: String::new() };
    world.tell_as(5, then).unwrap();
    assert_eq!(checked_run(&world, RUN).status, RunStatus::Succeeded);
    end(&world);
}
