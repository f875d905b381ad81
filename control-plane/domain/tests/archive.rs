//! What leaves memory when it has ended, and what stays because something may still need it.

use crate::common::{
    self, STAGING, World, deployment, end, facts, failed, invariants, name, new_deployment, promotion, target,
};
use serde_json::json;
use stella_domain::archive::{Ended, Rule, due};
use stella_domain::command::{NewDeployment, NewRun, TenantCommand};
use stella_domain::deployment::Status;
use stella_domain::promotion::Objection;
use stella_domain::rejection::Rejection;
use stella_protocol::id::RunId;
use stella_protocol::message::TaskOutcome;
use uuid::Uuid;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const RUN: RunId = RunId(Uuid::from_u128(0x5000));

fn after(days: u64) -> Rule {
    Rule { never_within_ms: HOUR_MS, after_ms: Some(days * DAY_MS), newer_max: None }
}

fn never() -> Rule {
    Rule { after_ms: None, ..after(0) }
}

fn due_now(world: &World, rule: Rule) -> Ended {
    due(world.tenant(), rule, world.now)
}

/// Forgets what the rule says, and tells the facts.
fn archive(world: &mut World, rule: Rule) -> Vec<&'static str> {
    let ended = due_now(world, rule);
    let decision = world.ok(TenantCommand::Archive(Box::new(ended)));
    invariants::check(&world.state, world.now);
    facts(&decision)
}

/// Three deployments, one after the other, each a day later than the one before.
fn three() -> World {
    let mut world = World::with_release_1(2);
    for n in 2..=3 {
        world.wait_ms(DAY_MS);
        world.deploy(n, n, None);
        (1..=2).for_each(|target| world.complete(target));
        assert_eq!(*world.status(n), Status::Succeeded);
    }
    world
}

#[test]
fn what_ended_long_ago_leaves_with_its_tasks_and_its_promotion() {
    let mut world = three();
    let (tasks, totals) = (world.tenant().tasks.len(), world.tenant().totals.clone());
    assert_eq!(due_now(&world, after(3)).count(), 0, "nothing is old enough");
    world.wait_ms(DAY_MS);
    assert_eq!(archive(&mut world, after(1)), ["deployment_archived", "deployment_archived"]);
    let tenant = world.tenant();
    assert_eq!(tenant.deployments.keys().copied().collect::<Vec<_>>(), [deployment(3)]);
    assert_eq!(tenant.promotions.keys().copied().collect::<Vec<_>>(), [promotion(3)]);
    assert_eq!(tenant.tasks.len(), tasks / 3);
    assert_eq!((tenant.archived.deployments, tenant.archived.promotions), (2, 2));
    assert_eq!(tenant.totals, totals, "what is counted was counted at its end");
    assert!(archive(&mut world, after(0)).is_empty(), "the last one can be taken back, so it stays");
    end(&world);
}

#[test]
fn what_a_target_goes_back_to_that_was_never_touched_stays() {
    let mut world = World::with_release_1(1);
    world.disconnect(1);
    world.wait_ms(60_000);
    let mut new = new_deployment(2, 2, None);
    new.timeout_ms = 7 * DAY_MS;
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.wait_ms(2 * DAY_MS);
    assert!(
        archive(&mut world, after(1)).is_empty(),
        "nothing was sent yet, so the first may be the last again"
    );
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: "no".to_owned() });
    assert_eq!(world.tenant().targets[&target(1)].last, Some(deployment(1)));
    world.wait_ms(2 * DAY_MS);
    assert_eq!(archive(&mut world, after(1)), ["deployment_archived"], "the second one");
    end(&world);
}

#[test]
fn when_there_are_too_many_the_oldest_leave_but_not_within_the_hour() {
    let mut world = three();
    let rule = |newer_max| Rule { newer_max: Some(newer_max), ..never() };
    assert_eq!(due_now(&world, rule(3)).count(), 0);
    assert_eq!(due_now(&world, rule(2)).deployments, [deployment(1)]);
    assert_eq!(due_now(&world, rule(0)).deployments, [deployment(1), deployment(2)]);
    world.deploy(4, 1, None);
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!(due_now(&world, rule(0)).deployments, [deployment(1), deployment(2)], "3 is too young");
    world.wait_ms(HOUR_MS + 1);
    assert_eq!(due_now(&world, rule(0)).deployments, [1, 2, 3].map(deployment));
    assert_eq!(due_now(&world, never()).count(), 0, "no rule, no archive");
}

#[test]
fn what_can_be_taken_back_stays_and_leaves_before_what_took_it_back() {
    let mut world = three();
    world.wait_ms(DAY_MS * 2);
    world.ok(TenantCommand::Rollback { id: deployment(9), of: deployment(3), targets: None });
    assert_eq!(
        due_now(&world, after(1)).deployments,
        [deployment(1), deployment(2)],
        "3 is being taken back"
    );
    world.complete(1);
    world.complete(2);
    world.wait_ms(DAY_MS * 2);
    assert_eq!(
        due_now(&world, after(1)).deployments,
        [1, 2].map(deployment),
        "9, the last to come, took 3 back"
    );
    world.deploy(5, 1, None);
    (1..=2).for_each(|n| world.complete(n));
    let due = due_now(&world, after(1)).deployments;
    assert_eq!(due, [1, 2, 3].map(deployment), "9 is shown with 3 as long as that is here");
    archive(&mut world, after(1));
    assert_eq!(due_now(&world, after(1)).deployments, [deployment(9)]);
    archive(&mut world, after(1));
    let gone = world.tell(TenantCommand::Rollback { id: deployment(8), of: deployment(3), targets: None });
    assert!(matches!(gone, Err(Rejection::NotFound { .. })), "{gone:?}");
    end(&world);
}

/// What was there before follows from what was taken back: without it, a rollback would be what had come there last.
#[test]
fn what_was_taken_back_stays_as_long_as_what_was_there_before_stands() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    (1..=2).for_each(|n| world.complete(n));
    let hotfix = NewDeployment { targets: Some(vec![target(1)]), ..new_deployment(3, 3, None) };
    world.ok(TenantCommand::Deploy(Box::new(hotfix)));
    world.complete(1);
    world.ok(TenantCommand::Rollback { id: deployment(9), of: deployment(3), targets: None });
    world.complete(1);
    world.wait_ms(2 * DAY_MS);
    assert_eq!(archive(&mut world, after(1)), ["deployment_archived"], "the first");
    world.ok(TenantCommand::Rollback { id: deployment(8), of: deployment(2), targets: None });
    let rollback = world.deployment(deployment(8));
    assert_eq!((rollback.targets.len(), rollback.left.len()), (2, 0));
    end(&world);
}

#[test]
fn a_task_of_unknown_end_keeps_its_deployment() {
    let mut world = World::with_release_1(1);
    world.wait_ms(DAY_MS);
    world.deploy(2, 2, None);
    world.finish(1, TaskOutcome::Unknown { reason: "its record is gone".to_owned() });
    let task = world.tenant().targets[&target(1)].blocked_by.or_else(|| Some(world.task_on(1).id)).unwrap();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: "x".to_owned() });
    world.wait_ms(DAY_MS * 9);
    assert!(world.status(2).is_final());
    assert_eq!(due_now(&world, after(1)).deployments, [deployment(1)]);
    world.ok(TenantCommand::SettleTask { task, succeeded: false, reason: "looked".to_owned() });
    world.deploy(3, 1, None);
    world.finish(1, failed("x"));
    world.wait_ms(DAY_MS * 2);
    assert!(due_now(&world, after(1)).deployments.contains(&deployment(2)));
}

#[test]
fn promotions_that_became_nothing_and_runs_leave_too() {
    let mut world = World::with_release_1(1);
    (1..=2).for_each(|n| world.person(n));
    let rule = Some(common::rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
    let reason = || "x".to_owned();
    let (promotion, objection) = (promotion(2), Objection::Other);
    assert_eq!(due_now(&world, after(0)).count(), 0);
    world.tell_as(2, TenantCommand::RejectPromotion { promotion, objection, reason: reason() }).unwrap();
    let template = json!({ "name": "ship", "steps": [{ "id": "wait", "wait": "1h" }] });
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let run = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: Default::default() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(run))).unwrap();
    world.wait_ms(DAY_MS * 2);
    assert_eq!(archive(&mut world, after(1)), ["promotion_archived", "run_archived"]);
    let archived = world.tenant().archived;
    assert_eq!((archived.deployments, archived.promotions, archived.runs), (0, 1, 1));
    end(&world);
}

/// The way back of a run that goes on is a deployment of one of its steps: it needs that.
#[test]
fn what_a_run_may_take_back_stays() {
    let mut world = World::with_release_1(1);
    world.person(1);
    let deploy = json!({ "release": "shop:2.0", "environment": "staging" });
    let template = json!({ "name": "ship", "steps": [
        { "id": "go", "deploy": deploy },
        { "id": "look", "needs": ["go"], "wait": "48h" },
        { "id": "back", "compensates": "go", "rollback": { "of": "go" } },
    ]});
    world.ok(TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap())));
    let run = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: Default::default() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(run))).unwrap();
    world.complete(1);
    let of_run = *world.tenant().deployments.keys().find(|id| **id != deployment(1)).unwrap();
    world.deploy(7, 1, None);
    world.complete(1);
    world.wait_ms(DAY_MS * 3 / 2);
    assert_eq!(due_now(&world, after(1)).deployments, [deployment(1)]);
    world.wait_ms(DAY_MS * 3);
    let due = due_now(&world, after(1));
    assert!(due.deployments.contains(&of_run) && due.runs == [RUN], "the run has ended: {due:?}");
}
