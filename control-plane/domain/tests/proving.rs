//! Where a release proves itself, nothing else comes before that has ended: it would be judged by what took its place.

use crate::common::{
    STAGING, World, canary, conflict, deployment, end, name, new_deployment, promotion, release, rule,
    states_of, target,
};
use serde_json::{Value, json};
use stella_domain::command::{NewDeployment, NewRun, TenantCommand};
use stella_domain::deployment::{Progress, Status};
use stella_domain::environment::Verification;
use stella_domain::rejection::Rejection;
use stella_domain::target::Target;
use stella_domain::workflow::Template;
use stella_protocol::id::RunId;
use stella_protocol::message::TaskOutcome;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x5000));
const BAKE_MS: u64 = 600_000;

/// Three targets with release 1, and release 2 that holds on the first of them.
fn soaking() -> World {
    let mut world = World::with_release_1(3);
    (1..=3).for_each(|n| world.person(n));
    let strategy = canary(&[(30, None)], None);
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 2, None) })));
    world.complete(1);
    world
}

/// Three targets on which release 2 bakes.
fn baking() -> World {
    let mut world = World::with_release_1(3);
    (1..=3).for_each(|n| world.person(n));
    let verification = Some(Verification { bake_ms: BAKE_MS });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    world.deploy(2, 2, None);
    (1..=3).for_each(|n| world.complete(n));
    assert!(world.deployment(deployment(2)).paused.is_some());
    world
}

/// Release 3 to the first target.
fn hotfix(n: u128) -> TenantCommand {
    let targets = Some(vec![target(1)]);
    TenantCommand::Deploy(Box::new(NewDeployment { targets, ..new_deployment(n, 3, None) }))
}

fn at(world: &World, n: u128) -> &Target {
    &world.tenant().targets[&target(n)]
}

#[test]
fn nothing_takes_the_place_of_a_canary_that_holds_and_the_refusal_says_how_it_would() {
    let mut world = soaking();
    let why = conflict(world.tell(hotfix(3)));
    let id = deployment(2);
    for said in [
        format!(
            "deployment {id} has brought shop:2.0 to target web-1 and has not ended (paused: canary step 1"
        ),
        format!("stella deployment cancel {id} --reason R leaves on the targets what is there"),
        format!("stella deployment fail {id} --rollback --reason R takes it back first"),
    ] {
        assert!(why.contains(&said), "{why}");
    }
    world.ok(TenantCommand::ResumeDeployment { deployment: id });
    world.complete(2);
    let why = conflict(world.tell(hotfix(3)));
    assert!(why.contains("has not ended (running)"), "{why}");
    world.complete(3);
    assert_eq!(*world.status(2), Status::Succeeded);
    world.ok(hotfix(3));
    world.complete(1);
    assert_eq!(at(&world, 1).current, Some(release(3)));
    end(&world);
}

#[test]
fn a_hotfix_comes_when_what_it_is_for_was_cancelled_or_taken_back() {
    let mut world = soaking();
    let reason = "orders are lost".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: reason.clone() });
    assert_eq!(at(&world, 1).current, Some(release(2)), "it stays until the fix is there");
    world.deploy(3, 3, None);
    (1..=3).for_each(|n| world.complete(n));
    assert_eq!(*world.status(3), Status::Succeeded);
    end(&world);

    let mut world = soaking();
    world.ok(TenantCommand::FailDeployment { deployment: deployment(2), roll_back: true, reason });
    let back = world.rollback_of(2).unwrap().id;
    assert!(conflict(world.tell(hotfix(3))).contains(&format!("deployment {back} works on target web-1")));
    world.complete(1);
    assert_eq!(at(&world, 1).current, Some(release(1)));
    world.ok(hotfix(3));
    end(&world);
}

#[test]
fn what_bakes_in_on_all_targets_is_there_when_it_has_succeeded() {
    let mut world = baking();
    assert!(conflict(world.tell(hotfix(3))).contains("paused: 3 of 3 targets have the release"));
    let refused = world.tell(TenantCommand::Deploy(Box::new(new_deployment(3, 3, None))));
    assert!(matches!(refused, Err(Rejection::Conflict { .. })), "{refused:?}");
    world.wait_ms(BAKE_MS);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!((1..=3).all(|n| at(&world, n).current == Some(release(2))));
    assert!(world.tenant().environments[&STAGING].proven.contains_key(&release(2)));
    world.ok(hotfix(3));
    end(&world);
}

#[test]
fn what_has_failed_or_was_left_out_there_keeps_nobody_away() {
    let mut world = soaking();
    world.ok(TenantCommand::SkipTarget {
        deployment: deployment(2),
        target: target(3),
        reason: "it gets the fix".to_owned(),
    });
    let targets = Some(vec![target(3)]);
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { targets, ..new_deployment(3, 3, None) })));
    assert!(matches!(world.deployment(deployment(3)).targets[&target(3)].progress, Progress::Active { .. }));
    end(&world);
}

#[test]
fn what_waits_for_approvals_begins_when_the_bake_is_over() {
    let mut world = baking();
    let rule = Some(rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    world.tell_as(1, hotfix(3)).unwrap();
    world.approve(2, 3).unwrap();
    assert!(world.promotion(3).is_open() && world.promotion(3).is_approved());
    world.wait_ms(BAKE_MS - 1);
    assert!(world.promotion(3).is_open());
    world.wait_ms(1);
    assert_eq!((world.status(2), world.status(3)), (&Status::Succeeded, &Status::Running));
    assert!(world.tenant().promotions.contains_key(&promotion(3)));
    end(&world);
}

fn run(world: &mut World, steps: &Value) -> String {
    let template: Template = serde_json::from_value(json!({ "name": "ship", "steps": steps })).unwrap();
    world.ok(TenantCommand::ApplyWorkflow(Box::new(template)));
    let new = NewRun { id: RUN, workflow: name("ship"), version: None, inputs: Default::default() };
    world.tell_as(1, TenantCommand::StartRun(Box::new(new))).unwrap();
    states_of(&world.tenant().runs[&RUN])
}

#[test]
fn a_step_of_a_run_waits_for_it_and_a_job_runs_beside_it() {
    let mut world = baking();
    let deploy =
        json!({ "release": "shop:3.0", "environment": "staging", "strategy": { "type": "all_at_once" } });
    let job = json!({ "environment": "staging", "max_parallel": 3,
        "steps": [{ "name": "smoke", "command": { "argv": ["/smoke"] } }] });
    let steps =
        json!([{ "id": "smoke", "task": job }, { "id": "ship", "needs": ["smoke"], "deploy": deploy }]);
    assert_eq!(run(&mut world, &steps), "running: ship waiting, smoke running");
    for n in 1..=3 {
        world.finish(n, TaskOutcome::Succeeded);
    }
    assert_eq!(states_of(&world.tenant().runs[&RUN]), "running: ship running, smoke succeeded");
    assert_eq!(world.tenant().open_promotions.len(), 1);
    world.wait_ms(BAKE_MS);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert_eq!(world.tenant().open_promotions.len(), 0);
    (1..=3).for_each(|n| world.complete(n));
    world.wait_ms(BAKE_MS);
    assert_eq!(states_of(&world.tenant().runs[&RUN]), "succeeded: ship succeeded, smoke succeeded");
    assert!((1..=3).all(|n| at(&world, n).current == Some(release(3))));
    end(&world);
}
