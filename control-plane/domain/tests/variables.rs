//! With which variables a release comes to a target, and comes back: those of a way back are those that it came with.

use std::collections::BTreeMap;

use crate::common::{World, deployment, end, failed, new_deployment, release, target};
use stella_domain::command::{TargetChange, TenantCommand};
use stella_domain::deployment::Status;
use stella_protocol::message::TaskOutcome;

/// Target 1 has this port from now on, or none.
fn port(world: &mut World, port: Option<&str>) {
    let variables = BTreeMap::from([("port".to_owned(), port.map(str::to_owned))]);
    let change = TargetChange { id: target(1), labels: BTreeMap::new(), variables, agent: None };
    world.ok(TenantCommand::UpdateTarget(Box::new(change)));
}

fn deploy(world: &mut World, n: u128, of: u128) {
    world.ok(TenantCommand::Deploy(Box::new(new_deployment(n, of, None))));
}

/// The first step succeeds; what the second one asks.
fn asks(world: &mut World) -> String {
    world.finish(1, TaskOutcome::Succeeded);
    format!("{:?}", world.task_on(1).spec)
}

#[test]
fn what_comes_back_comes_with_the_variables_that_it_was_brought_with() {
    let mut world = World::with_targets(1);
    port(&mut world, Some("8080"));
    deploy(&mut world, 1, 1);
    assert!(asks(&mut world).contains("localhost:8080/1.0"));
    world.finish(1, TaskOutcome::Succeeded);

    // By itself, because the next one fails with what the target has now.
    port(&mut world, Some("9090"));
    deploy(&mut world, 2, 2);
    assert!(asks(&mut world).contains("localhost:9090/2.0"));
    world.finish(1, failed("exit 1"));
    assert!(asks(&mut world).contains("localhost:8080/1.0"));
    world.finish(1, TaskOutcome::Succeeded);
    assert_eq!(world.tenant().targets[&target(1)].current, Some(release(1)));

    // And by hand, after the next one has succeeded; also if the target has no such variable any more.
    deploy(&mut world, 4, 2);
    world.complete(1);
    port(&mut world, None);
    world.ok(TenantCommand::Rollback { id: deployment(5), of: deployment(4), targets: None });
    assert!(asks(&mut world).contains("localhost:8080/1.0"));
    world.finish(1, TaskOutcome::Succeeded);
    assert_eq!(*world.status(5), Status::Succeeded);
    end(&world);
}

#[test]
fn what_people_approve_says_with_what_it_would_go_back() {
    let root = |world: &World| {
        let planned = stella_domain::decide::planned(world.tenant(), &new_deployment(2, 2, None), world.now);
        planned.unwrap().plan.root
    };
    let mut world = World::with_targets(1);
    port(&mut world, Some("8080"));
    deploy(&mut world, 1, 1);
    world.complete(1);
    let before = root(&world);
    port(&mut world, Some("9090"));
    assert_ne!(root(&world), before, "what comes is something else");
    port(&mut world, Some("8080"));
    assert_eq!(root(&world), before);
    end(&world);
}
