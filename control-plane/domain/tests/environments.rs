//! Environments are renamed, reordered and removed, or that is refused with what is in the way.

use crate::common::{self, STAGING, World, deployment, name, new_deployment, target};
use stella_domain::access::{Grant, Role};
use stella_domain::command::{SystemCommand, TenantCommand};
use stella_domain::deployment::Status;
use stella_domain::environment::{PromotionPath, Verification};
use stella_domain::promotion::PromotionStatus;
use stella_domain::rejection::Rejection;
use stella_protocol::id::EnvironmentId;
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));

#[track_caller]
fn refused(world: &mut World, command: TenantCommand) -> Rejection {
    let (before, events) = (world.state.clone(), world.events.len());
    let rejection = world.tell(command).expect_err("a rejection");
    assert!(world.state == before && world.events.len() == events, "a rejection changes nothing");
    rejection
}

fn create_production() -> TenantCommand {
    TenantCommand::CreateEnvironment {
        id: PRODUCTION,
        name: name("production"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    }
}

/// One approval is needed from now on.
fn need_approval(world: &mut World) {
    let rule = Some(common::rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
}

#[test]
fn an_environment_is_removed_when_nothing_is_in_it_and_nothing_leads_to_it() {
    let mut world = World::with_release_1(7);
    let remove = || TenantCommand::RemoveEnvironment { id: STAGING };
    let path = |requires| TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires };
    world.ok(create_production());
    world.ok(path(Some(PromotionPath::after(STAGING, 0, false))));
    let grant = Grant { role: Role::Deployer, tenant: Some(common::TENANT), environment: Some(STAGING) };
    let ada = |roles| SystemCommand::SetAccountRoles { account: common::account(1), roles };
    (1..=2).for_each(|n| world.person(n));
    world.system(ada(vec![grant])).unwrap();
    need_approval(&mut world);
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 1, None))));
    let all = refused(&mut world, remove()).to_string();
    for used in [
        "environment staging is in use: it has the targets web-1, web-2, web-3, web-4, web-5 and 2 more",
        &format!("promotions wait to come there: {}", deployment(2)),
        "it comes before production on the path (stella env path production)",
        "accounts have roles there: person-1 (stella account roles)",
    ] {
        assert!(all.contains(used), "no {used:?} in {all}");
    }
    let problem = refused(&mut world, TenantCommand::RemoveEnvironment { id: PRODUCTION }).to_string();
    assert!(problem.contains("it comes after staging on the path"), "{problem}");

    let (promotion, reason) = (common::promotion(2), String::new());
    world.ok(TenantCommand::WithdrawPromotion { promotion, reason });
    (1..=7).for_each(|n| drop(world.ok(TenantCommand::RemoveTarget { id: target(n) })));
    world.ok(path(None));
    world.system(ada(vec![])).unwrap();
    world.ok(remove());
    let tenant = world.tenant();
    assert!(!tenant.environments.contains_key(&STAGING));
    assert!(!tenant.index.environments.contains_key(&name("staging")));
    assert_eq!(tenant.environment_name(STAGING), Some(&name("staging")), "what was done there names it");
    assert_eq!(tenant.deployments[&deployment(1)].environment, STAGING);
    assert!(matches!(refused(&mut world, remove()), Rejection::NotFound { .. }));
    refused(
        &mut world,
        TenantCommand::RetryDeployment { id: deployment(5), of: deployment(1), targets: None },
    );
    // Another one of the same name is another one.
    let way_back_proof = stella_domain::way_back::ProofRule::Off;
    let again =
        TenantCommand::CreateEnvironment { id: STAGING, name: name("test"), order: None, way_back_proof };
    assert!(matches!(refused(&mut world, again), Rejection::Exists { .. }));
    let id = EnvironmentId(Uuid::from_u128(0x78));
    let name = name("staging");
    world.ok(TenantCommand::CreateEnvironment { id, name, order: None, way_back_proof });
    assert!(world.tenant().environments[&id].proven.is_empty());
}

#[test]
fn an_environment_is_called_otherwise_when_nothing_is_on_its_way_there() {
    let mut world = World::with_release_1(1);
    world.ok(create_production());
    let change = |name, order| TenantCommand::UpdateEnvironment { id: STAGING, name, order };
    let rename = |to: &str| change(Some(name(to)), None);
    assert!(matches!(refused(&mut world, rename("production")), Rejection::Exists { .. }));
    world.deploy(2, 1, None);
    let problem = refused(&mut world, rename("test")).to_string();
    assert!(problem.contains(&format!("deployment {} to staging has not ended", deployment(2))), "{problem}");
    world.ok(change(None, Some(40)));
    assert_eq!(world.tenant().environments[&STAGING].order, 40);
    world.complete(1);

    // People have approved what is filled in with the old name.
    world.person(1);
    need_approval(&mut world);
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(3, 1, None))));
    world.ok(rename("test"));
    assert!(matches!(world.promotion(3).status, PromotionStatus::Invalidated { .. }));
    let names = &world.tenant().index.environments;
    assert_eq!((names.get(&name("test")), names.get(&name("staging"))), (Some(&STAGING), None));
    let events = world.events.len();
    world.ok(rename("test"));
    assert_eq!(world.events.len(), events, "it is called so already");
    let nobody = EnvironmentId(Uuid::nil());
    let nobody = TenantCommand::UpdateEnvironment { id: nobody, name: None, order: Some(1) };
    assert!(matches!(refused(&mut world, nobody), Rejection::NotFound { .. }));
}

/// What bakes needs no target any more, and has not ended.
#[test]
fn an_environment_stays_while_something_bakes_in_it_and_nothing_is_proven_where_nothing_is_left() {
    let mut world = World::with_release_1(1);
    let verification = Some(Verification { bake_ms: 600_000 });
    world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(2, 2, None))));
    world.complete(1);
    assert!(world.deployment(deployment(2)).baked);
    world.ok(TenantCommand::RemoveTarget { id: target(1) });
    let problem = refused(&mut world, TenantCommand::RemoveEnvironment { id: STAGING }).to_string();
    assert!(problem.contains(&format!("deployments there have not ended: {}", deployment(2))), "{problem}");
    world.wait_ms(600_000);
    assert_eq!(*world.status(2), Status::Succeeded);
    assert!(!world.tenant().environments[&STAGING].proven.contains_key(&common::release(2)));
    world.ok(TenantCommand::RemoveEnvironment { id: STAGING });
    common::end(&world);
}
