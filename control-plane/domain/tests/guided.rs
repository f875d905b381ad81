//! Failures that people decide about: try a target again, leave it alone, or give up.

use crate::common::{
    self, STAGING, World, conflict, deployment, end, failed, failure, new_deployment, person, security,
    target,
};
use stella_domain::amount::Amount;
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::environment::SilenceRule;
use stella_domain::hold::PauseCause;
use stella_domain::rejection::Rejection;
use stella_protocol::message::TaskOutcome;

/// Targets with release 1, and release 2 on its way there, so many at a time.
fn world(targets: u128, batch: u32) -> World {
    let mut world = World::with_release_1(targets);
    world.person(1);
    let on_failure = OnFailure::Ask;
    let new = NewDeployment { on_failure, ..new_deployment(2, 2, Some(batch)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world
}

fn retry(n: u128) -> TenantCommand {
    TenantCommand::RetryTarget { deployment: deployment(2), target: target(n) }
}

fn skip(n: u128) -> TenantCommand {
    TenantCommand::SkipTarget { deployment: deployment(2), target: target(n), reason: "no power".to_owned() }
}

fn give_up(roll_back: bool) -> TenantCommand {
    TenantCommand::FailDeployment { deployment: deployment(2), roll_back, reason: "it is bad".to_owned() }
}

/// Why it is paused, if for a decision.
fn asks(world: &World) -> Option<String> {
    let deployment = world.deployment(deployment(2));
    let paused = deployment.paused.as_ref().filter(|_| deployment.paused_for == PauseCause::Failure);
    paused.map(|hold| hold.reason.clone())
}

fn progress(world: &World, n: u128) -> &Progress {
    &world.deployment(deployment(2)).targets[&target(n)].progress
}

#[test]
fn a_failed_target_is_tried_again_in_place_and_then_the_others_follow() {
    let mut world = world(3, 1);
    let first = world.task_on(1).id;
    world.finish(1, failed("exit 1"));
    assert_eq!(asks(&world).unwrap(), "1 target has failed, 0 tolerated");
    let problem = conflict(world.tell(TenantCommand::ResumeDeployment { deployment: deployment(2) }));
    assert!(problem.contains("retry or skip the failed targets"), "{problem}");
    world.wait_ms(90 * 24 * 3_600_000);
    assert_eq!(*world.status(2), Status::Running, "its time stands still");
    world.ok(retry(1));
    assert_ne!(world.task_on(1).id, first, "a task of its own");
    assert!(asks(&world).is_some() && *progress(&world, 2) == Progress::Waiting, "it has to succeed first");
    world.finish(1, failed("exit 1"));
    world.ok(retry(1));
    world.complete(1);
    assert!(asks(&world).is_none());
    world.complete(2);
    world.complete(3);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(world.is_at_rest());
    end(&world);
}

/// Time alone has closed the gate, and nothing happens in a deployment that waits for people.
#[test]
fn a_target_is_not_tried_again_through_a_gate_that_has_closed_meanwhile() {
    let mut world = World::with_release_1(2);
    world.person(1);
    let soon = world.now.plus_ms(30_000);
    world.set_gate(security("scan", &[("CVE-1", Some(soon.0))]));
    world.scan(2, &["CVE-1"]);
    let new = NewDeployment { on_failure: OnFailure::Ask, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.finish(1, failed("exit 1"));
    world.ok(retry(1));
    world.finish(1, failed("exit 1"));
    world.wait_ms(30_000);
    let problem = conflict(world.tell(retry(1)));
    assert!(problem.contains("gate scan: 1 critical findings"), "{problem}");
    world.scan(2, &[]);
    world.ok(retry(1));
    end(&world);
}

#[test]
fn a_target_is_skipped_with_a_reason_that_stays() {
    let mut world = world(3, 1);
    world.complete(1);
    world.finish(2, failed("exit 1"));
    let no_reason =
        TenantCommand::SkipTarget { deployment: deployment(2), target: target(2), reason: " ".to_owned() };
    assert!(matches!(world.tell(no_reason), Err(Rejection::Invalid { field, .. }) if field == "reason"));
    world.tell_as(1, skip(2)).unwrap();
    let Progress::Skipped { hold: Some(hold) } = progress(&world, 2) else {
        panic!("{:?}", progress(&world, 2))
    };
    assert_eq!((hold.reason.as_str(), &hold.by), ("no power", &person(1)));
    assert!(world.ok(skip(2)).events.is_empty(), "it is skipped already");
    world.finish(3, failed("exit 1"));
    world.ok(give_up(true));
    let why = failure(&world, 2);
    assert!(why.contains("it is bad") && why.contains("somebody wants left alone web-2"), "{why}");
    let back = world.rollback_of(2).unwrap();
    assert_eq!(back.order.to_vec(), [target(1), target(3)], "what takes it back leaves it alone too");
    end(&world);
}

#[test]
fn what_waits_or_waits_for_its_agent_can_be_skipped_and_what_runs_cannot() {
    let mut world = world(4, 2);
    world.disconnect(1);
    world.ok(skip(3));
    world.run(2);
    assert!(conflict(world.tell(skip(2))).contains("is running; wait for its end"));
    world.complete(2);
    assert_eq!(progress(&world, 4).name(), "active", "after what is skipped");
    assert!(conflict(world.tell(skip(2))).contains("there is nothing to skip"));
    assert!(conflict(world.tell(retry(2))).contains("only one that has failed"));
    world.complete(4);
    world.finish(1, TaskOutcome::Unknown { reason: "x".to_owned() });
    assert!(conflict(world.tell(skip(1))).contains("settle it first"));
    end(&world);

    let mut world = self::world(2, 2);
    world.disconnect(1);
    world.complete(2);
    let mut away = self::world(2, 1);
    away.disconnect(2);
    away.complete(1);
    assert_eq!(away.task_on(2).state.name(), "queued");
    away.ok(skip(2));
    assert_eq!(*away.status(2), Status::Succeeded, "an agent that is away holds nothing up");
    assert_eq!(away.tenant().targets[&target(2)].active, None);
    away.connect(2, vec![]);
    end(&away);
}

#[test]
fn the_last_that_could_succeed_is_not_skipped() {
    let mut world = world(2, 1);
    world.ok(skip(2));
    assert!(conflict(world.tell(skip(1))).contains("wait for its end"));
    world.finish(1, failed("exit 1"));
    assert!(conflict(world.tell(skip(1))).contains("cancel or fail it instead"));
    world.ok(give_up(false));
    assert!(failure(&world, 2).contains("it is bad"));
    assert!(world.rollback_of(2).is_none(), "as somebody has decided");
    let problem = conflict(world.tell(give_up(true)));
    assert!(problem.contains("only a running one"), "{problem}");
    assert!(conflict(world.tell(skip(1))).contains("one that has ended can be retried"));
    end(&world);
}

#[test]
fn others_come_to_their_end_and_a_person_may_pause_it_meanwhile() {
    let mut world = world(4, 2);
    world.finish(1, failed("exit 1"));
    world.complete(2);
    assert!(asks(&world).is_some());
    assert_eq!(world.deployment(deployment(2)).counts.active, 0);
    let reason = "lunch".to_owned();
    world.ok(TenantCommand::PauseDeployment { deployment: deployment(2), reason });
    world.ok(skip(1));
    assert!(world.deployment(deployment(2)).paused.is_some(), "somebody paused it");
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    world.complete(3);
    world.complete(4);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn a_target_that_another_deployment_took_is_not_tried_again() {
    let mut world = world(2, 1);
    world.finish(1, failed("exit 1"));
    let new = NewDeployment { targets: Some(vec![target(1)]), ..new_deployment(3, 3, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    assert!(conflict(world.tell(retry(1))).contains("works on target web-1"));
    world.complete(1);
    assert!(conflict(world.tell(retry(1))).contains("another deployment has come"));
    world.ok(skip(1));
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn failures_are_asked_about_only_beyond_what_is_tolerated() {
    let mut world = World::with_release_1(4);
    let (on_failure, tolerate_failures) = (OnFailure::Ask, Some(Amount::Count(1)));
    let new = NewDeployment { on_failure, tolerate_failures, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.finish(1, failed("exit 1"));
    assert!(asks(&world).is_none());
    world.finish(2, failed("exit 1"));
    assert_eq!(asks(&world).unwrap(), "2 targets have failed, 1 tolerated");
    world.ok(skip(2));
    assert!(asks(&world).is_none(), "one is tolerated");
    world.complete(3);
    world.complete(4);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

#[test]
fn what_fails_while_something_else_holds_everything_up_is_asked_about_when_that_is_over() {
    let mut world = world(3, 1);
    let rule = Some(SilenceRule { percent: 33, within_ms: 60_000 });
    world.ok(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
    world.disconnect(3);
    assert_eq!(world.deployment(deployment(2)).paused_for, PauseCause::Silence);
    world.finish(1, failed("exit 1"));
    assert!(asks(&world).is_none());
    world.connect(3, vec![]);
    assert_eq!(asks(&world).unwrap(), "1 target has failed, 0 tolerated", "it does not stand still unseen");
    world.ok(skip(1));
    world.complete(2);
    world.complete(3);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);
}

/// Whoever may try a target again may not override a freeze, nor what somebody else holds back.
#[test]
fn a_target_is_not_tried_again_in_a_freeze_nor_in_a_deployment_that_a_person_has_paused() {
    let mut world = world(2, 1);
    world.finish(1, failed("exit 1"));
    let freeze = Box::new(common::freeze("christmas", "1970-01-01T00:00", "1970-01-02T00:00"));
    world.ok(TenantCommand::FreezeEnvironment { environment: STAGING, freeze: freeze.clone() });
    let problem = conflict(world.tell(retry(1)));
    assert!(problem.starts_with("staging is frozen (christmas: nobody is there); "), "{problem}");
    world.wait_ms(24 * 3_600_000);
    world.ok(retry(1));
    world.finish(1, failed("exit 1"));
    let reason = "I want to look".to_owned();
    world.ok(TenantCommand::PauseDeployment { deployment: deployment(2), reason });
    let problem = conflict(world.tell(retry(1)));
    assert!(problem.contains("is paused (I want to look); resume it"), "{problem}");
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
    assert!(asks(&world).is_some());
    world.ok(retry(1));
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(2), Status::Succeeded);
    end(&world);

    // What overrides freezes goes on.
    let mut world = World::with_release_1(2);
    let (on_failure, override_freeze) = (OnFailure::Ask, Some("orders are lost".to_owned()));
    let new = NewDeployment { on_failure, override_freeze, ..new_deployment(2, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.finish(1, failed("exit 1"));
    world.ok(TenantCommand::FreezeEnvironment { environment: STAGING, freeze });
    world.ok(retry(1));
    end(&world);
}
