//! Canaries: some targets first, a hold, then more.

use crate::common::{World, agent, canary, deployment, facts, failed, invariants, new_deployment, target};
use stella_domain::amount::Amount;
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::deployment::{Progress, Status};
use stella_domain::rejection::Rejection;

/// Four targets with release 1, and release 2 on its way there.
fn world(steps: &[(u32, Option<u64>)], batch: Option<u32>) -> World {
    let mut world = World::with_release_1(4);
    let strategy = canary(steps, batch);
    let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world
}

/// How many targets have the release, are worked on and wait.
fn counts(world: &World) -> (u32, u32, u32) {
    let counts = world.deployment(deployment(2)).counts;
    (counts.succeeded, counts.active, counts.waiting)
}

fn paused(world: &World) -> Option<String> {
    world.deployment(deployment(2)).paused.as_ref().map(|hold| hold.reason.clone())
}

fn resume(world: &mut World) {
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
}

#[test]
fn a_canary_holds_after_each_step_for_its_time_or_for_a_person() {
    let mut world = world(&[(25, Some(600_000)), (50, None)], None);
    assert_eq!(counts(&world), (0, 1, 3));
    world.complete(1);
    assert_eq!(counts(&world), (1, 0, 3));
    assert_eq!(paused(&world).unwrap(), "canary step 1: 1 of 4 targets have the release");
    world.wait_ms(599_999);
    assert_eq!(counts(&world), (1, 0, 3));
    world.wait_ms(1);
    assert_eq!((counts(&world), paused(&world)), ((1, 1, 2), None));
    world.complete(2);
    assert_eq!(paused(&world).unwrap(), "canary step 2: 2 of 4 targets have the release");
    world.wait_ms(90 * 24 * 3_600_000);
    assert_eq!(counts(&world), (2, 0, 2), "nobody has resumed it, and its time stands still");
    resume(&mut world);
    assert_eq!(counts(&world), (2, 2, 0), "all others at once");
    world.complete(3);
    world.complete(4);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(world.is_at_rest());
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
}

#[test]
fn a_step_has_a_batch_and_a_failure_in_it_takes_everything_back() {
    let mut world = world(&[(75, Some(60_000))], Some(2));
    assert_eq!(counts(&world), (0, 2, 2));
    world.complete(1);
    assert_eq!(counts(&world), (1, 2, 1));
    world.finish(2, failed("exit 1"));
    world.complete(3);
    assert!(matches!(world.status(2), Status::Failed { .. }));
    let back = world.rollback_of(2).unwrap();
    assert_eq!(back.targets.len(), 3);
    assert!(matches!(world.deployment(deployment(2)).targets[&target(4)].progress, Progress::Skipped { .. }));
}

#[test]
fn a_person_ends_a_hold_early_and_another_makes_it_last() {
    let mut world = world(&[(25, Some(60_000)), (50, Some(60_000))], None);
    world.complete(1);
    resume(&mut world);
    assert_eq!(counts(&world), (1, 1, 2));
    world.wait_ms(120_000);
    world.complete(2);
    let pause =
        TenantCommand::PauseDeployment { deployment: deployment(2), reason: "errors rise".to_owned() };
    assert_eq!(facts(&world.ok(pause.clone())), ["deployment_paused"]);
    assert!(world.ok(pause).events.is_empty());
    world.wait_ms(24 * 3_600_000);
    assert_eq!((counts(&world), paused(&world).as_deref()), ((2, 0, 2), Some("errors rise")));
    resume(&mut world);
    assert_eq!(counts(&world), (2, 2, 0), "its step is behind it");
    // An hour for the work, none of the holds.
    world.wait_ms(3_600_000 - 120_000 - 1);
    assert_eq!(*world.status(2), Status::Running);
    world.wait_ms(1);
    assert!(matches!(world.status(2), Status::Halting { .. }), "{:?}", world.status(2));
    invariants::check(&world.state, world.now);
    invariants::replay(&world.events, &world.state);
}

#[test]
fn a_canary_that_holds_can_be_cancelled_and_leaves_no_timer() {
    let mut world = world(&[(50, Some(60_000))], None);
    world.complete(1);
    world.complete(2);
    let reason = "enough".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason });
    assert!(matches!(world.status(2), Status::Cancelled { .. }));
    assert!(world.is_at_rest());
    invariants::replay(&world.events, &world.state);
}

/// With few targets two steps may be the same one: each holds for its time.
#[test]
fn steps_without_targets_of_their_own_hold_as_well() {
    let mut world = World::with_release_1(1);
    let strategy = canary(&[(1, Some(60_000)), (99, None)], None);
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 2, None) })));
    world.complete(1);
    assert_eq!(*world.status(2), Status::Succeeded, "there is nothing to hold back");

    let mut world = self::world(&[(1, Some(60_000)), (2, Some(60_000))], None);
    world.complete(1);
    world.wait_ms(60_000);
    assert_eq!(paused(&world).unwrap(), "canary step 2: 1 of 4 targets have the release");
    world.wait_ms(60_000);
    assert_eq!(counts(&world), (1, 3, 0));
}

#[test]
fn a_canary_that_makes_no_sense_is_refused_by_field() {
    let mut world = World::with_release_1(1);
    let mut refused = |steps: &[(u32, Option<u64>)], batch, wanted: &str| {
        let strategy = canary(steps, batch);
        let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
        let told = world.tell(TenantCommand::Deploy(Box::new(new)));
        assert!(matches!(&told, Err(Rejection::Invalid { field, .. }) if field == wanted), "{told:?}");
    };
    refused(&[], None, "strategy.steps");
    refused(&[(1, None); 17], None, "strategy.steps");
    refused(&[(0, None)], None, "strategy.steps[0].percent");
    refused(&[(101, None)], None, "strategy.steps[0].percent");
    refused(&[(100, None)], None, "strategy.steps[0].percent");
    refused(&[(10, None), (10, None)], None, "strategy.steps[1].percent");
    refused(&[(50, None), (20, None)], None, "strategy.steps[1].percent");
    refused(&[(10, Some(999))], None, "strategy.steps[0].soak_ms");
    refused(&[(10, Some(7 * 24 * 3_600_000 + 1))], None, "strategy.steps[0].soak_ms");
    refused(&[(10, None)], Some(0), "strategy.batch");
}

#[test]
fn hundreds_of_targets_whose_agents_were_revoked_end_one_after_the_other() {
    // Each of them inside the one before would need more stack than a thread has.
    const TARGETS: u128 = 400;
    let mut world = World::with_targets(TARGETS);
    let (strategy, tolerate_failures) = (canary(&[(1, Some(1_000))], None), Some(Amount::Percent(99)));
    let new = NewDeployment { strategy, tolerate_failures, ..new_deployment(1, 1, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    let first: Vec<u128> = (1..=TARGETS).filter(|n| is_active(&world, *n)).collect();
    for n in (1..=TARGETS).filter(|n| !first.contains(n)).take(380) {
        world.ok(TenantCommand::RevokeAgent { agent: agent(n), reason: "its rack goes".to_owned() });
    }
    first.iter().for_each(|n| world.complete(*n));
    world.wait_ms(1_000);
    let counts = world.deployment(deployment(1)).counts;
    assert_eq!((counts.failed, counts.waiting), (380, 0));
    for n in (1..=TARGETS).filter(|n| is_active(&world, *n)).collect::<Vec<_>>() {
        world.complete(n);
    }
    assert_eq!(*world.status(1), Status::Succeeded);
}

fn is_active(world: &World, n: u128) -> bool {
    matches!(world.deployment(deployment(1)).targets[&target(n)].progress, Progress::Active { .. })
}
