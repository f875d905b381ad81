//! Which archives may go, and what becomes of a release whose archive has gone.

use crate::common::{
    self, World, conflict, deployment, digest, end, facts, invariants, name, new_deployment, new_release,
    release, rule, target,
};
use stella_domain::artifact::{BATCH_MAX, Rule};
use stella_domain::command::{Command, Request, TenantCommand};
use stella_domain::decide::decide;
use stella_domain::rejection::Rejection;
use stella_domain::release::Component;
use stella_protocol::digest::Digest;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn after(days: u64) -> Rule {
    Rule { after_ms: days * DAY_MS, newest_min: 0 }
}

/// Gives up what may go by a rule, and tells what has gone: by the number of the release that was made of it.
fn remove(world: &mut World, rule: Rule) -> Vec<u8> {
    let all: Vec<Digest> = world.tenant().artifacts.keys().copied().collect();
    world.ok(TenantCommand::RemoveArtifacts { digests: all.clone(), rule });
    invariants::check(&world.state, world.now);
    let gone = |n: &u8| all.contains(&digest(*n)) && !world.tenant().artifacts.contains_key(&digest(*n));
    (1..=9).filter(gone).collect()
}

fn store(n: u8) -> TenantCommand {
    TenantCommand::StoreArtifact { digest: digest(n), size_bytes: 10, tenant_bytes_max: None }
}

#[test]
fn what_is_on_a_target_or_was_before_it_keeps_its_archive() {
    let mut world = World::with_release_1(2);
    for n in 2..=3 {
        world.wait_ms(DAY_MS);
        world.deploy(n, n, None);
        (1..=2).for_each(|target| world.complete(target));
    }
    assert_eq!(remove(&mut world, after(1_000)), [0; 0], "nothing is old enough");
    world.wait_ms(DAY_MS * 10);
    assert_eq!(remove(&mut world, Rule { after_ms: DAY_MS, newest_min: 3 }), [0; 0], "none is one too many");
    assert_eq!(remove(&mut world, after(1)), [1], "3 is there, and 2 is the way back");
    assert_eq!(remove(&mut world, after(0)), [0; 0]);

    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(4, 1, None)))));
    assert!(refused.contains("shop:1.0.1") || refused.contains("upload sha256:"), "{refused}");
    world.ok(TenantCommand::Rollback { id: deployment(4), of: deployment(3), targets: None });
    (1..=2).for_each(|target| world.complete(target));
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(2)));

    // It is uploaded again, and can be deployed again.
    world.ok(store(1));
    world.deploy(5, 1, None);
    assert_eq!(remove(&mut world, after(0)), [0; 0], "if nothing were sent, all would be as before");
    (1..=2).for_each(|target| world.complete(target));
    assert_eq!(remove(&mut world, after(0)), [3], "1 is there, and 2 is the way back");
    end(&world);
}

#[test]
fn what_is_asked_for_or_shared_or_new_keeps_its_archive_and_what_nobody_made_a_release_of_goes() {
    let mut world = World::with_targets(1);
    world.ok(store(8));
    world.ok(TenantCommand::SetEnvironmentApprovals {
        environment: common::STAGING,
        rule: Some(rule(1, &[])),
    });
    world.deploy(1, 1, None);
    let hour = Rule { after_ms: HOUR_MS, newest_min: 0 };
    world.wait_ms(HOUR_MS);
    // Another release of the same archive as 2.
    let mut shared = new_release(4);
    shared.components = vec![Component { name: name("web"), digest: digest(2), size_bytes: 10 }];
    world.ok(TenantCommand::CreateRelease(Box::new(shared)));
    let refused = world
        .tell(TenantCommand::RemoveArtifacts { digests: vec![digest(1); BATCH_MAX + 1], rule: after(0) });
    assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
    assert_eq!(remove(&mut world, hour), [3, 8], "1 is asked for, and 2 is new in another release");
    let decision = world.ok(TenantCommand::RemoveArtifacts { digests: vec![digest(3)], rule: after(0) });
    assert_eq!(facts(&decision), [""; 0], "it has gone already");
    end(&world);
}

#[test]
fn a_tenant_stores_no_more_than_it_may() {
    let mut world = World::new();
    let store = |n, size_bytes| TenantCommand::StoreArtifact {
        digest: digest(n),
        size_bytes,
        tenant_bytes_max: Some(100),
    };
    world.ok(store(1, 60));
    let refused = conflict(world.tell(store(2, 41)));
    assert!(refused.contains("60 bytes, and 41 more are over its 100"), "{refused}");
    world.ok(store(2, 40));
    world.ok(store(1, 60));
    assert_eq!(world.tenant().artifact_bytes(), 100);
    assert_eq!(remove(&mut world, after(0)), [1, 2]);
    world.ok(store(3, 100));
    end(&world);
}

#[test]
fn nobody_but_the_control_plane_removes_archives() {
    let mut world = World::with_targets(1);
    world.person(1);
    world.give(1, stella_domain::access::Role::Admin);
    let command = TenantCommand::RemoveArtifacts { digests: vec![digest(1)], rule: after(0) };
    let by = Request { actor: common::person(1), ..World::request(Command::Tenant(common::TENANT, command)) };
    assert!(matches!(decide(&world.state, &by, world.now), Err(Rejection::Forbidden { .. })));
}
