//! What people hold back: pauses, locks, the promotion path and blocked releases.

use crate::common::{
    STAGING, World, agent, conflict, deployment, end, failed, failure, invariants, name, new_deployment,
    new_target, release, rule, target,
};
use stella_domain::command::{NewDeployment, TenantCommand};
use stella_domain::deployment::{OnFailure, Status};
use stella_domain::environment::PromotionPath;
use stella_domain::freeze::{FREEZES_MAX, Freeze, Repeats};
use stella_domain::hold::Verdict;
use stella_domain::promotion::ApprovalRule;
use stella_domain::rejection::Rejection;
use stella_protocol::id::EnvironmentId;
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;

fn pause(n: u128) -> TenantCommand {
    TenantCommand::PauseDeployment { deployment: deployment(n), reason: "lunch".to_owned() }
}

#[test]
fn a_paused_deployment_starts_nothing_and_its_time_stands_still() {
    let mut world = World::with_targets(2);
    world.deploy(1, 1, Some(1));
    let deadline = world.deployment(deployment(1)).deadline;
    world.ok(pause(1));
    assert!(world.ok(pause(1)).events.is_empty());
    let other = TenantCommand::PauseDeployment { deployment: deployment(1), reason: "errors".to_owned() };
    assert!(conflict(world.tell(other)).contains("paused already (lunch)"));
    world.complete(1);
    let counts = world.deployment(deployment(1)).counts;
    assert_eq!((counts.succeeded, counts.active, counts.waiting), (1, 0, 1));
    invariants::check(&world.state, world.now);

    let pause_ms = 24 * 3_600_000;
    world.wait_ms(pause_ms);
    assert_eq!(*world.status(1), Status::Running);
    assert_eq!(world.deployment(deployment(1)).paused.as_ref().unwrap().reason, "lunch");
    world.ok(TenantCommand::ResumeDeployment { deployment: deployment(1) });
    assert!(world.ok(TenantCommand::ResumeDeployment { deployment: deployment(1) }).events.is_empty());
    assert_eq!(world.deployment(deployment(1)).deadline, deadline.plus_ms(pause_ms));
    world.complete(2);
    assert_eq!(*world.status(1), Status::Succeeded);
    let too_late = conflict(world.tell(pause(1)));
    assert!(too_late.contains("succeeded; only a running one"), "{too_late}");
    end(&world);
}

/// What follows from a deployment has as much time as that was given, however long it was paused.
#[test]
fn a_pause_is_no_part_of_the_time_that_a_rollback_or_a_retry_has() {
    let week_ms = 7 * 24 * 3_600_000;
    for (on_failure, goes_back) in [(OnFailure::Rollback, true), (OnFailure::Stop, false)] {
        let mut world = World::with_release_1(2);
        let new = NewDeployment { on_failure, timeout_ms: 1_800_000, ..new_deployment(2, 2, Some(1)) };
        world.ok(TenantCommand::Deploy(Box::new(new)));
        world.ok(pause(2));
        world.wait_ms(week_ms);
        world.ok(TenantCommand::ResumeDeployment { deployment: deployment(2) });
        world.finish(1, failed("exit 1"));
        let of = deployment(2);
        let next = if goes_back {
            world.rollback_of(2).unwrap()
        } else {
            world.ok(TenantCommand::RetryDeployment { id: deployment(3), of, targets: None });
            world.deployment(deployment(3))
        };
        assert_eq!((next.timeout_ms(), next.deadline), (1_800_000, world.now.plus_ms(1_800_000)));
        end(&world);
    }
}

#[test]
fn a_failure_ends_a_pause_and_the_deadline_is_set_again() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    world.ok(pause(2));
    world.wait_ms(5_000);
    world.accept(1);
    world.finish(1, failed("exit 1"));
    assert!(matches!(world.status(2), Status::Halting { .. }));
    assert_eq!(world.deployment(deployment(2)).paused, None);
    // The other target never answers: the deadline is what ends it.
    world.wait_ms(100 * 3_600_000);
    assert!(world.deployment(deployment(2)).status.is_final());
    end(&world);
}

#[test]
fn a_paused_deployment_can_be_cancelled() {
    let mut world = World::with_targets(2);
    world.deploy(1, 1, Some(1));
    world.complete(1);
    world.ok(pause(1));
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(1), reason: "no".to_owned() });
    assert_eq!(world.deployment(deployment(1)).paused, None);
    world.wait_ms(3_600_000);
    assert!(matches!(world.status(1), Status::Cancelled { .. }));
    end(&world);
}

fn lock(reason: &str) -> TenantCommand {
    TenantCommand::LockEnvironment { environment: STAGING, reason: reason.to_owned() }
}

#[test]
fn a_locked_environment_takes_rollbacks_only() {
    let mut world = World::with_release_1(1);
    world.deploy(2, 2, None);
    world.complete(1);
    world.ok(lock("audit"));
    assert!(world.ok(lock("audit")).events.is_empty());
    assert!(conflict(world.tell(lock("holidays"))).contains("locked already (audit)"));
    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(3, 1, None)))));
    assert!(refused.contains("staging is locked (audit)"), "{refused}");
    world.ok(TenantCommand::Rollback { id: deployment(4), of: deployment(2), targets: None });
    world.complete(1);
    assert_eq!(*world.status(4), Status::Succeeded);
    for _ in 0..2 {
        world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
    }
    world.deploy(5, 2, None);
    end(&world);
}

fn path(of: EnvironmentId, requires: Option<PromotionPath>) -> TenantCommand {
    TenantCommand::SetEnvironmentPath { environment: of, requires }
}

#[test]
fn a_release_comes_to_the_next_environment_when_it_has_proven_itself_in_the_one_before() {
    let mut world = World::with_release_1(2);
    let production = EnvironmentId(uuid::Uuid::from_u128(77));
    let create = TenantCommand::CreateEnvironment {
        id: production,
        name: name("production"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    };
    world.ok(create);
    let after_staging = PromotionPath::after(STAGING, 60_000, false);
    world.ok(path(production, Some(after_staging.clone())));
    assert!(world.ok(path(production, Some(after_staging))).events.is_empty());
    let circle = world.tell(path(STAGING, Some(PromotionPath::after(production, 0, false))));
    assert!(matches!(circle, Err(Rejection::Invalid { field, .. }) if field == "after"));
    let mut third = new_target(9);
    (third.environment, third.slot) = (production, Some(name("p")));
    third.agent = agent(3);
    world.enrol(3);
    world.ok(TenantCommand::CreateTarget(Box::new(third)));

    let to_production = |n: u128| {
        TenantCommand::Deploy(Box::new(NewDeployment {
            environment: production,
            ..new_deployment(n, 2, None)
        }))
    };
    assert!(conflict(world.tell(to_production(10))).contains("must succeed on all targets of staging"));
    // A part of the targets is no proof.
    let mut part = new_deployment(2, 2, None);
    part.targets = Some(vec![target(1)]);
    world.ok(TenantCommand::Deploy(Box::new(part)));
    world.complete(1);
    assert!(conflict(world.tell(to_production(10))).contains("deploy it there first"));
    let mut rest = new_deployment(3, 2, None);
    rest.targets = Some(vec![target(2)]);
    world.ok(TenantCommand::Deploy(Box::new(rest)));
    world.complete(2);
    let soaking = conflict(world.tell(to_production(10)));
    assert!(soaking.contains("for 60 s") && soaking.contains("try again in 60 s"), "{soaking}");
    world.wait_ms(60_000);
    world.ok(to_production(10));
    // A failure there takes the proof away.
    world.deploy(4, 2, None);
    world.accept(1);
    world.finish(1, failed("exit 1"));
    world.accept(2);
    world.finish(2, TaskOutcome::Succeeded);
    world.ok(TenantCommand::CancelDeployment { deployment: deployment(10), reason: "x".to_owned() });
    assert!(conflict(world.tell(to_production(11))).contains("deploy it there first"));
    world.ok(path(production, None));
    end(&world);
}

fn judge(n: u128, verdict: Verdict) -> TenantCommand {
    TenantCommand::JudgeRelease { release: release(n), verdict, reason: "CVE".to_owned() }
}

#[test]
fn a_blocked_release_goes_nowhere_and_nothing_goes_back_to_it() {
    let mut world = World::with_release_1(1);
    world.ok(judge(2, Verdict::Block));
    assert!(world.ok(judge(2, Verdict::Block)).events.is_empty());
    // Nobody lifts a block by saying something milder.
    assert!(conflict(world.tell(judge(2, Verdict::Deprecate))).contains("is blocked (CVE); clear it first"));
    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))));
    assert!(refused.contains("is blocked (CVE)"), "{refused}");
    world.ok(judge(2, Verdict::Clear));
    world.ok(judge(1, Verdict::Block));
    world.deploy(3, 2, None);
    world.accept(1);
    world.finish(1, failed("exit 1"));
    let why = failure(&world, 3);
    assert!(why.contains("the release to go back to is blocked for"), "{why}");
    assert!(world.rollback_of(3).is_none());
    world.ok(judge(2, Verdict::Deprecate));
    world.deploy(4, 2, None);
    end(&world);
}

#[test]
fn blocking_a_release_stops_it_on_its_way_and_takes_it_back() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, Some(1));
    world.complete(1);
    world.ok(judge(2, Verdict::Block));
    let on_its_way = world.deployment(deployment(2));
    assert!(matches!(&on_its_way.status, Status::Halting { reason } if reason.contains("was blocked: CVE")));
    // What is under way on the second target comes to its end, and the way back begins.
    world.accept(2);
    world.finish(2, TaskOutcome::Succeeded);
    let rollback = world.rollback_of(2).unwrap();
    assert_eq!((rollback.release, rollback.counts.total()), (release(1), 2));
    end(&world);
}

/// Berlin, in winter: an hour before UTC.
const FRIDAY_NOON: Timestamp = Timestamp(1_797_591_600_000);
const HOUR_MS: u64 = 3_600_000;

fn weekend() -> Freeze {
    Freeze {
        name: name("weekend"),
        reason: "nobody is there".to_owned(),
        from: "2026-12-18T18:00".parse().unwrap(),
        to: "2026-12-21T08:00".parse().unwrap(),
        time_zone: "Europe/Berlin".to_owned(),
        repeats: Repeats::Weekly,
    }
}

fn freeze(freeze: Freeze) -> TenantCommand {
    TenantCommand::FreezeEnvironment { environment: STAGING, freeze: Box::new(freeze) }
}

/// A Friday at noon, with a freeze from six on, and two people.
fn before_the_weekend() -> World {
    let mut world = World::with_release_1(1);
    world.person(1);
    world.person(2);
    world.now = FRIDAY_NOON;
    world.ok(freeze(weekend()));
    world
}

#[test]
fn a_frozen_environment_takes_rollbacks_and_what_overrides_it_with_a_reason() {
    let mut world = before_the_weekend();
    world.wait_ms(5 * HOUR_MS + HOUR_MS / 2);
    world.deploy(2, 2, None);
    world.wait_ms(HOUR_MS / 2);
    world.complete(1);
    assert_eq!(*world.status(2), Status::Succeeded, "what is on its way goes on");
    let new = |n| new_deployment(n, 3, None);
    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(new(3)))));
    let wanted = "staging is frozen until 2026-12-21 08:00 CET (weekend: nobody is there)";
    assert!(refused.contains(wanted), "{refused}");
    world.ok(TenantCommand::Rollback { id: deployment(4), of: deployment(2), targets: None });
    world.complete(1);
    let urgent = NewDeployment { override_freeze: Some("orders are lost".to_owned()), ..new(5) };
    world.tell_as(1, TenantCommand::Deploy(Box::new(urgent))).unwrap();
    let recorded = &world.promotion(5).wanted.override_freeze;
    assert_eq!(recorded.as_deref(), Some("orders are lost"), "for ever");
    world.complete(1);

    world.ok(TenantCommand::LockEnvironment { environment: STAGING, reason: "audit".to_owned() });
    let urgent = NewDeployment { override_freeze: Some("again".to_owned()), ..new(6) };
    assert!(conflict(world.tell(TenantCommand::Deploy(Box::new(urgent)))).contains("is locked (audit)"));
    world.ok(TenantCommand::UnlockEnvironment { environment: STAGING });
    world.now = FRIDAY_NOON.plus_ms(68 * HOUR_MS);
    world.ok(TenantCommand::Deploy(Box::new(new(7))));
    end(&world);
}

#[test]
fn an_approved_promotion_starts_when_the_freeze_is_over() {
    let mut world = before_the_weekend();
    let rule = Some(ApprovalRule { expires_ms: 7 * 24 * HOUR_MS, ..rule(1, &[]) });
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    world.wait_ms(8 * HOUR_MS);
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
    world.approve(2, 2).unwrap();
    let monday = FRIDAY_NOON.plus_ms(68 * HOUR_MS);
    assert_eq!((world.promotion(2).status_name(), world.promotion(2).held_until), ("approved", Some(monday)));
    invariants::check(&world.state, world.now);
    // Another freeze makes it longer, by another hour.
    let inventory = Freeze {
        name: name("inventory"),
        from: "2026-12-21T07:00".parse().unwrap(),
        to: "2026-12-21T09:00".parse().unwrap(),
        repeats: Repeats::Never,
        ..weekend()
    };
    world.ok(freeze(inventory));
    world.wait_ms(60 * HOUR_MS);
    assert_eq!(world.now, monday);
    assert_eq!(world.promotion(2).held_until, Some(monday.plus_ms(HOUR_MS)));
    invariants::check(&world.state, world.now);
    world.wait_ms(HOUR_MS);
    assert_eq!((world.promotion(2).status_name(), world.promotion(2).held_until), ("started", None));
    world.complete(1);

    // Taken back, it holds nothing.
    world.now = monday.plus_ms(4 * 24 * HOUR_MS + 12 * HOUR_MS);
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(3, 3, None)))).unwrap();
    world.approve(2, 3).unwrap();
    assert_eq!(world.promotion(3).status_name(), "approved");
    world.ok(TenantCommand::UnfreezeEnvironment { environment: STAGING, freeze: name("weekend") });
    assert_eq!(world.promotion(3).status_name(), "started");
    end(&world);
}

#[test]
fn freezes_that_make_no_sense_are_refused_by_field() {
    let mut world = before_the_weekend();
    let mut refused = |wrong: Freeze, field: &str| {
        let told = world.tell(freeze(wrong));
        assert!(matches!(&told, Err(Rejection::Invalid { field: at, .. }) if at == field), "{told:?}");
    };
    refused(Freeze { time_zone: "Mars".to_owned(), ..weekend() }, "time_zone");
    refused(Freeze { to: weekend().from, ..weekend() }, "to");
    refused(Freeze { repeats: Repeats::Daily, ..weekend() }, "to");
    refused(Freeze { reason: "x".repeat(2_000), ..weekend() }, "reason");
    assert!(world.ok(freeze(weekend())).events.is_empty(), "it is so already");
    for n in 1..FREEZES_MAX {
        world.ok(freeze(Freeze { name: name(&format!("more-{n}")), ..weekend() }));
    }
    assert!(
        conflict(world.tell(freeze(Freeze { name: name("last"), ..weekend() }))).contains("has 32 freezes")
    );
    world.ok(freeze(Freeze { reason: "a holiday".to_owned(), ..weekend() }));
    let unknown = TenantCommand::UnfreezeEnvironment { environment: STAGING, freeze: name("nothing") };
    assert!(matches!(world.tell(unknown), Err(Rejection::NotFound { kind: "freeze", .. })));
    end(&world);
}

#[test]
fn a_rollback_is_not_rolled_back_but_one_that_failed_is_done_again() {
    let mut world = World::with_release_1(2);
    world.deploy(2, 2, None);
    (1..=2).for_each(|n| world.complete(n));
    world.ok(TenantCommand::Rollback { id: deployment(3), of: deployment(2), targets: None });
    world.complete(1);
    world.finish(2, failed("exit 1"));
    assert!(matches!(world.status(3), Status::Failed { .. }));
    let forward = world.tell(TenantCommand::Rollback { id: deployment(4), of: deployment(3), targets: None });
    assert!(conflict(forward).contains("is a rollback; deploy the release that is wanted instead"));
    world.ok(TenantCommand::Rollback { id: deployment(4), of: deployment(2), targets: None });
    assert_eq!(world.deployment(deployment(4)).targets.len(), 1, "web-1 is back already");
    world.complete(2);
    assert_eq!(*world.status(4), Status::Succeeded);
    for n in 1..=2 {
        assert_eq!(world.tenant().targets[&target(n)].current, Some(release(1)));
    }
    let again = world.tell(TenantCommand::Rollback { id: deployment(5), of: deployment(2), targets: None });
    assert!(conflict(again).contains("what was there before is back already on web-1, web-2"));
    end(&world);
}
