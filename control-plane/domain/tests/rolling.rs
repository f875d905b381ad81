//! Rolling deployments: batches, limits, pauses, order, and failures that are tolerated.

use std::collections::BTreeMap;

use crate::common::{self, World, deployment, end, failed, failure, new_deployment, new_target, target};
use stella_domain::amount::Amount::{Count, Percent};
use stella_domain::command::{NewDeployment, NewTarget, TenantCommand};
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::rejection::Rejection;
use stella_domain::strategy::{Order, OrderBy, Rolling, Strategy};
use stella_protocol::id::TargetId;

fn rolling(rolling: Rolling) -> NewDeployment {
    NewDeployment { strategy: Strategy::Rolling(rolling), ..new_deployment(2, 2, None) }
}

fn deploy(world: &mut World, new: NewDeployment) {
    world.ok(TenantCommand::Deploy(Box::new(new)));
}

fn ordered(by: OrderBy) -> Option<Order> {
    Some(Order { by, label: "rack".to_owned() })
}

/// Targets with release 1, each in the rack of this name.
fn racks(racks: &[&str]) -> World {
    let count = u128::try_from(racks.len()).unwrap();
    let mut world = World::with_targets(count);
    for (n, rack) in (1..).zip(racks) {
        world.ok(TenantCommand::RemoveTarget { id: target(n) });
        let labels = BTreeMap::from([("rack".to_owned(), (*rack).to_owned())]);
        world.ok(TenantCommand::CreateTarget(Box::new(NewTarget { labels, ..new_target(n) })));
    }
    world.deploy(1, 1, None);
    (1..=count).for_each(|n| world.complete(n));
    world
}

/// How many targets have the release, are worked on, wait and have failed.
fn counts(world: &World) -> (u32, u32, u32, u32) {
    let counts = world.deployment(deployment(2)).counts;
    (counts.succeeded, counts.active, counts.waiting, counts.failed)
}

/// The targets that are worked on.
fn active(world: &World) -> Vec<u128> {
    let parts = &world.deployment(deployment(2)).targets;
    (1..=9).filter(|n| parts.get(&target(*n)).is_some_and(|part| part.progress.task().is_some())).collect()
}

fn order(world: &World) -> Vec<TargetId> {
    world.deployment(deployment(2)).order.to_vec()
}

#[track_caller]
fn refused(world: &mut World, new: NewDeployment, wanted: &str, why: &str) {
    match world.tell(TenantCommand::Deploy(Box::new(new))) {
        Err(Rejection::Invalid { field, problem }) => {
            assert_eq!(field, wanted, "{problem}");
            assert!(problem.contains(why), "{problem}");
        }
        other => panic!("expected a refusal of {wanted}, got {other:?}"),
    }
}

#[test]
fn a_batch_is_a_share_and_each_target_that_ends_lets_the_next_one_begin() {
    let mut world = World::with_release_1(5);
    deploy(&mut world, rolling(Rolling { batch: Percent(30), ..Rolling::of(1) }));
    assert_eq!(active(&world), [1, 2], "30 % of 5, rounded up");
    world.complete(2);
    assert_eq!(active(&world), [1, 3]);
    for n in [1, 3, 4, 5] {
        world.complete(n);
    }
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn with_a_pause_batches_begin_as_a_whole() {
    let mut world = World::with_release_1(5);
    deploy(&mut world, rolling(Rolling { batch: Count(2), pause_ms: Some(60_000), ..Rolling::of(1) }));
    world.complete(1);
    assert_eq!(active(&world), [2], "the batch is not complete");
    world.complete(2);
    assert_eq!(active(&world), [0_u128; 0]);
    let paused = world.deployment(deployment(2)).paused.clone().unwrap();
    assert_eq!(paused.reason, "a batch is complete: 2 of 5 targets have the release");
    world.wait_ms(59_999);
    assert_eq!(active(&world), [0_u128; 0]);
    world.wait_ms(1);
    assert_eq!(active(&world), [3, 4]);
    world.complete(4);
    world.complete(3);
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    assert_eq!(active(&world), [5], "somebody did not want to wait");
    world.complete(5);
    assert_eq!(*world.status(2), Status::Succeeded, "no pause after the last batch");
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn racks_follow_one_another() {
    let mut world = racks(&["10", "9", "10", "9", "9"]);
    let order_by = ordered(OrderBy::Domain);
    deploy(&mut world, rolling(Rolling { batch: Count(2), order: order_by, ..Rolling::of(1) }));
    assert_eq!(order(&world), [2, 4, 5, 1, 3].map(target), "by number, not by text");
    assert_eq!(active(&world), [2, 4]);
    world.complete(2);
    assert_eq!(active(&world), [4, 5]);
    world.complete(4);
    assert_eq!(active(&world), [5], "the other rack waits for the last of this one");
    world.complete(5);
    assert_eq!(active(&world), [1, 3]);
    world.complete(1);
    world.complete(3);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn a_batch_of_racks_ends_with_the_rack_and_spreading_takes_one_of_each() {
    let mut world = racks(&["a", "a", "a", "b"]);
    let batch = Percent(50);
    let pause_ms = Some(60_000);
    let by = |order| Rolling { batch, pause_ms, order, ..Rolling::of(1) };
    deploy(&mut world, rolling(by(ordered(OrderBy::Domain))));
    let waves = [[1, 2].as_slice(), &[3], &[4]];
    for wave in waves {
        assert_eq!(active(&world), wave);
        wave.iter().for_each(|n| world.complete(*n));
        world.wait_ms(60_000);
    }
    assert_eq!(*world.status(2), Status::Succeeded);

    let mut world = racks(&["a", "a", "a", "b", "b", "c"]);
    deploy(&mut world, rolling(by(ordered(OrderBy::Spread))));
    assert_eq!(order(&world), [1, 4, 6, 2, 5, 3].map(target));
    assert_eq!(active(&world), [1, 4, 6], "one of each rack");
    end(&world);

    let mut world = racks(&["last", "2", "1"]);
    deploy(&mut world, rolling(Rolling { order: ordered(OrderBy::Label), ..Rolling::of(1) }));
    assert_eq!(order(&world), [3, 2, 1].map(target), "numbers before texts");
    end(&world);
}

#[test]
fn a_canary_can_be_ordered_too() {
    let mut world = racks(&["b", "a", "b", "a"]);
    let Strategy::Canary { steps, .. } = common::canary(&[(50, None)], None) else { panic!() };
    let strategy = Strategy::Canary { steps, batch: Some(Percent(25)), order: ordered(OrderBy::Domain) };
    deploy(&mut world, NewDeployment { strategy, ..new_deployment(2, 2, None) });
    assert_eq!(active(&world), [2]);
    world.complete(2);
    world.complete(4);
    assert!(world.deployment(deployment(2)).paused.is_some());
    end(&world);
}

#[test]
fn it_goes_on_as_long_as_few_enough_fail() {
    let mut world = World::with_release_1(4);
    let tolerate_failures = Some(Percent(50));
    deploy(&mut world, NewDeployment { tolerate_failures, ..rolling(Rolling::of(1)) });
    world.finish(1, failed("exit 1"));
    assert_eq!(active(&world), [2], "one of two");
    world.complete(2);
    world.finish(3, failed("exit 1"));
    world.complete(4);
    assert_eq!(*world.status(2), Status::Succeeded, "with two failures, as it may");
    assert_eq!(counts(&world), (2, 0, 0, 2));
    assert!(world.rollback_of(2).is_none());
    let retry = TenantCommand::RetryDeployment { id: deployment(3), of: deployment(2), targets: None };
    world.ok(retry);
    let retried = world.deployment(deployment(3));
    assert_eq!(retried.order.to_vec(), [1, 3].map(target));
    assert_eq!(retried.tolerate_failures, Some(Count(1)), "not all of them");
    end(&world);
}

#[test]
fn one_failure_too_many_takes_all_of_it_back() {
    let mut world = World::with_release_1(4);
    let tolerate_failures = Some(Count(1));
    deploy(&mut world, NewDeployment { tolerate_failures, ..rolling(Rolling::of(2)) });
    world.finish(1, failed("exit 1"));
    world.finish(3, failed("exit 2"));
    assert!(matches!(world.status(2), Status::Halting { .. }), "web-2 comes to its end");
    world.complete_first_step(2);
    let why = failure(&world, 2);
    assert!(why.contains("web-3 failed: exit 2 (2 failed, 1 tolerated)"), "{why}");
    let back = world.rollback_of(2).unwrap();
    assert_eq!(back.order.to_vec(), [1, 2, 3].map(target), "the tolerated one as well");
    assert!(matches!(world.deployment(deployment(2)).targets[&target(4)].progress, Progress::Skipped { .. }));
    end(&world);

    let mut world = World::with_release_1(3);
    let on_failure = OnFailure::Stop;
    deploy(&mut world, NewDeployment { tolerate_failures, on_failure, ..rolling(Rolling::of(1)) });
    world.finish(1, failed("exit 1"));
    world.finish(2, failed("exit 1"));
    assert!(failure(&world, 2).contains("2 failed, 1 tolerated"));
    assert!(world.rollback_of(2).is_none());
    end(&world);
}

#[test]
fn failures_take_room_from_what_may_be_down() {
    let mut world = World::with_release_1(6);
    let limits = [
        Rolling { max_unavailable: Some(Percent(50)), ..Rolling::of(3) },
        Rolling { minimum_healthy: Some(Percent(50)), ..Rolling::of(3) },
        Rolling { minimum_healthy: Some(Count(3)), ..Rolling::of(3) },
    ];
    for limit in limits {
        let tolerate_failures = Some(Count(2));
        deploy(&mut world, NewDeployment { tolerate_failures, ..rolling(limit) });
        assert_eq!(active(&world), [1, 2, 3]);
        world.finish(1, failed("exit 1"));
        assert_eq!(active(&world), [2, 3], "three are down");
        world.finish(2, failed("exit 1"));
        assert_eq!(active(&world), [3]);
        world.complete(3);
        assert_eq!(active(&world), [4], "one at a time is left");
        (4..=6).for_each(|n| world.complete(n));
        assert_eq!(*world.status(2), Status::Succeeded);
        end(&world);
        world = World::with_release_1(6);
    }
}

#[test]
fn a_strategy_that_can_never_meet_its_limits_is_refused_by_field() {
    let mut world = racks(&["a", "b", "b", "c"]);
    let plain = || Rolling::of(1);
    let cases = [
        (Rolling { batch: Percent(0), ..plain() }, "strategy.batch", "between 1 and 100"),
        (Rolling { batch: Percent(101), ..plain() }, "strategy.batch", "between 1 and 100"),
        (Rolling { batch: Count(0), ..plain() }, "strategy.batch", "at least one"),
        (Rolling { max_unavailable: Some(Count(0)), ..plain() }, "strategy.max_unavailable", "is 0"),
        (
            Rolling { max_unavailable: Some(Percent(20)), ..plain() },
            "strategy.max_unavailable",
            "is 20%: of 4 targets none could be worked on",
        ),
        (
            Rolling { minimum_healthy: Some(Count(4)), ..plain() },
            "strategy.minimum_healthy",
            "none could be worked on",
        ),
        (
            Rolling { minimum_healthy: Some(Percent(76)), ..plain() },
            "strategy.minimum_healthy",
            "none could be worked on",
        ),
        (
            Rolling { minimum_healthy: Some(Count(1)), max_unavailable: Some(Count(1)), ..plain() },
            "strategy.minimum_healthy",
            "give one of them",
        ),
        (
            Rolling { minimum_healthy: Some(Count(3)), ..Rolling::of(2) },
            "strategy.batch",
            "is 2 of 4 targets, but at most 1 may be down",
        ),
        (Rolling { pause_ms: Some(999), ..plain() }, "strategy.pause_ms", "a second to a week"),
        (
            Rolling { order: Some(Order { by: OrderBy::Label, label: "a b".to_owned() }), ..plain() },
            "strategy.order.label",
            "a label's name",
        ),
        (
            Rolling { order: Some(Order { by: OrderBy::Domain, label: "row".to_owned() }), ..plain() },
            "targets[web-1].labels.row",
            "strategy.order.label needs it",
        ),
    ];
    for (strategy, field, why) in cases {
        refused(&mut world, rolling(strategy), field, why);
    }
    for (tolerated, why) in [
        (Percent(0), "between 1 and 99"),
        (Percent(100), "between 1 and 99"),
        (Count(4), "although all have failed"),
        (Count(u32::MAX), "although all have failed"),
    ] {
        let new = NewDeployment { tolerate_failures: Some(tolerated), ..rolling(Rolling::of(1)) };
        refused(&mut world, new, "tolerate_failures", why);
    }
    let strategy = Rolling { max_unavailable: Some(Count(2)), ..plain() };
    let new = NewDeployment { tolerate_failures: Some(Count(2)), ..rolling(strategy) };
    refused(&mut world, new, "strategy.max_unavailable", "tolerate fewer failures");
    end(&world);
}

#[test]
fn a_retry_of_a_few_keeps_the_counts_that_shares_were() {
    let mut world = World::with_release_1(10);
    let strategy = Rolling { batch: Percent(20), minimum_healthy: Some(Percent(70)), ..Rolling::of(1) };
    let on_failure = OnFailure::Stop;
    deploy(&mut world, NewDeployment { on_failure, ..rolling(strategy) });
    world.finish(1, failed("exit 1"));
    world.complete_first_step(10);
    world.ok(TenantCommand::RetryDeployment {
        id: deployment(3),
        of: deployment(2),
        targets: Some(vec![target(1), target(5)]),
    });
    let Strategy::Rolling(again) = &world.deployment(deployment(3)).strategy else { panic!() };
    assert_eq!((again.batch, again.max_unavailable), (Count(2), Some(Count(3))));
    assert_eq!(world.deployment(deployment(3)).counts.active, 2);
    end(&world);
}
