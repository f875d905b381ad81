//! Runs that have turned away: nothing begins in them any more but what makes up for others, in what is part of them neither.

use std::collections::BTreeMap;

use crate::common::{STAGING, World, checked_run, end, failed, invariants, name, release, rule, states_of};
use serde_json::{Value, json};
use stella_domain::command::{Command, NewRun, TenantCommand};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::listening::Listening;
use stella_domain::name::Identifier;
use stella_domain::promotion::PromotionStatus;
use stella_domain::run::{CallOutcome, Run, Turn};
use stella_domain::workflow::Template;
use stella_protocol::id::{PromotionId, RunId};
use stella_protocol::message::TaskOutcome;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn id(text: &str) -> Identifier {
    text.parse().unwrap()
}

fn apply(world: &mut World, named: &str, steps: Value) {
    let template: Template = serde_json::from_value(json!({ "name": named, "steps": steps })).unwrap();
    world.ok(TenantCommand::ApplyWorkflow(Box::new(template)));
}

/// Two targets with release 1 in an environment that wants an approval, three people, and what person 1 runs.
fn run(parts: &[(&str, Value)], steps: Value) -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    parts.iter().for_each(|(named, steps)| apply(&mut world, named, steps.clone()));
    apply(&mut world, "ship", steps);
    let new = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: BTreeMap::new() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    world
}

/// Says something and looks at each step from one state to the next.
fn tell(world: &mut World, who: u128, command: TenantCommand) {
    let (before, first) = (world.state.clone(), world.events.len());
    world.tell_as(who, command).unwrap();
    invariants::step(&before, &world.state, &world.events[first..]);
}

fn answer(world: &mut World, step: &str, code: u16) {
    let (before, first) = (world.state.clone(), world.events.len());
    let attempt = world.tenant().runs[&RUN].steps[&id(step)].attempts;
    let outcome = CallOutcome::Answered { status: code, body: None };
    world.ok(TenantCommand::AnswerCall { run: RUN, step: id(step), attempt, outcome });
    invariants::step(&before, &world.state, &world.events[first..]);
}

fn states(world: &World) -> String {
    states_of(checked_run(world, RUN))
}

/// The runs that are part of the one that the tests are about.
fn parts(world: &World) -> Vec<&Run> {
    world.tenant().runs.values().filter(|it| it.parent.is_some()).map(AsRef::as_ref).collect()
}

fn deploy() -> Value {
    json!({ "release": "shop:2.0", "environment": "staging", "strategy": { "type": "all_at_once" }, "on_target_failure": "stop" })
}

fn call() -> Value {
    json!({ "url": "https://example.com/" })
}

fn only_promotion(world: &World) -> PromotionId {
    let mut all = world.tenant().promotions.values().filter(|it| it.wanted.release == release(2));
    all.next().unwrap().id
}

fn withdrawn(world: &World) -> String {
    match &world.tenant().promotions[&only_promotion(world)].status {
        PromotionStatus::Withdrawn { hold } => hold.reason.clone(),
        other => panic!("{other:?}"),
    }
}

fn approve(world: &mut World) {
    let promotion = only_promotion(world);
    let plan = world.tenant().promotions[&promotion].plan.root;
    let reason = String::new();
    tell(world, 2, TenantCommand::ApprovePromotion { promotion, plan, reason, signature: None });
}

fn waiting_beside(on_failure: &str) -> World {
    run(
        &[],
        json!([
            { "id": "staging", "http": call() },
            { "id": "us", "deploy": deploy(), "retry": { "attempts": 3 } },
            { "id": "boom", "needs": ["staging"], "on_failure": on_failure, "http": call() },
            { "id": "undo", "compensates": "staging", "http": call() },
        ]),
    )
}

#[test]
fn a_deployment_that_only_waits_is_not_asked_for_any_more() {
    let mut world = waiting_beside("fail");
    answer(&mut world, "staging", 200);
    assert_eq!(states(&world), "running: boom running, staging succeeded, undo waiting, us running");
    answer(&mut world, "boom", 500);
    assert_eq!(states(&world), "failed: boom failed, staging succeeded, undo skipped, us cancelled");
    assert_eq!(withdrawn(&world), "the run that it belongs to has failed");

    // What makes up for others does not wait for it.
    let mut world = waiting_beside("compensate");
    answer(&mut world, "staging", 200);
    answer(&mut world, "boom", 500);
    assert_eq!(states(&world), "compensating: boom failed, staging succeeded, undo running, us cancelled");
    answer(&mut world, "undo", 200);
    assert_eq!(states(&world), "failed: boom failed, staging succeeded, undo succeeded, us cancelled");
    end(&world);
}

#[test]
fn a_deployment_that_has_begun_comes_to_its_end() {
    let mut world = waiting_beside("compensate");
    answer(&mut world, "staging", 200);
    approve(&mut world);
    answer(&mut world, "boom", 500);
    assert_eq!(states(&world), "compensating: boom failed, staging succeeded, undo waiting, us running");
    world.complete(1);
    world.complete(2);
    assert_eq!(states(&world), "compensating: boom failed, staging succeeded, undo running, us succeeded");
    end(&world);
}

/// Two steps of a run want the same targets: what sets them free for the second is what the run fails of.
#[test]
fn what_a_run_fails_of_lets_none_of_its_steps_in() {
    let mut world = run(
        &[],
        json!([
            { "id": "one", "deploy": deploy() },
            { "id": "two", "deploy": { "release": "shop:1.0", "environment": "staging" } },
        ]),
    );
    for of in [2, 1] {
        let mut open = world.tenant().open_promotions.iter().map(|id| &world.tenant().promotions[id]);
        let found = open.find(|it| it.wanted.release == release(of)).unwrap();
        let (promotion, plan, reason) = (found.id, found.plan.root, String::new());
        tell(&mut world, 2, TenantCommand::ApprovePromotion { promotion, plan, reason, signature: None });
    }
    let [deployment] = world.tenant().active_deployments.iter().copied().collect::<Vec<_>>()[..] else {
        panic!()
    };
    let (before, first) = (world.state.clone(), world.events.len());
    world.tell_as(1, TenantCommand::CancelDeployment { deployment, reason: String::new() }).unwrap();
    for n in [1, 2] {
        world.accept(n);
        world.finish(n, TaskOutcome::Cancelled);
    }
    assert_eq!(states(&world), "failed: one failed, two cancelled");
    invariants::step(&before, &world.state, &world.events[first..]);
    end(&world);
}

#[test]
fn what_is_part_of_a_run_turns_away_with_it() {
    let part = json!([
        { "id": "seen", "http": call() },
        { "id": "us", "deploy": deploy() },
        { "id": "then", "needs": ["us"], "http": call() },
        { "id": "unsee", "compensates": "seen", "http": call() },
    ]);
    let between =
        json!([{ "id": "sub", "workflow": { "name": "part", "version": 1 }, "retry": { "attempts": 2 } }]);
    for (on_failure, ends) in [("fail", "failed"), ("compensate", "compensating")] {
        let steps = json!([
            { "id": "all", "workflow": { "name": "between", "version": 1 }, "retry": { "attempts": 2 } },
            { "id": "boom", "on_failure": on_failure, "http": call() },
        ]);
        let mut world = run(&[("part", part.clone()), ("between", between.clone())], steps);
        let inner = parts(&world).into_iter().find(|it| it.workflow == name("part")).unwrap().id;
        let said = |world: &mut World, step: &str| {
            let outcome = CallOutcome::Answered { status: 200, body: None };
            world.ok(TenantCommand::AnswerCall { run: inner, step: id(step), attempt: 1, outcome });
        };
        said(&mut world, "seen");
        answer(&mut world, "boom", 500);
        assert_eq!(withdrawn(&world), "the run that it belongs to has failed");
        let inner_now = states_of(&world.tenant().runs[&inner]);
        if on_failure == "fail" {
            assert_eq!(inner_now, "failed: seen succeeded, then skipped, unsee skipped, us cancelled");
        } else {
            assert_eq!(inner_now, "compensating: seen succeeded, then skipped, unsee running, us cancelled");
            said(&mut world, "unsee");
        }
        assert_eq!(states(&world), "failed: all failed, boom failed", "{ends}");
        assert!(parts(&world).iter().all(|it| it.status.name() == "failed"));
        end(&world);
    }
}

/// Nothing of it is still to begin, so it is waited for, as if its last step were one of the run itself.
#[test]
fn a_part_whose_last_work_is_under_way_counts_for_what_it_comes_to() {
    let part = json!([{ "id": "us", "deploy": deploy(), "retry": { "attempts": 2 }, "hold": "1h" }]);
    let steps = json!([
        { "id": "all", "workflow": { "name": "part", "version": 1 } },
        { "id": "boom", "on_failure": "compensate", "http": call() },
        { "id": "undo", "compensates": "all", "http": call() },
    ]);
    let mut world = run(&[("part", part.clone())], steps.clone());
    approve(&mut world);
    answer(&mut world, "boom", 500);
    assert_eq!(states(&world), "compensating: all running, boom failed, undo waiting");
    world.complete(1);
    world.complete(2);
    assert_eq!(states(&world), "compensating: all succeeded, boom failed, undo running");

    // It is not tried again, and waits for nobody to do that.
    let mut world = run(&[("part", part)], steps);
    approve(&mut world);
    answer(&mut world, "boom", 500);
    for n in [1, 2] {
        world.run(n);
        world.finish(n, failed("disk full"));
    }
    assert_eq!(states_of(parts(&world)[0]), "failed: us failed");
    assert_eq!(states(&world), "failed: all failed, boom failed, undo skipped");
    end(&world);
}

/// What makes up for a step is not part of what has failed, although its whole has.
#[test]
fn what_makes_up_for_others_runs_as_a_whole() {
    let part =
        json!([{ "id": "first", "http": call() }, { "id": "us", "needs": ["first"], "deploy": deploy() }]);
    let steps = json!([
        { "id": "staging", "http": call() },
        { "id": "boom", "needs": ["staging"], "on_failure": "compensate", "http": call() },
        { "id": "undo", "compensates": "staging", "workflow": { "name": "part", "version": 1 } },
    ]);
    let mut world = run(&[("part", part)], steps);
    answer(&mut world, "staging", 200);
    answer(&mut world, "boom", 500);
    let inner = parts(&world)[0].id;
    let outcome = CallOutcome::Answered { status: 200, body: None };
    world.ok(TenantCommand::AnswerCall { run: inner, step: id("first"), attempt: 1, outcome });
    approve(&mut world);
    world.complete(1);
    world.complete(2);
    assert_eq!(states(&world), "failed: boom failed, staging succeeded, undo succeeded");
    end(&world);
}

/// A run that an older control plane has turned away, with a promotion that it has left to wait.
#[test]
fn an_approval_of_what_was_left_to_wait_lets_nothing_in() {
    let mut world = waiting_beside("fail");
    let turn = Turn::Failing { reason: "step boom: the answer was 500".to_owned() };
    let event = Event {
        at: world.now,
        actor: World::request(Command::Tick(Listening::Always)).actor,
        trace: TraceContext::default(),
        fact: Fact::RunTurned { id: RUN, turn },
    };
    let stream = StreamId::Tenant(crate::common::TENANT);
    world.state.apply(stream, &event).unwrap();
    world.events.push((stream, event));
    approve(&mut world);
    assert_eq!(withdrawn(&world), "the run that it belongs to has failed");
    let known = &world.tenant().runs[&RUN].steps[&id("us")].state;
    assert_eq!(known.name(), "cancelled");
}
