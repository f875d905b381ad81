//! Tasks that an agent hands back: it was restarted before it had begun them.

use crate::common::{World, agent, deployment, end, facts, failed, hello, new_deployment, target};
use stella_domain::command::{NewDeployment, Report, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::task::{ATTEMPTS_MAX, TaskState};
use stella_protocol::id::{Attempt, AttemptKey, Position, TaskId};
use stella_protocol::message::{Accepted, Finished, Hello, Running, TaskOutcome, capability};

/// A release is deployed to some targets, of agents that say so if something has not begun, or do not.
fn deployed(targets: u128, says_so: bool) -> World {
    let mut world = World::with_release_1(targets);
    for n in 1..=targets {
        come_back(&mut world, n, says_so);
    }
    let order = NewDeployment { on_failure: OnFailure::Stop, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(order)));
    world
}

fn come_back(world: &mut World, n: u128, says_so: bool) -> Decision {
    let hello = hello(world.tenant().work[&agent(n)].journal.unwrap(), vec![]);
    let bits = if says_so { capability::UNBEGUN } else { 0 };
    world.connect_with(n, Hello { capabilities: hello.capabilities | bits, ..hello }, false)
}

/// The agent has ended the current attempt on target `n` before it had begun.
fn hand_back(world: &mut World, n: u128) -> Decision {
    let (key, finished_at) = (world.task_on(n).key(), world.now);
    let outcome = TaskOutcome::Interrupted;
    let report = Finished { key, position: Position(7), started_at: None, finished_at, outcome };
    world.report(n, Report::Finished(report))
}

fn attempt(world: &World, task: TaskId) -> u32 {
    world.task(task).attempt.0
}

fn reason(world: &World, task: TaskId) -> &str {
    let TaskState::Interrupted(end) = &world.task(task).state else { panic!("{:?}", world.task(task)) };
    &end.reason
}

#[test]
fn what_had_not_begun_is_sent_again_as_another_attempt() {
    let mut world = deployed(1, true);
    let task = world.accept(1);
    world.wait_ms(5_000);
    let decision = hand_back(&mut world, 1);
    assert_eq!(facts(&decision), ["task_handed_back", "task_dispatched"]);
    assert_eq!((world.task_on(1).id, attempt(&world, task)), (task, 2));
    assert_eq!(world.task(task).queued_at, world.now, "it waits from now on");
    // The agent, which goes, does not take it, and nor does its next life know it: it is sent to that.
    world.disconnect(1);
    assert_eq!(facts(&come_back(&mut world, 1, true)), ["agent_connected", "task_dispatched"]);
    // The first attempt is over, whatever is said of it.
    let first = AttemptKey { task, attempt: Attempt(1) };
    let late = world.report(1, Report::Accepted(Accepted { key: first, position: Position(7) }));
    assert_eq!(facts(&late), ["report_ignored"]);
    assert!(matches!(world.task(task).state, TaskState::Dispatched { .. }));
    world.complete(1);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn it_waits_for_an_agent_that_has_gone_meanwhile() {
    let mut world = deployed(2, true);
    // Its word comes before it was told that the attempt was taken.
    let task = world.task_on(1).id;
    assert_eq!(facts(&hand_back(&mut world, 1)), ["task_handed_back", "task_dispatched"]);
    world.disconnect(1);
    world.wait_ms(120_000);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Running, "silence is not failure");
    come_back(&mut world, 1, true);
    assert_eq!(attempt(&world, task), 2);
    world.complete(1);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn an_agent_that_does_not_know_what_has_begun_hands_nothing_back() {
    let mut world = deployed(1, false);
    let task = world.accept(1);
    hand_back(&mut world, 1);
    assert_eq!(reason(&world, task), "its agent was restarted before it began");
    assert!(matches!(world.status(2), Status::Failed { .. }), "{:?}", world.status(2));
    end(&world);
}

#[test]
fn what_has_begun_is_not_sent_again() {
    for is_said_at_the_end in [true, false] {
        let mut world = deployed(1, true);
        let task = world.accept(1);
        let (key, started_at) = (world.task_on(1).key(), world.now);
        if !is_said_at_the_end {
            world.report(1, Report::Running(Running { key, started_at }));
        }
        let (started_at, finished_at) = (is_said_at_the_end.then_some(started_at), world.now);
        let outcome = TaskOutcome::Interrupted;
        let report = Finished { key, position: Position(7), started_at, finished_at, outcome };
        world.report(1, Report::Finished(report));
        assert_eq!(reason(&world, task), "its agent restarted in the middle of it");
        assert!(matches!(world.status(2), Status::Failed { .. }));
        end(&world);
    }
}

#[test]
fn what_nobody_wants_any_more_is_not_sent_again() {
    // It was cancelled.
    let mut world = deployed(1, true);
    let task = world.accept(1);
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: "no".to_owned() });
    let decision = hand_back(&mut world, 1);
    assert!(!facts(&decision).contains(&"task_handed_back"), "{:?}", facts(&decision));
    assert_eq!(attempt(&world, task), 1);
    assert!(matches!(world.status(2), Status::Cancelled { .. }));
    end(&world);

    // Its deployment has failed elsewhere.
    let mut world = deployed(2, true);
    let task = world.accept(1);
    world.finish(2, failed("x"));
    assert!(matches!(world.status(2), Status::Halting { .. }), "it ends what it has begun");
    let decision = hand_back(&mut world, 1);
    assert_eq!(facts(&decision)[..2], ["task_handed_back", "task_finished"]);
    assert!(matches!(world.task(task).state, TaskState::Cancelled(_)));
    assert!(matches!(world.status(2), Status::Failed { .. }));
    end(&world);

    // Its host is to be patched: nothing has begun there, and nobody waits for it.
    let mut world = deployed(2, true);
    let task = world.accept(1);
    world.ok(TenantCommand::DrainAgent { agent: agent(1), reason: "kernel".to_owned() });
    hand_back(&mut world, 1);
    assert!(matches!(world.task(task).state, TaskState::Cancelled(_)));
    let progress = &world.deployment(deployment(2)).targets[&target(1)].progress;
    assert!(matches!(progress, Progress::Skipped { hold: Some(_) }), "{progress:?}");
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn an_agent_that_is_restarted_for_ever_is_not_sent_the_same_for_ever() {
    let mut world = deployed(1, true);
    let task = world.task_on(1).id;
    for number in 1..ATTEMPTS_MAX.0 {
        assert_eq!(attempt(&world, task), number);
        hand_back(&mut world, 1);
    }
    assert_eq!(attempt(&world, task), ATTEMPTS_MAX.0);
    hand_back(&mut world, 1);
    assert_eq!(reason(&world, task), "its agent was restarted before it began");
    assert!(matches!(world.status(2), Status::Failed { .. }));
    end(&world);
}
