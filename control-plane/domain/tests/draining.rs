//! Hosts that are taken out of rotation: what is under way ends, nothing new begins, and nobody waits for them who need not.

use crate::common::{
    STAGING, World, agent, conflict, deployment, end, facts, failed, new_deployment, person, target,
};
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::environment::SilenceRule;
use stella_domain::rejection::Rejection;
use stella_domain::task::TaskState;
use stella_protocol::message::TaskOutcome;

fn drain(n: u128) -> TenantCommand {
    TenantCommand::DrainAgent { agent: agent(n), reason: "kernel".to_owned() }
}

fn undrain(n: u128) -> TenantCommand {
    TenantCommand::UndrainAgent { agent: agent(n) }
}

fn progress(world: &World, of: u128, n: u128) -> &Progress {
    &world.deployment(deployment(of)).targets[&target(n)].progress
}

#[track_caller]
fn left_out(world: &World, of: u128, n: u128) -> String {
    match progress(world, of, n) {
        Progress::Skipped { hold: Some(hold) } => hold.reason.clone(),
        other => panic!("{other:?}"),
    }
}

fn sent(decision: &Decision) -> usize {
    facts(decision).into_iter().filter(|fact| *fact == "task_dispatched").count()
}

#[test]
fn a_deployment_leaves_out_what_it_has_not_begun_and_ends_what_it_has() {
    let mut world = World::with_release_1(3);
    world.person(1);
    world.deploy(2, 2, Some(1));
    let decision = world.tell_as(1, drain(3)).unwrap();
    assert_eq!(facts(&decision), ["agent_draining", "target_skipped"]);
    assert_eq!(left_out(&world, 2, 3), "its agent host-3 is draining: kernel");
    let hold = world.tenant().agents[&agent(3)].draining.clone().unwrap();
    assert_eq!((hold.reason.as_str(), &hold.by, hold.since), ("kernel", &person(1), world.now));
    // The first is in the middle of its two steps: both are done, and the release stays there.
    world.ok(drain(1));
    assert_eq!((world.tenant().under_way_on(agent(1)), world.tenant().under_way_on(agent(3))), (1, 0));
    world.finish(1, TaskOutcome::Succeeded);
    assert_eq!(world.tenant().under_way_on(agent(1)), 1, "its next step goes on with it");
    world.finish(1, TaskOutcome::Succeeded);
    assert_eq!(world.tenant().under_way_on(agent(1)), 0);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(world.is_at_rest());
    // Until it is undrained, the next one begins without it; then it is like the others again.
    world.ok(undrain(1));
    world.deploy(3, 3, None);
    left_out(&world, 3, 3);
    [1, 2].into_iter().for_each(|n| world.complete(n));
    assert_eq!(*world.status(3), Status::Succeeded);
    world.ok(undrain(3));
    world.deploy(4, 3, None);
    assert!(matches!(progress(&world, 4, 3), Progress::Active { .. }));
    [1, 2, 3].into_iter().for_each(|n| world.complete(n));
    end(&world);
}

#[test]
fn draining_twice_and_undraining_what_is_in_rotation_change_nothing() {
    let mut world = World::with_targets(1);
    world.ok(drain(1));
    let since = world.now;
    world.wait_ms(5_000);
    assert_eq!(facts(&world.ok(drain(1))), [""; 0]);
    let other = TenantCommand::DrainAgent { agent: agent(1), reason: "disk".to_owned() };
    assert_eq!(facts(&world.ok(other)), ["agent_draining"]);
    let hold = world.tenant().agents[&agent(1)].draining.clone().unwrap();
    assert_eq!((hold.reason.as_str(), hold.since), ("disk", since), "it is the same drain");
    assert_eq!(facts(&world.ok(undrain(1))), ["agent_undrained"]);
    assert_eq!(facts(&world.ok(undrain(1))), [""; 0]);
    let empty = TenantCommand::DrainAgent { agent: agent(1), reason: " ".to_owned() };
    assert!(matches!(world.tell(empty), Err(Rejection::Invalid { field, .. }) if field == "reason"));
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: "sold".to_owned() });
    assert!(matches!(world.tell(drain(1)), Err(Rejection::Revoked { .. })));
    end(&world);
}

#[test]
fn what_waits_for_an_agent_that_is_away_is_left_out_and_what_was_sent_is_not() {
    let mut world = World::with_release_1(2);
    world.disconnect(1);
    world.deploy(2, 2, None);
    assert!(matches!(world.task_on(1).state, TaskState::Queued));
    world.ok(drain(1));
    left_out(&world, 2, 1);
    let back = world.connect(1, vec![]);
    assert_eq!(sent(&back), 0, "{:?}", facts(&back));
    // What was on its way to the other is sent again when that comes back.
    world.disconnect(2);
    world.ok(drain(2));
    assert_eq!(world.tenant().under_way_on(agent(2)), 1);
    assert_eq!(sent(&world.connect(2, vec![])), 1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

/// A deployment without a target would have brought nothing anywhere, and be a proof of it.
#[test]
fn a_deployment_that_would_have_no_target_left_waits() {
    let mut world = World::with_release_1(2);
    [1, 2].into_iter().for_each(|n| drop(world.ok(drain(n))));
    world.deploy(2, 2, Some(1));
    assert_eq!(*world.status(2), Status::Running);
    assert_eq!((world.tenant().under_way_on(agent(1)), world.tenant().waiting_on(agent(1))), (0, 1));
    assert!(matches!(world.task_on(1).state, TaskState::Queued));
    world.disconnect(1);
    assert_eq!(sent(&world.connect(1, vec![])), 0, "it is new to the host");
    assert_eq!(sent(&world.ok(undrain(1))), 1);
    world.complete(1);
    // Now one has it, and the other is what nobody has to wait for; but its turn has come.
    assert_eq!(world.tenant().waiting_on(agent(2)), 1);
    assert_eq!(sent(&world.ok(undrain(2))), 1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn what_takes_a_deployment_back_waits_for_the_host() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    world.complete(1);
    world.ok(drain(1));
    world.finish(2, failed("exit 1"));
    let back = world.rollback_of(2).unwrap().id;
    let part = |world: &World, n| world.deployment(back).targets[&target(n)].progress.clone();
    assert!(matches!(part(&world, 1), Progress::Active { .. }), "it is not left with what was taken back");
    assert!(matches!(world.task_on(1).state, TaskState::Queued));
    world.complete(2);
    assert!(matches!(part(&world, 2), Progress::Succeeded { .. }), "others do not wait for it");
    assert_eq!(sent(&world.ok(undrain(1))), 1);
    world.complete(1);
    assert_eq!(world.deployment(back).status, Status::Succeeded);
    end(&world);
}

#[test]
fn a_failed_target_is_not_tried_again_on_a_host_that_is_draining() {
    let mut world = World::with_release_1(2);
    let new = NewDeployment { on_failure: OnFailure::Ask, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.finish(1, failed("exit 1"));
    world.ok(drain(1));
    let retry = || TenantCommand::RetryTarget { deployment: deployment(2), target: target(1) };
    let problem = conflict(world.tell(retry()));
    assert!(problem.contains("is draining (kernel)"), "{problem}");
    world.ok(undrain(1));
    world.ok(retry());
    [1, 2].into_iter().for_each(|n| world.complete(n));
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn the_silence_of_hosts_that_were_taken_out_is_no_network_event() {
    let mut world = World::with_targets(4);
    let rule = Some(SilenceRule { percent: 30, within_ms: 60_000 });
    world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
    let silent = |world: &World| world.tenant().environments[&STAGING].silent_since.is_some();
    for n in [1, 2] {
        world.ok(drain(n));
        world.disconnect(n);
    }
    assert!(!silent(&world));
    world.disconnect(3);
    assert!(silent(&world), "one of the two that are in rotation");
    world.ok(drain(3));
    assert!(!silent(&world));
    end(&world);
}

/// The turn of a host that is away had come, and it was taken out before anything was sent there: nothing has come to it.
#[test]
fn what_was_never_sent_to_a_host_does_not_count_as_the_last_that_came_there() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    [1, 2].into_iter().for_each(|n| world.complete(n));
    world.disconnect(1);
    world.deploy(3, 3, Some(1));
    assert!(matches!(world.task_on(1).state, TaskState::Queued));
    world.ok(drain(1));
    left_out(&world, 3, 1);
    let place = &world.tenant().targets[&target(1)];
    assert_eq!((place.last, place.visited), (Some(deployment(2)), Some(deployment(2))));
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(3), reason: "too early".to_owned() });
    world.finish(2, TaskOutcome::Cancelled);
    assert!(matches!(world.status(3), Status::Cancelled { .. }));
    world.ok(TenantCommand::Rollback { id: deployment(4), of: deployment(2), targets: None });
    assert_eq!(world.deployment(deployment(4)).order.to_vec(), [target(1), target(2)]);
    end(&world);
}
