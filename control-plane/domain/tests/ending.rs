//! How a task is ended that nobody wants any more: asked for, delivered, ending, killed, and then confirmed or not.

use crate::common::{
    World, agent, deployment, end, facts, failure, hello, is_unknown, mark, new_deployment, target,
};
use stella_domain::command::{Report, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::deployment::{Progress, Status};
use stella_domain::task::{
    BEGIN_WINDOW_MS, CANCEL_WINDOW_MS, DELIVERY_WINDOW_MS, KILL_WINDOW_MS, TERM_WINDOW_MS, TaskState,
};
use stella_protocol::id::TaskId;
use stella_protocol::message::{Ending, EndingStage, Hello, Phase, TaskOutcome, capability};

/// Targets with release 1 and agents that tell how far an end gets, and release 2 under way on the first.
fn world(targets: u128) -> (World, TaskId) {
    let mut world = World::with_release_1(targets);
    for n in 1..=targets {
        let journal = world.tenant().work[&agent(n)].journal.unwrap_or_else(|| mark(n, 0));
        let hello = hello(journal, vec![]);
        world.connect_with(
            n,
            Hello { capabilities: hello.capabilities | capability::ENDING, ..hello },
            false,
        );
    }
    world.deploy(2, 2, None);
    let task = world.run(1);
    (world, task)
}

fn cancel(world: &mut World) -> Decision {
    let reason = "wrong one".to_owned();
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason })
}

fn says(world: &mut World, task: TaskId, stage: EndingStage) -> Decision {
    let key = world.task(task).key();
    world.report(1, Report::Ending(Ending { key, stage }))
}

fn stands(world: &World, task: TaskId) -> &'static str {
    world.task(task).cancellation().map_or("-", |it| it.name())
}

fn why(world: &World, task: TaskId) -> String {
    match &world.task(task).state {
        TaskState::Unknown { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_stage_is_recorded_once_and_in_order_and_has_its_own_time() {
    let (mut world, task) = world(1);
    assert_eq!(facts(&says(&mut world, task, EndingStage::Killed)), [""; 0], "nobody has asked for it");
    assert_eq!(stands(&world, task), "-");
    cancel(&mut world);
    let due = |world: &World| world.task(task).overdue_at.unwrap().0 - world.now.0;
    assert_eq!((stands(&world, task), due(&world)), ("requested", DELIVERY_WINDOW_MS));
    for (stage, name, window_ms) in [
        (EndingStage::Delivered, "delivered", BEGIN_WINDOW_MS),
        (EndingStage::Terminated, "ending", TERM_WINDOW_MS),
        (EndingStage::Killed, "killed", KILL_WINDOW_MS),
    ] {
        world.wait_ms(1_000);
        assert_eq!(facts(&says(&mut world, task, stage)), ["task_ending"]);
        assert_eq!((stands(&world, task), due(&world)), (name, window_ms));
        for again in [EndingStage::Delivered, stage] {
            assert_eq!(facts(&says(&mut world, task, again)), [""; 0], "that is no news");
        }
    }
    world.finish(1, TaskOutcome::Cancelled);
    assert_eq!(stands(&world, task), "confirmed");
    assert!(matches!(world.status(2), Status::Cancelled { .. }));
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn a_stage_that_does_not_follow_leaves_the_end_unconfirmed_and_the_target_in_quarantine() {
    let stages = [EndingStage::Delivered, EndingStage::Terminated, EndingStage::Killed];
    let windows = [DELIVERY_WINDOW_MS, BEGIN_WINDOW_MS, TERM_WINDOW_MS, KILL_WINDOW_MS];
    let reasons = ["not taken the cancellation", "has not begun", "neither gone nor killed", "KILL was sent"];
    for (reached, (window_ms, reason)) in windows.into_iter().zip(reasons).enumerate() {
        let (mut world, task) = world(1);
        cancel(&mut world);
        stages[..reached].iter().for_each(|stage| drop(says(&mut world, task, *stage)));
        world.wait_ms(window_ms - 1);
        assert!(matches!(world.status(2), Status::Cancelling { .. }));
        world.wait_ms(1);
        assert!(matches!(world.status(2), Status::Cancelled { .. }), "the environment is free");
        assert_eq!(stands(&world, task), "unconfirmed");
        assert!(why(&world, task).contains(reason), "{}", why(&world, task));
        assert_eq!(world.tenant().targets[&target(1)].blocked_by, Some(task), "and the target is not");
        world.finish_task(1, task, TaskOutcome::Cancelled);
        assert_eq!(stands(&world, task), "confirmed");
        assert_eq!(world.tenant().targets[&target(1)].blocked_by, None);
        end(&world);
    }
}

#[test]
fn an_agent_that_is_known_to_be_offline_holds_nothing_up() {
    let (mut world, task) = world(2);
    world.run(2);
    world.disconnect(1);
    world.wait_ms(30_000);
    cancel(&mut world);
    assert!(is_unknown(world.task(task)), "nobody can be told");
    assert!(why(&world, task).contains("offline"), "{}", why(&world, task));
    assert!(matches!(
        world.deployment(deployment(2)).targets[&target(1)].progress,
        Progress::Abandoned { .. }
    ));
    world.finish(2, TaskOutcome::Cancelled);
    assert!(matches!(world.status(2), Status::Cancelled { .. }), "{:?}", world.status(2));
    // When it is back it says how it did.
    let open =
        vec![stella_protocol::message::OpenAttempt { key: world.task(task).key(), phase: Phase::Running }];
    world.connect(1, open);
    world.finish_task(1, task, TaskOutcome::Cancelled);
    assert_eq!(stands(&world, task), "confirmed");
    end(&world);
}

#[test]
fn an_agent_that_goes_away_in_the_middle_is_given_up_once_it_is_offline() {
    let (mut world, task) = world(1);
    cancel(&mut world);
    says(&mut world, task, EndingStage::Terminated);
    world.disconnect(1);
    world.wait_ms(TERM_WINDOW_MS - 1);
    assert!(matches!(world.status(2), Status::Cancelling { .. }), "it may come back");
    world.wait_ms(1);
    assert!(matches!(world.status(2), Status::Cancelled { .. }));
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn a_deployment_that_takes_too_long_does_not_wait_for_who_is_offline_either() {
    let (mut world, task) = world(1);
    world.disconnect(1);
    world.wait_ms(3_600_000);
    assert_eq!(stands(&world, task), "unconfirmed");
    assert!(failure(&world, 2).contains("did not finish within 1 h"), "{}", failure(&world, 2));
    end(&world);
}

#[test]
fn an_older_agent_has_all_of_the_time_at_once() {
    let mut world = World::with_release_1(1);
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 2, None))));
    let task = world.run(1);
    cancel(&mut world);
    world.wait_ms(CANCEL_WINDOW_MS - 1);
    assert_eq!(stands(&world, task), "requested");
    world.wait_ms(1);
    assert_eq!(stands(&world, task), "unconfirmed");
    assert!(why(&world, task).contains("within 60 s of asking"), "{}", why(&world, task));
    end(&world);
}

#[test]
fn what_an_agent_does_not_list_is_undone_only_if_it_lists_all_that_it_has_taken() {
    for (bits, is_undone) in [(capability::LISTS_ALL, true), (0, false)] {
        let mut world = World::with_release_1(1);
        world.deploy(2, 2, None);
        let task = world.task_on(1).id;
        assert!(matches!(world.task(task).state, TaskState::Dispatched { .. }));
        world.disconnect(1);
        cancel(&mut world);
        let hello = hello(world.tenant().work[&agent(1)].journal.unwrap(), vec![]);
        world.connect_with(1, Hello { capabilities: hello.capabilities | bits, ..hello }, false);
        if is_undone {
            assert!(matches!(world.task(task).state, TaskState::Cancelled(_)));
        } else {
            assert!(why(&world, task).contains("does not say whether it has it"), "{}", why(&world, task));
            // It was on its way to the agent's disk.
            world.finish_task(1, task, TaskOutcome::Cancelled);
            assert!(matches!(world.task(task).state, TaskState::Cancelled(_)));
        }
        end(&world);
    }
}
