//! Every state of what comes to an environment by itself, and every fact about it: what follows, or that it is refused. The table is
//! committed; `UPDATE_GOLDEN=1 cargo test` writes it anew.

use std::fmt::Write as _;

use crate::common::golden;
use crate::common::{self, STAGING, TENANT, World, agent, name, new_deployment, new_target, release};
use stella_domain::command::TenantCommand;
use stella_domain::environment::{Needs, PromotionPath, Requirement};
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::state::State;
use stella_protocol::id::{EnvironmentId, PromotionId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

const PRODUCTION: EnvironmentId = EnvironmentId(Uuid::from_u128(0x77));

/// Staging with one target and release 1; after it production, whose releases come by themselves after a minute. Its target is busy, so
/// that what is due waits.
fn fresh() -> World {
    let mut world = World::with_release_1(1);
    let (id, way_back_proof) = (PRODUCTION, stella_domain::way_back::ProofRule::Off);
    let name = name("production");
    world.ok(TenantCommand::CreateEnvironment { id, name, order: None, way_back_proof });
    world.enrol(9);
    let mut there = new_target(9);
    (there.environment, there.agent) = (PRODUCTION, agent(9));
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(9, vec![]);
    let mut busy = new_deployment(8, 1, None);
    busy.environment = PRODUCTION;
    world.ok(TenantCommand::Deploy(Box::new(busy)));
    path(&mut world, true);
    world.deploy(2, 2, None);
    world.complete(1);
    world
}

fn path(world: &mut World, auto: bool) {
    let requires = Some(PromotionPath::after(STAGING, 60_000, auto));
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
}

const EU: EnvironmentId = EnvironmentId(Uuid::from_u128(0x78));

/// Production comes after staging and the new environment eu, which soaks for two minutes.
fn several(world: &mut World, needs: Needs) {
    world.ok(TenantCommand::CreateEnvironment {
        id: EU,
        name: name("eu"),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    });
    world.enrol(8);
    let mut there = new_target(8);
    (there.environment, there.agent) = (EU, agent(8));
    world.ok(TenantCommand::CreateTarget(Box::new(there)));
    world.connect(8, vec![]);
    let others = vec![Requirement { after: EU, soak_ms: 120_000 }];
    let requires = Some(PromotionPath { others, needs, ..PromotionPath::after(STAGING, 60_000, true) });
    world.ok(TenantCommand::SetEnvironmentPath { environment: PRODUCTION, requires });
}

fn prove_in_eu(world: &mut World, n: u128) {
    let mut there = new_deployment(n, 2, None);
    there.environment = EU;
    world.ok(TenantCommand::Deploy(Box::new(there)));
    world.complete(8);
}

/// The proof of staging is of before the path: it is taken back there, and brought anew.
fn prove_again(world: &mut World, n: u128) {
    world.ok(TenantCommand::Rollback { id: common::deployment(n), of: common::deployment(2), targets: None });
    world.complete(1);
    world.deploy(n + 1, 2, None);
    world.complete(1);
}

fn situations() -> Vec<(&'static str, World)> {
    let mut situations = vec![("that proves itself", fresh())];
    let mut reached = |label, steps: &dyn Fn(&mut World)| {
        let mut world = fresh();
        steps(&mut world);
        situations.push((label, world));
    };
    reached("that is due and waits for its targets", &|world| world.wait_ms(60_000));
    reached("that has come", &|world| {
        world.wait_ms(60_000);
        world.complete(9);
    });
    reached("that waits to come, and has proven itself", &|world| {
        let rule = Some(common::rule(1, &[]));
        world.ok(TenantCommand::SetEnvironmentApprovals { environment: PRODUCTION, rule });
        world.wait_ms(60_000);
        world.complete(9);
    });
    reached("that is not to come any more", &|world| path(world, false));
    reached("that has another way to come", &|world| {
        several(world, Needs::Any);
        prove_in_eu(world, 4);
        world.wait_ms(1_000);
        prove_again(world, 5);
    });
    reached("that lacks one of two proofs", &|world| {
        several(world, Needs::All);
        prove_again(world, 5);
    });
    reached("that has both proofs", &|world| {
        several(world, Needs::All);
        prove_again(world, 5);
        prove_in_eu(world, 4);
    });
    situations
}

fn seen(state: &State, now: u64) -> String {
    let tenant = &state.tenants[&TENANT];
    let waits = match tenant.environments[&PRODUCTION].automatic.get(&release(2)) {
        None => "waits for nothing",
        Some(waits) if waits.is_due => "is due",
        Some(waits) => &format!("proves itself for {} s", waits.due_at.0.saturating_sub(now) / 1_000),
    };
    let asked = tenant.promotions.values().filter(|it| it.wanted.environment == PRODUCTION).count() - 1;
    format!("{waits}, {asked} asked for")
}

#[test]
fn the_table_of_transitions_is_as_committed() {
    let mut table = String::new();
    for (label, world) in situations() {
        writeln!(table, "release {label}").unwrap();
        let (environment, reason) = (PRODUCTION, String::new());
        let promotion = Some(PromotionId(Uuid::from_u128(0x99)));
        let due = |environment, n| Fact::AutoPromotionDue { environment, release: release(n), again: None };
        let again =
            |environment, n| Fact::AutoPromotionDue { environment, release: release(n), again: promotion };
        let ended = |n, promotion| {
            let (release, reason) = (release(n), reason.clone());
            Fact::AutoPromotionEnded { environment, release, promotion, reason }
        };
        let requires = None;
        for (name, fact) in [
            ("auto_promotion_due", due(environment, 2)),
            ("auto_promotion_due, of another release", due(environment, 3)),
            ("auto_promotion_due, elsewhere", due(STAGING, 2)),
            ("auto_promotion_due, again", again(environment, 2)),
            ("auto_promotion_due, again, of another one", again(environment, 3)),
            ("auto_promotion_due, again, elsewhere", again(STAGING, 2)),
            ("auto_promotion_ended, asked for", ended(2, promotion)),
            ("auto_promotion_ended, not asked for", ended(2, None)),
            ("auto_promotion_ended, of another release", ended(3, None)),
            (
                "release_disproven",
                Fact::ReleaseDisproven {
                    environment: STAGING,
                    release: release(2),
                    deployment: common::deployment(2),
                },
            ),
            (
                "release_disproven, in eu",
                Fact::ReleaseDisproven {
                    environment: EU,
                    release: release(2),
                    deployment: common::deployment(4),
                },
            ),
            ("environment_path_set, none", Fact::EnvironmentPathSet { id: environment, requires }),
        ] {
            let mut after = world.state.clone();
            let (actor, trace) = (common::person(2), TraceContext::default());
            let event = Event { at: Timestamp(2_000_000), actor, trace, fact };
            let result = match after.apply(StreamId::Tenant(TENANT), &event) {
                Ok(()) => format!("-> {}", seen(&after, world.now.0)),
                Err(_) => "refused".to_owned(),
            };
            writeln!(table, "    {name:<42} {result}").unwrap();
        }
    }
    golden::compare("automation.txt", &table);
}
