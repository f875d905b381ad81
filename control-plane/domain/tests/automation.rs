//! What comes to the next environment by itself: when, how, and through whose hands.

use std::collections::BTreeMap;

use crate::common::{
    self, STAGING, World, agent, canary, deployment, digest, end, failed, name, new_deployment, new_release,
    new_target, release, rule, target,
};
use stella_domain::command::{Actor, NewDeployment, TargetChange, TenantCommand};
use stella_domain::deployment::{Deployment, Status};
use stella_domain::environment::{PromotionPath, Verification};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::hold::Verdict;
use stella_domain::promotion::{Objection, Promotion};
use stella_protocol::id::{DeploymentId, EnvironmentId};
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));
const SOAK_MS: u64 = 60_000;

/// Staging with two targets and release 1; after it production with the target 9, whose releases come by themselves after a minute.
fn world() -> World {
    let mut world = World::with_release_1(2);
    (1..=3).for_each(|n| world.person(n));
    world.ok(TenantCommand::CreateEnvironment {
        id: PRODUCTION,
        name: name("production"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    });
    world.enrol(9);
    let mut there = new_target(9);
    (there.environment, there.agent) = (PRODUCTION, agent(9));
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(9, vec![]);
    auto(&mut world, true);
    world
}

fn auto(world: &mut World, auto: bool) {
    let requires = Some(PromotionPath::after(STAGING, SOAK_MS, auto));
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
}

/// Release `of` succeeds on all of staging, by the deployment `n`.
fn prove(world: &mut World, n: u128, of: u128) {
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(n, of, Some(1))))).unwrap();
    world.complete(1);
    world.complete(2);
    assert_eq!(*world.status(n), Status::Succeeded);
}

/// What was asked for in production, the oldest first.
fn asked(world: &World) -> Vec<&Promotion> {
    let all = world.tenant().promotions.values().filter(|it| it.wanted.environment == PRODUCTION);
    all.map(AsRef::as_ref).collect()
}

fn deployed(world: &World) -> Option<&Deployment> {
    let id = asked(world).last()?.wanted.id;
    world.tenant().deployments.get(&id).map(AsRef::as_ref)
}

fn reasons(world: &World) -> Vec<String> {
    let ended = world.events.iter().filter_map(|(_, event)| match &event.fact {
        Fact::AutoPromotionEnded { promotion: None, reason, .. } => Some(reason.clone()),
        _ => None,
    });
    ended.collect()
}

#[test]
fn what_has_proven_itself_for_long_enough_comes_by_itself_as_it_was_deployed_before() {
    let mut world = world();
    prove(&mut world, 2, 2);
    world.wait_ms(SOAK_MS - 1);
    assert!(asked(&world).is_empty());
    world.wait_ms(1);
    let promotion = asked(&world)[0];
    assert_eq!((promotion.wanted.release, &promotion.requested_by), (release(2), &Actor::System));
    assert_eq!(promotion.wanted.strategy, new_deployment(2, 2, Some(1)).strategy);
    assert_eq!(deployed(&world).unwrap().status, Status::Running);
    world.complete(9);
    assert_eq!(deployed(&world).unwrap().status, Status::Succeeded);
    world.wait_ms(10 * SOAK_MS);
    assert_eq!(asked(&world).len(), 1, "once");
    end(&world);
}

#[test]
fn how_it_comes_is_what_the_environment_says_if_it_says_anything() {
    let mut world = world();
    let strategy = Some(canary(&[(50, None)], None));
    world.ok(TenantCommand::SetEnvironmentStrategy { environment: PRODUCTION, strategy: strategy.clone() });
    prove(&mut world, 2, 2);
    world.wait_ms(SOAK_MS);
    assert_eq!(Some(&asked(&world)[0].wanted.strategy), strategy.as_ref());
    end(&world);
}

/// A bake is no part of the time that a deployment has, and so not of the one after it.
#[test]
fn what_has_baked_for_a_week_still_comes_by_itself() {
    let mut world = world();
    let bake_ms = 7 * 24 * 3_600_000;
    let verification = Some(Verification { bake_ms });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))).unwrap();
    world.complete(1);
    world.complete(2);
    world.wait_ms(bake_ms + SOAK_MS);
    assert_eq!(reasons(&world), [""; 0]);
    assert_eq!(asked(&world)[0].wanted.timeout_ms, new_deployment(2, 2, None).timeout_ms);
    end(&world);
}

#[test]
fn it_waits_for_approvals_and_not_of_those_who_asked_for_what_proved_it() {
    let mut world = world();
    let rule = Some(rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
    prove(&mut world, 2, 2);
    world.wait_ms(SOAK_MS);
    let (id, plan) = (asked(&world)[0].id, asked(&world)[0].plan.root);
    assert!(deployed(&world).is_none() && asked(&world)[0].is_open());
    // Person 1 has deployed to staging: what comes is their choice.
    assert_eq!(asked(&world)[0].chosen_by, [common::person(1)]);
    let approve =
        || TenantCommand::ApprovePromotion { promotion: id, plan, reason: String::new(), signature: None };
    let own = world.tell_as(1, approve()).unwrap_err().to_string();
    assert!(own.contains("nobody approves what they have chosen"), "{own}");
    world.tell_as(2, approve()).unwrap();
    assert_eq!(deployed(&world).unwrap().status, Status::Running);
    end(&world);
}

/// Changes a variable of production's target.
fn change(world: &mut World, value: &str) {
    let variables = BTreeMap::from([("x".to_owned(), Some(value.to_owned()))]);
    let change = TargetChange { id: target(9), labels: BTreeMap::new(), variables, agent: None };
    world.ok(TenantCommand::UpdateTarget(Box::new(change)));
}

fn waiting(world: &World) -> Vec<&Promotion> {
    asked(world).into_iter().filter(|it| it.is_open()).collect()
}

#[test]
fn one_that_a_change_has_made_void_is_asked_for_again_once_for_each_change() {
    let mut world = world();
    let wanted = |needed| TenantCommand::SetEnvironmentApprovals {
        environment: PRODUCTION,
        rule: Some(rule(needed, &[])),
    };
    world.ok(wanted(1));
    prove(&mut world, 2, 2);
    world.wait_ms(SOAK_MS);
    let first = asked(&world)[0].clone();
    for (nth, value) in [(2, "1"), (3, "2")] {
        change(&mut world, value);
        assert_eq!((asked(&world).len(), waiting(&world).len()), (nth, 1));
        let again = waiting(&world)[0];
        assert_eq!((again.wanted.release, &again.requested_by), (release(2), &Actor::System));
        assert_eq!((&again.chosen_by, &again.wanted.strategy), (&first.chosen_by, &first.wanted.strategy));
    }
    world.ok(wanted(2));
    assert_eq!((asked(&world).len(), waiting(&world)[0].rule.as_ref().unwrap().needed), (4, 2));
    world.wait_ms(SOAK_MS);
    assert_eq!(asked(&world).len(), 4, "nothing has changed");
    let (promotion, plan) = (waiting(&world)[0].id, waiting(&world)[0].plan.root);
    for who in [2, 3] {
        let (reason, signature) = (String::new(), None);
        world.tell_as(who, TenantCommand::ApprovePromotion { promotion, plan, reason, signature }).unwrap();
    }
    assert_eq!(world.deployment(DeploymentId(promotion.0)).status, Status::Running);
    end(&world);
}

#[test]
fn one_that_somebody_has_ended_or_whose_release_is_not_proven_any_more_stays_ended() {
    let asked_for = || {
        let mut world = world();
        let rule = Some(rule(1, &[]));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
        prove(&mut world, 2, 2);
        world.wait_ms(SOAK_MS);
        world
    };
    let (objection, reason) = (Objection::TooRisky, String::new());
    for (by, end_it) in [(2, false), (1, true)] {
        let mut world = asked_for();
        let (promotion, reason) = (waiting(&world)[0].id, reason.clone());
        world
            .tell_as(
                by,
                if end_it {
                    TenantCommand::WithdrawPromotion { promotion, reason }
                } else {
                    TenantCommand::RejectPromotion { promotion, objection, reason }
                },
            )
            .unwrap();
        change(&mut world, "1");
        assert_eq!(asked(&world).len(), 1);
    }
    // What has made it void has taken its proof, its release or its path away.
    let taken_back = TenantCommand::Rollback { id: deployment(7), of: deployment(2), targets: None };
    let blocked = TenantCommand::JudgeRelease {
        release: release(2),
        verdict: Verdict::Block,
        reason: "bad".to_owned(),
    };
    let unasked = TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires: None };
    for command in [taken_back, blocked, unasked] {
        let mut world = asked_for();
        world.ok(command.clone());
        assert_eq!((asked(&world).len(), waiting(&world).len()), (1, 0), "{command:?}");
        assert_eq!(reasons(&world), [""; 0]);
        end(&world);
    }
}

/// Two wait: a change makes both void, and only the newer one is asked for again.
#[test]
fn of_several_that_are_void_the_newest_comes_again() {
    let mut world = world();
    let rule = Some(rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
    for (n, of) in [(2, 2), (3, 3)] {
        prove(&mut world, n, of);
        world.wait_ms(SOAK_MS);
    }
    assert_eq!(waiting(&world).len(), 2);
    change(&mut world, "1");
    assert_eq!(waiting(&world).iter().map(|it| it.wanted.release).collect::<Vec<_>>(), [release(3)]);
    assert_eq!(reasons(&world).len(), 1, "{:?}", reasons(&world));
    end(&world);
}

#[test]
fn it_waits_for_locks_and_for_what_works_on_its_targets() {
    let mut world = world();
    world.ok(TenantCommand::LockEnvironment { environment: PRODUCTION, reason: "stocktaking".to_owned() });
    prove(&mut world, 2, 2);
    world.wait_ms(SOAK_MS);
    assert!(asked(&world)[0].is_open() && deployed(&world).is_none());
    world.ok(TenantCommand::UnlockEnvironment { environment: PRODUCTION });
    assert_eq!(deployed(&world).unwrap().release, release(2));
    // The next one proves itself while this one is on its way: it comes when that has ended.
    prove(&mut world, 3, 3);
    world.wait_ms(SOAK_MS);
    assert_eq!(asked(&world).len(), 1);
    world.complete(9);
    assert_eq!(asked(&world).len(), 2);
    assert_eq!(deployed(&world).unwrap().release, release(3));
    end(&world);
}

#[test]
fn it_waits_for_what_proves_itself_where_it_would_come() {
    let mut world = world();
    prove(&mut world, 2, 2);
    world.wait_ms(SOAK_MS);
    let verification = Some(Verification { bake_ms: 3_600_000 });
    world.complete(9);
    world.ok(TenantCommand::SetEnvironmentVerification { environment: PRODUCTION, verification });
    prove(&mut world, 3, 3);
    world.wait_ms(SOAK_MS);
    world.complete(9);
    let (bakes, third) = (asked(&world).len(), deployed(&world).unwrap().release);
    assert_eq!((bakes, third), (2, release(3)));
    // The next one is due in the middle of its bake.
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(new_release(4))));
    prove(&mut world, 4, 4);
    world.wait_ms(SOAK_MS);
    assert_eq!((asked(&world).len(), reasons(&world).len()), (2, 0), "it is not asked for yet");
    world.wait_ms(3_600_000);
    assert_eq!((asked(&world).len(), deployed(&world).unwrap().release), (3, release(4)));
    end(&world);
}

#[test]
fn a_proof_that_is_taken_away_and_a_path_that_is_changed_bring_nothing() {
    let mut world = world();
    prove(&mut world, 2, 2);
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(3, 2, None)))).unwrap();
    world.finish(1, failed("exit 1"));
    world.finish(2, failed("exit 1"));
    world.wait_ms(SOAK_MS);
    assert!(asked(&world).is_empty(), "it has failed since");
    prove(&mut world, 4, 3);
    auto(&mut world, false);
    world.wait_ms(SOAK_MS);
    auto(&mut world, true);
    world.wait_ms(SOAK_MS);
    assert!(asked(&world).is_empty() && reasons(&world).is_empty(), "only what proves itself from now on");
    end(&world);
}

#[test]
fn nothing_goes_back_by_itself_and_what_would_be_refused_says_why() {
    let mut world = world();
    prove(&mut world, 2, 3);
    world.wait_ms(SOAK_MS);
    world.complete(9);
    prove(&mut world, 3, 2);
    world.wait_ms(SOAK_MS);
    assert_eq!(reasons(&world), ["shop:3.0 is there, which is newer"]);
    world.ok(TenantCommand::RemoveTarget { id: target(9) });
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(new_release(4))));
    prove(&mut world, 4, 4);
    world.wait_ms(SOAK_MS);
    assert!(reasons(&world)[1].contains("environment production has none"), "{:?}", reasons(&world));
    assert_eq!(asked(&world).len(), 1);
    end(&world);
}

#[test]
fn of_several_that_are_due_the_newest_comes() {
    let mut world = world();
    let busy = NewDeployment { environment: PRODUCTION, ..new_deployment(10, 1, None) };
    let requires = None;
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
    world.ok(TenantCommand::Deploy(Box::new(busy)));
    auto(&mut world, true);
    prove(&mut world, 2, 2);
    prove(&mut world, 3, 3);
    world.wait_ms(SOAK_MS);
    world.complete(9);
    assert_eq!(*world.status(10), Status::Succeeded);
    assert_eq!(deployed(&world).unwrap().release, release(3));
    assert_eq!(reasons(&world), ["shop:3.0 is newer and due too"]);
    assert!(!world.tenant().deployments.contains_key(&deployment(11)));
    end(&world);
}

/// Release 2 waits for what works on its target, and release 3 is due after it; then 3 cannot come.
fn two_are_due(world: &mut World) {
    let busy = NewDeployment { environment: PRODUCTION, ..new_deployment(10, 1, None) };
    let requires = None;
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
    world.ok(TenantCommand::Deploy(Box::new(busy)));
    auto(world, true);
    prove(world, 2, 2);
    prove(world, 3, 3);
    world.wait_ms(SOAK_MS);
    assert!(asked(world).len() == 1 && reasons(world).is_empty(), "both wait");
}

#[test]
fn a_newer_one_that_may_not_come_takes_the_place_of_none() {
    let mut world = world();
    two_are_due(&mut world);
    let (release_3, reason) = (release(3), "it loses orders".to_owned());
    world.ok(TenantCommand::JudgeRelease { release: release_3, verdict: Verdict::Block, reason });
    world.complete(9);
    assert_eq!(deployed(&world).unwrap().release, release(2));
    assert_eq!(
        reasons(&world),
        ["release shop:3.0 is blocked (it loses orders); deploy another one, or clear it first"]
    );
    end(&world);
}

#[test]
fn if_none_may_come_each_says_why() {
    let mut world = world();
    two_are_due(&mut world);
    for n in 2..=3 {
        let (release, reason) = (release(n), "it loses orders".to_owned());
        world.ok(TenantCommand::JudgeRelease { release, verdict: Verdict::Block, reason });
    }
    world.complete(9);
    let told = reasons(&world);
    assert!(told[0].contains("shop:3.0") && told[1].contains("shop:2.0"), "{told:?}");
    assert_eq!((told.len(), asked(&world).len()), (2, 1));
    end(&world);
}

#[test]
fn what_somebody_has_taken_back_does_not_come_and_has_to_prove_itself_anew() {
    let mut world = world();
    prove(&mut world, 2, 2);
    world.ok(TenantCommand::Rollback { id: deployment(3), of: deployment(2), targets: None });
    (1..=2).for_each(|n| world.complete(n));
    world.wait_ms(SOAK_MS);
    assert!(asked(&world).is_empty(), "it is bad, and somebody has said so");
    let by_hand = NewDeployment { environment: PRODUCTION, ..new_deployment(4, 2, None) };
    let told = common::conflict(world.tell_as(1, TenantCommand::Deploy(Box::new(by_hand))));
    assert!(told.contains("must succeed on all targets of staging"), "{told}");
    assert!(world.events.iter().any(|(_, event)| event.fact.name() == "release_disproven"));
    prove(&mut world, 5, 2);
    world.wait_ms(SOAK_MS);
    assert_eq!(asked(&world).len(), 1);
    end(&world);
}

/// What bakes needs no target any more. A version of before took the release for proven then, and asked for what was to come by itself.
#[test]
fn a_journal_of_before_in_which_nothing_was_left_to_show_it_replays() {
    let mut world = world();
    let verification = Some(Verification { bake_ms: SOAK_MS });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    world.tell_as(1, TenantCommand::Deploy(Box::new(new_deployment(2, 2, Some(1))))).unwrap();
    world.complete(1);
    world.complete(2);
    (1..=2).for_each(|n| drop(world.ok(TenantCommand::RemoveTarget { id: target(n) })));
    let (mut before, from) = (world.state.clone(), world.events.len());
    world.wait_ms(10 * SOAK_MS);
    assert_eq!(*world.status(2), Status::Succeeded);
    let staging = &world.tenant().environments[&STAGING];
    assert!(!staging.proven.contains_key(&release(2)) && !staging.proofs.contains_key(&release(2)));
    assert!(asked(&world).is_empty() && reasons(&world).is_empty());
    end(&world);

    let succeeds = |(_, event): &(StreamId, Event)| matches!(event.fact, Fact::DeploymentSucceeded { .. });
    let until = from + world.events[from..].iter().position(succeeds).unwrap() + 1;
    let (stream, last) = world.events[until - 1].clone();
    let (environment, release, reason) = (PRODUCTION, release(2), "it waits".to_owned());
    let then = [
        Fact::AutoPromotionDue { environment, release, again: None },
        Fact::AutoPromotionEnded { environment, release, promotion: None, reason },
    ];
    let then = then.map(|fact| (stream, Event { at: last.at.plus_ms(SOAK_MS), fact, ..last.clone() }));
    let mut ended = world.events[until - 1].clone();
    if let Fact::DeploymentSucceeded { proves, .. } = &mut ended.1.fact {
        *proves = None;
    }
    for (stream, event) in world.events[from..until - 1].iter().chain([&ended]).chain(&then) {
        before.apply(*stream, event).unwrap_or_else(|error| panic!("{event:?}: {error}"));
    }
}
