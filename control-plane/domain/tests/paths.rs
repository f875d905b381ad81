//! Paths from several environments: any of them, or all of them.

use crate::common::{
    self, STAGING, World, agent, deployment, end, failed, name, new_deployment, new_target, release, rule,
};
use stella_domain::access::Role;
use stella_domain::command::{NewDeployment, NewTarget, TenantCommand};
use stella_domain::decide;
use stella_domain::deployment::{OnFailure, Progress, Status};
use stella_domain::environment::{Needs, PromotionPath, Requirement};
use stella_domain::event::Fact;
use stella_domain::plan::PlanPart;
use stella_domain::promotion::{Promotion, PromotionStatus};
use stella_domain::rejection::Rejection;
use stella_protocol::id::EnvironmentId;
use stella_protocol::message::TaskOutcome;
use stella_protocol::time::Timestamp;
use uuid::Uuid;

const HOTFIX: EnvironmentId = EnvironmentId(Uuid::from_u128(0x76));
const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));
const MINUTE_MS: u64 = 60_000;

/// Staging with the target 1, hotfix with 2, production with 9; the path from the first two: a minute in staging, two in hotfix.
fn world(needs: Needs, auto: bool) -> World {
    let mut world = World::with_release_1(1);
    (1..=3).for_each(|n| world.person(n));
    for (id, of, n) in [(HOTFIX, "hotfix", 2), (PRODUCTION, "production", 9)] {
        world.ok(TenantCommand::CreateEnvironment {
            id,
            name: name(of),
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        });
        world.enrol(n);
        let mut there = new_target(n);
        (there.environment, there.agent) = (id, agent(n));
        world.ok(TenantCommand::CreateTarget(Box::new(there)));
        world.connect(n, vec![]);
    }
    world.ok(path(PRODUCTION, Some(several(needs, auto))));
    world
}

fn several(needs: Needs, auto: bool) -> PromotionPath {
    let others = vec![Requirement { after: HOTFIX, soak_ms: 2 * MINUTE_MS }];
    PromotionPath { others, needs, ..PromotionPath::after(STAGING, MINUTE_MS, auto) }
}

fn path(environment: EnvironmentId, requires: Option<PromotionPath>) -> TenantCommand {
    TenantCommand::SetEnvironmentPath { environment, requires }
}

fn to(place: EnvironmentId, n: u128, of: u128) -> TenantCommand {
    TenantCommand::Deploy(Box::new(NewDeployment { environment: place, ..new_deployment(n, of, None) }))
}

/// Person `n` brings release 2 to staging or hotfix by the deployment `n`.
fn prove(world: &mut World, place: EnvironmentId, n: u128) {
    world.tell_as(n.min(3), to(place, n, 2)).unwrap();
    world.complete(if place == STAGING { 1 } else { 2 });
}

fn conflict(world: &mut World, n: u128) -> String {
    match world.tell(to(PRODUCTION, n, 2)) {
        Err(Rejection::Conflict { problem }) => problem,
        other => panic!("{other:?}"),
    }
}

fn asked(world: &World) -> Vec<&Promotion> {
    let all = world.tenant().promotions.values().filter(|it| it.wanted.environment == PRODUCTION);
    all.map(AsRef::as_ref).collect()
}

fn due_at(world: &World) -> Option<Timestamp> {
    world.tenant().environments[&PRODUCTION].automatic.get(&release(2)).map(|it| it.due_at)
}

#[test]
fn any_of_several_is_enough_and_the_refusal_names_every_way() {
    let mut world = world(Needs::Any, false);
    assert_eq!(
        conflict(&mut world, 10),
        "release shop:2.0 may come to production by one of these ways: when it has succeeded on all targets of staging, where it \
         has not; when it has succeeded on all targets of hotfix, where it has not"
    );
    prove(&mut world, HOTFIX, 2);
    let early = conflict(&mut world, 11);
    assert!(early.contains("when it has proven itself in hotfix for 120 s, in 120 s"), "{early}");
    world.wait_ms(2 * MINUTE_MS);
    world.ok(to(PRODUCTION, 12, 2));
    end(&world);
}

#[test]
fn all_of_several_are_needed_each_for_its_own_time() {
    let mut world = world(Needs::All, false);
    prove(&mut world, STAGING, 2);
    world.wait_ms(MINUTE_MS);
    assert!(conflict(&mut world, 10).contains("must succeed on all targets of hotfix"));
    prove(&mut world, HOTFIX, 3);
    assert!(conflict(&mut world, 11).contains("has to prove itself in hotfix for 120 s"));
    world.wait_ms(2 * MINUTE_MS);
    world.ok(to(PRODUCTION, 12, 2));
    end(&world);
}

#[test]
fn a_path_that_makes_no_sense_is_refused_and_nothing_has_changed() {
    let mut world = world(Needs::Any, false);
    let before = world.state.clone();
    let stage = |after| Requirement { after, soak_ms: 0 };
    let from =
        |others: Vec<Requirement>| Some(PromotionPath { others, ..PromotionPath::after(HOTFIX, 0, false) });
    let nowhere = EnvironmentId(Uuid::nil());
    let many: Vec<_> = (0..8).map(|_| stage(HOTFIX)).collect();
    // Production comes after staging: staging after hotfix and production would close a circle.
    for (requires, problem) in [
        (from(vec![stage(PRODUCTION)]), "staging would come before itself"),
        (from(vec![stage(STAGING)]), "staging would come before itself"),
        (from(vec![stage(HOTFIX)]), "names hotfix more than once"),
        (from(many), "names 9 environments; at most 8 are allowed"),
        (from(vec![stage(nowhere)]), "there is no environment"),
        (from(vec![Requirement { after: PRODUCTION, soak_ms: u64::MAX }]), "soak_ms"),
    ] {
        let refused = world.tell(path(STAGING, requires)).unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
        assert!(world.state == before);
    }
    // Two ways that meet again are no circle.
    world.ok(path(HOTFIX, Some(PromotionPath::after(STAGING, 0, false))));
    let used = world.tell(TenantCommand::RemoveEnvironment { id: HOTFIX }).unwrap_err().to_string();
    assert!(used.contains("it comes before production") && used.contains("it comes after staging"), "{used}");
    end(&world);
}

#[test]
fn it_comes_by_itself_once_by_the_way_that_is_through_first() {
    let mut world = world(Needs::Any, true);
    let began = world.now;
    prove(&mut world, HOTFIX, 2);
    assert_eq!(due_at(&world), Some(began.plus_ms(2 * MINUTE_MS)));
    world.wait_ms(MINUTE_MS / 2);
    prove(&mut world, STAGING, 3);
    assert_eq!(due_at(&world), Some(began.plus_ms(3 * MINUTE_MS / 2)), "staging is through earlier");
    world.wait_ms(MINUTE_MS);
    assert_eq!(asked(&world).len(), 1);
    assert_eq!(asked(&world)[0].chosen_by, [common::person(3)], "hotfix did not bring it");
    world.complete(9);
    world.wait_ms(10 * MINUTE_MS);
    assert_eq!(asked(&world).len(), 1);
    end(&world);
}

#[test]
fn a_way_that_is_lost_leaves_the_other() {
    let mut world = world(Needs::Any, true);
    let began = world.now;
    prove(&mut world, HOTFIX, 2);
    prove(&mut world, STAGING, 3);
    assert_eq!(due_at(&world), Some(began.plus_ms(MINUTE_MS)));
    world.ok(TenantCommand::Rollback { id: deployment(4), of: deployment(3), targets: None });
    assert_eq!(due_at(&world), Some(began.plus_ms(2 * MINUTE_MS)), "hotfix has proven it too");
    world.tell_as(1, to(HOTFIX, 5, 2)).unwrap();
    world.finish(2, failed("exit 1"));
    assert_eq!(due_at(&world), None);
    end(&world);
}

#[test]
fn what_waits_already_is_not_asked_for_by_another_way_too() {
    let mut world = world(Needs::Any, true);
    let rule = Some(rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
    prove(&mut world, STAGING, 2);
    world.wait_ms(MINUTE_MS);
    assert_eq!(asked(&world).len(), 1);
    let waits = asked(&world)[0].id;
    prove(&mut world, HOTFIX, 3);
    world.wait_ms(2 * MINUTE_MS);
    assert_eq!(asked(&world).len(), 1);
    let reason = world.events.iter().find_map(|(_, event)| match &event.fact {
        Fact::AutoPromotionEnded { promotion: None, reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason, Some(format!("promotion {waits} waits to bring it already")));
    end(&world);
}

#[test]
fn when_all_are_needed_nobody_who_has_chosen_one_of_them_lets_it_through() {
    let mut world = world(Needs::All, true);
    let rule = Some(rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
    prove(&mut world, STAGING, 2);
    assert_eq!(due_at(&world), None, "hotfix is missing");
    prove(&mut world, HOTFIX, 3);
    world.wait_ms(2 * MINUTE_MS);
    let (promotion, plan) = (asked(&world)[0].id, asked(&world)[0].plan.root);
    assert_eq!(asked(&world)[0].wanted.timeout_ms, new_deployment(3, 2, None).timeout_ms);
    let approve =
        || TenantCommand::ApprovePromotion { promotion, plan, reason: String::new(), signature: None };
    for chooser in [2, 3] {
        let own = world.tell_as(chooser, approve()).unwrap_err().to_string();
        assert!(own.contains("nobody approves what they have chosen"), "{own}");
    }
    world.tell_as(1, approve()).unwrap();
    assert!(world.tenant().deployments.contains_key(&deployment_of(promotion.0)));
    end(&world);
}

const fn deployment_of(id: Uuid) -> stella_protocol::id::DeploymentId {
    stella_protocol::id::DeploymentId(id)
}

/// What journals of before there were several have, to the byte.
#[test]
fn a_path_from_one_environment_is_written_as_ever() {
    let old = format!("{{\"after\":\"{STAGING}\",\"soak_ms\":60000,\"auto\":true}}");
    let path: PromotionPath = serde_json::from_str(&old).unwrap();
    assert_eq!(path, PromotionPath::after(STAGING, 60_000, true));
    assert_eq!(serde_json::to_string(&path).unwrap(), old);
    let plain = format!("{{\"after\":\"{STAGING}\",\"soak_ms\":0}}");
    assert_eq!(serde_json::to_string(&PromotionPath::after(STAGING, 0, false)).unwrap(), plain);
}

/// Production has three targets, 10, 11 and 9 in this order, with release 1, and release 2 on the first of them by the deployment 10.
fn half_way(needs: Needs) -> World {
    half_way_by(needs, OnFailure::Rollback)
}

fn half_way_by(needs: Needs, on_failure: OnFailure) -> World {
    let mut world = world(needs, false);
    for n in [10, 11] {
        world.enrol(n);
        let there = NewTarget { environment: PRODUCTION, agent: agent(n), ..new_target(n) };
        world.ok(TenantCommand::CreateTarget(Box::new(there)));
        world.connect(n, vec![]);
    }
    let override_path = Some("the first".to_owned());
    let first = NewDeployment { environment: PRODUCTION, override_path, ..new_deployment(9, 1, None) };
    world.ok(TenantCommand::Deploy(Box::new(first)));
    (9..=11).for_each(|n| world.complete(n));
    prove(&mut world, STAGING, 2);
    prove(&mut world, HOTFIX, 3);
    world.wait_ms(2 * MINUTE_MS);
    let new = NewDeployment { environment: PRODUCTION, on_failure, ..new_deployment(10, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.complete(10);
    assert_eq!(world.deployment(deployment(10)).counts.succeeded, 1);
    world
}

/// A proof counts for as long as targets are started by it.
#[test]
fn what_has_lost_its_proof_starts_nothing_more_and_goes_back() {
    let take_back =
        |of: u128| TenantCommand::Rollback { id: deployment(of + 20), of: deployment(of), targets: None };
    let mut world = half_way(Needs::All);
    world.ok(take_back(2));
    // What is under way ends.
    assert!(matches!(world.status(10), Status::Halting { .. }));
    world.finish(11, TaskOutcome::Succeeded);
    assert_eq!(
        common::failure(&world, 10),
        "it may not go on by the path that it came by: release shop:2.0 must succeed on all targets of staging before it may come \
         to production; deploy it there first"
    );
    let skipped = &world.deployment(deployment(10)).targets[&common::target(9)].progress;
    assert!(matches!(skipped, Progress::Skipped { .. }), "{skipped:?}");
    assert!(world.rollback_of(10).is_some());
    end(&world);

    // One of two ways that are enough is left.
    let mut world = half_way(Needs::Any);
    world.ok(take_back(2));
    assert_eq!(*world.status(10), Status::Running);
    world.tell_as(1, to(HOTFIX, 4, 2)).unwrap();
    world.finish(2, failed("exit 1"));
    assert!(matches!(world.status(10), Status::Halting { .. }));
    end(&world);

    // Another path leads there.
    let mut world = half_way(Needs::Any);
    let (first, soak_ms) = (STAGING, 60 * MINUTE_MS);
    world.ok(path(PRODUCTION, Some(PromotionPath::after(first, soak_ms, false))));
    assert!(matches!(world.status(10), Status::Halting { .. }));
    end(&world);
}

/// The last target is at work: there is nothing more that the proof would be needed for.
#[test]
fn what_starts_nothing_more_ends_as_it_would_have() {
    let mut world = half_way(Needs::All);
    world.complete(11);
    world.ok(TenantCommand::Rollback { id: deployment(22), of: deployment(2), targets: None });
    world.complete(9);
    assert_eq!(*world.status(10), Status::Succeeded);
    end(&world);
}

/// The last target has failed, and people decide about it: trying it again is no way around the path.
#[test]
fn a_target_is_not_tried_again_once_the_proof_is_lost() {
    let mut world = half_way_by(Needs::All, OnFailure::Ask);
    world.complete(11);
    world.finish(9, failed("exit 1"));
    let (deployment, target) = (deployment(10), common::target(9));
    let retry = || TenantCommand::RetryTarget { deployment, target };
    world.ok(retry());
    world.finish(9, failed("exit 1"));
    world.ok(TenantCommand::Rollback {
        id: common::deployment(22),
        of: common::deployment(2),
        targets: None,
    });
    let told = common::conflict(world.tell(retry()));
    assert!(told.contains("target web-9 is not tried again") && told.contains("of staging"), "{told}");
    world.ok(TenantCommand::SkipTarget { deployment, target, reason: "it is bad".to_owned() });
    assert_eq!(*world.status(10), Status::Succeeded);
    end(&world);
}

/// Its only agent is away until the time is up, or somebody gives it up at once: that says nothing of a release that is live there.
#[test]
fn what_has_touched_nothing_takes_no_proof_away() {
    let mut world = half_way(Needs::All);
    let proven_at = |world: &World| world.tenant().environments[&STAGING].proven.get(&release(2)).copied();
    let before = proven_at(&world);
    assert!(before.is_some());
    world.disconnect(1);
    let again = NewDeployment { timeout_ms: MINUTE_MS, ..new_deployment(4, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(again)));
    world.wait_ms(MINUTE_MS);
    assert_eq!(common::failure(&world, 4), "it did not finish within 1 min");
    world.ok(to(STAGING, 5, 2));
    let (id, reason) = (deployment(5), "not now".to_owned());
    world.ok(TenantCommand::FailDeployment { deployment: id, roll_back: true, reason });
    assert!(common::failure(&world, 5).starts_with("not now"));
    assert_eq!((proven_at(&world), world.status(10)), (before, &Status::Running));
    // What was brought there and failed says something.
    world.connect(1, vec![]);
    world.ok(to(STAGING, 6, 2));
    world.finish(1, failed("exit 1"));
    assert!(proven_at(&world).is_none() && matches!(world.status(10), Status::Halting { .. }));
    end(&world);
}

/// A freeze of staging ends, and with it a deployment there: what that means for production is decided at once.
#[test]
fn what_goes_on_and_fails_halts_at_once_what_relies_on_it() {
    let mut world = world(Needs::All, false);
    world.ok(path(PRODUCTION, Some(PromotionPath::after(STAGING, 0, false))));
    for (n, environment) in [(12, STAGING), (10, PRODUCTION)] {
        world.enrol(n);
        let there = NewTarget { environment, ..new_target(n) };
        world.ok(TenantCommand::CreateTarget(Box::new(there)));
        world.connect(n, vec![]);
    }
    let soon = world.now.plus_ms(MINUTE_MS);
    world.set_gate(common::security("scan", &[("CVE-1", Some(soon.0))]));
    world.scan(2, &["CVE-1"]);
    world.ok(to(STAGING, 2, 2));
    world.complete(1);
    world.complete(12);
    let strategy = common::canary(&[(50, Some(60 * MINUTE_MS))], None);
    let new = NewDeployment { environment: PRODUCTION, strategy, ..new_deployment(10, 2, None) };
    world.ok(TenantCommand::Deploy(Box::new(new)));
    world.complete(10);
    let again = NewDeployment { on_failure: OnFailure::Stop, ..new_deployment(4, 2, Some(1)) };
    world.ok(TenantCommand::Deploy(Box::new(again)));
    let freeze = Box::new(common::freeze("party", "1970-01-01T00:00", "1970-01-02T00:00"));
    world.ok(TenantCommand::FreezeEnvironment { environment: STAGING, freeze });
    world.complete(1);
    world.wait_ms(2 * MINUTE_MS);
    assert_eq!((world.status(4), world.status(10)), (&Status::Running, &Status::Running));
    world.ok(TenantCommand::UnfreezeEnvironment { environment: STAGING, freeze: name("party") });
    assert!(matches!(world.status(4), Status::Failed { .. }), "{:?}", world.status(4));
    assert!(matches!(world.status(10), Status::Failed { .. }), "{:?}", world.status(10));
    assert!(world.rollback_of(10).is_none(), "nothing was there before");
    end(&world);
}

#[test]
fn what_waits_for_approvals_is_void_when_its_release_is_taken_back_before() {
    let disprove: [fn(&mut World); 2] = [
        |world| {
            drop(world.ok(TenantCommand::Rollback { id: deployment(22), of: deployment(2), targets: None }))
        },
        |world| {
            world.tell_as(1, to(STAGING, 4, 2)).unwrap();
            world.finish(1, failed("exit 1"));
        },
    ];
    for disprove in disprove {
        let mut world = world(Needs::All, false);
        let rule = Some(rule(1, &[]));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
        world.ok(TenantCommand::LockEnvironment { environment: PRODUCTION, reason: "audit".to_owned() });
        prove(&mut world, STAGING, 2);
        prove(&mut world, HOTFIX, 3);
        world.wait_ms(2 * MINUTE_MS);
        world.tell_as(1, to(PRODUCTION, 10, 2)).unwrap();
        world.approve(2, 10).unwrap();
        disprove(&mut world);
        let PromotionStatus::Invalidated { reason, .. } = &world.promotion(10).status else {
            panic!("{:?}", world.promotion(10).status)
        };
        assert!(reason.contains("must succeed on all targets of staging"), "{reason}");
        end(&world);
    }
}

/// A repair that cannot wait comes by no path, with a reason that people approve and that is kept for ever.
#[test]
fn a_path_may_be_overridden_by_who_operates_the_environment() {
    let mut world = world(Needs::All, false);
    let rule = Some(rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
    let urgent = |n, override_path: Option<&str>| {
        let override_path = override_path.map(str::to_owned);
        let new = NewDeployment { environment: PRODUCTION, override_path, ..new_deployment(n, 2, None) };
        TenantCommand::Deploy(Box::new(new))
    };
    world.give(1, Role::Deployer);
    let refused = world.tell_as(1, urgent(10, Some("orders are lost")));
    assert!(matches!(refused, Err(Rejection::Forbidden { .. })), "{refused:?}");
    world.give(1, Role::Operator);
    assert!(common::conflict(world.tell_as(1, urgent(10, None))).contains("must succeed on all targets"));
    world.tell_as(1, urgent(10, Some("orders are lost"))).unwrap();
    let waits = world.promotion(10).clone();
    assert_eq!(waits.wanted.override_path.as_deref(), Some("orders are lost"));
    let leaf = decide::prove(world.tenant(), &waits, PlanPart::Wanted, world.now).unwrap().leaf;
    assert!(leaf.contains("\"override_path\":\"orders are lost\""), "{leaf}");
    world.approve(2, 10).unwrap();
    // And nothing that happens to the path holds it up.
    world.ok(path(PRODUCTION, None));
    world.ok(path(PRODUCTION, Some(several(Needs::All, false))));
    world.complete(9);
    assert_eq!(*world.status(10), Status::Succeeded);
    end(&world);
}
