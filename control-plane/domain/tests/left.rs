//! Rollbacks by hand leave out what cannot go back, and say so: one target keeps no other one from it.

use crate::common::{
    self, World, agent, conflict, deployment, end, failed, failure, new_deployment, release, target,
};
use stella_domain::amount::Amount;
use stella_domain::command::{Actor, NewDeployment, TenantCommand};
use stella_domain::decide::plan_rollback;
use stella_domain::deployment::{OnFailure, Status};
use stella_domain::left::{LeftOut, Why};
use stella_domain::rejection::Rejection;
use stella_protocol::id::TargetId;
use stella_protocol::message::TaskOutcome;

fn back(n: u128, of: u128) -> TenantCommand {
    TenantCommand::Rollback { id: deployment(n), of: deployment(of), targets: None }
}

fn deploy_to(world: &mut World, n: u128, of: u128, targets: &[u128]) {
    let targets = Some(targets.iter().map(|n| target(*n)).collect());
    let new = NewDeployment { targets, on_failure: OnFailure::Stop, ..new_deployment(n, of, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
}

/// Takes `of` back as it was planned: which targets go, and which are left and why.
fn taken_back(world: &mut World, n: u128, of: u128) -> (Vec<u128>, Vec<(u128, Why)>) {
    let planned = plan_rollback(
        &world.state,
        Actor::System,
        (common::TENANT, deployment(n)),
        deployment(of),
        None,
        world.now,
    );
    let planned = planned.unwrap();
    world.ok(back(n, of));
    let came = world.deployment(deployment(n));
    assert_eq!((&planned.order, &planned.left), (&came.order, &came.left), "as it was planned");
    let goes = came.order.iter().map(|id| id.0.as_u128() & 0xff);
    let left = came.left.iter().map(|LeftOut { target, why }| (target.0.as_u128() & 0xff, why.clone()));
    (goes.collect(), left.collect())
}

fn has(world: &World, n: u128) -> Option<u128> {
    world.tenant().targets[&target(n)].current.map(|it| it.0.as_u128() & 0xff)
}

/// The docs have people retry what has failed; the others can be taken back after that as they could before.
#[test]
fn what_was_retried_keeps_no_other_target_from_going_back() {
    let mut world = World::with_release_1(3);
    let new = NewDeployment { tolerate_failures: Some(Amount::Count(1)), ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.complete(1);
    world.complete(2);
    world.finish(3, failed("no space"));
    assert_eq!(*world.status(2), Status::Succeeded);
    let again = TenantCommand::RetryDeployment { id: deployment(3), of: deployment(2), targets: None };
    world.ok(again);
    world.complete(3);
    let overtaken = vec![(3, Why::Overtaken { by: deployment(3) })];
    assert_eq!(taken_back(&mut world, 4, 2), (vec![1, 2], overtaken));
    world.complete(1);
    world.complete(2);
    assert_eq!(taken_back(&mut world, 5, 3), (vec![3], vec![]));
    world.complete(3);
    assert_eq!([1, 2, 3].map(|n| has(&world, n)), [Some(1); 3]);
    let nothing = conflict(world.tell(back(6, 2)));
    assert!(nothing.ends_with("(what was there before is back already on web-1, web-2, web-3)"), "{nothing}");
    end(&world);
}

/// In the other order: first the retry is taken back, then the rest.
#[test]
fn what_has_been_taken_back_since_goes_on_back() {
    let mut world = World::with_release_1(2);
    deploy_to(&mut world, 2, 2, &[1, 2]);
    (1..=2).for_each(|n| world.complete(n));
    // A hotfix to one of them, which is taken back: release 2 is there again, as if nothing had come since.
    deploy_to(&mut world, 3, 1, &[2]);
    world.complete(2);
    assert_eq!(has(&world, 2), Some(1));
    world.ok(back(4, 3));
    world.complete(2);
    assert_eq!(has(&world, 2), Some(2));
    assert_eq!(taken_back(&mut world, 5, 2), (vec![1, 2], vec![]));
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!([1, 2].map(|n| has(&world, n)), [Some(1); 2]);
    end(&world);
}

/// Somebody deploys the same once more instead of trying again what has failed: each target goes back all the same.
#[test]
fn the_same_release_brought_once_more_keeps_no_target_from_going_back() {
    let mut world = World::with_release_1(3);
    let new = NewDeployment { tolerate_failures: Some(Amount::Count(1)), ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.complete(1);
    world.complete(2);
    world.finish(3, failed("no space"));
    deploy_to(&mut world, 3, 2, &[1, 2, 3]);
    world.complete(1);
    world.complete(3);
    world.finish(2, failed("no space"));
    let unchanged = |n| (n, Why::Unchanged { by: Some(deployment(2)) });
    assert_eq!(taken_back(&mut world, 4, 3), (vec![3], vec![unchanged(1), unchanged(2)]));
    world.complete(3);
    let nothing = conflict(world.tell(back(5, 3)));
    let told = format!("the same release was there before, by deployment {}, on web-1, web-2", deployment(2));
    assert!(nothing.contains(&told) && nothing.ends_with("roll back what brought that instead"), "{nothing}");
    let is_back = (3, Why::Back { by: deployment(4) });
    assert_eq!(taken_back(&mut world, 5, 2), (vec![1, 2], vec![is_back]));
    (1..=2).for_each(|n| world.complete(n));
    assert_eq!([1, 2, 3].map(|n| has(&world, n)), [Some(1); 3]);
    end(&world);
}

/// A failure in between has brought nothing that would have to be taken back first.
#[test]
fn what_was_put_right_by_the_same_release_is_taken_back_with_what_brought_it() {
    let mut world = World::with_release_1(1);
    deploy_to(&mut world, 2, 2, &[1]);
    world.complete(1);
    deploy_to(&mut world, 3, 3, &[1]);
    world.finish(1, failed("exit 1"));
    deploy_to(&mut world, 4, 2, &[1]);
    world.complete(1);
    let nothing = conflict(world.tell(back(5, 3)));
    assert!(nothing.ends_with("(what was there before is back already on web-1)"), "{nothing}");
    assert_eq!(taken_back(&mut world, 5, 2), (vec![1], vec![]));
    world.complete(1);
    assert_eq!(has(&world, 1), Some(1));
    end(&world);
}

/// Newest first, each of them is taken back; the newest once more is not told that an older one is newer.
#[test]
fn what_was_taken_back_stays_so_when_what_came_before_it_is_taken_back_too() {
    let mut world = World::with_release_1(1);
    for n in 2..=3 {
        deploy_to(&mut world, n, n, &[1]);
        world.complete(1);
    }
    for (n, of) in [(4, 3), (5, 2)] {
        assert_eq!(taken_back(&mut world, n, of), (vec![1], vec![]));
        world.complete(1);
    }
    assert_eq!(has(&world, 1), Some(1));
    let nothing = conflict(world.tell(back(6, 3)));
    assert!(nothing.ends_with("(what was there before is back already on web-1)"), "{nothing}");
    end(&world);
}

#[test]
fn what_failed_to_be_taken_back_is_left_and_names_what_can_be_rolled_back_again() {
    let mut world = World::with_release_1(2);
    deploy_to(&mut world, 2, 2, &[1, 2]);
    (1..=2).for_each(|n| world.complete(n));
    deploy_to(&mut world, 3, 1, &[2]);
    world.complete(2);
    world.ok(back(4, 3));
    world.finish(2, failed("exit 1"));
    let overtaken = vec![(2, Why::Overtaken { by: deployment(3) })];
    assert_eq!(taken_back(&mut world, 5, 2), (vec![1], overtaken), "3 can be rolled back again, and 4 not");
    world.complete(1);
    world.ok(back(6, 3));
    end(&world);
}

#[test]
fn a_quarantined_target_is_left_out_and_goes_back_once_it_is_settled() {
    let mut world = World::with_release_1(2);
    deploy_to(&mut world, 2, 2, &[1, 2]);
    world.complete(1);
    let lost = world.run(2);
    let reason = "web-2 is dead".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason });
    world.wait_ms(60_000);
    assert_eq!(world.tenant().targets[&target(2)].blocked_by, Some(lost));
    let quarantined = vec![(2, Why::Quarantined { task: lost })];
    assert_eq!(taken_back(&mut world, 3, 2), (vec![1], quarantined));
    world.complete(1);
    assert_eq!((world.status(3), has(&world, 1)), (&Status::Succeeded, Some(1)));
    let reason = "looked at it".to_owned();
    world.ok(TenantCommand::SettleTask { task: lost, succeeded: false, reason });
    assert_eq!(taken_back(&mut world, 4, 2), (vec![2], vec![(1, Why::Back { by: deployment(3) })]));
    world.complete(2);
    assert_eq!((world.status(4), has(&world, 2)), (&Status::Succeeded, Some(1)));
    end(&world);
}

#[test]
fn a_target_of_a_revoked_agent_is_left_out() {
    let mut world = World::with_release_1(2);
    deploy_to(&mut world, 2, 2, &[1, 2]);
    (1..=2).for_each(|n| world.complete(n));
    world.ok(TenantCommand::RevokeAgent { agent: agent(2), reason: "stolen".to_owned() });
    assert_eq!(taken_back(&mut world, 3, 2), (vec![1], vec![(2, Why::Revoked { agent: agent(2) })]));
    world.complete(1);
    assert_eq!(*world.status(3), Status::Succeeded);
    let nothing = conflict(world.tell(back(4, 2)));
    assert!(nothing.contains("the agent was revoked that serves web-2"), "{nothing}");
    end(&world);
}

#[test]
fn a_target_that_is_reserved_is_left_out_and_says_for_what() {
    let mut world = World::with_release_1(3);
    deploy_to(&mut world, 2, 2, &[1, 2, 3]);
    (1..=3).for_each(|n| world.complete(n));
    deploy_to(&mut world, 3, 1, &[2]);
    assert_eq!(taken_back(&mut world, 4, 2), (vec![1, 3], vec![(2, Why::Overtaken { by: deployment(3) })]));
    // Somebody else wants the same in the same minute.
    let problem = conflict(world.tell(back(5, 2)));
    let busy = format!("deployment {} works on web-1, web-3", deployment(4));
    assert!(problem.contains(&busy), "{problem}");
    assert!(
        problem.contains(&format!("a newer deployment ({}) has come to web-2", deployment(3))),
        "{problem}"
    );
    end(&world);
}

#[test]
fn what_somebody_wants_left_alone_and_what_had_nothing_are_named_each_for_itself() {
    let mut world = World::with_release_1(2);
    world.enrol(3);
    world.ok(TenantCommand::CreateTarget(Box::new(common::new_target(3))));
    world.connect(3, vec![]);
    let new = NewDeployment { on_failure: OnFailure::Ask, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.complete(1);
    world.complete(3);
    world.finish(2, failed("no power"));
    let reason = "no power".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(2), target: target(2), reason });
    assert_eq!(*world.status(2), Status::Succeeded);
    assert_eq!(taken_back(&mut world, 3, 2), (vec![1], vec![(2, Why::Skipped), (3, Why::NoEarlier)]));
    end(&world);
}

/// The reason of a failure names only a few of them; what the rollback keeps has them all.
#[test]
fn a_rollback_that_starts_by_itself_keeps_what_it_leaves_too() {
    let mut world = World::with_release_1(2);
    world.enrol(3);
    world.ok(TenantCommand::CreateTarget(Box::new(common::new_target(3))));
    world.connect(3, vec![]);
    world.deploy(2, 2, None);
    world.complete(1);
    world.complete(3);
    world.finish(2, failed("exit 1"));
    assert!(failure(&world, 2).ends_with("(no earlier release to go back to on web-3)"));
    let rollback = world.rollback_of(2).unwrap();
    assert_eq!(rollback.left, [LeftOut { target: target(3), why: Why::NoEarlier }]);
    end(&world);
}

#[test]
fn what_nobody_can_tell_of_is_refused_as_before() {
    let mut world = World::with_release_1(1);
    deploy_to(&mut world, 2, 2, &[1]);
    assert!(conflict(world.tell(back(3, 2))).contains("has not ended; cancel it first"));
    world.finish(1, TaskOutcome::Succeeded);
    world.finish(1, TaskOutcome::Succeeded);
    assert!(matches!(world.tell(back(3, 9)), Err(Rejection::NotFound { .. })));
    world.ok(TenantCommand::JudgeRelease {
        release: release(1),
        verdict: stella_domain::hold::Verdict::Block,
        reason: "worse".to_owned(),
    });
    let problem = conflict(world.tell(back(3, 2)));
    assert!(problem.contains("the release to go back to is blocked for web-1"), "{problem}");
    end(&world);
}

fn back_on(n: u128, of: u128, targets: &[u128]) -> TenantCommand {
    let targets = Some(targets.iter().map(|n| target(*n)).collect());
    TenantCommand::Rollback { id: deployment(n), of: deployment(of), targets }
}

#[test]
fn only_the_chosen_targets_go_back_and_the_rest_can_follow() {
    let mut world = World::with_release_1(3);
    world.deploy(2, 2, None);
    (1..=3).for_each(|n| world.complete(n));
    assert!(world.tenant().environments[&common::STAGING].proven.contains_key(&release(2)));
    let only = Some(vec![target(2)]);
    let at = (common::TENANT, deployment(3));
    let planned = plan_rollback(&world.state, Actor::System, at, deployment(2), only, world.now).unwrap();
    world.ok(back_on(3, 2, &[2]));
    let came = world.deployment(deployment(3));
    assert_eq!((&planned.order, &planned.left), (&came.order, &came.left), "as it was planned");
    assert_eq!(came.order[..], [target(2)]);
    let not_chosen = |n: u128| LeftOut { target: target(n), why: Why::NotChosen };
    assert_eq!(came.left, [not_chosen(1), not_chosen(3)]);
    world.complete(2);
    assert_eq!([1, 2, 3].map(|n| has(&world, n)), [Some(2), Some(1), Some(2)]);
    assert!(
        !world.tenant().environments[&common::STAGING].proven.contains_key(&release(2)),
        "not everywhere"
    );
    // The rest of it follows, and says of the first what has become of it.
    let is_back = vec![(2, Why::Back { by: deployment(3) })];
    assert_eq!(taken_back(&mut world, 4, 2), (vec![1, 3], is_back));
    world.complete(1);
    world.complete(3);
    assert_eq!([1, 2, 3].map(|n| has(&world, n)), [Some(1); 3]);
    end(&world);
}

#[test]
fn a_chosen_target_that_was_not_touched_is_refused_by_name_and_one_that_cannot_go_back_is_left() {
    let mut world = World::with_release_1(4);
    let targets = Some([1, 2, 3].map(target).to_vec());
    let new = NewDeployment { targets, on_failure: OnFailure::Stop, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    let reason = "its disk is replaced".to_owned();
    world.ok(TenantCommand::SkipTarget { deployment: deployment(2), target: target(2), reason });
    world.complete(1);
    world.finish(3, failed("no space"));
    let refused =
        |world: &mut World, targets: &[u128]| world.tell(back_on(9, 2, targets)).unwrap_err().to_string();
    let begins = format!("deployment {} has not touched target", deployment(2));
    assert_eq!(refused(&mut world, &[1, 4]), format!("targets[1]: {begins} web-4: it is no part of it"));
    assert_eq!(
        refused(&mut world, &[2]),
        format!("targets[0]: {begins} web-2: somebody wanted it left alone")
    );
    assert_eq!(refused(&mut world, &[]), "targets: there is none; leave it out to take all of them back");
    assert!(matches!(world.tell(back_on(9, 2, &[77])), Err(Rejection::NotFound { .. })));
    // A newer deployment keeps the one, and so only the other goes; alone, there is nothing to do.
    deploy_to(&mut world, 3, 3, &[3]);
    world.complete(3);
    let alone = conflict(world.tell(back_on(9, 2, &[3])));
    let newer = format!("a newer deployment ({}) has come to web-3", deployment(3));
    assert!(alone.contains(&newer) && !alone.contains("chosen") && !alone.contains("web-1"), "{alone}");
    world.ok(back_on(4, 2, &[3, 1]));
    let came = world.deployment(deployment(4));
    let left: Vec<(TargetId, &str)> = came.left.iter().map(|it| (it.target, it.why.name())).collect();
    assert_eq!(came.order[..], [target(1)]);
    assert_eq!(left, [(target(2), "skipped"), (target(3), "overtaken")]);
    end(&world);
}
