//! Environments with targets of several applications: each goes by its own targets, and proves itself on them.

use std::sync::Arc;

use crate::common::{
    self, STAGING, World, agent, digest, end, failed, name, new_deployment, new_release, new_target, release,
    rule, target,
};
use stella_domain::amount::Amount;
use stella_domain::command::{NewDeployment, NewRelease, NewTarget, TenantCommand};
use stella_domain::deployment::Status;
use stella_domain::environment::{PromotionPath, Verification};
use stella_domain::event::Fact;
use stella_domain::promotion::Promotion;
use stella_domain::way_back::ProofRule;
use stella_protocol::id::{EnvironmentId, TargetId};
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));
const SOAK_MS: u64 = 60_000;

/// Staging and, after it, production, each with two targets that have nothing yet: 1 and 2, 3 and 4. Releases 1 to 3 are of shop, 4 and 5
/// of api.
fn world(auto: bool) -> World {
    let mut world = World::with_targets(2);
    (1..=2).for_each(|n| world.person(n));
    for n in 4..=5 {
        world.ok(TenantCommand::StoreArtifact { digest: digest(n), size_bytes: 10, tenant_bytes_max: None });
        let api = NewRelease { application: name("api"), ..new_release(n) };
        world.ok(TenantCommand::CreateRelease(Box::new(api)));
    }
    let way_back_proof = ProofRule::Off;
    let production = name("production");
    world.ok(TenantCommand::CreateEnvironment {
        id: PRODUCTION,
        name: production,
        order: None,
        way_back_proof,
    });
    (3..=4).for_each(|n| add(&mut world, PRODUCTION, n));
    let requires = Some(PromotionPath::after(STAGING, SOAK_MS, auto));
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
    world
}

fn add(world: &mut World, environment: EnvironmentId, n: u128) {
    world.enrol(n);
    let there = NewTarget { environment, agent: agent(n), ..new_target(n) };
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(n, vec![]);
}

/// The same with shop on 1 and 3, and api on 2 and 4.
fn shared(auto: bool) -> World {
    let mut world = world(auto);
    bring(&mut world, 1, 1, 1);
    bring(&mut world, 2, 4, 2);
    let overriding = |n, of, at| NewDeployment {
        environment: PRODUCTION,
        override_path: Some("the first".to_owned()),
        ..on(n, of, at)
    };
    for (n, of, at) in [(3, 1, 3), (4, 4, 4)] {
        world.ok(deploy(&overriding(n, of, at)));
        world.complete(at);
    }
    world
}

fn deploy(new: &NewDeployment) -> TenantCommand {
    TenantCommand::Deploy(Box::new(new.clone()))
}

/// A deployment to one target.
fn on(n: u128, of: u128, at: u128) -> NewDeployment {
    NewDeployment { targets: Some(vec![target(at)]), ..new_deployment(n, of, None) }
}

fn bring(world: &mut World, n: u128, of: u128, at: u128) {
    world.ok(deploy(&on(n, of, at)));
    world.complete(at);
    assert_eq!(*world.status(n), Status::Succeeded);
}

fn to_production(n: u128, of: u128) -> TenantCommand {
    deploy(&NewDeployment { environment: PRODUCTION, ..new_deployment(n, of, None) })
}

fn is_proven(world: &World, of: u128) -> bool {
    world.tenant().environments[&STAGING].proven.contains_key(&release(of))
}

fn goes_to(world: &World, n: u128) -> Vec<TargetId> {
    world.deployment(common::deployment(n)).order.to_vec()
}

fn asked(world: &World) -> Vec<&Promotion> {
    let all = world.tenant().promotions.values();
    all.filter(|it| it.requested_by == stella_domain::command::Actor::System && it.id.0.as_u128() > 0xffff)
        .map(AsRef::as_ref)
        .collect()
}

fn reasons(world: &World) -> Vec<String> {
    let ended = world.events.iter().filter_map(|(_, event)| match &event.fact {
        Fact::AutoPromotionEnded { promotion: None, reason, .. } => Some(reason.clone()),
        _ => None,
    });
    ended.collect()
}

#[test]
fn a_release_proves_itself_on_the_targets_of_its_application() {
    let mut world = shared(false);
    bring(&mut world, 10, 2, 1);
    assert!(is_proven(&world, 2), "target 2 has api");
    world.wait_ms(SOAK_MS);
    world.ok(to_production(11, 2));
    assert_eq!(goes_to(&world, 11), [target(3)]);
    world.complete(3);
    assert_eq!(*world.status(11), Status::Succeeded);
    let current = |n| world.tenant().targets[&target(n)].current;
    assert_eq!((current(3), current(4)), (Some(release(2)), Some(release(4))));
    end(&world);
}

#[test]
fn who_names_no_targets_means_those_of_the_application() {
    let mut world = shared(false);
    world.deploy(10, 5, None);
    assert_eq!(goes_to(&world, 10), [target(2)]);
    // The other one is free meanwhile.
    world.deploy(11, 2, None);
    assert_eq!(goes_to(&world, 11), [target(1)]);
    world.complete(2);
    world.complete(1);
    assert!(is_proven(&world, 5) && is_proven(&world, 2));
    // Named, it is refused as before; and so is an application that has no target there.
    let told = common::conflict(world.tell(deploy(&on(12, 3, 2))));
    assert!(told.contains("target web-2 has api:5.0, and shop is another application"), "{told}");
    let other = NewRelease { application: name("other"), ..new_release(6) };
    world.ok(TenantCommand::StoreArtifact { digest: digest(6), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(other)));
    let told = common::conflict(world.tell(deploy(&new_deployment(12, 6, None))));
    assert!(told.contains("target web-1 has shop:2.0, and other is another application"), "{told}");
    // Who replaces what is there means all.
    let replacing = NewDeployment { replace_application: true, ..new_deployment(12, 3, None) };
    world.ok(deploy(&replacing));
    assert_eq!(goes_to(&world, 12), [target(1), target(2)]);
    (1..=2).for_each(|n| world.complete(n));
    assert!(is_proven(&world, 3));
    end(&world);
}

#[test]
fn a_target_with_nothing_counts_as_long_as_one_application_is_alone() {
    let mut world = world(false);
    bring(&mut world, 1, 1, 1);
    assert!(!is_proven(&world, 1), "target 2 has nothing yet, and may be for shop");
    let told = common::conflict(world.tell(to_production(9, 1)));
    assert!(told.contains("must succeed on all targets of staging before"), "{told}");
    bring(&mut world, 2, 4, 2);
    assert!(is_proven(&world, 4), "target 1 has shop");
    let told = common::conflict(world.tell(to_production(9, 1)));
    assert!(told.contains("must succeed on all targets of staging that have shop before"), "{told}");
    // What is told helps.
    world.deploy(3, 1, None);
    world.complete(1);
    assert!(is_proven(&world, 1));
    // A new one is nobody's there until somebody says whose.
    add(&mut world, STAGING, 5);
    world.deploy(4, 2, None);
    assert_eq!(goes_to(&world, 4), [target(1)]);
    world.complete(1);
    assert!(is_proven(&world, 2));
    bring(&mut world, 5, 3, 5);
    assert!(!is_proven(&world, 3), "target 1 has shop:2.0");
    world.deploy(6, 3, None);
    assert_eq!(goes_to(&world, 6), [target(1), target(5)]);
    end(&world);
}

#[test]
fn what_fails_on_a_target_of_its_own_proves_nothing() {
    let mut world = shared(false);
    add(&mut world, STAGING, 5);
    let new = NewDeployment {
        targets: Some(vec![target(1), target(5)]),
        tolerate_failures: Some(Amount::Count(1)),
        ..new_deployment(10, 2, None)
    };
    world.ok(deploy(&new));
    world.complete(1);
    world.finish(5, failed("exit 1"));
    assert_eq!(*world.status(10), Status::Succeeded);
    assert!(!is_proven(&world, 2), "it was to come to a target that has nothing still");
    end(&world);
}

#[test]
fn what_is_on_no_target_of_its_application_any_more_proves_nothing() {
    let mut world = shared(false);
    let verification = Some(Verification { bake_ms: SOAK_MS });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    world.ok(deploy(&on(10, 2, 1)));
    world.complete(1);
    world.ok(TenantCommand::RemoveTarget { id: target(1) });
    world.wait_ms(10 * SOAK_MS);
    assert_eq!(*world.status(10), Status::Succeeded);
    assert!(!is_proven(&world, 2), "what is left there has api");
    end(&world);
}

#[test]
fn each_application_comes_to_its_targets_by_itself() {
    let mut world = shared(true);
    let before = asked(&world).len();
    // Api is on its way in production: shop does not wait for that.
    let busy =
        NewDeployment { environment: PRODUCTION, override_path: Some("now".to_owned()), ..on(10, 5, 4) };
    world.ok(deploy(&busy));
    for (n, of, at) in [(11, 2, 1), (12, 3, 1), (13, 5, 2)] {
        bring(&mut world, n, of, at);
    }
    world.wait_ms(SOAK_MS);
    let came: Vec<_> = asked(&world)[before..].iter().map(|it| (it.wanted.release, it.id.0)).collect();
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!(came[0].0, release(3), "the newest of shop");
    let deployment = world.deployment(stella_protocol::id::DeploymentId(came[0].1));
    assert_eq!(*deployment.order, [target(3)]);
    assert_eq!(reasons(&world), ["shop:3.0 is newer and due too"]);
    world.complete(3);
    world.complete(4);
    assert_eq!(reasons(&world)[1..], ["it is on all targets already", "api:5.0 is newer and due too"]);
    end(&world);
}

#[test]
fn nothing_comes_by_itself_to_targets_of_which_nobody_has_said_whose_they_are() {
    let mut world = world(true);
    bring(&mut world, 1, 1, 1);
    bring(&mut world, 2, 4, 2);
    world.deploy(3, 1, None);
    world.complete(1);
    world.wait_ms(SOAK_MS);
    assert!(asked(&world).is_empty());
    assert_eq!(
        reasons(&world),
        [
            "production has nothing of api yet, and where it has proven itself are other applications too: deploy it there once by hand, and say \
             to which targets",
            "production has nothing of shop yet, and where it has proven itself are other applications too: deploy it there once by hand, and say \
             to which targets",
        ]
    );
    end(&world);
}

#[test]
fn a_promotion_that_waits_is_about_the_targets_of_its_application() {
    let mut world = shared(false);
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule: Some(rule(1, &[])) });
    world.ok(deploy(&new_deployment(10, 2, None)));
    world.ok(deploy(&on(11, 5, 2)));
    world.approve(1, 11).unwrap();
    assert_eq!(*world.status(11), Status::Running);
    // Api is on its way: shop waits for nothing but its approval, and is no other plan when api has come.
    world.approve(1, 10).unwrap();
    assert_eq!(*world.status(10), Status::Running);
    assert_eq!(goes_to(&world, 10), [target(1)]);
    world.complete(2);
    world.complete(1);
    assert_eq!((world.status(10), world.status(11)), (&Status::Succeeded, &Status::Succeeded));
    end(&world);
}

/// In journals of before, nothing is said of what a deployment has proven: it was to be on all targets of the environment.
#[test]
fn a_journal_of_before_proves_what_it_did() {
    let mut world = shared(false);
    let (mut before, from) = (world.state.clone(), world.events.len());
    bring(&mut world, 10, 2, 1);
    assert!(is_proven(&world, 2));
    for (stream, event) in &world.events[from..] {
        let mut event = event.clone();
        if let Fact::DeploymentSucceeded { proves, .. } = &mut event.fact {
            assert_eq!(proves.take(), Some(true));
        }
        before.apply(*stream, &event).unwrap();
    }
    let tenant = Arc::clone(&before.tenants[&common::TENANT]);
    assert!(!tenant.environments[&STAGING].proven.contains_key(&release(2)));
}
