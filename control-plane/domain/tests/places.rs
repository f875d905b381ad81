//! Who takes the place of targets that are left out, or that have failed: a canary proves itself on as many hosts as its step wants, and a
//! batch has as many as it is to have.

use std::collections::BTreeMap;

use crate::common::{
    self, World, agent, canary, deployment, end, failed, failure, new_deployment, new_target, target,
};
use stella_domain::amount::Amount::Count;
use stella_domain::command::{Actor, NewDeployment, NewTarget, TenantCommand};
use stella_domain::decide::planned;
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::group;
use stella_domain::hold::PauseCause;
use stella_domain::strategy::{Order, OrderBy, Rolling, Strategy};
use stella_protocol::trace::TraceContext;

const MINUTE_MS: u64 = 60_000;

fn drain(n: u128) -> TenantCommand {
    TenantCommand::DrainAgent { agent: agent(n), reason: "kernel".to_owned() }
}

fn skip(n: u128) -> TenantCommand {
    TenantCommand::SkipTarget { deployment: deployment(2), target: target(n), reason: "no power".to_owned() }
}

/// Release 2 comes to targets that have release 1.
fn deploy(world: &mut World, strategy: Strategy, (on_failure, tolerated): (OnFailure, u32)) {
    let tolerate_failures = (tolerated > 0).then_some(Count(tolerated));
    let new = NewDeployment { strategy, on_failure, tolerate_failures, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
}

/// The targets that are worked on.
fn active(world: &World) -> Vec<u128> {
    let parts = &world.deployment(deployment(2)).targets;
    (1..=9).filter(|n| parts.get(&target(*n)).is_some_and(|part| part.progress.task().is_some())).collect()
}

/// Why it holds.
fn held(world: &World) -> Option<String> {
    world.deployment(deployment(2)).paused.as_ref().map(|hold| hold.reason.clone())
}

#[test]
fn the_next_host_is_the_canary_where_the_first_is_out_of_rotation() {
    let mut world = World::with_release_1(4);
    world.ok(drain(1));
    deploy(&mut world, canary(&[(25, Some(10 * MINUTE_MS))], None), (OnFailure::Rollback, 0));
    assert_eq!((active(&world), held(&world)), (vec![2], None));
    world.complete(2);
    assert_eq!(held(&world).unwrap(), "canary step 1: 1 of 4 targets have the release");
    assert!(world.deployment(deployment(2)).is_watched(), "the gates look at it meanwhile");
    world.wait_ms(10 * MINUTE_MS);
    assert_eq!(active(&world), [3, 4]);
    [3, 4].into_iter().for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn a_canary_that_is_taken_out_of_rotation_before_it_was_begun_is_replaced() {
    let mut world = World::with_release_1(4);
    world.disconnect(1);
    deploy(&mut world, canary(&[(25, None)], None), (OnFailure::Rollback, 0));
    assert_eq!(active(&world), [1], "it waits for its agent");
    world.ok(drain(1));
    assert_eq!((active(&world), held(&world)), (vec![2], None));
    world.complete(2);
    assert!(held(&world).unwrap().starts_with("canary step 1: 1 of 4"));
    end(&world);
}

#[test]
fn a_canary_that_has_failed_and_was_skipped_is_replaced() {
    let mut world = World::with_release_1(9);
    deploy(&mut world, canary(&[(10, Some(MINUTE_MS)), (50, None)], None), (OnFailure::Ask, 0));
    world.finish(1, failed("exit 1"));
    assert!(held(&world).unwrap().contains("1 target has failed"));
    world.ok(skip(1));
    assert_eq!((active(&world), held(&world)), (vec![2], None));
    world.complete(2);
    assert!(held(&world).unwrap().starts_with("canary step 1: 1 of 9"));
    world.wait_ms(MINUTE_MS);
    // Half of the eight that are left.
    assert_eq!(active(&world), [3, 4, 5]);
    (3..=5).for_each(|n| world.complete(n));
    assert!(held(&world).unwrap().starts_with("canary step 2: 4 of 9"));
    end(&world);
}

#[test]
fn a_canary_whose_failure_is_tolerated_is_replaced_too() {
    let mut world = World::with_release_1(9);
    deploy(&mut world, canary(&[(20, Some(MINUTE_MS))], None), (OnFailure::Rollback, 1));
    assert_eq!(active(&world), [1, 2]);
    world.finish(1, failed("exit 1"));
    assert_eq!(active(&world), [2, 3]);
    world.complete(2);
    assert_eq!(held(&world), None, "one of two has it");
    world.complete(3);
    assert!(held(&world).unwrap().starts_with("canary step 1: 2 of 9"));
    world.wait_ms(MINUTE_MS);
    assert_eq!(active(&world), [4, 5, 6, 7, 8, 9]);
    (4..=9).for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);

    // A second one is one too many, wherever it is.
    let mut world = World::with_release_1(9);
    deploy(&mut world, canary(&[(20, Some(MINUTE_MS))], None), (OnFailure::Rollback, 1));
    world.finish(1, failed("exit 1"));
    world.finish(3, failed("exit 1"));
    world.complete(2);
    assert!(failure(&world, 2).contains("2 failed, 1 tolerated"), "{}", failure(&world, 2));
    end(&world);
}

#[test]
fn who_tries_the_failed_canary_again_has_both() {
    let mut world = World::with_release_1(9);
    deploy(&mut world, canary(&[(10, None)], None), (OnFailure::Rollback, 1));
    world.finish(1, failed("exit 1"));
    world.complete(2);
    assert!(held(&world).unwrap().starts_with("canary step 1: 1 of 9"));
    world.ok(TenantCommand::RetryTarget { deployment: deployment(2), target: target(1) });
    world.complete(1);
    assert!(held(&world).unwrap().starts_with("canary step 1: 1 of 9"), "it holds on");
    assert_eq!(world.deployment(deployment(2)).counts.succeeded, 2);
    end(&world);
}

#[test]
fn a_share_is_one_of_those_that_still_take_part() {
    let mut world = World::with_release_1(9);
    deploy(&mut world, canary(&[(50, None)], Some(1)), (OnFailure::Rollback, 0));
    for n in 5..=9 {
        world.ok(drain(n));
    }
    world.complete(1);
    assert_eq!((active(&world), held(&world)), (vec![2], None));
    world.complete(2);
    assert!(held(&world).unwrap().starts_with("canary step 1: 2 of 9"), "two of four");
    end(&world);
}

#[test]
fn a_batch_is_full_when_as_many_are_begun_as_it_has() {
    let pausing = |batch| Strategy::Rolling(Rolling { pause_ms: Some(MINUTE_MS), ..Rolling::of(batch) });
    let mut world = World::with_release_1(6);
    [1, 3].into_iter().for_each(|n| drop(world.ok(drain(n))));
    deploy(&mut world, pausing(2), (OnFailure::Rollback, 0));
    assert_eq!((active(&world), held(&world)), (vec![2, 4], None));
    world.complete(2);
    assert_eq!((active(&world), held(&world)), (vec![4], None), "the batch is over as a whole");
    world.complete(4);
    assert_eq!(world.deployment(deployment(2)).paused_for, PauseCause::Batch);
    world.wait_ms(MINUTE_MS);
    assert_eq!(active(&world), [5, 6]);
    [5, 6].into_iter().for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn no_pause_comes_after_a_rack_in_which_all_were_left_out() {
    let mut world = World::with_targets(5);
    for (n, rack) in (1..).zip(["a", "a", "b", "b", "c"]) {
        world.ok(TenantCommand::RemoveTarget { id: target(n) });
        let labels = BTreeMap::from([("rack".to_owned(), rack.to_owned())]);
        world.ok(TenantCommand::CreateTarget(Box::new(NewTarget { labels, ..new_target(n) })));
    }
    [1, 2].into_iter().for_each(|n| drop(world.ok(drain(n))));
    let order = Some(Order { by: OrderBy::Domain, label: "rack".to_owned() });
    let by_rack = Rolling { pause_ms: Some(MINUTE_MS), order, ..Rolling::of(2) };
    deploy(&mut world, Strategy::Rolling(by_rack), (OnFailure::Rollback, 0));
    assert_eq!((active(&world), held(&world)), (vec![3, 4], None));
    [3, 4].into_iter().for_each(|n| world.complete(n));
    assert_eq!(world.deployment(deployment(2)).paused_for, PauseCause::Batch);
    world.wait_ms(MINUTE_MS);
    assert_eq!(active(&world), [5], "the rack is another one");
    world.complete(5);
    end(&world);
}

#[test]
fn a_plan_shows_who_comes_in_the_place_of_hosts_that_are_out_of_rotation() {
    let mut world = World::with_release_1(4);
    let waves = |world: &World| {
        let strategy = canary(&[(25, None), (50, None)], None);
        let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
        let planned = planned(world.tenant(), &new, world.now).unwrap();
        group::waves(world.tenant(), &new.strategy, &planned.targets)
    };
    assert_eq!(waves(&world), [1, 2, 3, 3].map(Some));
    world.ok(drain(1));
    assert_eq!(waves(&world), [None, Some(1), Some(2), Some(3)]);
    world.ok(drain(2));
    assert_eq!(waves(&world), [None, None, Some(1), Some(2)], "after the first of two it holds twice");
    [3, 4].into_iter().for_each(|n| drop(world.ok(drain(n))));
    assert_eq!(waves(&world), [1, 2, 3, 3].map(Some), "where all are, it waits for them");
}

/// Journals have canaries that held, and batches that were over, with nobody in them: they are read as they are.
#[test]
fn holds_of_before_on_what_was_left_out_are_read_as_they_are() {
    let pausing = Strategy::Rolling(Rolling { pause_ms: Some(MINUTE_MS), ..Rolling::of(1) });
    for (strategy, canary_step, cause) in [
        (canary(&[(25, Some(MINUTE_MS))], None), Some(1), PauseCause::CanaryStep),
        (pausing, None, PauseCause::Batch),
    ] {
        let mut world = World::with_release_1(4);
        world.disconnect(1);
        world.disconnect(2);
        deploy(&mut world, strategy, (OnFailure::Rollback, 0));
        assert_eq!(active(&world), [1]);
        let mut facts = Vec::new();
        facts.push(Fact::AgentDraining { agent: agent(1), reason: "kernel".to_owned() });
        let key = world.task_on(1).key();
        facts.push(Fact::TaskFinished {
            key,
            position: None,
            started_at: None,
            finished_at: world.now,
            outcome: stella_protocol::message::TaskOutcome::Cancelled,
            never_began: false,
        });
        let (deployment, target, reason) = (deployment(2), target(1), "draining".to_owned());
        facts.push(Fact::TargetSkipped { deployment, target, reason: Some(reason), never_came: true });
        let (id, reason, until) =
            (deployment, "0 of 4 targets have the release".to_owned(), Some(world.now.plus_ms(MINUTE_MS)));
        facts.push(Fact::DeploymentPaused { id, reason, until, canary_step, cause });
        for fact in facts {
            let event = Event { at: world.now, actor: Actor::System, trace: TraceContext::default(), fact };
            let stream = StreamId::Tenant(common::TENANT);
            world.state.apply(stream, &event).unwrap();
            world.events.push((stream, event));
        }
        assert!(matches!(world.deployment(deployment).targets[&target].progress, Progress::Skipped { .. }));
        world.wait_ms(MINUTE_MS);
        assert!(active(&world).contains(&2), "it goes on where it was");
        end(&world);
    }
}
