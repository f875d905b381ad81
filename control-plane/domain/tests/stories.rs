//! What the core does, told as stories in virtual time.

use crate::common::{
    self, World, agent, conflict, deployment, digest, end, facts, failed, failure, hello, invariants,
    is_dispatch, is_unknown, mark, new_deployment, release, target,
};
use stella_domain::agent::{Connectivity, NOTE_EVERY_MS, NOTES_BURST, OPEN_TASKS_MAX};
use stella_domain::amount::Amount;
use stella_domain::authority::AgentTrust;
use stella_domain::command::{Actor, NewDeployment, NewTarget, Outcome, TenantCommand};
use stella_domain::decide::plan_rollback;
use stella_domain::deployment::{Cause, Deployment, OnFailure, Progress, RollbackReason, Status};
use stella_domain::left::{LeftOut, Why};
use stella_domain::rejection::Rejection;
use stella_domain::task::TaskState;
use stella_protocol::id::{Generation, Position, SessionEpoch};
use stella_protocol::message::{JournalMark, Phase, TaskOutcome};
use stella_protocol::spec::{Probe, TaskSpec};

#[test]
fn a_rolling_deployment_goes_one_target_after_the_other() {
    let mut world = World::with_targets(3);
    world.deploy(1, 1, Some(1));
    for n in 1..=3 {
        let counts = world.deployment(deployment(1)).counts;
        assert_eq!((counts.active, u128::from(counts.succeeded)), (1, n - 1));
        assert!(matches!(world.task_on(n).state, TaskState::Dispatched { session: SessionEpoch(1), .. }));
        world.accept(n);
        world.run(n);
        world.finish(n, TaskOutcome::Succeeded);
        let check = world.task_on(n);
        assert_eq!((check.step.as_str(), check.generation), ("check", Generation(world.now.0)));
        let TaskSpec::Check(spec) = &check.spec else { panic!("{check:?}") };
        assert_eq!(spec.probe, Probe::Http { url: format!("http://localhost:80{n}/1.0"), status: 200 });
        world.finish(n, TaskOutcome::Succeeded);
        let place = &world.tenant().targets[&target(n)];
        assert_eq!((place.current, place.active), (Some(release(1)), None));
    }
    assert_eq!(*world.status(1), Status::Succeeded);
    assert_eq!(world.tenant().totals.deployments[&common::name("staging")]["rolling"]["succeeded"], 1);
    assert!(world.is_at_rest());
    end(&world);
}

#[test]
fn a_failure_takes_touched_targets_back_and_leaves_the_others() {
    let mut world = World::with_release_1(3);
    world.deploy(2, 2, Some(1));
    world.complete(1);
    world.finish(2, TaskOutcome::Succeeded);
    world.finish(2, failed("503"));
    assert!(failure(&world, 2).contains("step check on web-2 failed: 503"), "{}", failure(&world, 2));
    let parts = &world.deployment(deployment(2)).targets;
    assert!(matches!(parts[&target(2)].progress, Progress::Failed { .. }));
    assert_eq!(parts[&target(3)].progress, Progress::Skipped { hold: None });
    let rollback = world.rollback_of(2).unwrap().clone();
    assert_eq!(
        rollback.cause,
        Cause::Rollback { of: deployment(2), reason: RollbackReason::DeploymentFailed }
    );
    assert_eq!(rollback.order.to_vec(), [target(1), target(2)]);
    assert!(rollback.targets.values().all(|part| part.release == release(1)));
    world.complete(1);
    world.complete(2);
    assert_eq!(world.deployment(rollback.id).status, Status::Succeeded);
    assert!(world.tenant().targets.values().all(|place| place.current == Some(release(1))));
    assert_eq!(
        world.tenant().targets[&target(2)].generation,
        Generation(world.now.0 + 2),
        "the third at once"
    );
    assert_eq!(world.tenant().totals.rollbacks[&common::name("staging")]["deployment_failed"], 1);
    end(&world);
}

#[test]
fn a_rollback_that_is_planned_is_the_one_that_comes_and_nothing_follows_from_asking() {
    let mut world = World::with_release_1(2);
    world.enrol(3);
    world.ok(TenantCommand::CreateTarget(Box::new(common::new_target(3))));
    world.connect(3, vec![]);
    world.deploy(2, 2, None);
    let plan = |world: &World| {
        let (id, of) = (deployment(9), deployment(2));
        plan_rollback(&world.state, Actor::System, (common::TENANT, id), of, None, world.now)
    };
    assert!(conflict(plan(&world)).contains("has not ended"));
    (1..=3).for_each(|n| world.complete(n));
    let planned = plan(&world).unwrap();
    assert_eq!(planned.left, [LeftOut { target: target(3), why: Why::NoEarlier }]);
    world.ok(TenantCommand::Rollback { id: deployment(9), of: deployment(2), targets: None });
    let came = world.deployment(deployment(9));
    let goes = |it: &Deployment| -> Vec<_> {
        it.targets.values().map(|part| (part.target, part.previous, part.release)).collect()
    };
    assert_eq!(
        (&planned.order, &planned.strategy, goes(&planned)),
        (&came.order, &came.strategy, goes(came))
    );
    assert_eq!(planned.order.to_vec(), [target(1), target(2)]);
    assert!(planned.targets.values().all(|part| part.release == release(1)));
}

#[test]
fn the_first_release_ever_has_no_way_back_and_says_so() {
    let mut world = World::with_targets(2);
    world.deploy(1, 1, None);
    world.finish(1, failed("no space"));
    assert!(matches!(world.status(1), Status::Halting { .. }), "web-2 is still at it");
    world.finish(2, TaskOutcome::Succeeded);
    assert!(
        failure(&world, 1).ends_with("(no earlier release to go back to on web-1, web-2)"),
        "{}",
        failure(&world, 1)
    );
    assert!(world.rollback_of(1).is_none());
    assert!(matches!(
        world.deployment(deployment(1)).targets[&target(2)].progress,
        Progress::Abandoned { .. }
    ));
    let problem =
        conflict(world.tell(TenantCommand::Rollback { id: deployment(9), of: deployment(1), targets: None }));
    assert!(problem.contains("nothing to roll back"), "{problem}");
    end(&world);
}

#[test]
fn a_rollback_that_fails_is_not_rolled_back() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    world.finish(1, failed("a"));
    world.finish(1, failed("b"));
    let rollback = world.rollback_of(2).unwrap();
    assert!(matches!(rollback.status, Status::Failed { .. }));
    assert_eq!(world.tenant().deployments.len(), 3);
    end(&world);
}

#[test]
fn what_nobody_knows_waits_for_the_late_word_of_the_agent() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    let task = world.run(1);
    world.disconnect(1);
    world.connect(1, vec![]);
    assert!(is_unknown(world.task(task)));
    assert_eq!(*world.status(2), Status::Running);
    world.wait_ms(60_000);
    assert_eq!(*world.status(2), Status::Running, "not knowing is not failing");
    world.finish_task(1, task, TaskOutcome::Succeeded);
    world.finish(1, TaskOutcome::Succeeded);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn what_nobody_knows_is_settled_by_a_person() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    let settle = |task, succeeded| TenantCommand::SettleTask {
        task,
        succeeded,
        reason: "looked at the host".to_owned(),
    };
    let one = world.task_on(1).id;
    assert!(conflict(world.tell(settle(one, true))).contains("only a task that is unknown"));
    let unknown = TaskOutcome::Unknown { reason: "no record".to_owned() };
    world.finish(1, unknown.clone());
    let two = world.finish(2, unknown);
    world.ok(settle(one, true));
    assert!(matches!(world.task(one).state, TaskState::Succeeded(_)));
    assert_eq!(world.task_on(1).step.as_str(), "check");
    world.ok(settle(two, false));
    assert!(matches!(world.status(2), Status::Halting { .. }));
    world.finish(1, TaskOutcome::Succeeded);
    assert!(failure(&world, 2).contains("settled by hand: looked at the host"));
    end(&world);
}

#[test]
fn a_wiped_agent_is_not_sent_the_same_again() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    let dispatched = world.task_on(1).id;
    let listed = world.accept(2);
    for n in [1, 2] {
        world.disconnect(n);
    }
    let decision = world.connect_with(1, hello(mark(77, 0), vec![]), false);
    assert!(!decision.events.iter().any(|(_, event)| is_dispatch(&event.fact)), "{:?}", facts(&decision));
    assert!(is_unknown(world.task(dispatched)));
    // In the same life, but with its end cut off.
    let open = vec![world.listed(2, Phase::Accepted)];
    world.connect_with(2, hello(mark(2, 0), open), false);
    assert!(matches!(world.task(listed).state, TaskState::Accepted { .. }), "it says that it has it");
    end(&world);
}

#[test]
fn an_agent_that_comes_back_gets_what_it_never_accepted() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    let task = world.task_on(1).id;
    world.disconnect(1);
    assert!(matches!(world.tenant().agents[&agent(1)].connectivity, Connectivity::Suspect { .. }));
    world.wait_ms(30_000);
    assert!(matches!(world.tenant().agents[&agent(1)].connectivity, Connectivity::Offline { .. }));
    world.connect(1, vec![]);
    let session = world.session(1);
    assert!(matches!(world.task(task).state, TaskState::Dispatched { session: now, .. } if now == session));
    // The frame was lost with the session, but the agent had it: nothing to send.
    let open = vec![world.listed(1, Phase::Running)];
    let decision = world.connect(1, open);
    assert_eq!(facts(&decision), ["agent_connected"]);
    let old = TenantCommand::DisconnectAgent { agent: agent(1), session, reason: String::new() };
    assert_eq!(world.tell(old).unwrap_err(), Rejection::SessionSuperseded);
    end(&world);
}

#[test]
fn a_rolled_back_control_plane_does_not_trust_its_queue() {
    let mut world = World::with_release_1(2);
    for n in [1, 2] {
        world.disconnect(n);
    }
    world.deploy(2, 2, None);
    let (lost, kept) = (world.task_on(1).id, world.task_on(2).id);
    let journal = world.tenant().work[&agent(1)].journal.unwrap();
    world.connect_with(1, hello(journal, vec![]), true);
    assert!(is_unknown(world.task(lost)), "it may have been sent and run in the time that is forgotten");
    let open = vec![world.listed(2, Phase::Finished)];
    let journal = world.tenant().work[&agent(2)].journal.unwrap();
    world.connect_with(2, hello(journal, open), true);
    assert!(
        matches!(world.task(kept).state, TaskState::Dispatched { .. }),
        "answered from the agent's journal"
    );
    world.finish_task(2, kept, TaskOutcome::Succeeded);
    assert!(matches!(world.task(kept).state, TaskState::Succeeded(_)));
    end(&world);
}

/// An agent that serves three targets more than it is given tasks at a time.
fn long_queue() -> World {
    let mut world = World::with_targets(1);
    world.ok(TenantCommand::RemoveTarget { id: target(1) });
    let slots = u128::from(OPEN_TASKS_MAX) + 3;
    for n in 10..10 + slots {
        let slot = Some(common::name(&format!("s{n}")));
        world.ok(TenantCommand::CreateTarget(Box::new(NewTarget {
            agent: agent(1),
            slot,
            ..common::new_target(n)
        })));
    }
    world.deploy(1, 1, None);
    let work = &world.tenant().work[&agent(1)];
    assert_eq!((work.open, work.queued.len()), (OPEN_TASKS_MAX, 3), "the window");
    world
}

#[test]
fn what_waits_for_a_place_gets_it() {
    let mut world = long_queue();
    while *world.status(1) == Status::Running {
        let open = world.tenant().tasks.values().find(|task| task.state.is_open()).expect("an open task").id;
        world.finish_task(1, open, TaskOutcome::Succeeded);
        invariants::check(&world.state, world.now);
    }
    assert_eq!(*world.status(1), Status::Succeeded);
    end(&world);
}

#[test]
fn a_journal_that_lost_its_end_is_as_good_as_wiped() {
    let mut world = World::with_release_1(1);
    let known = world.tenant().work[&agent(1)].journal.unwrap();
    assert!(known.position.0 > 0);
    world.deploy(2, 2, None);
    let task = world.task_on(1).id;
    let shorter = JournalMark { position: Position(known.position.0 - 1), ..known };
    world.connect_with(1, hello(shorter, vec![]), false);
    assert!(is_unknown(world.task(task)));
    end(&world);
}

#[test]
fn a_failure_does_not_wait_for_agents_that_are_away() {
    let mut world = World::with_release_1(2);
    world.disconnect(2);
    world.deploy(2, 2, None);
    assert!(matches!(world.task_on(2).state, TaskState::Queued));
    world.finish(1, failed("x"));
    assert!(failure(&world, 2).contains("web-1 failed: x"));
    let part = |world: &World| world.deployment(deployment(2)).targets[&target(2)].progress.clone();
    assert_eq!(part(&world), Progress::Skipped { hold: None }, "nothing was sent to web-2");
    let place = &world.tenant().targets[&target(2)];
    assert_eq!((place.last, place.active), (Some(deployment(1)), None), "as if its turn had not come");
    let rollback = world.rollback_of(2).unwrap();
    assert_eq!(rollback.order.to_vec(), [target(1)]);
    let rollback = rollback.id;
    world.complete(1);
    assert_eq!(world.deployment(rollback).status, Status::Succeeded, "nor does the way back wait for it");
    end(&world);
}

#[test]
fn what_was_cancelled_before_it_was_sent_was_never_touched() {
    let mut world = World::with_release_1(2);
    world.disconnect(2);
    world.deploy(2, 2, None);
    world.complete_first_step(1);
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: "no".to_owned() });
    world.finish(1, TaskOutcome::Cancelled);
    let parts = &world.deployment(deployment(2)).targets;
    assert!(matches!(parts[&target(1)].progress, Progress::Abandoned { .. }), "between two steps");
    assert_eq!(parts[&target(2)].progress, Progress::Skipped { hold: None });
    world.ok(TenantCommand::Rollback { id: deployment(9), of: deployment(2), targets: None });
    assert_eq!(world.deployment(deployment(9)).order.to_vec(), [target(1)]);
    end(&world);
}

#[test]
fn a_rolled_back_control_plane_sends_nothing_of_a_long_queue() {
    let mut world = long_queue();
    let first = world.tenant().tasks.values().find(|task| task.state.is_open()).unwrap();
    let task = first.id;
    world.finish_task(1, task, TaskOutcome::Succeeded);
    assert_eq!(world.tenant().work[&agent(1)].open, OPEN_TASKS_MAX, "the place goes to the next");
    let journal = world.tenant().work[&agent(1)].journal.unwrap();
    let decision = world.connect_with(1, hello(journal, vec![]), true);
    assert!(!decision.events.iter().any(|(_, event)| is_dispatch(&event.fact)), "{:?}", facts(&decision));
    end(&world);
}

#[test]
fn a_cancelled_deployment_ends_without_the_word_of_an_agent_and_its_target_stays_shut() {
    let mut world = World::with_release_1(3);
    world.deploy(2, 2, Some(2));
    let (stuck, polite) = (world.run(1), world.run(2));
    let cancel =
        || TenantCommand::CancelDeployment { deployment: deployment(2), reason: "wrong one".to_owned() };
    world.ok(cancel());
    assert!(world.task(stuck).cancel_requested && world.task(polite).cancel_requested);
    assert_eq!(
        world.deployment(deployment(2)).targets[&target(3)].progress,
        Progress::Skipped { hold: None }
    );
    assert_eq!(facts(&world.ok(cancel())), [""; 0], "once is enough");
    world.finish(2, TaskOutcome::Cancelled);
    assert!(matches!(world.status(2), Status::Cancelling { .. }));
    world.wait_ms(60_000);
    assert_eq!(*world.status(2), Status::Cancelled { reason: "wrong one".to_owned() });
    assert!(is_unknown(world.task(stuck)));
    assert!(conflict(world.tell(cancel())).contains("already"));
    assert_eq!(world.tenant().targets[&target(1)].blocked_by, Some(stuck));
    let again = || TenantCommand::Deploy(Box::new(new_deployment(3, 2, None)));
    assert!(conflict(world.tell(again())).contains("on target web-1; settle it first"));
    assert!(conflict(world.tell(TenantCommand::RemoveTarget { id: target(1) })).contains("settle"));
    world.finish_task(1, stuck, TaskOutcome::Cancelled);
    assert_eq!(world.tenant().targets[&target(1)].blocked_by, None);
    world.ok(again());
    end(&world);
}

#[test]
fn a_deployment_that_takes_too_long_fails_and_goes_back() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, Some(1));
    world.complete(1);
    let hanging = world.run(2);
    world.wait_ms(3_600_000);
    assert!(world.task(hanging).cancel_requested);
    assert!(matches!(world.status(2), Status::Halting { .. }));
    world.wait_ms(60_000);
    let reason = failure(&world, 2);
    assert!(reason.contains("did not finish within 1 h"), "{reason}");
    assert!(reason.contains("unknown end keeps from going back web-2"), "{reason}");
    let rollback = world.rollback_of(2).unwrap();
    assert_eq!(rollback.order.to_vec(), [target(1)], "web-2 is blocked");
    end(&world);
}

#[test]
fn a_person_takes_a_deployment_back_unless_a_newer_one_came() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    let back = |n, of| TenantCommand::Rollback { id: deployment(n), of: deployment(of), targets: None };
    assert!(conflict(world.tell(back(5, 2))).contains("cancel it first"));
    for n in [1, 2] {
        world.complete(n);
    }
    assert!(conflict(world.tell(back(5, 1))).contains(&deployment(2).to_string()));
    world.ok(back(5, 2));
    for n in [1, 2] {
        world.complete(n);
    }
    assert!(world.tenant().targets.values().all(|place| place.current == Some(release(1))));
    assert_eq!(world.tenant().totals.rollbacks[&common::name("staging")]["manual"], 1);
    end(&world);
}

#[test]
fn a_rollback_leaves_a_target_alone_that_a_newer_deployment_has_taken() {
    let mut world = World::with_release_1(3);
    let tolerate_failures = Some(Amount::Count(1));
    let new = NewDeployment { tolerate_failures, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    // Where it has failed, another one may put things right.
    world.finish(1, failed("exit 1"));
    let mut newer = new_deployment(3, 1, None);
    newer.targets = Some(vec![target(1)]);
    world.ok(TenantCommand::Deploy(Box::new(newer)));
    world.accept(2);
    world.finish(2, failed("exit 1"));
    let why = failure(&world, 2);
    assert!(why.contains(&format!("a newer deployment ({}) has come to web-1", deployment(3))), "{why}");
    let rollback = world.rollback_of(2).unwrap();
    assert_eq!(rollback.targets.keys().copied().collect::<Vec<_>>(), [target(2)]);
    world.complete(1);
    assert_eq!(*world.status(3), Status::Succeeded);
    end(&world);
}

#[test]
fn a_revoked_agent_fails_what_was_not_sent_and_leaves_the_rest_unknown() {
    let mut world = World::with_release_1(3);
    world.disconnect(2);
    world.deploy(2, 2, Some(2));
    let open = world.run(1);
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: "stolen".to_owned() });
    assert!(is_unknown(world.task(open)));
    world.ok(TenantCommand::RevokeAgent { agent: agent(2), reason: "stolen too".to_owned() });
    assert!(matches!(world.status(2), Status::Halting { .. }));
    let hello = Box::new(hello(mark(1, 5), vec![]));
    let connect = TenantCommand::ConnectAgent { agent: agent(1), hello, journal_rolled_back: false };
    assert!(matches!(world.tell(connect), Err(Rejection::Revoked { .. })));
    world.ok(TenantCommand::SettleTask { task: open, succeeded: false, reason: "host is gone".to_owned() });
    assert!(failure(&world, 2).contains("was revoked"), "{}", failure(&world, 2));
    assert!(
        conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(3, 2, None)))))
            .contains("was revoked")
    );
    end(&world);
}

#[test]
fn the_same_request_twice_is_one_request() {
    let mut world = World::with_targets(1);
    let deploy = || TenantCommand::Deploy(Box::new(new_deployment(1, 1, None)));
    let first = world.tell_once("k", digest(1), deploy()).unwrap();
    assert_eq!(*facts(&first).last().unwrap(), "request_answered");
    let again = world.tell_once("k", digest(1), deploy()).unwrap();
    assert_eq!((again.events.len(), again.outcome), (0, Outcome::Deployment(deployment(1))));
    assert_eq!(world.tell_once("k", digest(2), deploy()).unwrap_err(), Rejection::KeyReused);
    world.wait_ms(24 * 3_600_000 + 1);
    assert!(world.tenant().requests.is_empty());
    assert!(matches!(world.tell_once("k", digest(1), deploy()), Err(Rejection::Exists { .. })));
    end(&world);
}

#[test]
fn reports_are_heard_once_and_only_from_their_agent() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    let task = world.finish(1, TaskOutcome::Succeeded);
    let before = world.events.len();
    world.finish_task(1, task, TaskOutcome::Succeeded);
    assert_eq!(world.events.len(), before, "acknowledged again, and nothing more");
    world.finish_task(2, task, failed("not mine"));
    assert_eq!(world.events.last().unwrap().1.fact.name(), "report_ignored");
    let noted = |world: &World| {
        let names = world.events.iter().map(|(_, event)| event.fact.name());
        names.filter(|name| matches!(*name, "report_ignored" | "agent_trust_changed")).count()
    };
    // The journal does not grow by it, however often the agent comes and goes.
    for _ in 0..20 {
        (0..256).for_each(|_| world.finish_task(2, task, failed("not mine")));
        world.disconnect(2);
        world.connect(2, vec![]);
    }
    let burst = usize::try_from(NOTES_BURST).unwrap();
    assert_eq!(noted(&world), burst);
    let trusts = |world: &World, root: u8| {
        let trust = AgentTrust { roots: vec![digest(root)], root: digest(root) };
        TenantCommand::RecordAgentTrust { agent: agent(2), session: world.session(2), trust }
    };
    world.ok(trusts(&world, 1));
    assert_eq!(noted(&world), burst, "nor by its changing its mind");
    world.wait_ms(NOTE_EVERY_MS);
    for root in 1..9 {
        world.ok(trusts(&world, root));
    }
    assert_eq!(noted(&world), burst + 1);
    end(&world);
}

#[test]
fn a_retry_goes_to_the_targets_that_lack_the_release_and_leaves_the_old_deployment_alone() {
    let mut world = World::with_release_1(2);
    let new = NewDeployment { on_failure: OnFailure::Stop, ..new_deployment(2, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    let retry =
        |id, of, targets| TenantCommand::RetryDeployment { id: deployment(id), of: deployment(of), targets };
    assert!(conflict(world.tell(retry(3, 2, None))).contains("has not ended"));
    world.complete(2);
    world.finish(1, failed("x"));
    assert!(matches!(world.status(2), Status::Failed { .. }));
    let before = world.deployment(deployment(2)).clone();
    assert!(world.tell(retry(3, 2, Some(vec![target(9)]))).is_err(), "no part of it");
    assert!(conflict(world.tell(retry(3, 2, Some(vec![target(2)])))).contains("no target"));
    world.ok(retry(3, 2, None));
    let targets: Vec<_> = world.deployment(deployment(3)).targets.keys().copied().collect();
    assert_eq!(targets, [target(1)], "the other one has the release");
    world.complete(1);
    assert_eq!(*world.status(3), Status::Succeeded);
    assert_eq!(*world.deployment(deployment(2)), before, "final is final");
    assert!(conflict(world.tell(retry(4, 2, None))).contains("has come to target web-1 since"));
    end(&world);
}

#[test]
fn a_generation_that_a_lost_journal_gave_out_is_not_given_out_again() {
    let mut world = World::with_release_1(1);
    let backup = (world.state.clone(), world.events.clone());
    for n in 2..=4 {
        world.deploy(n, n - 1, None);
        world.complete(1);
    }
    let seen = world.tenant().targets[&target(1)].generation;
    (world.state, world.events) = backup;
    world.wait_ms(60_000);
    world.deploy(5, 2, None);
    assert!(world.tenant().targets[&target(1)].generation > seen, "the agent would refuse an older one");
    end(&world);
}
